"""COCO: OUT/annotations/instances_{split}.json and the images in OUT/{split}/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.columns import BoxColumns
from data.convert.boxes import finite_only, report_orientation
from data.convert.parts import Part, Report, copy_image, write_text
from data.formats.coco_complete import lvis_fields


def write(out: Path, parts: Sequence[Part[BoxColumns]], report: Report) -> None:
    """Write the splits. Lost: difficult marks, and boxes that are not finite, which JSON cannot hold."""
    for part in parts:
        columns = finite_only(part.columns, report)
        report_orientation(part, True, report)
        report.lose("marks of difficult objects (they become ordinary objects)", columns.difficult.sum())
        boxes = columns.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        areas = np.where(np.isnan(columns.areas), boxes[:, 2] * boxes[:, 3], columns.areas)
        images = [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, name, (height, width) in zip(
                columns.image_ids.tolist(), columns.names, columns.sizes.tolist(), strict=True
            )
        ]
        ids = np.array(columns.category_ids, np.int64)
        if columns.complete is not None:
            fields_of_images = lvis_fields(columns.complete, columns.labelled(), ids)
            images = [image | more for image, more in zip(images, fields_of_images, strict=True)]
        fields = (
            columns.image_ids[columns.image].tolist(),
            ids[columns.label].tolist(),
            boxes.tolist(),
            areas.tolist(),
            columns.crowd.astype(int).tolist(),
        )
        annotations = [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
            for i, (image, category, box, area, crowd) in enumerate(zip(*fields, strict=True), 1)
        ]
        categories = [{"id": i, "name": name} for i, name in zip(columns.category_ids, columns.classes, strict=True)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        write_text(out / "annotations" / f"instances_{part.name}.json", json.dumps(document, ensure_ascii=False))
        for index, name in enumerate(columns.names):
            copy_image(columns, index, out / part.name / name)
        report.splits[part.name] = len(columns), len(columns.boxes)
