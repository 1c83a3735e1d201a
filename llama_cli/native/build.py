"""Compiles the kernels for this processor, once: the result is kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..files.private import private_folder

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")
COMPILERS = ("c++", "g++", "clang++")
OPTIMIZATIONS = (
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-tree-loop-distribute-patterns",  # else GCC clears a tile's registers as memory, by a call
    "-fno-ipa-cp-clone",  # compiles in half the time
)
FLAGS = ("-std=c++17", *OPTIMIZATIONS, "-fopenmp", "-shared", "-fPIC", "-w")
CPUINFO = Path("/proc/cpuinfo")
MOST_SECONDS = 120


def find_compiler() -> str | None:
    """The C++ compiler of this machine: the one that CXX names, or the usual ones; None where there is none."""
    named = os.environ.get("CXX")
    return next((found for name in ((named,) if named else COMPILERS) if (found := shutil.which(name))), None)


def built_library() -> Path | None:
    """The compiled kernels; None where they cannot be had, and -v says why."""
    compiler = find_compiler()
    if compiler is None:
        logger.info("torch's kernels are used: there is no C++ compiler to make faster ones")
        return None
    try:
        folder = private_folder("kernels")
        library = folder / f"{_key(compiler)}.so"
        failure = library.with_suffix(".failed")
        if not library.exists() and not failure.exists():
            _compile(compiler, library, failure)
        why = None if library.exists() else failure.read_text()
    except OSError as error:
        why = str(error)
    if why is not None:
        logger.info("torch's kernels are used: faster ones could not be compiled: %s", why)
        return None
    return library


def _key(compiler: str) -> str:
    """What the result depends on: the source, the compiler, and the processor that it is made for."""
    sources = [path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    parts = [*sources, " ".join((compiler, *FLAGS)).encode(), str(os.stat(compiler).st_mtime_ns).encode()]
    return hashlib.sha256(b"\0".join([*parts, _processor().encode()])).hexdigest()[:32]


def _processor() -> str:
    """The instructions that it has; platform.processor() would start a process to ask."""
    described = CPUINFO.read_text() if CPUINFO.exists() else ""
    features = next((line for line in described.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {features}"


def _compile(compiler: str, library: Path, failure: Path) -> None:
    """Make the library, or the file that says why it cannot be, which spares later starts the attempt.

    Each is made beside its place and moved there whole: several programs may do so at once.
    """
    logger.info("compiling kernels for this processor, which is done once")
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
        try:
            # The user's own compiler on our own source.
            subprocess.run(  # noqa: S603
                command, check=True, capture_output=True, text=True, timeout=MOST_SECONDS, stdin=subprocess.DEVNULL
            )
            os.replace(made, library)
        except subprocess.SubprocessError as error:
            said = Path(scratch) / failure.name
            said.write_text(str(getattr(error, "stderr", None) or error))
            os.replace(said, failure)
