"""Files of labelling tools: labelme, VGG Image Annotator, Label Studio and CVAT, as these tools write them."""

import json
import math

import pytest

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from tests.data.formats.sets import format_of, image, objects, read, text, tree

CAT = ("cat", 5, 4, 25, 16)
BOTH = {"a.jpg": [CAT, ("traffic light", 1, 2, 30, 18)], "b.jpg": []}


def dumped(content):
    return json.dumps(content, ensure_ascii=False, indent=2)


def labelme(*shapes, name="a.jpg", size=(20, 40)):
    records = [
        {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {},
         "mask": None}
        for label, kind, points in shapes
    ]  # fmt: skip
    content = {"version": "5.4.1", "flags": {}, "shapes": records, "imagePath": name, "imageData": "/9j/4AAQ"}
    return dumped(content | {"imageHeight": size[0], "imageWidth": size[1]})


SHAPES = (
    ("cat", "rectangle", [[25.0, 16.0], [5.0, 4.0]]),  # drawn from the lower right corner
    ("traffic light", "polygon", [[1, 2], [30, 5], [12, 18]]),
    ("spot", "point", [[3, 3]]),
)


@pytest.mark.parametrize(
    "files",
    [
        {"a.jpg": (20, 40), "a.json": labelme(*SHAPES), "b.jpg": (20, 40), "b.json": labelme()},
        {"images/a.jpg": (20, 40), "labels/a.json": labelme(*SHAPES, name="..\\images\\a.jpg"),
         "images/b.jpg": (20, 40), "labels/b.json": labelme(name="..\\images\\b.jpg")},
        {"train/a.jpg": (20, 40), "train/a.json": labelme(*SHAPES), "train/b.jpg": (20, 40),
         "train/b.json": labelme(), "val/c.jpg": (20, 40), "val/c.json": labelme(("dog", "circle", [[9, 9], [9, 12]]))},
    ],
    ids=["beside", "two trees", "splits"],
)  # fmt: skip
def test_labelme(tmp_path, files, caplog):
    root = tree(tmp_path / "set", files)
    assert format_of(root) == "labelme"
    columns = read(root)
    assert objects(columns) == BOTH
    assert columns.sizes.tolist() == [[20, 40], [20, 40]]
    assert "shapes without a box are left out: 1 point" in caplog.text
    if "val/c.jpg" in files:
        assert columns.classes == ("cat", "dog", "traffic light")
        assert objects(read(root, "val")) == {"c.jpg": [("dog", 6, 6, 12, 12)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.json is not valid JSON"),
        ("[]", r"a\.json: the file is \[\], not an object"),
        ('{"version": "5"}', "has no shapes: it is not a file of labelme"),
        (labelme(("cat", "rectangle", [[1, 2], [3]])), r"shapes\[0\] has points \[3\], not 2 numbers"),
        (labelme(("cat", "rectangle", [])), r"shapes\[0\] has points \[\], not a list of points"),
        (labelme(("", "rectangle", [[1, 2], [3, 4]])), r"shapes\[0\] has label '', not a class name"),
        (labelme(("cat", "circle", [[1, 2]])), "is a circle of 1 points, not 2"),
        (labelme(("cat", "rectangle", [["x", 2], [3, 4]])), r"shapes\[0\] has points 'x', not a number"),
    ],
)
def test_damaged_files_of_labelme(tmp_path, content, message):
    root = tree(tmp_path / "set", {"a.jpg": (20, 40), "a.json": content, "b.jpg": (20, 40),
                                   "b.json": labelme(*SHAPES)})  # fmt: skip
    with pytest.raises(BadInput, match=message):
        read(root)


def test_labelme_shows_images_upright(tmp_path):
    """Stored as 20 x 40 with the tag that it stands: labelme writes the upright size."""
    root = tree(tmp_path / "set", {"a.json": labelme(("cat", "rectangle", [[5, 20], [15, 38]]), size=(40, 20))})
    image(root / "a.jpg", 20, 40, turn=6)
    sample = BoxDataset.open(root, "train")[0]
    assert sample.image.shape == (40, 20, 3)
    assert sample.boxes.tolist() == [[5, 20, 15, 38]]


