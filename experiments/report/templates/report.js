"use strict";
// Tables sort by a click on a column's head: numbers by value, the rest by name; cells without a value stay last.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.children[column]?.dataset.value ?? "";
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
// Marks of the charts say what they show, under the pointer or with the keyboard's focus.
const tip = document.getElementById("tip");
function show(mark) {
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const at = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(at.left, innerWidth - own.width - 4))}px`;
  tip.style.top = `${at.top > own.height + 8 ? at.top - own.height - 6 : at.bottom + 6}px`;
}
for (const mark of document.querySelectorAll("[data-tip]")) {
  for (const event of ["mouseenter", "focus"]) mark.addEventListener(event, () => show(mark));
  for (const event of ["mouseleave", "blur"]) mark.addEventListener(event, () => { tip.hidden = true; });
}
