"""What becomes of the values on their way into another form: another dtype, or whole numbers of few bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import NumericalError, UsageError
from ..model.args import Shape
from ..model.quantized import Weight, quantization_of, quantize_int4, quantize_int8
from ..model.weights import OUTPUT, weight_shapes
from ..options import Quantization
from .outputs import Target, stored_as
from .source import Source


@dataclass(frozen=True)
class Values:
    """The weights of a form that is to be written."""

    shapes: Mapping[str, Shape]
    dtype: torch.dtype  # of what is not quantized
    quantization: Quantization | None

    @classmethod
    def of(cls, source: Source, target: Target) -> Values:
        """The weights of `source` in the form of `target`; UsageError if both of them are quantized."""
        if target.quantization is not None and source.quantization is not None:
            raise UsageError(
                f"--quantize {target.quantization}: the weights have been quantized to {source.quantization} before",
                "convert the model that they were quantized from",
            )
        shapes = weight_shapes(source.args)
        if source.is_tied and target.quantization is None:
            del shapes[OUTPUT]  # quantized, it is a matrix of its own
        return cls(shapes, target.dtype or source.dtype, target.quantization)

    @cached_property
    def quantizations(self) -> Mapping[str, Quantization]:
        """How each matrix is quantized; the others stay as they are."""
        if self.quantization is None:
            return {}
        found = {name: quantization_of(name, self.shapes, self.quantization) for name in self.shapes}
        return {name: quantization for name, quantization in found.items() if quantization is not None}

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights as they are written."""
        tensors = [
            stored_as(name, shape, self.dtype, self.quantizations.get(name)) for name, shape in self.shapes.items()
        ]
        return sum(blank.n_bytes for each in tensors for blank in each.values())

    def convert(self, name: str, rows: Tensor) -> Weight:
        """Rows of a weight as they are written; NumericalError for values that cannot be."""
        quantization = self.quantizations.get(name)
        if quantization is None:
            return _as_dtype(name, rows, self.dtype)
        # A model that runs as int4 has its weights in bfloat16 before they are quantized.
        full = _as_dtype(name, rows, torch.bfloat16 if self.quantization == "int4" else self.dtype)
        quantized = quantize_int8(full) if quantization == "int8" else quantize_int4(full)
        if not quantized.scales.isfinite().all():
            raise NumericalError(
                f"{name} has values that are NaN or infinite and cannot be quantized", "llama-cli verify"
            )
        return quantized


def _as_dtype(name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
    converted = rows.to(dtype)
    if dtype == torch.float16 and rows.dtype != dtype and not torch.equal(converted.isfinite(), rows.isfinite()):
        raise NumericalError(f"{name} has values beyond float16's 65,504", "--dtype bf16")
    return converted
