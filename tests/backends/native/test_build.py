"""How the kernels are compiled, and what happens where they cannot be."""

import ctypes
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from llama_cli.backends.machine import Processor
from llama_cli.backends.native import build, compiler
from llama_cli.backends.native.build import built_library, find_compiler
from llama_cli.backends.native.library import native_library
from llama_cli.errors import NOTE
from llama_cli.files import private, user_folders
from llama_cli.files.scratch import Scratch

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


BUILD = """
import sys, pathlib
from llama_cli.files import user_folders
from llama_cli.backends.native import build
user_folders.KINDS["cache"] = lambda name: pathlib.Path(sys.argv[1]) / name
print(build.built_library())
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache folder, and what was said."""
    monkeypatch.setitem(user_folders.KINDS, "cache", lambda name: tmp_path / name)
    monkeypatch.setattr(private.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir(mode=0o700)
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
@pytest.mark.parametrize("changed", ["SOURCE", "FLAGS", "processor"])
def test_another_source_or_processor_has_another_library(home, changed, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "compile_with", fake_compile)
    before = built_library()
    other = tmp_path / "kernels.cpp"
    other.write_text("int other;")
    values = {"SOURCE": other, "FLAGS": ("-O0",), "processor": lambda: Processor("another")}
    monkeypatch.setattr(build, changed, values[changed])
    assert built_library() not in (before, None)


def lines_of(caplog):
    """What a person sees who asked for nothing."""
    return [record.getMessage() for record in caplog.records if record.levelno >= NOTE]


def test_it_is_told_while_it_compiles(home, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    fakes_compiler(monkeypatch)
    built_library()
    assert lines_of(caplog) == [f"compiling kernels for this processor in {home}, which takes some seconds, once"]
    caplog.clear()
    built_library()
    assert lines_of(caplog) == []


SLOWER = "torch's kernels are used, and answers take up to twice as long: {} (--kernels torch asks for them)"


def test_there_is_no_compiler(home, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert built_library() is None
    assert lines_of(caplog) == [SLOWER.format("there is no C++ compiler; g++ would do")]
    assert not home.exists()
    caplog.clear()
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert built_library() is None
    assert lines_of(caplog) == [SLOWER.format("CXX names /nowhere/c++, which is not there")]


def test_the_compiler_is_named(monkeypatch, tmp_path):
    compiler = tmp_path / "mine"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert find_compiler() == str(compiler)
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert find_compiler() is None


def compiler_that_says(path, said, monkeypatch):
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' {said} >&2; exit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("'error: no such flag'", "error: no such flag"),
        ("'In file included from x:' 'x:3: error: no member' 'more'", "x:3: error: no member"),
        ("'g++: error: unrecognized command line option -std=c++17'", "unrecognized command line option -std=c++17"),
        ("'x.h:1: fatal error: omp.h: No such file or directory'", "omp.h: No such file or directory"),
    ],
)
def test_the_compiler_fails(said, reason, home, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    compiler = tmp_path / "broken"
    compiler_that_says(compiler, said, monkeypatch)
    for message in ("compiling kernels", "torch's kernels are used"):  # the second time it is not tried again
        caplog.clear()
        assert built_library() is None
        assert lines_of(caplog)[0].startswith(message)
        assert reason in lines_of(caplog)[-1]
        assert f"{compiler} cannot compile ours" in lines_of(caplog)[-1]
    assert [path.suffix for path in home.iterdir()] == [".refused"]
    for day in (0, time.time() + 10**7):  # the clock may have been wrong when it was written
        os.utime(next(home.iterdir()), (day, day))
        caplog.clear()
        assert built_library() is None
        assert lines_of(caplog)[0].startswith("compiling kernels"), "another day it is"
    compiler.write_text("#!/bin/sh\nexit 0\n")
    monkeypatch.setattr(build, "compile_with", fake_compile)
    assert built_library() is not None, "another compiler is tried"


PASSING = [
    "c++: error: x.o: No space left on device",
    "/usr/bin/ld: cannot find -lc: Too many open files",
    "c++: fatal error: Killed signal terminated program cc1plus",
    "cc1plus: out of memory allocating 65536 bytes",
    "virtual memory exhausted: Cannot allocate memory",
    "error: Input/output error",
    "c++: internal compiler error: Segmentation fault signal terminated program cc1plus",
    "x.cpp:9:1: internal compiler error: Bus error",
    "x.s: Fatal error: cannot write to x.o: file truncated",
    "/usr/bin/ld: final link failed: file truncated; collect2: error: ld returned 1 exit status",
    "ccache: error: Failed to create temporary file: Permission denied",
    "error: Interrupted system call",
    "distcc: error: Connection timed out",
    "",
]


@pytest.mark.parametrize("said", PASSING)
def test_a_passing_trouble_is_not_kept(said, home, monkeypatch, tmp_path, caplog):
    """A full disk or a Ctrl-C made every later start two to three times slower, without a word."""
    caplog.set_level(logging.INFO)
    compiler_that_says(tmp_path / "broken", f"'{said}'", monkeypatch)
    for _ in range(2):
        caplog.clear()
        assert built_library() is None
        assert lines_of(caplog)[0].startswith("compiling kernels")
        assert lines_of(caplog)[-1].startswith("torch's kernels are used")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("end", ["exit 134", "kill -KILL $$", "exec sleep 100"])
def test_a_compiler_that_dies_or_stays(end, home, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(compiler, "MOST_SECONDS", 0.5)
    broken = tmp_path / "broken"
    broken.write_text(f"#!/bin/sh\necho 'error: x' >&2\n{end}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert built_library() is None
    assert list(home.iterdir()) == []


SLOW_COMPILER = """#!/bin/sh
sleep 100 &
echo $! > "{told}"
wait
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_compiler_ends_with_the_program(number, home, tmp_path):
    """Its own programs went on, and their folder stayed for good."""
    told, broken = tmp_path / "told", tmp_path / "broken"
    broken.write_text(SLOW_COMPILER.format(told=told))
    broken.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path)], env=os.environ | {"CXX": str(broken)}
    ) as running:
        while not (told.exists() and told.read_text().strip()):
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(number)
    program = int(told.read_text())
    while _is_alive(program):  # the test's own limit of time ends this
        time.sleep(0.01)
    for left in home.iterdir():
        os.utime(left, (0, 0))
    with Scratch(home, "compiling-"):
        pass
    assert list(home.iterdir()) == []


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{process}/status").read_text()


@pytest.mark.promise("P23")
@needs_compiler
@pytest.mark.parametrize("damage", ["cut short", "one byte", "a link", "another mode of its folder"])
def test_a_damaged_library_is_made_anew(damage, home, tmp_path, monkeypatch, caplog):
    """One that was cut short ended the process with SIGBUS at every start."""
    monkeypatch.setattr(build, "compile_with", fake_compile)
    library = built_library()
    whole = library.read_bytes()
    match damage:
        case "cut short":
            library.write_bytes(whole[:100])
        case "one byte":
            library.write_bytes(b"x" + whole[1:])
        case "a link":
            library.rename(tmp_path / "elsewhere")
            library.symlink_to(tmp_path / "elsewhere")
        case _:
            library.chmod(0o777)
            assert built_library() == library, "nobody else gets into the folder"
            return
    assert built_library().read_bytes() == whole
    assert not library.is_symlink()
    assert "is not as it was written" in caplog.text


def fake_compile(compiler, flags, made):
    made.write_bytes(b"made by a double" * 100)


def fakes_compiler(monkeypatch):
    monkeypatch.setattr(build, "find_compiler", lambda: "/bin/sh")
    monkeypatch.setattr(build, "compile_with", fake_compile)


def test_a_folder_that_others_may_write_into_is_not_trusted(home, monkeypatch, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    fakes_compiler(monkeypatch)
    home.mkdir(parents=True)
    home.chmod(0o777)
    assert built_library().parent.parent.parent == tmp_path / "temporary"
    assert "others may write" in caplog.text
    assert list(home.iterdir()) == []


def test_where_the_cache_cannot_be_written_a_temporary_folder_is_used(home, tmp_path, monkeypatch, caplog):
    fakes_compiler(monkeypatch)
    home.parent.write_text("a file in its place")
    library = built_library()
    folder = tmp_path / "temporary" / f"llama-cli-{os.getuid()}" / "kernels"
    assert library.parent == folder
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]
    made = library.stat()
    assert built_library().stat() == made, "the next start finds it"
    assert lines_of(caplog) == []


@pytest.mark.parametrize("kind", ["open", "file", "parent"])
def test_a_temporary_folder_of_somebody_else_is_not_used(kind, home, tmp_path, monkeypatch, caplog):
    """Its name can be foretold: what others can put there is not trusted."""
    fakes_compiler(monkeypatch)
    home.parent.write_text("a file in its place")
    own = tmp_path / "temporary" / f"llama-cli-{os.getuid()}"
    if kind == "file":
        own.write_text("")
    elif kind == "open":
        own.mkdir()
        own.chmod(0o777)
    else:
        own.parent.chmod(0o777)
    assert built_library() is None
    assert "there is no folder to keep them in: " in lines_of(caplog)[0]
    assert not own.is_dir() or list(own.iterdir()) == []


def test_a_user_without_a_home(monkeypatch, tmp_path):
    """No folder of the name ~ appears."""
    monkeypatch.chdir(tmp_path)
    for folder in (RuntimeError("no home"), "~/.cache/llama-cli", ".cache"):
        monkeypatch.setitem(user_folders.KINDS, "cache", partial(_found, folder))
        with pytest.raises(OSError, match="the user has no home folder, and XDG_CACHE_HOME names none"):
            private.private_folder("kernels")
    assert list(tmp_path.iterdir()) == []


def _found(folder, name):
    if isinstance(folder, Exception):
        raise folder
    return folder


def test_a_library_that_cannot_be_loaded_is_told(home, tmp_path, monkeypatch, caplog):
    """A folder that programs may not run from, or half a file."""
    fakes_compiler(monkeypatch)
    native_library.cache_clear()
    assert native_library() is None
    native_library.cache_clear()
    assert lines_of(caplog)[0].startswith("torch's kernels are used")
    assert "invalid ELF header" in lines_of(caplog)[0]
    assert list(home.iterdir()) == [], "half a file was kept for good: its name told its content"


WAITING_COMPILER = """#!/bin/sh
touch "{begun}/$$"
while [ "$(ls "{begun}" | wc -l)" -lt 2 ]; do sleep 0.01; done
while [ "$1" != -o ]; do shift; done
echo made > "$2"
"""


def test_two_programs_compile_at_the_same_time(home, tmp_path):
    """The compiler of each waits until the other's has begun."""
    (tmp_path / "begun").mkdir()
    waiting = tmp_path / "waiting"
    waiting.write_text(WAITING_COMPILER.format(begun=tmp_path / "begun"))
    waiting.chmod(0o755)
    command, settings = [sys.executable, "-c", BUILD, str(tmp_path)], os.environ | {"CXX": str(waiting)}
    running = [subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate(timeout=200)[0] for process in running}
    assert len(found) == 1
    assert [str(path) for path in home.iterdir()] == [found.pop().strip()]
