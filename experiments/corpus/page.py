"""Writes the page of the corpus: rankings with intervals, wins and losses across data sets, costs, and gaps."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from backbones.errors import BadInput
from engine.console import err
from engine.record import write_text
from experiments.corpus.config import PageConfig
from experiments.corpus.groups import UNLEARNED, Duel, Entry, Group, Trainings, duels, grouped, one_for_each_set
from experiments.corpus.picture import COSTS, draw
from experiments.corpus.plan import PlannedCell
from experiments.corpus.progress import Planned, planned_with, weight_files
from experiments.corpus.rows import Corpus, CorpusRow
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
from experiments.tasks import TASKS

HEADINGS = (
    *("protocol", "backbone", "seeds", "score, % (95% interval)", "difference to the best", "verdict"),
    *("parameters", "multiply-adds", "memory"),
)
DUELS = ("protocol", "first", "second", "sets", "wins", "losses", "first is better", "equal", "second is better")
FEWEST_SETS = 5  # below this, the test across data sets has no result
PICTURES = "pictures"  # folder beside the page


def write(config: PageConfig) -> Path:
    """Write the page and its picture. Returns the path of the page. Raises BadInput for a corpus without rows."""
    corpus, output = Corpus(Path(config.corpus)), Path(config.output)
    rows = corpus.rows()
    if not rows:
        raise BadInput(
            f"{corpus.file} has no rows: fill it with python -m experiments.corpus fill", settings=("corpus",)
        )
    groups = grouped(corpus, current(rows))
    (output.parent / PICTURES).mkdir(parents=True, exist_ok=True)
    pictures = {
        f"{PICTURES}/corpus-{cost}.svg": label
        for cost, label, unit in COSTS
        if draw(groups, output.parent / PICTURES / f"corpus-{cost}.svg", cost, label, unit)
    }
    planned = planned_with(Path(config.plan), current(rows))
    write_text(output, text(rows, groups, planned, pictures))
    err.print(
        f"wrote {output}: {len(rows)} trainings, {sum(not one.is_finished for one in planned)} planned ones are missing"
    )
    return output


def current(rows: Sequence[CorpusRow]) -> list[CorpusRow]:
    """The rows of the present version of their task's recipe."""
    return [row for row in rows if row.recipe == TASKS[row.task].recipe]


def text(
    rows: Sequence[CorpusRow], groups: Sequence[Group], planned: Sequence[Planned], pictures: Mapping[str, str]
) -> str:
    """The page as Markdown."""
    shown = current(rows)
    sets = list(dict.fromkeys((group.first.task, group.first.set) for group in groups))
    gaps = [one.cell for one in planned if not one.is_finished]
    done = len(planned) - len(gaps)
    lines = [
        "# Corpus",
        "",
        f"Results of {len(shown)} trainings, of {len({row.backbone for row in shown})} networks on {len(sets)} pairs "
        f"of task and data set. {done} of {len(planned)} planned trainings are finished: those of "
        "`results/plan.yaml`, and the same for networks with weight files. `results/corpus.csv` has one row for each, "
        "with fingerprints of the data, weights, settings, cost, versions and command. `python -m experiments.corpus "
        "page` wrote this page from it.",
        "",
        "`finetune` trains everything from pretrained weights, `frozen` neck and head only, `linear` the last layer "
        "only, and `scratch` everything from random weights. Budgets are small: a few minutes on a CPU. Scores are "
        "those of the validation split after the last epoch. [Recipes](recipes.md) were chosen on some of these sets. "
        "Networks are compared within a group: one data set, protocol, budget and version of the "
        "recipe.",
        "",
    ]
    if len(rows) > len(shown):
        lines += [f"{_rows(len(rows) - len(shown))} not shown.", ""]
    lines += _overview(groups, sets)
    lines += _rankings(groups, sets)
    lines += _across(groups)
    if pictures:
        lines += [
            "## Score and cost",
            "",
            "Mean scores, with their standard deviation over seeds, against multiply-adds of the network and memory of "
            "its training.",
            "",
        ]
    for file, label in pictures.items():
        lines += [f"![Scores against {label}, one panel per data set]({file})", ""]
    lines += _gaps(gaps, planned)
    lines += _repeat(shown)
    return "\n".join(line for part in lines for line in (_wrapped(part) if _is_prose(part) else [part])) + "\n"


