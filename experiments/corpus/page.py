"""Writes the page of the corpus: rankings with intervals, wins and losses across data sets, costs, and gaps."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from backbones.errors import BadInput
from engine.console import err
from engine.record import write_text
from experiments.corpus.config import PageConfig
from experiments.corpus.groups import Duel, Entry, Group, duels, grouped
from experiments.corpus.picture import draw
from experiments.corpus.plan import PRETRAINED, PlannedCell, read_plan
from experiments.corpus.rows import Corpus, CorpusRow
from experiments.report.formatting import billions, difference_text, markdown_row, millions, score_text
from experiments.report.results import LEVEL
from experiments.statistics.signed_rank import ROPE
from experiments.tasks import TASKS

HEADINGS = (
    *("protocol", "backbone", "seeds", "score, %", "difference to the best", "verdict"),
    *("parameters", "multiply-adds", "training"),
)
DUELS = ("protocol", "first", "second", "sets", "wins", "losses", "first is better", "equal", "second is better")
PICTURE = "pictures/corpus.svg"


def write(config: PageConfig) -> Path:
    """Write the page and its picture. Returns the path of the page. Raises BadInput for a corpus without rows."""
    corpus, output = Corpus(Path(config.corpus)), Path(config.output)
    rows = corpus.rows()
    if not rows:
        raise BadInput(
            f"{corpus.file} has no rows: fill it with python -m experiments.corpus fill", settings=("corpus",)
        )
    groups = grouped(corpus, current(rows))
    (output.parent / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    has_picture = draw(groups, output.parent / PICTURE)
    planned = planned_with(Path(config.plan), rows)
    write_text(output, text(rows, groups, planned, has_picture))
    err.print(f"wrote {output}: {len(rows)} trainings, {len(missing(rows, planned))} of the plan are missing")
    return output


def current(rows: Sequence[CorpusRow]) -> list[CorpusRow]:
    """The rows of the present version of their task's recipe."""
    return [row for row in rows if row.recipe == TASKS[row.task].recipe]


def planned_with(file: Path, rows: Sequence[CorpusRow]) -> list[PlannedCell]:
    """The plan, with the networks of the corpus that had weight files of the user's."""
    return read_plan(file, {row.backbone: "" for row in rows if row.weights.startswith("file:")})


def missing(rows: Sequence[CorpusRow], planned: Sequence[PlannedCell]) -> list[PlannedCell]:
    """The planned trainings that no row of the present recipe has."""
    known = {(row.set, row.task, row.protocol, row.backbone, row.seed) for row in current(rows)}
    return [c for c in planned if (c.set, c.task, c.protocol, c.backbone, c.seed) not in known]


def text(rows: Sequence[CorpusRow], groups: Sequence[Group], planned: Sequence[PlannedCell], has_picture: bool) -> str:
    """The page as Markdown."""
    shown = current(rows)
    sets = list(dict.fromkeys((row.task, row.set) for row in shown))
    gaps = missing(rows, planned)
    done = len(planned) - len(gaps)
    lines = [
        "# Corpus",
        "",
        f"Results of {len(shown)} trainings, of {len({row.backbone for row in shown})} networks on "
        f"{', '.join(f'{name} ({task})' for task, name in sets)}. {done} of the {len(planned)} trainings of "
        "`results/plan.yaml` are finished. `results/corpus.csv` has one row for each, with fingerprints of the data, "
        "weights, settings, cost, versions and command. `python -m experiments.corpus page` wrote this page from it.",
        "",
        "Budgets are small: a few minutes on a CPU. Scores are those of the validation split after the last "
        "epoch. Recipes were chosen on some of these splits. Networks are compared within a group: one data set, "
        "protocol, budget and version of the recipe.",
        "",
    ]
    if len(rows) > len(shown):
        lines += [f"{_rows(len(rows) - len(shown))} not shown.", ""]
    lines += _rankings(groups, sets)
    lines += _across(groups)
    if has_picture:
        lines += ["## Score and cost", "", *_wrapped("Mean scores against the multiply-adds of the whole network."), ""]
        lines += [f"![Scores against multiply-adds, one panel per data set]({PICTURE})", ""]
    lines += _gaps(gaps, planned)
    lines += _repeat(shown)
    return "\n".join(line for part in lines for line in (_wrapped(part) if _is_prose(part) else [part])) + "\n"


