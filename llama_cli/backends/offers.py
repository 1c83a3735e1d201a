"""How a model can run on a machine, and the way that is taken: what is kept of each weight, what is made of it.

`load` makes an offer true (backend.py), memory.py counts what it takes. No torch: `info` plans by the same offers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..model.weights import Role
from ..options import DtypeName, Kernels, Quantization
from .machine import processor
from .native.build import find_compiler

Dtype = Literal["float32", "bfloat16", "float16"]  # as torch calls them
Number = Literal["float32", "bfloat16", "float16", "int8", "int4"]
Layers = Literal["mapped", "plain", "native", "onednn", "upcast", "onednn_int", "cuda"]

DTYPES: Mapping[DtypeName, Dtype] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

# Of a weight. The scales of int8, one for each row, do not count; int4 has two in bfloat16 for each group of 32.
BYTES: Mapping[Number, float] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "int4": 0.625}

SMALL_MODEL_BYTES = 16 << 20  # of weights: below, a model runs on one thread and in float32 where a CPU may choose
INT4_CAPABILITY = (8, 0)  # of GPUs that multiply bfloat16


@dataclass(frozen=True)
class Machine:
    """What of a machine decides how a model runs on it."""

    has_native: bool  # our own kernels, compiled
    has_native_int8: bool  # those of bytes
    packed: frozenset[Dtype]  # what oneDNN has a faster layout for
    has_onednn_int: bool
    upcasts: bool  # many rows of bfloat16 are computed in float32
    capability: tuple[int, int] = INT4_CAPABILITY  # of its GPU


# A machine that can run all there is.
ABLE = Machine(True, True, frozenset({"float32", "bfloat16"}), has_onednn_int=True, upcasts=False)


@dataclass(frozen=True)
class Wanted:
    """What a model is to run in, and on."""

    dtype: Dtype
    device: str  # cpu, cuda or mps
    quantize: Quantization | None = None
    kernels: Kernels = "auto"


@dataclass(frozen=True)
class Offer:
    """How a model would run."""

    layers: Layers  # whose file makes them; mapped: torch's own, around the weights as they are read
    device: str
    dtype: Dtype  # of the embedding and of the cache
    activations: Dtype
    linear: Number  # of the matrices of the blocks, where their shapes allow it
    output: Number
    joins: bool = False  # what reads the same inputs becomes one matrix; each is laid out anew, from another copy
    shares_embedding: bool = True  # an output matrix that is the embedding is no matrix of its own
    steps: Literal["native", "graphs"] | None = None  # a faster way for steps of one token

    @property
    def quantization(self) -> Quantization | None:
        return self.linear if self.linear in ("int8", "int4") else None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.linear

    @property
    def is_on_cpu(self) -> bool:
        """Whether it runs where the files are mapped; another device has memory of its own."""
        return self.device == "cpu"

    @property
    def is_native(self) -> bool:
        """Whether it is our own kernels', which torch.compile cannot make faster."""
        return self.layers == "native"

    def bytes_of(self, role: Role) -> float:
        """Bytes of a value of a weight."""
        if role in ("embedding", "norm"):
            return BYTES[self.dtype]
        return BYTES[self.output if role == "output" else self.linear]


def choose_offer(wanted: Wanted, machine: Machine) -> Offer | None:
    """The fastest way; None if there is none, which may be so of quantized weights."""
    offers = (offer(wanted, machine) for offer in (OF_QUANTIZED if wanted.quantize else OF_FULL))
    return next(filter(None, offers), None)


def _mapped(wanted: Wanted, machine: Machine) -> Offer | None:
    if wanted.kernels != "plain":
        return None
    return _full("mapped", wanted, steps=None)


def _native(wanted: Wanted, machine: Machine) -> Offer | None:
    """Our own kernels take the weights as they lie."""
    can = wanted.device == "cpu" and wanted.kernels == "auto" and wanted.dtype in ("float32", "bfloat16")
    return _full("native", wanted, steps="native") if can and machine.has_native else None


def _gpu(wanted: Wanted, machine: Machine) -> Offer | None:
    if wanted.device == "cpu":
        return None
    return _full("plain", wanted, joins=True, steps=_graphs(wanted))


