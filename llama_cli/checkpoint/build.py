"""A checkpoint's weights become a model, layer by layer as they come: one copy of them is in memory."""

from __future__ import annotations

from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from ..backends.backend import Backend
from ..backends.place import fuse, replace
from ..model.args import ModelArgs
from ..model.llama import Llama, TransformerBlock
from ..model.quantized import Weight, in_full
from ..model.split import WHOLE, Share, bounds_of, shared_args
from ..model.weights import EMBEDDING, OUTPUT
from ..options import OnLayer
from .checkpoint import Checkpoint
from .plan import runs_as_stored
from .reshard import Slice


def build_model(
    checkpoint: Checkpoint,
    args: ModelArgs,
    backend: Backend,
    device: torch.device,
    share: Share = WHOLE,
    on_layer: OnLayer | None = None,
) -> Llama:
    """A share of the transformer with its weights in place, made layer by layer: one copy of them is in memory."""

    def part_of(name: str, shape: tuple[int, ...]) -> Slice | None:
        bounds = bounds_of(args, share, name, shape)
        return bounds and Slice(*bounds)

    with torch.device("meta"):
        model = Llama(args if share.size == 1 else shared_args(args, share))
    is_tied, part = checkpoint.is_tied, None if share.size == 1 else part_of
    stream = (
        checkpoint.stored(args, part)
        if runs_as_stored(checkpoint.headers, backend.offer)
        else checkpoint.tensors(args, part)
    )
    for place, named in groupby(stream, key=_place_of_weight):
        module = model.get_submodule(place) if place.startswith("layers.") else model
        weights = {name.removeprefix(f"{place}."): _to(weight, backend, device) for name, weight in named}
        if backend.make is not None and module is not model:
            place_layers = fuse if backend.offer.joins else replace
            place_layers(cast(TransformerBlock, module), weights, backend.make)
        if backend.make is not None and place == (EMBEDDING if is_tied else OUTPUT):
            output = weights[EMBEDDING] if is_tied else weights.pop(OUTPUT)
            model.output = backend.make(output, "output")  # type: ignore[assignment]
        for name, weight in weights.items():
            layer = module.get_submodule(name.removesuffix(".weight"))
            layer.weight = nn.Parameter(in_full(weight), requires_grad=False)
        if is_tied and place == EMBEDDING and backend.make is None:
            model.output.weight = model.tok_embeddings.weight
        checkpoint.drop_pages()
        if on_layer is not None and place.startswith("layers."):
            on_layer(int(place.removeprefix("layers.")) + 1, args.n_layers)
    assert not any(weight.is_meta for weight in model.parameters()), "every weight has been filled"
    return model.eval()


def _to(weight: Weight, backend: Backend, device: torch.device) -> Weight:
    if not isinstance(weight, Tensor):
        return type(weight)(weight.values.to(device), weight.scales.to(device))
    return weight.to(device=device, dtype=backend.activations if weight.dim() == 1 else backend.dtype)


def _place_of_weight(named: tuple[str, Weight]) -> str:
    """`layers.3` of a layer's weights, the name itself of the others."""
    name, _ = named
    return ".".join(name.split(".")[:2])
