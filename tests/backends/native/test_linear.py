"""Linear layers of our own kernels against exact products and against torch's."""

import pytest
import torch
import torch.nn.functional as F
from helpers.models import DATA, backend_of, forward, golden, golden_tensors, load_model, new_cache

from llama_cli.backends import backend
from llama_cli.backends.native.library import native_library
from llama_cli.backends.native.linear import FEW, NativeLayers, NativeLinear
from llama_cli.backends.onednn import PackedLinear, can_pack
from llama_cli.backends.onednn_int import Int8Linear
from llama_cli.model.quantized import quantize_int4

LIBRARY = native_library()
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C++ compiler")
needs_int8 = pytest.mark.skipif(LIBRARY is None or not LIBRARY.has_int8, reason="this processor cannot")

SHAPES = [(64, 64), (200, 96), (33, 172), (7, 5), (16, 1000), (1, 32)]
ROWS = [1, 2, 3, 4, 5, 8, 9, 16, FEW, FEW + 1, 70]


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 2, 3])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_full_weights(n_out, n_in, dtype):
    """Sums in float32 of exact products; a bfloat16 result is rounded once."""
    layer = NativeLayers(LIBRARY, upcasts=dtype == torch.bfloat16).full(numbers(n_out, n_in).to(dtype))
    rounding = 2**-8 if dtype == torch.bfloat16 else 0
    for rows in ROWS:
        x = numbers(rows, n_in, seed=rows).to(dtype)
        exact = F.linear(x.double(), layer.weight.double())
        torch.testing.assert_close(layer(x).double(), exact, atol=2e-6 * n_in, rtol=1e-6 + rounding)


@pytest.mark.parametrize("rows", [1, 3, 8, 17])
def test_nothing_is_written_beside_the_result(rows):
    """The memory behind and before a result stays as it was."""
    weight, x = numbers(37, 53), numbers(rows, 53)
    for _ in range(20):
        around = [torch.full((rows * 37,), 7.0) for _ in range(8)]
        layer = NativeLayers(LIBRARY).full(weight)
        layer(x)
        assert all(bool((each == 7).all()) for each in around)


@needs_int8
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("n_out", "n_in"), [*SHAPES, (48, 4096)])
def test_int8_is_exactly_the_sum_of_whole_numbers(n_out, n_in):
    layers, weight = NativeLayers(LIBRARY), numbers(n_out, n_in)
    for rows in ROWS:
        x = numbers(rows, n_in, seed=rows) * 10
        torch.testing.assert_close(layers.int8(weight, "gate_up")(x), Int8Linear(weight)(x), atol=0, rtol=0)
        torch.testing.assert_close(
            layers.int8(weight, "down")(x), Int8Linear(weight, with_residual=True)(x), atol=1e-6 * n_in, rtol=1e-6
        )


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("upcasts", [True, False])
@pytest.mark.parametrize(("n_out", "n_in"), [(64, 64), (48, 96), (16, 1024)])
def test_int4_is_the_product_with_what_the_levels_mean(n_out, n_in, upcasts):
    quantized = quantize_int4(numbers(n_out, n_in))
    layer = NativeLayers(LIBRARY, upcasts=upcasts).int4(quantized, "gate_up")
    for rows in ROWS:
        x = numbers(rows, n_in, seed=rows).bfloat16()
        exact = F.linear(x.double(), quantized.dequantize().double())
        # Where products are of bfloat16, weights are rounded to it.
        rounds = LIBRARY.has_bfloat16 or (not upcasts and rows > FEW)
        weights_rounded = 2**-8 * n_in**0.5 * 3 if rounds else 0
        torch.testing.assert_close(layer(x).double(), exact, atol=2e-6 * n_in + weights_rounded, rtol=2**-8 + 1e-6)


def test_int4_keeps_what_does_not_fit_its_groups():
    assert isinstance(NativeLayers(LIBRARY).int4(numbers(16, 40).bfloat16(), "gate_up"), NativeLinear)


def made(layers, name, weight, role="down"):
    """A layer of weights in some numbers."""
    if name in ("int4", "int8"):
        return getattr(layers, name)(weight, role)
    return layers.full(weight.to(getattr(torch, name)))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int4", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize(("n_out", "n_in"), [(80, 192), (48, 1056), (37, 1100)])
def test_a_row_never_depends_on_its_neighbours(name, n_out, n_in):
    layers, weight = NativeLayers(LIBRARY, few=130), numbers(n_out, n_in)
    layer = made(layers, name, weight)
    x = numbers(130, n_in, seed=1)
    x = x.bfloat16() if name in ("bfloat16", "int4") else x
    alone = torch.cat([layer(row[None]) for row in x])
    for rows in [*range(2, FEW + 1), *([] if name == "int8" else [65, 130])]:
        assert torch.equal(layer(x[:rows]), alone[:rows]), rows


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int4", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_not_lost(name, bad):
    layers, weight = NativeLayers(LIBRARY), numbers(80, 192)
    layer = made(layers, name, weight, "gate_up")
    for rows in (1, 5, 8, 11):
        x = numbers(rows, 192)
        x[-1, 100] = bad
        found = layer(x.bfloat16() if name in ("bfloat16", "int4") else x)
        assert not found[-1].isfinite().any()
        assert found[:-1].isfinite().all()


def test_weights_are_not_copied():
    weight = numbers(64, 64)
    assert NativeLayers(LIBRARY).full(weight).weight.data_ptr() == weight.data_ptr()


def test_a_native_model_is_metas_in_float32():
    folder = DATA / "tiny/gqa"
    model, expected = load_model(folder, kernels="auto"), golden_tensors(folder)
    assert isinstance(model.layers[0].attention.wq, NativeLinear)
    for prompt, case in golden(folder)["prompts"].items():
        if "logit_positions" in case:
            continue
        logits = forward(model, new_cache(model, 1, len(case["ids"])), case["ids"])
        torch.testing.assert_close(logits, expected[f"{prompt}.prefill.f32"], atol=5e-4, rtol=1e-4)


def test_without_a_compiler_torchs_kernels_are_used(monkeypatch):
    monkeypatch.setattr(backend, "native_library", lambda: None)
    assert backend_of(torch.bfloat16).library is None
    if can_pack(torch.bfloat16, CPU):
        model = load_model(DATA / "tiny/gqa", torch.bfloat16, kernels="auto")
        assert isinstance(model.output, PackedLinear)