def _upcast(wanted: Wanted, machine: Machine) -> Offer | None:
    if wanted.dtype != "bfloat16" or not machine.upcasts:
        return None
    return _full("upcast", wanted, joins=True, shares_embedding=wanted.dtype not in machine.packed)


def _packed(wanted: Wanted, machine: Machine) -> Offer | None:
    if wanted.dtype not in machine.packed:
        return None
    return _full("onednn", wanted, joins=True, shares_embedding=False)


def _as_read(wanted: Wanted, machine: Machine) -> Offer:
    """What no kernel is made for, as float16 on a CPU."""
    return _full("mapped", wanted)


def _full(
    layers: Layers,
    wanted: Wanted,
    *,
    joins: bool = False,
    shares_embedding: bool = True,
    steps: Literal["native", "graphs"] | None = None,
) -> Offer:
    dtype = wanted.dtype
    return Offer(layers, wanted.device, dtype, dtype, dtype, dtype, joins, shares_embedding, steps)


def _gpu_int(wanted: Wanted, machine: Machine) -> Offer | None:
    """Weights of few bits, inputs as they are."""
    if wanted.device != "cuda" or (wanted.quantize == "int4" and machine.capability < INT4_CAPABILITY):
        return None
    dtype = wanted.dtype if wanted.quantize == "int8" else "bfloat16"
    return _quantized("cuda", wanted, dtype, dtype, joins=True, steps=_graphs(wanted))


def _native_int(wanted: Wanted, machine: Machine) -> Offer | None:
    can = wanted.device == "cpu" and wanted.kernels == "auto"
    if not (can and machine.has_native and machine.has_native_int8):
        return None
    return _quantized("native", wanted, *_dtypes_on_cpu(wanted), steps="native")


def _onednn_int(wanted: Wanted, machine: Machine) -> Offer | None:
    if wanted.device != "cpu" or not machine.has_onednn_int:
        return None
    return _quantized("onednn_int", wanted, *_dtypes_on_cpu(wanted), joins=True)


def _dtypes_on_cpu(wanted: Wanted) -> tuple[Dtype, Dtype]:
    """Of the embedding, and of activations: int8 rounds them by itself, from float32."""
    return (wanted.dtype, "float32") if wanted.quantize == "int8" else ("bfloat16", "bfloat16")


def _quantized(
    layers: Layers,
    wanted: Wanted,
    dtype: Dtype,
    activations: Dtype,
    *,
    joins: bool = False,
    steps: Literal["native", "graphs"] | None = None,
) -> Offer:
    """The output matrix suffers most from rounding: it has 8 bits at least."""
    assert wanted.quantize is not None, "an offer of quantized weights"
    return Offer(layers, wanted.device, dtype, activations, wanted.quantize, "int8", joins, False, steps)


def _graphs(wanted: Wanted) -> Literal["graphs"] | None:
    return "graphs" if wanted.device == "cuda" and wanted.kernels == "auto" else None


# The first that can.
OF_FULL = (_mapped, _native, _gpu, _upcast, _packed, _as_read)
OF_QUANTIZED = (_gpu_int, _native_int, _onednn_int)


def choose_dtype(asked: DtypeName, stored: Dtype, n_bytes: int, device: str) -> Dtype:
    """The dtype to run in: the one asked for; for `auto` the one that the weights are stored in.

    Exceptions to `auto`, on a CPU: less than SMALL_MODEL_BYTES of weights are faster in float32, and bfloat16 is faster
    than float16.
    """
    if asked != "auto":
        return DTYPES[asked]
    if device == "cpu" and n_bytes < SMALL_MODEL_BYTES:
        return "float32"
    return "bfloat16" if stored == "float16" and device == "cpu" else stored


def expected_machine(capability: tuple[int, int] = INT4_CAPABILITY) -> Machine:
    """This machine as far as can be told without torch and without compiling anything."""
    here = processor()
    return Machine(
        has_native=find_compiler() is not None,
        has_native_int8=here.has_byte_kernels,
        packed=frozenset({"float32", "bfloat16"} if here.packs_bfloat16 else {"float32"}),
        has_onednn_int=here.has_avx2,
        upcasts=here.lacks_bfloat16 or here.is_slow_in_bfloat16,
        capability=capability,
    )
