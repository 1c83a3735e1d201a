"""Which way is taken on which machine, without that machine."""

from dataclasses import replace

import pytest

from llama_cli.backends.offers import ABLE, BYTES, Machine, Wanted, choose_dtype, choose_offer

BARE = Machine(False, False, frozenset(), has_onednn_int=False, upcasts=False)


def with_(**facts):
    return replace(BARE, **facts)


@pytest.mark.parametrize(
    ("wanted", "machine", "layers"),
    [
        (Wanted("bfloat16", "cpu"), ABLE, "native"),
        (Wanted("float32", "cpu"), ABLE, "native"),
        (Wanted("float16", "cpu"), ABLE, "mapped"),
        (Wanted("bfloat16", "cpu", kernels="torch"), ABLE, "onednn"),
        (Wanted("bfloat16", "cpu", kernels="torch"), replace(ABLE, upcasts=True), "upcast"),
        (Wanted("float32", "cpu", kernels="torch"), replace(ABLE, upcasts=True), "onednn"),
        (Wanted("bfloat16", "cpu", kernels="plain"), ABLE, "mapped"),
        (Wanted("bfloat16", "cpu"), BARE, "mapped"),
        (Wanted("bfloat16", "cpu"), with_(upcasts=True), "upcast"),
        (Wanted("bfloat16", "cuda"), ABLE, "plain"),
        (Wanted("float16", "mps"), BARE, "plain"),
        (Wanted("bfloat16", "cpu", "int8"), ABLE, "native"),
        (Wanted("bfloat16", "cpu", "int4"), ABLE, "native"),
        (Wanted("bfloat16", "cpu", "int8", "torch"), ABLE, "onednn_int"),
        (Wanted("bfloat16", "cpu", "int8"), replace(ABLE, has_native_int8=False), "onednn_int"),
        (Wanted("bfloat16", "cpu", "int8"), with_(has_native=True, has_native_int8=True), "native"),
        (Wanted("bfloat16", "cpu", "int8"), with_(has_native=True), None),
        (Wanted("bfloat16", "cuda", "int8"), BARE, "cuda"),
        (Wanted("bfloat16", "cuda", "int4"), with_(capability=(7, 5)), None),
        (Wanted("bfloat16", "mps", "int8"), ABLE, None),
    ],
)
def test_the_way_that_is_taken(wanted, machine, layers):
    offer = choose_offer(wanted, machine)
    assert (offer and offer.layers) == layers


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_the_output_matrix_has_8_bits_at_least(device, quantize):
    offer = choose_offer(Wanted("bfloat16", device, quantize), ABLE)
    assert offer.bytes_of("output") == 1
    assert offer.bytes_of("down") == BYTES[quantize]
    assert offer.bytes_of("embedding") == offer.bytes_of("norm") == 2
    assert not offer.shares_embedding


@pytest.mark.parametrize("kernels", ["auto", "torch", "plain"])
def test_faster_steps_are_those_of_our_kernels_and_of_graphs(kernels):
    steps = [choose_offer(Wanted("bfloat16", device, kernels=kernels), ABLE).steps for device in ("cpu", "cuda", "mps")]
    assert steps == (["native", "graphs", None] if kernels == "auto" else [None, None, None])


@pytest.mark.parametrize(
    ("asked", "stored", "n_bytes", "device", "dtype"),
    [
        ("auto", "bfloat16", 1 << 30, "cpu", "bfloat16"),
        ("auto", "float16", 1 << 30, "cpu", "bfloat16"),
        ("auto", "float16", 1 << 30, "cuda", "float16"),
        ("auto", "bfloat16", 1 << 20, "cpu", "float32"),
        ("auto", "bfloat16", 1 << 20, "cuda", "bfloat16"),
        ("fp16", "bfloat16", 1 << 20, "cpu", "float16"),
    ],
)
def test_the_dtype_that_is_left_open(asked, stored, n_bytes, device, dtype):
    assert choose_dtype(asked, stored, n_bytes, device) == dtype
