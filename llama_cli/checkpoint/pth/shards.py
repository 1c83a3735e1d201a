"""Meta's own files: consolidated.00.pth ... consolidated.NN.pth."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from ...errors import ModelRejected
from ...files.quoting import hint_path, plain

logger = logging.getLogger(__name__)

MOST_NAMED = 4  # files in one message

# What lies beside weights and is none: Meta's scales, states of training, adapters.
BESIDE = re.compile(r"fp8_scales_\d+|adapter_.*|recipe_state.*|.*optim.*|.*scheduler.*|rng_state.*|training_args.*")
SHARD_NAME = re.compile(r"consolidated\.(\d\d)\.pth", re.ASCII)


def shard_name(rank: int) -> str:
    return f"consolidated.{rank:02d}.pth"


def shard_paths(folder: Path) -> list[Path]:
    """The shards in the order of their ranks, which must be 0, 1, 2, ... without a gap; or one file of another name."""
    names = sorted(path.name for path in folder.glob("*.pth"))
    ranks = [int(match[1]) for name in names if (match := SHARD_NAME.fullmatch(name))]
    others = [plain(name) for name in names if not SHARD_NAME.fullmatch(name)]
    if others:
        logger.info("%s: ignoring %s", plain(folder), ", ".join(others))
    if not ranks:
        return _lone_file(folder)
    missing = sorted(set(range(max(ranks, default=-1) + 1)) - set(ranks))
    if missing:
        n_shards = max(ranks) + 1
        raise ModelRejected(
            f"{plain(folder)}: shard {missing[0]:02d} of {n_shards} is missing", f"download {shard_name(missing[0])}"
        )
    return [folder / shard_name(rank) for rank in ranks]


def missing_shard(folder: Path) -> str | None:
    """What keeps the shards from being whole, by their names."""
    try:
        paths = shard_paths(folder)
    except ModelRejected as error:
        return error.message
    empty = [path.name for path in paths if not path.stat().st_size]
    return f"{plain(empty[0])} is empty" if empty else None


def _lone_file(folder: Path) -> list[Path]:
    """A model in one file that programs for training call as they like; none where safetensors lie there."""
    found = sorted(path for pattern in ("*.pth", "*.pt") for path in folder.glob(pattern))
    found = [path for path in found if not BESIDE.fullmatch(path.stem)]
    if not found or any(folder.glob("*.safetensors")):
        return []
    if len(found) > 1:
        raise ModelRejected(
            f"{plain(folder)} has no {shard_name(0)}, and several files that it could be:"
            f" {', '.join(plain(path.name) for path in found[:MOST_NAMED])}",
            f"ln -s {hint_path(Path(found[-1].name))} {hint_path(folder / shard_name(0))}",
        )
    logger.info("%s: %s is taken for %s", plain(folder), plain(found[0].name), shard_name(0))
    return found
