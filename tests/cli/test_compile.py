"""The flag --compile: what it says where it changes nothing, or cannot be had."""

import os
from functools import partial

import commands
import pytest
from support import DATA

from llama_cli.native.library import native_library

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


def test_a_folder_that_others_may_write_into_is_not_used(tmp_path):
    folder = tmp_path / "llama-cli/compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    prepare = partial(_set, XDG_CACHE_HOME=str(tmp_path))
    ended = commands.run(*COMMAND, "--kernels", "torch", prepare=prepare)
    assert (ended.code, ended.out) == (2, b"")
    assert "others may write into" in ended.lines[0]
    assert list(folder.iterdir()) == []
