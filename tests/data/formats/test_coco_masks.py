"""COCO's polygons, run lengths and panoptic masks as class maps, against pycocotools and numbers by hand."""

import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from backbones.errors import BadInput, UserError
from data.batch import IGNORE
from data.formats import recognise
from data.formats.coco_shapes import Shapes, parse_shape
from data.mask_dataset import MaskDataset
from tests.data.mask_sets import first_error, photo, read_maps, save

HEIGHT, WIDTH = 30, 40
BOX = [5, 5, 25, 5, 25, 20, 5, 20]  # 20 x 15 px
SMALL = [10, 8, 16, 8, 16, 14, 10, 14]


def run_lengths(pixels, compressed=True):
    encoded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    if compressed:
        return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
    flat = np.concatenate([[0], pixels.T.ravel().astype(int), [2]])
    changes = np.flatnonzero(np.diff(flat[1:-1], prepend=0) != 0)
    return {"size": list(pixels.shape), "counts": np.diff([0, *changes, pixels.size]).tolist()}


def annotation(number, category, segmentation, image=7, **more):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation,
            "bbox": [0, 0, 1, 1], "iscrowd": 0, **more}  # fmt: skip


def document(*annotations, categories=((1, "cat"), (3, "dog")), images=(7,)):
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in images],
        "annotations": list(annotations),
        "categories": [{"id": i, "name": name} for i, name in categories],
    }


def write(root, content, split="train", name="instances"):
    for image in content["images"]:
        photo(root / split / image["file_name"], HEIGHT, WIDTH)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"annotations/{name}_{split}.json").write_text(json.dumps(content))
    return root


def box(x1, y1, x2, y2):
    """The pixels of a box, as pycocotools draws the polygon of its corners."""
    encoded = coco_mask.frPyObjects([[x1, y1, x2, y1, x2, y2, x1, y2]], HEIGHT, WIDTH)
    return coco_mask.decode(encoded[0]).astype(bool)


def test_polygons_and_run_lengths(tmp_path):
    """The smaller object is drawn last, in any order of the file; further pixels are background."""
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[25:28] = True
    shapes = [annotation(1, 3, [SMALL]), annotation(2, 1, [BOX]), annotation(3, 3, run_lengths(crowd), iscrowd=1)]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[box(5, 5, 25, 20)] = 1
    expected[box(10, 8, 16, 14)] = 2
    expected[crowd] = 2
    for number, order in enumerate(([0, 1, 2], [2, 1, 0])):
        root = write(tmp_path / str(number), document(*(shapes[i] for i in order)))
        data, maps = read_maps(root)
        assert data.classes == ("background", "cat", "dog")
        assert data.image_ids.tolist() == [7]
        np.testing.assert_array_equal(maps[0], expected)
    assert recognise(root, "masks")[0].name == "coco-masks"
    assert recognise(root)[0].name == "coco"
    assert data[0].mask is not None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data.columns.class_map))(0), expected)


def test_equal_areas_are_drawn_in_the_order_of_the_file(tmp_path):
    root = write(tmp_path, document(annotation(1, 1, [BOX]), annotation(2, 3, [BOX])))
    assert read_maps(root)[1][0][10, 10] == 2


def test_the_forms_of_a_segmentation(tmp_path):
    """Several parts, one list of numbers, points, run lengths with and without compression."""
    pixels = box(5, 5, 25, 20)
    forms = [[BOX], BOX, [[5, 5], [25, 5], [25, 20], [5, 20]], run_lengths(pixels), run_lengths(pixels, False),
             [[5, 5, 15, 5, 15, 20, 5, 20], [15, 5, 25, 5, 25, 20, 15, 20]]]  # fmt: skip
    for number, form in enumerate(forms):
        root = write(tmp_path / str(number), document(annotation(1, 1, form)))
        np.testing.assert_array_equal(read_maps(root)[1][0], pixels)


def test_run_lengths_equal_pycocotools():
    random = np.random.default_rng(0)
    for trial in range(200):
        height, width = (int(side) for side in random.integers(1, 50, 2))
        pixels = random.random((height, width)) < random.random()
        if trial % 2:
            pixels = np.kron(pixels, np.ones((6, 9), bool))
        for compressed in (True, False):
            parts = parse_shape(run_lengths(pixels, compressed), *pixels.shape)
            np.testing.assert_array_equal(Shapes.of([parts]).draw(0, *pixels.shape), pixels)


def test_an_own_background_and_categories_of_one_name(tmp_path):
    categories = ((2, "dog"), (5, "Background"), (9, "dog"))
    root = write(tmp_path, document(annotation(1, 2, [BOX]), annotation(2, 9, [SMALL]), categories=categories))
    data, maps = read_maps(root)
    assert data.classes == ("dog", "Background")
    np.testing.assert_array_equal(maps[0] == 0, box(5, 5, 25, 20))
    assert read_maps(root, ignore_index=5)[0].columns.ignored == {1}


