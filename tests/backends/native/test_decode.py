"""Decode steps of our own kernels against the model's own."""

import dataclasses

import pytest
import torch
from helpers.engines import make_engine, requests_of, run
from helpers.models import DATA, SMALL, golden, load_model
from helpers.native import LIBRARY, many_rows_model, native_model, native_runner

from llama_cli.backends.native.decode import NativeSteps, can_step
from llama_cli.backends.native.linear import NativeLayers
from llama_cli.engine.engine import Engine
from llama_cli.engine.request import Request, Sampling
from llama_cli.engine.runner import ModelRunner
from llama_cli.engine.scheduler import Plan
from llama_cli.model.span import Span

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C++ compiler")

KINDS = ["float32", "bfloat16", "int8", "int4"]

# dim, heads, key heads, head_dim: shared heads of all counts, odd sizes, one that is longer than a block of columns
SHAPES = {
    "small": SMALL,
    "one key head": dataclasses.replace(SMALL, dim=96, n_heads=6, n_kv_heads=1),
    "three to one": dataclasses.replace(SMALL, dim=96, n_heads=6, n_kv_heads=2),
    "own keys": dataclasses.replace(SMALL, dim=64, n_heads=4, n_kv_heads=4),
    "nine to one": dataclasses.replace(SMALL, dim=288, n_heads=9, n_kv_heads=1),
    "wide heads": dataclasses.replace(SMALL, dim=256, n_heads=2, n_kv_heads=1),
    "odd heads": dataclasses.replace(SMALL, dim=160, n_heads=4, n_kv_heads=2),
}


def filled(runner, lengths):
    """A runner whose slots hold prompts."""
    runner.reserve(256)
    for slot, length in enumerate(lengths):
        ids = torch.randint(0, 96, (length,), generator=torch.Generator().manual_seed(slot)).tolist()
        runner.run(Plan([], [Span(slot, 0, length, 1)], ids))
    return runner


