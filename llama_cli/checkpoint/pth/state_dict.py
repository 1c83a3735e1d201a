"""Finds a model's weights in what programs save: one level deeper, beside plain values, under longer names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...files.quoting import plain, quote
from ...model.weights import EMBEDDING

T = TypeVar("T")

# Under which name programs for training save the weights, with other things beside.
NESTS = ("model", "state_dict", "model_state_dict", "model_state", "module", "weights", "params")

# What torch.compile, DataParallel, FSDP and checkpointing put into the path of a weight.
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

PLAIN = (type(None), bool, int, float, str)
CONTAINERS = (dict, OrderedDict, list, tuple)


def weights_of(path: Path, loaded: object, is_tensor: Callable[[object], bool], kind: type[T]) -> dict[str, T]:
    """The tensors of a file by name; ModelRejected for anything beside them but plain values.

    `loaded` is what is in the file, `is_tensor` tells what is a tensor or stands for one, and `kind` is its type.
    """
    found = _entries(path, loaded)
    nest = next((key for key in NESTS if _holds_tensors(found.get(key), is_tensor)), None)
    if nest is not None and not any(is_tensor(value) for value in found.values()):
        _refuse_unless_plain(path, {key: value for key, value in found.items() if key != nest}, nest)
        found = _entries(path, found[nest])
    tensors = {name: value for name, value in found.items() if is_tensor(value)}
    # Without any tensor, or in a weight's place, even a number is not what should be there.
    others = {name: value for name, value in found.items() if name not in tensors}
    wrong = {name: value for name, value in others.items() if not tensors or str(name).endswith(".weight")}
    for name, value in (wrong or others).items():
        if wrong or not _is_plain(value):
            raise _no_tensor(path, name, value)
    for name in tensors:
        if type(name) is not str:
            raise ModelRejected(
                f"{plain(path.name)}: a key is of type {type(name).__name__}, not a name",
                "torch.save the state_dict of the model",
            )
    return unwrapped(cast("dict[str, T]", tensors), path)


def _entries(path: Path, loaded: object) -> dict[Any, object]:
    if type(loaded) not in (dict, OrderedDict):
        raise ModelRejected(
            f"{plain(path.name)} holds an object of type {type(loaded).__name__}, not a dictionary of tensors",
            "torch.save the state_dict of the model",
        )
    # A file may give an OrderedDict attributes, `items` among them: ask dict itself.
    return dict(dict.items(cast("dict[Any, object]", loaded)))


def _holds_tensors(value: object, is_tensor: Callable[[object], bool]) -> bool:
    return type(value) in (dict, OrderedDict) and any(map(is_tensor, dict.values(cast("dict[Any, object]", value))))


def _refuse_unless_plain(path: Path, beside: Mapping[Any, object], nest: str) -> None:
    for name, value in beside.items():
        if not _is_plain(value):
            raise ModelRejected(
                f"{plain(path.name)} holds {quote(name)}, of type {type(value).__name__}, beside the weights in"
                f" {quote(nest)}; only plain values may lie there",
                resave(path, f"w[{nest!r}]"),
            )


def _is_plain(value: object) -> bool:
    """Whether a value is text, a number or nothing, or a container of these. Each container is looked at once."""
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if type(each) in PLAIN or id(each) in seen:
            continue
        if type(each) not in CONTAINERS:
            return False
        seen.add(id(each))
        if isinstance(each, dict):
            waiting += [*dict.keys(each), *dict.values(each)]
        else:
            waiting += cast("list[object]", each)
    return True


def _no_tensor(path: Path, name: object, value: object) -> ModelRejected:
    hint = "use the bf16 checkpoint of the same model"
    if isinstance(value, dict):
        hint = f"if the weights are in it: {resave(path, f'w[{plain(name)!r}]')}"
    return ModelRejected(f"{plain(path.name)}: {quote(name)} is of type {type(value).__name__}, not a tensor", hint)


def resave(path: Path, wanted: str) -> str:
    """The command that saves something else of a file's object, `w` in the expression `wanted`."""
    file = plain(path.name)
    code = f"from torch import *; w = load('{file}'); save({wanted}, '{file}')"
    return f'python -c "{code}" in its folder'


def unwrapped(tensors: Mapping[str, T], path: Path) -> dict[str, T]:
    """The same under the names that the model's own modules have."""
    names = dict(zip(tensors, plain_names(tensors), strict=True))
    found = {names[name]: tensor for name, tensor in tensors.items()}
    if len(found) != len(tensors):
        raise ModelRejected(f"{plain(path.name)} holds a weight under two names of wrappers", DOWNLOAD_AGAIN)
    return found


def plain_names(names: Iterable[str]) -> list[str]:
    """Names without what wrappers put into them, and without a beginning that all of them share with the embedding."""
    bare = [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names]
    prefix = next((name.removesuffix(EMBEDDING) for name in bare if name.endswith("." + EMBEDDING)), "")
    return [name.removeprefix(prefix) for name in bare] if all(name.startswith(prefix) for name in bare) else bare
