"""A run resumes only with the data that it was trained on, wherever they are. A failed start blocks nothing."""

import json
import os
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
import yaml

from classification import train as train_classifier
from classification.task import ClassificationTask
from detection import train as train_detector
from detection.task import DetectionTask
from segmentation import train as train_segmenter
from tests.classification.conftest import write_folders
from tests.commands import fails, run
from tests.detection.conftest import write_coco
from tests.segmentation.conftest import UNLABELLED, write_masks

TINY = ["--image_size", 64, "--epochs", 2, "--batch_size", 4, "--device", "cpu", "--pretrained", "false",
        "--backbone", "resnet18", "--data.workers", 0]  # fmt: skip


def stop(task, command, output, *arguments):
    """Start a training, and stop it with Ctrl-C in the second epoch."""
    before = task.on_train_batch_start

    def hook(self, batch, batch_idx):
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return before(self, batch, batch_idx)

    task.on_train_batch_start = hook
    try:
        with pytest.raises(SystemExit):
            run(command, "--output", output, *TINY, *arguments)
    finally:
        task.on_train_batch_start = before
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves SIGINT ignored


@pytest.fixture(scope="module")
def folders_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopped")
    write_folders(root / "data", train=4, val=2)
    stop(ClassificationTask, train_classifier, root / "run", "--data.root", root / "data")
    return root


@pytest.fixture(scope="module")
def coco_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopped")
    write_coco(root / "data")
    stop(DetectionTask, train_detector, root / "run", "--data.root", root / "data")
    return root


@pytest.fixture
def moved(tmp_path, request):
    """A copy of a stopped run and its data, at another place and with other times."""

    def copy(name):
        source = request.getfixturevalue(name)
        for part in ("data", "run"):
            shutil.copytree(source / part, tmp_path / part)
        return tmp_path / "data", tmp_path / "run"

    return copy


