"""What the files of a model folder say about its tokens: where answers end, what ids are called, which template.

Keys of this program in a params.json, which `convert` writes:
  chat_template    the name of a template, or Hugging Face's text of one
  stop_token_ids   ids that end an answer, beside those of the family
  special_tokens   names of ids that the tokenizer's file has no name for, or another
  add_bos_token    false: texts do not begin with the begin token
  bos_token        the name of the begin token, if it is not the family's
  pre_tokenizer    how text is cut into words, if not as Llama 3 does
Hugging Face's folders say the same in config.json, generation_config.json, tokenizer_config.json, added_tokens.json
and chat_template.jinja.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelRejected
from ..files.json_file import MAX_BYTES, read_object
from ..files.quoting import quote
from ..files.regular_file import read_small
from ..tokenizer.marks import CUTS, Marks
from .unsupported import unnested

logger = logging.getLogger(__name__)

GENERATION, TOKENIZER, ADDED = "generation_config.json", "tokenizer_config.json", "added_tokens.json"
JINJA = "chat_template.jinja"
MOST_ID = 1 << 22

# What generation_config.json may ask of every answer, beside its end, and the values that ask for nothing.
NOT_USED = (
    "stop_strings",
    "suppress_tokens",
    "bad_words_ids",
    "sequence_bias",
    "repetition_penalty",
    "forced_eos_token_id",
)
NOTHING: tuple[Any, ...] = (None, [], {}, 1, "")
NO_ID = -1  # what older files write where there is none


def read_marks(folder: Path) -> Marks:
    """Those of a folder, from params.json if there is one; ModelRejected for a value of another kind."""
    if (folder / "params.json").exists():
        return marks_of(unnested(read_object(folder / "params.json")))
    return _their_marks(folder) if (folder / "config.json").exists() else Marks()


def marks_of(params: Mapping[str, Any]) -> Marks:
    """What the object of a params.json says."""
    names, stops = params.get("special_tokens") or {}, params.get("stop_token_ids") or []
    adds_bos, bos_token = params.get("add_bos_token"), params.get("bos_token")
    cuts = params.get("pre_tokenizer") or "llama3"
    if not isinstance(names, Mapping) or not all(map(_is_id, names.values())):
        raise _wrong("special_tokens", "an object of names and their ids", names)
    if not isinstance(stops, list) or not all(map(_is_id, stops)):
        raise _wrong("stop_token_ids", "a list of ids", stops)
    if adds_bos not in (None, True, False):
        raise _wrong("add_bos_token", "true or false", adds_bos)
    if bos_token is not None and not isinstance(bos_token, str):
        raise _wrong("bos_token", "the name of a special token", bos_token)
    if cuts not in CUTS:
        raise _wrong("pre_tokenizer", f"one of {', '.join(CUTS)}", cuts)
    return Marks(dict(names), frozenset(stops), adds_bos=adds_bos, bos_token=bos_token, cuts=cuts)


def params_of_marks(marks: Marks) -> dict[str, Any]:
    """The keys of a params.json that `marks_of` reads back; none for what goes without saying."""
    said = {
        "special_tokens": dict(marks.names),
        "stop_token_ids": sorted(marks.stop_ids),
        "add_bos_token": marks.adds_bos,
        "bos_token": marks.bos_token,
        "pre_tokenizer": None if marks.cuts == "llama3" else marks.cuts,
    }
    return {key: value for key, value in said.items() if value not in (None, {}, [])}


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < MOST_ID


def _wrong(key: str, wanted: str, value: object, where: str = "params.json") -> ModelRejected:
    return ModelRejected(f"{where}: {key} must be {wanted}, is {quote(value)}", "correct it, or take the key out")


def _their_marks(folder: Path) -> Marks:
    config, generation, tokenizer, added = (
        _object(folder / name) for name in ("config.json", GENERATION, TOKENIZER, ADDED)
    )
    asked = [name for name in NOT_USED if generation.get(name) not in NOTHING]
    if asked:
        logger.warning("%s asks for %s, which is left to the flags here", GENERATION, ", ".join(asked))
    names = {name: number for name, number in added.items() if _is_id(number)}
    decoder = tokenizer.get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, Mapping) else ():
        name = _content(token)
        if name is not None and str(number).isdecimal() and _is_id(int(number)):
            names[name] = int(number)
    # As in transformers, what generation_config.json says goes before config.json.
    stops: Any = next((ids for each in (generation, config) if (ids := each.get("eos_token_id")) is not None), NO_ID)
    ends = stops if isinstance(stops, list) else [stops]
    if ends != [NO_ID] and not all(map(_is_id, ends)):
        raise _wrong("eos_token_id", "an id or a list of ids", stops, f"{GENERATION} or config.json")
    adds_bos = tokenizer.get("add_bos_token")
    if adds_bos not in (None, True, False):
        raise _wrong("add_bos_token", "true or false", adds_bos, TOKENIZER)
    return Marks(
        dict(sorted(names.items(), key=lambda pair: pair[1])),
        frozenset(ends) - {NO_ID},
        adds_bos=adds_bos,
        bos_token=_content(tokenizer.get("bos_token")),
        eos_token=_content(tokenizer.get("eos_token")),
    )


def read_their_template(folder: Path) -> str | None:
    """The text of the chat template in a folder of Hugging Face's."""
    if (folder / JINJA).exists():
        return read_small(folder / JINJA, MAX_BYTES).decode(errors="replace")
    template = _object(folder / TOKENIZER).get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, Mapping)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _content(token: object) -> str | None:
    """A token's text, which stands alone or in an object."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _object(path: Path) -> Mapping[str, Any]:
    return read_object(path) if path.exists() else {}
