"""Pascal VOC as its own data and as labelling tools write it: layouts, coordinates, difficult objects, and damage."""

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from data.options import BoxOptions
from detection.truth import coco_document
from tests.data.formats.sets import format_of, image, objects, read, text, tree


def xml(*found, filename="a.jpg", size=(20, 40), source="<database>Unknown</database>", head=""):
    """An annotation file. `found`: class, x1, y1, x2, y2 and, if wanted, further elements of the object."""
    records = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>{''.join(more)}"
        f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, *more in found
    )
    shape = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    return (
        f"{head}<annotation><folder>x</folder><filename>{filename}</filename><source>{source}</source>{shape}"
        f"<segmented>0</segmented>{records}</annotation>"
    )


VOC2007 = "<database>The VOC2007 Database</database><annotation>PASCAL VOC2007</annotation><image>flickr</image>"
CAT = ("cat", 5, 4, 25, 16)


@pytest.fixture
def root(tmp_path):
    """The devkit's folders, without VOC's own name in the files."""
    return tree(tmp_path / "VOC", {
        "JPEGImages/a.jpg": (20, 40), "JPEGImages/b.jpg": (20, 40), "JPEGImages/c.JPG": (20, 40),
        "Annotations/a.xml": xml(CAT, ("dog", "1.5", " 2 ", "30", "18", "<difficult>1</difficult>")),
        "Annotations/b.xml": xml(),
        "Annotations/c.xml": xml(("bird", 1, 1, 9, 9)),
        "ImageSets/Main/train.txt": "a\nb\n", "ImageSets/Main/val.txt": "c\n",
        "ImageSets/Main/cat_train.txt": "a  1\nb -1\n", "ImageSets/Segmentation/train.txt": "b\n",
    })  # fmt: skip


def test_lists_of_images(root):
    columns = read(root)
    assert format_of(root) == "voc"
    assert objects(columns) == {"a.jpg": [CAT, ("dog", 1.5, 2, 30, 18)], "b.jpg": []}
    assert columns.classes == ("bird", "cat", "dog")  # those of all splits
    assert columns.category_ids == (1, 2, 3)
    assert columns.difficult.tolist() == [False, True]
    assert columns.sizes.tolist() == [[20, 40], [20, 40]]
    assert objects(read(root, "val")) == {"c.JPG": [("bird", 1, 1, 9, 9)]}
    with pytest.raises(BadInput, match="has no split 'test'; it has train, val"):
        read(root, "test")


def test_difficult_objects_are_targets_that_scoring_ignores(root):
    data = BoxDataset.open(root, "train")
    assert (data.report.boxes, data.report.difficult) == (2, 1)
    truth = coco_document(data.columns, data.image_ids, list(data.category_ids))
    assert [a["area"] > 1e10 for a in truth["annotations"]] == [False, True]


def test_voc_counts_pixels_from_one(root):
    """(1, 1, 40, 20) is the whole image of 20 x 40 pixels."""
    text(root / "Annotations/a.xml", xml(("cat", 1, 1, 40, 20), source=VOC2007))
    assert objects(read(root))["a.jpg"] == [("cat", 0, 0, 40, 20)]
    text(root / "Annotations/b.xml", xml(CAT))  # of another tool
    assert objects(read(root)) == {"a.jpg": [("cat", 0, 0, 40, 20)], "b.jpg": [CAT]}
    text(root / "Annotations/b.xml", xml(("cat", 0, 3, 9, 9), source=VOC2007))  # a tool that copied VOC's header
    assert objects(read(root)) == {"a.jpg": [("cat", 1, 1, 40, 20)], "b.jpg": [("cat", 0, 3, 9, 9)]}


def test_parts_of_objects_are_no_objects(root):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    text(root / "Annotations/a.xml", xml((*CAT, part)))
    assert objects(read(root))["a.jpg"] == [CAT]
    assert read(root).classes == ("bird", "cat")


