"""Rotary position embedding: positions rotate pairs of query and key values (arXiv:2104.09864)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .args import ModelArgs, RopeScaling


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's rule: long wavelengths are divided by `factor`, short ones kept, those between blended."""
    wavelengths = 2 * math.pi / frequencies
    if scaling.low_freq_factor == scaling.high_freq_factor:  # nothing lies between
        is_long = wavelengths > scaling.original_context / scaling.low_freq_factor
        return torch.where(is_long, frequencies / scaling.factor, frequencies)
    # 0 where the wavelength is longer than original_context / low, 1 where shorter than original_context / high.
    smooth = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    scaled = torch.where(smooth < 0, frequencies / scaling.factor, blended)
    return torch.where(smooth > 1, frequencies, scaled)


def rope_table(args: ModelArgs, length: int, device: torch.device | str = "cpu") -> Tensor:
    """Cosine and sine of position · frequency, (length, head_dim / 2, 2), float32.

    Angles are rounded to float32 as in Meta's code, which matters past a few thousand tokens.
    """
    exponents = torch.arange(0, args.head_dim, 2, dtype=torch.float32) / args.head_dim
    frequencies = 1.0 / (args.rope_theta**exponents)
    if args.rope_scaling is not None:
        frequencies = scale_frequencies(frequencies, args.rope_scaling)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return torch.view_as_real(torch.polar(torch.ones_like(angles), angles)).to(device)


def cos_sin_at(positions: Tensor, table: Tensor) -> Tensor:
    """The rows of a `rope_table` at positions (N,), for heads that share them: (N, 1, head_dim / 2, 2)."""
    return table[positions][:, None]


def split_last(x: Tensor, size: int) -> Tensor:
    """(..., n · size) -> (..., n, size)."""
    return x.view(*x.shape[:-1], -1, size)


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate the interleaved pairs of x (N, heads, head_dim) by cos_sin (N, 1, head_dim / 2, 2), in float32."""
    pairs = split_last(x.float(), 2)  # (N, heads, head_dim / 2, 2)
    if torch.compiler.is_compiling():  # inductor makes one kernel of this, and none of complex numbers
        (a, b), (cos, sin) = pairs.unbind(-1), cos_sin.unbind(-1)
        rotated = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(cos_sin))
    return rotated.flatten(-2).type_as(x)
