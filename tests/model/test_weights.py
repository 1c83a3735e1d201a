"""The table of weights: what it says is what the model class has, and every name is found again."""

import json

import pytest
import torch
from helpers.models import DATA, SMALL

from llama_cli.checkpoint.params import read_params
from llama_cli.model.llama import Llama
from llama_cli.model.weights import (
    EMBEDDING,
    JOINED,
    LAST_NORM,
    LLAMA_LAYER,
    OUTPUT,
    joined,
    layer_of,
    layer_weights,
    spec_of,
    weight_shapes,
    weights_of,
)

FAMILY = [read_params(case["params"]) for case in json.loads((DATA / "params_family.json").read_text())["models"]]
TINY = [read_params(json.loads(path.read_text())) for path in sorted(DATA.rglob("params.json"))]


@pytest.mark.parametrize("args", [SMALL, *TINY])
def test_the_model_class_has_the_weights_of_the_table(args):
    with torch.device("meta"):
        model = Llama(args)
    assert {name: tuple(weight.shape) for name, weight in model.state_dict().items()} == weight_shapes(args)


def test_every_name_is_found_again_and_no_other_is():
    for args in FAMILY:
        assert {name: spec_of(name) for name in weight_shapes(args)} == weights_of(args)
        assert [layer_of(name) for name in weight_shapes(args)].count(args.n_layers - 1) == len(LLAMA_LAYER)
    assert [layer_of(name) for name in (EMBEDDING, LAST_NORM, OUTPUT)] == [None] * 3
    strange = ("layers.0.attention.wq", "layers.00.attention.wq.weight", "layers.٣.attention.wq.weight", "wq.weight",
               "layers.0.norm.weight", "layers.0.attention.wx.weight", "x.output.weight", "layers.0.output.weight",
               f"layers.{'9' * 5000}.ffn_norm.weight", "output", "")  # fmt: skip
    assert [name for name in strange if spec_of(name)] == []


def test_weights_that_read_the_same_inputs_are_joined():
    together = [group for group in joined(layer_weights(SMALL, 0)).values() if len(group) > 1]
    assert [[spec.name for spec in group] for group in together] == [
        ["attention.wq", "attention.wk", "attention.wv"],
        ["feed_forward.w1", "feed_forward.w3"],
    ]
    for group in together:
        assert len({spec.role for spec in group} & JOINED.keys()) == 1
        assert len({spec.sizes[1:] for spec in group}) == 1, "one below the other"
        assert {spec.split for spec in group} == {0}, "a part of each is a part of the whole"