@pytest.mark.parametrize(
    "files",
    [
        {"train/a.jpg": (20, 40), "train/a.xml": xml(CAT), "valid/b.jpg": (20, 40), "valid/b.xml": xml(CAT),
         "README.roboflow.txt": "x"},  # Roboflow
        {"images/train/a.jpg": (20, 40), "annotations/train/a.xml": xml(CAT), "images/val/b.jpg": (20, 40),
         "annotations/val/b.xml": xml(CAT)},
        {"train/JPEGImages/a.jpg": (20, 40), "train/Annotations/a.xml": xml(CAT),
         "Validation/images/b.jpg": (20, 40), "Validation/Annotations/b.XML": xml(CAT)},
    ],
    ids=["beside", "two trees", "trees in splits"],
)  # fmt: skip
def test_split_folders(tmp_path, files):
    root = tree(tmp_path / "set", files)
    assert format_of(root) == "voc"
    assert objects(read(root)) == {"a.jpg": [CAT]}
    assert objects(read(root, "val")) == {"b.jpg": [CAT]}


@pytest.mark.parametrize(
    "files",
    [
        {"a.JPEG": (20, 40), "a.xml": xml(CAT)},  # labelImg
        {"JPEGImages/a.JPEG": (20, 40), "Annotations/a.xml": xml(CAT), "SegmentationClass/a.png": (20, 40)},
        {"pictures/a.JPEG": (20, 40), "xmls/a.xml": xml(CAT)},
        {"JPEGImages/a.JPEG": (20, 40), "Annotations/a.xml": xml(CAT), "ImageSets/Main/default.txt": "a\n",
         "ImageSets/Main/cat_default.txt": "a 1\n",
         "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:1,1,1::\ncat:2,2,2::\n"},  # CVAT
    ],
    ids=["flat", "devkit without lists", "other names", "cvat"],
)  # fmt: skip
def test_a_set_without_splits_is_the_training_split(tmp_path, files):
    root = tree(tmp_path / "set", files)
    columns = read(root)
    assert objects(columns) == {"a.JPEG": [CAT]}
    assert columns.classes == (("dog", "cat") if "labelmap.txt" in files else ("cat",))


def test_the_stem_decides_not_the_file_name_inside(tmp_path):
    root = tree(tmp_path / "set", {"b.png": (20, 40), "b.xml": xml(CAT, filename="old name.jpg")})
    assert objects(read(root)) == {"b.png": [CAT]}


def test_images_without_xml_are_counted(tmp_path):
    root = tree(tmp_path / "set", {"a.jpg": (20, 40), "a.xml": xml(CAT), "b.jpg": (20, 40), "c.mov": b"x"})
    columns = read(root)
    assert columns.names == ["a.jpg"]
    assert columns.left_out == {"their suffix is not that of an image": ["c.mov"], "they have no label file": ["b.jpg"]}


def test_files_that_are_missing(root):
    (root / "JPEGImages/b.jpg").unlink()
    with pytest.raises(BadInput, match=r"1 of 2 images of .*train\.txt are not in .*JPEGImages"):
        BoxDataset.open(root, "train")
    (root / "Annotations/b.xml").unlink()
    with pytest.raises(BadInput, match=r"1 of 2 images in .*train\.txt have no XML file in .*Annotations: b"):
        read(root)


@pytest.mark.case("R16")
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "C:/a"])
def test_names_that_leave_the_folder_are_refused(root, name):
    text(root / "ImageSets/Main/train.txt", f"a\n{name}\n")
    with pytest.raises(BadInput, match=r"train\.txt: line 2 is .*refused"):
        read(root)


@pytest.mark.parametrize("size", [None, (0, 0), ("", "")])
def test_missing_sizes_are_those_of_the_files(root, size):
    text(root / "Annotations/a.xml", xml(CAT, size=size))
    assert read(root).sizes[0].tolist() == [0, 0]
    assert BoxDataset.open(root, "train").sizes.tolist() == [[20, 40], [20, 40]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"a\.xml is not valid XML: "),
        ("", r"a\.xml is not valid XML"),
        (xml(("cat", "x", 1, 2, 3)), r"a\.xml: object 1 has xmin 'x', not a number"),
        (xml(CAT, ("", 1, 1, 2, 3)), r"a\.xml: object 2 has name None, not a class name"),
        (xml(CAT).replace("bndbox", "box"), r"a\.xml: object 1 has no <bndbox>"),
        (xml(CAT).replace("xmax", "max"), r"object 1 has xmax None, not a number"),
        (xml(CAT, size=(-3, 4)), r"<size> has an impossible width or height"),
        (xml(CAT, size=(10**7, 10**7)), r"<size> has an impossible width or height"),
    ],
)
def test_damaged_files_are_named(root, content, message):
    text(root / "Annotations/a.xml", content)
    with pytest.raises(BadInput, match=message):
        read(root)


