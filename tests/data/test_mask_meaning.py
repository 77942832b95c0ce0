"""What mask values and colours mean: what is read, and what the message says if it cannot be known."""

import logging

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput, UserError
from data.batch import IGNORE
from data.mask_dataset import MaskDataset
from data.mask_diagnosis import voc_color
from data.options import MaskOptions
from tests.data.mask_sets import class_map, first_error, read_maps, save, write_masks

COLORS = np.array([(0, 0, 0), (220, 40, 40), (40, 60, 220)], np.uint8)
TWELVE = "\n".join(f"c{i}" for i in range(12))


def grays(mask, *values):
    """A palette file whose colours are these grays."""
    image = Image.fromarray(mask)
    image.putpalette([gray for value in values for gray in (value,) * 3])
    return image


def expected(root, split="train"):
    """The class maps that were written."""
    return [class_map(i) for i in range(4 if split == "train" else 2)]


# --- what is recognised in the values


def test_binary_masks_of_0_and_255(tmp_path):
    write_masks(tmp_path, lambda mask: (mask > 0) * np.uint8(255), "background\nlesion\n")
    message = first_error(tmp_path)
    assert "255 stands for class 1, lesion" in message
    assert "Pass --data.mask_values 0=background 255=lesion" in message
    assert "ignore" not in message
    data, maps = read_maps(tmp_path, mask_values=["0=background", "255=lesion"])
    assert data.classes == ("background", "lesion")
    for found, written in zip(maps, expected(tmp_path), strict=True):
        np.testing.assert_array_equal(found, written > 0)


def test_binary_masks_with_one_name(tmp_path):
    write_masks(tmp_path, lambda mask: (mask > 0) * np.uint8(255), "lesion\n")
    message = first_error(tmp_path)
    assert "a name for value 0 or 255 is missing" in message
    assert "--data.mask_values 0=background 255=lesion" in message
    assert "ignore" not in message


def test_some_binary_masks_with_1_and_others_with_255(tmp_path):
    write_masks(tmp_path, lambda mask: (mask > 0).astype(np.uint8) * np.uint8(255 if mask[0].any() else 1), "a\nb\n")
    assert {int(class_map(i)[0].any()) for i in range(4)} == {0, 1}
    assert "--data.mask_values 0=a 1=b 255=b" in first_error(tmp_path)
    data, maps = read_maps(tmp_path, mask_values=["0=a", "1=b", "255=b"])
    assert data.classes == ("a", "b")
    np.testing.assert_array_equal(maps[0], class_map(0) > 0)


def test_masks_that_count_from_1(tmp_path):
    write_masks(tmp_path, lambda mask: mask + 1)
    message = first_error(tmp_path)
    assert "The masks count from 1" in message
    assert "Pass --data.mask_values 1=background 2=red 3=blue" in message
    assert "ignore" not in message
    _, maps = read_maps(tmp_path, mask_values=["1=background", "2=red", "3=blue"])
    np.testing.assert_array_equal(maps, expected(tmp_path))


def test_masks_that_count_from_1_with_a_border(tmp_path):
    def stored(mask):
        mask = mask + 1
        mask[:1] = 255
        return mask

    write_masks(tmp_path, stored)
    message = first_error(tmp_path)
    assert "The masks count from 1" in message
    assert "--data.ignore_index 255 if value 255 has no class" in message
    _, maps = read_maps(tmp_path, mask_values=["1=background", "2=red", "3=blue"], ignore_index=255)
    assert (maps[0][0] == IGNORE).all()
    np.testing.assert_array_equal(maps[0][1:], class_map(0)[1:])


def test_one_name_for_two_values(tmp_path):
    write_masks(tmp_path, lambda mask: (mask > 0).astype(np.uint8), "lesion\n")
    message = first_error(tmp_path)
    assert "a name for value 0 or 1 is missing" in message
    assert "--data.mask_values 0=background 1=lesion" in message
    assert "ignore" not in message