def _overview(groups: Sequence[Group], sets: Sequence[tuple[str, str]]) -> list[str]:
    protocols = list(dict.fromkeys(group.first.protocol for group in groups))
    headings = ["data set", *(f"`{protocol}`" for protocol in protocols)]
    lines = [
        "## Highest means",
        "",
        "The network with the highest mean score of each group, in percent, where at least two were trained. The "
        "intervals below say whether its lead is certain.",
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
    return f"{best.network} {100 * best.mean:.1f}" if group.has_learned else f"none reaches {100 * UNLEARNED:.0f}"


def _rankings(groups: Sequence[Group], sets: Sequence[tuple[str, str]]) -> list[str]:
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
        lines += [f"### {name}: {task}", "", f"Metric: {found[0].first.metric}. Budget: {'; '.join(budgets)}.", ""]
        if unlearned := [f"`{group.first.protocol}`" for group in found if not group.has_learned]:
            lines += [
                f"No network reaches {100 * UNLEARNED:.0f}% with {', '.join(dict.fromkeys(unlearned))}: at this budget "
                "none has learned much, and these rankings say nothing.",
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
        _verdict(entry),
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


def _across(groups: Sequence[Group]) -> list[str]:
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
        "equal means count for neither. Of several budgets of a set, the one with the most networks counts. Groups in "
        f"which no network reaches {100 * UNLEARNED:.0f}% are left out.",
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


def _gaps(gaps: Sequence[PlannedCell], planned: Sequence[Planned]) -> list[str]:
    lines = ["## What is missing", ""]
    if not gaps:
        return [*lines, "Nothing: all trainings of the plan are finished.", ""]
    lines += [
        f"{len(gaps)} of {len(planned)} planned trainings.",
        "",
        markdown_row(["task", "data set", "protocol", "backbone", "missing seeds"]),
        markdown_row(["---"] * 5),
    ]
    seeds: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for cell in gaps:
        seeds[cell.task, cell.set, f"`{cell.protocol}`", cell.backbone].append(cell.seed)
    backbones: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (task, name, protocol, backbone), found in seeds.items():
        backbones[task, name, protocol, ", ".join(map(str, sorted(found)))].append(backbone)
    for (task, name, protocol, which), names in sorted(backbones.items()):
        lines.append(markdown_row([task, name, protocol, ", ".join(names), which]))
    return [*lines, ""]


def _repeat(rows: Sequence[CorpusRow]) -> list[str]:
    if not rows:
        return []
    row = rows[0]
    with_files = weight_files(rows)
    about = ""
    if with_files:
        about = " Networks with weight files need the path of the file: " + ", ".join(
            f"{file} for {backbone}" for backbone, file in with_files.items()
        )
        about += (
            ". `MODULE:FUNCTION` is a function of a module that Python can import; [Add your own "
            "backbone](guides/own-backbone.md#a-changed-network-of-timm) shows it for a changed ResNet."
        )
    weights = " ".join(f"{backbone}=FILE" for backbone in with_files)
    return [
        "## Repeat a training, and go on",
        "",
        "The column `command` of `results/corpus.csv` has the command of each row. `DATA` stands for the folder of the "
        f"data sets.{about} The first one, {row.backbone} on {row.set}:",
        "",
        "```bash",
        row.command,
        "```",
        "",
        "The next one trains what is missing for an hour, then writes this page. It can be stopped at any time:",
        "",
        "```bash",
        "make corpus DATA=FOLDER MINUTES=60" + (f' WEIGHTS="{weights}"' if weights else ""),
        "```",
    ]


def _rows(count: int) -> str:
    return "1 row of another version of the recipe is" if count == 1 else f"{count} rows of other versions are"


def _is_prose(line: str) -> bool:
    return len(line) > 120 and not line.startswith(("|", "!", "python"))


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 120, break_long_words=False, break_on_hyphens=False)
