"""Puts a text on the clipboard: by a program of the desktop, or by asking the terminal."""

from __future__ import annotations

import os
import shutil
import subprocess

from .terminal import Terminal

# Each with the variable that its desktop sets, if that tells whether there is one.
PROGRAMS = (
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    (None, ("pbcopy",)),
    ("WSL_DISTRO_NAME", ("clip.exe",)),
)
MOST_SECONDS = 5


def copy_to_clipboard(text: str, terminal: Terminal) -> str:
    """Copy a text: how, to be told. Far away, over ssh, only the terminal knows the clipboard that is meant."""
    if "SSH_CONNECTION" not in os.environ:
        for variable, command in PROGRAMS:
            if (variable is None or os.environ.get(variable)) and _run(command, text):
                return f"with {command[0]}"
    terminal.copy(text)
    return "by asking the terminal (OSC 52), which may be set to refuse"


def _run(command: tuple[str, ...], text: str) -> bool:
    program = shutil.which(command[0])
    if program is None:
        return False
    try:
        # The output is not read: xclip stays behind to serve the clipboard, and would hold a pipe open.
        subprocess.run(  # noqa: S603
            [program, *command[1:]],
            input=text.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=MOST_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True