def region(kind, attributes, **shape):
    return {"shape_attributes": {"name": kind, **shape}, "region_attributes": attributes}


REGIONS = [
    region("rect", {"type": "cat", "note": ""}, x=5, y=4, width=20, height=12),
    region("polygon", {"type": "traffic light", "note": "old"}, all_points_x=[1, 30, 12], all_points_y=[2, 5, 18]),
    region("point", {"type": "cat"}, cx=1, cy=1),
]
METADATA = {
    "a.jpg1234": {"filename": "a.jpg", "size": 1234, "regions": REGIONS, "file_attributes": {}},
    "b.jpg99": {"filename": "b.jpg", "size": 99, "regions": [], "file_attributes": {"caption": ""}},
}
PROJECT = {
    "_via_settings": {"ui": {}, "project": {"name": "cats"}}, "_via_img_metadata": METADATA,
    "_via_attributes": {"region": {"type": {"type": "dropdown"}, "note": {"type": "text"}}, "file": {}},
    "_via_data_format_version": "2.0.10", "_via_image_id_list": list(METADATA),
}  # fmt: skip
VIA1 = {key: entry | {"regions": dict(enumerate(entry["regions"])), "fileref": ""} for key, entry in METADATA.items()}


def via_csv():
    lines = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    for entry in METADATA.values():
        for number, one in enumerate(entry["regions"] or [{"shape_attributes": {}, "region_attributes": {}}]):
            cells = [json.dumps(one[f"{part}_attributes"]).replace('"', '""') for part in ("shape", "region")]
            lines.append(f'{entry["filename"]},9,"{{}}",{len(entry["regions"])},{number},"{cells[0]}","{cells[1]}"')
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [("via_project_7May2020.json", dumped(PROJECT)), ("train/via_region_data.json", dumped(VIA1)),
     ("annotations.json", dumped(METADATA)), ("via_export_csv.csv", via_csv()), ("via1.csv", "#" + via_csv())],
    ids=["project", "via 1", "export", "csv", "csv of via 1"],
)  # fmt: skip
def test_via(tmp_path, caplog, name, content):
    folder = "train/" if name.startswith("train") else "images/"
    root = tree(tmp_path / "set", {name: content, f"{folder}a.jpg": (20, 40), f"{folder}b.jpg": (20, 40)})
    assert format_of(root) == "via"
    assert objects(read(root)) == BOTH
    assert "regions have the attributes type, note; the classes are those of 'type'" in caplog.text


def via(*regions):
    return dumped({"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": list(regions), "file_attributes": {}}})


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (region("circle", {"Kind": "cat"}, cx=15, cy=10, r=6), (9, 4, 21, 16)),
        (region("ellipse", {"Kind": "cat"}, cx=15, cy=10, rx=10, ry=6), (5, 4, 25, 16)),
        (region("ellipse", {"Kind": "cat"}, cx=15, cy=10, rx=10, ry=6, theta=math.pi / 2), (9, 0, 21, 20)),
        (region("rect", {"Kind": {"cat": True, "dog": False}}, x="5", y=4, width=20, height=12), (5, 4, 25, 16)),
        (region("rect", {}, x=5, y=4, width=20, height=12), None),
    ],
)
def test_shapes_of_via(tmp_path, shape, box):
    root = tree(tmp_path / "set", {"via.json": via(shape), "a.jpg": (20, 40)})
    assert objects(read(root)) == {"a.jpg": [("cat", *box) if box else ("object", 5, 4, 25, 16)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (via(region("rect", {"c": "cat"}, x=5, y=4, width=20)), r"image 'a\.jpg1', regions\[0\] has height None"),
        (via(region("rect", {"c": "x"}, x=5, y=4, width=2, height=1), region("rect", {}, x=5, y=4, width=2, height=1)),
         r"regions\[1\] has 'c' None, not a class name"),
        (via(region("polygon", {"c": "cat"}, all_points_x=[1, 2], all_points_y=[1])), "2 x and 1 y coordinates"),
        (via(region("cube", {"c": "cat"})), "has a shape called 'cube'"),
        (via(region("rect", {"c": {"a": False}}, x=1, y=1, width=2, height=2)), "has no class in 'c'"),
        (via(7), r"regions\[0\] is 7, not an object"),
        (dumped({"a": {"filename": 5, "regions": []}}), "image 'a' has filename 5"),
    ],
)  # fmt: skip
def test_damaged_files_of_via(tmp_path, content, message):
    root = tree(tmp_path / "set", {"via.json": content, "a.jpg": (20, 40)})
    with pytest.raises(BadInput, match=message):
        read(root)


