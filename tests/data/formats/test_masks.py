"""Both layouts: they are read correctly, and every error in them raises one message with the cause."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput, UserError
from data.batch import IGNORE, Draw, collate
from data.demo.writer import Plan, demo_root
from data.formats import ade20k
from data.letterbox import ImageLetterbox
from data.mask_dataset import MaskDataset
from data.mask_files import read_mask
from data.options import MaskOptions
from segmentation.transforms import segmentation_train

NAMES = ("sky", "road", "car")


def write(root: Path, masks: dict[str, np.ndarray], split: str = "val", names: tuple[str, ...] | None = NAMES) -> Path:
    """Noise images with these masks."""
    draw = np.random.default_rng(0)
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for stem, mask in masks.items():
        image = draw.integers(0, 256, (*mask.shape, 3), np.uint8)
        Image.fromarray(image).save(root / "images" / split / f"{stem}.jpg")
        Image.fromarray(mask).save(root / "annotations" / split / f"{stem}.png")
    if names is not None:
        (root / "classes.txt").write_text("\n".join(names) + "\n")
    return root


def mask(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[None].repeat(4, axis=0)


def test_generic_layout(tmp_path: Path) -> None:
    write(tmp_path, {"b": mask(0, 1, 2), "a": mask(2, 2, 1, 0)})
    data = MaskDataset.open(tmp_path, "val")
    assert data.classes == NAMES
    assert data.image_ids.tolist() == [0, 1]
    assert data.path(0).name == "a.jpg"
    sample = data[1]
    assert sample.mask is not None
    assert sample.mask.dtype == np.uint8
    assert sample.mask.tolist() == [[0, 1, 2]] * 4
    assert sample.image.shape == (4, 3, 3)
    assert sample.size == (4, 3)


def test_generic_layout_with_long_names(tmp_path: Path) -> None:
    write(tmp_path, {"a": mask(0, 1)}, split="validation")
    assert len(MaskDataset.open(tmp_path, "val")) == 1


def test_ade20k_layout(tmp_path: Path) -> None:
    """0 is ignored, and 1 to 150 become 0 to 149. In uint8, `mask - 1` would turn 0 into 255."""
    write(tmp_path, {"ADE_val_00000001": mask(0, 1, 2, 150)}, split="validation", names=None)
    data = MaskDataset.open(tmp_path, "val")
    assert len(data.classes) == 150
    sample = data[0]
    assert sample.mask is not None
    assert sample.mask[0].tolist() == [IGNORE, 0, 1, 149]
    write(tmp_path, {"ADE_val_00000002": mask(1, 151)}, split="validation", names=None)
    with pytest.raises(BadInput, match=r"ADE_val_00000002.png.*151.*150 classes"):
        MaskDataset.open(tmp_path, "val")[1]


def test_ade20k_names_and_colours() -> None:
    assert len(ade20k.CLASSES) == len(set(ade20k.CLASSES)) == len(ade20k.PALETTE) == 150
    assert (ade20k.CLASSES[0], ade20k.CLASSES[12], ade20k.CLASSES[149]) == ("wall", "person", "flag")
    assert ade20k.PALETTE[2].tolist() == [6, 230, 230]  # sky
    assert ade20k.PALETTE[149].tolist() == [92, 0, 255]
    assert len(np.unique(ade20k.PALETTE, axis=0)) == 149  # road and skyscraper are one gray


@pytest.mark.case("R9")
def test_values_beyond_the_classes(tmp_path: Path) -> None:
    write(tmp_path, {"a": mask(0, 3, 3, 255)})
    with pytest.raises(BadInput, match=r"a\.png has 8 pixels of value 3, .*classes\.txt.*`ignore_index=3`"):
        MaskDataset.open(tmp_path, "val")[0]
    with pytest.raises(BadInput, match="value 255"):
        MaskDataset.open(tmp_path, "val", options=MaskOptions(ignore_index=3))[0]
    write(tmp_path, {"a": mask(0, 3, 3, 1)})
    sample = MaskDataset.open(tmp_path, "val", options=MaskOptions(ignore_index=3))[0]
    assert sample.mask is not None
    assert sample.mask[0].tolist() == [0, IGNORE, IGNORE, 1]
    with pytest.raises(UserError, match="ignore_index"):
        MaskDataset.open(tmp_path, "val", options=MaskOptions(ignore_index=65536))


def test_a_class_can_be_ignored(tmp_path: Path) -> None:
    write(tmp_path, {"a": mask(0, 1, 2)})
    sample = MaskDataset.open(tmp_path, "val", options=MaskOptions(ignore_index=0))[0]
    assert sample.mask is not None
    assert sample.mask[0].tolist() == [IGNORE, 1, 2]


def test_palette_masks_are_indices(tmp_path: Path) -> None:
    write(tmp_path, {"a": mask(0, 1, 2)})
    picture = Image.fromarray(mask(0, 1, 2))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [9] * 759)
    assert picture.mode == "P"
    for bits in (8, 2):
        picture.save(tmp_path / "annotations/val/a.png", bits=bits)
        sample = MaskDataset.open(tmp_path, "val")[0]
        assert sample.mask is not None
        assert sample.mask[0].tolist() == [0, 1, 2]


def test_damaged_masks(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (50, 50), np.uint8)).save(file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match="cannot decode"):
        read_mask(file)
    file.write_bytes(b"")
    with pytest.raises(BadInput, match="not a PNG"):
        read_mask(file)
    with pytest.raises(BadInput, match=r"gone\.png"):
        read_mask(tmp_path / "gone.png")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)))
    with pytest.raises(BadInput, match="60000 x 60000"):
        read_mask(file)


def test_size_mismatch_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a": mask(0, 1, 2)})
    Image.fromarray(mask(0, 1)).save(tmp_path / "annotations/val/a.png")
    with pytest.raises(BadInput, match=r"a\.jpg is 3 x 4 .*a\.png is 2 x 4"):
        MaskDataset.open(tmp_path, "val")[0]


def test_missing_masks_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"a": mask(0), "b": mask(1), "c": mask(2)})
    (tmp_path / "annotations/val/b.png").unlink()
    with pytest.raises(BadInput, match=r"1 of 3 images .*/b\.png"):
        MaskDataset.open(tmp_path, "val")
    data = MaskDataset.open(tmp_path, "val", skip_bad=1)
    sample = data[1]
    assert not sample.readable
    assert sample.mask is not None
    assert (sample.mask == IGNORE).all()
    assert data.skipped == [1]
    assert data[Draw(1, 0)].image_id == 2


def test_extra_masks_are_counted(tmp_path: Path) -> None:
    write(tmp_path, {"a": mask(0), "b": mask(1)})
    (tmp_path / "images/val/b.jpg").unlink()
    data = MaskDataset.open(tmp_path, "val")
    assert (data.report.images, data.report.masks_without_image) == (1, 1)


def test_layout_errors(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no data set at .*gone"):
        MaskDataset.open(tmp_path / "gone", "train")
    write(tmp_path, {"a": mask(0)})
    with pytest.raises(BadInput, match="no split 'train'; it has val"):
        MaskDataset.open(tmp_path, "train")
    with pytest.raises(BadInput, match="no split"):
        MaskDataset.open(tmp_path, "../val")
    (tmp_path / "images/empty").mkdir()
    (tmp_path / "annotations/empty").mkdir()
    with pytest.raises(BadInput, match="no images"):
        MaskDataset.open(tmp_path, "empty")
    Image.new("RGB", (1, 4)).save(tmp_path / "images/val/a.png")
    with pytest.raises(BadInput, match="several images called a"):
        MaskDataset.open(tmp_path, "val")


@pytest.mark.parametrize("content", ["", "a\na\n", "\n".join(str(i) for i in range(256))])
def test_bad_class_files(content: str, tmp_path: Path) -> None:
    write(tmp_path, {"a": mask(0)})
    (tmp_path / "classes.txt").write_text(content)
    with pytest.raises(BadInput, match=r"classes\.txt"):
        MaskDataset.open(tmp_path, "val")


@pytest.mark.case("R16")
@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_links_out_of_the_folder_are_refused(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "data", {"a": mask(0)})
    suffix = "jpg" if kind == "images" else "png"
    secret = tmp_path / f"secret.{suffix}"
    (tmp_path / f"data/{kind}/val/a.{suffix}").rename(secret)
    (tmp_path / f"data/{kind}/val/a.{suffix}").symlink_to(secret)
    with pytest.raises(BadInput, match="leads out"):
        MaskDataset.open(tmp_path / "data", "val")


def test_fraction_and_fingerprint(tmp_path: Path) -> None:
    write(tmp_path, {f"{i:02d}": mask(0, 1) for i in range(10)})
    full, subset = MaskDataset.open(tmp_path, "val"), MaskDataset.open(tmp_path, "val", fraction=0.3, seed=1)
    assert len(subset) == 3
    assert subset.image_ids.tolist() == MaskDataset.open(tmp_path, "val", fraction=0.3, seed=1).image_ids.tolist()
    assert full.path(int(subset.image_ids[1])) == subset.path(1)
    assert full.fingerprint == MaskDataset.open(tmp_path, "val").fingerprint
    ignoring = MaskDataset.open(tmp_path, "val", options=MaskOptions(ignore_index=0))
    assert len({full.fingerprint, subset.fingerprint, ignoring.fingerprint}) == 3
    with pytest.raises(UserError, match="fraction"):
        MaskDataset.open(tmp_path, "val", fraction=0)


def test_evaluation_keeps_the_mask_in_original_pixels(tmp_path: Path) -> None:
    write(tmp_path, {"a": np.full((20, 30), 1, np.uint8), "b": np.full((40, 10), 2, np.uint8)})
    data = MaskDataset.open(tmp_path, "val", ImageLetterbox((32, 32), (1, 2, 3)))
    batch = collate([data[0], data[1]])
    assert batch.images.shape == (2, 3, 32, 32)
    assert batch.masks is not None
    assert batch.masks.shape == (2, 40, 30)
    assert (batch.masks[0, :20] == 1).all()
    assert (batch.masks[0, 20:] == IGNORE).all()
    assert (batch.masks[1, :, 10:] == IGNORE).all()


def test_crops_limit_one_class(tmp_path: Path) -> None:
    """A small car on a wide road: at four times the area, most windows show only road."""
    classes = np.ones((60, 60), np.uint8)
    classes[20:40, 20:40] = 2
    write(tmp_path, {"a": classes})

    def shares(max_share: float) -> np.ndarray:
        transform = segmentation_train((60, 60), (2.0, 2.0), (0, 0, 0), max_share=max_share)
        data = MaskDataset.open(tmp_path, "val", transform)
        masks = [data[Draw(0, seed)].mask for seed in range(60)]
        return np.array([np.bincount(m[m != IGNORE]).max() / (m != IGNORE).sum() for m in masks if m is not None])

    limited, free = shares(0.75), shares(1.0)
    assert (limited > 0.82).mean() < 0.05 < (free > 0.82).mean()
    transform = segmentation_train((48, 64), (0.5, 2.0), (0, 0, 0))
    data = MaskDataset.open(tmp_path, "val", transform)
    first, again = data[Draw(0, 5)], data[Draw(0, 5)]
    assert first.image.shape == (48, 64, 3)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)


def test_the_most_mixed_of_ten_crops_shows_a_tiny_object(tmp_path: Path) -> None:
    """No window is a quarter object, as `max_share` asks for."""
    classes = np.ones((200, 200), np.uint8)
    classes[20:32, 150:162] = 2
    write(tmp_path, {"a": classes})

    def shown(max_share: float) -> float:
        """The fraction of crops with the object."""
        transform = segmentation_train((60, 60), (2.0, 2.0), (0, 0, 0), max_share=max_share)
        data = MaskDataset.open(tmp_path, "val", transform)
        return float(np.mean([(data[Draw(0, seed)].mask == 2).any() for seed in range(100)]))

    assert shown(1.0) < 0.3
    assert shown(0.75) > 0.6


def test_pixels_that_augmentation_adds_have_no_class(tmp_path: Path) -> None:
    """A crop that is larger than the scaled image is padded. The padding is ignored, and is not class 0."""
    write(tmp_path, {"a": np.full((20, 20), 1, np.uint8)})
    transform = segmentation_train((64, 48), (0.3, 0.6), (0, 0, 0), vflip=0.5)
    data = MaskDataset.open(tmp_path, "val", transform)
    for seed in range(20):
        out = data[Draw(0, seed)].mask
        assert out is not None
        assert np.unique(out).tolist() == [1, IGNORE]
        height, width = (out == 1).any(1).sum(), (out == 1).any(0).sum()
        assert (out == 1).sum() == height * width < out.size


def test_demo_scenes() -> None:
    root = demo_root("segmentation", Plan(scenes=(3, 2), portraits=(1, 1)))
    data = MaskDataset.open(root, "val")
    assert len(data) == 2
    sample = data[0]
    assert sample.mask is not None
    assert sample.mask.max() < len(data.classes)
