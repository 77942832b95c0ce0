"""The audit of damaged data sets ends with findings or one message, never with a traceback, whatever the damage."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from data.findings import Finding
from experiments.audit.config import AuditConfig
from experiments.audit.runner import audit

SPLITS = ("train", "val")
ROUNDS = 10
# Values that JSON files of tools have where others are expected.
STRANGE = (None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**30, "", "x", "../a.png", "/etc/passwd", "a\0b", [],
           {}, [[]])  # fmt: skip
WORDS = ("", "nan", "-1", "1e400", "\0", "<a>", "[", "é" * 300, "0" * 400)  # the same for text files


def image(folder: Path, name: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).astype(np.uint8)).save(folder / name)


def coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split in SPLITS:
        for i in range(3):
            image(root / split, f"{i}.jpg", i)
        document = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 32, "height": 24} for i in range(3)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {"id": i, "image_id": i % 3, "category_id": 1 + i % 2, "bbox": [2, 3, 9, 8], "area": 72, "iscrowd": 0}
                for i in range(6)
            ],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def yolo(root: Path) -> None:
    for split in SPLITS:
        (root / "labels" / split).mkdir(parents=True)
        for i in range(3):
            image(root / "images" / split, f"{i}.png", i)
            (root / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.2 0.3\n1 0.3 0.4 0.2 0.1\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")


def voc(root: Path) -> None:
    for number, split in enumerate(SPLITS):
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "Annotations").mkdir(exist_ok=True)
        names = [f"{number}{i}" for i in range(3)]
        for name in names:
            image(root / "JPEGImages", f"{name}.jpg", int(name))
            box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>13</ymax></bndbox>"
            objects = "".join(f"<object><name>{label}</name>{box}</object>" for label in ("cat", "dog"))
            size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
            text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
            (root / "Annotations" / f"{name}.xml").write_text(text)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))


def masks(root: Path) -> None:
    for split in SPLITS:
        for i in range(3):
            image(root / "images" / split, f"{i}.png", i)
            (root / "annotations" / split).mkdir(parents=True, exist_ok=True)
            mask = np.random.default_rng(i).integers(0, 3, (24, 32)).astype(np.uint8)
            Image.fromarray(mask).save(root / "annotations" / split / f"{i}.png")
    (root / "classes.txt").write_text("ground\nsky\ntree\n")


def folders(root: Path) -> None:
    for split in SPLITS:
        for number, name in enumerate(("cat", "dog")):
            for i in range(3):
                image(root / split / name, f"{i}.tiff", 10 * number + i)


def table(root: Path) -> None:
    for i in range(6):
        image(root, f"{i}.png", i)
    rows = [f"{i}.png,32,24,{name},2,3,12,13" for i in range(6) for name in ("cat", "dog")]
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    for split, start in (("train", 0), ("val", 6)):
        (root / f"{split}.csv").write_text("\n".join([header, *rows[start : start + 6]]))


def damage(root: Path, chance: random.Random) -> str:
    """Damage one file. Returns what was done, for the message of a failed test."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    labels = [path for path in files if path.suffix in (".json", ".yaml", ".txt", ".xml", ".csv")]
    file = chance.choice(labels if labels and chance.random() < 0.6 else files)
    content = file.read_bytes()
    kind = chance.choice(("cut", "bytes", "noise", "empty", "absent", "folder", "loop", "value", "text", "copy"))
    if kind == "cut":
        file.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif kind == "bytes":
        changed = bytearray(content)
        for _ in range(chance.randrange(1, 8)):
            if changed:
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        file.write_bytes(bytes(changed))
    elif kind == "noise":
        file.write_bytes(chance.randbytes(chance.randrange(2000)))
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "absent":
        file.unlink()
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "loop":
        file.unlink()
        file.symlink_to(file.name)
    elif kind == "value" and file.suffix == ".json":
        with contextlib.suppress(ValueError):  # damaged before
            file.write_text(json.dumps(changed_value(json.loads(content), chance)))
    elif kind == "copy":
        file.write_bytes(chance.choice(files).read_bytes())
    else:
        words = content.decode("utf-8", "ignore").split(" ")
        words[chance.randrange(len(words))] = chance.choice(WORDS)
        file.write_bytes(" ".join(words).encode())
    return f"{kind} {file.relative_to(root)}"


def changed_value(value, chance: random.Random):
    """A JSON value in which one value, at a random place, is a strange one."""
    if chance.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return chance.choice(STRANGE)
    if isinstance(value, dict):
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return value | {key: changed_value(value[key], chance)}
    index = chance.randrange(len(value))
    return [*value[:index], changed_value(value[index], chance), *value[index + 1 :]]


def found_in(root: Path, output: Path, quick: bool) -> list[Finding]:
    try:
        return audit(AuditConfig(str(root), quick=quick, output=str(output)))
    except UserError:
        return []


@pytest.mark.parametrize(
    "build", [coco, *(pytest.param(each, marks=pytest.mark.slow) for each in (yolo, voc, masks, folders, table))]
)
def test_damaged_data_sets(build: Callable[[Path], None], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    build(whole)
    for seed in range(ROUNDS):
        chance = random.Random(f"{build.__name__} {seed}")
        root = tmp_path / "set"
        shutil.copytree(whole, root)
        done = [damage(root, chance) for _ in range(chance.randrange(1, 4))]
        try:
            found = found_in(root, tmp_path / "out", quick=seed % 3 > 0)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {done}") from error
        unexpected = [finding.what for finding in found if "did not expect" in finding.fix]
        assert not unexpected, (seed, done)
        shutil.rmtree(root)
