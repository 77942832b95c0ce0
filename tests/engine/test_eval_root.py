"""The data that `eval` reads without --data.root."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from detection.spec import SPEC
from engine import restore


@pytest.mark.parametrize(
    ("root", "train", "expected"),
    [(None, "set/boxes.json:photos", "set"), (None, "set/train", "set"), ("set", "other/train.json", "set")],
)
def test_it_is_the_data_of_the_training_if_only_its_files_were_named(root, train, expected):
    info = SimpleNamespace(config={"data": {"root": root, "train": train}}, dataset={"root": expected})
    assert restore.data_root(SimpleNamespace(info=info), SPEC, None) == Path(expected)
    assert restore.data_root(SimpleNamespace(info=info), SPEC, "named") == Path("named")
