"""Finds the folder in which a model's files lie, and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelRejected
from .quoting import plain
from .regular_file import unreadable

# The bundled character-level model, made by toy/train.py.
TOY = Path(__file__).parent.parent / "toy"

CONFIG_NAMES = ("params.json", "config.json")
WEIGHT_PATTERNS = ("*.pth", "*.safetensors", "*.pt")
FILE_SUFFIXES = (".pth", ".pt", ".safetensors", ".json")
TOKENIZER_NAMES = ("tokenizer.model", "chars.json", "tokenizer.json")
WANTED = "give the folder with params.json and consolidated.00.pth: -m FOLDER"
CONVERT = "make a model folder of it: llama-cli convert FILE.gguf FOLDER"


def find_folder(path: str | Path) -> Path:
    """The folder itself, its `original/`, or one of `original/mp*`; ModelRejected lists every path tried.

    A file of a model stands for its folder.
    """
    asked = expand(path)
    try:
        if asked.is_file():
            if asked.suffix not in FILE_SUFFIXES:
                hint = CONVERT if asked.suffix == ".gguf" else WANTED
                raise ModelRejected(f"{plain(asked)} is no file of a model folder", hint)
            asked = asked.parent
        return _search(asked)
    except OSError as error:  # no permission to look, a name too long
        raise unreadable(asked, error) from None


def _search(asked: Path) -> Path:
    original = asked / "original"
    tried = [asked, original, *sorted(_listed(original, "mp*"), key=lambda place: (len(place.name), place))]
    for folder in tried:
        if _has_config(folder) and _has_weights(folder):
            return folder
    for folder in tried:
        if _listed(folder, "*.pte"):
            raise ModelRejected(
                f"{plain(folder)} holds a program for ExecuTorch (.pte), not weights", "use the bf16 checkpoint instead"
            )
        if _has_config(folder):
            raise ModelRejected(
                f"{plain(folder)} has no weights: no consolidated.00.pth, no .safetensors",
                "finish the download, or give the folder that holds them",
            )
    if not asked.exists():
        what = f"there is no {plain(asked)}"
    elif not asked.is_dir():
        what = f"{plain(asked)} is neither a folder nor a regular file"
    elif _has_weights(asked):
        what = f"{plain(asked)} has weights, but no params.json"
    else:
        what = f"{plain(asked)} holds no model"
    places = ", ".join(plain(place) for place in [*tried, original / "mp*"])
    raise ModelRejected(f"{what}; tried {places}", WANTED)


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer in the folder or in its `original/`, else in the one above (Llama 2's place).

    A tokenizer.json, which takes longest to read, comes behind a tokenizer.model of the same folder.
    """
    own = [place / name for name in TOKENIZER_NAMES for place in (folder, folder / "original")]
    return next((path for path in (*own, *(folder.parent / name for name in TOKENIZER_NAMES)) if path.exists()), None)


def expand(path: str | Path) -> Path:
    """A path as typed, with `~` replaced."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~ of a user that does not exist
        return Path(path)


def _has_config(folder: Path) -> bool:
    return any((folder / name).exists() for name in CONFIG_NAMES)


def _has_weights(folder: Path) -> bool:
    return any(_listed(folder, pattern) for pattern in WEIGHT_PATTERNS)


def _listed(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern)) if folder.is_dir() else []
