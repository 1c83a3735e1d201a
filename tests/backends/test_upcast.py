"""bfloat16 layers that compute many rows in float32."""

import pytest
import torch
import torch.nn.functional as F
from helpers.models import DATA, forward, golden, golden_tensors, load_model, new_cache

from llama_cli.backends import backend, upcast
from llama_cli.backends.machine import Processor
from llama_cli.backends.onednn import can_pack
from llama_cli.backends.upcast import UpcastLinear
from llama_cli.model import parts

CPU = torch.device("cpu")
PACKED = [False, pytest.param(True, marks=pytest.mark.skipif(not can_pack(torch.bfloat16, CPU), reason="no oneDNN"))]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(("n_out", "n_in", "part_bytes"), [(192, 64, 1 << 20), (192, 64, 20_000), (1000, 96, 100_000)])
@pytest.mark.parametrize("rows", [1, 7, 8, 77])
def test_it_is_a_linear(monkeypatch, packed, n_out, n_in, part_bytes, rows):
    """From 8 rows on, the exact result rounded once; below, sums in bfloat16's own way."""
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    generator = torch.Generator().manual_seed(n_out + rows)
    weight = torch.randn(n_out, n_in, generator=generator).bfloat16()
    x = torch.randn(rows, n_in, generator=generator).bfloat16()
    exact = F.linear(x.double(), weight.double())
    layer = UpcastLinear(weight, many=8, packed=packed)
    assert len(layer.parts) == {1 << 20: 1, 20_000: 3, 100_000: 4}[part_bytes]
    if rows >= 8:
        torch.testing.assert_close(layer(x).float(), exact.float(), atol=2**-7, rtol=2**-8)
    else:
        torch.testing.assert_close(layer(x).double(), exact, atol=2**-7 * n_in**0.5, rtol=2**-7)


def test_plain_parts_share_the_weight():
    weight = torch.zeros(64, 64, dtype=torch.bfloat16)
    assert UpcastLinear(weight, many=8, packed=False).parts[0].data_ptr() == weight.data_ptr()


@pytest.mark.parametrize(
    ("features", "maker", "many"),
    [
        ("amx_tile avx512_bf16", "GenuineIntel", None),
        ("amx_tile", "GenuineIntel", None),
        ("avx512_bf16", "GenuineIntel", 256),
        ("avx512_bf16", "AuthenticAMD", None),
        ("avx512f", "GenuineIntel", 16),
        ("avx2", "AuthenticAMD", 16),
    ],
)
def test_what_a_processor_is_good_at(monkeypatch, features, maker, many):
    monkeypatch.setattr(upcast, "processor", lambda: Processor("x86_64", maker, frozenset(features.split())))
    assert upcast.many_rows() == many


def test_other_processors_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(upcast, "processor", lambda: Processor("aarch64"))
    assert upcast.many_rows() is None


@pytest.mark.parametrize("can", [False, True])
def test_an_upcast_model_is_metas(monkeypatch, can):
    """On a processor without bfloat16, with and without oneDNN's layout: nearer to float32 than Meta's own."""
    monkeypatch.setattr(backend, "many_rows", lambda: 1)
    monkeypatch.setattr(backend, "can_pack", lambda dtype, device: can and can_pack(dtype, device))
    folder = DATA / "tiny/gqa"
    model, expected = load_model(folder, torch.bfloat16, kernels="torch"), golden_tensors(folder)
    assert isinstance(model.layers[0].attention.wqkv, UpcastLinear)
    for prompt, case in golden(folder)["prompts"].items():
        if "logit_positions" in case:
            continue
        logits = forward(model, new_cache(model, 1, len(case["ids"])), case["ids"])
        assert (logits - expected[f"{prompt}.prefill.bf16"]).abs().mean() <= 0.1, prompt
