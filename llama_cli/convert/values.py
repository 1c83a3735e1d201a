"""What becomes of the values on their way into another form: another dtype, or whole numbers of few bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import NumericalError, UsageError
from ..model.args import Shape
from ..model.quantized import Weight, round_int4, round_int8, rounding_of
from ..model.weights import OUTPUT, weight_shapes
from ..options import Quantization
from .outputs import Target, stored_as
from .source import Source


@dataclass(frozen=True)
class Values:
    """The weights of a form that is to be written."""

    shapes: Mapping[str, Shape]
    dtype: torch.dtype  # of what is not rounded
    quantization: Quantization | None

    @classmethod
    def of(cls, source: Source, target: Target) -> Values:
        """Those of `source` as `target`; UsageError if they have been rounded before and are to be again."""
        if target.quantization is not None and source.quantization is not None:
            raise UsageError(
                f"--quantize {target.quantization}: the weights have been rounded to {source.quantization} before",
                "convert the model that they were rounded from",
            )
        shapes = weight_shapes(source.args)
        if source.is_tied and target.quantization is None:
            del shapes[OUTPUT]  # rounded, it is a matrix of its own
        return cls(shapes, target.dtype or source.dtype, target.quantization)

    @cached_property
    def roundings(self) -> Mapping[str, Quantization]:
        """How each matrix is rounded; the others stay as they are."""
        if self.quantization is None:
            return {}
        found = {name: rounding_of(name, self.shapes, self.quantization) for name in self.shapes}
        return {name: rounding for name, rounding in found.items() if rounding is not None}

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights as they are written."""
        tensors = [stored_as(name, shape, self.dtype, self.roundings.get(name)) for name, shape in self.shapes.items()]
        return sum(blank.n_bytes for each in tensors for blank in each.values())

    def convert(self, name: str, rows: Tensor) -> Weight:
        """Rows of a weight as they are written; NumericalError for values that cannot be."""
        rounding = self.roundings.get(name)
        if rounding is None:
            return _as_dtype(name, rows, self.dtype)
        # A model that runs as int4 has its weights in bfloat16 before they are rounded.
        full = _as_dtype(name, rows, torch.bfloat16 if self.quantization == "int4" else self.dtype)
        rounded = round_int8(full) if rounding == "int8" else round_int4(full)
        if not rounded.scales.isfinite().all():
            raise NumericalError(
                f"{name} has values that are NaN or infinite and cannot be rounded", "llama-cli verify"
            )
        return rounded


def _as_dtype(name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
    converted = rows.to(dtype)
    if dtype == torch.float16 and rows.dtype != dtype and not torch.equal(converted.isfinite(), rows.isfinite()):
        raise NumericalError(f"{name} has values beyond float16's 65,504", "--dtype bf16")
    return converted
