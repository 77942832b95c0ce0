"""Masks of Hugging Face data sets: class names, mask values, and what cannot be read."""

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from data.formats import recognise
from data.mask_dataset import MaskDataset
from data.options import MaskOptions

pa = pytest.importorskip("pyarrow")

from tests.data.formats.hub_sets import (  # noqa: E402 - needs pyarrow
    HEIGHT,
    IMAGE,
    WIDTH,
    encoded,
    image_files,
    struct,
    write,
)  # fmt: skip

VALUES = ((0, 1, 2), (0, 2, 255), (1, 1, 1))  # of the left, middle and right part of each mask


def pixels(row: int) -> np.ndarray:
    mask = np.repeat(np.array(VALUES[row], np.uint8), WIDTH // 3)
    return np.broadcast_to(mask, (HEIGHT, WIDTH)).copy()


def encoded_mask(row: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(row)).save(stream, "PNG")
    return stream.getvalue()


def scenes(file: Path, column: str = "annotation", masks: Sequence[bytes | None] | None = None) -> Path:
    masks = [encoded_mask(n) for n in range(3)] if masks is None else masks
    columns = {"image": struct([encoded(n) for n in range(3)]), column: struct(masks)}
    return write(file, columns, {"image": IMAGE, column: IMAGE})


@pytest.mark.parametrize("annotation", ["annotation", "label", "segmentation_mask"])
def test_masks_with_a_label_map(annotation: str, tmp_path: Path) -> None:
    scenes(tmp_path / "data" / "train.parquet", annotation)
    names = {"0": "sky", "1": "road", "2": "tree", "255": "void"}
    (tmp_path / "id2label.json").write_text(json.dumps(names))
    assert recognise(tmp_path)[0].kind == "masks"
    data = MaskDataset.open(tmp_path, "train")
    assert data.classes == ("sky", "road", "tree")
    for row in range(3):
        np.testing.assert_array_equal(data[row].mask, pixels(row))
        assert data[row].image[0, 0, 0] == row
    assert data.image_ids.tolist() == [1, 2, 3]
    sent = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(sent[1].mask, pixels(1))


def test_masks_without_names_have_their_values_as_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scenes(tmp_path / "train.parquet")
    data = MaskDataset.open(tmp_path, "train")
    assert data.classes == ("0", "1", "2")
    np.testing.assert_array_equal(data[1].mask, pixels(1))
    assert "no file names the classes, so the 3 mask values that occur are their names; 255 " in caplog.text


def test_masks_named_by_settings(tmp_path: Path) -> None:
    scenes(tmp_path / "train.parquet")
    options = MaskOptions(mask_values=["0=other", "1=road", "2=other"], ignore_index=255)
    data = MaskDataset.open(tmp_path, "train", options=options)
    assert data.classes == ("other", "road")
    np.testing.assert_array_equal(np.unique(data[1].mask), [0, 255])
    data = MaskDataset.open(tmp_path, "train", options=MaskOptions(mask_values=["0=a", "1=b", "2=c"]))
    with pytest.raises(BadInput, match=r"train\.parquet/1\.png has \d+ pixels of value 255"):
        data[1]


def test_masks_of_colours_need_a_table(tmp_path: Path) -> None:
    scenes(tmp_path / "train.parquet", masks=[encoded(n) for n in range(3)])
    with pytest.raises(BadInput, match="no class names for the masks"):
        MaskDataset.open(tmp_path, "train")


def test_the_fingerprint_covers_the_masks(tmp_path: Path) -> None:
    scenes(tmp_path / "train.parquet")
    first = MaskDataset.open(tmp_path, "train").fingerprint
    changed = [encoded_mask(n) for n in (0, 1, 1)]
    scenes(tmp_path / "train.parquet", masks=changed)
    assert MaskDataset.open(tmp_path, "train").fingerprint != first
    scenes(tmp_path / "train.parquet")
    assert MaskDataset.open(tmp_path, "train").fingerprint == first


def test_missing_masks(tmp_path: Path) -> None:
    scenes(tmp_path / "train.parquet", masks=[encoded_mask(0), None, encoded_mask(2)])
    (tmp_path / "id2label.json").write_text(json.dumps({str(value): f"c{value}" for value in range(3)}))
    data = MaskDataset.open(tmp_path, "train")
    with pytest.raises(BadInput, match=r"row 1 of .*train\.parquet has no annotation"):
        data[1]
    assert MaskDataset.open(tmp_path, "train", skip_bad=1)[1].readable is False


def test_masks_saved_by_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    files = image_files(tmp_path / "images", 3)
    masks = [Image.fromarray(pixels(row)) for row in range(3)]
    features = library.Features({"image": library.Image(), "mask": library.Image()})
    library.Dataset.from_dict({"image": files, "mask": masks}, features=features).save_to_disk(tmp_path / "saved")
    data = MaskDataset.open(tmp_path / "saved", "train")
    for row in range(3):
        np.testing.assert_array_equal(data[row].mask, pixels(row))
