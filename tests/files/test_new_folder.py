"""A folder is there whole or not at all, and nothing that was there is lost."""

import errno
import fcntl
import os

import pytest
from helpers import faults

from llama_cli.errors import MORE_ROOM, OutputFailed, OutputRefused
from llama_cli.files.new_folder import check_space, new_folder


class Killed(BaseException):
    """As a signal: nothing catches it."""


def fill(folder, text="new"):
    (folder / "params.json").write_text(text)


def make(target, text="new", *, replace=False, raising=None, meanwhile=lambda: None):
    with new_folder(target, replace=replace) as folder:
        assert list(folder.iterdir()) == []
        fill(folder, text)
        meanwhile()
        if raising is not None:
            raise raising


def killed(target):
    """What a run leaves behind that was killed while it wrote."""
    child = os.fork()
    if not child:
        make(target, meanwhile=lambda: os._exit(9))
    os.waitpid(child, 0)
    assert (target.with_name(f".{target.name}.partial") / "new/params.json").exists()


def model(target, text="old"):
    target.mkdir()
    fill(target, text)
    return target


def content(target):
    return (target / "params.json").read_text()


def test_it_appears_at_the_end(tmp_path):
    target = tmp_path / "model"
    with new_folder(target) as folder:
        fill(folder)
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert content(target) == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed, ValueError])
def test_it_does_not_appear_after_an_error(error, tmp_path):
    with pytest.raises(error):
        make(tmp_path / "model", raising=error)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_cleared_away(tmp_path):
    killed(tmp_path / "model")
    make(tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "params.json"]


def test_a_kill_before_anything_was_written(tmp_path):
    (tmp_path / ".model.partial").mkdir()
    make(tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "params.json"]


PLANTED = [
    "a folder of files",
    "an empty link",
    "a link",
    "a file",
    "a pipe",
    "a folder in it",
    "a note in what a kill left",
]
PLANTED += ["a link in what a kill left", "a folder of another user"]


@pytest.mark.promise("P22")
@pytest.mark.parametrize("what", PLANTED)
def test_a_place_of_somebody_elses_is_refused(what, tmp_path):
    """A folder or a link of that name lost its files, with exit code 0."""
    place, precious = tmp_path / ".model.partial", tmp_path / "precious"
    precious.mkdir()
    (precious / "weights.pth").write_text("precious")
    if "kill left" in what:
        killed(tmp_path / "model")
    match what:
        case "a folder of files":
            precious.rename(place)
            precious = place
        case "an empty link":
            place.symlink_to(tmp_path / "absent")
        case "a link":
            place.symlink_to(precious)
        case "a file":
            place.write_text("precious")
        case "a pipe":
            os.mkfifo(place)
        case "a folder in it":
            place.mkdir()
            (place / "new").mkdir()
        case "a note in what a kill left":
            (place / "new/notes.txt").write_text("precious")
        case "a link in what a kill left":
            (place / "new/consolidated.01.pth").symlink_to(precious / "weights.pth")
        case "a folder of another user":
            if os.geteuid():
                pytest.skip("needs root")
            place.mkdir()
            os.chown(place, 12345, 12345)
    with pytest.raises(OutputRefused, match="none of this program's"):
        make(tmp_path / "model")
    assert (precious / "weights.pth").read_text() == "precious"
    assert os.path.lexists(place)
    assert what != "a note in what a kill left" or (place / "new/notes.txt").exists()
    assert not (tmp_path / "model").exists()


def test_what_others_put_into_the_place_meanwhile_stays(tmp_path):
    def meanwhile():
        (tmp_path / ".model.partial/new/notes.txt").write_text("precious")

    with pytest.raises(Killed):
        make(tmp_path / "model", raising=Killed, meanwhile=meanwhile)
    assert (tmp_path / ".model.partial/new/notes.txt").read_text() == "precious"


def test_nobody_else_may_look_into_the_place(tmp_path):
    modes = []
    before = os.umask(0)
    try:
        make(tmp_path / "model", meanwhile=lambda: modes.append((tmp_path / ".model.partial").stat().st_mode & 0o777))
    finally:
        os.umask(before)
    assert modes == [0o700]


def test_what_is_there_stays(tmp_path):
    target = model(tmp_path / "model")
    with pytest.raises(OutputRefused, match="exists already") as caught:
        make(target)
    assert "--force" in caught.value.hint
    assert content(target) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_empty_folder_is_nothing_to_keep(tmp_path):
    (tmp_path / "model").mkdir()
    make(tmp_path / "model")
    assert content(tmp_path / "model") == "new"


