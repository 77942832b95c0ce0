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
from experiments.corpus.groups import Group, grouped
from experiments.corpus.picture import COSTS, draw
from experiments.corpus.plan import PlannedCell
from experiments.corpus.progress import Planned, planned_with, weight_files
from experiments.corpus.rows import Corpus, CorpusRow
from experiments.corpus.sections import across, overview, rankings
from experiments.report.formatting import markdown_row
from experiments.tasks import TASKS

PICTURES = "pictures"  # folder beside the page


def write(config: PageConfig) -> Path:
    """Write the page and its picture. Returns the path of the page. Raises BadInput for a corpus without rows."""
    corpus, output = Corpus(Path(config.corpus)), Path(config.output)
    rows = corpus.rows()
    if not rows:
        raise BadInput(
            f"{corpus.file} has no rows: fill it with python -m experiments.corpus fill", settings=("corpus",)
        )
    shown = current(rows)
    groups = grouped(corpus, shown)
    (output.parent / PICTURES).mkdir(parents=True, exist_ok=True)
    pictures = {
        f"{PICTURES}/corpus-{cost}.svg": label
        for cost, label, unit in COSTS
        if draw(groups, output.parent / PICTURES / f"corpus-{cost}.svg", cost, label, unit)
    }
    planned = planned_with(Path(config.plan), shown)
    write_text(output, text(shown, len(rows) - len(shown), groups, planned, pictures))
    err.print(
        f"wrote {output}: {len(rows)} trainings, {sum(not one.is_finished for one in planned)} planned ones are missing"
    )
    return output


def current(rows: Sequence[CorpusRow]) -> list[CorpusRow]:
    """The rows of the present version of their task's recipe."""
    return [row for row in rows if row.recipe == TASKS[row.task].recipe]


def text(
    shown: Sequence[CorpusRow],
    others: int,
    groups: Sequence[Group],
    planned: Sequence[Planned],
    pictures: Mapping[str, str],
) -> str:
    """The page as Markdown.

    Args:
        shown: the rows of the present versions of the recipes.
        others: number of rows of other versions.
        groups: of the rows that are shown.
        planned: the trainings of the plan.
        pictures: file -> label of its axis.
    """
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
    if others:
        lines += [f"{_rows(others)} not shown.", ""]
    lines += overview(groups, sets)
    lines += rankings(groups, sets)
    lines += across(groups)
    if pictures:
        with_majority = any(row.majority_score for row in shown)
        lines += [
            "## Score and cost",
            "",
            "Mean scores, with their standard deviation over seeds, against multiply-adds of the network and memory of "
            "its training."
            + (" Dashed: the score of always answering with the most frequent class." if with_majority else ""),
            "",
        ]
    for file, label in pictures.items():
        lines += [f"![Scores against {label}, one panel per data set]({file})", ""]
    lines += _gaps(gaps, planned)
    lines += _repeat(shown)
    return "\n".join(line for part in lines for line in (_wrapped(part) if _is_prose(part) else [part])) + "\n"


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
