"""The table of weights beside what stood in each module before it, as an oracle."""

import re

import pytest
from model.test_weights import FAMILY, TINY

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
        modules = [tuple(module_of(spec.name) for spec in group) for group in joined(layer_weights(args, 0))]
        assert [group for group in modules if len(group) > 1] == list(JOINED)
        assert sorted(module for group in modules for module in group) == sorted(LINEAR[:-1])
