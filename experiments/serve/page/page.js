"use strict";
const form = document.getElementById("form");
const input = document.getElementById("image");
const progress = document.getElementById("status");
const failure = document.getElementById("error");
const results = document.getElementById("results");
let current = null; // the request in progress; a new photo replaces it

input.addEventListener("change", () => input.files.length && send(input.files[0]));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (input.files.length) send(input.files[0]);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) {
    input.files = event.dataTransfer.files; // the field shows the name of the dropped photo
    send(input.files[0]);
  }
});

async function send(file) {
  current?.abort();
  const request = (current = new AbortController());
  failure.textContent = "";
  if (file.size > 1e6 * form.dataset.megabytes) {
    fail(`${file.name} is larger than the limit of ${form.dataset.megabytes} MB`);
    return;
  }
  progress.textContent = `Predicting ${file.name} …`;
  results.setAttribute("aria-busy", "true");
  const body = new FormData();
  body.append("image", file);
  try {
    const response = await fetch("predict?pictures=true", { method: "POST", body, signal: request.signal });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.detail);
    show(answer);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    fail(problem instanceof TypeError ? "The server does not answer." : problem.message);
  } finally {
    if (current === request) results.setAttribute("aria-busy", "false");
  }
}

function fail(message) {
  progress.textContent = "";
  failure.textContent = message;
  clear();
}

function clear() {
  for (const section of results.children) {
    section.querySelector(".time").textContent = "";
    section.querySelector("img").hidden = true;
    section.querySelector("ul").replaceChildren();
  }
}

function show({ image, runs }) {
  clear();
  runs.forEach((run, index) => {
    const section = results.children[index];
    const time = section.querySelector(".time");
    time.classList.toggle("bad", "error" in run);
    if ("error" in run) {
      time.textContent = run.error;
      return;
    }
    const [summary, ...lines] = run.text;
    time.textContent = `${run.milliseconds} ms; ${summary}`;
    const picture = section.querySelector("img");
    picture.src = run.picture;
    picture.alt = `Predictions of ${run.name}: ${summary}`;
    picture.hidden = false;
    section.querySelector("ul").replaceChildren(
      ...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })),
    );
  });
  const times = runs.map((run) => `${run.name} ${"error" in run ? "failed" : `${run.milliseconds} ms`}`);
  progress.textContent = `${image.file_name}, ${image.width} × ${image.height} px: ${times.join(", ")}`;
}
