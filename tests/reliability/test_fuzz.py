"""Thousands of damaged inputs: each either works or is one error message, in bounded time, and no file is written."""

import copy
import json
import random
import signal
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from backbones import create_backbone
from backbones.errors import BadInput, UserError
from classification.config import PRESETS as classification
from classification.config import TrainConfig as ClassificationConfig
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.formats import Split, mask_config
from data.images import read_image
from data.label_maps import read_label_map
from data.legend import build
from data.mask_dataset import MaskDataset
from data.open import read_split
from data.options import MaskOptions
from detection.config import PRESETS as detection
from detection.config import TrainConfig as DetectionConfig
from engine.checkpoint import read_run
from engine.cli import parse
from segmentation.config import PRESETS as segmentation
from segmentation.config import TrainConfig as SegmentationConfig

pytestmark = pytest.mark.case("fuzz")
SECONDS = 20  # time limit of one case

ODD = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1.5, -0.0, float("nan"), float("inf"), 1e308),
    *("", "0", "x", "\0", "../../etc/passwd", "/etc/passwd", "😀" * 50, "<script>"),
    *([], [[]], [None], {}, {"id": 1}, [1, 2, 3, 4]),
]


@contextmanager
def time_limit():
    """Fail if the block takes longer than `SECONDS`."""

    def timeout(*_):
        raise AssertionError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, timeout)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def succeeds(attempt, allowed=BadInput):
    """True if `attempt` works, False if it raises `allowed` with a message. Any other error fails the test."""
    with time_limit():
        try:
            attempt()
        except allowed as error:
            message = str(error).strip()
        else:
            return True
    assert message
    return False


def files(folder):
    """Files in a folder with their modification times."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def places(value, path=()):
    """The paths of all values within a JSON value, as tuples of keys."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from places(below, (*path, key))


def mutated(document, draw):
    """A copy with one to three values replaced, removed or duplicated."""
    document = copy.deepcopy(document)
    for _ in range(draw.randint(1, 3)):
        path = draw.choice([p for p in places(document) if p] or [()])
        if not path:
            return draw.choice(ODD)
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        kind = draw.random()
        if kind < 0.6:
            parent[path[-1]] = copy.deepcopy(draw.choice(ODD))
        elif kind < 0.8:
            del parent[path[-1]]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        else:
            parent[draw.choice(list(parent))] = copy.deepcopy(parent[path[-1]])
    return document