def test_one_name_less_than_values(tmp_path):
    """Value 2 may be a class without a name, or unlabelled. Both are named, the class first."""
    write_masks(tmp_path, names="red\nblue\n")
    message = first_error(tmp_path)
    assert "a name for value 0 or 2 is missing" in message
    assert "--data.mask_values 0=background 1=red 2=blue" in message
    assert message.index("missing") < message.index("if value 2 has no class, pass --data.ignore_index 2")


@pytest.mark.parametrize(("step", "dtype"), [(127, np.uint8), (85, np.uint8), (257, np.uint16)])
def test_scaled_class_indices(step, dtype, tmp_path):
    write_masks(tmp_path, lambda mask: mask.astype(dtype) * dtype(step))
    message = first_error(tmp_path)
    assert f"multiples of {step}" in message
    values = [f"0=background {step}=red {2 * step}=blue"]
    assert f"--data.mask_values {values[0]}" in message
    _, maps = read_maps(tmp_path, mask_values=values[0].split())
    np.testing.assert_array_equal(maps, expected(tmp_path))


def test_blurred_masks(tmp_path):
    """Masks that were resized with interpolation have many values. None of them may be ignored."""

    def stored(mask):
        image = Image.fromarray(mask * np.uint8(100)).resize((96, 64), Image.Resampling.BICUBIC)
        return image.resize((24, 16), Image.Resampling.LANCZOS)

    write_masks(tmp_path, stored)
    message = first_error(tmp_path)
    assert "resized with interpolation" in message
    assert "ignore" not in message


def test_an_unknown_value_is_ignored_only_if_nothing_else_fits(tmp_path):
    def stored(mask):
        mask[:1, :2] = 255
        return mask

    write_masks(tmp_path, stored)
    message = first_error(tmp_path)
    assert "If it is a class, add its name" in message
    assert "(0.5% of all) have no class, set --data.ignore_index 255" in message
    assert first_error(tmp_path, ignore_index=255) == ""


def test_values_of_other_masks_are_explained_by_the_same_sample(tmp_path):
    """The last mask alone looks as if it counted from 1. The other masks show that it does not."""
    write_masks(tmp_path, count=(90, 1))
    save(tmp_path / "annotations/train/train88.png", np.full((16, 24), 3, np.uint8))
    data, _ = read_maps(tmp_path, "val")
    train = MaskDataset.open(tmp_path, "train")
    index = [train.path(i).stem for i in range(len(train))].index("train88")
    with pytest.raises(BadInput, match=r"train88.png has 384 pixels of value 3.*a name for value 0 or 3 is missing"):
        train[index]
    assert len(data) == 1


def test_cityscapes_ids_in_other_folders(tmp_path):
    write_masks(tmp_path, lambda mask: mask + 24, mask_name="annotations/{split}/{name}_gtFine_labelIds.png")
    assert "Cityscapes' labelIds" in first_error(tmp_path)
    instances = tmp_path / "instances"
    write_masks(instances, lambda mask: mask.astype(np.uint16) + 26000)
    message = first_error(instances)
    assert "instanceIds" in message
    assert "Read the files labelIds" in message
    assert "ignore" not in message


# --- how files are read


def test_a_palette_of_grays_is_read_by_its_grays(tmp_path, caplog):
    write_masks(tmp_path, lambda mask: grays(mask, 0, 5, 11), TWELVE)
    _, maps = read_maps(tmp_path)
    np.testing.assert_array_equal(maps, np.array([0, 5, 11])[expected(tmp_path)])
    assert "palettes of grays, such as 0, 5, 11" in caplog.text
    _, maps = read_maps(tmp_path, mask_values=["0=a", "1=b", "2=c"])
    np.testing.assert_array_equal(maps, expected(tmp_path))


def test_a_palette_of_grays_that_are_no_values_is_read_by_index(tmp_path):
    """Grays that only make the classes visible."""
    write_masks(tmp_path, lambda mask: grays(mask, 0, 120, 240))
    np.testing.assert_array_equal(read_maps(tmp_path)[1], expected(tmp_path))


