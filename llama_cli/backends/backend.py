"""How a model runs here: the offer that is taken, and what makes the layers and the steps that it states."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from ..errors import UsageError
from ..model.cache import GROWTH, Cache
from ..model.llama import Llama
from ..options import Quantization
from . import cuda, onednn_int
from .cuda_graphs import GROWTH_OF_CACHE, DecodeGraphs, cuda_graphs
from .machine import processor
from .native.decode import NativeSteps, can_step
from .native.library import Library, native_library
from .native.linear import NativeLayers
from .offers import INT4_CAPABILITY, Layers, Machine, Offer, Wanted, choose_offer
from .onednn import can_pack, packed_linear
from .place import MakeLayer, MakeLinear, plain_linear
from .upcast import many_rows, upcast_linear


class Steps(NamedTuple):
    """A faster way for steps of one token, if there is one, and in steps of how many positions its cache grows."""

    make: Callable[[Llama, Cache], NativeSteps | DecodeGraphs] | None = None
    cache_growth: int = GROWTH


@dataclass(frozen=True)
class Backend:
    """What computes an offer: the layers and the decode steps that it states."""

    offer: Offer
    make: MakeLayer | None  # None: torch's own layers around the weights as they are read
    library: Library | None = None  # of our own kernels

    @property
    def dtype(self) -> torch.dtype:
        """Of the embedding and of the cache."""
        dtype: torch.dtype = getattr(torch, self.offer.dtype)
        return dtype

    @property
    def activations(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.offer.activations)
        return dtype

    def steps_of(self, model: Llama) -> Steps:
        """How steps of one token of a whole model are computed."""
        if self.library is not None and can_step(model, self.library):
            return Steps(partial(NativeSteps, library=self.library))
        if self.offer.steps == "graphs":
            return Steps(partial(DecodeGraphs, record=cuda_graphs()), GROWTH_OF_CACHE)
        return Steps()


def choose_backend(wanted: Wanted, machine: Machine) -> Backend:
    """The fastest backend of `machine` for what is wanted; UsageError if it has none for such weights."""
    offer, library = choose_offer(wanted, machine), None
    if offer is not None and offer.is_native:
        library = native_library()
        machine = dataclasses.replace(
            machine, has_native=library is not None, has_native_int8=library is not None and library.has_int8
        )
        offer = choose_offer(wanted, machine)
    if offer is None:
        gpu = "an NVIDIA GPU" + (" of compute capability 8.0" if wanted.quantize == "int4" else "")
        raise UsageError(
            f"--quantize {wanted.quantize} needs an x86 CPU with oneDNN or {gpu}, not {wanted.device}",
            "leave --quantize out",
        )
    return Backend(offer, _maker(offer, library), library if offer.is_native else None)


def machine_of(device: torch.device) -> Machine:
    """What torch says of a device and its machine. Our own kernels are compiled when they are chosen."""
    cpu = torch.device("cpu")
    return Machine(
        has_native=True,
        has_native_int8=processor().has_byte_kernels,
        packed=frozenset(dtype for dtype in ("float32", "bfloat16") if can_pack(getattr(torch, dtype), cpu)),
        has_onednn_int=onednn_int.can_quantize(),
        upcasts=many_rows() is not None,
        capability=torch.cuda.get_device_capability(device) if device.type == "cuda" else INT4_CAPABILITY,
    )


def _maker(offer: Offer, library: Library | None) -> MakeLayer | None:
    if offer.is_native:
        assert library is not None, "native layers have their library"
        native = NativeLayers.here(
            library, getattr(torch, offer.activations if offer.quantization is None else "bfloat16")
        )
        return {"int8": native.int8, "int4": native.int4}.get(offer.linear, _of_any_role(native.full))
    if offer.layers == "upcast":
        return _upcast(is_packed=not offer.shares_embedding)
    return MAKERS[offer.layers, offer.quantization]


def _of_any_role(make: MakeLinear) -> MakeLayer:
    return lambda weight, role: make(weight)


MAKERS: Mapping[tuple[Layers, Quantization | None], MakeLayer | None] = {
    ("mapped", None): None,
    ("plain", None): _of_any_role(plain_linear),
    ("onednn", None): _of_any_role(packed_linear),
    ("onednn_int", "int8"): onednn_int.int8_layer,
    ("onednn_int", "int4"): onednn_int.int4_layer,
    ("cuda", "int8"): cuda.int8_layer,
    ("cuda", "int4"): cuda.int4_layer,
}


def _upcast(*, is_packed: bool) -> MakeLayer:
    """Of the output matrix rarely more than a few rows are wanted: it is packed for these where it can be."""
    many = many_rows()
    assert many is not None, "offered where many rows are upcast"
    upcasting = upcast_linear(many=many, packed=is_packed)
    return lambda weight, role: packed_linear(weight) if is_packed and role == "output" else upcasting(weight)
