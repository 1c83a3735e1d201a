"""What somebody may have planted at the name of a file of ours."""

import os
from pathlib import Path


def plant(kind: str, path: Path, victim: Path) -> None:
    """Put something else at the place of a file of ours."""
    victim.write_bytes(b"mine")
    match kind:
        case "link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(victim.with_name("absent"))
        case "second name":
            os.link(victim, path)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "of another user":
            path.write_bytes(b"theirs")
            os.chown(path, 12345, 12345)


KINDS = ["link", "dangling link", "second name", "pipe", "folder"]
KINDS += ["of another user"] if os.geteuid() == 0 else []
