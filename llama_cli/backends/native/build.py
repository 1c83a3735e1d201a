"""Compiles the kernels for this processor, once: the result is kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

from ...errors import NOTE, LlamaError
from ...files.own import read_own
from ...files.private import private_folder, temporary_folder
from ...files.scratch import Scratch
from ...files.write import replace_file, sync_folder
from ..machine import TARGET, processor
from .compiler import SOURCE, compile_with

logger = logging.getLogger(__name__)

COMPILERS = ("c++", "g++", "clang++")
OPTIMIZATIONS = (
    "-O3",
    TARGET,
    "-ffp-contract=fast",
    "-fno-tree-loop-distribute-patterns",  # else GCC clears a tile's registers as memory, by a call
    "-fno-ipa-cp-clone",  # compiles in half the time
)
FLAGS = ("-std=c++17", *OPTIMIZATIONS, "-fopenmp", "-shared", "-fPIC")
MOST_LIBRARY, MOST_REFUSAL = 64 << 20, 1 << 20  # bytes
SECONDS_TO_REMEMBER = 24 * 3600.0  # another day the compiler may have what it lacks


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
            folder = folder_of("kernels")
            found = _in_folder(folder, compiler)
        except (OSError, LlamaError) as error:
            reasons.append(str(error))
            continue
        if reasons:
            logger.info("the kernels are kept in %s: %s", folder, reasons[0])
        if isinstance(found, Path):
            return found
        _tell_failure(compiler, found)
        return None
    tell_slower(f"there is no folder to keep them in: {'; '.join(reasons)}")
    return None


def tell_slower(why: str) -> None:
    """Warn that torch's kernels take the place of our own, which were wanted, and say why."""
    logger.warning(
        "torch's kernels are used, and answers take up to twice as long: %s (--kernels torch asks for them)", why
    )


def _in_folder(folder: Path, compiler: str) -> Path | str:
    """The library in a folder, compiled if need be, or why it cannot be compiled."""
    key = _key(compiler)
    refused = folder / f"{key}.refused"
    for library in folder.glob(f"{key}-*.so"):
        if _is_whole(library):
            return library
        logger.warning("%s is not as it was written: the kernels are compiled anew", library)
        library.unlink()
    said = read_own(refused, MOST_REFUSAL)
    if said is not None and 0 <= time.time() - refused.stat().st_mtime < SECONDS_TO_REMEMBER:  # not of a later day
        return said.decode(errors="replace")
    logger.log(NOTE, "compiling kernels for this processor in %s, which takes some seconds, once", folder)
    with Scratch(folder, "compiling-") as scratch:
        made = scratch / "kernels.so"
        refusal = compile_with(compiler, _flags(), made)
        if refusal is None:
            return _put_in_place(made, folder, key)
    if refusal.is_lasting:
        replace_file(refused, iter([refusal.said.encode()[:MOST_REFUSAL]]), private=True)
    return refusal.said


def _put_in_place(made: Path, folder: Path, key: str) -> Path:
    """Give the library its name, which tells what is in it; several programs may do so at once."""
    library = folder / f"{key}-{_digest(made.read_bytes())}.so"
    made.chmod(0o700)
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(library)
    sync_folder(folder)
    return library


def _is_whole(library: Path) -> bool:
    """Whether it is a file of ours with the content that its name tells: a library cut short ends the process."""
    try:
        data = read_own(library, MOST_LIBRARY)
    except LlamaError:
        return False
    return data is not None and library.stem.endswith(f"-{_digest(data)}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tell_failure(compiler: str, said: str) -> None:
    lines = said.strip().splitlines() or ["it does not say why"]
    reason = next((line for line in lines if "error" in line), lines[0])
    tell_slower(f"{compiler} cannot compile ours: {reason.strip()[:200]}; CXX may name another compiler")


def _flags() -> tuple[str, ...]:
    return (*FLAGS, *processor().defines)


def _key(compiler: str) -> str:
    """What the result depends on: the source, the compiler, and the processor that it is made for."""
    sources = [path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    parts = [*sources, " ".join((compiler, *_flags())).encode(), str(os.stat(compiler).st_mtime_ns).encode()]
    return hashlib.sha256(b"\0".join([*parts, processor().identity.encode()])).hexdigest()[:32]
