"""Writes the same boxes in every layout, with the keys, columns and elements that the tools write."""

import csv
import io
import json
from dataclasses import dataclass, field

from tests.data.formats.sets import image, text


@dataclass
class Scene:
    """An image and its objects: class, x1, y1, x2, y2 in pixels."""

    name: str
    height: int = 20
    width: int = 40
    objects: list = field(default_factory=list)


def write(layout, root, scenes, classes):
    """Write images and labels of the split `train`. Returns the label files."""
    folder, labels = WRITERS[layout](root, scenes, classes)
    for scene in scenes:
        image(root / folder / scene.name, scene.height, scene.width)
    return labels


def _stem(scene):
    return scene.name.rpartition(".")[0]


def _coco(root, scenes, classes, file="annotations/instances_train.json", folder="train", phantom=()):
    ids = {name: number for number, name in enumerate(classes, 1)}
    images = [{"id": i, "license": 1, "file_name": s.name, "height": s.height, "width": s.width, "date_captured": ""}
              for i, s in enumerate(scenes, 1)]  # fmt: skip
    found = [(i, *one) for i, s in enumerate(scenes, 1) for one in s.objects]
    annotations = [
        {"id": k, "image_id": i, "category_id": ids[name], "bbox": [x1, y1, x2 - x1, y2 - y1],
         "area": (x2 - x1) * (y2 - y1), "segmentation": [], "iscrowd": 0}
        for k, (i, name, x1, y1, x2, y2) in enumerate(found)
    ]  # fmt: skip
    categories = [{"id": 0, "name": name, "supercategory": "none"} for name in phantom]
    categories += [{"id": i, "name": name, "supercategory": phantom[0] if phantom else ""} for name, i in ids.items()]
    document = {"info": {"year": "2024"}, "licenses": [], "categories": categories, "images": images,
                "annotations": annotations}  # fmt: skip
    return folder, [text(root / file, json.dumps(document, ensure_ascii=False))]


def _roboflow(root, scenes, classes):
    return _coco(root, scenes, classes, "train/_annotations.coco.json", "train", ("things",))


def _yolo_files(root, scenes, classes, folder):
    files = []
    for scene in scenes:
        lines = []
        for name, x1, y1, x2, y2 in scene.objects:
            centre = (x1 + x2) / 2 / scene.width, (y1 + y2) / 2 / scene.height
            values = (*centre, (x2 - x1) / scene.width, (y2 - y1) / scene.height)
            lines.append(f"{classes.index(name)} " + " ".join(repr(value) for value in values) + "\n")
        files.append(text(root / folder / f"{_stem(scene)}.txt", "".join(lines)))
    return files


def _yolo(root, scenes, classes):
    names = "".join(f"  {i}: {json.dumps(name)}\n" for i, name in enumerate(classes))
    config = text(root / "data.yaml", f"train: images/train\nval: images/train\nnc: {len(classes)}\nnames:\n{names}")
    return "images/train", [config, *_yolo_files(root, scenes, classes, "labels/train")]


def _polygons(root, scenes, classes):
    """Segments of YOLO: the corners of the boxes."""
    folder, files = _yolo(root, scenes, classes)
    for scene, file in zip(scenes, files[1:], strict=True):
        lines = []
        for name, x1, y1, x2, y2 in scene.objects:
            points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
            values = " ".join(f"{x / scene.width!r} {y / scene.height!r}" for x, y in points)
            lines.append(f"{classes.index(name)} {values}\n")
        text(file, "".join(lines))
    return folder, files


def _darknet(root, scenes, classes):
    data = text(root / "obj.data", f"classes = {len(classes)}\ntrain = data/train.txt\nnames = data/obj.names\n")
    names = text(root / "obj.names", "".join(f"{name}\n" for name in classes))
    listed = text(root / "train.txt", "".join(f"data/obj_train_data/{scene.name}\n" for scene in scenes))
    return "obj_train_data", [data, names, listed, *_yolo_files(root, scenes, classes, "obj_train_data")]


def _without_config(root, scenes, classes):
    names = text(root / "classes.txt", "".join(f"{name}\n" for name in classes))
    return "images", [names, *_yolo_files(root, scenes, classes, "labels")]


def _voc_files(root, scenes, folder):
    files = []
    for scene in scenes:
        objects = "".join(
            f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<difficult>0</difficult>\n"
            f"\t\t<bndbox>\n\t\t\t<xmin>{x1!r}</xmin>\n\t\t\t<ymin>{y1!r}</ymin>\n\t\t\t<xmax>{x2!r}</xmax>\n"
            f"\t\t\t<ymax>{y2!r}</ymax>\n\t\t</bndbox>\n\t</object>\n"
            for name, x1, y1, x2, y2 in scene.objects
        )
        head = f"<size><width>{scene.width}</width><height>{scene.height}</height><depth>3</depth></size>"
        content = f"<annotation>\n\t<filename>{scene.name}</filename>\n\t{head}\n{objects}</annotation>\n"
        files.append(text(root / folder / f"{_stem(scene)}.xml", content))
    return files


