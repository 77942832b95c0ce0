"""Segmentation layouts as tools write them: each is read by its root alone, with the right class maps."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput, UserError
from data.batch import IGNORE
from data.formats import recognise
from data.formats.cityscapes import CLASS_OF_LABEL_ID
from data.formats.voc_masks import CLASSES as VOC
from data.mask_dataset import MaskDataset
from data.mask_diagnosis import voc_color
from data.open import read_train_val
from data.options import MaskOptions
from tests.data.mask_sets import class_map, first_error, photo, read_maps, save, write_masks

NAMES = ("background", "red", "blue")


def format_of(root):
    return recognise(Path(root), "masks")[0].name


def check(root, split="train", count=4, **options):
    """The class maps of a split are those that were written, in any order of the images."""
    data, maps = read_maps(root, split, **options)
    assert data.classes == NAMES
    assert len(data) == count
    numbers = [int("".join(c for c in data.path(i).stem if c.isdigit())) for i in range(count)]
    for number, found in zip(numbers, maps, strict=True):
        np.testing.assert_array_equal(found, class_map(number))
    assert data[0].image.shape == (16, 24, 3)
    return data


# --- folders and names


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [
        ("images/{split}/{name}.jpg", "masks/{split}/{name}.png"),
        ("images/{split}/{name}.jpg", "labels/{split}/{name}.PNG"),
        ("images/{split}/{name}.jpg", "annotations/{split}/{name}_mask.png"),
        ("images/{split}/{name}.jpg", "gt/{split}/{name}_gt.bmp"),
        ("images/{split}/{name}.JPG", "labels/{split}/{name}_L.tif"),
        ("Images/{split}/{name}.png", "SegmentationClass/{split}/{name}.gif"),
        ("img/{split}/{name}.tif", "mask/{split}/{name}.tif"),
        ("images/{split}/{name}.jpg", "masks/{split}/{name}.jpg.png"),
        ("images/{split}/{name}.jpg", "masks/{split}/{name}-mask.png"),
        ("images/{split}/{name}.jpg", "masks/{split}/{name}_tumour.png"),
        ("images/{split}/{name}_sat.jpg", "masks/{split}/{name}_mask.png"),
        ("images/{split}/img_{name}.jpg", "masks/{split}/mask_{name}.png"),
        ("images/{split}/{name}.JPG", "masks/{split}/{name}_MASK.png"),
        ("images/{split}/a/{name}.jpg", "masks/{split}/a/{name}.png"),
        ("{split}/images/{name}.jpg", "{split}/masks/{name}.png"),
        ("{split}/image/{name}.jpg", "{split}/label/{name}_label.png"),
        ("{split}/{name}.png", "{split}_labels/{name}_L.png"),
        ("{split}/{name}.png", "{split}annot/{name}.png"),
        ("{split}/{name}.jpg", "{split}/{name}_mask.png"),
        ("{split}/{name}.png", "{split}/{name}_mask.png"),
        ("{split}/{name}_sat.jpg", "{split}/{name}_mask.png"),
    ],
)
def test_names_of_folders_and_files(image_name, mask_name, tmp_path):
    root = write_masks(tmp_path, image_name=image_name, mask_name=mask_name)
    assert format_of(root) == "masks"
    data = check(root)
    assert data.columns.left_out == {}
    check(root, "val", 2)


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [
        ("images/{name}.jpg", "masks/{name}.png"),
        ("{name}.jpg", "{name}_mask.png"),
        ("imgs/{name}.jpg", "gt/{name}.png"),
    ],
)
def test_without_split_folders(image_name, mask_name, tmp_path):
    """All images are one split, and the message about the missing one names the ways out."""
    root = write_masks(tmp_path, image_name=image_name, mask_name=mask_name, count=(5, 0))
    check(root, "train", 5)
    with pytest.raises(BadInput, match=r"no validation split.*`holdout=0.2`"):
        read_train_val("masks", root, MaskOptions(), 0.0)
    train, val, holdout = read_train_val("masks", root, MaskOptions(val="auto"), 0.0)
    assert (len(train), val, holdout) == (5, None, 0.2)


def test_masks_and_images_named_by_path(tmp_path):
    root = write_masks(tmp_path, image_name="pictures/{split}/{name}.jpg", mask_name="truth/{split}/{name}.png")
    options = MaskOptions(train="truth/train:pictures/train", val=f"{root}/truth/val:{root}/pictures/val")
    train, val, _ = read_train_val("masks", root, options, 0.0)
    assert train.classes == NAMES
    assert val is not None
    assert (len(train), len(val)) == (4, 2)
    np.testing.assert_array_equal(train.class_map(1), class_map(1))
    other = write_masks(
        tmp_path / "other", image_name="{split}/images/{name}.jpg", mask_name="{split}/masks/{name}.png"
    )
    train, val, _ = read_train_val("masks", root, MaskOptions(train=str(other / "train"), val=str(other / "val")), 0.0)
    assert val is not None
    assert (len(train), len(val), train.classes) == (4, 2, NAMES)


def test_images_of_mixed_suffixes_are_all_read(tmp_path):
    root = write_masks(tmp_path)
    for i, suffix in enumerate((".jpg", ".tif", ".webp")):
        photo(root / f"images/train/more{10 + i}{suffix}")
        save(root / f"annotations/train/more{10 + i}.png", class_map(10 + i))
    (root / "images/train/notes.xyz").write_text("no image")
    (root / "images/train/labels.txt").write_text("a list, which belongs to no image")
    data = check(root, count=7)
    assert data.columns.left_out == {"they are not images": ["notes.xyz"]}


def test_what_is_left_out_is_named(tmp_path):
    root = write_masks(tmp_path, mask_name="masks/{split}/{name}_mask.png")
    save(root / "masks/train/train0_mask_1.png", class_map(0))
    save(root / "masks/train/train0_color.png", class_map(0))
    save(root / "masks/train/gone_mask.png", class_map(0))
    data = check(root)
    assert data.columns.left_out == {
        "they have no image": ["gone_mask.png"],
        "their image has another mask": ["train0_color.png", "train0_mask_1.png"],
    }
    assert data.report.masks_without_image == 1


def test_masks_that_cannot_be_chosen(tmp_path):
    root = write_masks(tmp_path, mask_name="masks/{split}/{name}_organ.png")
    save(root / "masks/train/train0_tumour.png", class_map(0))
    with pytest.raises(BadInput, match=r"several masks for the image train0.png: train0_organ.png, train0_tumour.png"):
        read_maps(root)
    root = write_masks(tmp_path / "second")
    save(root / "annotations/train/train0.tif", class_map(0))
    with pytest.raises(BadInput, match="several masks for the image"):
        read_maps(root)


def test_folders_without_masks(tmp_path):
    root = write_masks(tmp_path)
    for file in (root / "annotations/val").iterdir():
        file.rename(file.with_suffix(".npy"))
    with pytest.raises(BadInput, match=r"annotations/val has no masks: expected .*found \.npy"):
        read_maps(root, "val")


def test_label_files_of_other_tasks_are_no_masks(tmp_path):
    """YOLO's folders, images/train and labels/train, have text files."""
    root = write_masks(tmp_path, names=None, mask_name="labels/{split}/{name}.png")
    for file in [*root.glob("labels/*/*.png")]:
        file.with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1\n")
        file.unlink()
    with pytest.raises(BadInput, match="object detection"):
        read_maps(root)


