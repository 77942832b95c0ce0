"""Folders that are created once. Folders of killed processes are removed, folders of running ones are not."""

import fcntl

import pytest

from data.atomic_directory import create_once


def make(folder):
    (folder / "content").write_text("whole")
    (folder / "done").touch()


@pytest.mark.parametrize("alive", [False, True])
def test_temporary_folders_of_killed_processes_are_removed(tmp_path, alive):
    leftover = tmp_path / ".other.1234.tmp"
    leftover.mkdir()
    with (tmp_path / ".other.lock").open("w") as lock:
        if alive:
            fcntl.flock(lock, fcntl.LOCK_EX)
        create_once(tmp_path / "one", "done", make, "making it")
    assert leftover.exists() == alive
    assert (tmp_path / "one" / "content").read_text() == "whole"


def test_created_once_and_again_if_incomplete(tmp_path):
    create_once(tmp_path / "one", "done", make, "making it")
    create_once(tmp_path / "one", "done", lambda folder: pytest.fail("made twice"), "making it")
    (tmp_path / "one" / "done").unlink()
    (tmp_path / "one" / "stray").touch()
    create_once(tmp_path / "one", "done", make, "making it")
    assert not (tmp_path / "one" / "stray").exists()


def test_a_failure_leaves_no_folder(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        create_once(tmp_path / "one", "done", fail, "making it")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
