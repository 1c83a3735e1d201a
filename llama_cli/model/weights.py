"""The one table of a model's weights: names, sizes, roles, and where each is split. No torch, no files.

Shapes, the parts of ranks and of shards, what is joined and what is quantized, foreign names, the memory of a model and
the structure that the kernels read are derived from it. Two other places spell a layer, the modules of llama.py and
native/attention.h, and tests compare them with the table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from .args import ModelArgs, Shape

Size = Literal["dim", "q_dim", "kv_dim", "ffn_dim", "vocab_size"]  # attributes of ModelArgs
Role = Literal["embedding", "query_key_value", "attention_output", "gate_up", "down", "norm", "output"]


class WeightSpec(NamedTuple):
    """What is known of a weight before there is a model."""

    name: str  # Meta's, within its layer, without `.weight`
    role: Role
    sizes: tuple[Size, ...]  # (out, in) of a matrix
    split: int | None = None  # the dimension that ranks share; where it is the inputs', their results are summed
    is_rotated: bool = False  # RoPE rotates what it makes: Hugging Face has the rows of each head in another order

    @property
    def is_linear(self) -> bool:
        """Whether it multiplies its inputs: a backend makes a layer of it, and quantization rounds it."""
        return self.role not in ("embedding", "norm")

    @property
    def has_kv_heads(self) -> bool:
        """Whether its rows are the key/value heads, which more ranks than heads have to repeat."""
        return self.sizes[0] == "kv_dim"

    def shape(self, args: ModelArgs) -> Shape:
        """The whole shape, before anything is split."""
        return tuple(int(getattr(args, size)) for size in self.sizes)

    @property
    def module(self) -> str:
        """Its name within attention or feed-forward."""
        return self.name.rpartition(".")[2]

    def in_layer(self, layer: int) -> str:
        """Its whole name in one of the layers."""
        return f"layers.{layer}.{self.name}.weight"


# In the order of Meta's files.
LLAMA_LAYER = (
    WeightSpec("attention.wq", "query_key_value", ("q_dim", "dim"), split=0, is_rotated=True),
    WeightSpec("attention.wk", "query_key_value", ("kv_dim", "dim"), split=0, is_rotated=True),
    WeightSpec("attention.wv", "query_key_value", ("kv_dim", "dim"), split=0),
    WeightSpec("attention.wo", "attention_output", ("dim", "q_dim"), split=1),
    WeightSpec("feed_forward.w1", "gate_up", ("ffn_dim", "dim"), split=0),
    WeightSpec("feed_forward.w2", "down", ("dim", "ffn_dim"), split=1),
    WeightSpec("feed_forward.w3", "gate_up", ("ffn_dim", "dim"), split=0),
    WeightSpec("attention_norm", "norm", ("dim",)),
    WeightSpec("ffn_norm", "norm", ("dim",)),
)
BEFORE_LAYERS = (WeightSpec("tok_embeddings", "embedding", ("vocab_size", "dim"), split=0),)
BEHIND_LAYERS = (
    WeightSpec("norm", "norm", ("dim",)),
    WeightSpec("output", "output", ("vocab_size", "dim"), split=0),
)

EMBEDDING, LAST_NORM, OUTPUT = (f"{spec.name}.weight" for spec in (*BEFORE_LAYERS, *BEHIND_LAYERS))

# Weights of these roles read the same inputs: one below the other they are one matrix, of the layer of this name.
JOINED: Mapping[Role, str] = {"query_key_value": "attention.wqkv", "gate_up": "feed_forward.w13"}

OF_ANY_LAYER = {spec.name: spec for spec in LLAMA_LAYER}
OUTSIDE_LAYERS = {f"{spec.name}.weight": spec for spec in (*BEFORE_LAYERS, *BEHIND_LAYERS)}
IN_LAYER = re.compile(r"layers\.(0|[1-9]\d{0,3})\.(.+)\.weight", re.ASCII)


def layer_weights(args: ModelArgs, layer: int) -> tuple[WeightSpec, ...]:
    """The weights of one layer of a model: all layers are of one kind so far."""
    return LLAMA_LAYER


def weights_of(args: ModelArgs) -> dict[str, WeightSpec]:
    """Every weight of a model by its whole name, in file order."""
    before, behind = ({f"{spec.name}.weight": spec for spec in each} for each in (BEFORE_LAYERS, BEHIND_LAYERS))
    layers = {spec.in_layer(n): spec for n in range(args.n_layers) for spec in layer_weights(args, n)}
    return before | layers | behind


def weight_shapes(args: ModelArgs) -> dict[str, Shape]:
    """Every weight of a model by its whole name, in file order, with its whole (unsharded) shape."""
    return {name: spec.shape(args) for name, spec in weights_of(args).items()}


def n_params(args: ModelArgs, *, tied: bool = False) -> int:
    """Number of parameters; `tied` counts the embedding and the output matrix once."""
    shapes = weight_shapes(args)
    return sum(math.prod(shape) for name, shape in shapes.items() if name != OUTPUT or not tied)


def spec_of(name: str) -> WeightSpec | None:
    """What the table says of a weight by its whole name; None for a name that no model has."""
    match = IN_LAYER.fullmatch(name)
    return OF_ANY_LAYER.get(match[2]) if match else OUTSIDE_LAYERS.get(name)


def layer_of(name: str) -> int | None:
    """The number of the layer that a weight belongs to by its whole name; None for one outside the layers."""
    match = IN_LAYER.fullmatch(name)
    return int(match[1]) if match else None


def joined(specs: Iterable[WeightSpec]) -> dict[str, list[WeightSpec]]:
    """The linear layers that the weights of a layer can make: by its name, the weights that become one matrix."""
    layers: dict[str, list[WeightSpec]] = {}
    for spec in specs:
        if spec.is_linear:
            layers.setdefault(JOINED.get(spec.role, spec.name), []).append(spec)
    return layers


def joined_with(name: str) -> list[str]:
    """The whole names of the weights that can be one matrix with a named one, itself among them."""
    spec, layer = spec_of(name), layer_of(name)
    if spec is None or layer is None or spec.role not in JOINED:
        return [name]
    return [other.in_layer(layer) for other in OF_ANY_LAYER.values() if other.role == spec.role]