def damaged(content, draw):
    """A copy with bytes changed, removed, inserted or duplicated."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, kind = draw.randrange(max(1, len(content))), draw.random()
        if kind < 0.5 and content:
            content[at] = draw.randrange(256)
        elif kind < 0.65:
            del content[at:]
        elif kind < 0.8:
            del content[at : at + draw.randint(1, 64)]
        elif kind < 0.9:
            content[at:at] = draw.randbytes(draw.randint(1, 64))
        else:
            content[at:at] = content[: draw.randint(1, 200)]
    return bytes(content)


def test_annotations(coco_root, tmp_path, amount, measured):
    file = coco_root / "annotations" / "instances_val.json"
    document, draw, worked, cases = json.loads(file.read_text()), random.Random(0), 0, amount(400, 4000)
    root = tmp_path / "set"
    (root / "annotations").mkdir(parents=True)
    (root / "val").symlink_to(coco_root / "val")
    before = files(coco_root)

    def use():
        data = BoxDataset.open(root, "val")
        for index in range(len(data)):
            sample = data[index]
            assert np.isfinite(sample.boxes).all()
            assert (sample.labels < len(data.classes)).all()

    for _ in range(cases):
        text = json.dumps(mutated(document, draw))
        content = damaged(text.encode(), draw) if draw.random() < 0.2 else text.encode()
        (root / "annotations" / "instances_val.json").write_bytes(content)
        worked += succeeds(use)
    assert 0 < worked < cases
    assert files(coco_root) == before
    measured(f"{cases} annotation files: {worked} read, {cases - worked} refused")


def test_class_tables(tmp_path, amount, measured):
    draw, worked, cases = random.Random(5), 0, amount(200, 2000)
    (tmp_path / "images").mkdir()
    for name in "abcd":
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / f"{name}.png")
    contents = [
        b"image,label,split\na.png,cat,train\nb.png,dog,train\nc.png,cat,val\nd.png,dog,val\n",
        "file;class\r\na;cat\r\nb;dog\r\nc;cat\r\nd;dog\r\n".encode("utf-16"),
        b"images/a.png cat\nimages/b.png dog\nimages/c.png cat\n",
        b"filename,cat,dog\na.png,1,0\nb.png,0,1\nd.png,1,0\n",
    ]
    before = files(tmp_path / "images")

    def use():
        data = ClassDataset.open(tmp_path / "labels.txt", "train")
        assert len({data.name(index) for index in range(len(data))}) == len(data) > 0
        for index in range(len(data)):
            assert data[index].image.shape == (6, 8, 3)
            assert 0 <= data.labels[index] < len(data.classes)

    for _ in range(cases):
        (tmp_path / "labels.txt").write_bytes(damaged(draw.choice(contents), draw))
        worked += succeeds(use)
    assert 0 < worked < cases
    assert files(tmp_path / "images") == before
    measured(f"{cases} tables of classes: {worked} read, {cases - worked} refused")


def test_hugging_face_files(tmp_path, amount, measured):
    pa = pytest.importorskip("pyarrow")
    from tests.data.formats.hub_sets import TYPES, as_arrow, encoded, struct, write

    draw, worked, cases = random.Random(6), 0, amount(200, 2000)
    images = struct([encoded(n, size=(8, 6)) for n in range(4)])
    boxes = [{"bbox": [[1.0, 1.0, 3.0, 2.0]], "category": [0]}, {"bbox": [], "category": []}] * 2
    kinds = {
        ClassDataset: ({"image": images, "label": pa.array([0, 1, 0, 1])}, TYPES),
        BoxDataset: ({"image": images, "objects": pa.array(boxes)}, None),
        MaskDataset: ({"image": images, "annotation": images}, None),
    }
    contents = []
    for number, (kind, (columns, types)) in enumerate(kinds.items()):
        for suffix in (".parquet", ".arrow"):
            file = write(tmp_path / "whole" / f"{number}.parquet", columns, types)
            file = as_arrow(file) if suffix == ".arrow" else file
            contents.append((kind, suffix, file.read_bytes()))

    def use():
        data = kind.open(file, "train")
        for index in range(len(data)):
            assert data[index].image.shape[2] == 3

    for number in range(cases):
        kind, suffix, content = draw.choice(contents)
        file = tmp_path / f"{number}{suffix}"
        file.write_bytes(damaged(content, draw) if number % 20 else content)
        worked += succeeds(use)
        file.unlink()
    assert 0 < worked < cases
    measured(f"{cases} Arrow and Parquet files: {worked} read, {cases - worked} refused")


def image_contents(tmp_path):
    """The bytes of image files in several formats."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    for name, options in {"a.jpg": {}, "b.jpg": {"progressive": True}, "c.png": {}, "d.webp": {}, "e.gif": {},
                          "f.tif": {}, "g.bmp": {}}.items():  # fmt: skip
        noise.save(tmp_path / name, **options)
    noise.convert("P").save(tmp_path / "h.png")
    noise.convert("CMYK").save(tmp_path / "i.jpg")
    return [p.read_bytes() for p in sorted(tmp_path.iterdir())]


def test_images(tmp_path, amount, measured):
    contents, draw, worked, cases = image_contents(tmp_path), random.Random(1), 0, amount(600, 6000)
    path = tmp_path / "case.img"

    def use():
        image = read_image(path, max_pixels=10**7)
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3

    for _ in range(cases):
        path.write_bytes(damaged(draw.choice(contents), draw))
        worked += succeeds(use)
    assert 0 < worked < cases
    measured(f"{cases} image files: {worked} read, {cases - worked} refused")


def test_masks(tmp_path, amount, measured):
    draw, worked, cases = random.Random(2), 0, amount(300, 3000)
    for kind in ("images", "annotations"):
        (tmp_path / kind / "val").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    cv2.imwrite(str(tmp_path / "images" / "val" / "1.png"), np.zeros((16, 20, 3), np.uint8))
    mask = tmp_path / "annotations" / "val" / "1.png"
    cv2.imwrite(str(mask), np.random.default_rng(0).integers(0, 3, (16, 20), np.uint8))
    content = mask.read_bytes()

    def use():
        sample = MaskDataset.open(tmp_path, "val")[0]
        assert sample.mask.shape == (16, 20)
        assert set(np.unique(sample.mask)) <= {0, 1, 2, 255}

    for _ in range(cases):
        mask.write_bytes(damaged(content, draw))
        worked += succeeds(use)
    assert worked < cases
    measured(f"{cases} mask files: {worked} read, {cases - worked} refused")