def _rankings(groups: Sequence[Group], sets: Sequence[tuple[str, str]]) -> list[str]:
    lines = [
        "## Rankings",
        "",
        "Mean and standard deviation over seeds. Differences are those to the best network of the group, in points, "
        f"with simultaneous {100 * LEVEL:.0f}% intervals that cover the choice of images and the trainings, see "
        "[Verdicts](verdicts.md). The best network was chosen by the same scores, so that its lead is too large on "
        "average. Training is the time of one training, while other jobs used the machine.",
        "",
    ]
    for task, name in sets:
        found = [group for group in groups if (group.first.task, group.first.set) == (task, name)]
        first = found[0].first
        lines += [f"### {name}: {task}", "", f"Metric: {first.metric}. {_budgets(found)}", ""]
        lines += [markdown_row(HEADINGS), markdown_row(["---"] * len(HEADINGS))]
        for group in found:
            lines += [markdown_row(_cells(group, entry)) for entry in group.entries]
        lines.append("")
    return lines


def _budgets(groups: Sequence[Group]) -> str:
    by_budget: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        row = group.first
        by_budget[f"{row.epochs} epochs at {row.image_size} px, batch size {row.batch_size}"].append(row.protocol)
    if len(by_budget) == 1:
        return f"Budget: {next(iter(by_budget))}."
    return "Budgets: " + "; ".join(f"{budget} ({', '.join(names)})" for budget, names in by_budget.items()) + "."


def _cells(group: Group, entry: Entry) -> list[str]:
    is_best = entry is group.entries[0]
    return [
        f"`{group.first.protocol}`" + (f", tuned with {group.first.tune} trials" if group.first.tune else ""),
        entry.backbone,
        str(len(entry.rows)),
        score_text(entry),
        "best" if is_best else difference_text(entry.difference),
        entry.difference.verdict if entry.difference else "",
        millions(entry.cost("params")),
        billions(entry.cost("macs")),
        f"{entry.cost('train_seconds') / 60:.1f} min",
    ]


def _across(groups: Sequence[Group]) -> list[str]:
    by_protocol: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_protocol[group.first.protocol].append(group)
    found: list[tuple[str, Duel]] = [(name, duel) for name, part in by_protocol.items() for duel in duels(part)]
    if not found:
        return []
    lines = [
        "## Wins and losses across data sets",
        "",
        "The number of pairs of task and data set on which the first network has the higher mean score, and the "
        "Bayesian signed-rank test (Benavoli et al., ICML 2014; JMLR 18, 2017): the probabilities that the first is "
        f"better, that both differ by less than {100 * ROPE:.0f} point, and that the second is better. Few sets leave "
        "these close to undecided. Intervals within a set do not enter.",
        "",
        markdown_row(DUELS),
        markdown_row(["---"] * len(DUELS)),
    ]
    for protocol, duel in found:
        probabilities = (f"{value:.2f}" for value in (duel.across.better, duel.across.equal, duel.across.worse))
        counts = map(str, (duel.across.sets, duel.wins, duel.losses))
        lines.append(markdown_row([f"`{protocol}`", duel.first, duel.second, *counts, *probabilities]))
    return [*lines, ""]


def _gaps(gaps: Sequence[PlannedCell], planned: Sequence[PlannedCell]) -> list[str]:
    lines = ["## What is missing", ""]
    if not gaps:
        return [*lines, "Nothing: all trainings of the plan are finished.", ""]
    lines += [
        f"{len(gaps)} of {len(planned)} trainings of the plan. Networks with a weight file join the plan's pretrained "
        f"networks (`{PRETRAINED}`) with `--weights`.",
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
    row = rows[0]
    weights = Counter(row.weights for row in rows if row.weights.startswith("file:"))
    names = (
        f" For {', '.join(name.removeprefix('file:') for name in weights)}, name the path of the file."
        if weights
        else ""
    )
    return [
        "## Repeat a training, and go on",
        "",
        "The column `command` of `results/corpus.csv` has the command of each row. `DATA` stands for the folder of the "
        f"data sets.{names} The first one, {row.backbone} on {row.set}:",
        "",
        "```bash",
        row.command,
        "```",
        "",
        "The next one trains what is missing for an hour, then writes this page. It can be stopped at any time:",
        "",
        "```bash",
        "make corpus DATA=FOLDER MINUTES=60",
        "```",
    ]


def _rows(count: int) -> str:
    return "1 row of another version of the recipe is" if count == 1 else f"{count} rows of other versions are"


def _is_prose(line: str) -> bool:
    return len(line) > 120 and not line.startswith(("|", "!", "python"))


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 120, break_long_words=False, break_on_hyphens=False)
