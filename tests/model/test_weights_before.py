"""The table of weights beside what stood in each module before it, as an oracle."""

import itertools
import math
import re

import pytest
from model.test_weights import FAMILY, TINY

from llama_cli.checkpoint import huggingface
from llama_cli.checkpoint.describe import count_parameters
from llama_cli.checkpoint.stored.fp8 import FLOATS, fp8_dtypes
from llama_cli.checkpoint.stored.int4 import int4_dtypes
from llama_cli.convert import gguf
from llama_cli.convert.split import split_dim
from llama_cli.memory import PRECISIONS, plan_memory, possible_ranks
from llama_cli.model.quantized import fits_int4, rounding_of
from llama_cli.model.split import Bounds, Share, bounds_of, vocabulary_of
from llama_cli.model.weights import joined, layer_weights, spec_of, weight_shapes

SHAPES = [*FAMILY, *TINY]

SPLIT_DIMENSION = {"tok_embeddings": 0, "wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w3": 0, "w2": 1, "output": 0}
JOINED = (("wq", "wk", "wv"), ("w1", "w3"))
LINEAR = ("wq", "wk", "wv", "wo", "w1", "w2", "w3", "output")
GROUPED = re.compile(r"layers\.\d+\.(attention\.w[qkvo]|feed_forward\.w[123])\.weight", re.ASCII)
FP8 = re.compile(r"layers\.(\d+)\.(feed_forward\.w[123])\.weight", re.ASCII)


def shapes_before(args):
    q_dim, kv_dim = args.n_heads * args.head_dim, args.n_kv_heads * args.head_dim
    shapes = {"tok_embeddings.weight": (args.vocab_size, args.dim)}
    for layer in range(args.n_layers):
        prefix = f"layers.{layer}."
        shapes[prefix + "attention.wq.weight"] = (q_dim, args.dim)
        shapes[prefix + "attention.wk.weight"] = (kv_dim, args.dim)
        shapes[prefix + "attention.wv.weight"] = (kv_dim, args.dim)
        shapes[prefix + "attention.wo.weight"] = (args.dim, q_dim)
        shapes[prefix + "feed_forward.w1.weight"] = (args.ffn_dim, args.dim)
        shapes[prefix + "feed_forward.w2.weight"] = (args.dim, args.ffn_dim)
        shapes[prefix + "feed_forward.w3.weight"] = (args.ffn_dim, args.dim)
        shapes[prefix + "attention_norm.weight"] = (args.dim,)
        shapes[prefix + "ffn_norm.weight"] = (args.dim,)
    shapes["norm.weight"] = (args.dim,)
    shapes["output.weight"] = (args.vocab_size, args.dim)
    return shapes


def module_of(name):
    return name.removesuffix(".weight").rpartition(".")[2]


@pytest.mark.parametrize("args", SHAPES)
def test_shapes(args):
    assert list(weight_shapes(args).items()) == list(shapes_before(args).items())


@pytest.mark.parametrize("args", SHAPES)
def test_what_is_said_of_a_name(args):
    for name in weight_shapes(args):
        spec, module = spec_of(name), module_of(name)
        assert spec.split == SPLIT_DIMENSION.get(module)
        assert spec.is_linear == (module in LINEAR)
        assert (spec.is_linear and spec.role != "output") == bool(GROUPED.fullmatch(name))
        assert (spec.role in ("gate_up", "down")) == bool(FP8.fullmatch(name))
        assert spec.has_kv_heads == name.endswith(("attention.wk.weight", "attention.wv.weight"))
        assert spec.is_rotated == name.endswith(("attention.wq.weight", "attention.wk.weight"))


def test_what_is_joined():
    for args in SHAPES:
        modules = [tuple(module_of(spec.name) for spec in group) for group in joined(layer_weights(args, 0)).values()]
        assert [group for group in modules if len(group) > 1] == list(JOINED)
        assert sorted(module for group in modules for module in group) == sorted(LINEAR[:-1])


def bounds_before(args, share, name, shape):
    module = module_of(name)
    dim = SPLIT_DIMENSION.get(module)
    if dim is None:
        return None
    if module in ("tok_embeddings", "output"):
        return vocabulary_of(args, share)
    rank, size = share
    if module in ("wk", "wv") and size > args.n_kv_heads:
        rank, size = rank * args.n_kv_heads // size, args.n_kv_heads
    each = shape[dim] // size
    return Bounds(dim, rank * each, (rank + 1) * each)


