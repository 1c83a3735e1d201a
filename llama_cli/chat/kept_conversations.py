"""The last conversation with each model, kept without being asked for in a folder that is its owner's alone.

One for each model, and one for each further terminal that talks with the same model at the same time.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from ..errors import InputRejected, LlamaError, OutputFailed
from ..files.claim import Claim, InUse
from ..files.private import make_private
from ..files.user_folders import user_folder

MOST_AT_ONCE = 32
NUMBER = re.compile(r"(~\d+)?\.jsonl$")  # of a terminal, at the end of a file's name


def claim_new(model: Path) -> Claim:
    """A place for a new conversation with a model's folder. OutputFailed if none can be kept."""
    for path in _places(model):
        try:
            return Claim(path, make=True)
        except InUse:
            continue
    raise OutputFailed(f"{MOST_AT_ONCE} conversations with {model.name} are open", "--session FILE keeps it elsewhere")


def claim_last(model: Path) -> Claim:
    """The latest conversation with a model's folder, to go on with. InputRejected if there is none."""
    found = [path for path in _places(model) if path.exists() and path.stat().st_size]
    if not found:
        raise InputRejected(f"no conversation with {model.name} is kept", "begin one: leave out --continue")
    return Claim(max(found, key=lambda path: path.stat().st_mtime_ns))


def forget_older(claim: Claim) -> None:
    """Remove what was kept of the same model before, but not what is open elsewhere."""
    own = NUMBER.sub("", claim.path.name)
    for path in claim.path.parent.glob("*.jsonl"):
        if path != claim.path and NUMBER.sub("", path.name) == own:
            with suppress(LlamaError), Claim(path):
                path.unlink(missing_ok=True)


def _places(model: Path) -> list[Path]:
    real = os.path.realpath(model)
    name = re.sub(r"[^\w.-]", "_", os.path.basename(real))[:64]
    stem = f"{name}-{hashlib.blake2b(os.fsencode(real), digest_size=6).hexdigest()}"
    folder = _folder()
    return [folder / f"{stem}{f'~{number}' if number else ''}.jsonl" for number in range(MOST_AT_ONCE)]


def _folder() -> Path:
    try:
        folder = make_private(user_folder("state") / "conversations")
        if stat.S_IMODE(folder.stat().st_mode) & 0o077:
            raise OSError(f"others may read {folder}")
    except OSError as error:
        reason = error.strerror and f"{error.strerror.lower()}: {error.filename}"
        raise OutputFailed(reason or str(error), "--no-session") from None
    return folder
