"""Decode steps by our own kernels: one call computes all layers for one token of each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn

from ...model.cache import Cache
from ...model.llama import Attention, Llama, TransformerBlock
from ...model.span import Span
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
    """The decode steps of one model, which `can_step`, on one cache."""

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

    def takes(self, spans: Sequence[Span]) -> int:
        """How many of the first spans the kernels compute: those of one token whose logits are wanted.

        One of several tokens they would compute wrongly as so many of one: each key is stored and looked at in one
        go, while other threads are at the tokens before it. So a slot may have but one token in a step.
        """
        times = Counter(span.slot for span in spans)
        return sum(1 for _ in takewhile(lambda span: span.is_single and times[span.slot] == 1, spans))

    def logits(self, spans: Sequence[Span], tokens: Sequence[int]) -> Tensor:
        """Logits (len(spans), vocab_size), float32, of spans that it takes."""
        needed = self._library.scratch_floats(self._model, len(spans))
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed)
        slots, positions, ids = (
            torch.tensor(each, dtype=torch.int64)
            for each in ([span.slot for span in spans], [span.start for span in spans], tokens)
        )
        x = self._embeddings(ids).float()
        logits = torch.empty(len(spans), self._model.output.n_out)
        self._library.decode(self._model, positions, slots, x, logits, self._scratch)
        return logits

    def _floats(self, weight: Tensor) -> int:
        return self._keep(weight.detach().float())

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return address(tensor).value or 0


def _matrix(layer: nn.Module) -> Matrix:
    matrix = layer.matrix
    assert isinstance(matrix, Matrix), "a model of native layers"
    return matrix
