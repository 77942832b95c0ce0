"""Runs an audit: prints a first page and the findings of a data set, and writes them to a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from backbones.errors import BadInput
from data.columns import Kind
from data.findings import Finding
from data.formats.image_files import ImageFiles
from data.scan import Headers, sample_of, scan
from engine.console import err
from experiments.audit.anchors import anchor_findings
from experiments.audit.config import AuditConfig
from experiments.audit.headers import header_findings
from experiments.audit.images import ImageCheck, check_content, check_split, headers_of, image_findings
from experiments.audit.labels import balance_of, label_findings, mask_balance
from experiments.audit.page import print_findings, print_first_page, size_range
from experiments.audit.pictures import draw
from experiments.audit.sheet import draw_sheet
from experiments.audit.splits import Opened, errors_into, open_data_set

ORDER = ("error", "warning", "note")
FIRST = 12  # findings that the first page prints
NAMES: dict[Kind, str] = {"boxes": "detection", "masks": "segmentation", "classes": "classification"}  # in audit.json
WIDTH = 140  # characters of a line where the output is a file
SAMPLES = "samples.jpg"
UNREAD = "other"  # name of the images that belong to no split that can be read


def audit(config: AuditConfig) -> list[Finding]:
    """Audit a data set: print the first page and the findings, and write audit.json and pictures.

    Returns the findings, worst first. Raises UserError for wrong settings, and BadInput if no split can be read.
    """
    config.check()
    root = Path(config.root)
    output = Path(config.output) if config.output else Path("runs") / "audit" / root.resolve().name
    opened = open_data_set(root, config.kind, config.data)
    balance = {split.name: balance_of(split, opened.kind) for split in opened.splits if split.columns is not None}
    headers = {
        split.name: scan(split.columns, sample_of(split.columns))
        for split in opened.splits
        if split.columns is not None
    }
    out = Console(soft_wrap=True, highlight=False)
    if not out.is_terminal:
        out = Console(soft_wrap=True, highlight=False, width=WIDTH)
    print_first_page(opened, balance, headers, out)
    checks: dict[str, list[ImageCheck]] = {}
    if not config.quick:
        checks = _check_images(opened)
        for split in opened.splits:
            if split.name in checks:
                headers[split.name] = headers_of(checks[split.name])
                counts = [check.counts for check in checks[split.name] if check.counts is not None]
                if opened.kind == "masks" and split.dataset is not None:
                    balance[split.name] = mask_balance(split, counts)
    findings = [*opened.findings, *label_findings(opened, balance)]
    with errors_into(findings, root):
        findings += header_findings(opened, headers)
    if not config.quick:
        findings += image_findings(checks, opened.findings)
        if opened.kind == "boxes":
            findings += anchor_findings(opened.splits, config.image_size)
    findings.sort(key=lambda finding: ORDER.index(finding.severity))

    print_findings(findings, out, FIRST if config.quick else None)
    output.mkdir(parents=True, exist_ok=True)
    write_json(config, opened, balance, headers, findings, output / "audit.json")
    sheet = draw_sheet(opened, output / SAMPLES)
    pictures = [] if sheet is None else [sheet]
    if not config.quick:
        pictures += draw(opened, balance, config.image_size, findings, output)
    out.print(f"{', '.join(['audit.json', *(path.name for path in pictures)])} in {output}", markup=False)
    if config.quick:
        out.print("Only some images were read. Without --quick, all are, and duplicates are searched.")
    if all(split.columns is None for split in opened.splits):
        raise BadInput(f"no split of {root} can be read: see the errors above")
    return findings


def _check_images(opened: Opened) -> dict[str, list[ImageCheck]]:
    """The checks of all images of each split. If a split cannot be read, also of the other images in the folder."""
    show, workers = partial(track, console=err, transient=True), os.cpu_count() or 1
    checks = {}
    for split in opened.splits:
        if split.columns is not None:
            name, total = split.name, len(split.columns)
            checks[name] = list(show(check_split(split, workers), f"images of {name}", total))
    if any(split.columns is None for split in opened.splits) and opened.root.is_dir():
        known = {os.path.realpath(file) for split in opened.splits for file in split.files}
        rest: list[Path] = []
        with errors_into(opened.findings, opened.root):
            images = ImageFiles(opened.root)
            every = [images.folder / name for name in images.names]
            rest = [file for file in every if os.path.realpath(file) not in known]
        checks[UNREAD] = [_check_file(file) for file in show(rest, "other images")]
    return checks


def _check_file(file: Path) -> ImageCheck:
    try:
        return check_content(file.read_bytes(), file)
    except OSError as error:
        return ImageCheck(file, f"{file}: {error.strerror}")


def write_json(
    config: AuditConfig,
    opened: Opened,
    balance: dict[str, dict[str, int]],
    headers: dict[str, Headers],
    findings: Sequence[Finding],
    file: Path,
) -> None:
    """Write what was recognised, each split with its class balance, and the findings."""
    splits: dict[str, Any] = {}
    for split in opened.splits:
        sizes = size_range(split, headers.get(split.name))
        splits[split.name] = {
            "role": split.role,
            "images": None if split.columns is None else len(split.columns),
            "balance": balance.get(split.name, {}),
            "sizes": dict(zip(("smallest", "median", "largest"), sizes, strict=False)),
            "read_with": split.changes,
        }
    content = {
        "root": str(opened.root),
        "layout": NAMES[opened.kind],
        "format": opened.form.name,
        "why": opened.why,
        "also": [{"layout": NAMES[form.kind], "format": form.name, "why": why} for form, why in opened.others],
        "quick": config.quick,
        "settings": {name: value for name, value in asdict(config.data).items() if value is not None},
        "splits": splits,
        "findings": [
            {**asdict(finding), "settings": list(finding.settings), "files": [str(file) for file in finding.files]}
            for finding in findings
        ],
    }
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
