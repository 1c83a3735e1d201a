"""A folder of .safetensors files: whose names they have, and which settings belong to them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.json_file import read_object
from ..files.regular_file import Identity
from .huggingface import HuggingFaceWeights, params_of, speaks_hugging_face
from .safetensors_file import SafetensorsFiles, open_safetensors
from .schemes import own_scheme
from .stored.quantized import QuantizedWeights
from .tokenizer_marks import read_their_template
from .unsupported import unnested

if TYPE_CHECKING:
    from ..options import Quantization


StoredWeights = SafetensorsFiles | HuggingFaceWeights | QuantizedWeights


@dataclass(frozen=True)
class SafetensorsFolder:
    """Weights under Meta's names, and params.json's object, or config.json's in its words."""

    weights: StoredWeights
    params: Mapping[str, Any]
    params_name: str
    identities: Mapping[Path, Identity]

    @property
    def is_huggingface(self) -> bool:
        return isinstance(self.weights, HuggingFaceWeights)

    @property
    def quantization(self) -> Quantization | None:
        return self.weights.quantization if isinstance(self.weights, QuantizedWeights) else None


def open_safetensors_folder(folder: Path) -> SafetensorsFolder:
    """Open the files and the settings that belong to them; ModelRejected says what is wrong. Only headers are read."""
    has_params, has_config = ((folder / name).exists() for name in ("params.json", "config.json"))
    files = open_safetensors(folder, metas_first=has_params)
    identities = {file.path: file.identity for file in files.files}
    theirs = speaks_hugging_face(files)
    if has_config and (theirs or not has_params):
        config = read_object(folder / "config.json")
        params, source, tied = params_of(config), "config.json", bool(config.get("tie_word_embeddings"))
        if (template := read_their_template(folder)) is not None:
            params["chat_template"] = template
    else:
        params, source = read_object(folder / "params.json"), "params.json"
        tied = "lm_head.weight" not in files.names()
    quantization = None if theirs else own_scheme(unnested(params))
    if quantization is not None:
        return SafetensorsFolder(QuantizedWeights(files, quantization), params, source, identities)
    files.require_floats()
    return SafetensorsFolder(HuggingFaceWeights(files, tied=tied) if theirs else files, params, source, identities)
