"""Files that are written whole: their mode, their names meanwhile, and what stands in the way."""

import errno
import os
import shlex
import stat

import pytest

from llama_cli.errors import OutputFailed, OutputRefused
from llama_cli.files import write
from llama_cli.files.write import replace_file, sync_folder, write_failed


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_nothing_else_is_left(tmp_path):
    replace_file(tmp_path / "out", iter([b"a", b"b"]))
    assert (tmp_path / "out").read_bytes() == b"ab"
    assert os.listdir(tmp_path) == ["out"]


def test_a_private_file_is_private_before_its_first_byte(tmp_path):
    """With a umask of nothing: it was everybody's until it was written."""
    seen = []

    def parts():
        (beside,) = tmp_path.iterdir()
        seen.append(mode(beside))
        yield b"secret"

    before = os.umask(0)
    try:
        replace_file(tmp_path / "talk", parts(), private=True)
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert mode(tmp_path / "talk") == 0o600


@pytest.mark.parametrize(("umask", "expected"), [(0, 0o644), (0o002, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_others_may_read_what_is_new_as_the_umask_says_and_never_write(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "out", iter([b"new"]))
    finally:
        os.umask(before)
    assert mode(tmp_path / "out") == expected


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "free some space"), (errno.EFBIG, "ulimit -f unlimited")])
def test_what_makes_room_is_said(tmp_path, number, hint):
    """A limit on the size of a file is not mended by free space."""
    error = write_failed(tmp_path, OSError(number, os.strerror(number)), more="; what is in it is whole")
    assert error.message == f"cannot write {tmp_path}: {os.strerror(number).lower()}; what is in it is whole"
    assert hint in error.hint


@pytest.mark.parametrize("name", ["none/out", "no ne/out", "link/out", "a/b/c/out"])
def test_a_folder_that_is_not_there_is_named_with_what_makes_it(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    folder = (tmp_path / name).parent.resolve()
    with pytest.raises(OutputFailed) as caught:
        replace_file(tmp_path / name, iter([b"new"]))
    assert caught.value.message.endswith(f": there is no folder {folder}")
    assert caught.value.hint == f"mkdir -p {shlex.quote(str(folder))}"


@pytest.mark.parametrize("before", [0o600, 0o640, 0o664])
def test_the_mode_of_what_is_replaced_stays(tmp_path, before):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(before)
    replace_file(path, iter([b"new"]))
    assert (path.read_bytes(), mode(path)) == (b"new", before)


@pytest.mark.promise("P22")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_planted_name_is_not_followed(tmp_path, kind):
    """The old name, X.part, could be foretold: what was planted there was written to, or waited for."""
    victim, planted = tmp_path / "victim", tmp_path / "out.part"
    victim.write_bytes(b"mine")
    {"link": lambda: planted.symlink_to(victim), "pipe": lambda: os.mkfifo(planted), "folder": planted.mkdir}[kind]()
    replace_file(tmp_path / "out", iter([b"new"]))
    assert (tmp_path / "out").read_bytes() == b"new"
    assert victim.read_bytes() == b"mine"
    assert os.path.lexists(planted)


def test_a_link_stands_for_its_file(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    replace_file(link, iter([b"new"]))
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_left(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(OutputRefused, match="no regular file"):
        replace_file(tmp_path / "out", iter([b"new"]))
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def parts():
        yield b"ne"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputFailed, match="no space left"):
        replace_file(path, parts())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_program_left_goes_when_it_is_old(tmp_path):
    old, young, other = (
        tmp_path / f".{name}.{mark * 16}.part" for name, mark in [("a[1]", "0"), ("a[1]", "1"), ("b", "0")]
    )
    for path in (old, young, other):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    replace_file(tmp_path / "a[1]", iter([b"new"]))
    assert sorted(os.listdir(tmp_path)) == sorted(["a[1]", young.name, other.name])


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_that_sync_no_folders_are_told_once(tmp_path, monkeypatch, caplog, code):
    def fsync(handle):
        raise OSError(code, os.strerror(code))

    write._warn_of_names.cache_clear()
    monkeypatch.setattr(os, "fsync", fsync)
    sync_folder(tmp_path)
    sync_folder(tmp_path)
    assert len(caplog.records) == 1
