"""Reads names, dtypes, shapes and places of the tensors in a .pth archive, without torch and without the tensors."""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...files.quoting import plain, quote
from ..header import Shape, TensorHeader, item_size
from .pickle_program import check_pickle
from .state_dict import resave, weights_of
from .zip_directory import Record

# torch's names of typed storages; an UntypedStorage comes with a dtype beside it.
STORAGES = {
    "BFloat16Storage": "bfloat16",
    "HalfStorage": "float16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}

DATA = "data/"  # what entries with tensors' data are called, with a key behind
JOINED = "{n: t.contiguous().clone() for n, t in w.items()}"


class Storage(NamedTuple):
    key: str
    dtype: str
    n_values: int


class Tensor(NamedTuple):
    """A tensor as the pickle describes it; messages name its type."""

    storage: Storage
    dtype: str
    offset: int  # in values
    shape: Shape
    strides: Shape
    has_attributes: bool


class _Rebuild(NamedTuple):
    """What torch._utils._rebuild_tensor_v2 and _v3 are called with; the latter have a dtype before the attributes.

    A tuple, since a pickle may try to give attributes to what it calls.
    """

    has_dtype: bool

    def __call__(self, storage: Storage, offset: int, shape: Shape, strides: Shape, *more: Any) -> Tensor:
        if not isinstance(storage, Storage) or not all(
            type(size) is int and size >= 0 for size in (offset, *shape, *strides)
        ):
            raise ValueError("a place is of whole numbers in a storage")
        if len(shape) != len(strides):
            raise ValueError("every dimension has a stride")
        _, hooks, *rest = more
        dtype = str(rest.pop(0)) if self.has_dtype else storage.dtype
        return Tensor(storage, dtype, offset, tuple(shape), tuple(strides), bool(hooks or any(rest)))


class _RebuildParameter(NamedTuple):
    """What torch._utils._rebuild_parameter is called with: a tensor, and what training needs beside."""

    n_tensors: int = 1

    def __call__(self, tensor: Tensor, *more: Any) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise TypeError("a parameter is a tensor")
        return tensor


CALLED: Mapping[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _Rebuild(has_dtype=False),
    "torch._utils._rebuild_tensor_v3": _Rebuild(has_dtype=True),
    "torch._utils._rebuild_parameter": _RebuildParameter(),
}


class _Reader(pickle.Unpickler):
    """Knows the names that check_pickle lets pass, and gives descriptions for them."""

    def find_class(self, module: str, name: str) -> Any:
        return CALLED.get(f"{module}.{name}") or STORAGES.get(name, name)  # a dtype by its name

    def persistent_load(self, identity: Any) -> Storage:
        _, kind, key, _, n_values = identity
        return Storage(str(key), str(kind), int(n_values))


Described = dict[str, Tensor]


def describe_pickle(path: Path, program: bytes) -> Described:
    """The tensors that a checkpoint's pickle describes, by name; ModelRejected for what is no plain checkpoint."""
    check_pickle(path, program)
    try:
        found = _Reader(io.BytesIO(program)).load()  # it makes descriptions, and calls nothing else
    except Exception:  # damaged pickles raise many kinds
        raise ModelRejected(f"{plain(path.name)}: its list of tensors is damaged", DOWNLOAD_AGAIN) from None
    return weights_of(path, found, lambda value: isinstance(value, Tensor), Tensor)


def place(path: Path, described: Described, records: Mapping[str, Record]) -> dict[str, TensorHeader]:
    """Where in the file each described tensor lies; `records` are the archive's, by name below its root.

    ModelRejected for a tensor that does not lie in one run of its record, and for records of no tensor.
    """
    placed = {name: _placed(path, name, tensor, records) for name, tensor in described.items()}
    used = {DATA + tensor.storage.key for tensor in described.values()}
    if any(record.size for name, record in records.items() if name.startswith(DATA) and name not in used):
        raise _wrong_sizes(path)
    return placed


def _placed(path: Path, name: str, tensor: Tensor, records: Mapping[str, Record]) -> TensorHeader:
    if tensor.has_attributes:
        raise ModelRejected(
            f"{plain(path.name)}: {quote(name)} is no plain tensor: it has attributes",
            "use the bf16 checkpoint of the same model",
        )
    record = records.get(DATA + tensor.storage.key)
    if record is None:
        raise ModelRejected(f"{plain(path.name)} is damaged: the data of {quote(name)} are not in it", DOWNLOAD_AGAIN)
    if record.size != tensor.storage.n_values * item_size(tensor.storage.dtype):
        raise _wrong_sizes(path)
    if not is_one_run(tensor.shape, tensor.strides):
        raise spread(path, name)
    size = item_size(tensor.dtype)
    n_bytes = math.prod(tensor.shape) * size
    if tensor.offset * size + n_bytes > record.size:
        raise _wrong_sizes(path)
    strides = None if is_row_major(tensor.shape, tensor.strides) else tensor.strides
    return TensorHeader(tensor.dtype, tensor.shape, record.offset + tensor.offset * size, n_bytes, strides)


def spread(path: Path, name: str) -> ModelRejected:
    """The refusal of a tensor whose values do not follow each other."""
    return ModelRejected(f"{plain(path.name)}: {quote(name)} is not contiguous", resave(path, JOINED))


def _wrong_sizes(path: Path) -> ModelRejected:
    return ModelRejected(f"{plain(path.name)}: the sizes of its tensors and of its data disagree", DOWNLOAD_AGAIN)


def is_row_major(shape: Shape, strides: Shape) -> bool:
    """Whether values follow each other without a gap, those of the last dimension first."""
    return 0 in shape or _fills([*zip(strides, shape, strict=True)][::-1])


def is_one_run(shape: Shape, strides: Shape) -> bool:
    """Whether values follow each other without a gap, though the dimensions may be turned round."""
    return 0 in shape or _fills(sorted(pair for pair in zip(strides, shape, strict=True) if pair[1] != 1))


def _fills(dimensions: list[tuple[int, int]]) -> bool:
    """Whether each (stride, size) begins where the one before it ends."""
    expected = 1
    for stride, size in dimensions:
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
