"""The models on this machine, and which of them a name means. Only lists folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import ModelRejected
from ..files.json_file import read_object
from ..files.quoting import plain, quote
from ..files.regular_file import read_small
from .downloads import CLOSE, META, asked_for, how_to_get, is_known, normal
from .folders import TOY, expand, find_folder

HUB_FOLDER = "models--"
SHOWN = 6  # names in one message

# A model as people call it, and no path: NAME, NAME:TAG or ORGANISATION/NAME.
NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Installed:
    """A model in one of the places where models lie."""

    name: str  # the folder's, or Hugging Face's `org/name`
    folder: Path
    source: str  # which place that is, as a person would call it

    @property
    def key(self) -> str:
        """The same for the same model of Meta's, whoever named its folder."""
        organisation, _, name = self.name.rpartition("/")
        return normal(name) if organisation in ("", META) else f"{organisation.casefold()}/{normal(name)}"


def installed_models() -> list[Installed]:
    """All models, in the order in which names are looked up."""
    return [*_in_folders(), *_in_hub(), Installed("toy", TOY, "bundled")]


def _in_folders() -> Iterator[Installed]:
    for place, source in _places():
        for folder in _subfolders(place):
            if _holds_model(folder):
                yield Installed(folder.name, folder, source)


def _places() -> list[tuple[Path, str]]:
    """The folders of model folders, and what a person would call them."""
    home = os.environ.get("LLAMA_CLI_HOME")
    stack = os.environ.get("LLAMA_STACK_CONFIG_DIR")
    places = [(expand(home), "LLAMA_CLI_HOME")] if home else []
    places.append((expand(stack or "~/.llama") / "checkpoints", "LLAMA_STACK_CONFIG_DIR" if stack else "~/.llama"))
    return places


def _in_hub() -> Iterator[Installed]:
    """Llama models of Hugging Face's cache: their `original/` where it is there, else their own files."""
    for repository in _subfolders(hub_cache()):
        if not repository.name.startswith(HUB_FOLDER):
            continue
        for snapshot in _snapshots(repository):
            folder = next((place for place in (snapshot / "original", snapshot) if _holds_llama(place)), None)
            if folder is not None:
                yield Installed(_hub_name(repository), folder, "Hugging Face")
                break


def hub_cache() -> Path:
    """Where Hugging Face's library keeps what it downloads."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return expand(cache)
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return expand(home) / "hub"


def _hub_name(repository: Path) -> str:
    return repository.name.removeprefix(HUB_FOLDER).replace("--", "/", 1)


def _snapshots(repository: Path) -> list[Path]:
    """The one that `main` means first, then the newest."""
    found = sorted(_subfolders(repository / "snapshots"), key=lambda path: path.stat().st_mtime, reverse=True)
    try:
        main = read_small(repository / "refs" / "main", 1024).decode().strip()
    except (ModelRejected, UnicodeDecodeError):
        main = ""
    return sorted(found, key=lambda path: path.name != main)


def _subfolders(place: Path) -> list[Path]:
    try:
        return sorted((path for path in place.iterdir() if path.is_dir()), key=lambda path: path.name.casefold())
    except OSError:  # not there, or not ours to look into
        return []


def _holds_model(folder: Path) -> bool:
    try:
        find_folder(folder)
    except ModelRejected:
        return False
    return True


def _holds_llama(folder: Path) -> bool:
    if not folder.is_dir() or not _holds_model(folder):
        return False
    if (folder / "params.json").exists() or not (folder / "config.json").exists():
        return True
    try:
        config: dict[str, Any] = read_object(folder / "config.json")
    except ModelRejected:
        return False
    return config.get("model_type") == "llama"


def find_model(model: str | Path) -> Path:
    """The folder with the files of a model, given its path or its name.

    A path goes first. A name is looked up without regard to case, and its beginning is enough where only one
    model begins so. ModelRejected lists what it could mean.
    """
    text = str(model)
    if isinstance(model, Path) or _is_path(text):
        return find_folder(model)
    models = installed_models()
    wanted = Installed(asked_for(text), Path(), "").key
    for matches in (
        [each for each in models if each.key == wanted],
        [each for each in models if each.key.rpartition("/")[2] == wanted],
        [each for each in models if each.key.startswith(wanted) or each.key.rpartition("/")[2].startswith(wanted)],
    ):
        names = list({each.key: each.name for each in reversed(matches)}.values())[::-1]
        if len(names) > 1:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise ModelRejected(
                f"{quote(text)} could be {', '.join(map(plain, names[:SHOWN]))}{more}", "give more of the name: -m NAME"
            )
        if matches:
            return find_folder(matches[0].folder)
    return _not_found(text, wanted, models)


def _is_path(text: str) -> bool:
    try:
        return expand(text).exists()
    except OSError:  # too long, or not ours to look at: let the one who opens it say so
        return True


def _not_found(text: str, wanted: str, models: Sequence[Installed]) -> Path:
    if not NAME.fullmatch(text):
        return find_folder(text)
    close = [] if is_known(text) else get_close_matches(wanted, [each.key for each in models], n=1, cutoff=CLOSE)
    meant = [each for each in models if each.key in close]
    got = how_to_get(text)
    hints = [f"did you mean -m {plain(meant[0].name)}?"] if meant else []
    hints += [got] if got and not (meant and how_to_get(meant[0].name) == got) else []
    hints = hints or ["llama-cli models lists them; a folder: -m ./FOLDER"]
    known = ", ".join(plain(each.name) for each in models[:SHOWN])
    more = f" and {len(models) - SHOWN} more" if len(models) > SHOWN else ""
    places = " and ".join(plain(place) for place, _ in _places())
    raise ModelRejected(
        f"there is no {plain(text)}, neither a folder nor a model of that name; here are {known}{more}"
        f" (looked in {places} and {plain(hub_cache())})",
        " Or ".join(hints),
    )


def model_name(folder: Path) -> str:
    """What to call the model in a folder; `original`, `mp8` and a snapshot's number say nothing."""
    resolved = folder.resolve()
    if resolved == TOY.resolve():
        return "toy"
    while resolved.name == "original" or re.fullmatch(r"mp\d+", resolved.name):
        resolved = resolved.parent
    if resolved.parent.name == "snapshots" and resolved.parent.parent.name.startswith(HUB_FOLDER):
        return _hub_name(resolved.parent.parent)
    return resolved.name
