"""The kernels' own tests once more, on kernels that end the process where they touch what is not theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cli.backends.native.build import FLAGS, SOURCE, find_compiler

TESTS = Path(__file__).parents[2]
CHECKS = "address,undefined,float-cast-overflow"
CHECKED = (*(flag for flag in FLAGS if flag != "-O3"), "-O2", "-g", "-Wall", "-Wextra")


def runtime(compiler):
    """Where the compiler has its runtime of the address sanitizer; None where it has none."""
    command = [compiler, "-print-file-name=libasan.so"]
    named = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return named if os.path.isabs(named) else None


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    compiler = find_compiler()
    if compiler is None or runtime(compiler) is None:
        pytest.skip("no C++ compiler with sanitizers")
    made = tmp_path_factory.mktemp("kernels") / "kernels.so"
    command = [compiler, *CHECKED, f"-fsanitize={CHECKS}", "-fno-sanitize-recover=all", str(SOURCE), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = [line for line in done.stderr.splitlines() if "warning:" in line and str(SOURCE.parent) in line]
    assert not ours, "the compiler warns of nothing in them"
    return {
        **os.environ,
        "SANITIZED_KERNELS": str(made),
        "LD_PRELOAD": runtime(compiler),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and torch keep what they have to the end
        "PYTHONPATH": str(TESTS),
    }


def run(environment, *arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=TESTS.parent)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tests", ["backends/native/test_linear.py", "backends/native/test_decode.py"])
def test_nothing_is_touched_that_is_not_theirs(kernels, tests):
    pytest_of = ("-m", "pytest", "-q", "-x", "-p", "backends.native.sanitized", "-p", "no:cacheprovider", "-n", "0")
    done = run(kernels, *pytest_of, str(TESTS / tests))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_they_would_say_so(kernels):
    """A product over one column more than there is memory for."""
    code = """
import backends.native.sanitized, torch
from llama_cli.backends.native.library import address, Kind, Matrix, native_library
weights, x = torch.zeros(64), torch.zeros(1, 64)
matrix = Matrix(weights=address(weights), n_out=1, n_in=4096, kind=Kind.FLOAT32)
native_library().linear(matrix, torch.zeros(1, 4096))
"""
    done = run(kernels, "-c", code)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