def test_a_category_with_the_id_0(tmp_path):
    root = write(tmp_path, document(annotation(1, 0, [BOX]), categories=((0, "cat"), (4, "dog"))))
    data, maps = read_maps(root)
    assert data.classes == ("background", "cat", "dog")
    assert np.unique(maps).tolist() == [0, 1]
    _, maps = read_maps(root, ignore_index=5)
    assert np.unique(maps).tolist() == [1, IGNORE]


def test_roboflows_category_0_is_left_out(tmp_path):
    """It is the supercategory of the others, and has no annotation. Value 0 is then the background."""
    content = document(annotation(1, 1, [BOX]), categories=((0, "animals"), (1, "cat"), (2, "dog")))
    for category in content["categories"]:
        category["supercategory"] = "animals" if category["id"] else "none"
    root = write(tmp_path, content)
    data, maps = read_maps(root)
    assert data.classes == ("background", "cat", "dog")
    np.testing.assert_array_equal(maps[0] == 1, box(5, 5, 25, 20))
    assert read_maps(root, ignore_index=0)[0].columns.ignored == {0}


def test_the_background_can_be_ignored(tmp_path):
    root = write(tmp_path, document(annotation(1, 1, [BOX])))
    data, maps = read_maps(root, ignore_index=0)
    assert data.columns.ignored == {0}
    np.testing.assert_array_equal(maps[0] == 1, box(5, 5, 25, 20))
    assert (maps[0][maps[0] != 1] == IGNORE).all()


def test_images_without_objects_are_background(tmp_path):
    root = write(tmp_path, document(annotation(1, 1, [BOX], image=9), images=(9, 7)))
    data, maps = read_maps(root)
    assert data.image_ids.tolist() == [9, 7]
    assert not maps[1].any()
    assert maps[0].any()


def test_annotations_without_a_usable_segmentation_are_counted(tmp_path, caplog):
    bad = [[[1, 2, 3, 4]], [], [[0, 0, 1, 0, 2, 0]], [[float("nan"), 0, 5, 0, 5, 5]], [[0, 0, 1e9, 0, 5, 5]], None]
    annotations = [annotation(i, 1, value) for i, value in enumerate(bad, 10)]
    root = write(tmp_path, document(annotation(1, 3, [BOX]), *annotations))
    write(tmp_path, document(annotation(1, 3, [BOX])), "val")
    assert first_error(root) == ""
    assert "6 of 7 annotations have no usable segmentation, such as annotations[1]" in caplog.text
    np.testing.assert_array_equal(read_maps(root)[1][0] == 2, box(5, 5, 25, 20))


def test_sizes_of_the_files_replace_missing_ones(tmp_path):
    content = document(annotation(1, 1, [BOX]))
    del content["images"][0]["height"]
    assert read_maps(write(tmp_path, content))[1][0].shape == (HEIGHT, WIDTH)


def test_sizes_that_contradict_the_file(tmp_path):
    content = document(annotation(1, 1, [BOX]))
    content["images"][0]["height"] = 31
    with pytest.raises(BadInput, match=r"7\.jpg is 40 x 30 pixels, but its mask .*json is 40 x 31"):
        MaskDataset.open(write(tmp_path, content), "train")[0]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([["x"] * 6], "a polygon that is not a list of numbers"),
        ([[0, 0, 5, 0, 5]], "not a list of pairs"),
        ([[[0, 0], [5, 0], [5, 5]]], "not a list of pairs"),
        ([5, "x"], "not a list of numbers"),
        ("text", "neither polygons nor run lengths"),
        ({"size": [40, 30], "counts": [1200]}, r"run lengths of size \[40, 30\]"),
        ({"size": [30, 40], "counts": [1200, 1]}, "do not add up"),
        ({"size": [30, 40], "counts": [-1, 1201]}, "not run lengths"),
        ({"size": [30, 40], "counts": [600.5, 599.5]}, "not run lengths"),
        ({"size": [30, 40], "counts": ""}, "not run lengths"),
        ({"size": [30, 40], "counts": "\u00e9"}, "not run lengths"),
        ({"size": [30, 40], "counts": "ooooooooooooo0"}, "not run lengths"),
        ({"size": [30, 40], "counts": "o"}, "not run lengths"),
        ({"size": [30, 40], "counts": "5"}, "do not add up"),
    ],
)
def test_malformed_segmentations(segmentation, message, tmp_path):
    root = write(tmp_path, document(annotation(1, 1, [BOX]), annotation(2, 1, segmentation)))
    with pytest.raises(BadInput, match=rf"instances_train\.json: annotations\[1\] .*{message}"):
        read_maps(root)