# --- label maps beside the masks


def test_roboflows_export(tmp_path):
    root = write_masks(
        tmp_path, names=None, image_name="{split}/{name}_jpg.rf.5a.jpg", mask_name="{split}/{name}_jpg.rf.5a_mask.png"
    )
    (root / "val").rename(root / "valid")
    for split in ("train", "valid"):
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, red\n2, blue\n")
    data, maps = read_maps(root)
    assert data.classes == NAMES
    np.testing.assert_array_equal(maps, [class_map(i) for i in range(4)])
    assert len(read_maps(root, "val")[0]) == 2


def test_camvids_colours(tmp_path):
    colors = np.array([(64, 128, 64), (192, 0, 128), (0, 0, 0)], np.uint8)
    root = write_masks(tmp_path, lambda mask: colors[mask], None, image_name="{split}/{name}.png",
                       mask_name="{split}_labels/{name}_L.png")  # fmt: skip
    (root / "class_dict.csv").write_text("name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n")
    data, maps = read_maps(root)
    assert data.classes == ("Animal", "Archway")
    np.testing.assert_array_equal(maps, np.array([0, 1, IGNORE])[[class_map(i) for i in range(4)]])
    assert data.columns.notes == (
        f"{root / 'class_dict.csv'}: colour 0 0 0 ('Void') means no class: these pixels are ignored",
    )


