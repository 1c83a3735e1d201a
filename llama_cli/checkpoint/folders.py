"""Finds the folder in which a model's files lie, and its tokenizer."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import ModelRejected, UsageError
from ..files.quoting import plain
from ..files.regular_file import unreadable
from .pth.shards import missing_shard
from .safetensors_file import missing_part
from .strangers import WANTED, strange_file, strange_folder

logger = logging.getLogger(__name__)

# The bundled character-level model, made by toy/train.py.
TOY = Path(__file__).parent.parent / "toy"

CONFIG_NAMES = ("params.json", "config.json")
WEIGHT_PATTERNS = {"params.json": ("*.pth", "*.safetensors", "*.pt"), "config.json": ("*.safetensors",)}
FILE_SUFFIXES = (".pth", ".pt", ".safetensors", ".json")
TOKENIZER_NAMES = ("tokenizer.model", "chars.json", "tokenizer.json")


def find_folder(path: str | Path) -> Path:
    """The folder itself, its `original/`, or one of `original/mp*`; ModelRejected lists every path tried.

    A file of a model stands for its folder.
    """
    asked = expand(path)
    try:
        if asked.is_file():
            if asked.suffix not in FILE_SUFFIXES:
                raise strange_file(asked)
            asked = asked.parent
        return _search(asked)
    except OSError as error:  # no permission to look, a name too long
        raise unreadable(asked, error) from None


def _search(asked: Path) -> Path:
    original = asked / "original"
    tried = [asked, original, *sorted(_listed(original, "mp*"), key=lambda place: (len(place.name), place))]
    found = [folder for folder in tried if _holds_model(folder)]
    if found:
        return _whole_one(found)
    for folder in tried:
        strange = strange_folder(folder)
        if strange is not None:
            raise strange
        if _has_config(folder):
            raise ModelRejected(
                f"{plain(folder)} has no weights: no consolidated.00.pth, no .safetensors",
                "finish the download, or give the folder that holds them",
            )
    if not asked.exists():
        what = f"there is no {plain(asked)}"
    elif not asked.is_dir():
        what = f"{plain(asked)} is neither a folder nor a regular file"
    elif any(_listed(asked, pattern) for pattern in WEIGHT_PATTERNS["params.json"]):
        what = f"{plain(asked)} has weights, but no params.json"
    else:
        what = f"{plain(asked)} holds no model"
    places = ", ".join(plain(place) for place in [*tried, original / "mp*"])
    raise ModelRejected(f"{what}; tried {places}", WANTED)


def _whole_one(found: list[Path]) -> Path:
    """The first folder whose files are all there: a download may have been broken off beside a whole `original/`."""
    missing = {folder: _missing(folder) for folder in found} if len(found) > 1 else {}
    whole = next((folder for folder in found if not missing.get(folder)), found[0])
    if whole != found[0]:
        logger.warning("%s is not whole (%s): %s is used instead", plain(found[0]), missing[found[0]], plain(whole))
    return whole


def _missing(folder: Path) -> str | None:
    """What a folder lacks; None for a whole one. Only names and headers are looked at."""
    if (folder / "params.json").exists() and any(_listed(folder, "*.pt*")):
        return missing_shard(folder)
    return missing_part(folder)


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer in the folder or in its `original/`, else in the one above (Llama 2's place).

    A tokenizer.json, which takes longest to read, comes behind a tokenizer.model of the same folder.
    """
    own = [place / name for name in TOKENIZER_NAMES for place in (folder, folder / "original")]
    return next((path for path in (*own, *(folder.parent / name for name in TOKENIZER_NAMES)) if path.exists()), None)


def expand(path: str | Path) -> Path:
    """A path as typed, with `~` replaced. UsageError for an empty name, which would be the current folder."""
    if path == "":
        raise UsageError("the name of a model or file is empty", "give a name; a variable may not be set")
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~ of a user that does not exist
        return Path(path)


def _has_config(folder: Path) -> bool:
    return any((folder / name).exists() for name in CONFIG_NAMES)


def _holds_model(folder: Path) -> bool:
    """Whether settings lie there with weights that go with them; adapters are none."""
    if (folder / "adapter_config.json").exists() and not (folder / "params.json").exists():
        found = [*_listed(folder, "*.safetensors")]
        return _has_config(folder) and any(not path.name.startswith("adapter") for path in found)
    return any(
        (folder / name).exists() and any(_listed(folder, pattern) for pattern in patterns)
        for name, patterns in WEIGHT_PATTERNS.items()
    )


def _listed(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern)) if folder.is_dir() else []
