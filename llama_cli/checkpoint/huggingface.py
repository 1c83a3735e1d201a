"""Hugging Face's LlamaForCausalLM folders, put back into Meta's names, layout and params.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelRejected, NotComputed
from ..files.quoting import plain, quote
from ..model.weights import OUTPUT, OUTSIDE_LAYERS, spec_of
from .header import TensorHeader
from .keys import refused
from .naming import Naming
from .rope_settings import read_rope_scaling
from .safetensors_file import SafetensorsFiles

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAMES = Naming(
    "model.layers.",
    {
        "tok_embeddings": "model.embed_tokens",
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "norm": "model.norm",
        "output": "lm_head",
    },
)
IGNORED = re.compile(r".*rotary_emb\.inv_freq")  # old files store what follows from the head size

# config.json's key -> params.json's.
CONFIG_KEYS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "vocab_size": "vocab_size",
    "intermediate_size": "hidden_dim",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_seq_len",
}

# Values that this program computes; anything else would come out wrong without a word. None: not there.
ALLOWED_VALUES: dict[str, tuple[object, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, None),
    "layer_types": (None,),
}
ARCHITECTURE = "LlamaForCausalLM"
REQUIRED_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
DEFAULT_THETA = 10000.0  # transformers' own

# Keys whose values are looked at here, and those that only say how something was trained or is stored.
READ = (
    *CONFIG_KEYS, *ALLOWED_VALUES, "quantization_config", "rope_theta", "rope_scaling", "rope_parameters",
    "layer_types", "tie_word_embeddings", "original_max_position_embeddings", "attn_implementation",
)  # fmt: skip
RELATIVES = {"Llama4": "Llama 4", "Mllama": "Llama 3.2 Vision", "SequenceClassification": "classifying"}
USE_BF16 = "use the bf16 checkpoint of the same model"


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json in the words of params.json; both styles of RoPE settings are understood."""
    if config.get("quantization_config") is not None:
        raise NotComputed("config.json: the weights are quantized (quantization_config); not supported", USE_BF16)
    architectures = config.get("architectures") or [ARCHITECTURE]
    if architectures != [ARCHITECTURE]:
        kind = next((name for word, name in RELATIVES.items() if word in str(architectures)), None)
        raise NotComputed(
            f"config.json: the architecture is {quote(architectures)}{f', a {kind} model' if kind else ''};"
            f" only {ARCHITECTURE} is supported",
            "give a Llama text model",
        )
    for key, allowed in ALLOWED_VALUES.items():
        if config.get(key) not in allowed:
            raise ModelRejected(
                f"config.json: {key} is {quote(config.get(key))}; only {allowed[0]!r} is supported",
                "give a Llama text model",
            )
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    if isinstance(window, int) and isinstance(context, int) and window >= context:
        config = {**config, "sliding_window": None}  # every token sees all others
    found = refused(config, READ)
    if found:
        raise NotComputed(
            f"config.json: {', '.join(found)}: llama-cli does not compute what this asks for",
            "give a Llama text model; a key that changes nothing can be taken out of the file",
        )
    missing = [key for key in REQUIRED_KEYS if config.get(key) is None]
    if missing:
        raise ModelRejected(f"config.json: {', '.join(missing)} must be given", "download config.json again")
    params = {ours: config[theirs] for theirs, ours in CONFIG_KEYS.items() if config.get(theirs) is not None}
    return params | _rope_params(config)


def _rope_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`; transformers 5 writes both into rope_parameters."""
    objects = {key: config[key] for key in ("rope_parameters", "rope_scaling") if config.get(key) is not None}
    thetas, scalings = [config.get("rope_theta")], []
    for key, settings in objects.items():
        if not isinstance(settings, Mapping):
            raise ModelRejected(
                f"config.json: {key} must be an object, is {quote(settings)}", "download config.json again"
            )
        thetas.append(settings.get("rope_theta"))
        if settings.get("partial_rotary_factor") not in (None, 1):
            raise ModelRejected(
                f"config.json: {key}: partial_rotary_factor is {quote(settings['partial_rotary_factor'])}; RoPE rotates"
                " whole heads here",
                "give a Llama text model",
            )
        rest = {name: value for name, value in settings.items() if name not in ("rope_theta", "partial_rotary_factor")}
        scalings.append((read_rope_scaling(rest, f"config.json: {key}", untyped="default"), rest))
    given = [theta for theta in thetas if theta is not None]
    if any(theta != given[0] for theta in given) or any(scaling != scalings[0][0] for scaling, _ in scalings):
        names = " and ".join(["rope_theta", *objects][-2:])
        raise ModelRejected(f"config.json: {names} contradict each other", "take the wrong one out of config.json")
    params: dict[str, Any] = {"rope_theta": given[0] if given else DEFAULT_THETA}
    return params | ({"rope_scaling": scalings[0][1]} if scalings and scalings[0][0] is not None else {})


def speaks_hugging_face(files: SafetensorsFiles) -> bool:
    """Whether tensors are named in Hugging Face's way; ModelRejected if some are and some are in Meta's."""
    theirs = [name for name in files.names() if name.startswith("model.") or NAMES.metas_of(name)]
    metas = [name for name in files.names() if name.startswith("layers.") or name in OUTSIDE_LAYERS]
    if theirs and metas:
        raise ModelRejected(
            f"{plain(files.files[0].path.parent)} mixes Meta's names and Hugging Face's:"
            f" {quote(metas[0])} and {quote(theirs[0])}",
            "give a folder with the files of one of them",
        )
    return bool(theirs)


def meta_name(name: str) -> str:
    """Meta's name of a tensor; names of no counterpart stay, to be reported as unexpected."""
    return NAMES.metas_of(name) or name


class HuggingFaceWeights:
    """A set of safetensors files under Meta's names; rows of wq and wk still in Hugging Face's order."""

    def __init__(self, files: SafetensorsFiles, *, tied: bool) -> None:
        self._files = files
        self._theirs = {meta_name(name): name for name in files.names() if not IGNORED.fullmatch(name)}
        if tied:
            self._theirs.pop(OUTPUT, None)  # transformers uses the embedding even where both are stored
        elif OUTPUT not in self._theirs:
            raise ModelRejected(
                "'lm_head.weight' is missing, and config.json does not say tie_word_embeddings",
                "download the missing file, or set tie_word_embeddings to true if the model is tied",
            )

    def names(self) -> list[str]:
        return list(self._theirs)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files.shape(self._theirs[name])

    def dtype(self, name: str) -> torch.dtype:
        return self._files.dtype(self._theirs[name])

    def path(self, name: str) -> Path:
        return self._files.path(self._theirs[name])

    def describe(self, name: str) -> TensorHeader:
        return self._files.describe(self._theirs[name])

    def map(self) -> None:
        """Have every file checked and mapped."""
        self._files.map()

    def tensor(self, name: str) -> Tensor:
        return self._files.tensor(self._theirs[name])


def metas_rows(name: str, weight: Tensor, head_dim: int) -> Tensor:
    """Undo Hugging Face's order of rows in whole heads of wq or wk: their RoPE rotates halves, Meta's neighbours.

    theirs  0 2 4 6 1 3 5 7      Meta's  0 1 2 3 4 5 6 7      (head_dim 8)
    """
    spec = spec_of(name)
    if spec is None or not spec.is_rotated:
        return weight
    rows, columns = weight.shape
    assert rows % head_dim == 0, "whole heads"
    return weight.view(-1, 2, head_dim // 2, columns).transpose(1, 2).reshape(rows, columns)
