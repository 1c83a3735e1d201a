"""What ties the structures of Python to those of C++."""

import ctypes
import logging
import subprocess

import pytest

from llama_cli.backends.native import library
from llama_cli.backends.native.build import built_library, find_compiler
from llama_cli.backends.native.compiler import SOURCE
from llama_cli.backends.native.library import Layer, Matrix, Model, differing_fields, native_library

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")

LAST = {Matrix: "kind", Layer: "values", Model: "narrows"}


def changed(structure, change):
    """A structure of the same name whose fields are others."""
    return type(structure.__name__, (ctypes.Structure,), {"_fields_": change(list(structure._fields_))})


CHANGES = {
    "a field more": lambda fields: [*fields, ("spare", ctypes.c_int64)],
    "a field less": lambda fields: fields[:-1],
    "two in the other order": lambda fields: [fields[1], fields[0], *fields[2:]],
    "a first field more": lambda fields: [("spare", ctypes.c_int32), *fields],
    "another size that padding hides": lambda fields: [*fields[:-1], (fields[-1][0], ctypes.c_int16)],
    "another name": lambda fields: [("other", fields[0][1]), *fields[1:]],
}


def test_both_sides_lay_them_out_alike():
    assert differing_fields(ctypes.CDLL(str(built_library()))) == []


@pytest.mark.parametrize("structure", LAST)
@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_structure_is_told_and_its_library_is_not_called(structure, change, monkeypatch, caplog):
    wrong = changed(structure, CHANGES[change])
    monkeypatch.setattr(library, "SHARED", tuple(wrong if each is structure else each for each in library.SHARED))
    caplog.set_level(logging.WARNING)
    path = built_library()
    assert native_library.__wrapped__() is None
    assert "torch's kernels are used" in caplog.text
    assert structure.__name__ in caplog.text
    assert path.exists(), "compiled once more it would be the same"


@pytest.mark.parametrize("target", ["native", "x86-64", "x86-64-v3", "x86-64-v4"])
def test_the_compiler_has_nothing_to_say(target):
    # -Wpsabi only tells that vectors were passed otherwise by GCC 4.
    flags = ["-std=c++17", "-fopenmp", f"-march={target}", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    command = [find_compiler(), *flags, "-fsyntax-only", str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "bad value" in done.stderr or "unsupported argument" in done.stderr:
        pytest.skip(f"a processor of another kind than {target}")
    assert done.returncode == 0, done.stderr
