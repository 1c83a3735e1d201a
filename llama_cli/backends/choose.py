"""How a model is to run: dtypes, and which linear layers its weights become."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import UsageError
from ..options import Kernels, Quantization
from .cuda import WeightOnlyInt8Linear, weight_only_int4
from .native.library import Library, native_library
from .native.linear import KINDS, NativeLayers
from .onednn import can_pack, packed_linear
from .onednn_int import Int8Linear, can_quantize, fine_int8_linear, int4_linear
from .place import MakeLinear, plain_linear
from .upcast import many_rows, upcast_linear

INT8_BYTES = 1.0  # a weight; the scales of its row do not count
INT4_BYTES = 0.625  # half a byte, and two scales in bfloat16 for each group of 32


@dataclass(frozen=True)
class Recipe:
    """What a model is made of. Without `make`, torch's own layers as they come, mapped from the file."""

    name: str
    dtype: torch.dtype  # of the embedding and of the cache
    activations: torch.dtype
    linear_bytes: float  # that a weight of a linear layer takes
    quantization: Quantization | None = None
    make: MakeLinear | None = None
    make_w2: MakeLinear | None = None
    make_output: MakeLinear | None = None
    library: Library | None = None  # of our own kernels, whose layers stay apart and are not copied

    @property
    def copies_embedding(self) -> bool:
        """Whether an output matrix that is the embedding becomes a matrix of its own."""
        as_it_is = self.make_output in (None, plain_linear) or (self.library is not None and self.quantization is None)
        return not as_it_is


def choose_recipe(
    dtype: torch.dtype, device: torch.device, *, quantize: Quantization | None = None, kernels: Kernels = "auto"
) -> Recipe:
    """The fastest way that this device has; UsageError if it cannot be."""
    name = str(dtype).removeprefix("torch.")
    if quantize is not None:
        return _quantized(dtype, device, quantize, kernels)
    if kernels == "plain":
        return Recipe(name, dtype, dtype, dtype.itemsize)
    native = _native_layers(dtype, device, kernels)
    if native is not None:
        full = native.full
        return Recipe(name, dtype, dtype, dtype.itemsize, None, full, full, full, native.library)
    make, make_output = _fast_layers(dtype, device)
    return Recipe(name, dtype, dtype, dtype.itemsize, None, make, make, make_output)


def _native_layers(dtype: torch.dtype, device: torch.device, kernels: Kernels) -> NativeLayers | None:
    """Layers of our own kernels; None where they cannot be had or are not wanted."""
    if kernels != "auto" or device.type != "cpu" or dtype not in KINDS:
        return None
    library = native_library()
    return None if library is None else NativeLayers.here(library, dtype)


def _fast_layers(dtype: torch.dtype, device: torch.device) -> tuple[MakeLinear | None, MakeLinear | None]:
    """What makes the layers of the blocks, and the output, of which rarely more than a few rows are wanted."""
    if device.type != "cpu":
        return plain_linear, plain_linear
    packed = packed_linear if can_pack(dtype, device) else None
    many = many_rows() if dtype == torch.bfloat16 else None
    if many is None:
        return packed, packed
    upcasting = upcast_linear(many=many, packed=packed is not None)
    return upcasting, packed or upcasting


def _quantized(dtype: torch.dtype, device: torch.device, quantize: Quantization, kernels: Kernels) -> Recipe:
    if not can_quantize(device, quantize):
        gpu = "an NVIDIA GPU" + (" of compute capability 8.0" if quantize == "int4" else "")
        raise UsageError(
            f"--quantize {quantize} needs an x86 CPU with oneDNN or {gpu}, not {device}", "leave --quantize out"
        )
    f32, bf16 = torch.float32, torch.bfloat16
    if device.type == "cuda":
        int8, int4 = WeightOnlyInt8Linear, weight_only_int4
        if quantize == "int8":
            return Recipe("int8", dtype, dtype, INT8_BYTES, "int8", int8, int8, int8)
        return Recipe("int4", bf16, bf16, INT4_BYTES, "int4", int4, int4, int8)
    native = _native_layers(bf16, device, kernels)
    if native is not None and native.library.has_int8:
        fine, library = native.fine_int8, native.library
        if quantize == "int8":
            return Recipe("int8", dtype, f32, INT8_BYTES, "int8", native.int8, fine, fine, library)
        return Recipe("int4", bf16, bf16, INT4_BYTES, "int4", native.int4, native.int4, fine, library)
    if quantize == "int8":
        return Recipe("int8", dtype, f32, INT8_BYTES, "int8", Int8Linear, fine_int8_linear, fine_int8_linear)
    return Recipe("int4", bf16, bf16, INT4_BYTES, "int4", int4_linear, int4_linear, fine_int8_linear)