def test_replacing(tmp_path):
    target = model(tmp_path / "model")
    (target / "consolidated.01.pth").write_bytes(b"of the old one")
    make(target, replace=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "params.json"]
    assert content(target) == "new"


def test_an_error_while_replacing_keeps_the_old_one(tmp_path):
    target = model(tmp_path / "model")
    with pytest.raises(Killed):
        make(target, replace=True, raising=Killed)
    assert content(target) == "old"


@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_between_the_renames_loses_nothing(at, tmp_path, monkeypatch):
    """A killed process runs no code of ours any more; the next run finds the old folder under its other name."""
    target = model(tmp_path / "model")
    child = os.fork()
    if not child:
        real, calls = os.rename, 0

        def rename(*arguments, **more):
            nonlocal calls
            calls += 1
            real(*arguments, **more)
            if calls == at:
                os._exit(9)

        faults.replace_call("rename", rename)
        make(target, replace=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert target.exists() == (at == 2)
    with pytest.raises(OutputRefused, match="exists already"):
        make(target, "another")
    assert content(target) == ("old" if at == 1 else "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("what", ["a file", "subfolders", "no model"])
def test_only_a_folder_of_a_model_is_replaced(what, tmp_path):
    target = tmp_path / "model"
    if what == "a file":
        target.write_text("precious")
    else:
        target.mkdir()
        (target / "precious.txt").write_text("precious")
        if what == "subfolders":
            fill(target)
            (target / "original").mkdir()
    with pytest.raises(OutputRefused):
        make(target, replace=True)
    precious = target if what == "a file" else target / "precious.txt"
    assert precious.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_runs_do_not_mix(tmp_path):
    with new_folder(tmp_path / "model") as folder:
        fill(folder, "first")
        with pytest.raises(OutputRefused, match="another run"):
            make(tmp_path / "model", "second")
    assert content(tmp_path / "model") == "first"


def test_a_file_system_without_locks_for_folders(tmp_path, monkeypatch):
    """NFS: the folder is open for reading, and it wants it open for writing."""

    def flock(handle, operation):
        raise OSError(errno.EBADF, "bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", flock)
    make(tmp_path / "model")
    assert content(tmp_path / "model") == "new"


def test_a_run_that_came_too_late_does_not_write_into_the_finished_folder(tmp_path, monkeypatch):
    """It opened the folder before the other one renamed it, and got the lock after."""
    target = tmp_path / "model"
    real = fcntl.flock

    def flock(handle, operation):
        (tmp_path / ".model.partial").rename(target)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputRefused, match="another run"):
        make(target)
    assert target.exists()


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(OutputRefused, match="exists already"):
        make(target, meanwhile=lambda: model(target))
    assert content(target) == "old"


def test_a_link_stands_for_where_it_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk/model")
    make(tmp_path / "model")
    assert content(tmp_path / "disk/model") == "new"
    assert (tmp_path / "model").is_symlink()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_what_the_disk_says(number, tmp_path):
    with pytest.raises(OutputFailed) as caught:
        make(tmp_path / "model", raising=OSError(number, os.strerror(number)))
    assert caught.value.exit_code == 74
    assert os.strerror(number).lower() in caught.value.message
    assert caught.value.hint == MORE_ROOM.get(number, f"look at {tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_no_place_to_write(tmp_path):
    with pytest.raises(OutputFailed, match=r"there is no folder .*missing"):
        make(tmp_path / "missing/model")


def test_the_room_is_counted_first(tmp_path):
    check_space(tmp_path, 1000)
    with pytest.raises(OutputFailed, match=r"needs 1,000,000\.00 GB on the disk of .*, [\d,.]+ GB are free"):
        check_space(tmp_path, 10**15)


def test_files_are_on_the_disk_before_the_folder_gets_its_name(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append((os.fstat(handle).st_ino, (tmp_path / "model").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    make(tmp_path / "model")
    inodes = [(tmp_path / name).stat().st_ino for name in ("model/params.json", "model", ".")]
    assert synced == [(inodes[0], False), (inodes[1], False), (inodes[2], True)]


@pytest.mark.parametrize("umask", [0, 0o002, 0o022, 0o077])
def test_others_never_write_into_what_is_made(tmp_path, umask):
    """With a umask of nothing everybody could write the weights that the next command runs."""
    target, before = tmp_path / "model", os.umask(umask)
    try:
        make(target)
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (target, target / "params.json")]
    assert modes == [0o755 & ~umask, 0o644 & ~umask]
