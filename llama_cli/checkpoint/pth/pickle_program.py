"""Reads what the pickle of a checkpoint would do, without doing it.

A pickle is a program. Meta's builds a dictionary of tensors and calls two functions; anything else is
refused by name before torch sees it. torch's own list of harmless functions is longer: it lets a file make
tensors with attributes of their own, byte arrays of any size, subclasses.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...files.quoting import plain, quote

# Dtypes and storages of every kind pass, so that a wrong one is refused later with its tensor's name.
NEEDED = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor_v[23]|parameter)"
    r"|torch\.(storage\.)?\w+Storage|torch\.(bool|(bfloat|complex|float|int|uint)\w+)"
)

# What torch.save writes for a dictionary of tensors, and what a newer protocol needs on top to name a function.
OPERATIONS = re.compile(
    "PROTO|STOP|MARK|EMPTY_(DICT|LIST|TUPLE)|TUPLE[123]?|SETITEMS?|APPENDS?|BININT[12]?|LONG1|BINFLOAT|NONE|NEWTRUE"
    "|NEWFALSE|BINPERSID|REDUCE|BUILD|(LONG_)?BIN(PUT|GET)|(SHORT_)?BINUNICODE8?|MEMOIZE|FRAME"
)
PROTOCOL = 2

# A tensor has four. More than twice as many, each in the one before, are deeper than the stack when they are hashed.
MOST_TUPLES = 80_000

# Functions of torch that make tensors of other kinds.
OTHER_KINDS = {
    "torch._utils._rebuild_qtensor": "quantized tensors",
    "torch._utils._rebuild_sparse_tensor": "sparse tensors",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse tensors",
    "torch._utils._rebuild_nested_tensor": "nested tensors",
    "torch._utils._rebuild_meta_tensor_no_storage": "tensors without data",
    "torch._utils._rebuild_wrapper_subclass": "tensors of a class of their own",
    "torch._tensor._rebuild_from_type_v2": "tensors with attributes or of a class of their own",
}


def check_pickle(path: Path, program: bytes) -> None:
    """ModelRejected names the first thing that a plain checkpoint does not ask for."""
    try:
        for name in _globals(program):
            if not NEEDED.fullmatch(name):
                raise _refused(path, name)
    except ModelRejected:
        raise
    except Exception:  # pickletools raises many kinds on damaged pickles
        raise ModelRejected(f"{plain(path.name)}: its list of tensors is damaged", DOWNLOAD_AGAIN) from None
    if program[1] != PROTOCOL:
        raise ModelRejected(
            f"{plain(path.name)} is saved with pickle protocol {program[1]}; protocol {PROTOCOL} is read",
            "torch.save it again, without pickle_protocol",
        )


def _refused(path: Path, name: str) -> ModelRejected:
    if name in OTHER_KINDS:
        return ModelRejected(
            f"{plain(path.name)} holds {OTHER_KINDS[name]}; only plain tensors are read",
            "use the bf16 checkpoint of the same model",
        )
    return ModelRejected(
        f"{plain(path.name)} asks to run {quote(name)}; refusing: not a plain Llama checkpoint",
        "do not trust the place it came from; get the file from Meta",
    )


def _globals(program: bytes) -> Iterator[str]:
    """Every function or class the pickle names. ValueError at an operation that torch.save does not write."""
    texts = ["?", "?"]  # what a STACK_GLOBAL would take
    n_tuples = 0
    for operation, argument, place in pickletools.genops(program):
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts)
        elif not OPERATIONS.fullmatch(operation.name) or (place == 0) != (operation.name == "PROTO"):
            raise ValueError(operation.name)
        elif operation.name == "LONG_BINPUT" and isinstance(argument, int) and argument > len(program):
            raise ValueError(argument)  # Python's own reader makes a list of that length
        n_tuples += "TUPLE" in operation.name
        if n_tuples > MOST_TUPLES:
            raise ValueError(n_tuples)
        if isinstance(argument, str):
            texts = [texts[1], argument]