def test_files_that_are_no_masks(tmp_path):
    content = document(annotation(1, 1, []), annotation(2, 1, None))
    with pytest.raises(BadInput, match="2 annotations, and none has a segmentation: they are boxes"):
        read_maps(write(tmp_path, content))
    root = write(tmp_path / "b", document(annotation(1, 1, [BOX])))
    with pytest.raises(UserError, match="`mask_values` is for mask files"):
        read_maps(root, mask_values=["0=a"])
    many = [(i, f"c{i}") for i in range(1, 256)]
    with pytest.raises(BadInput, match="names 256 classes, more than 255"):
        read_maps(write(tmp_path / "c", document(annotation(1, 1, [BOX]), categories=many)))
    content = document(annotation(1, 1, [BOX]))
    content["images"][0]["width"] = 10**9
    with pytest.raises(BadInput, match="impossible width or height"):
        read_maps(write(tmp_path / "d", content))


# --- panoptic

IDS = (5, 300, 70_000)  # more than one byte each


def panoptic(root, split="train", change=lambda content: None, image=lambda ids: ids):
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[:, 10:20], ids[:, 20:30], ids[:, 30:] = IDS
    pixels = image(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8))
    content = document(categories=((1, "person"), (87, "sky"), (200, "rug")), images=(4, 7))
    segments = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in zip(IDS, (200, 1, 87), strict=True)]
    content["annotations"] = [
        {"image_id": 7, "file_name": "7.png", "segments_info": segments},
        {"image_id": 4, "file_name": "4.png", "segments_info": segments},
    ]
    change(content)
    write(root, content, split, "panoptic")
    for name in ("4", "7"):
        save(root / f"annotations/panoptic_{split}/{name}.png", pixels)
    return root


def test_panoptic_masks(tmp_path):
    root = panoptic(tmp_path)
    write(root, document(annotation(1, 1, [BOX])))
    assert recognise(root, "masks")[0].name == "coco-panoptic"
    data, maps = read_maps(root)
    assert data.classes == ("person", "sky", "rug")
    assert data.image_ids.tolist() == [4, 7]
    for found in maps:
        assert found[:, ::10].tolist() == [[IGNORE, 2, 0, 1]] * HEIGHT
        assert found.dtype == np.uint8
    assert read_maps(root, ignore_index=87)[0].columns.ignored == {1}
    assert (
        data.fingerprint != MaskDataset.open(panoptic(tmp_path / "b", image=lambda ids: ids * 0), "train").fingerprint
    )
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data.columns.class_map))(0), maps[0])


def test_panoptic_masks_with_one_channel(tmp_path):
    root = panoptic(tmp_path, image=lambda ids: np.where(ids[..., 0] == 5, 5, 0).astype(np.uint8))
    assert np.unique(read_maps(root)[1]).tolist() == [2, IGNORE]
    file = root / "annotations/panoptic_train/4.png"
    wide = np.zeros((HEIGHT, WIDTH), np.uint16)
    wide[0] = 300
    assert np.unique(read_maps(save(file, wide).parents[2])[1][0]).tolist() == [0, IGNORE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0]["segments_info"].pop(), "pixels of segment 70000, which its segments_info"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=9), "segment of category 9"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=0), r"annotations\[0\] has segments_info"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=300), r"has segments_info"),
        (lambda c: c["annotations"][0].update(segments_info=5), r"has segments_info"),
        (lambda c: c["annotations"][0].update(segments_info=[{"id": "x", "category_id": 1}]), r"has segments_info"),
        (lambda c: c["annotations"][0].pop("file_name"), "has no 'file_name'"),
        (lambda c: c["annotations"][0].update(file_name="../secret.png"), "refused"),
        (lambda c: c["annotations"][0].update(image_id=4), "several annotations for one image"),
        (lambda c: c["annotations"].clear(), "no annotations"),
        (lambda c: c["categories"][0].update(id=0), "an id outside of 1 to 65535"),
    ],
)
def test_damaged_panoptic_files(change, message, tmp_path):
    def separate(content):
        content["annotations"] = json.loads(json.dumps(content["annotations"]))
        change(content)

    root = panoptic(tmp_path, change=separate)
    with pytest.raises(BadInput, match=message):
        read_maps(root)


def test_lossy_and_missing_panoptic_masks(tmp_path):
    root = panoptic(tmp_path)
    (root / "annotations/panoptic_train/4.png").unlink()
    with pytest.raises(BadInput, match=r"1 of 2 images .*have no mask: .*4\.png"):
        read_maps(root)
    root = panoptic(tmp_path / "b", change=lambda c: c["annotations"][0].update(file_name="7.jpg"))
    save(root / "annotations/panoptic_train/7.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(BadInput, match="lossy compression changes the ids"):
        read_maps(root)


def test_polygons_in_fractions_of_the_image(tmp_path):
    root = write(tmp_path / "set", document(annotation(1, 1, [[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]])))
    with pytest.raises(BadInput, match="no polygon extends beyond 2 px"):
        MaskDataset.open(root, "train")
