"""The flag --compile: what it says where it changes nothing, or cannot be had."""

import os
import tempfile
from functools import partial
from pathlib import Path

import pytest
from helpers import commands
from helpers.models import DATA

import llama_cli
from llama_cli.backends.native.library import native_library
from llama_cli.errors import UsageError

TINY = DATA / "tiny/gqa"
COMMAND = ["complete", "-m", TINY, "--compile", "-n", "3", "-t", "0", "Hi"]


def _set(**variables):
    os.environ.update(variables)


@pytest.mark.skipif(native_library() is None, reason="no kernels of our own here")
def test_our_own_kernels_stay():
    expected = commands.run(*(word for word in COMMAND if word != "--compile"))
    ended = commands.run(*COMMAND)
    assert (ended.code, ended.out) == (0, expected.out)
    (line,) = ended.lines
    assert line.startswith("llama-cli: warning: --compile changes nothing: ")


def test_there_is_no_compiler(tmp_path):
    prepare = partial(_set, CXX="no-such-compiler", PATH="", XDG_CACHE_HOME=str(tmp_path))
    ended = commands.run(*COMMAND, "--kernels", "torch", prepare=prepare)
    assert (ended.code, ended.out) == (2, b"")
    (first, second) = ended.lines
    assert first.startswith("llama-cli: error: --compile: ")
    assert second.endswith("leave --compile out")


@pytest.fixture(name="open_cache")
def _open_cache(tmp_path, monkeypatch):
    """A cache folder that others may write into, beside an empty folder of temporary files."""
    folder, temporary = tmp_path / "llama-cli/compiled", tmp_path / "temporary"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    temporary.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return folder


@pytest.fixture(name="places")
def _places(monkeypatch):
    """Where results would be kept; nothing is compiled."""
    found = []
    monkeypatch.setattr(
        "llama_cli.backends.compile.compile_blocks", lambda model, n_slots, folder: found.append(folder)
    )
    return found


def test_a_folder_that_others_may_write_into_is_not_used(open_cache, places):
    llama_cli.load(TINY, kernels="torch", compile=True)
    assert places == [Path(tempfile.gettempdir()) / f"llama-cli-{os.geteuid()}/compiled"]
    assert list(open_cache.iterdir()) == []


def test_there_is_no_place(open_cache, places):
    (Path(tempfile.gettempdir()) / f"llama-cli-{os.geteuid()}").write_text("a file in its place")
    with pytest.raises(UsageError, match=f"others may write into {open_cache}; .* is no folder"):
        llama_cli.load(TINY, kernels="torch", compile=True)
    assert places == []
