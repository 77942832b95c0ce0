"""Shards in S3: a server on this machine, with missing buckets, wrong keys, and connections that break."""

import os
import socket
import threading

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto")

import s3fs

from backbones.errors import BadInput, StoreError
from data import stores
from data.box_dataset import BoxDataset
from data.convert import shards as writer
from data.convert.runner import convert
from data.loader import train_loader
from tests.data.s3_server import s3_server
from tests.detection.conftest import write_coco


class Proxy:
    """Forwards connections to a port. `cut`: number of answers that are to end after `after` bytes."""

    def __init__(self, port):
        self.target, self.cut, self.after = port, 0, 2000
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source, target, is_answer):
        try:
            while content := source.recv(65536):
                if is_answer and self.cut > 0 and len(content) > self.after:
                    self.cut -= 1
                    target.sendall(content[: self.after])
                    break
                target.sendall(content)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@pytest.fixture(scope="module")
def server():
    with s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD_BYTES", 30_000)
        convert(str(write_coco(root / "coco")), "shards", root / "shards")
    return root


@pytest.fixture
def proxy(server, converted, monkeypatch, tmp_path):
    """A way to the server on which the shards are in s3://bucket/set."""
    proxy = Proxy(server)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "BACKBONE_SWAP_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(stores, "PATIENCE", 1)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.makedirs("bucket", exist_ok=True)
    files.put(f"{converted / 'shards'}/", f"bucket/{tmp_path.name}/", recursive=True)
    proxy.url = f"s3://bucket/{tmp_path.name}"
    yield proxy
    proxy.listener.close()


def batches(dataset, workers):
    return [batch.images.numpy().tobytes() for batch in train_loader(dataset, 3, seed=2, workers=workers)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder(converted, proxy, workers):
    expected = BoxDataset.open(converted / "coco", "train")
    found = BoxDataset.open(proxy.url, "train")
    assert found.digests == expected.digests
    assert batches(found, workers) == batches(expected, 0)


def test_answers_that_break_are_requested_again(converted, proxy):
    expected = BoxDataset.open(converted / "coco", "train")
    found = BoxDataset.open(proxy.url, "train")
    proxy.cut = 5
    assert batches(found, 0) == batches(expected, 0)
    assert proxy.cut == 0


def test_a_store_that_does_not_answer_is_one_error(proxy):
    found = BoxDataset.open(proxy.url, "train", skip_bad=8)
    proxy.cut, proxy.after = 10**6, 0
    with pytest.raises(StoreError, match=r"bucket/.*\.tar cannot be read: .* attempts within"):
        batches(found, 1)
    assert not found.skipped


def test_no_bucket_and_no_credentials(proxy, monkeypatch):
    with pytest.raises(BadInput, match=r"s3://nowhere/set/shards.json does not exist in the store"):
        BoxDataset.open("s3://nowhere/set", "train")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BadInput, match=r"finds no credentials.*Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        BoxDataset.open(f"{proxy.url}/", "val")