def result(value, kind="rectanglelabels", **more):
    return {"original_width": 40, "original_height": 20, "image_rotation": 0, "value": value, "id": "x1",
            "from_name": "label", "to_name": "image", "type": kind, "origin": "manual"} | more  # fmt: skip


SHAPE = {"x": 12.5, "y": 20, "width": 50, "height": 60, "rotation": 0}
RECTANGLE = SHAPE | {"rectanglelabels": ["cat"]}
POLYGON = {"points": [[2.5, 10], [75, 25], [30, 90]], "closed": True, "polygonlabels": ["traffic light"]}


def task(name, *results, **more):
    annotation = {"id": 1, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False}
    return {"id": 1, "annotations": [annotation], "drafts": [], "predictions": [], "data": {"image": name}, **more}


TASKS = [
    task("/data/upload/1/0a1b2c3d-a.jpg", result(RECTANGLE), result(POLYGON, "polygonlabels"),
         result({"format": "rle", "rle": [0], "brushlabels": ["cat"]}, "brushlabels")),
    task("s3://bucket/photos/b.jpg"),
]  # fmt: skip
SIZE = {"original_width": 40, "original_height": 20}
MINIMAL = [
    {"image": "/data/local-files/?d=photos%2Fa.jpg", "id": 1, "annotator": 1, "label": [
        RECTANGLE | SIZE, POLYGON | SIZE]},
    {"image": "http://localhost:8080/photos/b.jpg", "id": 2, "label": []},
]  # fmt: skip


@pytest.mark.parametrize("content", [TASKS, MINIMAL], ids=["JSON", "JSON-MIN"])
def test_label_studio(tmp_path, caplog, content):
    root = tree(tmp_path / "set", {"project-1-at-2024.json": dumped(content), "images/a.jpg": (20, 40),
                                   "images/b.jpg": (20, 40)})  # fmt: skip
    assert format_of(root) == "label-studio"
    columns = read(root)
    assert objects(columns) == BOTH
    assert columns.sizes[0].tolist() == [20, 40]
    assert ("1 brushlabels" in caplog.text) == (content is TASKS)


@pytest.mark.parametrize(
    ("results", "found"),
    [
        # 50% x 60% of 40 x 20 px, turned by 90 degrees around its upper left corner (25, 4): 12 px to the left.
        ([result(RECTANGLE | {"x": 62.5, "rotation": 90, "height": 20})], [("cat", 21, 4, 25, 24)]),
        ([result({"x": 50, "y": 50, "radiusX": 10, "radiusY": 25, "ellipselabels": ["cat"]})],
         [("cat", 16, 5, 24, 15)]),
        ([result(SHAPE, "rectangle"), result(SHAPE | {"labels": ["dog"]}, "labels")], [("dog", 5, 4, 25, 16)]),
        ([result(SHAPE, "rectangle")], []),
        ([result(RECTANGLE | {"rectanglelabels": ["cat", "dog"]})], [CAT, ("dog", 5, 4, 25, 16)]),
        ([{"type": "relation", "from_id": "x1", "to_id": "x2"}, result(RECTANGLE)], [CAT]),
    ],
    ids=["turned", "ellipse", "two results", "no class", "two classes", "relation"],
)  # fmt: skip
def test_results_of_label_studio(tmp_path, results, found):
    content = [task("a.jpg", *results), task("b.jpg", result(RECTANGLE))]
    root = tree(tmp_path / "set", {"result.json": dumped(content), "a.jpg": (20, 40), "b.jpg": (20, 40)})
    assert objects(read(root)) == {"a.jpg": found, "b.jpg": [CAT]}


