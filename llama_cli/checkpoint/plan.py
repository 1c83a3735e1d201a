"""How a checkpoint is to run, and the memory that it takes then. `info` and `load` ask here alike: no torch."""

from __future__ import annotations

from dataclasses import replace

from ..backends.offers import BYTES, Machine, Offer, Wanted, choose_dtype, choose_offer
from ..memory import MemoryPlan, Stored, StoredQuantization, plan_memory
from ..model.args import ModelArgs
from ..options import DtypeName, Kernels, Quantization
from .headers import Headers


def what_is_wanted(
    headers: Headers,
    machine: Machine,
    device: str,
    *,
    dtype: DtypeName = "auto",
    quantize: Quantization | None = None,
    kernels: Kernels = "auto",
) -> Wanted:
    """The dtype, quantization and kernels to run a model with, where options may leave each of them open.

    Without `quantize`, layers that are quantized in the files run so where this machine can, else dequantized.
    """
    asked = Wanted(choose_dtype(dtype, headers.dtype, headers.n_bytes, device), device, quantize, kernels)
    if quantize is not None or headers.quantization is None or kernels == "plain":
        return asked
    as_stored = replace(asked, quantize=headers.quantization)
    return asked if choose_offer(as_stored, machine) is None else as_stored


def runs_as_stored(headers: Headers, offer: Offer) -> bool:
    """Whether the weights are quantized in the files, and in the way that an offer wants."""
    return headers.quantization is not None and headers.quantization == offer.quantization


def plan_model(
    headers: Headers, args: ModelArgs, offer: Offer, *, n_slots: int, n_ranks: int = 1, mmap: bool = True
) -> MemoryPlan:
    """The memory that a checkpoint takes on each of several ranks when it runs by an offer."""
    return plan_memory(args, offer, _stored(headers, offer, mmap=mmap), n_slots=n_slots, n_ranks=n_ranks)


def _stored(headers: Headers, offer: Offer, *, mmap: bool) -> Stored:
    is_tied, is_copied = headers.is_tied, offer.dtype != headers.dtype or len(headers.shards) > 1 or not mmap
    if headers.is_quantized:
        return Stored(1, is_tied, is_copied=True)
    if headers.quantization is None:
        return Stored(BYTES[headers.dtype], is_tied, is_copied)
    quantization: StoredQuantization = "kept" if runs_as_stored(headers, offer) else "dequantized"
    return Stored(BYTES[headers.quantization], is_tied, is_copied, quantization)
