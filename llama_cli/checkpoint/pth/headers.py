"""Reads names, dtypes, shapes and places of the tensors in a .pth archive, without torch and without the tensors."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...files.quoting import plain, quote
from .pickle_program import check_pickle
from .state_dict import weights_of
from .zip_directory import Record

# torch's names of typed storages; an UntypedStorage comes with a dtype beside it.
STORAGES = {
    "BFloat16Storage": "bfloat16",
    "HalfStorage": "float16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


class TensorHeader(NamedTuple):
    """What a file says about one tensor."""

    dtype: str  # as torch calls it: bfloat16, float8_e4m3fn
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file
    n_bytes: int


def is_unused(name: str) -> bool:
    """Whether a tensor is only what follows from the head size, as files of Llama 1 and 2 have it."""
    return name.endswith("rope.freqs")


def is_extra(name: str) -> bool:
    """Whether a tensor says how to read or change another one: Meta's int4 files have scales and adapters."""
    return name.endswith((".scales", ".zeros", ".adaptor.A.weight", ".adaptor.B.weight"))


def item_size(dtype: str) -> int:
    """Bytes of one value."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1


class _Storage(NamedTuple):
    key: str
    dtype: str
    n_values: int


class _Tensor(NamedTuple):
    storage: _Storage
    dtype: str
    offset: int  # in values
    shape: tuple[int, ...]


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *more: Any) -> _Tensor:
    """What torch._utils._rebuild_tensor_v2 and _v3 are called with; the latter's dtype comes third behind."""
    if not all(isinstance(size, int) and size >= 0 for size in (offset, *shape)):
        raise ValueError("a shape is of whole numbers")
    dtype = more[2] if len(more) > 2 and isinstance(more[2], str) else storage.dtype
    return _Tensor(storage, dtype, offset, tuple(shape))


def _rebuild_parameter(tensor: _Tensor, *more: Any) -> _Tensor:
    return tensor


class _Reader(pickle.Unpickler):
    """Knows the names that check_pickle lets pass, and gives descriptions for them."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": _rebuild,
            "torch._utils._rebuild_tensor_v3": _rebuild,
            "torch._utils._rebuild_parameter": _rebuild_parameter,
        }
        if f"{module}.{name}" in known:
            return known[f"{module}.{name}"]
        return STORAGES.get(name, name)  # a dtype by its name

    def persistent_load(self, identity: Any) -> _Storage:
        _, kind, key, _, n_values = identity
        return _Storage(str(key), str(kind), int(n_values))


Described = dict[str, _Tensor]


def describe_pickle(path: Path, program: bytes) -> Described:
    """The tensors that a checkpoint's pickle describes, by name; ModelRejected for what is no plain checkpoint."""
    check_pickle(path, program)
    try:
        found = _Reader(io.BytesIO(program)).load()  # it makes descriptions, and calls nothing else
    except Exception:  # damaged pickles raise many kinds
        raise ModelRejected(f"{plain(path.name)}: its list of tensors is damaged", DOWNLOAD_AGAIN) from None
    return weights_of(path, found, lambda value: isinstance(value, _Tensor), _Tensor)


def place(path: Path, described: Described, records: Mapping[str, Record]) -> dict[str, TensorHeader]:
    """Where in the file each described tensor lies; `records` are the archive's, by name below its root."""
    return {name: _placed(path, name, tensor, records) for name, tensor in described.items()}


def _placed(path: Path, name: str, tensor: _Tensor, records: Mapping[str, Record]) -> TensorHeader:
    record = records.get(f"data/{tensor.storage.key}")
    size = item_size(tensor.dtype)
    n_bytes = math.prod(tensor.shape) * size
    stored = tensor.storage.n_values * item_size(tensor.storage.dtype)
    if record is None or record.size != stored or tensor.offset * size + n_bytes > stored:
        raise ModelRejected(f"{plain(path.name)}: {quote(name)} and its data disagree about their size", DOWNLOAD_AGAIN)
    return TensorHeader(tensor.dtype, tensor.shape, record.offset + tensor.offset * size, n_bytes)
