"""Folders that are made once: what killed processes leave is swept, what others are making is not."""

import fcntl

import pytest

from data.atomic_directory import create_once


def make(folder):
    (folder / "content").write_text("whole")
    (folder / "done").touch()


@pytest.mark.parametrize("alive", [False, True])
def test_what_nobody_makes_any_more_is_swept(tmp_path, alive):
    remains = tmp_path / ".other.1234.tmp"
    remains.mkdir()
    with (tmp_path / ".other.lock").open("w") as lock:
        if alive:
            fcntl.flock(lock, fcntl.LOCK_EX)
        create_once(tmp_path / "one", "done", make, "making it")
    assert remains.exists() == alive
    assert (tmp_path / "one" / "content").read_text() == "whole"


def test_it_is_made_once_and_anew_where_it_is_not_whole(tmp_path):
    create_once(tmp_path / "one", "done", make, "making it")
    create_once(tmp_path / "one", "done", lambda folder: pytest.fail("made twice"), "making it")
    (tmp_path / "one" / "done").unlink()
    (tmp_path / "one" / "stray").touch()
    create_once(tmp_path / "one", "done", make, "making it")
    assert not (tmp_path / "one" / "stray").exists()


def test_a_failure_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        create_once(tmp_path / "one", "done", fail, "making it")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
