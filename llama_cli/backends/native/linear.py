"""Linear layers of our own kernels, on weights as they lie in the file: nothing is packed, joined or copied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.parts import multiply_parts, rows_of_a_part
from ...model.quantized import Int4Weight, Weight, as_int4, as_int8, fits_int4, in_full
from ...model.weights import Role
from ..onednn_int import SENSITIVE
from ..upcast import MANY_WITH_SLOW_BFLOAT16, many_rows
from .library import Kind, Library, Matrix, address

# Up to so many rows our kernels are fastest where they multiply in float32: on any processor while a product waits for
# weights, and further where bfloat16 is slow. Measured with AVX-512.
FEW = 32
FEW_WITH_SLOW_BFLOAT16 = 128

KINDS = {torch.float32: Kind.FLOAT32, torch.bfloat16: Kind.BFLOAT16}


@dataclass(frozen=True)
class NativeLayers:
    """Makes linear layers: of a kind that the library does not take for many rows, more than `few` go to torch, in
    float32 where it `upcasts`.
    """

    library: Library
    few: int = FEW
    upcasts: bool = False

    @classmethod
    def here(cls, library: Library, dtype: torch.dtype) -> NativeLayers:
        """What is fastest on this processor."""
        if dtype != torch.bfloat16 or (many := many_rows()) is None:
            return cls(library)
        return cls(library, FEW_WITH_SLOW_BFLOAT16 if many == MANY_WITH_SLOW_BFLOAT16 else FEW, upcasts=True)

    def takes(self, matrix: Matrix, n_rows: int) -> bool:
        """Whether our kernels compute a product with so many rows."""
        return n_rows <= self.few or self.library.takes_many(matrix.kind)

    def full(self, weight: Weight) -> nn.Module:
        """All bits of the weights."""
        return NativeLinear(in_full(weight), self)

    def int8(self, weight: Weight, role: Role) -> nn.Module:
        """8 bits for both sides."""
        return NativeInt8Linear(weight, self.library, with_residual=role in SENSITIVE)

    def int4(self, weight: Weight, role: Role) -> nn.Module:
        """4 bits where the shape allows it; 8 for the output matrix, which suffers most."""
        if role == "output":
            return self.int8(weight, role)
        if isinstance(weight, Int4Weight) or fits_int4(*weight.shape):
            return NativeInt4Linear(weight, self)
        return self.full(weight)


class NativeLinear(nn.Module):
    """x @ weight.T; where our own kernel is fast for few rows alone, others go to torch's."""

    weight: Tensor

    def __init__(self, weight: Tensor, layers: NativeLayers) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("weight", weight.detach().contiguous(), persistent=False)
        n_out, n_in = weight.shape
        self.matrix = Matrix(address(self.weight), None, None, n_out, n_in, KINDS[weight.dtype])

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out), in the dtype of x."""
        library, few = self.layers.library, self.layers.few
        if self.layers.takes(self.matrix, len(x)):
            return library.linear(self.matrix, x.float()).type_as(x)
        if not self.layers.upcasts and x.dtype == self.weight.dtype:
            return F.linear(x, self.weight)
        if not self.layers.upcasts:
            return torch.cat([library.linear(self.matrix, rows) for rows in torch.split(x.float(), few)]).type_as(x)
        parts = torch.split(self.weight, rows_of_a_part(*self.weight.shape))
        return multiply_parts(x.float(), (part.float() for part in parts), x.dtype)


class NativeInt8Linear(nn.Module):
    """x @ weight.T with both sides quantized to 8 bits, as onednn_int.Int8Linear does."""

    values: Tensor
    scales: Tensor
    sums: Tensor

    def __init__(self, weight: Weight, library: Library, *, with_residual: bool) -> None:
        super().__init__()
        self.library = library
        quantized = as_int8(weight)
        self.register_buffer("values", quantized.values.contiguous(), persistent=False)
        self.register_buffer("scales", quantized.scales.clone(), persistent=False)
        self.register_buffer("sums", library.sum_rows(self.values), persistent=False)
        kind = Kind.INT8_RESIDUAL if with_residual else Kind.INT8
        self.matrix = Matrix(*map(address, (self.values, self.scales, self.sums)), *weight.shape, kind)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        return self.library.linear(self.matrix, x.float()).type_as(x)


class NativeInt4Linear(nn.Module):
    """x @ weight.T with weights of 4 bits, a scale and a zero point for each group of 32."""

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Weight, layers: NativeLayers) -> None:
        super().__init__()
        self.layers = layers
        quantized = as_int4(weight)
        self.register_buffer("values", quantized.values.contiguous(), persistent=False)
        self.register_buffer("scales", quantized.scales.contiguous(), persistent=False)
        self.matrix = Matrix(address(self.values), address(self.scales), None, *weight.shape, Kind.INT4)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        library = self.layers.library
        if self.layers.takes(self.matrix, len(x)):
            return library.linear(self.matrix, x.float()).type_as(x)
        n_out = self.matrix.n_out
        like = x.float() if self.layers.upcasts else x
        step = rows_of_a_part(n_out, self.matrix.n_in)
        parts = [range(first, min(first + step, n_out)) for first in range(0, n_out, step)]
        return multiply_parts(like, (library.upcast_int4(self.matrix, part).type_as(like) for part in parts), x.dtype)
