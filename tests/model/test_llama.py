"""The transformer's parts on small examples, and what a flat batch promises."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers.models import SMALL, forward, new_cache, random_model

from llama_cli.backends.place import fuse, plain_linear
from llama_cli.model.args import ModelArgs
from llama_cli.model.batch import Batch, causal_mask
from llama_cli.model.llama import Llama, RMSNorm, attend
from llama_cli.model.span import Span


def test_rms_norm_worked_example():
    """[3, 4, 0]: the mean of squares is 25 / 3, its root 2.887."""
    normed = RMSNorm(3, 1e-5)(torch.tensor([3.0, 4.0, 0.0]))
    torch.testing.assert_close(normed, torch.tensor([1.039, 1.386, 0.0]), atol=5e-4, rtol=0)


def test_rms_norm_computes_in_float32():
    x = torch.tensor([300.0, 400.0, 0.0], dtype=torch.float16)  # the squares overflow float16
    normed = RMSNorm(3, 1e-5).half()(x)
    torch.testing.assert_close(normed.float(), torch.tensor([1.039, 1.386, 0.0]), atol=1e-3, rtol=0)


def test_with_the_cache_the_third_token_costs_one_query_row():
    """Counted at wq: without a cache three rows are computed again, with it one."""
    model = random_model(SMALL)
    rows = []
    model.layers[0].attention.wq.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    whole = forward(model, new_cache(model, 1, 3), [5, 6, 7])
    cache = new_cache(model, 1, 3)
    forward(model, cache, [5, 6])
    third = forward(model, cache, [7], start=2)
    assert rows == [3, 2, 1]
    torch.testing.assert_close(third[0], whole[2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(8, 4), (8, 1), (8, 8)])
@pytest.mark.parametrize("length", [1, 5])
def test_grouped_attention_is_attention_over_repeated_heads(n_heads, n_kv_heads, length):
    """Query head h reads key head h // (heads per key head); spelt out one head at a time."""
    generator = torch.Generator().manual_seed(4)
    cached, head_dim = 9, 16
    q = torch.randn(length, n_heads, head_dim, generator=generator)
    keys, values = torch.randn(2, n_kv_heads, cached, head_dim, generator=generator)
    mask = causal_mask(Span(0, cached - length, length, length), torch.float32, torch.device("cpu"))
    mixed = attend(q, keys, values, mask)
    for head in range(n_heads):
        of = head // (n_heads // n_kv_heads)
        scores = q[:, head] @ keys[of].T / head_dim**0.5
        for query in range(length):
            scores[query, cached - length + query + 1 :] = float("-inf")
        torch.testing.assert_close(mixed[:, head], F.softmax(scores, -1) @ values[of], atol=1e-5, rtol=1e-5)