def test_the_annotation_that_counts(tmp_path):
    first, second, third = (task("a.jpg", result(RECTANGLE | {"rectanglelabels": [c]})) for c in "xyz")
    first["annotations"][0]["was_cancelled"] = True
    content = task("a.jpg")
    content["annotations"] = first["annotations"] + second["annotations"] + third["annotations"]
    root = tree(tmp_path / "set", {"result.json": dumped([content]), "a.jpg": (20, 40)})
    assert objects(read(root)) == {"a.jpg": [("y", 5, 4, 25, 16)]}
    content["annotations"][2]["ground_truth"] = True
    text(root / "result.json", dumped([content]))
    assert objects(read(root)) == {"a.jpg": [("z", 5, 4, 25, 16)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([task("a.jpg", result(RECTANGLE, original_width=None))], "task 0, result 0 has no original_width"),
        ([task("a.jpg", result(RECTANGLE, image_rotation=90))], "was drawn on a turned image"),
        ([task("a.jpg", result(RECTANGLE | {"x": "?"}))], "task 0, result 0 has x '\\?', not a number"),
        ([task("a.jpg", 5)], "result 0 is 5, not an object"),
        ([task("no image")], "task 0 has no image in its data"),
        ([task("a.jpg"), task("a.jpg")], r"task 1 is the second task with the image a\.jpg"),
        ([task("a.jpg", result(RECTANGLE | {"rectanglelabels": [None]}))], "has class None, not a class name"),
    ],
)
def test_damaged_files_of_label_studio(tmp_path, content, message):
    root = tree(tmp_path / "set", {"result.json": dumped(content), "a.jpg": (20, 40)})
    with pytest.raises(BadInput, match=message):
        read(root)


def cvat(*images, labels=("traffic light", "cat", "dog")):
    listed = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in labels)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task><id>1</id>'
        f"<name>cats</name><mode>annotation</mode><labels>{listed}</labels></task></meta>\n{''.join(images)}"
        "</annotations>\n"
    )


def cvat_image(number, name, *shapes, subset=""):
    more = f' subset="{subset}"' if subset else ""
    return f'<image id="{number}" name="{name}"{more} width="40" height="20">{"".join(shapes)}</image>\n'


BOX = ('<box label="cat" source="manual" occluded="0" xtl="5.00" ytl="4.00" xbr="25.00" ybr="16.00" z_order="0">'
       '<attribute name="age">3</attribute></box>')  # fmt: skip
OTHER = '<polygon label="traffic light" points="1.0,2.0;30.0,5.0;12.0,18.0" z_order="0"></polygon>'
NO_BOX = '<points label="cat" points="1,1"></points><tag label="dog"></tag>'


@pytest.mark.parametrize("places", ["images/", "images/default/", ""])
def test_cvat(tmp_path, places, caplog):
    content = cvat(cvat_image(0, "a.jpg", BOX, OTHER, NO_BOX), cvat_image(1, "b.jpg"))
    root = tree(tmp_path / "set", {"annotations.xml": content, f"{places}a.jpg": (20, 40), f"{places}b.jpg": (20, 40)})
    assert format_of(root) == "cvat"
    columns = read(root)
    assert {name.rpartition("/")[2]: found for name, found in objects(columns).items()} == BOTH
    assert columns.classes == ("traffic light", "cat", "dog")
    assert "left out: 1 points" in caplog.text


