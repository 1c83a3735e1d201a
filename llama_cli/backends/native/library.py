"""What the compiled kernels are called with: the structures and functions of kernels.cpp."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from itertools import takewhile

import torch  # before the library: both then share one runtime of OpenMP
from torch import Tensor

from ...model.weights import LLAMA_LAYER
from .build import built_library, tell_slower

MAPS_NONE = "failed to map segment"  # the loader's words for no memory, and for a folder that nothing may run from


class Kind(IntEnum):
    """How the weights of a matrix are stored, and the inputs of its product rounded."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT4 = 2
    INT8 = 3
    INT8_RESIDUAL = 4


BYTES = (Kind.INT8, Kind.INT8_RESIDUAL)  # weights that are multiplied as bytes


class Matrix(Structure):
    """Weights (n_out, n_in)."""

    _fields_ = (
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("sums", c_void_p),
        ("n_out", c_int64),
        ("n_in", c_int64),
        ("kind", c_int32),
    )


class Layer(Structure):
    """The weights and the cache of one layer."""

    _fields_ = (
        *((spec.module, Matrix) for spec in LLAMA_LAYER if spec.is_linear),
        *((spec.module, c_void_p) for spec in LLAMA_LAYER if not spec.is_linear),
        ("keys", c_void_p),
        ("values", c_void_p),
    )


class Model(Structure):
    """All that a step reads but for its own numbers."""

    _fields_ = (
        *((name, c_int64) for name in ("n_layers", "dim", "ffn_dim", "n_heads", "n_kv_heads", "head_dim")),
        ("max_seq_len", c_int64),
        ("layers", POINTER(Layer)),
        ("norm", c_void_p),
        ("output", Matrix),
        ("rope", c_void_p),
        ("norm_eps", c_float),
        ("rounds", c_int32),
        ("narrows", c_int32),
    )


class Laid(Structure):
    """Where a structure or a field of one lies in C++, by name; bytes."""

    _fields_ = (("name", c_char_p), ("offset", c_int64), ("size", c_int64))


SHARED: tuple[type[Structure], ...] = (Matrix, Layer, Model)  # filled here, read by the kernels


class Library:
    """The functions of the library, on tensors."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self._loaded = loaded
        loaded.scratch_floats.restype = loaded.most_head_dim.restype = c_int64
        self.has_int8 = bool(loaded.multiplies_bytes())
        self.has_bfloat16 = bool(loaded.multiplies_bfloat16())
        self.most_head_dim = int(loaded.most_head_dim())

    def takes_many(self, kind: int) -> bool:
        """Whether products with such weights are the fastest here for any number of rows, not for a few alone."""
        return kind in BYTES or (kind in (Kind.BFLOAT16, Kind.INT4) and self.has_bfloat16)

    def scratch_floats(self, model: Model, n_rows: int) -> int:
        """How many floats `forward` wants room for."""
        return int(self._loaded.scratch_floats(ctypes.byref(model), c_int64(n_rows)))

    def forward(
        self, model: Model, positions: Tensor, slots: Tensor, x: Tensor, outputs: Tensor, n_exact: int, scratch: Tensor
    ) -> Tensor:
        """Tokens of some slots, those of one slot in a row: x (N, dim), float32, are their embeddings.

        Logits (M, vocab_size), float32, of the tokens at `outputs` (M,), rounded as activations are but for the last
        `n_exact`.
        """
        logits = torch.empty(len(outputs), model.output.n_out)
        self._loaded.forward(
            ctypes.byref(model),
            c_int64(len(x)),
            *map(address, (positions, slots, x)),
            c_int64(len(outputs)),
            c_int64(n_exact),
            *map(address, (outputs, logits, scratch)),
            _threads(),
        )
        return logits

    def linear(self, matrix: Matrix, x: Tensor) -> Tensor:
        """x (N, in), float32 -> (N, out), float32."""
        n_rows, n_in = x.shape
        y = torch.empty(n_rows, matrix.n_out)
        room = torch.empty(2 * n_rows * (n_in + 1) + 64)
        self._loaded.linear(ctypes.byref(matrix), c_int64(n_rows), *map(address, (x.contiguous(), y, room)), _threads())
        return y

    def upcast_int4(self, matrix: Matrix, rows: range) -> Tensor:
        """Rows of int4 weights, (rows, in), float32."""
        wide = torch.empty(len(rows), matrix.n_in)
        self._loaded.upcast_int4(
            ctypes.byref(matrix), c_int64(rows.start), c_int64(len(rows)), address(wide), _threads()
        )
        return wide

    def sum_rows(self, weights: Tensor) -> Tensor:
        """The sums of int8 weights (out, in), (out,)."""
        sums = torch.empty(len(weights), dtype=torch.int32)
        n_out, n_in = weights.shape
        self._loaded.sum_rows(address(weights), c_int64(n_out), c_int64(n_in), address(sums), _threads())
        return sums


def address(tensor: Tensor) -> c_void_p:
    """Where the numbers of a tensor begin; whoever keeps the address keeps the tensor too."""
    assert tensor.is_contiguous(), "the kernels know no strides"
    return c_void_p(tensor.data_ptr())


def layout_here() -> dict[str, tuple[int, int]]:
    """Offset and size, in bytes, of the structures that the kernels read and of their fields, as ctypes has them."""
    laid = {}
    for structure in SHARED:
        laid[structure.__name__] = (0, ctypes.sizeof(structure))
        for name, *_ in structure._fields_:
            field = getattr(structure, name)
            laid[f"{structure.__name__}.{name}"] = (field.offset, field.size)
    return laid


def layout_of(loaded: ctypes.CDLL) -> dict[str, tuple[int, int]]:
    """The same as the compiler of the library has laid it out."""
    loaded.layout.restype = POINTER(Laid)
    entries = takewhile(lambda entry: entry.name is not None, loaded.layout())
    return {entry.name.decode(): (entry.offset, entry.size) for entry in entries}


def differing_fields(loaded: ctypes.CDLL) -> list[str]:
    """What lies elsewhere in the library than here, or is on one side only: kernels would read wild memory."""
    there, here = layout_of(loaded), layout_here()
    return sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))


def _threads() -> c_int:
    return c_int(torch.get_num_threads())


@cache
def native_library() -> Library | None:
    """The kernels, compiled on first use; None where they cannot be had."""
    path = built_library()
    if path is None:
        return None
    try:
        loaded = ctypes.CDLL(str(path))
        if differing := differing_fields(loaded):
            tell_slower(f"the compiled kernels lay out {', '.join(differing)} in another way than library.py")
            return None
        return Library(loaded)
    except (OSError, AttributeError) as error:
        if MAPS_NONE not in str(error):  # half a file, which has the name of its content all the same
            path.unlink(missing_ok=True)
        tell_slower(str(error))
        return None