@pytest.mark.case("R17")
@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://localhost:1/x.dtd"> %a;]>',
    ],
)
def test_entities_are_refused(root, head):
    text(root / "Annotations/a.xml", xml(CAT, head=f'<?xml version="1.0"?>{head}'))
    with pytest.raises(BadInput, match=r"a\.xml is not valid XML: it defines the entity '[ab]': refused"):
        read(root)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030", "iso-8859-1"])
def test_encodings(root, encoding):
    name = "Straßenbahn" if encoding == "iso-8859-1" else "猫 & 狗"
    declared = "" if encoding in ("utf-8-sig", "utf-16") else f' encoding="{encoding}"'
    content = xml((name.replace("&", "&amp;"), 5, 4, 25, 16), head=f'<?xml version="1.0"{declared}?>\n')
    (root / "Annotations/a.xml").write_bytes(content.encode(encoding))
    assert objects(read(root))["a.jpg"] == [(name, 5, 4, 25, 16)]


def test_turned_boxes_and_polygons(root):
    """RoLabelImg turns by radians around the centre; LabelMe has polygons."""
    robndbox = "<cx>20</cx><cy>10</cy><w>10</w><h>4</h><angle>1.5707963267948966</angle>"
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((3, 4), (30, 5), (12, 18)))
    text(
        root / "Annotations/a.xml",
        f"<annotation><object><name>cat</name><robndbox>{robndbox}</robndbox></object><object><name>cat</name>"
        f"<deleted>0</deleted><polygon>{points}</polygon></object><object><name>cat</name><deleted>1</deleted></object>"
        "</annotation>",
    )
    assert objects(read(root))["a.jpg"] == [("cat", 18, 5, 22, 15), ("cat", 3, 4, 30, 18)]


def test_a_split_by_its_path(root):
    everything = {"a.jpg": [CAT, ("dog", 1.5, 2, 30, 18)], "b.jpg": [], "c.JPG": [("bird", 1, 1, 9, 9)]}
    place = f"{root}/Annotations:{root}/JPEGImages"
    assert objects(read(root / "nowhere", place, may_be_path=True)) == everything
    assert objects(read(root / "nowhere", f"{root}/Annotations", may_be_path=True)) == everything


def test_boxes_of_another_size_equal_the_same_boxes_as_fractions(tmp_path):
    """Images that were enlarged after they were labelled, as XML and as a YOLO conversion of it."""
    draw = np.random.default_rng(0)
    voc, yolo = tmp_path / "voc", tmp_path / "yolo"
    text(yolo / "classes.txt", "a\nb\n")
    for i in range(5):
        corners = np.sort(draw.integers(1, 200, (3, 2, 2)), axis=1).reshape(3, 4) + np.array([0, 0, 1, 1])
        found = [("ab"[draw.integers(2)], *box) for box in corners.tolist()]
        text(voc / f"{i}.xml", xml(*found, size=(200, 200)))
        lines = [f"{'ab'.index(c)} {(x1 + x2) / 400} {(y1 + y2) / 400} {(x2 - x1) / 200} {(y2 - y1) / 200}"
                 for c, x1, y1, x2, y2 in found]  # fmt: skip
        text(yolo / f"{i}.txt", "\n".join(lines))
        for root in (voc, yolo):
            image(root / f"{i}.png", 416, 416)
    with pytest.raises(BadInput, match=r"0\.png is 416 x 416 pixels, but its annotation says 200 x 200") as caught:
        BoxDataset.open(voc, "train")
    assert caught.value.settings == ("data.scale_boxes",)
    scaled = BoxDataset.open(voc, "train", options=BoxOptions(scale_boxes=True))
    documents = []
    for data in (scaled, BoxDataset.open(yolo, "train")):
        coco = COCO()
        coco.dataset = coco_document(data.columns, data.image_ids, [1, 2])
        coco.createIndex()
        documents.append(coco.loadAnns(coco.getAnnIds()))
    assert [(a["image_id"], a["category_id"]) for a in documents[0]] == [
        (a["image_id"], a["category_id"]) for a in documents[1]
    ]
    np.testing.assert_allclose([a["bbox"] for a in documents[0]], [a["bbox"] for a in documents[1]], rtol=0, atol=1e-3)
    assert Image.open(voc / "0.png").size == (416, 416)
