"""Files that one process holds while it writes them, again and again."""

import os
import shlex

import pytest

from llama_cli.errors import OutputFailed
from llama_cli.files.claim import Claim, InUse, ensure_writable
from llama_cli.files.write import replace_file


def test_one_has_it_until_the_end(tmp_path):
    path = tmp_path / "s"
    path.touch()
    with Claim(path), pytest.raises(InUse):
        Claim(path)
    with Claim(path):
        pass


def test_what_replaces_it_is_held_too(tmp_path):
    path = tmp_path / "s"
    with Claim(path) as claim:
        for text in (b"a", b"b"):
            replace_file(path, iter([text]))
            claim.renew(path)
            with pytest.raises(InUse):
                Claim(path)
    with Claim(path):
        pass


def test_an_empty_file_that_was_made_is_gone_again(tmp_path):
    path = tmp_path / "s"
    with Claim(path, make=True):
        assert path.stat().st_size == 0
        with pytest.raises(InUse):
            Claim(path, make=True)
    assert not path.exists()
    with Claim(path, make=True) as claim:
        replace_file(path, iter([b"a"]))
        claim.renew(path)
    assert path.read_bytes() == b"a"


def test_a_link_stands_for_its_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "s")
    (tmp_path / "s").touch()
    with Claim(tmp_path / "link"), pytest.raises(InUse):
        Claim(tmp_path / "s")
    assert sorted(os.listdir(tmp_path)) == ["link", "s"]


def test_hints_can_be_typed_whatever_the_folder_is_called(tmp_path):
    """`mkdir -p my chats;rm -rf ~` was the thing to type."""
    path = tmp_path / "my chats;touch $(touch owned)'s" / "a b"
    for words in (["mkdir", "-p", str(path.parent)], ["chmod", "u+w", f"{path},", "or", "give", "another", "file"]):
        with pytest.raises(OutputFailed) as failed:
            ensure_writable(path)
        assert shlex.split(failed.value.hint) == words
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o400)
