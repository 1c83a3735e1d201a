"""What Hugging Face's folders say about tokens: tokenizer.json and its settings, the chat template, where to end."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from ..checkpoint.tokenizer_marks import GENERATION, TOKENIZER
from ..model.args import ModelArgs
from ..tokenizer import CharTokenizer, Tokenizer, names_of
from ..tokenizer.bpe import BPETokenizer
from ..tokenizer.chat import Template
from ..tokenizer.chat_formats import ChatMLFormat
from .jinja import jinja_of
from .sentencepiece_file import UNKNOWN, read_pieces
from .tokenizer_json import Special, added_token, of_byte_pairs, of_characters, of_pieces

logger = logging.getLogger(__name__)

TOKENIZER_JSON = "tokenizer.json"
SPECIALS = "special_tokens_map.json"
METAS_SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}


def tokenizer_json(tokenizer: Tokenizer, model_file: bytes) -> bytes | None:
    """The content of tokenizer.json for a tokenizer that was read from `model_file`; None: it cannot say the same."""
    if isinstance(tokenizer, BPETokenizer):
        return _bytes_of(of_byte_pairs(tokenizer), indent=None)
    if isinstance(tokenizer, CharTokenizer):
        return _bytes_of(of_characters(tokenizer.symbols))
    pieces = read_pieces(model_file)
    if pieces is None or UNKNOWN not in pieces.types:
        logger.warning(
            "no tokenizer.json is written: this SentencePiece model works otherwise than Llama 2's;"
            " programs that need one have to make it of tokenizer.model"
        )
        return None
    begin = None if tokenizer.bos_id is None else Special(tokenizer.bos_id, pieces.pieces[tokenizer.bos_id])
    return _bytes_of(of_pieces(pieces, begin), indent=None)


def special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Where transformers begins and ends."""
    stops = sorted(tokenizer.stop_tokens)
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": stops[0] if len(stops) == 1 else stops or None}


def token_files(tokenizer: Tokenizer, template: Template, args: ModelArgs) -> dict[str, bytes]:
    """The files beside tokenizer.json, by their names."""
    names = names_of(tokenizer)
    end = _end_of(tokenizer, template)
    roles = {"bos_token": _begin_of(tokenizer), "eos_token": end}
    tokens = {key: names[number] for key, number in roles.items() if number is not None}
    settings: dict[str, Any] = {
        "add_bos_token": tokenizer.bos_id is not None,
        "add_eos_token": False,
        "added_tokens_decoder": {str(n): added_token(Special(n, name)) for n, name in sorted(names.items())},
        **tokens,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": args.max_seq_len,
        # Whatever the family: tokenizer.json is taken as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if (jinja := _jinja(tokenizer, template, names)) is not None:
        settings["chat_template"] = jinja
    generation = {key: value for key, value in special_ids(tokenizer).items() if value is not None}
    return {
        TOKENIZER: _bytes_of(settings),
        SPECIALS: _bytes_of(tokens),
        GENERATION: _bytes_of(generation | METAS_SAMPLING),
    }


def _begin_of(tokenizer: Tokenizer) -> int | None:
    """The begin token, which a template may name though texts do not begin with it."""
    known = (tokenizer.special_tokens.get(name) for name in ("<|begin_of_text|>", "<s>"))
    return next((number for number in (tokenizer.bos_id, *known) if number is not None), None)


def _end_of(tokenizer: Tokenizer, template: Template) -> int | None:
    """What ends a turn, in a model that chats; else what ends a text."""
    turn = template.format.stop_tokens if template.format else frozenset()
    eot = tokenizer.special_tokens.get("<|eot_id|>")
    return eot if eot in turn else min(turn, default=tokenizer.eos_id)


def _jinja(tokenizer: Tokenizer, template: Template, names: Mapping[int, str]) -> str | None:
    if template.format is None or template.name == "none":
        return None
    start = end = ""
    if isinstance(template.format, ChatMLFormat):
        start, end = names[template.format.start], names[template.format.end]
    jinja = jinja_of(template.name, start, end)
    if jinja is None:
        logger.warning("the chat template %s is not written: Hugging Face's form cannot say it", template.name)
    return jinja


def _bytes_of(value: Mapping[str, Any], indent: int | None = 2) -> bytes:
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()
