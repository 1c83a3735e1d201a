"""Packed linears against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from helpers.models import DATA, forward, golden, golden_tensors, load_model, new_cache

from llama_cli.backends.onednn import PackedLinear, can_pack, packed_linear
from llama_cli.backends.place import fuse

CPU = torch.device("cpu")
needs_path = pytest.mark.skipif(not can_pack(torch.bfloat16, CPU), reason="this processor has no bfloat16 path")


def test_only_on_a_cpu():
    assert not can_pack(torch.float16, CPU)
    assert not can_pack(torch.bfloat16, torch.device("meta"))


@needs_path
@pytest.mark.parametrize(("n_out", "n_in"), [(64, 64), (192, 64), (512, 192), (1000, 96)])
@pytest.mark.parametrize("rows", [1, 2, 16, 77])
def test_a_packed_linear_is_a_linear(n_out, n_in, rows):
    """Sums in another order: equal within bfloat16's rounding of a sum of that size."""
    generator = torch.Generator().manual_seed(n_out + rows)
    weight = torch.randn(n_out, n_in, generator=generator).bfloat16()
    x = torch.randn(rows, n_in, generator=generator).bfloat16()
    exact = F.linear(x.double(), weight.double())
    torch.testing.assert_close(PackedLinear(weight)(x).double(), exact, atol=2**-7 * n_in**0.5, rtol=2**-7)


@needs_path
def test_a_packed_model_stays_near_metas_bfloat16():
    folder = DATA / "tiny/gqa"
    model, expected = load_model(folder, torch.bfloat16, kernels="torch"), golden_tensors(folder)
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
    for prompt, case in golden(folder)["prompts"].items():
        if "logit_positions" in case:
            continue
        logits = forward(model, new_cache(model, 1, len(case["ids"])), case["ids"])
        assert (logits - expected[f"{prompt}.prefill.bf16"]).abs().mean() <= 0.1, prompt


def test_a_packed_model_is_metas_in_float32():
    folder = DATA / "tiny/gqa"
    model, expected = load_model(folder), golden_tensors(folder)
    for layer in model.layers:
        fuse(layer, layer.state_dict(), lambda weight, role: PackedLinear(weight))
    model.output = PackedLinear(model.output.weight)
    for prompt, case in golden(folder)["prompts"].items():
        if "logit_positions" in case:
            continue
        logits = forward(model, new_cache(model, 1, len(case["ids"])), case["ids"])
        torch.testing.assert_close(logits, expected[f"{prompt}.prefill.f32"], atol=5e-4, rtol=1e-4)


def test_small_matrices_in_float32_are_left_to_torch():
    assert isinstance(packed_linear(torch.zeros(64, 64)), torch.nn.Linear)
    assert isinstance(packed_linear(torch.zeros(1024, 1024)), PackedLinear)
