"""Hugging Face's tokenizer.json, where it holds byte pairs: the same ids as theirs, text for text.

Two things are otherwise, as with every tokenizer here: text that spells a special token stays text, and very long
texts are cut where Meta cuts them. Other kinds of tokenizer are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .base import TokenizerError
from .bpe import N_SPECIAL, NAMED_SPECIAL, PATTERNS, BPETokenizer, BytePairs, metas_specials
from .byte_pairs import in_order_of_merging, unspell
from .marks import NO_MARKS, Cuts, Marks

GIVE_MODEL = "give the model's tokenizer.model with --tokenizer"
DOWNLOAD_AGAIN = "download tokenizer.json again"

GPT2_AS_WRITTEN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENDS = ("<|end_of_text|>", "<|endoftext|>", "</s>")


def open_tokenizer_json(path: Path, marks: Marks = NO_MARKS) -> BPETokenizer:
    """Read the file; TokenizerError says why it cannot give the same ids, or what is wrong with it."""
    try:
        return BPETokenizer(path.name, read_byte_pairs(path), marks)
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # parts that are missing, or of another kind
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"{path.name} is damaged, or of a form that is not known", DOWNLOAD_AGAIN) from None


def read_byte_pairs(path: Path) -> BytePairs:
    """The vocabulary in the file."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise TokenizerError(f"{path.name} is not JSON", DOWNLOAD_AGAIN) from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise TokenizerError(f"{path.name} is JSON, but not Hugging Face's tokenizer.json", GIVE_MODEL)
    if reason := _why_not(content, model):
        raise TokenizerError(f"{path.name} is not read: {reason}", GIVE_MODEL)
    return _vocabulary(content, model)


def _why_not(content: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """What keeps tiktoken, which merges by rank, from giving the same ids; None if nothing does."""
    if model.get("type", "BPE") != "BPE" or not isinstance(model["vocab"], dict):
        return f"its kind is {model.get('type')!r}, and only byte pairs (BPE) are known"
    if model.get("byte_fallback") or any(word.startswith("\u2581") for word in model["vocab"]):
        return "it is a SentencePiece tokenizer, which lies in tokenizer.model as well"
    if content.get("normalizer") is not None:
        return f"it changes text before it cuts it (normalizer {_kind(content['normalizer'])!r})"
    affixes = [key for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(key)]
    if affixes:
        return f"its tokens have {affixes[0]}"
    if cuts_of(content.get("pre_tokenizer")) is None:
        return (
            f"its way of cutting text into words (pre_tokenizer {_kind(content.get('pre_tokenizer'))!r}) is not known"
        )
    return None


def _kind(part: Any) -> str | None:
    """The type of a part; of a sequence the types in it."""
    if not isinstance(part, dict):
        return None
    inner = part.get("pretokenizers") or part.get("normalizers") or []
    return " + ".join(str(each.get("type")) for each in inner) if inner else str(part.get("type"))


def cuts_of(part: Any) -> Cuts | None:
    """Which of the known ways a pre_tokenizer is; None for every other."""
    steps = part.get("pretokenizers", [part]) if isinstance(part, dict) else []
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    splits_itself = steps[-1].get("use_regex", True)
    if len(steps) == 1:
        return "gpt2" if splits_itself else None
    if len(steps) != 2:
        return None
    first = steps[0]
    if first.get("type") == "Digits" and first.get("individual_digits") and splits_itself:
        return "smollm"
    is_plain = first.get("type") == "Split" and first.get("behavior") == "Isolated" and not first.get("invert")
    if not is_plain or splits_itself:
        return None
    patterns = {pattern: name for name, pattern in PATTERNS.items() if name != "smollm"} | {GPT2_AS_WRITTEN: "gpt2"}
    return patterns.get(first["pattern"].get("Regex"))


def _vocabulary(content: Mapping[str, Any], model: Mapping[str, Any]) -> BytePairs:
    ids: Mapping[str, int] = model["vocab"]
    added = {each["content"]: each["id"] for each in content.get("added_tokens") or []}
    if not all(type(number) is int and 0 <= number < 1 << 22 for number in (*ids.values(), *added.values())):
        raise TokenizerError("tokenizer.json: an id is no number of a vocabulary", DOWNLOAD_AGAIN)
    by_id = sorted((number, word) for word, number in ids.items() if word not in added)
    normal = {number: unspell(word) for number, word in by_id}
    if len({*normal, *added.values()}) < len(by_id) + len(added):
        raise TokenizerError("tokenizer.json: two tokens have the same id", DOWNLOAD_AGAIN)
    merged = _merged(model.get("merges") or [], ids)
    order = in_order_of_merging(normal, merged)
    cuts = cuts_of(content.get("pre_tokenizer"))
    assert cuts is not None, "it has been looked at"
    reachable = set(order if model.get("ignore_merges") else [*merged, *(n for n in order if len(normal[n]) == 1)])
    ranked: list[int | None] = [number for number in order if number in reachable]
    ranks = {normal[number]: rank for rank, number in enumerate(ranked) if number is not None}
    if len(ranks) != len(ranked):
        raise TokenizerError("tokenizer.json: two tokens are the same bytes", DOWNLOAD_AGAIN)
    for byte in range(256):  # tiktoken wants every byte; theirs drops those that it has no token for
        if bytes([byte]) not in ranks:
            ranks[bytes([byte])] = len(ranks)
            ranked.append(None)
    specials = dict(sorted(added.items(), key=lambda pair: pair[1]))
    ends = (specials[name] for name in ENDS if name in specials)
    found = BytePairs(
        ranks,
        specials,
        cuts,
        ids=None if ranked == list(range(len(ranks))) else ranked,
        unmerged={number: token for number, token in normal.items() if number not in reachable},
        bos_id=_begin(content.get("post_processor"), specials),
        eos_id=next(ends, None),
    )
    if not is_metas(found):
        return found
    metas = {name: number for name, number in metas_specials(len(ranks)).items() if name not in specials}
    return replace(found, specials=specials | metas)


def _merged(merges: Sequence[Any], ids: Mapping[str, int]) -> list[int]:
    """For each merge, first to last, the id that it makes. A merge is `"a b"`, or newer `["a", "b"]`."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [ids[first + second] for first, second in pairs]


def is_metas(vocabulary: BytePairs) -> bool:
    """Whether Llama 3's special tokens stand behind the ranks in Meta's places."""
    n_ranks = len(vocabulary.ranks)
    places = {name: n_ranks + NAMED_SPECIAL[name] for name in ("<|begin_of_text|>", "<|eot_id|>")}
    found = vocabulary.specials
    return (
        vocabulary.ids is None
        and not vocabulary.unmerged
        and all(found.get(name) == place for name, place in places.items())
        and set(found.values()) >= set(range(n_ranks, n_ranks + N_SPECIAL))
    )


def _begin(processor: Any, specials: Mapping[str, int]) -> int | None:
    """The token that a template puts before every text."""
    steps = processor.get("processors", [processor]) if isinstance(processor, dict) else []
    for step in steps:
        first = (step.get("single") or [{}])[0] if step.get("type") == "TemplateProcessing" else {}
        if "SpecialToken" in first:
            return specials.get(first["SpecialToken"]["id"])
    return None