def test_kinds_of_mask_files(tmp_path, amount, measured):
    """Every format and pixel type that a mask may have, with and without a colour table."""
    draw, worked, cases = random.Random(5), 0, amount(400, 4000)
    pixels = np.random.default_rng(0).integers(0, 3, (16, 20), np.uint8)
    palette = Image.fromarray(pixels)
    palette.putpalette([0, 0, 0, 9, 9, 9, 40, 60, 220])
    gray, wide, bits = (Image.fromarray(a) for a in (pixels, pixels.astype(np.uint16), pixels > 0))
    kinds = {".png": [gray, palette, wide, bits, palette.convert("RGBA")],
             ".tif": [gray, palette, Image.fromarray(pixels.astype(np.int32))], ".bmp": [gray], ".gif": [palette],
             ".webp": [palette.convert("RGB")], ".jpg": [gray], ".pgm": [gray]}  # fmt: skip
    contents = []
    for suffix, images in kinds.items():
        for image in images:
            image.save(tmp_path / f"case{suffix}")
            contents.append((suffix, (tmp_path / f"case{suffix}").read_bytes()))
            (tmp_path / f"case{suffix}").unlink()
    for kind in ("images", "masks"):
        (tmp_path / kind / "val").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images" / "val" / "1.png"), np.zeros((16, 20, 3), np.uint8))
    (tmp_path / "table.csv").write_text("name,r,g,b\na,0,0,0\nb,9,9,9\nc,40,60,220\n")
    named = MaskOptions(mask_values=["0=a", "1=b", "2=c"], ignore_index=255)
    settings = [named, MaskOptions(mask_colors=str(tmp_path / "table.csv"))]

    def use():
        sample = MaskDataset.open(tmp_path, "val", options=draw.choice(settings))[0]
        assert sample.mask.shape == (16, 20)
        assert set(np.unique(sample.mask)) <= {0, 1, 2, 255}

    for _ in range(cases):
        suffix, content = draw.choice(contents)
        mask = tmp_path / "masks" / "val" / f"1{suffix}"
        mask.write_bytes(damaged(content, draw))
        worked += succeeds(use)
        mask.unlink()
    assert 0 < worked < cases
    measured(f"{cases} mask files of {len(contents)} kinds: {worked} read, {cases - worked} refused")


def test_label_maps(tmp_path, amount, measured):
    draw, worked, cases = random.Random(6), 0, amount(600, 6000)
    documents = [
        {"classes": {"0": "unlabeled", "1": "road", "2": {"name": "sky", "values": [2, 3]}}},
        {"road": [128, 64, 128], "sky": "#4682b4"}, ["road", "sky"],
        [{"id": 0, "name": "road", "color": [1, 2, 3]}, {"id": 7, "title": "sky", "color": "#4682b4ff"}],
        {"train": {"images": "i", "masks": "m"}, "classes": {"0": "a", "1": "b"}, "ignore_classes": [1]},
    ]  # fmt: skip
    texts = [
        ("a.csv", "name,r,g,b\nroad,128,64,128\nsky,70,130,180\n"),
        ("b.csv", "Pixel Value, Class\n0, road\n1, sky\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180::\n"),
        ("c.txt", "128 64 128 road\n70 130 180 sky\n"),
        ("classes.txt", "road\nsky\n"),
    ]
    for name in ("i", "m"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.zeros((4, 5), np.uint8))

    def use():
        found = read_label_map(file)
        assert {*map(type, found.values.values()), *map(type, found.colors.values())} <= {str}
        assert all(0 <= value <= 65535 for value in found.values)
        legend = build(found)
        assert 0 < len(legend.classes) <= 255
        if mask_config.sniff(file):
            mask_config.read(Split(file, "train"), MaskOptions()).class_map(0)

    for _ in range(cases):
        if draw.random() < 0.5:
            document = mutated(draw.choice(documents), draw)
            file = tmp_path / draw.choice(["case.json", "case.yaml"])
            text = json.dumps(document) if file.suffix == ".json" else yaml.safe_dump(document)
        else:
            name, text = draw.choice(texts)
            file = tmp_path / name
        content = text.encode("utf-8", "surrogatepass")
        file.write_bytes(damaged(content, draw) if draw.random() < 0.7 or file.suffix in (".csv", ".txt") else content)
        worked += succeeds(use)
    assert 0 < worked < cases
    measured(f"{cases} label maps: {worked} read, {cases - worked} refused")


