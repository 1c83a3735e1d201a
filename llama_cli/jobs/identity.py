"""What a run is: the model, the settings, the input. A resumed run must be the same one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..engine.request import Sampling
from ..errors import OutputFailed, OutputRefused
from ..files.own import read_own
from ..files.write import replace_file

MOST_BYTES = 1 << 20
CHECKSUM = "sha256"  # of all else in the file

# When a run began, and what follows from the rows or is compared on its own. `merge` asks for the number of rows.
NOT_COMPARED = {"created", "input", "rows", "run_seed"}


def describe_sampling(sampling: Sampling) -> dict[str, Any]:
    """The settings of the run, as JSON holds them."""
    fields = dataclasses.asdict(sampling)
    described: dict[str, Any] = json.loads(json.dumps(fields | {"logit_bias": dict(fields["logit_bias"])}))
    return described


def settle_identity(
    output: Path, identity: Mapping[str, Any], *, has_rows: bool, has_unknown: bool, force: bool
) -> dict[str, Any]:
    """Write who this run is, or compare with who began the output; returns what is on file.

    OutputRefused names the settings that differ: rows of two runs would be mixed. `has_unknown` says that some rows
    do not tell what they asked for: these are answers to this input only if it is the one that they were begun with.
    """
    path = _path_beside(output)
    before = _read(path, identity)
    if before is None or not has_rows:
        if has_rows and not force:
            raise OutputRefused(
                f"{output} has rows, but no {path.name} says which run wrote them",
                "give another output with -o, or --force-resume",
            )
        _write(path, identity)
        return dict(identity)
    if force:
        return _go_on(path, before, identity)
    differing = _differences(before, identity)
    if differing:
        raise OutputRefused(
            f"{output} was begun with other settings: {', '.join(differing)}",
            "run with the same ones, give another output with -o, or --force-resume",
        )
    if has_unknown and (identity["input"] is None or before.get("input") != identity["input"]):
        raise OutputRefused(
            f"{output} was begun by an earlier version with another input: which of its rows have changed is not known",
            "give the same input or another output with -o, or --force-resume to match rows by their ids alone",
        )
    return _go_on(path, before, identity)


def _go_on(path: Path, before: dict[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """Who began an output goes on with it; its input may have another number of rows by now."""
    now = before | {"rows": identity["rows"]}
    if now != before:
        _write(path, now)
    return now


def keep_identity(output: Path, identity: Mapping[str, Any]) -> bool:
    """At the end of a run: write its identity again if the file is gone or changed; False if it was.

    Without the file the output could not be resumed. OutputRefused if something else has its name, or it is damaged.
    """
    path = _path_beside(output)
    is_kept = _read(path, identity) == identity
    if not is_kept:
        _write(path, identity)
    return is_kept


def identity_of(output: Path) -> dict[str, Any] | None:
    """Who began an output; None where no file of this version says so, or it cannot be read."""
    with suppress(OutputRefused, OutputFailed):
        return _read(_path_beside(output), ())
    return None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, with both values."""
    old, new = _flat(before), _flat(now)
    if new["seed"] is None:  # it goes on with the one that was drawn
        del new["seed"]
    # What an earlier version did not write down is taken to be the same.
    names = [name for name in sorted(new) if name in old and old[name] != new[name]]
    return [f"{name} {_shown(old[name])}, now {_shown(new[name])}" for name in names]


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in identity.items() if name not in NOT_COMPARED}
    sampling = settings.pop("sampling", None)
    given = {name: value for name, value in sampling.items() if name != "seed"} if isinstance(sampling, dict) else {}
    return settings | given | {"seed": identity["run_seed"]}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "..."


def _write(path: Path, identity: Mapping[str, Any]) -> None:
    whole = {**identity, CHECKSUM: _checksum(identity)}
    replace_file(path, iter([json.dumps(whole, indent=1).encode() + b"\n"]))


def _read(path: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """Who began an output; None where no file says so. OutputRefused if the file is not as it was written.

    Earlier versions wrote fewer names and no checksum.
    """
    data = read_own(path, MOST_BYTES)
    if data is None:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise _damaged(path) from None
    if not isinstance(found, dict) or any(type(found.get(key)) is not int for key in ("created", "run_seed")):
        raise _damaged(path)
    checksum = found.pop(CHECKSUM, None)
    is_whole = found.keys() <= set(names) if checksum is None else checksum == _checksum(found)
    if not is_whole:
        raise _damaged(path)
    return found


def _path_beside(output: Path) -> Path:
    return output.with_name(output.name + ".run.json")


def _checksum(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()


def _damaged(path: Path) -> OutputRefused:
    return OutputRefused(
        f"{path} is damaged: it does not say which run wrote the output",
        "give another output with -o; or remove it and go on with --force-resume",
    )
