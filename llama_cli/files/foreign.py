"""Says what a file is that is not what its name promises, by its first bytes."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelRejected
from . import magic
from .quoting import plain
from .regular_file import read_head

DOWNLOAD_AGAIN = "download the file again"

# What to do about a file of a known kind where weights should be.
HINTS = {
    magic.GIT_LFS: "git lfs pull",
    magic.GGUF: "llama-cli convert FILE.gguf FOLDER makes a Meta folder of it",
    magic.GZIP: "gunzip it first",
    magic.BZIP2: "bunzip2 it first",
    magic.XZ: "unxz it first",
    magic.ZSTD: "unzstd it first",
}
# What else begins so, where it is no text.
BEGINNINGS = (
    (magic.ZIP.beginning, "a zip archive or a torch checkpoint", "name a checkpoint consolidated.00.pth"),
    (b"\x80", "an old pickle from before torch 1.6", "load it with that torch and torch.save it again"),
    (b"<", "a web page, not the file itself", "download it again, signed in"),
    (b"{", "JSON, no weights", DOWNLOAD_AGAIN),
)
TAR_MAGIC = slice(257, 262)
HEAD_BYTES = 512


def foreign(path: Path, size: int) -> ModelRejected:
    """The refusal of a file that does not begin as it should."""
    what, hint = _recognise(read_head(path, HEAD_BYTES), size)
    return ModelRejected(f"{plain(path.name)} is {what}", hint)


def _recognise(head: bytes, size: int) -> tuple[str, str]:
    if not size:
        return "empty: a download that failed", DOWNLOAD_AGAIN
    if not head.strip(b"\0"):
        return f"full of zeros ({size:,} bytes): a download that failed", DOWNLOAD_AGAIN
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "a safetensors file", "rename it to consolidated.safetensors"
    if head[TAR_MAGIC] == b"ustar":
        return "a tar archive", "unpack it first"
    text = head.lstrip()
    for beginning, what, hint in BEGINNINGS:
        if text.startswith(beginning):
            return what, hint
    if kind := magic.kind_of(text):
        return kind.what, HINTS.get(kind, DOWNLOAD_AGAIN)
    return f"of an unknown kind: it has {size:,} bytes and begins with {head[:8]!r}", DOWNLOAD_AGAIN