def test_causal_mask():
    mask = causal_mask(Span(0, 2, 3, 3), torch.float32, torch.device("cpu"))
    assert mask.exp().int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_rows_of_any_length_share_a_batch():
    """Prompts, pieces of prompts and single tokens, in one forward, equal each alone."""
    model = random_model(SMALL)
    texts = [[1, 2, 3, 4, 5], [9], [7, 8, 9, 10], [20, 21, 22]]
    starts = [0, 0, 2, 1]  # the last two continue what their slots hold
    alone = [forward(model, new_cache(model, 1, 16), text)[start:] for text, start in zip(texts, starts, strict=True)]
    cache = new_cache(model, 4, 16)
    for slot, (text, start) in enumerate(zip(texts, starts, strict=True)):
        if start:
            forward(model, cache, text[:start], slot=slot)
    pieces = [(start, len(text) - start) for text, start in zip(texts, starts, strict=True)]
    spans = [Span(slot, start, length, length) for slot, (start, length) in enumerate(pieces)]
    tokens = [token for text, start in zip(texts, starts, strict=True) for token in text[start:]]
    with torch.inference_mode():
        together = model(Batch.of(spans, tokens, model.rope, cache), cache)
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("slots", [[0, 1, 2, 3, 4, 5], [1, 3, 4], [5, 2, 0, 3]])
def test_rows_of_one_token_are_attended_together(slots):
    """Rows of different lengths in neighbouring slots, some idle, one of those holding another sequence."""
    model = random_model(SMALL)
    cache = new_cache(model, 6, 96)
    lengths = dict(zip(slots, [80, 3, 17, 64, 65, 1], strict=False))
    texts = {slot: [(slot * 7 + n * 3) % SMALL.vocab_size for n in range(lengths.get(slot, 50))] for slot in range(6)}
    for slot, text in texts.items():
        forward(model, cache, text, slot=slot)
    spans = [Span(slot, lengths[slot], 1, 1) for slot in slots]
    batch = Batch.of(spans, [9] * len(spans), model.rope, cache)
    assert batch.together is not None
    assert not batch.spans
    with torch.inference_mode():
        together = model(batch, cache)
    alone = [forward(model, new_cache(model, 1, 96), [*texts[slot], 9])[-1] for slot in slots]
    torch.testing.assert_close(together, torch.stack(alone), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("places", [[(0, 5)], [(0, 5), (1, 5)], [(0, 4000), (1, 5), (2, 5), (3, 5)]])
def test_rows_are_not_padded_for_nothing(places):
    """Few rows, or a long one among short ones, go one by one."""
    model = random_model(SMALL, positions=4096)
    cache = new_cache(model, 4, 4096)
    spans = [Span(*place, 1, 1) for place in places]
    assert Batch.of(spans, [1] * len(spans), model.rope, cache).together is None


def test_a_fused_model_is_the_model():
    whole, fused = random_model(SMALL), random_model(SMALL)
    for layer in fused.layers:
        fuse(layer, layer.state_dict(), lambda weight, role: plain_linear(weight))
    tokens = [4, 8, 15, 16, 23, 42]
    expected = forward(whole, new_cache(whole, 1, 8), tokens)
    torch.testing.assert_close(forward(fused, new_cache(fused, 1, 8), tokens), expected, atol=1e-5, rtol=1e-5)
    assert sum(weight.numel() for weight in fused.parameters()) == sum(weight.numel() for weight in whole.parameters())


def test_only_the_wanted_rows_get_logits():
    model = random_model(SMALL)
    with torch.inference_mode():
        cache = new_cache(model, 1, 4)
        logits = model(Batch.of([Span(0, 0, 4, 1)], [1, 2, 3, 4], model.rope, cache), cache)
    assert logits.shape == (1, SMALL.vocab_size)
    assert logits.dtype == torch.float32


def test_cache_is_as_large_as_asked():
    args = ModelArgs(dim=32, n_layers=3, n_heads=4, n_kv_heads=2, vocab_size=8, max_seq_len=100_000)
    cache = Llama(args).bfloat16().make_cache(2, 64)
    assert [tuple(layer.keys.shape) for layer in cache.layers] == [(2, 2, 64, 8)] * 3
    assert {each.dtype for layer in cache.layers for each in (layer.keys, layer.values)} == {torch.bfloat16}
    assert cache.n_bytes == 3 * 2 * (2 * 2 * 64 * 8) * 2


def test_copied_prefix_continues_like_the_original():
    model = random_model(SMALL)
    cache = new_cache(model, 2, 8)
    forward(model, cache, [1, 2, 3, 4])
    cache.copy_prefix(0, 1, 3)
    copied = forward(model, cache, [9], start=3, slot=1)
    expected = forward(model, new_cache(model, 1, 8), [1, 2, 3, 9])[-1:]
    torch.testing.assert_close(copied, expected, atol=1e-5, rtol=1e-5)


def test_making_a_model_imports_no_compiler():
    """torch's own initialisation of an embedding on the meta device imports torch._dynamo: 1.6 s."""
    code = """
import sys, torch
from llama_cli.model.args import ModelArgs
from llama_cli.model.llama import Llama
with torch.device("meta"):
    Llama(ModelArgs(n_layers=1))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
