"""Finds the folder in which a model's files lie, and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelRejected

CONFIG_NAMES = ("params.json", "config.json")
WEIGHT_PATTERNS = ("consolidated.*.pth", "*.safetensors")
TOKENIZER_NAMES = ("tokenizer.model", "chars.json")


def find_folder(path: str | Path) -> Path:
    """The folder itself, its `original/`, or one of `original/mp*`; ModelRejected lists every path tried."""
    asked = Path(path).expanduser()
    if asked.is_file():
        asked = asked.parent
    tried = [asked, asked / "original", *_listed(asked / "original", "mp*")]
    for folder in tried:
        if _has_config(folder) and any(_listed(folder, pattern) for pattern in WEIGHT_PATTERNS):
            return folder
    for folder in tried:
        if _has_config(folder):
            raise ModelRejected(
                f"{folder} has no weights: no consolidated.00.pth, no .safetensors",
                "finish the download, or give the folder that holds them",
            )
    if not asked.exists():
        what = f"there is no {asked}"
    elif any(_listed(asked, pattern) for pattern in WEIGHT_PATTERNS):
        what = f"{asked} has weights, but no params.json"
    else:
        what = f"{asked} holds no model"
    places = ", ".join(str(folder) for folder in tried)
    raise ModelRejected(
        f"{what}; tried {places}", "give the folder with params.json and consolidated.00.pth: -m FOLDER"
    )


def find_tokenizer(folder: Path) -> Path | None:
    """tokenizer.model or chars.json in the folder, in the one above (Llama 2's place) or in its `original/`."""
    for place in (folder, folder.parent, folder / "original"):
        for name in TOKENIZER_NAMES:
            if (place / name).exists():
                return place / name
    return None


def _has_config(folder: Path) -> bool:
    return any((folder / name).exists() for name in CONFIG_NAMES)


def _listed(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []
