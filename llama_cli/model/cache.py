"""The preallocated key/value cache: one slot per running sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from .args import ModelArgs


class Cache:
    """Keys and values of every layer, each (n_slots, n_kv_heads, max_seq_len, head_dim)."""

    def __init__(
        self,
        args: ModelArgs,
        n_slots: int,
        max_seq_len: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        n_kv_heads: int | None = None,
    ) -> None:
        self.n_slots = n_slots
        self.max_seq_len = max_seq_len
        self.dtype = dtype
        self.device = torch.device(device)
        shape = (n_slots, n_kv_heads or args.n_kv_heads, max_seq_len, args.head_dim)
        # zeros, not empty: on a CPU the pages of a zeroed block exist only once they are written.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(args.n_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(args.n_layers)]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give the slot `target` the first `length` positions of the slot `source`."""
        for cached in (*self.keys, *self.values):
            cached[target, :, :length] = cached[source, :, :length]

    def clear(self, slot: int) -> None:
        """Forget a slot's numbers: NaN among them would reach whoever looks past its own row."""
        for cached in (*self.keys, *self.values):
            cached[slot].zero_()

    def copy_from(self, smaller: Cache) -> None:
        """Take over all that a cache with fewer positions holds."""
        for mine, other in zip((*self.keys, *self.values), (*smaller.keys, *smaller.values), strict=True):
            mine[:, :, : smaller.max_seq_len] = other

    def read(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """Copies of a slot's first keys and values, each (n_layers, n_kv_heads, length, head_dim)."""
        keys, values = (torch.stack([each[slot, :, :length] for each in of]) for of in (self.keys, self.values))
        return keys, values

    def restore(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Put what `read` gave into a slot, from its beginning."""
        for into, stored in ((self.keys, keys), (self.values, values)):
            for mine, each in zip(into, stored, strict=True):
                mine[slot, :, : each.shape[1]] = each
