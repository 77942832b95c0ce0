"""Small data sets, and a file system that fills up."""

import os
import subprocess

import pytest

from tests.detection.conftest import write_coco


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "rectangles", train=12)


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(megabytes)` mounts a file system of that size and returns its folder."""
    mounted = []

    def mount(megabytes):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Write zeros until the disk is full; returns the file."""
    file = folder / "filler"
    with open(file, "wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(2**16))
        except OSError:
            pass
    return file


def environment():
    """For a process of the suite: one thread, for other tests run beside it."""
    return os.environ | {"OMP_NUM_THREADS": "1"}