def test_a_palette_is_read_in_the_same_way_in_all_files(tmp_path):
    """In one file the grays 0, 5, 77 are not all values. The others show that the grays are meant."""
    write_masks(tmp_path, lambda mask: grays(mask, 0, 5, 11), TWELVE)
    data, _ = read_maps(tmp_path)
    save(tmp_path / "annotations/train/train1.png", grays(class_map(1), 0, 5, 77))
    with pytest.raises(BadInput, match=r"train1.png has .* pixels of value 77"):
        data.columns.class_map(1)


def test_a_coloured_palette_is_read_by_index_even_if_the_used_colours_are_gray(tmp_path):
    """In Pascal VOC's palette, class 7 is gray 128."""
    names = "\n".join(f"c{i}" for i in range(200))

    def stored(mask):
        image = Image.fromarray(mask * np.uint8(7) * (mask < 2))
        codes = [voc_color(i) for i in range(256)]
        image.putpalette([channel for code in codes for channel in (code >> 16, code >> 8 & 255, code & 255)])
        return image

    write_masks(tmp_path, stored, names)
    _, maps = read_maps(tmp_path)
    assert np.unique(maps).tolist() == [0, 7]


def test_colours_without_a_table(tmp_path):
    write_masks(tmp_path, lambda mask: COLORS[mask])
    message = first_error(tmp_path)
    assert "one line R G B NAME for each colour" in message
    assert "--data.mask_colors FILE" in message
    for line in ("0 0 0 NAME", "220 40 40 NAME", "40 60 220 NAME"):
        assert line in message
    assert "background, red and blue" in message


def test_colours_of_pascal_vocs_palette_have_names(tmp_path):
    """If the colours are those of the palette, the message is the complete table."""
    write_masks(tmp_path, lambda mask: np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)[mask])
    message = first_error(tmp_path)
    lines = [line.strip() for line in message.splitlines()[1:]]
    assert lines == ["0 0 0 background", "128 0 0 red", "0 128 0 blue"]
    (tmp_path / "colors.txt").write_text("\n".join(lines))
    np.testing.assert_array_equal(read_maps(tmp_path, mask_colors="colors.txt")[1], expected(tmp_path))


@pytest.mark.parametrize("kind", ["colours", "palette", "alpha"])
def test_colours_with_a_table(kind, tmp_path):
    def stored(mask):
        if kind == "palette":
            image = Image.fromarray((mask + 1) % 3)
            image.putpalette(COLORS[[2, 0, 1]].ravel().tolist())
            return image
        image = Image.fromarray(COLORS[mask])
        if kind == "alpha":
            image.putalpha(255)
        return image

    write_masks(tmp_path, stored)
    table = tmp_path / "table.csv"
    table.write_text("name,r,g,b\nbackground,0,0,0\nred,220,40,40\nblue,40,60,220\n")
    data, maps = read_maps(tmp_path, mask_colors=str(table))
    assert data.classes == ("background", "red", "blue")
    np.testing.assert_array_equal(maps, expected(tmp_path))


def test_a_colour_that_is_not_in_the_table(tmp_path):
    write_masks(tmp_path, lambda mask: COLORS[mask])
    (tmp_path / "table.txt").write_text("0 0 0 background\n220 40 40 red\n")
    message = first_error(tmp_path, mask_colors="table.txt")
    assert "pixels of the colour 40 60 220" in message
    assert message.endswith("40 60 220 NAME")


def test_antialiased_colours_are_refused(tmp_path):
    def stored(mask):
        return Image.fromarray(COLORS[mask]).resize((200, 160), Image.Resampling.BICUBIC).resize((24, 16))

    write_masks(tmp_path, stored, count=(30, 1))
    (tmp_path / "table.txt").write_text("0 0 0 background\n220 40 40 red\n40 60 220 blue\n")
    assert "resized with interpolation" in first_error(tmp_path, mask_colors="table.txt")


