"""Steps by our own kernels: one call computes all layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn

from ...model.cache import Cache
from ...model.llama import Attention, Llama, TransformerBlock
from ...model.span import Span, outputs_of
from ...model.weights import LLAMA_LAYER, joined, layer_weights
from .library import Layer, Library, Matrix, Model, address


def can_step(model: Llama, library: Library) -> bool:
    """Whether the kernels take the model: layers of their kind, short heads, one layout for each row of inputs."""
    return model.args.head_dim <= library.most_head_dim and all(
        layer_weights(model.args, number) == LLAMA_LAYER and _is_usual(block) and _reads_each_row_once(block)
        for number, block in enumerate(model.layers)
    )


def _is_usual(block: nn.Module) -> bool:
    """Whether it computes as the kernels do; a subclass may do it another way."""
    return type(block) is TransformerBlock and type(block.attention) is Attention


def _reads_each_row_once(block: nn.Module) -> bool:
    """Whether matrices that read the same inputs want them in the same layout."""
    groups = joined(LLAMA_LAYER).values()
    return all(len({_matrix(block.get_submodule(spec.name)).kind for spec in group}) == 1 for group in groups)


class NativeSteps:
    """The steps of one model, which `can_step`, on one cache."""

    def __init__(self, model: Llama, cache: Cache, library: Library) -> None:
        self._embeddings = model.tok_embeddings
        self._library = library
        self._kept: list[Tensor] = []  # what the structures point at
        args = model.args
        layers = (Layer * args.n_layers)()
        for number, block in enumerate(model.layers):
            for spec in LLAMA_LAYER:
                part: Matrix | int
                if spec.is_linear:
                    part = _matrix(block.get_submodule(spec.name))
                else:
                    part = self._floats(block.get_parameter(f"{spec.name}.weight"))
                setattr(layers[number], spec.module, part)
            layers[number].keys = self._keep(cache.layers[number].keys)
            layers[number].values = self._keep(cache.layers[number].values)
        self._model = Model(
            n_layers=args.n_layers,
            dim=args.dim,
            ffn_dim=args.ffn_dim,
            n_heads=args.n_heads,
            n_kv_heads=args.n_kv_heads,
            head_dim=args.head_dim,
            max_seq_len=cache.max_seq_len,
            layers=layers,
            norm=self._floats(model.norm.weight),
            output=_matrix(model.output),
            rope=self._keep(model.rope),
            norm_eps=args.norm_eps,
            rounds=model.norm.weight.dtype == torch.bfloat16,
            narrows=cache.dtype == torch.bfloat16,
        )
        self._scratch = torch.empty(0)
        matrices = [
            model.output,
            *(block.get_submodule(s.name) for block in model.layers for s in LLAMA_LAYER if s.is_linear),
        ]
        self._takes_many = all(library.takes_many(_matrix(each).kind) for each in matrices)

    def takes(self, spans: Sequence[Span], n_scored: int) -> int:
        """All spans, or where products of many rows are torch's the first ones of one token whose logits are wanted.

        A slot has but one span in a step: its tokens follow each other.
        """
        if self._takes_many:
            return len(spans)
        return sum(1 for _ in takewhile(lambda span: span.is_single, spans[: len(spans) - n_scored]))

    def logits(self, spans: Sequence[Span], tokens: Sequence[int], n_scored: int) -> Tensor:
        """As DecodeSteps.logits."""
        needed = self._library.scratch_floats(self._model, len(tokens))
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed)
        slots = [span.slot for span in spans for _ in range(span.length)]
        positions = [position for span in spans for position in range(span.start, span.end)]
        slots_, positions_, outputs, ids = (
            torch.tensor(each, dtype=torch.int64) for each in (slots, positions, outputs_of(spans), tokens)
        )
        x = self._embeddings(ids).float()
        n_exact = sum(span.n_outputs for span in spans[len(spans) - n_scored :])
        return self._library.forward(self._model, positions_, slots_, x, outputs, n_exact, self._scratch)

    def _floats(self, weight: Tensor) -> int:
        return self._keep(weight.detach().float())

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return address(tensor).value or 0


def _matrix(layer: nn.Module) -> Matrix:
    matrix = layer.matrix
    assert isinstance(matrix, Matrix), "a model of native layers"
    return matrix