def _voc(root, scenes, classes):
    listed = text(root / "ImageSets/Main/train.txt", "".join(f"{_stem(scene)}\n" for scene in scenes))
    return "JPEGImages", [listed, *_voc_files(root, scenes, "Annotations")]


def _voc_flat(root, scenes, classes):
    return "train", _voc_files(root, scenes, "train")


def _table(file, rows):
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(rows)
    return text(file, content.getvalue())


def _csv(root, scenes, classes):
    """TensorFlow's columns, and rows for the images without objects."""
    rows = [("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")]
    for scene in scenes:
        rows += [(scene.name, scene.width, scene.height, *one) for one in scene.objects]
        if not scene.objects:
            rows.append((scene.name, scene.width, scene.height, "", "", "", "", ""))
    return "images", [_table(root / "train_labels.csv", rows)]


def _retinanet(root, scenes, classes):
    rows = [
        row
        for scene in scenes
        for row in [(scene.name, *box, name) for name, *box in scene.objects] or [(scene.name, "", "", "", "", "")]
    ]
    return "train", [_table(root / "train.csv", rows)]


def _labelme(root, scenes, classes):
    files = []
    for scene in scenes:
        shapes = [
            {"label": name, "points": [[x1, y1], [x2, y2]], "group_id": None, "shape_type": "rectangle", "flags": {}}
            for name, x1, y1, x2, y2 in scene.objects
        ]
        document = {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": scene.name, "imageData": None,
                    "imageHeight": scene.height, "imageWidth": scene.width}  # fmt: skip
        files.append(text(root / "train" / f"{_stem(scene)}.json", json.dumps(document)))
    return "train", files


def _via_regions(scene):
    return [
        {"shape_attributes": {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1},
         "region_attributes": {"label": name}}
        for name, x1, y1, x2, y2 in scene.objects
    ]  # fmt: skip


def _via(root, scenes, classes):
    document = {
        f"{scene.name}99": {"filename": scene.name, "size": 99, "regions": _via_regions(scene), "file_attributes": {}}
        for scene in scenes
    }
    return "train", [text(root / "train/via_region_data.json", json.dumps(document))]


def _via_csv(root, scenes, classes):
    rows = [("filename", "file_size", "file_attributes", "region_count", "region_id", "region_shape_attributes",
             "region_attributes")]  # fmt: skip
    for scene in scenes:
        regions = _via_regions(scene)
        for number, region in enumerate(regions or [{"shape_attributes": {}, "region_attributes": {}}]):
            cells = [json.dumps(region[key]) for key in ("shape_attributes", "region_attributes")]
            rows.append((scene.name, 99, "{}", len(regions), number, *cells))
    return "train", [_table(root / "train/via_export_csv.csv", rows)]


def _label_studio(root, scenes, classes):
    tasks = []
    for number, scene in enumerate(scenes, 1):
        results = [
            {"original_width": scene.width, "original_height": scene.height, "image_rotation": 0, "id": f"r{i}",
             "value": {"x": 100 * x1 / scene.width, "y": 100 * y1 / scene.height,
                       "width": 100 * (x2 - x1) / scene.width, "height": 100 * (y2 - y1) / scene.height,
                       "rotation": 0, "rectanglelabels": [name]},
             "from_name": "label", "to_name": "image", "type": "rectanglelabels"}
            for i, (name, x1, y1, x2, y2) in enumerate(scene.objects)
        ]  # fmt: skip
        annotation = {"id": number, "result": results, "was_cancelled": False, "ground_truth": False}
        tasks.append({"id": number, "annotations": [annotation], "predictions": [],
                      "data": {"image": f"/data/upload/1/{scene.name}"}})  # fmt: skip
    return "images", [text(root / "project-1.json", json.dumps(tasks))]


def _cvat(root, scenes, classes):
    listed = "".join(f"<label><name>{name}</name></label>" for name in classes)
    images = "".join(
        f'<image id="{i}" name="{scene.name}" width="{scene.width}" height="{scene.height}">'
        + "".join(
            f'<box label="{name}" occluded="0" xtl="{x1!r}" ytl="{y1!r}" xbr="{x2!r}" ybr="{y2!r}" z_order="0"></box>'
            for name, x1, y1, x2, y2 in scene.objects
        )
        + "</image>\n"
        for i, scene in enumerate(scenes)
    )
    content = f"<annotations><version>1.1</version><meta><task><labels>{listed}</labels></task></meta>\n{images}"
    return "images", [text(root / "annotations.xml", f'<?xml version="1.0"?>\n{content}</annotations>\n')]


WRITERS = {
    "coco": _coco, "roboflow": _roboflow, "yolo": _yolo, "polygons": _polygons, "darknet": _darknet,
    "yolo without config": _without_config, "voc": _voc, "voc flat": _voc_flat, "csv": _csv, "retinanet": _retinanet,
    "labelme": _labelme, "via": _via, "via csv": _via_csv, "label studio": _label_studio, "cvat": _cvat,
}  # fmt: skip
