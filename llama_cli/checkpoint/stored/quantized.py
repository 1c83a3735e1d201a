"""Folders whose linear layers `llama-cli convert --quantize` has quantized: Meta's names, and scales beside.

int8    X.weight I8 (out, in)        X.scales F32 (out,)
int4    X.weight U8 (out, in / 2)    X.scales BF16 (out, in / 32, 2); the output matrix has int8

model/quantized.py says what the numbers mean. The embedding, the norms, and what int4 does not fit are plain.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ModelRejected
from ...files.foreign import DOWNLOAD_AGAIN
from ...files.quoting import plain, quote
from ...model.weights import EMBEDDING, OUTPUT, spec_of
from ..header import TensorHeader, is_extra
from ..safetensors_file import FLOATS, SafetensorsFiles

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...model.quantized import QuantizedWeight
    from ...options import Quantization
    from .row_blocks import ComputedMatrix

GROUP = 32


class QuantizedWeights:
    """The tensors of such files under the names and shapes of full ones, computed when asked for."""

    def __init__(self, files: SafetensorsFiles, quantization: Quantization) -> None:
        self._files = files
        self._headers = {name: files.describe(name) for name in files.names()}
        self.quantization = quantization
        if OUTPUT not in self._headers:
            raise ModelRejected(f"{OUTPUT} is missing, which such a model has of its own", DOWNLOAD_AGAIN)
        for name in self.names():
            self._check(name)
        for name in self._headers.keys() - set(self.names()):
            self._check_scales(name)

    def names(self) -> list[str]:
        return [name for name in self._headers if not is_extra(name)]

    def map(self) -> None:
        """Have every file checked and mapped."""
        self._files.map()

    def path(self, name: str) -> Path:
        return self._files.path(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.describe(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return self._files.dtype(name if self._headers[name].dtype in FLOATS.values() else EMBEDDING)

    def describe(self, name: str) -> TensorHeader:
        """The header of a tensor; packed int4, uint8 (out, in / 2), has the shape of its values, (out, in)."""
        header = self._headers[name]
        if header.dtype != "uint8":
            return header
        n_rows, n_bytes = header.shape
        return header._replace(dtype="int4", shape=(n_rows, 2 * n_bytes))

    def describe_all(self) -> dict[str, TensorHeader]:
        """Every tensor of the files, scales included."""
        return {name: self.describe(name) for name in self._headers}

    def tensor(self, name: str) -> Tensor | ComputedMatrix:
        from .row_blocks import ComputedMatrix

        quantized = self.quantized(name)
        if quantized is None:
            return self._files.tensor(name)
        return ComputedMatrix(quantized.shape, self.dtype(name), quantized.dequantize)

    def quantized(self, name: str) -> QuantizedWeight | None:
        """A matrix as it was quantized; None for a plain tensor."""
        from ...model.quantized import Int4Weight, Int8Weight

        kinds: dict[str, type[QuantizedWeight]] = {"int8": Int8Weight, "uint8": Int4Weight}
        kind = kinds.get(self._headers[name].dtype)
        return None if kind is None else kind(self._files.tensor(name), self._files.tensor(scales_of(name)))

    def _check(self, name: str) -> None:
        """ModelRejected for a tensor of a dtype that its name does not have, or whose scales do not fit it."""
        dtype, shape, *_ = self._headers[name]
        possible, spec = set(FLOATS.values()), spec_of(name)
        if name == OUTPUT:
            possible = {"int8"}
        elif spec is not None and spec.is_linear:
            possible = {"int8"} if self.quantization == "int8" else {"uint8", *possible}
        if dtype not in possible:
            raise ModelRejected(
                f"{quote(name)} is of dtype {dtype}, which weights quantized to {self.quantization} do not have there",
                "params.json belongs to other weights, or they are damaged: convert the model again",
            )
        if dtype in FLOATS.values():
            return
        n_out, n_in = shape if len(shape) == 2 else (0, 0)
        wanted = ("float32", (n_out,)) if dtype == "int8" else ("bfloat16", (n_out, 2 * n_in // GROUP, 2))
        scales = self._headers.get(scales_of(name))
        if scales is None:
            raise ModelRejected(f"{scales_of(name)} is missing, which {plain(name)} needs", DOWNLOAD_AGAIN)
        if (scales.dtype, scales.shape) != wanted or (dtype == "uint8" and 2 * n_in % GROUP) or 0 in (n_out, n_in):
            raise ModelRejected(
                f"{scales_of(name)} is of dtype {scales.dtype} and shape {scales.shape}, must be {wanted[0]} and"
                f" {wanted[1]} for {shape} of {dtype}",
                DOWNLOAD_AGAIN,
            )

    def _check_scales(self, name: str) -> None:
        owner = self._headers.get(name.removesuffix("scales") + "weight")
        if owner is None or owner.dtype in FLOATS.values():
            raise ModelRejected(f"{quote(name)} belongs to no quantized matrix", DOWNLOAD_AGAIN)


def scales_of(name: str) -> str:
    """What the scales of a matrix are called."""
    return name.removesuffix("weight") + "scales"
