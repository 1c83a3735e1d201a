"""Files that are kept beside others: what has their name and is none of ours is refused, unread and unwritten."""

import errno
import fcntl
import os

import pytest
from helpers.planted import KINDS, plant

from llama_cli.errors import OutputFailed, OutputRefused
from llama_cli.files.own import lock, open_own, read_own

pytestmark = pytest.mark.promise("P22")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND, os.O_RDWR | os.O_CREAT])
def test_what_is_planted_is_refused(tmp_path, kind, flags):
    path, victim = tmp_path / "x.started", tmp_path / "victim"
    plant(kind, path, victim)
    with pytest.raises(OutputRefused, match="not a plain file of yours"):
        open_own(path, flags)
    assert victim.read_bytes() == b"mine"
    assert not victim.with_name("absent").exists()


def test_a_file_of_ours(tmp_path):
    handle = open_own(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
    os.write(handle, b"abc")
    os.close(handle)
    assert read_own(tmp_path / "x", 3) == b"abc"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_reading(tmp_path):
    assert read_own(tmp_path / "absent", 3) is None
    (tmp_path / "large").write_bytes(b"abcd")
    with pytest.raises(OutputRefused, match="more than 3 bytes"):
        read_own(tmp_path / "large", 3)
    with pytest.raises(OutputFailed, match="there is no folder"):
        open_own(tmp_path / "absent" / "x", os.O_WRONLY | os.O_CREAT)


def test_one_holder(tmp_path):
    first, second = (os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert lock(first)
    assert not lock(second)
    os.close(first)
    os.close(second)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_that_lock_nothing(tmp_path, monkeypatch, caplog, code):
    """It was "being written by another run" there, for ever."""

    def flock(handle, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with open(tmp_path / "x", "wb") as file:
        assert lock(file.fileno())
    assert "cannot lock" in caplog.text
