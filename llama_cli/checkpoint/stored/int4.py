"""Meta's int4 checkpoints of Llama 3.2 1B and 3B (QLoRA with its adapters, SpinQuant), as bfloat16 weights.

A linear layer of a block has `weight`, whole numbers from -8 to 7 in int8, and `scales`, one for each group of a
row; the embedding and the output matrix have int8 and one scale a row. Activations are not quantized here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...files.quoting import plain, quote
from ...model.weights import spec_of
from ..header import is_extra
from ..schemes import INT4_SCHEME
from .row_blocks import ComputedMatrix

if TYPE_CHECKING:
    from ..shard import PlainShard

FLOATS = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Int4Format:
    """What params.json says about such a file."""

    group_size: int
    lora_scale: float | None  # of the adapters; None where there are none
    is_rotated: bool  # SpinQuant: w2 wants its input turned by a Hadamard matrix


def int4_format(params: Mapping[str, Any]) -> Int4Format | None:
    """The format of a model by its params.json; None for one not of int4, ModelRejected for unclear settings."""
    settings = params.get("quantization_args")
    if not isinstance(settings, Mapping) or settings.get("scheme") != INT4_SCHEME:
        return None
    group_size, lora = settings.get("group_size"), params.get("lora_args")
    unread = [f"quantization_args: {key}" for key in settings if key not in ("scheme", "group_size", "spinquant")]
    unread += [f"lora_args: {key}" for key in lora or () if key not in ("rank", "scale")]
    if unread:
        raise ModelRejected(f"params.json: {plain(unread[0])} is not known of such files", DOWNLOAD_AGAIN)
    lora_scale = lora.get("scale") if isinstance(lora, Mapping) else None
    if type(group_size) is not int or not 1 <= group_size <= 2**16:
        raise ModelRejected(f"params.json: quantization_args: group_size is {quote(group_size, 40)}", DOWNLOAD_AGAIN)
    if lora is not None and (type(lora_scale) not in (int, float) or not math.isfinite(float(lora_scale or 0))):
        raise ModelRejected(f"params.json: lora_args: scale is {quote(lora_scale, 40)}", DOWNLOAD_AGAIN)
    is_rotated = settings.get("spinquant", lora is None)  # Meta published no int4 files that are neither
    return Int4Format(group_size, None if lora_scale is None else float(lora_scale), bool(is_rotated))


def int4_dtypes(name: str) -> tuple[str, ...]:
    """The dtypes that a tensor of such a file may have."""
    base, _, kind = name.rpartition(".")
    is_quantized = _scaled_by(f"{base}.weight") is not None
    if is_quantized and kind == "weight":
        return ("int8",)
    return (*FLOATS, "int8") if is_quantized and kind == "zeros" else FLOATS


def _scaled_by(name: str) -> Literal["row", "group"] | None:
    """What of a weight shares a scale; None for one that is not quantized."""
    spec = spec_of(name)
    if spec is None or spec.role == "norm":
        return None
    return "row" if spec.role in ("embedding", "output") else "group"


class Int4Weights:
    """The tensors of such a file under the names and shapes of a bfloat16 checkpoint, computed when asked for."""

    def __init__(self, files: PlainShard, form: Int4Format) -> None:
        self._files = files
        self._form = form
        self._present = set(files.names())
        for name in self.names():
            self._check(name.removesuffix(".weight"))
        if form.lora_scale is None and any(".adaptor." in name for name in self._present):
            raise ModelRejected("the weights have adapters, and params.json has no lora_args", DOWNLOAD_AGAIN)

    def names(self) -> list[str]:
        return [name for name in self._files.names() if not is_extra(name)]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return torch.bfloat16

    def tensor(self, name: str) -> Tensor | ComputedMatrix:
        base = name.removesuffix(".weight")
        weight = self._files.tensor(name)
        scaled_by = _scaled_by(name)
        if scaled_by == "row":
            scales = self._files.tensor(f"{base}.scales").float().view(-1, 1)
            return self._computed(name, lambda rows: weight[rows].float() * scales[rows])
        if scaled_by is None:
            return weight.to(torch.bfloat16)
        return self._computed(name, lambda rows: self._linear_rows(base, weight, rows))

    def _computed(self, name: str, make: Callable[[slice], Tensor]) -> ComputedMatrix:
        n_out, n_in = self.shape(name)
        return ComputedMatrix((n_out, n_in), torch.bfloat16, make)

    def _linear_rows(self, base: str, weight: Tensor, rows: slice) -> Tensor:
        """Rows of a linear layer in float32: y = (weight - zeros) · scales · x + lora_scale · B · A · x."""
        wanted = weight[rows].float()
        groups = wanted.view(len(wanted), -1, self._form.group_size)
        if f"{base}.zeros" in self._present:
            groups = groups - self._files.tensor(f"{base}.zeros")[rows, :, None].float()
        wide: Tensor = (groups * self._files.tensor(f"{base}.scales")[rows, :, None].float()).flatten(1)
        if self._form.lora_scale is not None:
            first, second = (self._files.tensor(f"{base}.adaptor.{part}.weight").float() for part in "AB")
            wide = wide + second[rows] @ first * self._form.lora_scale
        return rotate(wide) if self._is_rotated(base) else wide

    def _is_rotated(self, base: str) -> bool:
        spec = spec_of(f"{base}.weight")
        return self._form.is_rotated and spec is not None and spec.role == "down"

    def _check(self, base: str) -> None:
        """ModelRejected if a matrix and what belongs to it do not fit together."""
        scaled_by = _scaled_by(f"{base}.weight")
        if scaled_by is None:
            return
        shape = self.shape(f"{base}.weight")
        n_out, n_in = shape if len(shape) == 2 else (0, 0)
        expected: dict[str, tuple[tuple[int, ...], ...]] = {"scales": ((n_out,), (n_out, 1))}
        if scaled_by == "group":
            expected["scales"] = ((n_out, n_in // self._form.group_size),)
            if f"{base}.zeros" in self._present:
                expected["zeros"] = expected["scales"]
            if self._form.lora_scale is not None:
                rank = self._rank_of(base)
                expected |= {"adaptor.A.weight": ((rank, n_in),), "adaptor.B.weight": ((n_out, rank),)}
        for kind, shapes in expected.items():
            name = f"{base}.{kind}"
            if name not in self._present:
                raise ModelRejected(f"{name} is missing, which {base}.weight needs", DOWNLOAD_AGAIN)
            if self._files.shape(name) not in shapes:
                wanted = " or ".join(map(str, shapes))
                raise ModelRejected(f"{name} has shape {self._files.shape(name)}, must be {wanted}", DOWNLOAD_AGAIN)
        if scaled_by == "group" and n_in % self._form.group_size:
            raise ModelRejected(
                f"{base}.weight has {n_in} columns, no multiple of group_size {self._form.group_size}", DOWNLOAD_AGAIN
            )
        if self._is_rotated(base) and n_in & (n_in - 1):
            raise ModelRejected(f"{base}.weight has {n_in} columns, SpinQuant needs a power of two", DOWNLOAD_AGAIN)

    def _rank_of(self, base: str) -> int:
        name = f"{base}.adaptor.A.weight"
        return self._files.shape(name)[0] if name in self._present and self._files.shape(name) else 0


def rotate(weight: Tensor) -> Tensor:
    """weight @ H, (rows, n): a layer whose input SpinQuant rotates, x -> H x, then takes x as it is.

    H is the normalised Hadamard matrix of n = 2^k columns. It is symmetric, and the Kronecker product of two
    smaller ones, which takes far fewer products.
    """
    n = weight.shape[1]
    left = 1 << (n.bit_length() - 1) // 2
    wide = weight.view(-1, left, n // left)
    return (hadamard(left) @ (wide @ hadamard(n // left))).reshape(-1, n)


@cache
def hadamard(n: int) -> Tensor:
    """Sylvester's matrix of n = 2^k rows, divided by the root of n."""
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix / math.sqrt(n)