def test_one_channel_masks_with_a_colour_table_have_row_numbers(tmp_path):
    write_masks(tmp_path, names=None)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nroad,128,64,128\nsky,0,0,0\nVoid,64,0,64\n")
    data, maps = read_maps(tmp_path)
    assert data.classes == ("road", "sky")
    np.testing.assert_array_equal(maps, np.array([0, 1, IGNORE])[expected(tmp_path)])


def test_gray_colours_in_three_channels_are_values(tmp_path):
    write_masks(tmp_path, lambda mask: np.repeat(mask[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_maps(tmp_path)[1], expected(tmp_path))


def test_white_of_1_bit_files(tmp_path):
    write_masks(tmp_path, lambda mask: Image.fromarray(mask > 0), "a\nb\n")
    _, ones = read_maps(tmp_path)
    _, whites = read_maps(tmp_path, mask_values=["0=a", "255=b"])
    np.testing.assert_array_equal(ones, whites)
    np.testing.assert_array_equal(ones[0], class_map(0) > 0)


def test_16_bit_masks(tmp_path):
    write_masks(tmp_path, lambda mask: mask.astype(np.uint16) * np.uint16(1000), names=None)
    options = {"mask_values": ["0=a", "1000=b", "2000=c"]}
    np.testing.assert_array_equal(read_maps(tmp_path, **options)[1], expected(tmp_path))
    data, maps = read_maps(tmp_path, mask_values=["0=a", "1000=b"], ignore_index=2000)
    assert data.classes == ("a", "b")
    np.testing.assert_array_equal(maps, np.array([0, 1, IGNORE])[expected(tmp_path)])


def test_lossy_masks(tmp_path):
    """Masks saved as JPEG are read only if the values are named and far apart."""
    root = write_masks(tmp_path, lambda mask: (mask > 0) * np.uint8(255), "background\nlesion\n",
                       mask_name="annotations/{split}/{name}.jpg")  # fmt: skip
    message = first_error(root)
    assert "lossy compression changes class values" in message
    assert "--data.mask_values 0=background 255=lesion" in message
    _, maps = read_maps(root, mask_values=["0=background", "255=lesion"])
    for found, written in zip(maps, expected(root), strict=True):
        assert (found == (written > 0)).mean() > 0.97
    several = write_masks(tmp_path / "several", lambda mask: mask, mask_name="annotations/{split}/{name}.jpg")
    assert "Write the masks again from their source as PNG" in first_error(several)
    assert "lossy" in first_error(several, mask_values=["0=a", "1=b", "2=c"])


# --- settings


def test_several_values_with_one_name_are_one_class(tmp_path):
    write_masks(tmp_path)
    data, maps = read_maps(tmp_path, mask_values=["2=object", "0=background", "1=object"])
    assert data.classes == ("background", "object")
    np.testing.assert_array_equal(maps[0], class_map(0) > 0)


def test_several_values_are_ignored_and_their_classes_are_not_scored(tmp_path):
    write_masks(tmp_path)
    data, maps = read_maps(tmp_path, ignore_index=[0, 2])
    assert data.classes == ("background", "red", "blue")
    assert data.columns.ignored == {0, 2}
    np.testing.assert_array_equal(maps, np.array([IGNORE, 1, IGNORE])[expected(tmp_path)])
    renamed = data.with_classes(("blue", "Red", "sky", "background"), "the model")
    assert renamed.columns.ignored == {0, 3}
    assert np.unique(renamed.columns.class_map(0)).tolist() == [1, IGNORE]


def test_a_class_of_two_values_is_ignored_only_with_both(tmp_path):
    write_masks(tmp_path)
    names = ["0=background", "1=object", "2=object"]
    assert read_maps(tmp_path, mask_values=names, ignore_index=1)[0].columns.ignored == set()
    assert read_maps(tmp_path, mask_values=names, ignore_index=[1, 2])[0].columns.ignored == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore_index": -1}, r"`ignore_index=-1` is not a mask value"),
        ({"ignore_index": [0, 1, 2]}, "leaves no class"),
        ({"mask_values": ["0=a", "0=b"]}, "two names for one value"),
        ({"mask_values": ["0=a", "x=b"]}, "expected VALUE=NAME"),
        ({"mask_values": ["0=a", "70000=b"]}, "expected VALUE=NAME"),
        ({"mask_values": ["gone.yaml"]}, r"`mask_values=gone.yaml`: this file does not exist"),
        ({"mask_colors": "gone.csv"}, r"`mask_colors=gone.csv`: this file does not exist"),
        ({"mask_values": ["0=void", "1=ignored"]}, "names no class"),
    ],
)
def test_impossible_settings(options, message, tmp_path):
    write_masks(tmp_path)
    with pytest.raises(UserError, match=message):
        MaskDataset.open(tmp_path, "train", options=MaskOptions(**options))


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled", "VOID", "ignore", "ignored", "_ignore_"])
def test_names_that_mean_no_class(name, tmp_path, caplog):
    """In a map of values they are ignored, and said once. In a plain list they are a class, with a warning."""
    write_masks(tmp_path, names=f"{name}\nred\nblue\n")
    with caplog.at_level(logging.WARNING):
        assert first_error(tmp_path, mask_values=[f"0={name}", "1=red", "2=blue"]) == ""
    assert caplog.text.count("means no class") == 1
    assert f"value 0 ('{name}') means no class" in caplog.text
    data, maps = read_maps(tmp_path, mask_values=[f"0={name}", "1=red", "2=blue"])
    assert data.classes == ("red", "blue")
    np.testing.assert_array_equal(maps, np.array([IGNORE, 0, 1])[expected(tmp_path)])
    caplog.clear()
    assert first_error(tmp_path) == ""
    assert "is trained and scored as a class" in caplog.text
    assert "--data.ignore_index 0" in caplog.text
    assert read_maps(tmp_path)[0].classes == (name, "red", "blue")


