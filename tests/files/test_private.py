"""Folders that nobody else may write into, and whose parents nobody else may swap."""

import os
import stat

import pytest

from llama_cli.files import private, user_folders
from llama_cli.files.private import make_private, private_folder

pytestmark = pytest.mark.promise("P25")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def _no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_no_umask")
def test_all_that_is_made_is_private(tmp_path):
    """With a umask of nothing the folders above were everybody's, and another user's library was run."""
    folder = make_private(tmp_path / "a/b/c")
    assert folder == tmp_path / "a/b/c"
    for each in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700


@pytest.mark.parametrize("which", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("mode", [0o777, 0o757, 0o770])
def test_a_folder_that_others_may_write_into(tmp_path, monkeypatch, which, mode):
    monkeypatch.setattr(private, "_is_own_group", lambda gid: False)
    make_private(tmp_path / "a/b/c")
    (tmp_path / which).chmod(mode)
    with pytest.raises(OSError, match=f"others may write into {tmp_path / which}$"):
        make_private(tmp_path / "a/b/c")


def test_a_group_of_ones_own_is_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(private, "_is_own_group", lambda gid: True)
    make_private(tmp_path / "a/b")
    (tmp_path / "a").chmod(0o770)
    assert make_private(tmp_path / "a/b") == tmp_path / "a/b"


def test_a_shared_folder_where_nobody_renames_what_others_made(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert make_private(shared / "mine") == shared / "mine"
    (shared / "mine").chmod(0o1777)
    with pytest.raises(OSError, match="others may write"):
        make_private(shared / "mine")


@needs_root
@pytest.mark.parametrize("which", ["a", "a/b"])
def test_a_folder_of_another_user(tmp_path, which):
    make_private(tmp_path / "a/b")
    os.chown(tmp_path / which, 12345, 12345)
    with pytest.raises(OSError, match=f"{tmp_path / which} belongs to another user"):
        make_private(tmp_path / "a/b")


def test_a_link_stands_for_where_it_leads_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert make_private(tmp_path / "link/mine") == tmp_path / "real/mine"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.touch()])
def test_a_file_in_the_way(tmp_path, make):
    make(tmp_path / "a")
    with pytest.raises(OSError, match=r"is no folder|Not a directory"):
        make_private(tmp_path / "a/b")


def test_it_lies_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setitem(user_folders.KINDS, "cache", lambda name: tmp_path / name)
    assert private_folder("kernels") == tmp_path / "llama-cli/kernels"
