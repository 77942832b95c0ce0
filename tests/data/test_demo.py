"""The demo data: equal bytes on every machine, equal to the drawn scenes, and complete or absent after any failure."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from backbones.errors import BadInput, UserError
from data.atomic_directory import cache_folder
from data.demo import writer as demo
from data.demo.__main__ import main
from data.demo.contact_sheet import contact_sheet
from data.demo.scenes import LEAST_VISIBLE, STUFF, THINGS, Scene, _Canvas

SMALL = demo.Plan(scenes=(30, 12), portraits=(2, 2), empty_every=9, crowd_every=5)
PROGRAM = "from data.demo import Plan, demo_root; print(demo_root('detection', Plan(({n}, 2), (0, 0))))"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three data sets, small."""
    folder = tmp_path_factory.mktemp("demo")
    demo.write_demo(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Scene]]:
    """The scenes of `SMALL` as drawn, to compare with the files."""
    return {name: [demo.scene(SMALL, s, i) for i in range(SMALL.scenes[s])] for s, name in enumerate(demo.SPLITS)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, which does not exist yet."""
    monkeypatch.setenv(demo.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def digests(folder: Path) -> dict[str, str]:
    """Relative path -> digest, for every file below `folder`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start_process(count: int) -> subprocess.Popen[str]:
    """Another process that calls `demo_root` for a demo of `count` training scenes."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", PROGRAM.format(n=count)], stdout=pipe, stderr=pipe, text=True)


def coco(root: Path, split: str) -> COCO:
    return COCO(str(root / "detection" / "annotations" / f"instances_{split}.json"))


def iou(a: list[int], b: list[int]) -> float:
    """Of two boxes x, y, width, height."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(0, width) * max(0, height)
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)


