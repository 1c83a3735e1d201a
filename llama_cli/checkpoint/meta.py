"""Meta's own files: consolidated.00.pth ... consolidated.NN.pth."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from ..errors import ModelRejected

logger = logging.getLogger(__name__)

SHARD_NAME = re.compile(r"consolidated\.(\d{2,})\.pth")


def shard_paths(folder: Path) -> list[Path]:
    """The shards in the order of their ranks, which must be 0, 1, 2, ... without a gap."""
    found = {int(match[1]): path for path in folder.glob("*.pth") if (match := SHARD_NAME.fullmatch(path.name))}
    others = sorted(path.name for path in folder.glob("*.pth") if not SHARD_NAME.fullmatch(path.name))
    if others:
        logger.info("%s: ignoring %s", folder, ", ".join(others))
    n_shards = max(found, default=-1) + 1
    missing = [rank for rank in range(n_shards) if rank not in found]
    if missing:
        raise ModelRejected(
            f"{folder}: shard {missing[0]:02d} of {n_shards} is missing (consolidated.{missing[0]:02d}.pth)",
            "download the missing file",
        )
    return [found[rank] for rank in range(n_shards)]
