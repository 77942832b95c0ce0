"""Sections of the corpus's page that compare networks, as lines of Markdown. Lines of prose are wrapped later.

`sets` are pairs of task and data set, in the order of the page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from engine.image_results import LEARNED
from experiments.corpus.groups import Duel, Entry, Group, Trainings, duels, one_for_each_set
from experiments.report.formatting import (
    ABOUT_INTERVALS,
    billions,
    difference_text,
    markdown_row,
    millions,
    score_text,
)
from experiments.statistics.difference import TOO_LITTLE
from experiments.statistics.signed_rank import PRIOR, ROPE

HEADINGS = (
    *("protocol", "backbone", "seeds", "score, % (95% interval)", "difference to the best", "verdict"),
    *("parameters", "multiply-adds", "memory"),
)
DUELS = ("protocol", "first", "second", "sets", "wins", "losses", "first is better", "equal", "second is better")
FEWEST_SETS = 5  # below this, the test across data sets has no result


def overview(groups: Sequence[Group], sets: Sequence[tuple[str, str]]) -> list[str]:
    """The network with the highest mean of each group: a table of data sets and protocols."""
    protocols = list(dict.fromkeys(group.first.protocol for group in groups))
    headings = ["data set", *(f"`{protocol}`" for protocol in protocols)]
    lines = [
        "## Highest means",
        "",
        "The network with the highest mean score of each group, in percent, where at least two were trained. The "
        'intervals below say whether its lead is certain. "None reaches" means that no network got '
        f"{100 * LEARNED:.0f}% of the way from the score of always answering with the most frequent class, 0 for "
        "detection, to 100.",
        "",
        markdown_row(headings),
        markdown_row(["---"] * len(headings)),
    ]
    for task, name in sets:
        cells = [f"{name}: {task}"]
        for protocol in protocols:
            found = [
                group
                for group in groups
                if (group.first.task, group.first.set, group.first.protocol) == (task, name, protocol)
                and len(group.entries) > 1
            ]
            cells.append("; ".join(_best(group) for group in found))
        lines.append(markdown_row(cells))
    return [*lines, ""]


def _best(group: Group) -> str:
    best = group.entries[0]
    return f"{best.network} {100 * best.mean:.1f}" if group.has_learned else f"none reaches {100 * group.least:.1f}"


def rankings(groups: Sequence[Group], sets: Sequence[tuple[str, str]]) -> list[str]:
    """A table for each data set, with the networks of each group, the best first."""
    lines = [
        "## Rankings",
        "",
        "Mean and standard deviation over seeds, and the 95% interval of the mean. Differences are those to the best "
        f"network of the group, in percentage points. {ABOUT_INTERVALS} See [Verdicts](verdicts.md). The best network "
        "was chosen by the same scores, so that its lead is too large on average. Memory is that of the training "
        "process. `train_seconds` in the table of results says how long a training took, while other jobs used the "
        "machine.",
        "",
    ]
    for task, name in sets:
        found = [group for group in groups if (group.first.task, group.first.set) == (task, name)]
        budgets = list(dict.fromkeys(group.budget for group in found))
        lines += [f"### {name}: {task}", "", f"Metric: {found[0].first.metric}. Budget: {'; '.join(budgets)}."]
        if majority := dict.fromkeys(f"{100 * one:.1f}" for group in found if (one := group.first.majority_score)):
            lines[-1] += f" Always answering with the most frequent class scores {' or '.join(majority)}."
        lines.append("")
        if unlearned := [group for group in found if not group.has_learned]:
            least = " or ".join(dict.fromkeys(f"{100 * group.least:.1f}" for group in unlearned))
            protocols = ", ".join(dict.fromkeys(f"`{group.first.protocol}`" for group in unlearned))
            lines += [
                f"No network reaches {least} with {protocols}: that is so little at this budget that these rankings "
                "say nothing, and there are no verdicts.",
                "",
            ]
        lines += [markdown_row(HEADINGS), markdown_row(["---"] * len(HEADINGS))]
        for group in found:
            repeats = sum(other.first.protocol == group.first.protocol for other in found) > 1
            lines += [markdown_row(_cells(group, entry, repeats)) for entry in group.entries]
        lines.append("")
    return lines


def _cells(group: Group, entry: Entry, with_budget: bool) -> list[str]:
    is_best = entry is group.entries[0]
    return [
        f"`{group.first.protocol}`" + (f", {group.budget}" if with_budget else ""),
        entry.network,
        str(len(entry.rows)),
        score_text(entry) + _interval(entry),
        "best" if is_best else difference_text(entry.difference),
        _verdict(entry) if group.has_learned else "",
        millions(entry.cost("params")),
        billions(entry.cost("macs")),
        f"{entry.cost('peak_memory_mb') / 1024:.1f} GiB",
    ]


def _interval(entry: Entry) -> str:
    if entry.half_width is None:
        return ""
    low, high = max(0.0, entry.mean - entry.half_width), min(1.0, entry.mean + entry.half_width)
    return f" ({100 * low:.1f} to {100 * high:.1f})"


def _verdict(entry: Entry) -> str:
    if entry.difference is None:
        return ""
    reason = entry.difference.reason.partition(":")[0] if entry.difference.verdict == TOO_LITTLE else ""
    return entry.difference.verdict + (f": {reason}" if reason else "")


def across(groups: Sequence[Group]) -> list[str]:
    """Wins and losses of pairs of networks across data sets; empty if no pair shares two."""
    by_protocol: dict[str, list[Trainings]] = defaultdict(list)
    for group in groups:
        by_protocol[group.first.protocol].append({entry.network: entry.rows for entry in group.entries})
    found: list[tuple[str, Duel]] = []
    for protocol, part in by_protocol.items():
        found += [(protocol, duel) for duel in duels(one_for_each_set(part))]
    if not found:
        return []
    lines = [
        "## Wins and losses across data sets",
        "",
        "The number of pairs of task and data set on which the first network has the higher, or the lower mean score; "
        "equal means count for neither. Of several budgets of a set, the one with the most networks counts. Pairs are "
        f"left out where neither network got {100 * LEARNED:.0f}% of the way from the score of always answering with "
        "the most frequent class to 100.",
        "",
        "The last columns are the Bayesian signed-rank test (Benavoli et al., ICML 2014; JMLR 18, 2017): how probable "
        "it is, given these sets, that on data sets like these the first is most often better, that both are most "
        f"often practically equal, which is less than {100 * ROPE:.0f} point apart, or that the second is most often "
        f"better. The prior counts as {PRIOR:g} of a data set without a difference. Top-1, AP and mIoU are pooled, "
        "although a point is not the same in each, and intervals within a set do not enter. With fewer than "
        f"{FEWEST_SETS} pairs the test would depend on the prior: there is too little data.",
        "",
        markdown_row(DUELS),
        markdown_row(["---"] * len(DUELS)),
    ]
    for protocol, duel in found:
        across = duel.across
        probabilities = [f"{value:.2f}" for value in (across.better, across.equal, across.worse)]
        if across.sets < FEWEST_SETS:
            probabilities = [TOO_LITTLE, "", ""]
        counts = map(str, (across.sets, duel.wins, duel.losses))
        lines.append(markdown_row([f"`{protocol}`", duel.first, duel.second, *counts, *probabilities]))
    return [*lines, ""]
