"""Meta's own files: consolidated.00.pth ... consolidated.NN.pth."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from ..errors import ModelRejected
from .quoting import plain

logger = logging.getLogger(__name__)

SHARD_NAME = re.compile(r"consolidated\.(\d\d)\.pth", re.ASCII)


def shard_name(rank: int) -> str:
    return f"consolidated.{rank:02d}.pth"


def shard_paths(folder: Path) -> list[Path]:
    """The shards in the order of their ranks, which must be 0, 1, 2, ... without a gap."""
    names = sorted(path.name for path in folder.glob("*.pth"))
    ranks = [int(match[1]) for name in names if (match := SHARD_NAME.fullmatch(name))]
    others = [plain(name) for name in names if not SHARD_NAME.fullmatch(name)]
    if others:
        logger.info("%s: ignoring %s", plain(folder), ", ".join(others))
    missing = sorted(set(range(max(ranks, default=-1) + 1)) - set(ranks))
    if missing:
        n_shards = max(ranks) + 1
        raise ModelRejected(
            f"{plain(folder)}: shard {missing[0]:02d} of {n_shards} is missing", f"download {shard_name(missing[0])}"
        )
    return [folder / shard_name(rank) for rank in ranks]
