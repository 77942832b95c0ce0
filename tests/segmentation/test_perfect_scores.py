"""Property: a perfect prediction scores mIoU 1.0 on random data of every format, and damaged data raise BadInput.

The masks are written in the form that a layout has on disk. The truth is what was meant, so that a misread value, a
shifted index or a mask of another image lowers the score.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.errors import BadInput, UserError
from data.batch import IGNORE, collate
from data.mask_dataset import MaskDataset
from data.mask_diagnosis import voc_color
from data.options import MaskOptions
from segmentation.evaluator import SegmentationEvaluator
from tests.data.mask_sets import photo, save

RANDOM_NAMES = ("road", "sky", "car", "tree", "dog", "cat", "pole", "wall")


def scene(random, classes, ignored):
    """(H, W) uint8 of rectangles of random classes; some pixels have no class."""
    height, width = (int(side) for side in random.integers(8, 24, 2))
    pixels = np.full((height, width), random.integers(classes), np.uint8)
    for label in [*range(classes), *([IGNORE] if ignored else [])]:
        y, x = int(random.integers(height - 4)), int(random.integers(width - 4))
        pixels[y : y + 4, x : x + 4] = label
    return pixels


def codes(values):
    return np.array([(code >> 16, code >> 8 & 255, code & 255) for code in values], np.uint8)


def write_values(root, scenes, names, random):
    """Random mask values, in one of the file formats, named by the settings."""
    values = random.choice(250, len(names) + 1, replace=False)
    lookup = np.zeros(256, np.uint16)
    lookup[: len(names)], lookup[IGNORE] = values[:-1], values[-1]
    suffix = str(random.choice([".png", ".tif", ".bmp", ".gif", ".PNG"]))
    place, tag = str(random.choice(["annotations", "masks", "labels"])), str(random.choice(["", "_mask", "_gt", "_L"]))
    for name, pixels in scenes.items():
        wide = suffix in (".png", ".tif") and random.random() < 0.3
        stored = lookup[pixels].astype(np.uint16 if wide else np.uint8)
        file = save(root / place / "val" / f"{name}{tag}{suffix.lower()}", stored)
        file.rename(file.with_suffix(suffix))
        photo(root / "images/val" / f"{name}.jpg", *pixels.shape)
    pairs = [f"{value}={name}" for value, name in zip(values[:-1], names, strict=True)]
    return MaskOptions(mask_values=[*random.permutation(pairs).tolist(), f"{values[-1]}=void"])


def write_colors(root, scenes, names, random):
    """Random colours, in the files themselves or in a palette, with a table."""
    colors = random.permutation(random.integers(1, 1 << 20) + random.integers(1, 1 << 20) * np.arange(len(names) + 1))
    lookup = np.zeros((256, 3), np.uint8)
    lookup[: len(names)], lookup[IGNORE] = codes(colors[:-1]), codes(colors[-1:])[0]
    in_palette = random.random() < 0.5
    for name, pixels in scenes.items():
        image = Image.fromarray(pixels if in_palette else lookup[pixels])
        if in_palette:
            image.putpalette(lookup.ravel().tolist())
        save(root / "val" / f"{name}_mask.png", image)
        photo(root / "val" / f"{name}.png", *pixels.shape)
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip([*names, "Void"], codes(colors), strict=True)]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "\n".join(random.permutation(rows)) + "\n")
    return MaskOptions()


def write_voc(root, scenes, names, random):
    palette = codes([voc_color(i) for i in range(256)])
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name, pixels in scenes.items():
        image = Image.fromarray(pixels)
        image.putpalette(palette.ravel().tolist())
        save(root / "SegmentationClass" / f"{name}.png", image.convert("RGB") if random.random() < 0.5 else image)
        photo(root / "JPEGImages" / f"{name}.jpg", *pixels.shape)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(scenes))
    (root / "class_names.txt").write_text("\n".join(names))
    return MaskOptions()


def write_config(root, scenes, names, random):
    values = [*random.permutation(np.arange(1, 200))[: len(names)].tolist(), 0]
    lookup = np.zeros(256, np.uint8)
    lookup[: len(names)] = values[:-1]
    for name, pixels in scenes.items():
        save(root / "m" / f"{name}.png", lookup[pixels])
        photo(root / "i" / f"{name}.jpg", *pixels.shape)
    content = {"val": {"images": "i", "masks": "m"}, "classes": dict(zip(values, [*names, "unlabeled"], strict=True))}
    (root / "config.yaml").write_text(json.dumps(content))
    return MaskOptions()


def write_panoptic(root, scenes, names, random):
    ids = random.permutation(np.arange(1, 1000))[: len(names)].tolist()
    annotations = []
    for number, (name, pixels) in enumerate(scenes.items()):
        lookup = np.zeros(256, np.int64)
        lookup[: len(names)] = 1 + np.arange(len(names)) + random.integers(2, 1 << 20) * np.arange(len(names))
        found = lookup[pixels]
        rgb = np.stack([found & 255, found >> 8 & 255, found >> 16], axis=2).astype(np.uint8)
        save(root / "annotations/panoptic_val" / f"{name}.png", rgb)
        photo(root / "val" / f"{name}.jpg", *pixels.shape)
        segments = [{"id": int(lookup[i]), "category_id": ids[i]} for i in range(len(names))]
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    images = [
        {"id": i, "file_name": f"{name}.jpg", "height": pixels.shape[0], "width": pixels.shape[1]}
        for i, (name, pixels) in enumerate(scenes.items())
    ]
    categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/panoptic_val.json").write_text(json.dumps(content))
    return MaskOptions()


def write_run_lengths(root, scenes, names, random):
    """COCO objects: each class of an image is one object, and its first class is the background."""
    names = ["background", *names[1:]]
    annotations, images = [], []
    for number, (name, pixels) in enumerate(scenes.items()):
        photo(root / "val" / f"{name}.jpg", *pixels.shape)
        images.append({"id": number, "file_name": f"{name}.jpg", "height": pixels.shape[0], "width": pixels.shape[1]})
        for label in range(1, len(names)):
            own = np.concatenate([[0], (pixels == label).T.ravel().astype(int)])
            runs = np.diff([0, *np.flatnonzero(np.diff(own)), pixels.size]).tolist()
            if len(runs) > 1:
                annotations.append({"image_id": number, "category_id": label,
                                    "segmentation": {"size": list(pixels.shape), "counts": runs}})  # fmt: skip
    (root / "annotations").mkdir()
    categories = [{"id": i, "name": name} for i, name in enumerate(names) if i]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return MaskOptions()


WRITERS = (write_values, write_colors, write_voc, write_config, write_panoptic, write_run_lengths)


def score(data, truth, classes):
    """The scores of a prediction that equals the truth, matched to images by name and to classes by name."""
    index = np.zeros(256, np.int64)
    index[: len(classes)] = [data.classes.index(name) for name in classes]
    evaluator = SegmentationEvaluator(data.classes, data.columns.ignored)
    for i in range(len(data)):
        sample = data[i]
        prediction = index[np.where(truth[data.path(i).stem] == IGNORE, 0, truth[data.path(i).stem])]
        evaluator.update([torch.from_numpy(prediction)], collate([sample]))
    assert int(evaluator.matrix().sum()) == sum((pixels != IGNORE).sum() for pixels in truth.values())
    return evaluator.compute()


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_perfect_predictions_score_1(write, tmp_path, amount):
    for seed in range(amount(25, 300)):
        random = np.random.default_rng(seed)
        names = random.permutation(RANDOM_NAMES)[: random.integers(2, 9)].tolist()
        ignored = write is not write_run_lengths and random.random() < 0.7
        scenes = {f"scene{i}": scene(random, len(names), ignored) for i in range(random.integers(1, 5))}
        root = tmp_path / str(seed)
        root.mkdir()
        options = write(root, scenes, names, random)
        data = MaskDataset.open(root, "val", options=options)
        data.check_scored()
        known = ["background", *names[1:]] if write is write_run_lengths else names
        scores = score(data, scenes, known)
        assert scores["mIoU"] == scores["pixel_accuracy"] == 1.0, (seed, write)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_damaged_data_score_1_or_raise(write, tmp_path, amount):
    """A file is removed, exchanged or cut off. The data are refused, or read as they were meant."""
    refused = 0
    for seed in range(amount(25, 300)):
        random = np.random.default_rng(seed)
        names = list(RANDOM_NAMES[:3])
        scenes = {f"scene{i}": scene(random, 3, False) for i in range(3)}
        root = tmp_path / str(seed)
        root.mkdir()
        options = write(root, scenes, names, random)
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() != ".jpg")
        file = files[random.integers(len(files))]
        kind = random.integers(4)
        if kind == 0:
            file.unlink()
        elif kind == 1:
            file.write_bytes(file.read_bytes()[: random.integers(file.stat().st_size)])
        elif kind == 2:
            file.write_bytes(files[random.integers(len(files))].read_bytes())
        else:
            file.write_bytes(b"")
        try:
            data = MaskDataset.open(root, "val", options=options)
            data.check_scored()
            read = {data.path(i).stem: data[i].mask for i in range(len(data))}
        except (BadInput, UserError):
            refused += 1
        else:
            assert all(mask.shape == scenes[name].shape for name, mask in read.items())
            assert all(np.isin(mask, [*range(len(data.classes)), IGNORE]).all() for mask in read.values())
    assert refused > 0
