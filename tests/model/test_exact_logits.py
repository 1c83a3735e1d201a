"""Logits of prompts that are scored are not rounded to the 8 bits of bfloat16: ties would decide what is likeliest."""

import pytest
import torch
from helpers.engines import run
from helpers.models import DATA, load_model

from llama_cli.backends.native.library import native_library
from llama_cli.backends.native.linear import NativeLayers
from llama_cli.backends.onednn import can_pack
from llama_cli.backends.upcast import UpcastLinear
from llama_cli.engine.engine import Engine
from llama_cli.engine.request import Request, Sampling
from llama_cli.engine.runner import ModelRunner
from llama_cli.engine.scheduler import Plan
from llama_cli.model.args import ModelArgs
from llama_cli.model.llama import Llama
from llama_cli.model.parts import multiply
from llama_cli.model.span import Span
from llama_cli.parallel.leader import Leader

TINY = DATA / "tiny/bpe1024"
IDS = [(7 * n * n + 3 * n) % 700 for n in range(100)]
SCORING = Sampling(max_tokens=0, prompt_logprobs=True)
CPU = torch.device("cpu")


def engine_of(model, *, lead=False, **more):
    runner = ModelRunner(model, n_slots=3, max_seq_len=256)
    leader = Leader(runner, lambda numbers: None, lambda error: error) if lead else runner
    return Engine(leader, tokenizer_size=model.args.vocab_size, stop_tokens=frozenset(), **more)


def scores_of(engine, ids=IDS):
    return [score.logprob for score in run(engine, [Request(0, tuple(ids), SCORING, 0)])[1][0]]


def unrounded(model, monkeypatch):
    """The same hidden states, multiplied in float64."""
    weight = model.output.weight.double()
    monkeypatch.setattr(model.output, "forward", lambda x: x.double() @ weight.T)
    runner = ModelRunner(model, n_slots=1, max_seq_len=256)
    runner.reserve(len(IDS))
    logits = runner.run(Plan([], [Span(0, 0, len(IDS), len(IDS))], IDS))
    return logits.double().log_softmax(-1)[torch.arange(99), torch.tensor(IDS[1:])].tolist()


@pytest.mark.parametrize("lead", [False, True])
def test_scores_in_bfloat16_are_those_of_an_unrounded_output(lead, monkeypatch):
    model = load_model(TINY, torch.bfloat16)
    found = scores_of(engine_of(model, lead=lead, chunk=512))
    with monkeypatch.context() as patched:
        expected = unrounded(load_model(TINY, torch.bfloat16), patched)
    # Chunks of 64 attend in another order than the whole, which bfloat16 shows; within the first they are alike.
    assert found[:63] == pytest.approx(expected[:63], abs=1e-4)
    assert len(set(found)) == len(found)


LAYERS = {
    "nn.Linear": lambda weight: _plain(weight),
    "upcast": lambda weight: UpcastLinear(weight, many=16, packed=False),
    "upcast, packed": lambda weight: UpcastLinear(weight, many=16, packed=True),
    "native": lambda weight: NativeLayers(native_library(), few=4).full(weight),
    "native, upcast": lambda weight: NativeLayers(native_library(), few=4, upcasts=True).full(weight),
}


def _plain(weight):
    layer = torch.nn.Linear(*weight.shape[::-1], bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


@pytest.mark.parametrize("n_rows", [1, 3, 4, 5, 40])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_multiply_in_float32(kind, n_rows):
    if kind.startswith("native") and native_library() is None:
        pytest.skip("no compiler")
    if kind.endswith("packed") and not can_pack(torch.bfloat16, CPU):
        pytest.skip("no oneDNN")
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(200, 64, generator=generator).bfloat16()
    x = torch.randn(n_rows, 64, generator=generator).bfloat16().float()
    out = multiply(LAYERS[kind](weight), x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, (x.double() @ weight.double().T).float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernels", ["plain", "torch", "auto"])
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_every_backend_scores(kernels, quantize):
    if kernels == "plain" and quantize:
        pytest.skip("not a way to run")
    model = load_model(TINY, torch.bfloat16, quantize=quantize, kernels=kernels)
    found = scores_of(engine_of(model))
    full = scores_of(engine_of(load_model(TINY)))
    assert sum(found) / 99 == pytest.approx(sum(full) / 99, abs=0.3)


def test_what_is_chosen_is_the_same_beside_scores_and_behind_them():
    """Rows that choose keep the rounding of Meta's code; a prompt that is scored too goes on as if it were not."""
    model = load_model(TINY, torch.bfloat16)
    sampling = Sampling(max_tokens=20, temperature=0)
    asked = [Request(0, tuple(IDS[:30]), sampling, 0), Request(1, tuple(IDS[50:60]), sampling, 0)]
    alone = {}
    for request in asked:
        alone.update(run(engine_of(model), [request])[0])
    scored = Request(2, tuple(IDS), SCORING, 0)
    together, scores = run(engine_of(model), [*asked, scored])
    assert {key: ids for key, (ids, _, _) in together.items() if key[0] < 2} == {
        key: ids for key, (ids, _, _) in alone.items()
    }
    assert len(scores[2]) == 99
    both = Sampling(max_tokens=20, temperature=0, prompt_logprobs=True)
    assert run(engine_of(model), [Request(0, tuple(IDS[:30]), both, 0)])[0][0, 0][0] == alone[0, 0][0]


def test_close_logits_do_not_tie():
    """Two outputs that differ by a thousandth at 20, where bfloat16 counts in eighths."""
    args = ModelArgs(
        dim=32,
        n_layers=1,
        n_heads=4,
        n_kv_heads=4,
        vocab_size=64,
        multiple_of=16,
        ffn_dim_multiplier=None,
        max_seq_len=64,
    )
    model = Llama(args).bfloat16()
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.requires_grad_(False)
        if weight.dim() == 2:
            weight.copy_(torch.randn(weight.shape, generator=generator))
    model.prepare_rope(64)
    hidden = {}
    model.norm.register_forward_hook(lambda module, given, out: hidden.update(last=out))
    scores_of(engine_of(model), [5, 6, 7])
    direction = hidden["last"][1].float()
    model.output.weight[8] = (direction * 20 / direction.square().sum()).bfloat16()
    model.output.weight[9] = model.output.weight[8]
    model.output.weight[9, 0] = model.output.weight[9, 0] * 1.02 + 0.001
    first, second = (scores_of(engine_of(model), [5, 6, last])[-1] for last in (8, 9))
    assert first != second
    assert first == pytest.approx(second, abs=0.2)
