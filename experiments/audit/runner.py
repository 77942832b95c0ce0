"""Runs an audit: prints all findings of a data set and writes them to a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.audit.images import Finding, ImageCheck
    from experiments.audit.labels import Layout, SplitLabels

ORDER = ("error", "warning", "note")
LEAST_RECALL = 0.95  # smallest share of boxes that should have an anchor with an IoU of 0.5
STRIDES = (8, 16, 32, 64, 128)  # of the detector's feature maps
SHOWN = 4  # examples printed for each finding; audit.json has more


def audit(root: Path, image_size: int, output: Path) -> list[Finding]:
    """Audit the data set at `root`: print all findings, and write audit.json and pictures to `output`.

    Args:
        root: folder of the data set.
        image_size: side of the square input, in pixels, that anchors are checked for.
        output: folder for the results.

    Returns the findings, worst first. Raises BadInput if the folder is not a data set.
    """
    from rich.console import Console
    from rich.progress import track

    from experiments.audit.images import check_images, image_findings
    from experiments.audit.labels import balance_findings, layout_of, splits_of
    from experiments.audit.pictures import draw

    show = partial(track, console=Console(stderr=True), transient=True)
    layout = layout_of(root)
    names = splits_of(root, layout)
    if not names:
        raise BadInput(f"{root} has no splits")
    labels = {name: layout.read(root, name, show) for name in names}
    if not any(split.images for split in labels.values()):
        raise BadInput(f"{root} has no images in {', '.join(names)}")
    checks = {
        name: list(show(check_images(split.images, os.cpu_count() or 1), f"images of {name}", len(split.images)))
        for name, split in labels.items()
    }
    findings = [finding for split in labels.values() for finding in split.findings]
    findings += balance_findings(labels, layout.unit)
    findings += image_findings(checks)
    if layout.unit == "boxes":
        findings += size_findings(root, checks)
        findings += anchor_findings(labels, image_size)
    findings.sort(key=lambda finding: ORDER.index(finding.severity))

    out = Console(soft_wrap=True, highlight=False)
    print_findings(findings, f"{root}: {layout.name}", labels, out)
    output.mkdir(parents=True, exist_ok=True)
    write_json(root, layout, labels, findings, output / "audit.json")
    pictures = draw(labels, layout.unit, image_size, findings, output)
    out.print(f"audit.json and {', '.join(path.name for path in pictures)} in {output}")
    return findings


def print_findings(findings: list[Finding], title: str, labels: dict[str, SplitLabels], out: Console) -> None:
    """Print the findings with some examples of each."""
    out.print(f"{title}, {', '.join(f'{len(split.images)} images in {name}' for name, split in labels.items())}")
    for finding in findings:
        out.print(f"[bold]{finding.severity}[/bold]: ", end="")
        out.print(f"{finding.what}. {finding.fix[0].upper()}{finding.fix[1:]}.", markup=False)
        if finding.examples:
            more = ", ..." if len(finding.examples) > SHOWN else ""
            out.print(f"  {', '.join(finding.examples[:SHOWN])}{more}", markup=False)
    if not findings:
        out.print("no problems found")


def write_json(root: Path, layout: Layout, labels: dict[str, SplitLabels], findings: list[Finding], file: Path) -> None:
    """Write the findings, and the class balance of each split."""
    content = {
        "root": str(root),
        "layout": layout.name,
        "splits": {name: {"images": len(split.images), "balance": split.balance} for name, split in labels.items()},
        "findings": [{**asdict(f), "files": [str(file) for file in f.files]} for f in findings],
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


def size_findings(root: Path, checks: dict[str, list[ImageCheck]]) -> Iterator[Finding]:
    """Yield findings on images whose size differs from the one in the annotations."""
    from experiments.audit.images import Finding
    from experiments.audit.labels import locate

    for split, split_checks in checks.items():
        file, folder = locate(root, split)
        annotated = {
            folder / str(record["file_name"]): (record.get("height"), record.get("width"))
            for record in json.loads(file.read_bytes())["images"]
        }
        wrong = [check.file for check in split_checks if not check.problem and annotated[check.file] != check.size]
        if wrong:
            what = f"{split}: {len(wrong)} images have another size than the annotations state"
            yield Finding.of_files("error", what, "write the true sizes, otherwise boxes are misplaced", wrong)


def anchor_findings(labels: dict[str, SplitLabels], image_size: int) -> Iterator[Finding]:
    """Yield the share of boxes with an anchor of IoU 0.5 or more, for the published and for fitted anchors."""
    import numpy as np

    from detection.anchors import Anchors, best_iou, fit_scale
    from experiments.audit.images import Finding

    shares = np.concatenate([split.boxes for split in labels.values()])
    images = np.concatenate([split.box_images for split in labels.values()])
    if not len(shares):
        return
    strides = list(STRIDES)
    sizes = shares * images[:, ::-1] * (image_size / images.max(1, keepdims=True))
    fitted = fit_scale(sizes, strides)
    recalls = {scale: (best_iou(sizes, Anchors(strides, scale)) >= 0.5).mean() for scale in (4.0, fitted)}
    texts = [f"{name} {100 * recalls[scale]:.1f}% at scale {scale:g}"
             for name, scale in (("published anchors", 4.0), ("fitted anchors, as in training", fitted))]  # fmt: skip
    small = (sizes.prod(1) < STRIDES[0] ** 2).mean()
    what = f"share of boxes with an anchor of IoU 0.5 or more, at {image_size} px: {'; '.join(texts)}"
    if small > 0.05:
        what += f". {100 * small:.0f}% of the boxes are smaller than one cell of the finest feature map"
    severity = "note" if recalls[fitted] >= LEAST_RECALL else "warning"
    yield Finding(severity, what, "a larger --image_size helps small boxes")  # type: ignore[arg-type]