def test_subsets_of_cvat(tmp_path):
    content = cvat(
        cvat_image(0, "a.jpg", BOX, subset="Train"), cvat_image(1, "x/a.jpg", OTHER, subset="Validation")
    )  # fmt: skip
    root = tree(tmp_path / "set", {"annotations.xml": content, "images/Train/a.jpg": (20, 40),
                                   "images/Validation/x/a.jpg": (20, 40)})  # fmt: skip
    assert objects(read(root)) == {"a.jpg": [CAT]}
    assert objects(read(root, "val")) == {"x/a.jpg": [("traffic light", 1, 2, 30, 18)]}
    assert objects(read(root / "annotations.xml", "val")) == {"x/a.jpg": [("traffic light", 1, 2, 30, 18)]}


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ('<box label="cat" xtl="5" ytl="8" xbr="25" ybr="12" rotation="90.0"/>', (13, 0, 17, 20)),
        ('<ellipse label="cat" cx="15" cy="10" rx="10" ry="6"/>', (5, 4, 25, 16)),
        ('<ellipse label="cat" cx="15" cy="10" rx="10" ry="6" rotation="90"/>', (9, 0, 21, 20)),
        ('<mask label="cat" rle="0, 240" left="5" top="4" width="20" height="12"/>', (5, 4, 25, 16)),
        ('<cuboid label="cat" xtl1="5" ytl1="4" xbl1="5" ybl1="16" xtr1="25" ytr1="4" xbr1="24" ybr1="15"/>',
         (5, 4, 25, 16)),
    ],
)  # fmt: skip
def test_shapes_of_cvat(tmp_path, shape, box):
    root = tree(tmp_path / "set", {"annotations.xml": cvat(cvat_image(0, "a.jpg", shape)), "a.jpg": (20, 40)})
    assert objects(read(root)) == {"a.jpg": [("cat", *box)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (cvat(cvat_image(0, "a.jpg", BOX.replace("5.00", "?", 1))), "image 0, box 0 has xtl '\\?', not a number"),
        (cvat(cvat_image(0, "a.jpg", OTHER.replace(",", ";"))), "image 0, polygon 0 has points .*, not 2 numbers"),
        (cvat(cvat_image(0, "a.jpg", BOX.replace("cat", ""))), "image 0, box 0 has label '', not a class name"),
        (cvat(), "lists no images"),
        (cvat('<track id="0" label="cat"></track>'), "has tracks of a video"),
        (cvat()[:-5], "is not valid XML"),
        (cvat(cvat_image(0, "../secret.jpg", BOX)), "has the image '../secret.jpg', which is not in .*refused"),
    ],
)
def test_damaged_files_of_cvat(tmp_path, content, message):
    image(tmp_path / "secret.jpg")
    root = tree(tmp_path / "set", {"annotations.xml": content, "a.jpg": (20, 40)})
    with pytest.raises(BadInput, match=message):
        read(root)


@pytest.mark.parametrize(
    ("name", "content"),
    [("mine.json", dumped(PROJECT)), ("mine.json", dumped(TASKS)),
     ("mine.xml", cvat(cvat_image(0, "a.jpg", BOX, OTHER), cvat_image(1, "b.jpg")))],
    ids=["via", "label studio", "cvat"],
)  # fmt: skip
def test_a_split_by_its_path(tmp_path, name, content):
    root = tree(tmp_path / "set", {name: content, "photos/a.jpg": (20, 40), "photos/b.jpg": (20, 40),
                                   "photos/c.jpg": (20, 40)})  # fmt: skip
    columns = read(tmp_path, f"{root}/{name}:{root}/photos", may_be_path=True)
    assert objects(columns) == BOTH
    assert columns.left_out == {f"{name} does not name them": ["c.jpg"]}
