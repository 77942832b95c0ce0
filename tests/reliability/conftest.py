"""A small data set, and file systems that can be filled."""

import os
import subprocess

import pytest

from tests.detection.conftest import write_coco


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "rectangles", train=12)


@pytest.fixture
def small_disk(tmp_path):
    """A function `small_disk(megabytes)` that mounts a file system of that size and returns its folder."""
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
    """Write zeros until the disk is full. Returns the file."""
    file = folder / "filler"
    with open(file, "wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(2**16))
        except OSError:
            pass
    return file


def environment():
    """Environment for a subprocess: one thread, because other tests run at the same time."""
    return os.environ | {"OMP_NUM_THREADS": "1"}