def test_bytes_do_not_depend_on_threads(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    demo.write_demo(tmp_path, SMALL)
    assert digests(tmp_path) == digests(root)


def test_images_of_a_task_are_unique(root: Path) -> None:
    for task in demo.LAYOUTS:
        images = [digest for path, digest in digests(root / task).items() if path.endswith(".jpg")]
        assert images
        assert len(set(images)) == len(images)


def test_counts_and_folders(root: Path) -> None:
    for split, name in enumerate(demo.SPLITS):
        scenes = [f"{name}_{i:05d}" for i in range(SMALL.scenes[split])]
        assert sorted(p.stem for p in (root / "detection" / name).glob("*.jpg")) == scenes
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            assert sorted(p.stem for p in (root / "segmentation" / kind / name).glob(f"*.{suffix}")) == scenes
        folders = {p.name: len(list(p.glob("*.jpg"))) for p in (root / "classification" / name).iterdir()}
        assert folders == dict.fromkeys(THINGS, SMALL.portraits[split])
    assert (root / "segmentation" / "classes.txt").read_text().split() == [*STUFF, *THINGS]
    for path in (root / "detection" / "val").iterdir():
        assert path.read_bytes() == (root / "segmentation" / "images" / "val" / path.name).read_bytes()


@pytest.mark.parametrize("split", demo.SPLITS)
def test_masks_and_photos_equal_the_drawn_scenes(root: Path, drawn: dict[str, list[Scene]], split: str) -> None:
    classes: set[int] = set()
    for index, scene in enumerate(drawn[split]):
        stem = f"{split}_{index:05d}"
        mask = cv2.imread(str(root / "segmentation" / "annotations" / split / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
        photo = cv2.imread(str(root / "segmentation" / "images" / split / f"{stem}.jpg"))[..., ::-1]
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, scene.classes)
        assert photo.shape == scene.image.shape == (*mask.shape, 3)
        assert np.abs(photo.astype(int) - scene.image).mean() < 10  # JPEG; swapped channels differ by much more
        classes |= set(np.unique(mask).tolist())
    assert classes == set(range(len(STUFF + THINGS)))


@pytest.mark.parametrize("split", demo.SPLITS)
def test_boxes_areas_and_outlines_fit_the_visible_pixels(root: Path, drawn: dict[str, list[Scene]], split: str) -> None:
    truth, crowds = coco(root, split), 0
    assert len(truth.imgs) == len(drawn[split])
    for (number, image), scene in zip(sorted(truth.imgs.items()), drawn[split], strict=True):
        assert (image["height"], image["width"]) == scene.classes.shape
        annotations = truth.imgToAnns[number]
        assert len(annotations) == len(scene.instances)
        for annotation, instance in zip(annotations, scene.instances, strict=True):
            visible = scene.keys == instance.key
            rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
            x, y = columns[0], rows[0]
            assert annotation["bbox"] == [x, y, columns[-1] - x + 1, rows[-1] - y + 1]
            assert annotation["area"] == visible.sum()
            assert truth.cats[annotation["category_id"]]["name"] == THINGS[instance.thing]
            assert (scene.classes[visible] == len(STUFF) + instance.thing).all()
            assert LEAST_VISIBLE <= instance.visible <= 1
            outline = truth.annToMask(annotation).astype(bool)
            if annotation["iscrowd"]:
                crowds += 1
                np.testing.assert_array_equal(outline, visible)
            else:  # polygons have no holes, hence inclusion rather than equality
                assert (outline & visible).sum() > 0.9 * visible.sum()
        assert ((scene.keys > 0) == (scene.classes >= len(STUFF))).all()
    assert crowds


def test_number_overlap_and_size_of_objects(root: Path) -> None:
    boxes, overlapping, sides, found = 0, 0, [], Counter()
    for split in demo.SPLITS:
        truth = coco(root, split)
        for index, number in enumerate(sorted(truth.imgs)):
            objects = [a for a in truth.imgToAnns[number] if not a["iscrowd"]]
            if index % SMALL.empty_every == SMALL.empty_every - 1:
                assert not truth.imgToAnns[number]
                continue
            assert 3 <= len(objects) <= 10
            found.update(truth.cats[a["category_id"]]["name"] for a in objects)
            sides += [max(a["bbox"][2:]) for a in objects]
            boxes += len(objects)
            overlapping += sum(any(iou(a["bbox"], b["bbox"]) > 0.1 for b in objects if a is not b) for a in objects)
    assert set(found) == set(THINGS)
    assert 0.18 < overlapping / boxes < 0.36
    assert min(sides) < 32
    assert max(sides) > 90


def test_at_least_a_quarter_of_each_object_is_visible() -> None:
    canvas, rng = _Canvas(np.random.default_rng(0), 120, 120), np.random.default_rng(1)
    keys = [canvas.paint(i % len(THINGS), rng.normal(60, 12, 2), rng.uniform(15, 60)) for i in range(60)]
    assert 0 in keys  # not all of them fit
    visible = np.bincount(canvas.keys.ravel())[1:]
    assert len(visible) == max(keys) > 5
    assert (visible >= LEAST_VISIBLE * np.array(canvas.whole)).all()
    assert visible.tolist() == canvas.shown.tolist()


def test_category_ids_have_gaps(root: Path) -> None:
    numbers = sorted(coco(root, "val").cats)
    assert len(numbers) == len(THINGS)
    assert any(b - a > 1 for a, b in pairwise(numbers))


def test_other_settings_use_another_folder() -> None:
    assert demo.Plan().folder() == demo.Plan().folder() != SMALL.folder()


def test_drawn_once_then_reused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = demo.demo_root("detection", SMALL)
    assert first == cache / SMALL.folder() / "detection"
    monkeypatch.setattr(demo, "write_demo", lambda *_: pytest.fail("drawn again"))
    assert demo.demo_root("segmentation", SMALL) == first.parent / "segmentation"
    sheet = contact_sheet(first.parent)
    assert sheet.ndim == 3
    assert sheet.std() > 30


def test_two_processes_at_once_create_one_folder(cache: Path) -> None:
    processes = [start_process(20), start_process(20)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == [Path(outputs[0][0]).parent.name]
    assert len(list(Path(outputs[0][0].strip(), "train").iterdir())) == 20


def test_killed_while_drawing_leaves_no_folder_that_looks_complete(cache: Path, tmp_path: Path) -> None:
    plan = demo.Plan(scenes=(40, 2), portraits=(0, 0))
    process, deadline = start_process(40), time.monotonic() + 30
    while len(list(cache.glob(".*.tmp/detection/train/*.jpg"))) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(cache.glob(".*.tmp"))
    assert not (cache / plan.folder()).exists()
    complete = demo.demo_root("detection", plan).parent
    assert not list(cache.glob(".*.tmp"))
    (tmp_path / "fresh").mkdir()
    demo.write_demo(tmp_path / "fresh", plan)
    assert digests(complete) == digests(tmp_path / "fresh")


def test_folder_without_marker_is_drawn_again(cache: Path) -> None:
    plan = demo.Plan(scenes=(2, 1), portraits=(0, 0))
    root = cache / plan.folder()
    (root / "detection").mkdir(parents=True)
    (root / "stray").touch()
    assert len(list(demo.demo_root("detection", plan).glob("*/*.jpg"))) == 3
    assert not (root / "stray").exists()


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(demo.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(BadInput, match=demo.CACHE_VARIABLE) as caught:
        demo.demo_root("detection", SMALL)
    assert str(tmp_path / "file" / "cache") in str(caught.value)


def test_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def fill_up(path: Path, content: bytes) -> int:
        if path.stem.endswith("00007"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(BadInput, match="No space left on device") as caught:
        demo.demo_root("detection", SMALL)
    assert str(cache) in str(caught.value)
    assert demo.CACHE_VARIABLE in str(caught.value)
    assert [p.suffix for p in cache.iterdir()] == [".lock"]


def test_cache_folder_depends_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv(demo.CACHE_VARIABLE, "/named")
    assert cache_folder() == Path("/named")
    monkeypatch.delenv(demo.CACHE_VARIABLE)
    assert cache_folder() == Path("/xdg/backbone-swap")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/backbone-swap"


def test_unknown_task() -> None:
    with pytest.raises(UserError, match="Did you mean detection"):
        demo.demo_root("detections")


def test_import_does_not_import_torch() -> None:
    code = "import sys, data.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_command_line(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = demo.Plan(scenes=(3, 5), portraits=(1, 1))
    monkeypatch.setattr(demo, "Plan", lambda: tiny)
    assert main(["--picture", str(cache.parent / "sheet.png")]) == 0
    printed = capsys.readouterr().out
    assert str(cache) in printed
    assert "3 train, 5 val" in printed
    assert cv2.imread(str(cache.parent / "sheet.png")) is not None
    assert main(["--picture", str(cache.parent / "absent" / "sheet.png")]) == 3
    assert "Name a .png or .jpg file" in capsys.readouterr().err