def test_a_label_map_above_the_folder_of_a_split(tmp_path):
    root = write_masks(
        tmp_path, image_name="{split}/images/{name}.jpg", mask_name="{split}/masks/{name}.png", names=None
    )
    (root / "classes.json").write_text('{"0": "background", "1": "red", "2": "blue"}')
    train, _, _ = read_train_val("masks", root, MaskOptions(train=str(root / "train"), val="val"), 0.0)
    assert train.classes == NAMES


# --- configurations


def config(root, text, name="config.yaml"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return root


TRAIN_VAL = """
train: {images: ../images/train, masks: masks/train}
val:
  images: ../images/val
  masks: masks/val
"""
LIGHTLY = TRAIN_VAL + "classes:\n  0: unlabeled\n  1: red\n  2: blue\n"


def test_a_configuration_with_folders_outside_of_its_own(tmp_path, caplog):
    write_masks(tmp_path, mask_name="semantic/masks/{split}/{name}.png", names=None)
    (tmp_path / "semantic/masks/train/train3.png").unlink()
    root = config(tmp_path / "semantic", LIGHTLY)
    assert format_of(root) == format_of(root / "config.yaml") == "mask-config"
    data, maps = read_maps(root)
    assert data.classes == ("red", "blue")
    np.testing.assert_array_equal(maps, np.array([IGNORE, 0, 1])[[class_map(i) for i in range(3)]])
    assert data.columns.left_out == {"they have no mask": ["train3.png"]}
    assert data.folder == tmp_path / "images/train"
    by_file = MaskDataset.open(root / "config.yaml", "val")
    assert len(by_file) == 2
    assert first_error(root) == ""
    assert caplog.text.count("value 0 ('unlabeled') means no class") == 1


def test_ignored_and_merged_classes_of_a_configuration(tmp_path):
    write_masks(tmp_path, mask_name="semantic/masks/{split}/{name}.png", names=None)
    root = config(tmp_path / "semantic", TRAIN_VAL + "classes: {0: background, 1: red, 2: blue}\nignore_classes: [2]\n")
    data, maps = read_maps(root)
    assert data.classes == ("background", "red")
    np.testing.assert_array_equal(maps[0], np.array([0, 1, IGNORE])[class_map(0)])
    root = config(tmp_path / "semantic", TRAIN_VAL + "classes: {0: {name: a, values: [0, 2]}, 1: b}\n")
    np.testing.assert_array_equal(read_maps(root)[1][0], np.array([0, 1, 0])[class_map(0)])


def test_a_configuration_of_ultralytics(tmp_path):
    def stored(mask):
        mask[:1] = 255
        return mask

    write_masks(tmp_path / "data", stored, None, mask_name="masks/{split}/{name}.png")
    names = (
        "path: data\ntrain: images/train\nval: images/val\nmasks_dir: masks\nnames: {0: background, 1: red, 2: blue}\n"
    )
    root = config(tmp_path, names, "data.yaml")
    data, maps = read_maps(root)
    assert data.classes == NAMES
    assert (maps[0][0] == IGNORE).all()
    np.testing.assert_array_equal(maps[0][1:], class_map(0)[1:])


@pytest.mark.case("R16")
@pytest.mark.parametrize("path", ["../../images/train", "/etc"])
def test_configurations_that_lead_too_far(path, tmp_path):
    root = tmp_path / "a/b/semantic"
    write_masks(root / "inner", names=None)
    (tmp_path / "a/images/train").mkdir(parents=True)
    config(root, LIGHTLY.replace("../images/train", path).replace("masks/", "inner/annotations/"))
    with pytest.raises(BadInput, match=r"train.images is .*leads out of .*refused"):
        read_maps(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRAIN_VAL, "has no `classes`"),
        (LIGHTLY.replace("../images/train", "../gone"), r"train.images is '../gone', but there is no folder"),
        (LIGHTLY + "ignore_classes: [9]\n", "ignore_classes has '9'"),
        (LIGHTLY + "ignore_classes: [0, 1, 2]\n", "leaves no class"),
        (LIGHTLY.replace("0: unlabeled", "x: [1]"), "has the"),
    ],
)
def test_damaged_configurations(text, message, tmp_path):
    write_masks(tmp_path, mask_name="semantic/masks/{split}/{name}.png", names=None)
    with pytest.raises(BadInput, match=message):
        read_maps(config(tmp_path / "semantic", text))


