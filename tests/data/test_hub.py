"""Data sets of the Hub, from a server on this machine that answers as the Hub does."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbones.errors import BadInput
from data import hub
from data.hub import Address, address, local_root
from data.open import read_split, read_train_val
from data.options import ClassOptions
from tests.data.fake_hub import COMMIT, Hub, connected


def parquet(first: int, tmp_path: Path) -> bytes:
    pa = pytest.importorskip("pyarrow")
    from tests.data.formats.hub_sets import pets

    assert pa
    return pets(tmp_path / "pets.parquet", first, 4).read_bytes()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {
        "README.md": b"# Pets\n",
        "data/train-00000-of-00001.parquet": parquet(0, tmp_path),
        "data/validation-00000-of-00001.parquet": parquet(4, tmp_path),
        "images.zip": b"not needed",
        "pets.py": b"raise SystemExit('executed')",
    }
    script = {"main": {"README.md": b"", "set.py": b"raise SystemExit('executed')"}, "refs/convert/parquet": files}
    running = Hub({"me/pets": {"main": files, "v1": files}, "me/script": script})
    local_root.cache_clear()
    with connected(running, tmp_path / "cache", monkeypatch):
        yield running
    local_root.cache_clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://me/pets", Address("me/pets", "main", "")),
        ("hf://datasets/me/pets@v1", Address("me/pets", "v1", "")),
        ("hf://me/pets@refs/convert/parquet", Address("me/pets", "refs/convert/parquet", "")),
        ("hf://me/pets@refs/convert/parquet/small", Address("me/pets", "refs/convert/parquet", "small")),
        ("hf://me/pets@v1/data/small", Address("me/pets", "v1", "data/small")),
        ("hf://pets", Address("pets", "main", "")),
        ("/data/pets", None),
        ("hf", None),
    ],
)
def test_addresses(text: str, expected: Address | None) -> None:
    assert address(text) == expected
    assert address(Path(text)) == expected


@pytest.mark.parametrize("text", ["hf://", "hf://me/pets@", "hf://me/../x", "hf://me/pe ts"])
def test_malformed_addresses(text: str) -> None:
    with pytest.raises(BadInput, match=r"expected hf://OWNER/NAME\[@REVISION\]\[/FOLDER\]"):
        address(text)


def test_tables_are_downloaded_and_read(server: Hub) -> None:
    train, val, _ = read_train_val("classes", Path("hf://me/pets"), ClassOptions(), 0.0)
    assert (len(train), len(val or ()), train.classes) == (4, 4, ("cat", "dog"))
    assert train.content is not None
    assert train.content(2)[:4] == b"\x89PNG"
    assert sorted(server.downloads) == [
        "README.md", "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet",
    ]  # fmt: skip
    assert COMMIT in str(train.folder)
    before = len(server.downloads)
    local_root.cache_clear()
    read_split("classes", Path("hf://me/pets@v1"), "val", ClassOptions())
    assert len(server.downloads) == before


def test_without_a_network_the_earlier_copy_is_read(server: Hub, caplog: pytest.LogCaptureFixture) -> None:
    folder = local_root(Path("hf://me/pets"))
    server.is_down = True
    local_root.cache_clear()
    with caplog.at_level(logging.WARNING, hub.__name__):
        assert local_root(Path("hf://me/pets")) == folder
    assert "its copy on this machine is read" in caplog.text
    with pytest.raises(BadInput, match=r"hf://me/other@main cannot be downloaded, and there is no earlier copy"):
        local_root(Path("hf://me/other"))
    with pytest.raises(BadInput, match=r"hf://me/pets@v1 cannot be downloaded"):
        local_root(Path("hf://me/pets@v1"))


def test_what_the_hub_does_not_have(server: Hub) -> None:
    with pytest.raises(BadInput, match=r"the Hub has no data set me/none"):
        local_root(Path("hf://me/none"))
    with pytest.raises(BadInput, match=r"me/pets has no revision 'v2'"):
        local_root(Path("hf://me/pets@v2"))
    with pytest.raises(BadInput, match=r"loading script, set\.py, which is not run\. .*me/script@refs/convert/parquet"):
        local_root(Path("hf://me/script"))
    with pytest.raises(BadInput, match="no Arrow or Parquet files among 0"):
        local_root(Path("hf://me/pets/other"))
    assert not server.downloads
