"""Weights of 8 bits with inputs as they are. torch has the kernel for CPUs too, so it is tested there."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from helpers.models import DATA, forward, fused_model, golden, golden_tensors, new_cache
from torch._subclasses.fake_tensor import FakeTensorMode

from llama_cli.backends.backend import choose_backend
from llama_cli.backends.cuda import WeightOnlyInt4Linear, WeightOnlyInt8Linear
from llama_cli.backends.offers import ABLE, Wanted
from llama_cli.errors import UsageError
from llama_cli.model.quantized import quantize_int4, quantize_int8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 7, 8, 40])
def test_it_is_a_linear_of_the_quantized_weights(dtype, rows):
    generator = torch.Generator().manual_seed(rows)
    quantized = quantize_int8(torch.randn(96, 64, generator=generator))
    x = torch.randn(rows, 64, generator=generator).to(dtype)
    expected = F.linear(x.double(), quantized.dequantize().double())
    got = WeightOnlyInt8Linear(quantized)(x)
    assert got.dtype == dtype
    slack = 0.15 if dtype == torch.bfloat16 else 1e-4  # 3 roundings to 8 bits of sums of about 8 to 30
    torch.testing.assert_close(got.double(), expected, atol=slack, rtol=2**-6 if dtype == torch.bfloat16 else 1e-5)


def test_full_weights_are_quantized_first():
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    quantized, layer = quantize_int8(weight), WeightOnlyInt8Linear(weight)
    assert torch.equal(layer.values, quantized.values)
    assert torch.equal(layer.scales, quantized.scales)


def test_a_model_stays_near_metas():
    folder = DATA / "tiny/gqa"
    model, expected = fused_model(folder, WeightOnlyInt8Linear), golden_tensors(folder)
    for prompt, case in golden(folder)["prompts"].items():
        if "logit_positions" in case:
            continue
        logits = forward(model, new_cache(model, 1, len(case["ids"])), case["ids"])
        exact = expected[f"{prompt}.prefill.f32"]
        assert (logits - exact).abs().mean() <= 0.05 * exact.std(), prompt


def test_which_devices_it_is_for():
    backend = choose_backend(Wanted("bfloat16", "cuda", "int8"), ABLE)
    assert (backend.offer.name, backend.activations) == ("int8", torch.bfloat16)
    assert isinstance(backend.make(torch.ones(16, 64), "down"), WeightOnlyInt8Linear)


@pytest.mark.parametrize(("capability", "fits"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_which_gpus_int4_is_for(capability, fits):
    wanted, machine = Wanted("float16", "cuda", "int4"), dataclasses.replace(ABLE, capability=capability)
    if not fits:
        with pytest.raises(UsageError, match=r"int4 needs .* or an NVIDIA GPU of compute capability 8.0, not cuda"):
            choose_backend(wanted, machine)
        return
    backend = choose_backend(wanted, machine)
    assert (backend.offer.name, backend.dtype, backend.activations) == ("int4", torch.bfloat16, torch.bfloat16)
    assert isinstance(backend.make(torch.ones(16, 64), "output"), WeightOnlyInt8Linear)
    odd = torch.randn(16, 40)
    assert torch.equal(backend.make(odd, "down").weight, odd), "no whole groups"


@pytest.mark.parametrize(("n_in", "tiles"), [(128, 8), (192, 4), (32, 2)])
def test_int4_has_the_shapes_that_torch_asks_for(n_in, tiles):
    """Its own checks for tensors without values."""
    with FakeTensorMode():
        layer = WeightOnlyInt4Linear(torch.empty(48, n_in))
        out = layer(torch.empty(3, n_in, dtype=torch.bfloat16))
    assert layer.packed.shape == (6, n_in // (16 * tiles), 32, tiles // 2)
    assert layer.scales.shape == (n_in // 32, 48, 2)
    assert (out.shape, out.dtype) == ((3, 48), torch.bfloat16)


def test_int4_lies_as_torch_documents_it(monkeypatch):
    """Of two columns the first is the higher half of a byte; (level - 8) · step + middle, scales by groups.

    The kernels are for GPUs alone: here stands what torch.testing's `_group_quantize_tensor` makes for them.
    """

    def multiply(x, pairs, group_size, scales):
        levels = torch.stack([pairs >> 4, pairs & 15], -1).flatten(1)
        steps, middles = scales.float().repeat_interleave(group_size, 0).unbind(-1)  # (in, out)
        return x.float() @ ((levels.T.float() - 8) * steps + middles)

    monkeypatch.setattr(torch.ops.aten, "_convert_weight_to_int4pack", lambda pairs, tiles: pairs)
    monkeypatch.setattr(torch.ops.aten, "_weight_int4pack_mm", multiply)
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    quantized = quantize_int4(weight)
    for made in (WeightOnlyInt4Linear(weight), WeightOnlyInt4Linear(quantized)):
        torch.testing.assert_close(made(x), x @ quantized.dequantize().T, atol=1e-4, rtol=1e-5)