# --- Pascal VOC and CVAT


def voc_image(mask):
    image = Image.fromarray(mask)
    codes = [voc_color(i) for i in range(256)]
    image.putpalette([channel for code in codes for channel in (code >> 16, code >> 8 & 255, code & 255)])
    return image


def write_voc(root, stored=voc_image, lists=("train", "val"), masks="SegmentationClass"):
    write_masks(root, stored, None, image_name="JPEGImages/{name}.jpg", mask_name=masks + "/{name}.png")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name in lists:
        count = 2 if name == "val" else 4
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("".join(f"{name}{i}\n" for i in range(count)))
    return root


def test_pascal_voc(tmp_path):
    def stored(mask):
        mask[:, :2] = 255
        mask[mask == 2] = 20
        return voc_image(mask)

    root = write_voc(tmp_path, stored)
    assert format_of(root) == "voc-masks"
    data, maps = read_maps(root)
    assert data.classes == VOC
    assert len(data.classes) == 21
    assert data.columns.notes == ()
    assert (maps[0][:, :2] == IGNORE).all()
    assert np.unique(maps).tolist() == [0, 1, 20, IGNORE]
    assert len(read_maps(root, "val")[0]) == 2


def test_voc_colours_without_a_palette(tmp_path):
    root = write_voc(tmp_path, lambda mask: voc_image(mask).convert("RGB"))
    np.testing.assert_array_equal(read_maps(root)[1], [class_map(i) for i in range(4)])


@pytest.mark.parametrize("colored", [True, False])
def test_cvats_export(colored, tmp_path):
    colors = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)
    root = write_voc(tmp_path, (lambda mask: colors[mask]) if colored else (lambda mask: mask), lists=())
    (root / "ImageSets/Segmentation/default.txt").write_text("".join(f"train{i}\n" for i in range(4)))
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:250,50,83::\nblue:51,221,255::\n"
    )
    check(root)
    with pytest.raises(BadInput, match=r"no validation split.*`holdout=0.2`"):
        read_train_val("masks", root, MaskOptions(), 0.0)
    (root / "JPEGImages").rename(root / "photos")
    with pytest.raises(BadInput, match=r"no folder JPEGImages: export the images, too, or name their folder"):
        read_maps(root)
    train, _, _ = read_train_val("masks", root, MaskOptions(train=f"{root}:{root / 'photos'}"), 0.2)
    assert len(train) == 4
    assert train.classes == NAMES


def test_labelmes_export(tmp_path):
    root = write_voc(tmp_path, lists=(), masks="SegmentationClassPNG")
    (root / "SegmentationClass").mkdir()
    (root / "SegmentationClass/train0.npy").write_bytes(b"an array")
    (root / "class_names.txt").write_text("background\nred\nblue\n")
    data, maps = read_maps(root)
    assert data.classes == NAMES
    assert len(maps) == 6  # without lists, all images are one split


