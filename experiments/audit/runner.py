"""All findings of a data set, printed and written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.errors import BadInput

if TYPE_CHECKING:
    from experiments.audit.images import Finding, Look
    from experiments.audit.labels import Labels

ORDER = ("error", "warning", "note")
UNITS = {"classification": "images", "detection": "boxes", "segmentation": "pixels"}
LEAST_RECALL = 0.95  # share of boxes that an anchor overlaps by half
SHOWN = 4  # examples printed of each finding; audit.json has more


def audit(root: Path, image_size: int, output: Path) -> list[Finding]:
    """All findings of the data set at `root`, worst first; printed, and written to `output`. Raises BadInput."""
    from rich.console import Console

    from experiments.audit import images as audit_images
    from experiments.audit import labels as audit_labels
    from experiments.audit import pictures as audit_pictures

    out = Console(soft_wrap=True, highlight=False)
    layout = audit_labels.layout_of(root)
    names = audit_labels.splits_of(root, layout)
    if not names:
        raise BadInput(f"{root} has no splits")
    labels: dict[str, Labels] = {}
    for name in names:
        if layout == "detection":
            labels[name] = audit_labels.read_detection(root, name)
        elif layout == "segmentation":
            with _progress(f"masks of {name}", len(list((root / "images" / name).iterdir()))) as seen:
                labels[name] = audit_labels.read_segmentation(root, name, seen)
        else:
            labels[name] = audit_labels.read_classification(root, name)
    total = sum(len(split.images) for split in labels.values())
    if not total:
        raise BadInput(f"{root} has no images in {', '.join(names)}")
    with _progress("images", total) as seen:
        workers = os.cpu_count() or 1
        looks = {name: audit_images.look_at_all(split.images, workers, seen) for name, split in labels.items()}

    found = [finding for split in labels.values() for finding in split.findings]
    found += audit_labels.balance_findings(labels, UNITS[layout])
    found += audit_images.findings(looks)
    if layout == "detection":
        found += size_findings(root, labels, looks)
        found += anchor_findings(labels, image_size)
    found.sort(key=lambda finding: ORDER.index(finding.severity))

    out.print(f"{root}: {layout}, {', '.join(f'{len(v.images)} images in {name}' for name, v in labels.items())}")
    for finding in found:
        out.print(f"[bold]{finding.severity}[/bold]: ", end="")
        out.print(f"{finding.what}. {finding.fix[0].upper()}{finding.fix[1:]}.", markup=False)
        if finding.examples:
            more = ", ..." if len(finding.examples) > SHOWN else ""
            out.print(f"  {', '.join(finding.examples[:SHOWN])}{more}", markup=False)
    if not found:
        out.print("nothing to mend was found")
    output.mkdir(parents=True, exist_ok=True)
    report = {
        "root": str(root),
        "layout": layout,
        "splits": {name: {"images": len(split.images), "balance": split.balance} for name, split in labels.items()},
        "findings": [{**asdict(f), "files": [str(file) for file in f.files]} for f in found],
    }
    (output / "audit.json").write_text(json.dumps(report, indent=2) + "\n")
    pictures = audit_pictures.draw(labels, UNITS[layout], image_size, found, output)
    out.print(f"audit.json and {', '.join(path.name for path in pictures)} in {output}")
    return found


def size_findings(root: Path, labels: dict[str, Labels], looks: dict[str, list[Look]]) -> Iterator[Finding]:
    """Images whose size is not the one that the annotations tell."""
    from data.formats.coco_json import locate
    from experiments.audit.images import Finding

    for split, seen in looks.items():
        file, folder = locate(root, split)
        told = {
            folder / str(record["file_name"]): (record.get("height"), record.get("width"))
            for record in json.loads(file.read_bytes())["images"]
        }
        wrong = [look.file for look in seen if not look.problem and told[look.file] != look.size]
        if wrong:
            what = f"{split}: {len(wrong)} images are not of the size that the annotations tell"
            yield Finding.of_files("error", what, "boxes would be misplaced: write the true sizes", wrong)


def anchor_findings(labels: dict[str, Labels], image_size: int) -> Iterator[Finding]:
    """The share of boxes that an anchor overlaps by half, for the published anchors and for fitted ones.

    Anchors are the detector's, which data does not know: they are asked here, in the command, and nowhere else.
    """
    import numpy as np

    from detection.anchors import Anchors, best_iou, fit_scale
    from experiments.audit.images import Finding

    strides = [8, 16, 32, 64, 128]
    shares = np.concatenate([split.boxes for split in labels.values()])
    images = np.concatenate([split.box_images for split in labels.values()])
    if not len(shares):
        return
    scale = image_size / images.max(1, keepdims=True)
    sizes = shares * images[:, ::-1] * scale
    fitted = fit_scale(sizes, strides)
    parts = [f"{name} {100 * (best_iou(sizes, Anchors(strides, value)) >= 0.5).mean():.1f}% at scale {value:g}"
             for name, value in (("published anchors", 4.0), ("fitted anchors, as in training", fitted))]  # fmt: skip
    best = (best_iou(sizes, Anchors(strides, fitted)) >= 0.5).mean()
    small = (sizes.prod(1) < 8 * 8).mean()
    what = f"at {image_size} px an anchor overlaps a box by half for: {'; '.join(parts)}"
    if small > 0.05:
        what += f". {100 * small:.0f}% of the boxes are smaller than one cell of the finest map"
    yield Finding("note" if best >= LEAST_RECALL else "warning", what, "a larger --image_size helps small boxes")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task(what, total=total)
        yield lambda: bar.advance(row)
