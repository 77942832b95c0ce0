"""Pascal VOC: OUT/JPEGImages/, OUT/Annotations/ and OUT/ImageSets/Main/{split}.txt.

Coordinates are the edges of the boxes, as most tools write them, and not VOC's own indices of pixels from 1. The list
of classes is in labelmap.txt, as in CVAT's exports, since VOC has no such list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.convert.boxes import distinct_stems, finite_only, report_coco_fields, report_orientation, without_crowds
from data.convert.parts import Part, Report, copy_image, stem_of, write_text

KEYS = ("xmin", "ymin", "xmax", "ymax")


def write(out: Path, parts: Sequence[Part[BoxColumns]], report: Report) -> None:
    """Write the splits. Lost: crowd regions, ids and areas.

    All images are in one folder. If two splits have images of one name, each split has a folder in it.
    """
    report_coco_fields(parts, report, first_category=1)
    named = distinct_stems(parts, report)
    stems = [stem_of(name) for names in named for name in names]
    if len(set(stems)) < len(stems):
        named = [[f"{part.name}/{name}" for name in names] for part, names in zip(parts, named, strict=True)]
    classes = parts[0].columns.classes
    write_text(out / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(f"{name}:::\n" for name in classes))
    for part, names in zip(parts, named, strict=True):
        columns = without_crowds(finite_only(part.columns, report), report)
        report_orientation(part, True, report)
        objects: list[list[str]] = [[] for _ in range(len(columns))]
        fields = zip(columns.image, columns.label, columns.difficult, columns.boxes.tolist(), strict=True)
        for image, label, difficult, box in fields:
            corners = "".join(f"<{key}>{value!r}</{key}>" for key, value in zip(KEYS, box, strict=True))
            objects[image].append(
                f"  <object>\n    <name>{_escaped(classes[label])}</name>\n    <bndbox>{corners}</bndbox>\n"
                f"    <difficult>{int(difficult)}</difficult>\n  </object>\n"
            )
        for index, name in enumerate(names):
            copy_image(columns, index, out / "JPEGImages" / name)
            height, width = columns.sizes[index].tolist()
            text = (
                f"<annotation>\n  <filename>{_escaped(Path(name).name)}</filename>\n"
                f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
                f"{''.join(objects[index])}</annotation>\n"
            )
            write_text(out / "Annotations" / f"{stem_of(name)}.xml", text)
        write_text(out / "ImageSets" / "Main" / f"{part.name}.txt", "".join(f"{stem_of(name)}\n" for name in names))
        report.splits[part.name] = len(columns), len(columns.boxes)


def _escaped(text: str) -> str:
    if any(character < " " for character in text):
        raise BadInput(f"the name {text!r} has a control character, which XML cannot hold")
    return escape(text)
