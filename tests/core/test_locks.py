"""The lock of a folder: held against others, named, taken over from a process that was killed, and gone at the end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bumpnet_fast.core import locks
from bumpnet_fast.core.locks import NAME, LockedError, locked

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from bumpnet_fast.core.locks import locked
with locked(sys.argv[1], "a test"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder ``tmp_path`` until it gets a line."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.kill()


def test_another_process_is_refused_and_told_by_whom(holder, tmp_path):
    told = rf"{re.escape(str(tmp_path))} is in use by process {holder.pid} since \d{{4}}-\d\d-\d\d \S+ \(a test\)"
    for _ in range(2):
        with pytest.raises(LockedError, match=told), locked(tmp_path, "mine"):
            raise AssertionError("there are two of them")
    assert os.listdir(tmp_path) == [NAME]
    holder.communicate("go\n")
    with locked(tmp_path, "mine"):
        assert f"process {os.getpid()} since" in (tmp_path / NAME).read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_the_lock_of_a_killed_process_is_taken_over(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert "a test" in (tmp_path / NAME).read_text(), "it was not killed"
    with locked(tmp_path, "mine"):
        assert "mine" in (tmp_path / NAME).read_text() and "a test" not in (tmp_path / NAME).read_text()
        with pytest.raises(LockedError, match="mine"), locked(tmp_path, "again"):
            pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_it_is_given_back_whatever_happens(error, tmp_path):
    with pytest.raises(error), locked(tmp_path, "mine"):
        raise error
    assert os.listdir(tmp_path) == []
    with locked(tmp_path, "mine"):
        pass


@pytest.mark.skipif(locks.fcntl is None, reason="Windows does not remove an open file")
def test_a_file_that_its_holder_removed_after_it_was_opened_is_no_lock(tmp_path, monkeypatch):
    """Otherwise two processes would hold the lock: of a file that is gone, and of the one in its place."""
    held, lock = locked(tmp_path, "first"), locks._lock
    held.__enter__()

    def at_once(file):
        monkeypatch.setattr(locks, "_lock", lock)
        held.__exit__(None, None, None)  # between the opening of the file and its locking
        lock(file)

    monkeypatch.setattr(locks, "_lock", at_once)
    with locked(tmp_path, "second"):
        assert os.listdir(tmp_path) == [NAME]
        with pytest.raises(LockedError, match="second"), locked(tmp_path, "third"):
            pass


def test_a_file_system_without_locks_does_without(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    if locks.fcntl is None:
        pytest.skip("of Unix")
    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with locked(tmp_path, "mine"):
        pass
    assert os.listdir(tmp_path) == []


def test_without_fcntl_it_is_windows_own_lock(tmp_path, monkeypatch):
    """By a stand-in of msvcrt, which locks a byte far behind the text."""
    taken = {}

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(file, mode, count):
            assert (mode, count) == (2, 1) and os.lseek(file, 0, os.SEEK_CUR) > 1000
            inode = os.fstat(file).st_ino
            if inode in taken:
                raise PermissionError(13, "Permission denied")
            taken[inode] = file

    close = os.close
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", Msvcrt, raising=False)

    def closing(file):
        inode = os.fstat(file).st_ino
        if taken.get(inode) == file:
            del taken[inode]
        close(file)

    monkeypatch.setattr(os, "close", closing)
    with locked(tmp_path, "mine"):
        with pytest.raises(LockedError, match="mine"), locked(tmp_path, "again"):
            pass
        assert (tmp_path / NAME).stat().st_size < 200
    assert os.listdir(tmp_path) == [] and not taken


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "nowhere", "mine"):
        pass
