"""Writing all or nothing, and reading only what is ours."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bumpnet_fast.core.files import CheckpointError, atomic, read
from bumpnet_fast.io.saved import load


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_atomic_writing_goes_through_links_and_into_devices(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"old")
    with atomic(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    with atomic(os.devnull) as file:
        file.write(b"gone")
    assert not os.path.isfile(os.devnull)


def test_a_failed_write_leaves_no_trace(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="halfway"), atomic(path) as file:
        file.write(b"new")
        raise ValueError("halfway")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_is_told_with_what_was_wanted_and_what_is_left(before, tmp_path, full_disk):
    path = tmp_path / "file"
    if before:
        path.write_bytes(before)
    full_disk.full = True
    with pytest.raises(OSError) as caught, atomic(path) as file:
        file.write(b"x" * 12345)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    untouched = "; what was there before is untouched" if before else ""
    assert caught.value.strerror == f"No space left on device (12,345 bytes were to be written{untouched})"
    assert os.listdir(tmp_path) == (["file"] if before else [])
    assert before is None or path.read_bytes() == before
    full_disk.full = False
    with atomic(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


LIMITED = """
import resource, sys
import torch
from bumpnet_fast import BumpNet; from bumpnet_fast.io import saved as checkpoint
checkpoint.save(sys.argv[1], BumpNet(2, 9))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    checkpoint.save(sys.argv[1], BumpNet(2, 900))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_what_the_system_refuses_in_the_middle_of_a_file(tmp_path):
    """Not imitated: the kernel takes the first bytes of the file only."""
    path = tmp_path / "model.pt"
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout.startswith("File too large (") and "before is untouched" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == ["model.pt"]
    assert len(load(path).net.rows) == 9


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_device_that_takes_nothing_is_told():
    message = r"No space left on device \(5 bytes were to be written\): '/dev/full'"
    with pytest.raises(OSError, match=message), atomic("/dev/full") as file:
        file.write(b"12345")


GOOD = {"kind": "run", "version": 2, "a": torch.ones(2), "b": [1, None]}


def test_a_good_file_is_read(tmp_path):
    torch.save(GOOD, tmp_path / "file")
    content = read(tmp_path / "file", {"run": (2, ("a", "b"))})
    assert torch.equal(content["a"], GOOD["a"]) and content["b"] == [1, None]
    torch.save({"version": 1}, tmp_path / "file")
    assert read(tmp_path / "file", {"model": (1, ())}) == {"version": 1}


@pytest.mark.parametrize(("content", "message"), [
    ([1, 2], "was not written by bumpnet_fast"),
    ({"a": 1}, "was not written by bumpnet_fast"),
    (GOOD | {"kind": "model"}, "holds a model, not a run"),
    (GOOD | {"version": 3}, "has format 3; .* up to 2"),
    (GOOD | {"version": 0}, "has format 0"),
    ({"kind": "run", "version": 1, "b": 1}, "is damaged: it has no a$"),
])  # fmt: skip
def test_other_files_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "file")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "file", {"run": (2, ("a", "b"))})


@pytest.mark.parametrize("size", [0, 1, 200, -1])
def test_a_part_of_a_file_is_refused(size, tmp_path):
    torch.save(GOOD, tmp_path / "file")
    (tmp_path / "part").write_bytes((tmp_path / "file").read_bytes()[:size])
    with pytest.raises(CheckpointError, match="part is not a checkpoint, or is damaged"):
        read(tmp_path / "part", {"run": (2, ("a", "b"))})
