"""What a run is: the model, the settings, the input. A resumed run must be the same one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine.request import Sampling
from ..errors import OutputRefused
from ..files.write import replace_file

logger = logging.getLogger(__name__)

SAMPLE_BYTES = 1 << 16


def describe_input(path: Path) -> dict[str, Any]:
    """Size and a hash of the beginning and the end of the input: enough to notice another file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(SAMPLE_BYTES))
        file.seek(max(0, size - SAMPLE_BYTES))
        digest.update(file.read(SAMPLE_BYTES))
    return {"size": size, "sha256": digest.hexdigest()}


def describe_sampling(sampling: Sampling) -> dict[str, Any]:
    """The settings of the run, as JSON holds them."""
    fields = dataclasses.asdict(sampling)
    described: dict[str, Any] = json.loads(json.dumps(fields | {"logit_bias": dict(fields["logit_bias"])}))
    return described


def settle_identity(output: Path, identity: Mapping[str, Any], *, has_rows: bool, force: bool) -> dict[str, Any]:
    """Write who this run is, or compare with who began the output; returns what is on file.

    OutputRefused names the settings that differ: rows of two runs would be mixed. A changed input is only
    warned about, since rows are matched by their ids.
    """
    path = output.with_name(output.name + ".run.json")
    before = _read(path)
    if before is None or not has_rows:
        if has_rows and not force:
            raise OutputRefused(
                f"{output} has rows, but no {path.name} says which run wrote them",
                "give another output with -o, or --force-resume",
            )
        replace_file(path, iter([json.dumps(dict(identity), indent=1).encode() + b"\n"]))
        return dict(identity)
    stable = identity.keys() - {"created", "input", "run_seed"}
    differing = sorted(key for key in stable if before.get(key) != identity[key])
    if identity["run_seed"] is not None and identity["run_seed"] != before.get("run_seed"):
        differing.append("seed")
    if differing and not force:
        raise OutputRefused(
            f"{output} was begun with other settings: {', '.join(differing)} differ",
            "run with the same ones, give another output with -o, or --force-resume",
        )
    if before.get("input") != identity["input"]:
        logger.warning("the input is not the one this output was begun with; rows are matched by their ids")
    return before


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(found, dict) and all(type(found.get(key)) is int for key in ("created", "run_seed"))
    return found if is_ours else None
