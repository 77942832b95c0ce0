"""Commands on masks as tools write them: the message has the flags to pass, and they work."""

import json
import logging

import numpy as np
import pytest

from engine.cli import parse
from segmentation import eval as eval_command
from segmentation import train as train_command
from segmentation.config import EvalConfig, TrainConfig
from tests.commands import fails, run
from tests.data.mask_sets import write_masks

ONCE = ("--image_size", 32, "--epochs", 1, "--batch_size", 2, "--device", "cpu", "--phi", "lite0", "--losses", "ce")
COLORS = np.array([(0, 0, 0), (220, 40, 40), (40, 60, 220)], np.uint8)
TABLE = "name,r,g,b\nbackground,0,0,0\nred,220,40,40\nblue,40,60,220\n"


@pytest.mark.parametrize(
    ("arguments", "ignored", "named"),
    [
        ([], None, None),
        (["--data.ignore_index", "11"], 11, None),
        (["--data.ignore_index", "0", "11"], [0, 11], None),
        (["--data.ignore_index=[0, 11]"], [0, 11], None),
        (["--data.ignore_index", "null"], None, None),
        (
            ["--data.mask_values", "0=back ground", "255=a, b: #c", "--seed", "3"],
            None,
            ["0=back ground", "255=a, b: #c"],
        ),
        (["--data.mask_values", "names.yaml"], None, ["names.yaml"]),
        (["--data.mask_values=names.yaml"], None, ["names.yaml"]),
    ],
)
def test_flags_with_several_values(arguments, ignored, named):
    for config in (TrainConfig, EvalConfig):
        own = [argument for argument in arguments if argument not in ("--seed", "3")]
        data = parse("x", config, own if config is EvalConfig else arguments).data
        assert (data.ignore_index, data.mask_values) == (ignored, named)


def test_the_proposed_flags_work(capsys, tmp_path):
    """The command of the message trains, and evaluation reads the masks as the training did."""
    root = write_masks(tmp_path / "data", lambda mask: (mask > 0) * np.uint8(255), "background\nlesion\n")
    output = tmp_path / "run"
    arguments = ("--data.root", root, "--output", output, *ONCE)
    message = fails(capsys, 3, train_command, *arguments)
    assert "255 stands for class 1" in message
    assert not output.exists()
    flags = message[message.index("--data.mask_values") :].split()
    assert flags == ["--data.mask_values", "0=background", "255=lesion"]
    run(train_command, *arguments, *flags)
    record = json.loads((output / "record.json").read_text())
    assert set(json.loads((output / "per_class.json").read_text())) == {"background", "lesion"}
    run(eval_command, "--checkpoint", output, "--output", tmp_path / "scores")
    assert json.loads((tmp_path / "scores/metrics.json").read_text()) == record["metrics"]


def test_colours_and_ignored_classes(capsys, caplog, tmp_path):
    """A class that is ignored stays in the list, has no score of its own and leaves the mean."""
    root = write_masks(tmp_path / "data", lambda mask: COLORS[mask])
    arguments = ("--data.root", root, "--output", tmp_path / "run", *ONCE)
    assert "one line R G B NAME" in fails(capsys, 3, train_command, *arguments)
    (root / "table.csv").write_text(TABLE)
    run(train_command, *arguments, "--data.mask_colors", root / "table.csv", "--data.ignore_index", 0)
    scores = json.loads((tmp_path / "run/per_class.json").read_text())
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert list(scores) == ["background", "red", "blue"]
    present = [score for score in scores.values() if score is not None and score == score]
    assert len(present) == 2
    assert record["metrics"]["mIoU"] == pytest.approx(sum(present) / 2)


def test_warnings_are_printed(capsys, tmp_path):
    root = write_masks(tmp_path / "data", names="background\nred\nblue\ngreen\n")
    run(train_command, "--data.root", root, "--output", tmp_path / "run", *ONCE)
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("1 of 4 classes have NO PIXEL in the 4 masks and cannot be learned: green") == 1
    logging.getLogger("data").handlers = []
