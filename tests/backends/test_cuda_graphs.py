"""Recorded decode steps, with a recorder that keeps results in one place as CUDA graphs do."""

from functools import partial

import pytest
import torch
from helpers.engines import PROMPTS, Recorder, make_engine, recording_engine, requests_of, run
from helpers.models import DATA, SMALL, golden, load_model, random_model

from llama_cli.backends import cuda_graphs as graphs
from llama_cli.backends.cuda_graphs import DecodeGraphs, cuda_graphs
from llama_cli.engine.request import Request, Sampling
from llama_cli.engine.runner import ModelRunner
from llama_cli.engine.scheduler import Plan
from llama_cli.model.span import Span


@pytest.fixture(autouse=True)
def _no_limit(monkeypatch):
    """The models here weigh less than their caches."""
    monkeypatch.setattr(graphs, "MOST_WASTE", float("inf"))


@pytest.mark.parametrize("n_slots", [1, 2, 5, 8])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.0, "top_p": 0.9}], ids=str)
def test_recorded_steps_change_nothing(n_slots, settings):
    model, recorder = random_model(SMALL), Recorder()
    plain, _ = run(make_engine(n_slots, model=model), requests_of(settings))
    recorded, _ = run(recording_engine(model, n_slots, recorder), requests_of(settings))
    assert recorded.keys() == plain.keys()
    assert len(plain) == len(PROMPTS)
    for key, (ids, scores, reason) in plain.items():
        assert recorded[key][0] == ids
        assert recorded[key][1] == pytest.approx(scores, abs=2e-5)
        assert recorded[key][2] == reason
    assert recorder.replayed >= 11, "every step behind the first token of the last row"
    assert recorder.recorded <= n_slots.bit_length() + 1, "numbers of rows are powers of two"


def test_metas_ids_in_float32():
    folder = DATA / "tiny/gqa"
    model, recorder = load_model(folder), Recorder()
    for prompt, case in golden(folder)["prompts"].items():
        wanted = case.get("greedy32_f32") or case.get("greedy24_f32")
        if wanted is None:
            continue
        request = Request(0, tuple(case["ids"]), Sampling(temperature=0, max_tokens=len(wanted)), seed=0)
        answers, _ = run(recording_engine(model, 1, recorder, max_seq_len=2048), [request])
        assert answers[0, 0][0] == wanted, prompt
    assert recorder.replayed


def test_a_new_cache_is_recorded_anew():
    model, recorder = random_model(SMALL), Recorder()
    request = Request(0, (1, 2, 3), Sampling(temperature=0, max_tokens=40), seed=0)
    recorded, _ = run(recording_engine(model, 1, recorder, growth=16), [request])
    plain, _ = run(make_engine(model=model), [request])
    assert recorded[0, 0][0] == plain[0, 0][0]
    assert recorder.recorded == 1, "room for the whole request was made at once"
    longer = Request(0, tuple(range(1, 60)), Sampling(temperature=0, max_tokens=4), seed=0)
    engine = recording_engine(model, 1, recorder, growth=16)
    assert run(engine, [request])[0] == recorded
    assert run(engine, [longer])[0] == run(make_engine(model=model), [longer])[0]
    assert recorder.recorded == 3


def test_positions_are_rounded_up(monkeypatch):
    monkeypatch.setattr(graphs, "ROUNDED_TO", 8)
    model, recorder = random_model(SMALL), Recorder()
    request = Request(0, (1, 2, 3), Sampling(temperature=0, max_tokens=30), seed=0)
    recorded, _ = run(recording_engine(model, 1, recorder), [request])
    assert recorded[0, 0][0] == run(make_engine(model=model), [request])[0][0, 0][0]
    assert recorder.recorded == 4, "positions to 8, 16, 24, 32"


def test_which_steps_it_takes(monkeypatch):
    model = random_model(SMALL)
    runner = ModelRunner(model, n_slots=4, max_seq_len=512)
    runner.reserve(512)
    found = DecodeGraphs(model, runner.cache, Recorder())
    assert found.takes([Span(2, 7, 1, 1), Span(0, 500, 1, 1)], 0) == 2
    assert not found.takes([Span(2, 7, 1, 1), Span(0, 3, 2, 1)], 0), "a prompt"
    assert not found.takes([Span(2, 7, 1, 1), Span(0, 3, 2, 2)], 0), "a guess of the next token"
    assert not found.takes([Span(2, 7, 1, 0), Span(0, 3, 1, 1)], 0), "one asks for nothing"
    assert not found.takes([], 0), "a step of nothing but scored prompts"
    monkeypatch.setattr(graphs, "MOST_WASTE", 0.0)
    found = DecodeGraphs(model, runner.cache, Recorder())
    assert not found.takes([Span(2, 7, 1, 1)], 0), "four slots of 256 positions for one of 8"


def test_a_result_outlives_the_next_step():
    model = random_model(SMALL)
    runner = ModelRunner(model, n_slots=2, max_seq_len=64, make_steps=partial(DecodeGraphs, record=Recorder()))
    runner.reserve(64)
    first = runner.run(Plan([], [Span(0, 0, 1, 1)], [5]))
    kept = first.clone()
    runner.run(Plan([], [Span(0, 1, 1, 1)], [6]))
    assert torch.equal(first, kept)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("n_slots", [1, 8])
def test_cuda_graphs(n_slots):
    model = random_model(SMALL).to("cuda")
    plain, _ = run(make_engine(n_slots, model=model), requests_of({"temperature": 0}))
    recorded, _ = run(recording_engine(model, n_slots, cuda_graphs()), requests_of({"temperature": 0}))
    assert {key: answer[0] for key, answer in recorded.items()} == {key: answer[0] for key, answer in plain.items()}