def test_segmentations(tmp_path, amount, measured):
    """Polygons and run lengths, which C code draws, and panoptic segments."""
    draw, worked, cases = random.Random(7), 0, amount(500, 5000)
    images = [{"id": 1, "file_name": "1.png", "height": 16, "width": 20}]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    shapes = [[[1, 1, 9, 1, 9, 9, 1, 9]], [[2, 2, 15, 3, 4, 12], [1, 1, 3, 1, 3, 3]], [5, 5, 12.5, 5, 8, 9.25],
              {"size": [16, 20], "counts": [16, 32, 272]}, {"size": [16, 20], "counts": "`0P1`8"}]  # fmt: skip
    objects = [
        {"id": i, "image_id": 1, "category_id": 1 + i % 2, "segmentation": shape} for i, shape in enumerate(shapes)
    ]
    instances = {"images": images, "categories": categories, "annotations": objects}
    segments = [{"id": 1, "category_id": 1}, {"id": 257, "category_id": 2}]
    panoptic = {"images": images, "categories": categories, "annotations": [
        {"image_id": 1, "file_name": "1.png", "segments_info": segments}]}  # fmt: skip
    (tmp_path / "panoptic_val").mkdir()
    (tmp_path / "val").mkdir()
    cv2.imwrite(str(tmp_path / "val" / "1.png"), np.zeros((16, 20, 3), np.uint8))
    ids = np.zeros((16, 20, 3), np.uint8)
    ids[:, 5:], ids[:, 10:] = (0, 0, 1), (0, 1, 1)  # blue, green, red
    cv2.imwrite(str(tmp_path / "panoptic_val" / "1.png"), ids)

    def use():
        options = MaskOptions(format=name)
        data = MaskDataset(read_split("masks", tmp_path, f"{file}:{tmp_path / 'val'}", options, may_be_path=True))
        for index in range(len(data)):
            assert data[index].mask.shape == data[index].image.shape[:2]
            assert set(np.unique(data[index].mask)) <= {*range(len(data.classes)), 255}

    for _ in range(cases):
        name, document = draw.choice([("coco-masks", instances), ("coco-panoptic", panoptic)])
        file = tmp_path / ("panoptic_val.json" if document is panoptic else "instances_val.json")
        content = json.dumps(mutated(document, draw)).encode()
        file.write_bytes(damaged(content, draw) if draw.random() < 0.2 else content)
        worked += succeeds(use)
    assert 0 < worked < cases
    measured(f"{cases} files of segmentations: {worked} read, {cases - worked} refused")


@pytest.mark.case("R17")
def test_settings(tmp_path, amount, measured):
    """YAML with wrong types, unknown keys, and tags that run code in an unsafe loader."""
    draw, worked, cases = random.Random(3), 0, amount(90, 1500)
    file = tmp_path / "settings.yaml"
    hostile = ["!!python/object/apply:os.system ['touch OWNED']", "!!python/name:os.system", "&a [*a, *a]", "{", "\0"]
    presets = [
        (config, folder, yaml.safe_load(path.read_text()))
        for config, folder in ((ClassificationConfig, classification), (DetectionConfig, detection),
                               (SegmentationConfig, segmentation))
        for path in sorted(folder.glob("*.yaml"))
    ]  # fmt: skip
    before = set(tmp_path.iterdir()) | {file}
    for number in range(cases):
        config, folder, preset = draw.choice(presets)
        text = yaml.safe_dump(mutated(preset, draw))
        if number % 10 == 0:
            text = f"epochs: {draw.choice(hostile)}\n"
        file.write_text(text)
        arguments = ["--config", str(file)]
        worked += succeeds(lambda c=config, f=folder, a=arguments: parse("x.train", c, a, "", f).check(), UserError)
    assert 0 < worked < cases
    assert set(tmp_path.iterdir()) == before
    measured(f"{cases} settings files: {worked} accepted, {cases - worked} refused, none executed")


@pytest.mark.case("R15")
def test_checkpoints(tmp_path, amount, measured):
    draw, worked, cases = random.Random(4), 0, amount(50, 1000)
    state = {"weight": torch.arange(64.0), "bias": torch.zeros(3)}
    info = {"task": "detection", "dataset": {}, "config": {}, "classes": ["a"], "preprocessing": {}, "provenance": {}}
    torch.save({"run": info, "state_dict": {f"model.{k}": v for k, v in state.items()}}, tmp_path / "run.ckpt")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    contents = [(tmp_path / name).read_bytes() for name in ("run.ckpt", "old.pth")]

    def use():
        if draw.random() < 0.5:
            read_run(path)
        else:
            create_backbone("mobilenetv2_035", pretrained=path)

    for number in range(cases):
        path = tmp_path / f"case{number}.pth"
        path.write_bytes(damaged(draw.choice(contents), draw))
        worked += succeeds(use)
        path.unlink()
    measured(f"{cases} checkpoints: {worked} read, {cases - worked} refused")