def test_damaged_voc(tmp_path):
    root = write_voc(tmp_path)
    (root / "ImageSets/Segmentation/train.txt").write_text("train0\ngone\n")
    with pytest.raises(BadInput, match=r"1 of 2 images of .*train\.txt are not in .*JPEGImages: gone"):
        read_maps(root)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n")
    with pytest.raises(BadInput, match="lists no images"):
        read_maps(root)
    (root / "SegmentationClass/val1.png").unlink()
    with pytest.raises(BadInput, match=r"1 of 2 images .* have no mask: .*val1\.png"):
        read_maps(root, "val")
    photo(root / "JPEGImages/val0.png")
    with pytest.raises(BadInput, match="several images called val0"):
        read_maps(root, "val")


# --- Cityscapes


def write_cityscapes(root, kind="labelIds", stored=lambda mask: np.array([7, 11, 26], np.uint8)[mask]):
    image = "leftImg8bit/{split}/bonn/{name}_000000_leftImg8bit.png"
    return write_masks(
        root, stored, None, image_name=image, mask_name="gtFine/{split}/bonn/{name}_000000_gtFine_" + kind + ".png"
    )


def test_cityscapes(tmp_path):
    def stored(mask):
        ids = np.array([7, 11, 26], np.uint8)[mask]
        ids[0] = [*range(24)]
        ids[1, :10] = [*range(24, 34)]
        return ids

    root = write_cityscapes(tmp_path, stored=stored)
    for file in [*root.glob("gtFine/*/*/*_labelIds.png")]:
        for other in ("color", "instanceIds"):
            save(file.with_name(file.name.replace("labelIds", other)), np.full((16, 24), 24001, np.uint16))
        file.with_name(file.name.replace("labelIds.png", "polygons.json")).write_text("{}")
    assert format_of(root) == "cityscapes"
    data, maps = read_maps(root)
    assert data.classes == tuple(CLASS_OF_LABEL_ID.values())
    assert len(data.classes) == 19
    # Train ids of label ids 0 to 33, from cityscapesScripts.
    train_ids = [255] * 7 + [
        0,
        1,
        255,
        255,
        2,
        3,
        4,
        255,
        255,
        255,
        5,
        255,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15,
        255,
        255,
        16,
        17,
        18,
    ]
    assert [*maps[0][0], *maps[0][1, :10]] == train_ids
    assert data.columns.notes == ()
    assert data.columns.left_out == {}


def test_cityscapes_train_ids(tmp_path):
    root = write_cityscapes(tmp_path, "labelIds")
    for file in [*root.glob("gtFine/*/*/*_labelIds.png")]:
        save(file.with_name(file.name.replace("labelIds", "labelTrainIds")), np.full((16, 24), 5, np.uint8))
    assert np.unique(read_maps(root)[1]).tolist() == [5]


def test_cityscapes_without_label_ids(tmp_path):
    root = write_cityscapes(tmp_path, "instanceIds", lambda mask: mask.astype(np.uint16) + 26000)
    with pytest.raises(BadInput, match=r"no files \*_gtFine_labelIds\.png.*instanceIds number objects"):
        read_maps(root)


# --- all layouts


@pytest.mark.case("R16")
def test_links_out_of_the_folders_are_refused(tmp_path):
    secret = save(tmp_path / "secret.png", class_map(0))
    roots = {
        "voc": (write_voc(tmp_path / "voc"), "SegmentationClass/train0.png"),
        "cityscapes": (write_cityscapes(tmp_path / "city"), "gtFine/train/bonn/train0_000000_gtFine_labelIds.png"),
        "flat": (write_masks(tmp_path / "flat", mask_name="masks/{split}/{name}.png"), "masks/train/train0.png"),
    }
    for root, name in roots.values():
        (root / name).unlink()
        os.symlink(secret, root / name)
        with pytest.raises(BadInput, match="leads out"):
            read_maps(root)
        assert len(MaskDataset.open(root, "train", options=MaskOptions(follow_links=True))) == 4


def test_unknown_layouts_and_formats(tmp_path):
    (tmp_path / "stuff").mkdir()
    with pytest.raises(BadInput, match=r"(?s)layout of .* is not recognised.*coco-masks.*voc-masks"):
        read_maps(tmp_path)
    with pytest.raises(UserError, match=r"unknown format 'voc'.*voc-masks"):
        read_maps(tmp_path, format="voc")
