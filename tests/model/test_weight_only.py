"""Weights of 8 bits with inputs as they are. torch has the kernel for CPUs too, so it is tested there."""

import pytest
import torch
import torch.nn.functional as F
from support import DATA, forward, golden, golden_tensors, load_model, new_cache

from llama_cli.errors import UsageError
from llama_cli.model.fuse import fuse
from llama_cli.model.recipe import choose_recipe
from llama_cli.model.rounding import round_int8
from llama_cli.model.weight_only import WeightOnlyInt8Linear

CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 7, 8, 40])
def test_it_is_a_linear_of_the_rounded_weights(dtype, rows):
    generator = torch.Generator().manual_seed(rows)
    rounded = round_int8(torch.randn(96, 64, generator=generator))
    x = torch.randn(rows, 64, generator=generator).to(dtype)
    expected = F.linear(x.double(), rounded.dequantize().double())
    got = WeightOnlyInt8Linear(rounded)(x)
    assert got.dtype == dtype
    slack = 0.15 if dtype == torch.bfloat16 else 1e-4  # 3 roundings to 8 bits of sums of about 8 to 30
    torch.testing.assert_close(got.double(), expected, atol=slack, rtol=2**-6 if dtype == torch.bfloat16 else 1e-5)


def test_full_weights_are_rounded_first():
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    rounded, layer = round_int8(weight), WeightOnlyInt8Linear(weight)
    assert torch.equal(layer.values, rounded.values)
    assert torch.equal(layer.scales, rounded.scales)


def test_a_model_stays_near_metas():
    folder = DATA / "tiny/gqa"
    model, expected = load_model(folder), golden_tensors(folder)
    for layer in model.layers:
        weights = {name: weight for name, weight in layer.named_parameters() if "norm" not in name}
        fuse(layer, weights, WeightOnlyInt8Linear, WeightOnlyInt8Linear)
    for prompt, case in golden(folder)["prompts"].items():
        if "logit_positions" in case:
            continue
        logits = forward(model, new_cache(model, 1, len(case["ids"])), case["ids"])
        exact = expected[f"{prompt}.prefill.f32"]
        assert (logits - exact).abs().mean() <= 0.05 * exact.std(), prompt


def test_which_devices_it_is_for():
    recipe = choose_recipe(torch.bfloat16, CUDA, quantize="int8")
    assert (recipe.name, recipe.activations, recipe.make) == ("int8", torch.bfloat16, WeightOnlyInt8Linear)
    with pytest.raises(UsageError, match="--quantize int4 needs an x86 CPU with oneDNN, not cuda"):
        choose_recipe(torch.bfloat16, CUDA, quantize="int4")
