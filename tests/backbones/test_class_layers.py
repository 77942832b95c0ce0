"""Class layers of a file are kept, reordered by name, or dropped."""

import pytest
import torch

from backbones.class_layers import fit_class_layer

KEYS = ("head.weight", "head.bias")


def layer(rows, fill=None):
    """Weight and bias of a class layer with two inputs. Row i has the value i, or `fill`."""
    values = torch.arange(float(rows)) if fill is None else torch.full((rows,), fill)
    return {"head.weight": values[:, None].expand(-1, 2).clone(), "head.bias": values, "other": torch.ones(1)}


@pytest.mark.parametrize(
    ("stored", "wanted"), [(("a", "b", "c"), ("a", "b", "c")), (None, ("x", "y", "z")), (("x", "y", "z"), None)]
)
def test_equal_and_unknown_classes_are_kept(stored, wanted, caplog):
    loaded = layer(3)
    assert fit_class_layer(loaded, layer(3, -1.0), KEYS, stored, wanted, "file")
    assert loaded["head.bias"].tolist() == [0, 1, 2]
    assert not caplog.records


def test_another_order_is_reordered_by_name(caplog):
    loaded = layer(3)
    assert fit_class_layer(loaded, layer(3, -1.0), KEYS, ["a", "b", "c"], ["c", "a", "b"], "file")
    assert loaded["head.bias"].tolist() == [2, 0, 1]
    assert loaded["head.weight"][:, 1].tolist() == [2, 0, 1]
    assert "reordered by name" in caplog.text


def test_rows_of_several_anchors():
    """Two anchors with three classes each: classes are reordered within each anchor."""
    loaded = layer(6)
    assert fit_class_layer(loaded, layer(6, -1.0), KEYS, ["a", "b", "c"], ["c", "a", "b"], "file")
    assert loaded["head.bias"].tolist() == [2, 0, 1, 5, 3, 4]


@pytest.mark.parametrize(
    ("rows", "stored", "wanted", "reason"),
    [
        (4, ["a", "b", "c", "d"], ["a", "b", "c"], "the number of classes differs"),
        (4, None, None, "the number of classes differs"),
        (3, ["a", "b", "c"], ["a", "b", "d"], "the classes differ: d are not in the file"),
        (3, ["a", "a", "b"], ["a", "b", "b"], "the classes differ"),
    ],
)
def test_other_classes_are_dropped(rows, stored, wanted, reason, caplog):
    loaded = layer(rows)
    assert not fit_class_layer(loaded, layer(3, -1.0), KEYS, stored, wanted, "file")
    assert loaded["head.bias"].tolist() == [-1, -1, -1]
    assert loaded["head.weight"].shape == (3, 2)
    assert loaded["other"].tolist() == [1]
    assert f"file: 'head.weight' is dropped, because {reason}" in caplog.text


def test_a_layer_without_bias():
    loaded = layer(3)
    del loaded["head.bias"]
    assert fit_class_layer(loaded, layer(3), KEYS, ["a", "b", "c"], ["b", "a", "c"], "file")
    assert loaded["head.weight"][:, 0].tolist() == [1, 0, 2]
    assert "head.bias" not in loaded
