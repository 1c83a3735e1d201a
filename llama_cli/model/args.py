"""The shape of a model: its sizes and settings, and every size that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ModelRejected

Shape = tuple[int, ...]

# An original context that every wave is longer than: Llama 3's rule then divides all of them, which is linear scaling.
NO_CONTEXT = 1


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of low RoPE frequencies; lengths in tokens."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    @property
    def is_linear(self) -> bool:
        """Whether every frequency is divided by the factor."""
        return self.original_context == NO_CONTEXT


@dataclass(frozen=True)
class ModelArgs:
    """The shape of a model. Field names are Meta's; the defaults are Llama 3 8B's."""

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int = 8
    vocab_size: int = 128256
    multiple_of: int = 1024
    ffn_dim_multiplier: float | None = 1.3
    hidden_dim: int | None = None  # overrides the FFN formula
    head_dim_override: int | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    max_seq_len: int = 8192  # the context the family was trained for

    def __post_init__(self) -> None:
        if self.head_dim_override is None and self.dim % self.n_heads:
            raise ModelRejected(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ModelRejected(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2:
            raise ModelRejected(f"head size {self.head_dim} is odd; RoPE rotates pairs")

    @property
    def head_dim(self) -> int:
        return self.head_dim_override or self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Meta's rule: 2/3 of 4·dim, times the multiplier, rounded up to a multiple of `multiple_of`."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        hidden = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return self.multiple_of * math.ceil(hidden / self.multiple_of)

    @property
    def q_dim(self) -> int:
        """All query heads side by side."""
        return self.n_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """All key heads side by side, or all value heads."""
        return self.n_kv_heads * self.head_dim
