"""Linear layers of few bits against what they round, spelt out, and against full weights."""

import pytest
import torch
import torch.nn.functional as F
from helpers.models import DATA, backend_of, forward, golden, golden_tensors, load_model, new_cache

from llama_cli.backends import onednn_int as quantize
from llama_cli.backends.onednn_int import Int4Linear, Int8Linear, can_quantize, int4_layer
from llama_cli.errors import UsageError

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_quantize(), reason="this processor has no kernels for few bits")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(x, limit=127):
    steps = x.abs().amax(-1, keepdim=True).double() / limit
    return torch.floor(x / steps + 0.5) * steps


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize(("n_out", "n_in"), [(64, 64), (1000, 96), (48, 33)])
def test_int8_is_the_product_of_the_rounded(with_residual, rows, n_out, n_in):
    weight, x = random(n_out, n_in), random(rows, n_in, seed=1) * torch.logspace(-3, 3, rows)[:, None]
    seen = rounded(x.double(), quantize.ACTIVATION_LIMIT)
    if with_residual:
        seen = seen + rounded(x.double() - seen, quantize.ACTIVATION_LIMIT)
    expected = seen @ rounded(weight.double()).T
    out = Int8Linear(weight, with_residual=with_residual)(x)
    scale = expected.abs().amax(-1, keepdim=True)
    # A value that lies between two steps may fall to either; otherwise sums are exact.
    assert ((out - expected) / scale).abs().max() < (2e-4 if with_residual else 2e-2)
    assert ((out - expected) / scale).abs().median() < (1e-4 if with_residual else 1e-5)


def test_with_its_residual_an_input_is_nearly_exact():
    weight, x = random(256, 512), random(8, 512, seed=1)
    exact = x @ rounded(weight.double()).float().T
    errors = [
        (Int8Linear(weight, with_residual=with_residual)(x) - exact).abs().mean() for with_residual in (False, True)
    ]
    assert errors[1] < errors[0] / 50


def test_a_row_knows_no_neighbours():
    linear, x = Int8Linear(random(128, 96), with_residual=True), random(40, 96, seed=2)
    together = linear(x)
    for row in range(40):
        assert torch.equal(linear(x[row : row + 1])[0], together[row])


def test_zeros_and_nan():
    x = random(3, 64)
    x[0] = 0
    x[1, 5] = float("nan")
    out = Int8Linear(random(16, 64, seed=3))(x)
    assert (out[0] == 0).all()
    assert out[1].isnan().all()
    assert out[2].isfinite().all()


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_int4_is_near_the_weight(rows):
    weight, x = random(64, 128), random(rows, 128, seed=1).bfloat16()
    exact = F.linear(x.float(), weight)
    out = Int4Linear(weight)(x).float()
    grouped = weight.view(64, -1, 32)
    step = (grouped.amax(-1) - grouped.amin(-1)).mean() / 15
    # An error of up to half a step in each weight, of either sign: their sum grows with the root.
    assert (out - exact).abs().mean() < 0.5 * step * 128**0.5


def test_shapes_that_the_int4_kernel_does_not_take():
    x = random(2, 40).bfloat16()
    weight = random(24, 40).bfloat16()
    torch.testing.assert_close(int4_layer(weight, "gate_up")(x), F.linear(x, weight), atol=0.1, rtol=0.02)


@pytest.mark.parametrize(("name", "most"), [("int8", 0.1), ("int4", 0.6)])
def test_a_quantized_model_stays_near_its_full_weights(name, most):
    """Random weights are the worst case: nothing about them can be rounded well."""
    folder = DATA / "tiny/gqa"
    model, expected = load_model(folder, quantize=name), golden_tensors(folder)
    for prompt, case in golden(folder)["prompts"].items():
        if "logit_positions" in case:
            continue
        logits = forward(model, new_cache(model, 1, len(case["ids"])), case["ids"])
        exact = expected[f"{prompt}.prefill.f32"]
        assert (logits - exact).pow(2).mean().sqrt() < most * exact.std(), prompt


def test_only_where_there_are_kernels():
    with pytest.raises(UsageError, match="needs an x86 CPU with oneDNN or an NVIDIA GPU, not mps"):
        backend_of(torch.bfloat16, "mps", quantize="int8")