def step_of(lengths, tokens):
    return Plan([], [Span(slot, length, 1, 1) for slot, length in enumerate(lengths)], tokens)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("args", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_is_the_models(args, kind, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    lengths = [3, 1, 200, 127, 128, 129]
    model = native_model(args, kind)
    plain = filled(ModelRunner(model, n_slots=6, max_seq_len=256), lengths)
    native = filled(native_runner(model, 6), lengths)
    for number in range(3):
        step = step_of([length + number for length in lengths], [5, 95, 0, 7, 20, 33])
        expected, found = plain.run(step), native.run(step)
        # In bfloat16 a sum that is rounded another way moves what follows by its last place; in int8, by a step.
        close = {"float32": 1e-4, "bfloat16": 0.12, "int4": 0.12, "int8": 0.25}[kind]
        assert (found - expected).abs().max() <= close * expected.abs().max()
        assert (found - expected).abs().mean() <= close / 5 * expected.abs().max()
    if kind == "float32":
        for mine, other in zip(native.cache.layers, plain.cache.layers, strict=True):
            torch.testing.assert_close(mine.keys, other.keys, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(mine.values, other.values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_never_depends_on_its_neighbours(kind):
    """Bit for bit: alone, beside others, in another order, beside a prompt."""
    lengths, tokens = [3, 1, 200, 127, 30], [5, 95, 0, 7, 20]
    model = native_model(SHAPES["three to one"], kind)
    runner = filled(native_runner(model, 6), lengths)
    together = runner.run(step_of(lengths, tokens))
    for slot in range(5):
        alone = runner.run(Plan([], [Span(slot, lengths[slot], 1, 1)], [tokens[slot]]))
        assert torch.equal(alone[0], together[slot])
    backwards = [Span(slot, lengths[slot], 1, 1) for slot in reversed(range(5))]
    found = runner.run(Plan([], backwards, tokens[::-1]))
    assert torch.equal(found.flip(0), together)
    prompt = Plan([], [Span(5, 0, 9, 1)], list(range(9)))
    found = runner.run(Plan([], [*step_of(lengths, tokens).spans, *prompt.spans], [*tokens, *prompt.tokens]))
    assert torch.equal(found[:5], together)
    assert torch.equal(found[5:], runner.run(prompt))


def test_which_models_it_takes():
    model = native_model(SMALL, "bfloat16")
    assert can_step(model, LIBRARY)
    model.layers[1].attention.wk = NativeLayers(LIBRARY).int4(torch.zeros(16, 32), "query_key_value")
    assert not can_step(model, LIBRARY), "its inputs lie another way"
    assert not can_step(native_model(dataclasses.replace(SMALL, dim=512, n_heads=1, n_kv_heads=1), "float32"), LIBRARY)


def test_what_it_takes():
    """Where products of many rows are torch's, spans of one token; where they are ours, all."""
    for kind in ("float32", "int8"):
        model = native_model(SMALL, kind)
        runner = native_runner(model, 4)
        runner.reserve(64)
        steps = NativeSteps(model, runner.cache, LIBRARY)
        single, other, prompt = Span(0, 7, 1, 1), Span(2, 9, 1, 1), Span(1, 0, 5, 1)
        for spans, n_scored, n_single in (
            ([single, other], 0, 2),
            ([single, other], 1, 1),
            ([single, prompt], 0, 1),
            ([prompt], 0, 0),
            ([Span(3, 7, 1, 0), single], 0, 0),  # the first asks for nothing
            ([single, Span(1, 0, 2, 2)], 0, 1),
        ):
            assert steps.takes(spans, n_scored) == (n_single if kind == "float32" else len(spans))


def prompt_in(pieces, model, slot=0, neighbours=0):
    """Logits of a prompt's last token and what it left in the cache, computed in pieces, beside other rows."""
    tokens = [(7 * n) % 90 for n in range(sum(pieces))]
    runner = filled(native_runner(model, 4), [11] * neighbours)
    start = 0
    for length in pieces:
        beside = [Span(other, 11, 1, 1) for other in range(neighbours)]
        end = start + length
        spans = [*beside, Span(slot, start, length, int(end == len(tokens)))]
        runner.reserve(end)
        logits = runner.run(Plan([], spans, [3] * neighbours + tokens[start:end]))
        start = end
    cached = [part for layer in runner.cache.layers for part in layer.read(slot, len(tokens))]
    return logits[-1], cached


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_a_prompt_is_the_same_bits_in_any_pieces_beside_anything(kind):
    model = many_rows_model(SMALL, kind)
    logits, cached = prompt_in([150], model)
    for pieces, slot, neighbours in (
        ([1] * 150, 0, 0),
        ([16] * 9 + [6], 1, 0),
        ([128, 22], 3, 2),
        ([127, 1, 22], 3, 3),
        ([3, 70, 1, 1, 75], 2, 1),
    ):
        found, in_cache = prompt_in(pieces, model, slot, neighbours)
        assert torch.equal(found, logits), pieces
        assert all(map(torch.equal, in_cache, cached)), pieces


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_threads_change_no_bit(kind):
    model, before = many_rows_model(SMALL, kind), torch.get_num_threads()
    found = []
    for n_threads in (1, 2, 3, 5):
        torch.set_num_threads(n_threads)
        found.append(prompt_in([70, 1, 30], model, neighbours=0)[0])
    torch.set_num_threads(before)
    assert all(torch.equal(found[0], each) for each in found)


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_prompt_is_near_the_models(shape, kind):
    """torch's products and attention of the same weights."""
    model = native_model(shape, kind)
    tokens = [(7 * n) % 90 for n in range(200)]
    plain = ModelRunner(model, n_slots=2, max_seq_len=256)
    ours = native_runner(model, 2)
    step = Plan([], [Span(1, 0, 200, 3)], tokens)
    for runner in (plain, ours):
        runner.reserve(200)
    found, wanted = ours.run(step), plain.run(step)
    torch.testing.assert_close(found, wanted, atol=0.02 * float(wanted.abs().max()) + 0.02, rtol=0.02)


@pytest.mark.parametrize("length", [2, 4, 9])
def test_a_span_of_several_outputs_is_its_tokens_one_by_one(length):
    """What a guess of the next tokens asks for, beside another row."""
    model = native_model(SMALL, "float32")
    tokens = [5, 95, 0, 7, 20, 33, 5, 5, 1][:length]
    one_by_one = filled(native_runner(model, 2), [20, 30])
    expected = [one_by_one.run(Plan([], [Span(1, 30 + n, 1, 1)], [token])) for n, token in enumerate(tokens)]
    together = filled(native_runner(model, 2), [20, 30])
    found = together.run(Plan([], [Span(0, 20, 1, 1), Span(1, 30, length, length)], [3, *tokens]))
    torch.testing.assert_close(found[1:], torch.cat(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_slots", [1, 2, 5, 8])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.0, "top_p": 0.9}], ids=str)
def test_answers_are_the_models(n_slots, settings):
    model = native_model(SMALL, "float32")
    plain, _ = run(make_engine(n_slots, model=model), requests_of(settings))
    engine = Engine(native_runner(model, n_slots), tokenizer_size=96, stop_tokens=frozenset())
    found, _ = run(engine, requests_of(settings))
    assert {key: answer[0] for key, answer in found.items()} == {key: answer[0] for key, answer in plain.items()}


def test_metas_ids_in_float32():
    folder = DATA / "tiny/gqa"
    model, seen = load_model(folder, kernels="auto"), 0
    for prompt, case in golden(folder)["prompts"].items():
        wanted = case.get("greedy32_f32") or case.get("greedy24_f32")
        if wanted is None:
            continue
        request = Request(0, tuple(case["ids"]), Sampling(temperature=0, max_tokens=len(wanted)), seed=0)
        engine = Engine(native_runner(model, 1, 2048), tokenizer_size=model.args.vocab_size, stop_tokens=frozenset())
        answers, _ = run(engine, [request])
        assert answers[0, 0][0] == wanted, prompt
        seen += 1
    assert seen > 2


@pytest.mark.parametrize("kind", KINDS)
def test_nan_reaches_the_logits(kind):
    """The engine says so instead of choosing a token."""
    model = native_model(SMALL, kind)
    model.layers[0].attention_norm.weight[3] = float("nan")
    runner = filled(native_runner(model, 2), [4, 4])
    assert runner.run(step_of([4, 4], [1, 2])).isnan().any()


def test_the_cache_grows_under_it():
    model = native_model(SMALL, "float32")
    short = Request(0, (1, 2, 3), Sampling(temperature=0, max_tokens=5), seed=0)
    long = Request(1, tuple(range(20)), Sampling(temperature=0, max_tokens=60), seed=0)
    engine = Engine(native_runner(model, 2, growth=16), tokenizer_size=96, stop_tokens=frozenset())
    found = run(engine, [short])[0] | run(engine, [long])[0]
    plain = run(make_engine(2, model=model), [short, long])[0]
    assert {key: answer[0] for key, answer in found.items()} == {key: answer[0] for key, answer in plain.items()}
