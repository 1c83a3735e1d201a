"""Where the system keeps a user's files."""

from __future__ import annotations

from pathlib import Path

import platformdirs

KINDS = {
    "cache": platformdirs.user_cache_path,
    "config": platformdirs.user_config_path,
    "state": platformdirs.user_state_path,
}


class NoHome(OSError):
    """The user has no home folder, as in some containers, and no XDG variable names the folder instead."""


def user_folder(kind: str) -> Path:
    """Our folder of one of KINDS, which need not be there. NoHome where the user has none."""
    try:
        folder = Path(KINDS[kind]("llama-cli"))
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():  # an unknown home stays ~, a folder of that name in the current one
        raise NoHome(f"the user has no home folder, and XDG_{kind.upper()}_HOME names none")
    return folder
