"""Locks: they outlive their process if another process inherited the file. Lock files are open for writing, for NFS."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from backbones.errors import BadInput, UserError
from data import lock
from data.lock import LocksMissing, lock_file
from engine import checkpoint
from experiments.jobs import lock as jobs_lock
from experiments.search.trial_storage import TrialStorage


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "lock"
    file.touch()
    return file


def is_free(path):
    with path.open("r+") as file:
        return lock_file(file)


def test_one_holder_at_a_time(path):
    with path.open("r+") as file:
        assert lock_file(file)
        assert not is_free(path)
    assert is_free(path)


def test_it_waits_up_to_the_given_time(path):
    holder = path.open("r+")
    assert lock_file(holder)
    with path.open("r+") as file:
        assert not lock_file(file, patience=0.3)
        threading.Timer(0.3, holder.close).start()
        assert lock_file(file, patience=60)


def test_a_process_that_inherits_the_file_holds_the_lock(path):
    with path.open("r+") as file:
        assert lock_file(file)
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(file.fileno(),), text=True
        )
    assert not is_free(path)
    child.communicate("\n")
    assert is_free(path)


def as_on_nfs(descriptor, *, blocking=True):
    """NFS has an exclusive lock only for files that are open for writing: flock(2), "NFS details"."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    return True


def held(name, folder):
    """Take and release the lock of a run folder, a comparison's, or a search's trial."""
    if name == "run":
        (folder / "config.yaml").write_text("epochs: 1\n")
        with checkpoint.occupied(folder):
            pass
        assert (folder / "config.yaml").read_text() == "epochs: 1\n"
    elif name == "comparison":
        with jobs_lock.only_one(folder):
            pass
    else:
        trials = TrialStorage.__new__(TrialStorage)
        trials.folder = folder
        with trials.locked():
            trials._lock(0).close()
            trials._is_locked(0)


@pytest.mark.case("R23")
@pytest.mark.parametrize("name", ["run", "comparison", "search"])
def test_files_are_open_for_writing(monkeypatch, tmp_path, name):
    monkeypatch.setattr(lock, "lock_descriptor", as_on_nfs)
    held(name, tmp_path)


@pytest.mark.case("R23")
@pytest.mark.parametrize(
    # The first one waits for ten seconds: the library that locks the journal of a search tries again.
    "number",
    [pytest.param(errno.ENOSYS, marks=pytest.mark.slow), errno.ENOLCK, errno.EOPNOTSUPP],
)
def test_no_locks_is_not_another_process(monkeypatch, tmp_path, capsys, number):
    def missing(descriptor, *, blocking):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "lock_descriptor", missing)
    for name in ("run", "comparison"):
        held(name, tmp_path)
        message = capsys.readouterr().err
        assert f"the file system of {tmp_path} has no locks ({os.strerror(number)})" in message
        assert "another process" not in message
        assert "another experiment" not in message
    with pytest.raises(BadInput, match="has no locks"):
        held("search", tmp_path)


def test_other_failures_are_not_hidden(monkeypatch, path):
    def broken(descriptor, *, blocking):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock, "lock_descriptor", broken)
    with path.open("r+") as file, pytest.raises(OSError, match="Input/output") as caught:
        lock_file(file)
    assert not isinstance(caught.value, LocksMissing)


def test_another_experiment_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs_lock, "LOCK_PATIENCE", 0.2)
    with (
        jobs_lock.only_one(tmp_path),
        pytest.raises(UserError, match="another experiment"),
        jobs_lock.only_one(tmp_path),
    ):
        pass


def test_a_trial_is_locked_while_its_file_is_open(tmp_path):
    trials = TrialStorage.__new__(TrialStorage)
    trials.folder = tmp_path
    assert not trials._is_locked(3)
    with trials._lock(3):
        assert trials._is_locked(3)
        with pytest.raises(BadInput, match="still locks"):
            trials._lock(3)
    assert not trials._is_locked(3)
