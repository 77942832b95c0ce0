"""The table of timm's transformers, `results/transformers.csv`."""

import pytest
import timm

from backbones import list_backbones
from tests.transformers import MODULES, row_of, stored


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch14_reg4_dinov2", "xcit_nano_12_p8_224", "swin_tiny_patch4_window7_224", "tnt_s_patch16_224"],
)
def test_rows_of_a_sample(name: str) -> None:
    row = next(row for row in stored() if row["name"] == name)
    assert row_of(name, row["module"]) == row


def test_table_has_every_transformer_and_agrees_with_the_list() -> None:
    rows = stored()
    assert [row["name"] for row in rows] == [name for module in MODULES for name in timm.list_models(module=module)]
    listed = set(list_backbones())
    assert {row["name"] for row in rows if row["kind"] == "plain"} <= listed
    assert not {row["name"] for row in rows if row["kind"] == "no"} & listed
    assert all((row["kind"] == "no") == bool(row["reason"]) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_all_rows(module: str) -> None:
    for row in stored():
        if row["module"] == module:
            assert row_of(row["name"], module) == row
