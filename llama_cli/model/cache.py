"""The preallocated key/value cache: one slot per running sequence, and in each slot what every layer keeps of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# The cache grows in steps of so many positions, so that a chat does not reallocate it at every turn.
GROWTH = 256


class LayerCache:
    """Keys and values of one layer, each (n_slots, n_kv_heads, max_seq_len, head_dim).

    A layer makes its own, so that another kind of layer may have another kind of cache.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        # zeros, not empty: on a CPU the pages of a zeroed block exist only once they are written.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def store(self, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (N, n_kv_heads, head_dim) of one token each into its slot and position (N,)."""
        self.keys[slots, :, positions] = keys
        self.values[slots, :, positions] = values

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """As Cache.copy_prefix."""
        for cached in (self.keys, self.values):
            cached[target, :, :length] = cached[source, :, :length]

    def clear(self, slot: int, start: int = 0) -> None:
        """As Cache.clear."""
        for cached in (self.keys, self.values):
            cached[slot, :, start:].zero_()

    def copy_from(self, smaller: LayerCache) -> None:
        """As Cache.copy_from."""
        for mine, other in ((self.keys, smaller.keys), (self.values, smaller.values)):
            mine[:, :, : other.shape[2]] = other

    def read(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """A slot's first keys and values, each (n_kv_heads, length, head_dim), as they lie in the cache."""
        return self.keys[slot, :, :length], self.values[slot, :, :length]

    def restore(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Put what `read` gave into a slot, from its beginning."""
        for mine, stored in ((self.keys, keys), (self.values, values)):
            mine[slot, :, : stored.shape[1]] = stored


class Cache:
    """The caches of all layers, with as many slots and positions each. `Llama.make_cache` makes one."""

    def __init__(self, layers: Sequence[LayerCache], n_slots: int, max_seq_len: int) -> None:
        self.layers = layers
        self.n_slots = n_slots
        self.max_seq_len = max_seq_len
        self.dtype = layers[0].keys.dtype
        self.device = layers[0].keys.device

    @property
    def n_bytes(self) -> int:
        return sum(layer.n_bytes for layer in self.layers)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give the slot `target` the first `length` positions of the slot `source`."""
        for layer in self.layers:
            layer.copy_prefix(source, target, length)

    def clear(self, slot: int, start: int = 0) -> None:
        """Overwrite a slot with zeros, from position `start` on.

        NaN in it would reach a sequence that looks past its own end, masked or not.
        """
        for layer in self.layers:
            layer.clear(slot, start)

    def copy_from(self, smaller: Cache) -> None:
        """Copy all that a cache with as many slots and fewer positions holds."""
        for mine, other in zip(self.layers, smaller.layers, strict=True):
            mine.copy_from(other)

    def read(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """Copies of a slot's first keys and values, each (n_layers, n_kv_heads, length, head_dim)."""
        keys, values = zip(*(layer.read(slot, length) for layer in self.layers), strict=True)
        return torch.stack(keys), torch.stack(values)

    def restore(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Put what `read` gave into a slot, from its beginning."""
        for layer, of_keys, of_values in zip(self.layers, keys, values, strict=True):
            layer.restore(slot, of_keys, of_values)
