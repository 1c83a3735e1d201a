"""How the kernels are compiled, and what happens where they cannot be."""

import ctypes
import logging
import os
import shutil
import stat
import subprocess
import sys

import pytest

from llama_cli.files import private
from llama_cli.native import build
from llama_cli.native.build import built_library, find_compiler

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache folder, and what was said."""
    monkeypatch.setattr(private.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "llama-cli" / "kernels"


@needs_compiler
def test_it_is_made_once(home, caplog):
    caplog.set_level(logging.INFO)
    library = built_library()
    made = library.stat()
    assert library.parent == home
    assert [path.name for path in home.iterdir()] == [library.name], "nothing else is left"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert ctypes.CDLL(str(library)).most_head_dim() >= 128
    assert caplog.text.count("compiling") == 1
    assert built_library() == library
    assert library.stat().st_mtime_ns == made.st_mtime_ns
    assert caplog.text.count("compiling") == 1


@needs_compiler
@pytest.mark.parametrize("changed", ["SOURCE", "FLAGS", "_processor"])
def test_another_source_or_processor_has_another_library(home, changed, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "_compile", lambda compiler, library, failure: library.write_bytes(b""))
    before = built_library()
    other = tmp_path / "kernels.cpp"
    other.write_text("int other;")
    values = {"SOURCE": other, "FLAGS": ("-O0",), "_processor": lambda: "another"}
    monkeypatch.setattr(build, changed, values[changed])
    assert built_library() not in (before, None)


def test_there_is_no_compiler(home, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert built_library() is None
    assert "no C++ compiler" in caplog.text
    assert not home.exists()


def test_the_compiler_is_named(monkeypatch, tmp_path):
    compiler = tmp_path / "mine"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert find_compiler() == str(compiler)
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert find_compiler() is None


def test_the_compiler_fails(home, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'no such flag' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert built_library() is None
    assert "no such flag" in caplog.text
    assert [path.suffix for path in home.iterdir()] == [".failed"]
    caplog.clear()
    assert built_library() is None
    assert "no such flag" in caplog.text
    assert "compiling" not in caplog.text, "it is not tried again"
    compiler.write_text('#!/bin/sh\nexec c++ "$@"\n')
    if shutil.which("c++"):
        assert built_library() is not None, "another compiler is"


@needs_compiler
def test_a_folder_that_others_may_write_into_is_not_trusted(home, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    home.mkdir(parents=True)
    home.chmod(0o777)
    assert built_library() is None
    assert "others may write" in caplog.text


@needs_compiler
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_the_folder_cannot_be_made(home, tmp_path):
    tmp_path.chmod(0o500)
    assert built_library() is None


@needs_compiler
def test_two_programs_compile_at_the_same_time(home, tmp_path):
    code = (
        "import sys, pathlib; from llama_cli.files import private; from llama_cli.native import build;"
        "private.platformdirs.user_cache_path = lambda name: pathlib.Path(sys.argv[1]) / name;"
        "print(build.built_library())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate(timeout=200)[0] for process in running}
    assert len(found) == 1
    assert [str(path) for path in home.iterdir()] == [found.pop().strip()]