def test_no_class_names(tmp_path):
    """Without any names, the message has the command for the values that occur."""
    root = write_masks(tmp_path, lambda mask: (mask > 0) * np.uint8(255), None, mask_name="masks/{split}/{name}.png")
    message = first_error(root)
    assert "no class names" in message
    assert "Pass --data.mask_values 0=background 255=NAME" in message
    assert "classes.txt" in message
    assert first_error(root, mask_values=["0=background", "255=polyp"]) == ""


def test_no_class_names_for_colours(tmp_path):
    root = write_masks(tmp_path, names=None, mask_name="masks/{split}/{name}.png")
    for file in root.rglob("masks/**/*.png"):
        Image.fromarray(np.full((*np.asarray(Image.open(file)).shape, 3), (9, 8, 7), np.uint8)).save(file)
    message = first_error(root)
    assert "no class names" in message
    assert "They store colours, not values. The classes of the 1 colours that occur are not known" in message
    assert "9 8 7 NAME" in message


@pytest.mark.parametrize("count", [255, 256])
def test_the_largest_number_of_classes(count, tmp_path):
    """A class map is uint8, and 255 has no class."""
    names = [f"{i}=c{i}" for i in range(count)]
    write_masks(tmp_path, names=None)
    if count == 256:
        assert "names 256 classes, more than 255" in first_error(tmp_path, mask_values=names)
    else:
        assert len(read_maps(tmp_path, mask_values=names)[0].classes) == 255


def test_ade20k_is_not_changed(tmp_path):
    root = write_masks(tmp_path, names=None, classes=4)
    data, maps = read_maps(root)
    assert len(data.classes) == 150
    assert data.columns.notes == ()
    np.testing.assert_array_equal(maps[0], np.array([IGNORE, 0, 1, 2])[class_map(0, 4)])
    assert read_maps(root, ignore_index=2)[0].columns.ignored == {1}


def test_as_many_values_as_names(tmp_path):
    write_masks(tmp_path, lambda mask: np.array([0, 127, 255], np.uint8)[mask])
    message = first_error(tmp_path)
    assert "as many as there are names" in message
    assert "pass --data.mask_values 0=background 127=red 255=blue" in message
    assert "ignore" not in message
