"""Another kind of layer is a subclass: here one that sees a window of the last positions, with a cache that counts."""

import pytest
import torch
from helpers.engines import make_engine, requests_of, run
from helpers.models import SMALL, forward, new_cache, random_model

from llama_cli.backends.native.decode import can_step
from llama_cli.backends.native.library import native_library
from llama_cli.model.cache import LayerCache
from llama_cli.model.llama import Attention, attend

TEXT = [(7 * n) % 96 for n in range(40)]


class CountingCache(LayerCache):
    """Knows how many tokens it was given."""

    n_stored = 0

    def store(self, slots, positions, keys, values):
        self.n_stored += len(slots)
        super().store(slots, positions, keys, values)


class SlidingAttention(Attention):
    """Sees the last `window` positions."""

    def attend(self, q, batch, layer_cache):
        """One query at a time, in the order of the batch."""
        mixed = [
            self._attend_one(query, layer_cache, int(slot), int(position))
            for query, slot, position in zip(q, batch.slots, batch.positions, strict=True)
        ]
        return torch.cat(mixed).flatten(1)

    def _attend_one(self, query, layer_cache, slot, position):
        seen = slice(max(position + 1 - self.window, 0), position + 1)
        return attend(query[None], layer_cache.keys[slot, :, seen], layer_cache.values[slot, :, seen], None)

    def make_cache(self, n_slots, length, dtype, device):
        return CountingCache((n_slots, self.n_kv_heads, length, self.head_dim), dtype, device)


def sliding_model(window, layers=(0, 1)):
    model = random_model(SMALL)
    for layer in layers:
        attention = model.layers[layer].attention
        attention.__class__, attention.window = SlidingAttention, window
    return model


def test_a_window_over_all_is_the_usual_layer():
    usual, sliding = random_model(SMALL), sliding_model(64)
    expected = forward(usual, new_cache(usual, 1, 64), TEXT)
    torch.testing.assert_close(forward(sliding, new_cache(sliding, 1, 64), TEXT), expected, atol=2e-5, rtol=1e-5)


def test_what_lies_before_the_window_is_not_seen():
    """Two layers of 4 positions reach 6 back."""
    model = sliding_model(4)
    logits = forward(model, new_cache(model, 1, 64), TEXT)[-1]
    for back, is_seen in ((3, True), (6, True), (7, False), (20, False)):
        text = list(TEXT)
        text[-1 - back] = 95
        assert torch.equal(forward(model, new_cache(model, 1, 64), text)[-1], logits) is not is_seen, back


def test_every_layer_keeps_its_own_cache():
    model = sliding_model(4, layers=(1,))
    cache = new_cache(model, 2, 64)
    assert [type(layer) for layer in cache.layers] == [LayerCache, CountingCache]
    forward(model, cache, TEXT)
    assert cache.layers[1].n_stored == len(TEXT)


@pytest.mark.parametrize(("n_slots", "chunk"), [(1, 512), (8, 512), (3, 5)])
def test_engines_run_mixed_layers(n_slots, chunk):
    """Prompts in pieces, slots that remember, rows together: the same ids as alone and at once."""
    requests = requests_of({"temperature": 0.8})
    model = sliding_model(6, layers=(0,))
    alone = {}
    for request in requests:
        alone.update(run(make_engine(model=model), [request])[0])
    answers, _ = run(make_engine(n_slots, chunk, model=model), requests)
    assert {key: ids for key, (ids, _, _) in answers.items()} == {key: ids for key, (ids, _, _) in alone.items()}
    usual, _ = run(make_engine(n_slots, chunk), requests)
    assert {key: ids for key, (ids, _, _) in usual.items()} != {key: ids for key, (ids, _, _) in alone.items()}


@pytest.mark.skipif(native_library() is None, reason="no C++ compiler")
def test_our_kernels_leave_them_to_the_model():
    from helpers.native import native_model

    model = native_model(SMALL, "float32")
    assert can_step(model, native_library())
    model.layers[1].attention.__class__ = SlidingAttention
    assert not can_step(model, native_library())
