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

from ..files.private import private_folder, temporary_folder
from ..levels import NOTE

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
FAILED = ".failed"


def find_compiler() -> str | None:
    """The C++ compiler of this machine: the one that CXX names, or the usual ones; None where there is none."""
    named = os.environ.get("CXX")
    return next((found for name in ((named,) if named else COMPILERS) if (found := shutil.which(name))), None)


def built_library() -> Path | None:
    """The compiled kernels; None where they cannot be had, which is told."""
    compiler = find_compiler()
    if compiler is None:
        named = os.environ.get("CXX")
        missing = f"CXX names {named}, which is not there" if named else "there is no C++ compiler; g++ would do"
        tell_slower(missing)
        return None
    reasons = []
    for folder_of in (private_folder, temporary_folder):
        try:
            library = _in_folder(folder_of("kernels"), compiler)
        except OSError as error:
            reasons.append(str(error))
            continue
        if reasons:
            logger.info("the kernels are kept in %s: %s", library.parent, reasons[0])
        if library.exists():
            return library
        _tell_failure(compiler, library)
        return None
    tell_slower(f"there is no folder to keep them in: {'; '.join(reasons)}")
    return None


def tell_slower(why: str) -> None:
    """Our own kernels are missed where they cannot be had; --kernels torch does not ask for them."""
    logger.warning(
        "torch's kernels are used, and answers take up to twice as long: %s (--kernels torch asks for them)", why
    )


def _in_folder(folder: Path, compiler: str) -> Path:
    """The library in a folder, compiled if need be, or not there but with a file beside it that says why."""
    library = folder / f"{_key(compiler)}.so"
    failure = library.with_suffix(FAILED)
    if not library.exists() and not failure.exists():
        _compile(compiler, library, failure)
    return library


def _tell_failure(compiler: str, library: Path) -> None:
    said = library.with_suffix(FAILED).read_text(errors="replace").strip().splitlines() or ["it does not say why"]
    reason = next((line for line in said if "error" in line), said[0])
    tell_slower(f"{compiler} cannot compile ours: {reason.strip()[:200]}; CXX may name another compiler")


def _key(compiler: str) -> str:
    """What the result depends on: the source, the compiler, and the processor that it is made for."""
    sources = [path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    parts = [*sources, " ".join((compiler, *FLAGS)).encode(), str(os.stat(compiler).st_mtime_ns).encode()]
    return hashlib.sha256(b"\0".join([*parts, _processor().encode()])).hexdigest()[:32]


def _processor() -> str:
    """The instructions that it has; platform.processor() would start a process to ask."""
    try:
        described = CPUINFO.read_text()
    except OSError:  # another system, or no /proc in a container
        described = ""
    features = next((line for line in described.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {features}"


def _compile(compiler: str, library: Path, failure: Path) -> None:
    """Make the library, or the file that says why it cannot be, which spares later starts the attempt.

    Each is made beside its place and moved there whole: several programs may do so at once.
    """
    logger.log(NOTE, "compiling kernels for this processor in %s, which takes some seconds, once", library.parent)
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
            too_long = f"it took longer than {MOST_SECONDS} s"
            is_late = isinstance(error, subprocess.TimeoutExpired)
            said.write_text(too_long if is_late else str(getattr(error, "stderr", None) or error))
            os.replace(said, failure)
