"""Stored lists of large folders: used while nothing has changed, made again after each change that they can notice."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import BadInput
from data import manifest
from data.atomic_directory import CACHE_VARIABLE
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.names import Names
from tests.detection.conftest import write_coco


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Six images in two classes. A list is stored from three images on, also of a folder that has just changed."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "MANY", 3)
    monkeypatch.setattr(manifest, "RECENT", 0)
    for index in range(6):
        picture(tmp_path / "set" / "train" / ("ant", "bee")[index % 2] / "inner" / f"{index}.png", index)
    (tmp_path / "set" / "train" / "bee" / "notes.txt").write_text("no image")
    return tmp_path / "set"


def picture(path: Path, seed: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(path)


@pytest.fixture
def visited(monkeypatch):
    """Folders that were listed for images."""
    found = []
    original = manifest.Visits.entries

    def entries(self, folder):
        found.append(folder)
        return original(self, folder)

    monkeypatch.setattr(manifest.Visits, "entries", entries)
    return found


def opened(root: Path):
    data = ClassDataset.open(root, "train")
    names = [data.name(i) for i in range(len(data))]
    return names, data.labels.tolist(), data.fingerprint, data.columns.left_out


def test_a_list_is_used_again(root, visited):
    first = opened(root)
    assert visited == ["", "ant", "ant/inner", "bee", "bee/inner"]
    visited.clear()
    assert opened(root) == first
    assert not visited


@pytest.mark.parametrize("change", ["add", "remove", "rename", "class", "replace", "in place"])
def test_a_change_is_noticed(root, visited, change):
    before, (file, inner) = opened(root), (root / "train/bee/inner/3.png", root / "train/bee/inner")
    visited.clear()
    if change == "add":
        picture(inner / "new.png", 1)
    elif change == "remove":
        file.unlink()
    elif change == "rename":
        file.rename(inner / "other.png")
    elif change == "class":
        picture(root / "train/cat/1.png", 1)
    elif change == "replace":
        picture(root / "new.png", 1, 16)
        (root / "new.png").rename(file)
    else:
        file.write_bytes(file.read_bytes() + b"\0")
    after = opened(root)
    assert visited
    assert after[2] != before[2]
    visited.clear()
    assert opened(root) == after
    assert not visited


def test_a_damaged_list_is_made_again(root, caplog):
    before = opened(root)
    stored = next((root.parent / "cache/listings").glob("*.npz"))
    content = stored.read_bytes()
    names = content.index(b"ant/inner/0.png")  # the archive has a checksum of each array
    for damaged in (content[:-100], content[:names] + b"bee" + content[names + 3 :], b"", content[:200]):
        stored.write_bytes(damaged)
        caplog.clear()
        assert opened(root) == before
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert f"the list of the files in {root / 'train'} is damaged, and is made again" in caplog.text
        assert stored.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_one_warning(root, caplog):
    (root.parent / "cache").write_text("a file")
    names, *_ = opened(root)
    assert len(names) == 6
    assert [f"Set {CACHE_VARIABLE} to a folder that can be written" in r.getMessage() for r in caplog.records] == [True]


def test_a_folder_that_has_just_changed_is_not_stored(root, monkeypatch):
    monkeypatch.setattr(manifest, "RECENT", 10**12)
    opened(root)
    assert not (root.parent / "cache").exists()


def test_images_that_a_label_file_names(tmp_path, root, visited):
    write_coco(tmp_path / "coco")
    first = BoxDataset.open(tmp_path / "coco", "train")
    assert visited == [""]
    again = BoxDataset.open(tmp_path / "coco", "train")
    assert visited == [""]
    assert again.digests == first.digests
    assert len(set(first._bytes.tolist()) - {-1}) > 0
    os.remove(first.path(0))
    with pytest.raises(BadInput, match=r"images of .* are not in"):
        BoxDataset.open(tmp_path / "coco", "train")


def test_names_are_packed():
    texts = ["a/b.png", "", "ä/\udcff.jpg", "a/c.png", "c.png"]
    names = Names.of(texts)
    assert list(names) == texts == [names[i] for i in range(5)]
    assert (names[-1], names[1:3], len(names)) == ("c.png", texts[1:3], 5)
    assert names == texts
    assert names.take(np.array([4, 0])) == ["c.png", "a/b.png"]
    assert (names.folders, names.are_unique, Names.of(["a", "a"]).are_unique) == (["a", "", "ä"], True, False)
    assert list(Names.of([])) == []
    with pytest.raises(IndexError):
        names[5]
