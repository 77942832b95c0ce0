"""Opens all splits of a data set as training does, but continues after errors.

Everything that training would log or stop with becomes a finding. What training would refuse is opened once more with
tolerance, so that the other checks and the pictures are not lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from backbones.errors import BadInput, UserError, with_flags
from data.box_dataset import BoxDataset
from data.channels import Channels
from data.checks import left_out_files
from data.class_dataset import ClassDataset
from data.columns import Kind
from data.findings import Finding, collected, warn_or_raise
from data.formats import Format, Split, recognise, split_of
from data.levels import measure_levels
from data.mask_dataset import MaskDataset
from data.open import locate, locate_validation, read_place
from data.options import ReadOptions
from data.reader import ImageReader

DATASETS: dict[Kind, type[ImageReader]] = {"boxes": BoxDataset, "masks": MaskDataset, "classes": ClassDataset}
Role = Literal["train", "val", "other"]
AS_SURE = 0.1  # difference of the scores of two formats up to which both are shown
PROPOSALS = ("merge_classes", "scale_boxes")  # settings by which training accepts data that it refuses without


@dataclass
class AuditedSplit:
    """One split.

    Attributes:
        name: as the format calls it.
        role: whether training trains on it, scores it, or does not use it.
        columns: its files and labels; None if they cannot be read.
        dataset: the images as training reads them; None if training refuses the split in any case.
        changes: settings that training needs to accept the split, as its error proposes; they are applied.
    """

    name: str
    role: Role
    columns: Any = None
    dataset: Any = None
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The image files that the labels name."""
        return [] if self.columns is None else [self.columns.folder / name for name in self.columns.names]


@dataclass
class Opened:
    """A data set.

    Attributes:
        root: folder or file.
        form: the format that it is read with, and `why`.
        others: other kinds of labels that it has: format, and why it was recognised.
        splits: all splits; that of training first, then that of scoring.
        findings: what training would report.
        levels: range of the 16-bit values, see `data.levels`.
    """

    root: Path
    form: Format
    why: str
    others: list[tuple[Format, str]]
    splits: list[AuditedSplit] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    levels: tuple[int, int] | None = None

    @property
    def kind(self) -> Kind:
        """Kind of the labels."""
        return self.form.kind


@contextmanager
def errors_into(findings: list[Finding], source: object) -> Iterator[None]:
    """Add an error within the context to `findings`, once, instead of raising it. `source`: what was read."""
    try:
        yield
    except Exception as error:  # whatever a damaged file causes, the audit has to report it and to continue
        finding = error_of(error, source)
        if finding not in findings:
            findings.append(finding)


def error_of(error: Exception, source: object) -> Finding:
    """The finding for an error while `source` was read."""
    if isinstance(error, UserError):
        return Finding("error", with_flags(error))
    return Finding(
        "error",
        f"{source} cannot be read: {type(error).__name__}: {error}",
        "This package did not expect such a file. Please report it",
    )


def open_data_set(root: Path, kind: Kind | None, options: ReadOptions) -> Opened:
    """Open all splits of the data set. Raises UserError if no format is recognised."""
    form, why, others = choose_format(root, kind, options.format)
    opened = Opened(root, form, why, others)
    findings = opened.findings
    own = DATASETS[form.kind].options.of(options)
    if options.train is None and options.val in (None, "auto"):
        own = replace(own, format=form.name)  # recognised once
    with collected(findings):
        for name, role, reader, split in _places(form, root, own, findings):
            audited = AuditedSplit(name, role)
            opened.splits.append(audited)
            with errors_into(findings, split.root):
                audited.columns = read_place(reader, split, own)
                warn_or_raise(left_out_files(audited.columns))
        for audited in opened.splits:
            if audited.columns is not None:
                _open(audited, opened, own)
        _match_classes(opened)
    return opened


def choose_format(root: Path, kind: Kind | None, name: str | None) -> tuple[Format, str, list[tuple[Format, str]]]:
    """The format that fits best, why, and the formats of other kinds that fit about as well.

    Raises UserError if none fits.
    """
    found: list[tuple[float, Format, str]] = []
    for each in DATASETS if kind is None else (kind,):
        try:
            form, why = recognise(root, each, name)
            sniffed = form.sniff(root)
        except UserError:
            if kind is not None:
                raise
        else:
            found.append((sniffed.score if sniffed else 0.0, form, why))
    if not found:
        recognise(root, None, name)  # raises the error that lists all formats
        raise BadInput(f"no format fits {root}: name it with --data.format")
    best = max(found, key=lambda entry: entry[0])
    others = [(form, why) for score, form, why in found if form is not best[1] and score >= best[0] - AS_SURE]
    return best[1], best[2], others


def _places(
    form: Format, root: Path, options: ReadOptions, findings: list[Finding]
) -> Iterator[tuple[str, Role, Format, Split]]:
    """Name, role, format and place of each split."""
    names: list[str] = []
    with errors_into(findings, root):
        names = form.splits(root)
    taken = set()
    for role in ("train", "val"):
        place = None
        with errors_into(findings, root):
            if role == "train":
                place = locate(form.kind, root, options.train or "train", options, options.train is not None)
            else:
                place = locate_validation(form.kind, root, options)
        if place is not None:
            reader, split = place
            taken.add(split.name if split.root == root else None)
            yield split.name or str(getattr(options, role)), role, reader, split
        if getattr(options, role) not in (None, "auto"):
            taken.add(split_of(names, role))  # the named data replace it
    rest = [name for name in names if name not in taken]
    if not names and not taken:
        rest = [""]  # all of `root` is one split
    for name in sorted(rest, key=lambda name: (split_of([name], "test") is None, name)):
        yield name or root.name, "other", form, Split(root, name)


def _open(split: AuditedSplit, opened: Opened, options: ReadOptions) -> None:
    """Open the images with the strictness of training. If it refuses them, follow its proposal, or skip what is bad."""
    findings, source, skip_bad = opened.findings, split.columns.source, 0
    if split.role == "train":
        with errors_into(findings, source):
            opened.levels = measure_levels(split.columns) if Channels.of(options) is None else None
    while split.dataset is None:
        refusal = ""
        with errors_into(findings, source):
            try:
                own = replace(options, **split.changes)
                split.dataset = DATASETS[opened.kind](split.columns, None, skip_bad, own, opened.levels)
            except Exception as error:
                refusal = str(error)
                raise
        proposed = next((name for name in PROPOSALS if name not in split.changes and f"`{name}=" in refusal), None)
        if proposed is not None:
            split.changes[proposed] = True
        elif split.dataset is None and skip_bad == 0:
            skip_bad = len(split.columns)
        elif split.dataset is None:
            return
    with errors_into(findings, source):
        split.dataset.check_headers()
        if split.role == "train":
            split.dataset.check_training()
        else:
            split.dataset.check_scored()


def _match_classes(opened: Opened) -> None:
    """Give the other splits the classes of the training split, as training does."""
    train = next((split for split in opened.splits if split.role == "train"), None)
    if train is None or train.dataset is None:
        return
    for split in opened.splits:
        if split.dataset is not None and split is not train:
            with errors_into(opened.findings, split.columns.source):
                split.dataset = split.dataset.with_classes_of(train.dataset)
