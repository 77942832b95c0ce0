"""Hugging Face data sets where the extra `formats` is not installed."""

import sys
from pathlib import Path

import pytest

from backbones.errors import BadInput
from data.box_dataset import BoxDataset
from data.class_dataset import ClassDataset
from data.mask_dataset import MaskDataset


@pytest.mark.parametrize("kind", [BoxDataset, ClassDataset, MaskDataset])
@pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "train.arrow"])
def test_one_message_says_what_to_install(
    name: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("data.formats.huggingface.is_installed", lambda: False)
    for root in (tmp_path, tmp_path / name):
        with pytest.raises(BadInput, match=r"pyarrow is needed: python -m pip install 'backbone-swap\[formats\]'"):
            kind.open(root, "train")
