"""Weights under the names of other formats."""

import pytest

from llama_cli.checkpoint import huggingface
from llama_cli.checkpoint.naming import Naming
from llama_cli.convert import gguf
from llama_cli.errors import UsageError
from llama_cli.model.args import ModelArgs
from llama_cli.model.weights import LLAMA_LAYER, OUTSIDE_LAYERS, weights_of

NAMINGS = [huggingface.NAMES, gguf.NAMES]


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_weight_of_the_table_has_a_name_of_its_own_and_is_found_by_it(naming):
    assert naming.theirs.keys() == {spec.name for spec in (*LLAMA_LAYER, *OUTSIDE_LAYERS.values())}
    names = list(weights_of(ModelArgs(n_layers=12)))
    theirs = [naming.theirs_of(name) for name in names]
    assert len(set(theirs)) == len(names)
    assert [naming.metas_of(name) for name in theirs] == names


@pytest.mark.parametrize("naming", NAMINGS)
def test_other_names_are_nobodys(naming):
    first = naming.theirs_of("layers.0.attention.wq.weight")
    other_numbers = [first.replace("0", number) for number in ("00", "٣", "9" * 5000, "-1")]
    cut = [first + "s", first[1:], first.replace(f"{naming.layers}0.", ""), first.replace("weight", "bias")]
    last_norm = naming.theirs_of("norm.weight")
    misplaced = [last_norm.removesuffix(".weight"), f"{naming.layers}0.{last_norm}"]
    strange = [*other_numbers, *cut, *misplaced, "norm.weight", "layers.0.attention.wq.weight", ""]
    assert [name for name in strange if naming.metas_of(name)] == []


def test_a_weight_that_a_format_does_not_know_is_refused_by_name():
    naming = Naming("x.", {"attention.wq": "q"})
    assert naming.theirs_of("layers.3.attention.wq.weight") == "x.3.q.weight"
    for name in ("layers.3.attention.wk.weight", "norm.weight"):
        with pytest.raises(UsageError, match=name):
            naming.theirs_of(name)
