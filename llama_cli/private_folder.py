"""Folders of the user's cache for what is run as code: nobody else may write into them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs


def private_folder(name: str) -> Path:
    """A folder in the user's cache, made if need be. OSError if it is not the user's alone."""
    folder = Path(platformdirs.user_cache_path("llama-cli")) / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise OSError(f"others may write into {folder}")
    return folder