def quantization_before(name, shapes, quantization):
    layer, _, module = name.removesuffix(".weight").rpartition(".")
    if module not in LINEAR:
        return None
    if quantization == "int8" or module == "output":
        return "int8"
    together = next((names for names in JOINED if module in names), (module,))
    n_rows = sum(shapes[f"{layer}.{each}.weight"][0] for each in together)
    return "int4" if fits_int4(n_rows, shapes[name][1]) else None


@pytest.mark.parametrize("args", SHAPES)
def test_parts_of_ranks_and_quantizations(args):
    shapes = weight_shapes(args)
    for name, shape in shapes.items():
        for size in possible_ranks(args)[:5]:
            for share in (Share(0, size), Share(size - 1, size)):
                assert bounds_of(args, share, name, shape) == bounds_before(args, share, name, shape)
        for kind in ("int8", "int4"):
            assert rounding_of(name, shapes, kind) == quantization_before(name, shapes, kind)


def weights_before(args, itemsize, linear_bytes, tied, n_ranks):
    kv_heads = math.ceil(args.n_kv_heads / n_ranks)

    def bytes_of(name, shape):
        if len(shape) == 1:
            return shape[0] * itemsize
        if name == "output.weight" and tied:
            return 0
        if name in ("tok_embeddings.weight", "output.weight"):
            n_values = math.ceil(shape[0] / n_ranks) * shape[1]
        elif name.endswith(("wk.weight", "wv.weight")):
            n_values = math.prod(shape) * kv_heads // args.n_kv_heads
        else:
            n_values = math.prod(shape) // n_ranks
        return int(n_values * (itemsize if name == "tok_embeddings.weight" else linear_bytes or itemsize))

    weights = sum(bytes_of(name, shape) for name, shape in shapes_before(args).items())
    return weights + (0 if tied else int(args.vocab_size * args.dim * max(0, 1.0 - linear_bytes)) // n_ranks)


@pytest.mark.parametrize("args", SHAPES)
def test_memory(args):
    for precision, tied, n_ranks in itertools.product(PRECISIONS.values(), (False, True), possible_ranks(args)[:4]):
        plan = plan_memory(
            args,
            n_slots=1,
            itemsize=precision.itemsize,
            linear_bytes=precision.linear_bytes,
            tied=tied,
            n_ranks=n_ranks,
        )
        assert plan.weights == weights_before(args, *precision, tied, n_ranks)
        assert plan.loading == 2 * args.ffn_dim * args.dim * precision.itemsize // n_ranks


OUTER_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
GGUF_OUTER = {
    "token_embd.weight": "tok_embeddings.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "output.weight",
}
GGUF_LAYER = {
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
    "attn_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
}


def test_foreign_names():
    names = list(weight_shapes(FAMILY[-1]))
    for naming, outer, inner, layers in (
        (huggingface.NAMES, OUTER_NAMES, LAYER_NAMES, r"model\.layers\.(\d+)\.(.+)\.weight"),
        (gguf.NAMES, GGUF_OUTER, GGUF_LAYER, r"blk\.(\d+)\.(\w+)\.weight"),
    ):
        for name in names:
            theirs = naming.theirs_of(name)
            match = re.fullmatch(layers, theirs)
            assert name == (f"layers.{match[1]}.{inner[match[2]]}.weight" if match else outer[theirs])
            assert naming.metas_of(theirs) == name
        for other in ("model.layers.0.mlp.weight", "blk.0.x.weight", "model.layers.0.self_attn.q_proj.bias", "x", ""):
            assert naming.metas_of(other) is None


@pytest.mark.parametrize("args", SHAPES)
def test_splits_counts_and_dtypes(args):
    parts = {"norms": 0, "embedding": 0, "attention": 0, "feed_forward": 0, "output": 0}
    words = {**{part: part for part in parts}, "norms": "norm", "embedding": "tok_embeddings"}
    for name, shape in weight_shapes(args).items():
        for embedding_dim in (0, 1):
            columns = name.endswith(("attention.wo.weight", "feed_forward.w2.weight"))
            dim = embedding_dim if name == "tok_embeddings.weight" else None if "norm" in name else int(columns)
            assert split_dim(name, embedding_dim) == dim
        parts[next(part for part, word in words.items() if word in name)] += math.prod(shape)
        is_quantized = GROUPED.fullmatch(name) or name in ("tok_embeddings.weight", "output.weight")
        assert int4_dtypes(name) == (("int8",) if is_quantized else FLOATS)
        assert int4_dtypes(name.replace("weight", "zeros")) == ((*FLOATS, "int8") if is_quantized else FLOATS)
        assert fp8_dtypes(name) == ((*FLOATS, "float8_e4m3fn") if FP8.fullmatch(name) else FLOATS)
    assert count_parameters(args, tied=False) == {**parts, "total": sum(parts.values())}
