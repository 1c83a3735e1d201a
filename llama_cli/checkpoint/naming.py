"""The names that another format has for weights of the table: a line for each weight, and how layers are counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import UsageError
from ..model.weights import OUTSIDE_LAYERS, layer_of, spec_of

SUFFIX = ".weight"


@dataclass(frozen=True)
class Naming:
    """What a format calls the weights that it knows, those of a Llama layer at least.

    Meta's name of each weight -> theirs, both without `.weight` and, within layers, without what counts these.
    """

    layers: str  # in front of the names of a layer's weights: `model.layers.`, then its number
    theirs: Mapping[str, str]

    def theirs_of(self, name: str) -> str:
        """Their name of a weight by its whole name; UsageError for one that the format does not know."""
        spec, layer = spec_of(name), layer_of(name)
        assert spec is not None, f"{name} is one of Meta's names"
        if spec.name not in self.theirs:
            raise UsageError(
                f"this format has no name for {name}", "--format pth and --format safetensors keep Meta's names"
            )
        front = "" if layer is None else f"{self.layers}{layer}."
        return front + self.theirs[spec.name] + SUFFIX

    def metas_of(self, name: str) -> str | None:
        """Meta's whole name of a weight by their whole name; None for one that the table does not have."""
        match = self._in_layer.fullmatch(name)
        if match is None:
            return self._metas_outside.get(name)
        metas = self._metas_in_layer.get(match[2])
        return metas and f"layers.{match[1]}.{metas}{SUFFIX}"

    @cached_property
    def _in_layer(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.layers) + r"(0|[1-9]\d{0,3})\.(.+)" + re.escape(SUFFIX), re.ASCII)

    @cached_property
    def _metas_in_layer(self) -> dict[str, str]:
        outside = {spec.name for spec in OUTSIDE_LAYERS.values()}
        return {theirs: metas for metas, theirs in self.theirs.items() if metas not in outside}

    @cached_property
    def _metas_outside(self) -> dict[str, str]:
        return {self.theirs_of(name): name for name in OUTSIDE_LAYERS}
