"""What differs between the data of a stored run and present data, in words."""

import pytest

from engine.checkpoint import RunInfo
from engine.data_changes import data_changes

DIGESTS = {"names": "n", "sizes": "s", "labels": "l"}


def described(classes=("ant", "bee", "cat"), version=1, digests=True, val=None, **train):
    """A run with the given values for the fingerprint, the digests and the counts of its training images."""
    parts = {name: train.pop(name) for name in DIGESTS if name in train}
    fingerprint = {"train": train.pop("fingerprint", "f"), "val": val or "v"}
    dataset = {"root": "data", "fingerprint": fingerprint, "fingerprint_version": version, "val": {"images": 4},
               "train": {"images": 8, "boxes": 20, "images_per_class": (2, 3)} | train}  # fmt: skip
    if digests:
        dataset["digests"] = {"train": DIGESTS | parts, "val": DIGESTS}
    return RunInfo("detection", dataset, {}, list(classes), {}, {})


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({}, []),
        ({"classes": ("ant", "bee")}, ["the class 'cat' is missing"]),
        ({"classes": ("ant", "bee", "cat", "dog", "eel")}, ["the classes 'dog', 'eel' are new"]),
        ({"classes": ("ant", "bee", "dog")}, ["the class 'cat' is missing, the class 'dog' is new, perhaps renamed"]),
        ({"classes": ("bee", "ant", "cat")},
         ["the order of the classes was 'ant', 'bee', 'cat', and is now 'bee', 'ant', 'cat'"]),
        ({"fingerprint": "g", "names": "m", "images": 16, "boxes": 40},
         ["training, images: 8, now 16", "training, boxes: 20, now 40", "other file names of training images"]),
        ({"fingerprint": "g", "sizes": "t"}, ["other sizes in bytes of training images"]),
        ({"fingerprint": "g", "labels": "k", "boxes": 19},
         ["training, boxes: 20, now 19", "other labels of training images"]),
        ({"val": "w"}, ["names, sizes or labels of the validation images differ"]),
    ],
)  # fmt: skip
def test_changes_in_words(present, expected):
    assert data_changes(described(), described(**present)) == expected


def test_runs_of_earlier_versions_have_no_digests():
    """Their fingerprints are compared. Which part differs is not known, except for counts."""
    stored = described(digests=False)
    del stored.dataset["fingerprint_version"]
    assert data_changes(stored, described()) == []
    assert data_changes(stored, described(fingerprint="g", labels="k")) == [
        "names, sizes or labels of the training images differ"
    ]
    assert data_changes(stored, described(fingerprint="g", boxes=19)) == ["training, boxes: 20, now 19"]


def test_other_fingerprint_versions_are_not_compared(caplog):
    stored = described()
    assert data_changes(stored, described(version=2, fingerprint="g", labels="k", boxes=19)) == []
    assert "not the labels" in caplog.text
    assert len(caplog.records) == 1
    assert data_changes(stored, described(version=2, images=9)) == ["training, images: 8, now 9"]
    assert data_changes(stored, described(version=2, classes=("ant",))) == ["the classes 'bee', 'cat' are missing"]


def test_many_names_are_shortened():
    stored = described(classes=[f"c{i}" for i in range(9)])
    (change,) = data_changes(stored, described(classes=[f"d{i}" for i in range(9)]))
    assert change == (
        "the classes 'c0', 'c1', 'c2', 'c3', 'c4', ... are missing, "
        "the classes 'd0', 'd1', 'd2', 'd3', 'd4', ... are new"
    )
