"""Blocks made by torch.compile: the same answers, compiled as often as promised, and kept on disk."""

import os
import subprocess
import sys

import pytest
import torch
from helpers.engines import Recorder, make_engine, recording_engine, requests_of, run
from helpers.models import (
    DATA,
    SMALL,
    forward,
    fused_model,
    golden,
    golden_tensors,
    load_model,
    new_cache,
    random_model,
)
from torch._dynamo.utils import counters

from llama_cli.backends import cuda_graphs as graphs
from llama_cli.backends.compile import FOLDER_VARIABLE, compile_blocks
from llama_cli.backends.cuda import WeightOnlyInt8Linear
from llama_cli.backends.native.build import find_compiler
from llama_cli.backends.onednn import PackedLinear

pytestmark = [
    pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler"),
    # A library of torch's own that it imports here, and workers that outlive a test.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

TINY = DATA / "tiny/gqa"


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
    """One for all, so that what one test compiled another finds."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, folder):
    """Nothing compiled in this process, and nothing counted."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled_model(folder, n_slots=3, model=None):
    model = model or random_model(SMALL)
    compile_blocks(model, n_slots, folder)
    return model


def test_answers_are_the_same_and_two_shapes_of_step_do_for_all(folder):
    """A row alone, rows together, prompts of any length, a cache that grows: nothing is compiled again."""
    settings = {"temperature": 0.8, "top_p": 0.9}
    plain, _ = run(make_engine(3), requests_of(settings))
    model = compiled_model(folder)
    assert counters["stats"]["unique_graphs"] == 4, "before and after attention, for one token and for several"
    engine = make_engine(3, model=model)
    for requests in (requests_of(settings), requests_of(settings)[4:5]):
        answers, _ = run(engine, requests)
        for key, (ids, scores, reason) in answers.items():
            assert (ids, reason) == (plain[key][0], plain[key][2])
            assert scores == pytest.approx(plain[key][1], abs=2e-5)
    assert counters["stats"]["unique_graphs"] == 4
    assert any(folder.glob("fxgraph/*/*")), "kept for other processes"


def test_recorded_steps_are_compiled_ones(folder, monkeypatch):
    """As on a GPU: what is recorded is what was compiled, at any number of rows."""
    monkeypatch.setattr(graphs, "MOST_WASTE", float("inf"))  # the model weighs less than its cache
    plain, _ = run(make_engine(5), requests_of({"temperature": 0}))
    model, recorder = compiled_model(folder, 5), Recorder()
    answers, _ = run(recording_engine(model, 5, recorder), requests_of({"temperature": 0}))
    assert recorder.replayed > 0
    assert {key: ids for key, (ids, _, _) in answers.items()} == {key: ids for key, (ids, _, _) in plain.items()}
    assert counters["stats"]["unique_graphs"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("make", [PackedLinear, WeightOnlyInt8Linear])
def test_layers_of_any_kind_compute_the_same(folder, make):
    """Those that inductor cannot look into run as they are; bytes of weights it reads itself where it is one row."""
    ids = golden(TINY)["prompts"]["random40"]["ids"]
    plain, model = fused_model(TINY, make), compiled_model(folder, 1, fused_model(TINY, make))
    caches = new_cache(plain, 1, 40), new_cache(model, 1, 40)
    for start, end in ((0, 39), (39, 40)):
        expected, got = (
            forward(each, cache, ids[start:end], start) for each, cache in zip((plain, model), caches, strict=True)
        )
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_goldens(folder, dtype):
    """Meta's own numbers: in bfloat16 no further from the exact ones than Meta's are."""
    expected, model = golden_tensors(TINY), load_model(TINY, dtype)
    model = compiled_model(folder, 1, model)
    model.prepare_rope(300)
    for prompt, case in golden(TINY)["prompts"].items():
        ids, exact = case["ids"], expected[f"{prompt}.prefill.f32"]
        got = forward(model, new_cache(model, 1, len(ids)), ids)[case.get("logit_positions", range(len(ids)))]
        if dtype == torch.float32:
            torch.testing.assert_close(got, exact, atol=5e-4, rtol=0)
        else:
            metas = (expected[f"{prompt}.prefill.bf16"] - exact).abs().mean()
            assert (got - exact).abs().mean() <= 1.2 * metas, prompt


@pytest.mark.slow
def test_another_process_finds_what_was_compiled(tmp_path):
    """In the folder that is asked for, not torch's own in /tmp."""
    script = f"""
from llama_cli.loader import load
from torch._dynamo.utils import counters
load({str(TINY)!r}, kernels="torch", compile=True)
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""
    environment = {name: value for name, value in os.environ.items() if name != FOLDER_VARIABLE}
    environment |= {"XDG_CACHE_HOME": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [int(number) for number in said[0]] == [0, 4]
    assert [int(number) for number in said[1]] == [4, 0]
    assert {path.name for path in (tmp_path / "llama-cli").iterdir()} == {"compiled"}


@pytest.mark.slow
def test_few_rows_of_int8_are_compiled_beforehand(folder):
    """They run another kernel than many: nothing is left to compile in the middle of a run."""
    model = compiled_model(folder, 4, fused_model(TINY, WeightOnlyInt8Linear))
    n_graphs = counters["stats"]["unique_graphs"]
    assert n_graphs == 6, "for one token, for a few, for many"
    engine = make_engine(4, model=model)
    run(engine, requests_of({"temperature": 0}))
    assert counters["stats"]["unique_graphs"] == n_graphs
