"""What a GGUF file says about its model, in the words of params.json and as a tokenizer.model."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy
import torch
from torch import Tensor

from ..errors import ModelRejected
from ..files.foreign import DOWNLOAD_AGAIN
from ..files.quoting import quote
from ..model.args import RopeScaling
from ..model.rope import scale_frequencies
from ..tokenizer.marks import Cuts, Marks
from .sentencepiece_file import USER_DEFINED, sentencepiece_model
from .tiktoken_file import BYTE, NORMAL, Vocabulary, make_vocabulary
from .tokenizer_json import Special, byte_pairs

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Key behind `llama.` -> params.json's.
KEYS = {
    "embedding_length": "dim",
    "block_count": "n_layers",
    "attention.head_count": "n_heads",
    "attention.head_count_kv": "n_kv_heads",
    "feed_forward_length": "hidden_dim",
    "attention.key_length": "head_dim",
    "context_length": "max_seq_len",
}
REQUIRED = ("embedding_length", "block_count", "attention.head_count", "feed_forward_length")
EPSILON, DEFAULT_EPSILON = "attention.layer_norm_rms_epsilon", 1e-5
THETA, DEFAULT_THETA = "rope.freq_base", 10000.0  # llama.cpp's own

# llama.cpp's names for how text is cut into words before merging.
CUTS: Mapping[str, Cuts] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"), "llama3"),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), "qwen2"),
    "gpt-2": "gpt2",
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), "smollm"),
}

GIVE_LLAMA = "give the GGUF of a Llama text model"
GIVE_TOKENIZER = "give the model's tokenizer.model with --tokenizer"


def params_from(name: str, fields: Mapping[str, Any], rope_factors: Tensor | None) -> dict[str, Any]:
    """An object of params.json, but for vocab_size; ModelRejected if it is no Llama text model.

    `name` is the file's, for messages; `rope_factors` is what each RoPE frequency is divided by.
    """
    if fields.get("general.architecture") != "llama":
        raise ModelRejected(f"{name}: its architecture is {quote(fields.get('general.architecture'))}", GIVE_LLAMA)
    if fields.get("split.count", 1) not in (0, 1):
        parts = quote(fields["split.count"])
        raise ModelRejected(f"{name} is one of {parts} parts", "join them: llama-gguf-split --merge FIRST WHOLE.gguf")
    mine = {key.removeprefix("llama."): value for key, value in fields.items() if key.startswith("llama.")}
    missing = [key for key in REQUIRED if key not in mine]
    if missing:
        raise ModelRejected(f"{name}: llama.{missing[0]} is missing", DOWNLOAD_AGAIN)
    if mine.get("expert_count") or mine.get("rope.scaling.type", "none") != "none":
        what = "experts" if mine.get("expert_count") else f"RoPE scaling of type {quote(mine['rope.scaling.type'])}"
        raise ModelRejected(f"{name}: {what}: not supported", GIVE_LLAMA)
    params: dict[str, Any] = {ours: _size(name, key, mine[key]) for key, ours in KEYS.items() if key in mine}
    params["norm_eps"] = _shortest(name, EPSILON, mine.get(EPSILON, DEFAULT_EPSILON))
    params["rope_theta"] = _shortest(name, THETA, mine.get(THETA, DEFAULT_THETA))
    head_dim = params.get("head_dim", params["dim"] // params["n_heads"])
    if mine.get("rope.dimension_count", head_dim) != head_dim:
        turned = quote(mine["rope.dimension_count"])
        raise ModelRejected(f"{name}: RoPE rotates {turned} of {head_dim} values of a head", GIVE_LLAMA)
    if rope_factors is not None:
        params |= _rope_scaling(name, rope_factors, head_dim, params["rope_theta"])
    return params


def _size(name: str, key: str, value: Any) -> int:
    """A size, which may be told for each layer."""
    values = set(value) if isinstance(value, list) else {value}
    if len(values) != 1:
        raise ModelRejected(f"{name}: llama.{key} differs from layer to layer", GIVE_LLAMA)
    (size,) = values
    if type(size) is not int or size < 1:
        raise ModelRejected(f"{name}: llama.{key} must be 1 or more, is {quote(size)}", DOWNLOAD_AGAIN)
    return size


def _shortest(name: str, key: str, value: Any) -> float:
    """The decimal that a float32 was made from: 1e-05, not 9.999999747378752e-06."""
    if type(value) not in (int, float):
        raise ModelRejected(f"{name}: llama.{key} must be a number, is {quote(value)}", DOWNLOAD_AGAIN)
    return float(str(numpy.float32(value)))


def _rope_scaling(name: str, factors: Tensor, head_dim: int, theta: float) -> dict[str, Any]:
    """Llama 3.1's scaling, recognised by its factors; the lowest frequency is divided by the whole one."""
    if len(factors) == head_dim // 2:
        if bool((factors == 1).all()):
            return {}
        frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        scaling = RopeScaling(_shortest(name, "rope_freqs", float(factors[-1])))
        if torch.allclose(factors, frequencies / scale_frequencies(frequencies, scaling), rtol=1e-3):
            return {"use_scaled_rope": True, "rope_scaling_factor": scaling.factor}
    raise ModelRejected(f"{name}: its RoPE factors are not those of Llama 3.1", GIVE_LLAMA)


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer of a GGUF file as the files of a folder, and what they do not say."""

    small_files: Mapping[str, bytes]
    marks: Marks
    template: str | None
    vocabulary: Vocabulary | None = None  # how ids change; None: not at all


def tokenizer_from(name: str, fields: Mapping[str, Any], n_rows: int, *, keep_ids: bool = False) -> TokenizerFiles:
    """The tokenizer as tokenizer.model, or with `keep_ids` byte pairs of any order as tokenizer.json.

    `n_rows` is how many the embedding has: one for each token, and maybe some more.
    """
    kind = fields.get("tokenizer.ggml.model")
    tokens, types = _list(fields, "tokens", str), _list(fields, "token_type", int)
    scores, merges = _list(fields, "scores", float), _list(fields, "merges", str)
    if not 0 < len(tokens) == len(types) <= n_rows:
        raise ModelRejected(f"{name}: it has no tokenizer, or a damaged one", GIVE_TOKENIZER)
    if n_rows > len(tokens):
        logger.warning(
            "the model has %d ids that its tokenizer has no token for; they are never chosen", n_rows - len(tokens)
        )
    template, stops, begin = template_of(fields), ends_of(fields), _id(fields, "bos")
    adds_bos = fields.get("tokenizer.ggml.add_bos_token")
    adds_bos = adds_bos if isinstance(adds_bos, bool) else None
    if kind == "llama" and len(scores) == len(tokens):
        prefix = fields.get("tokenizer.ggml.add_space_prefix", True)
        model = sentencepiece_model(tokens, scores, types, add_prefix=bool(prefix))
        return TokenizerFiles({"tokenizer.model": model}, Marks(stop_ids=stops, adds_bos=adds_bos), template)
    if kind != "gpt2" or not merges:
        raise ModelRejected(
            f"{name}: its tokenizer is of the kind {quote(kind)}, which is not supported", GIVE_TOKENIZER
        )
    written = fields.get("tokenizer.ggml.pre")
    cuts = CUTS.get(written if isinstance(written, str) else "")
    if cuts is None:
        logger.warning(
            "the model was trained on text cut into words as %s does; Llama 3's way, used here, may differ in places",
            quote(written),
        )
    if adds_bos is None and cuts != "llama3":
        adds_bos = False  # as llama.cpp decides
    vocabulary = make_vocabulary(tokens, types, merges)
    marks = vocabulary.marks(stops, adds_bos=adds_bos, begin=begin, cuts=cuts or "llama3")
    if vocabulary.is_identity:
        return TokenizerFiles({"tokenizer.model": vocabulary.file()}, marks, template)
    if keep_ids:
        begins = begin if adds_bos is not False else None
        data = byte_pairs_as_they_are(tokens, types, merges, cuts or "llama3", begins)
        return TokenizerFiles({"tokenizer.json": data}, Marks(stop_ids=stops), template)
    logger.info("%d tokens become %d ids in Meta's order", len(tokens), len(vocabulary.input_rows))
    return TokenizerFiles({"tokenizer.model": vocabulary.file()}, marks, template, vocabulary)


def byte_pairs_as_they_are(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], cuts: Cuts, begin: int | None
) -> bytes:
    """A tokenizer.json in which every token keeps its id."""
    vocab = {token: number for number, token in enumerate(tokens) if types[number] in (NORMAL, BYTE)}
    specials = [
        Special(number, token, types[number] != USER_DEFINED)
        for number, token in enumerate(tokens)
        if types[number] not in (NORMAL, BYTE)
    ]
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    first = None if begin is None else Special(begin, tokens[begin])
    made = byte_pairs(vocab, pairs, specials, cuts, first, whole_words=cuts == "llama3")
    return json.dumps(made, ensure_ascii=False).encode()


def template_of(fields: Mapping[str, Any]) -> str | None:
    """The text of the chat template."""
    template = fields.get("tokenizer.chat_template")
    return template if isinstance(template, str) else None


def ends_of(fields: Mapping[str, Any]) -> frozenset[int]:
    """The ids with which the file says that something ends: a text, a turn, a message."""
    return frozenset(number for which in ("eos", "eot", "eom") if (number := _id(fields, which)) is not None)


def _id(fields: Mapping[str, Any], which: str) -> int | None:
    n_tokens = len(_list(fields, "tokens", str))
    number = fields.get(f"tokenizer.ggml.{which}_token_id")
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < n_tokens:
        logger.warning("its %s_token_id %s is none of its tokens, and left out", which, quote(number))
        return None
    return number


def _list(fields: Mapping[str, Any], key: str, kind: type[T]) -> list[T]:
    """A list of the tokenizer's; empty if there is none, or one of other things."""
    value = fields.get(f"tokenizer.ggml.{key}")
    return value if isinstance(value, list) and all(type(item) is kind for item in value) else []