def refused(capsys, command, data, folder):
    """The one message with which a run is not resumed. It changes nothing."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = fails(capsys, 3, command, "--resume", folder, "--data.root", data)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert f"--pretrained {folder}" in message
    return message


def rename_class(data):
    for split in ("train", "val"):
        (data / split / "green").rename(data / split / "lime")


def add_class(data):
    for split in ("train", "val"):
        shutil.copytree(data / split / "green", data / split / "lime")


def remove_class(data):
    for split in ("train", "val"):
        shutil.rmtree(data / split / "green")


def double_images(data):
    for file in sorted((data / "train").glob("*/*.png")):
        shutil.copy(file, file.with_name(f"copy-{file.name}"))


def replace_image(data):
    file = data / "train" / "green" / "0.png"
    cv2.imwrite(str(file), np.zeros((30, 40, 3), np.uint8))


def rename_image(data):
    file = data / "val" / "green" / "0.png"
    file.rename(file.with_name("other.png"))


def move_image(data):
    """To another class: the label changes."""
    (data / "train" / "green" / "0.png").rename(data / "train" / "red" / "9.png")


@pytest.mark.case("resume")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename_class, ["the class 'green' is missing", "the class 'lime' is new", "renamed"]),
        (add_class, ["the class 'lime' is new", "training, images: 12, now 16"]),
        (remove_class, ["the class 'green' is missing", "validation, images: 6, now 4"]),
        (double_images, ["training, images: 12, now 24"]),
        (replace_image, ["other sizes in bytes of training images"]),
        (rename_image, ["other file names of validation images"]),
        (move_image, ["other file names of training images"]),
    ],
)
def test_changed_folders_are_refused(moved, capsys, change, words):
    data, folder = moved("folders_run")
    change(data)
    message = refused(capsys, train_classifier, data, folder)
    for text in words:
        assert text in message


def edit(data, split, change):
    """Change the annotations of a split, with the time of the file put back."""
    file = data / "annotations" / f"instances_{split}.json"
    stat, content = file.stat(), json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def exchange_names(content):
    first, second = content["categories"]
    first["name"], second["name"] = second["name"], first["name"]


def move_box(content):
    """The file keeps its length."""
    box = content["annotations"][0]["bbox"]
    box[0] = box[0] - 1 if box[0] % 10 else box[0] + 1


def double_annotations(content):
    highest = max(a["id"] for a in content["annotations"])
    content["annotations"] += [a | {"id": a["id"] + highest} for a in content["annotations"]]


@pytest.mark.case("resume")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (exchange_names, ["the order of the classes was 'red <b>', 'green', and is now 'green', 'red <b>'"]),
        (move_box, ["other labels of training images", "other labels of validation images"]),
        (double_annotations, ["training, boxes: 16, now 32"]),
    ],
)
def test_changed_annotations_are_refused(moved, capsys, change, words):
    data, folder = moved("coco_run")
    for split in ("train", "val"):
        edit(data, split, change)
    message = refused(capsys, train_detector, data, folder)
    for text in words:
        assert text in message


@pytest.mark.slow
@pytest.mark.case("resume")
def test_data_that_moved_are_the_same(moved, folders_run):
    """The run ends as one that was not stopped, and remembers the new place. Loader processes may differ too."""
    data, folder = moved("folders_run")
    whole = folder.with_name("whole")
    run(train_classifier, "--data.root", folders_run / "data", "--output", whole, *TINY)
    for file in data.rglob("*.png"):
        os.utime(file)
    run(train_classifier, "--resume", folder, "--data.root", data, "--data.workers", 1)
    first, second = (
        torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for place in (whole, folder)
    )
    assert all(torch.equal(first[key], value) for key, value in second.items())
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["root"] == str(data)
    record = json.loads((folder / "record.json").read_text())
    assert record["dataset"]["root"] == record["config"]["data"]["root"] == str(data)


@pytest.mark.slow
@pytest.mark.case("resume")
def test_a_complete_run_names_the_way_to_train_more(moved, capsys):
    data, folder = moved("folders_run")
    run(train_classifier, "--resume", folder, "--data.root", data)
    message = fails(capsys, 2, train_classifier, "--resume", folder)
    command = f"--config {folder}/config.yaml --pretrained {folder} --output NEW_FOLDER"
    assert f"python -m classification.train {command}" in message
    words = command.replace("NEW_FOLDER", str(folder.with_name("more"))).split()
    run(train_classifier, *words)
    record = json.loads((folder.with_name("more") / "record.json").read_text())
    assert record["pretrained"]["continues"] is True


# --- failed starts


def spoil(root):
    """Make one training image unreadable. Returns its good content."""
    file = sorted(root.rglob("train/**/*.png"))[0]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file, content


@pytest.mark.parametrize(
    ("command", "write", "arguments", "exists"),
    [
        pytest.param(train_classifier, write_folders, [], False, id="classification"),
        pytest.param(train_classifier, write_folders, [], True, id="existing folder", marks=pytest.mark.slow),
        pytest.param(train_detector, write_coco, [], False, id="detection", marks=pytest.mark.slow),
        pytest.param(
            train_segmenter,
            write_masks,
            ["--data.ignore_index", UNLABELLED],
            False,
            id="segmentation",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_corrected_command_can_use_the_same_folder(tmp_path, capsys, command, write, arguments, exists):
    """Data that fail in the first batch leave no files. A folder that existed stays."""
    root, output = write(tmp_path / "data"), tmp_path / "run"
    if exists:
        output.mkdir()
    file, content = spoil(root)
    words = ["--data.root", root, "--output", output, *TINY, "--epochs", 1, *arguments]
    assert file.name in fails(capsys, 3, command, *words)
    assert output.exists() == exists
    assert not exists or list(output.iterdir()) == []
    file.write_bytes(content)
    run(command, *words)
    assert (output / "record.json").exists()


def test_wrong_settings_are_found_before_the_data_are_read(tmp_path, capsys):
    """An output folder with content is refused at once, not after minutes of reading."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    message = fails(capsys, 2, train_classifier, "--data.root", tmp_path / "absent", "--output", tmp_path / "run")
    assert "already exists" in message
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def interrupt(task, monkeypatch):
    """Send two Ctrl-C at the first batch: the second stops the run at once."""

    def hook(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(task, "on_train_batch_start", hook)


def test_a_stop_before_the_first_checkpoint_leaves_nothing(tmp_path, monkeypatch, capsys):
    root, output = write_folders(tmp_path / "data", train=4, val=2), tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(ClassificationTask, patch)
        message = fails(capsys, 130, train_classifier, "--data.root", root, "--output", output, *TINY)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert "nothing is saved" in message
    assert not output.exists()


def killed(output, root):
    """What a process leaves that is killed before the first checkpoint."""
    output.mkdir()
    config = {"resume": None, "output": str(output), "data": {"root": str(root)}, "backbone": "resnet18",
              "pretrained": False, "image_size": 64, "epochs": 1, "batch_size": 4, "device": "cpu"}  # fmt: skip
    (output / "config.yaml").write_text(yaml.safe_dump(config))
    (output / "checkpoints").mkdir()
    (output / "events.out.tfevents.1").write_text("")


def test_a_run_killed_before_its_first_checkpoint_blocks_nothing(tmp_path, capsys):
    """A new run replaces it, and `--resume` starts it from the beginning."""
    root = write_folders(tmp_path / "data", train=4, val=2)
    for name, words in (("new", ["--output", tmp_path / "new", "--data.root", root, *TINY, "--epochs", 1]),
                        ("again", ["--resume", tmp_path / "again"])):  # fmt: skip
        killed(tmp_path / name, root)
        run(train_classifier, *words)
        assert (tmp_path / name / "record.json").exists()
    assert "replaces it" in " ".join(capsys.readouterr().err.split())
