"""Hugging Face's tokenizer.json is read so that every text gets their ids, or refused by name."""

import itertools
import json
import random
import re

import pytest
import regex
from helpers.models import DATA

from llama_cli.tokenizer import TokenizerError, load_tokenizer
from llama_cli.tokenizer.bpe import PATTERNS, read_ranks, special_names
from llama_cli.tokenizer.byte_pairs import letters, merges_of, spell
from llama_cli.tokenizer.marks import Marks
from llama_cli.tokenizer.tokenizer_json import GPT2_AS_WRITTEN

RANKS = read_ranks(DATA / "tiny/bpe1024/tokenizer.model")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPLIT = {"type": "Split", "pattern": {"Regex": PATTERNS["llama3"]}, "behavior": "Isolated", "invert": False}
CUTS = {
    "llama3": {"type": "Sequence", "pretokenizers": [SPLIT, {**BYTE_LEVEL, "use_regex": False}]},
    "qwen2": {
        "type": "Sequence",
        "pretokenizers": [{**SPLIT, "pattern": {"Regex": PATTERNS["qwen2"]}}, {**BYTE_LEVEL, "use_regex": False}],
    },
    "gpt2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
}
TEXTS = [
    "Hello world", "  two  spaces\n\ttabs ", "naïve 日本語 🙂", "a 1 22  333\t4 5½ Ⅷ", "I'm 'told he'll\n\n\n x",
    "", " ", "\n \n\n \t\r\n7", "<|eot_id|> and <|im_end|>", "def f(x):\n    return x ** 2  # 10\n",
    "x\u3000\u200b\x00\x7f\xa0y",
]  # fmt: skip


def byte_pairs_file(cuts="llama3", *, special_first=False, without=(), **changes):
    """A tokenizer.json of the tiny vocabulary; `special_first` gives every token another id than its rank."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if special_first else special_names()
    normal = [spell(token) for token in RANKS if token not in without]
    ordered = [*specials, *normal] if special_first else [*normal, *specials]
    ids = {word: number for number, word in enumerate(ordered)}
    file = {
        "added_tokens": [{"id": ids[name], "content": name, "special": True} for name in specials],
        "normalizer": None,
        "pre_tokenizer": CUTS[cuts],
        "post_processor": None,
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": ids if special_first else {word: ids[word] for word in normal},
            "merges": [f"{spell(a)} {spell(b)}" for a, b in merges_of(RANKS)],
        },
    }
    return file | changes


def opened(folder, file, marks=None):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(file))
    return load_tokenizer(path, marks or Marks())


def cut_slowly(cuts, text):
    """What the parts of the pre_tokenizer do, one after the other."""
    if cuts == "smollm":
        return [w for part in regex.split(r"(\p{N})", text) if part for w in regex.findall(GPT2_AS_WRITTEN, part)]
    return regex.findall(GPT2_AS_WRITTEN if cuts == "gpt2" else PATTERNS[cuts], text)


def ids_slowly(file, cuts, text):
    """Merge by merge, the earliest in the list first."""
    vocab = file["model"]["vocab"]
    order = {tuple(merge.split(" ")): place for place, merge in enumerate(file["model"]["merges"])}
    found = []
    for word in cut_slowly(cuts, text):
        parts = list(spell(word.encode()))
        if "".join(parts) in vocab and file["model"]["ignore_merges"]:
            parts = ["".join(parts)]
        while pairs := {pair: order[pair] for pair in itertools.pairwise(parts) if pair in order}:
            best = min(pairs, key=pairs.get)
            place = next(place for place, pair in enumerate(itertools.pairwise(parts)) if pair == best)
            parts[place : place + 2] = ["".join(best)]
        found += [vocab[part] for part in parts if part in vocab]
    return found


@pytest.mark.parametrize("special_first", [False, True])
@pytest.mark.parametrize("cuts", CUTS)
def test_ids_are_those_of_the_merges(cuts, special_first, tmp_path):
    file = byte_pairs_file(cuts, special_first=special_first)
    tokenizer, chance = opened(tmp_path, file), random.Random(7)
    pool = "ab 12\n\t' .é字½s'll"
    more = ["".join(chance.choice(pool) for _ in range(chance.randrange(40))) for _ in range(300)]
    for text in [*TEXTS, *more]:
        ids = tokenizer.encode(text)
        assert ids == ids_slowly(file, cuts, text), text
        assert tokenizer.decode(ids) == text


def test_metas_order_is_metas_tokenizer(tmp_path):
    metas = load_tokenizer(DATA / "tiny/bpe1024/tokenizer.model")
    begin = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
    processor = {"type": "Sequence", "processors": [BYTE_LEVEL, {"type": "TemplateProcessing", "single": [begin]}]}
    theirs = opened(tmp_path, byte_pairs_file(post_processor=processor))
    assert (theirs.vocab_size, theirs.bos_id, theirs.eos_id) == (metas.vocab_size, metas.bos_id, metas.eos_id)
    assert (theirs.stop_tokens, theirs.special_tokens) == (metas.stop_tokens, metas.special_tokens)
    for text in TEXTS:
        assert theirs.encode(text, bos=True, eos=True) == metas.encode(text, bos=True, eos=True)


def test_tokens_of_no_merge_and_bytes_of_no_token(tmp_path):
    """Without ignore_merges a token that nothing merges is never made; a byte without a token is lost, as theirs is."""
    file = byte_pairs_file("gpt2", special_first=True, without=[b"\x00", b"z"])
    whole = next(spell(token) for token in RANKS if len(token) > 3)
    file["model"]["ignore_merges"] = False
    file["model"]["merges"] = [merge for merge in file["model"]["merges"] if merge.replace(" ", "") != whole]
    tokenizer = opened(tmp_path, file)
    text = bytes(next(b for b, letter in letters().items() if letter == c) for c in whole).decode()
    for sample in (text, f"{text} a", "z\x00a", *TEXTS):
        assert tokenizer.encode(sample) == ids_slowly(file, "gpt2", sample), sample
    assert tokenizer.token_bytes(file["model"]["vocab"][whole]).decode() == text
    assert tokenizer.encode("\x00") == []


def test_begin_and_ends_come_from_the_model(tmp_path):
    file = byte_pairs_file("smollm", special_first=True)
    assert opened(tmp_path, file).bos_id is None
    marks = Marks(stop_ids=frozenset({2}), adds_bos=True, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer = opened(tmp_path, file, marks)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_tokens) == (1, 2, {0, 2})
    assert tokenizer.encode("", bos=True) == [1]
    with pytest.raises(TokenizerError, match="end answers with id 99999"):
        opened(tmp_path, file, Marks(stop_ids=frozenset({99999})))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer 'NFC'"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer 'Whitespace'"),
        ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "pre_tokenizer 'ByteLevel'"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{**SPLIT, "pattern": {"Regex": "x"}}, BYTE_LEVEL]}},
         r"'Split \+ ByteLevel'"),
        ({"pre_tokenizer": None}, "pre_tokenizer None"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}}}, "its kind is 'WordLevel'"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "its kind is 'Unigram'"),
        ({"model": {"type": "BPE", "byte_fallback": True, "vocab": {"a": 0}}}, "SentencePiece"),
        ({"model": {"type": "BPE", "vocab": {"\u2581a": 0}}}, "SentencePiece"),
        ({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a": 0}}}, "end_of_word_suffix"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, "an id is no number"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "damaged"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [7]}}, "damaged"),
        ({"added_tokens": [{"id": 3}]}, "damaged"),
        ({"added_tokens": [{"id": 3, "content": "x"}]}, "two tokens have the same id"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}, "two tokens have the same id"),
        ({"model": None}, "no tokenizer.json|not Hugging Face's"),
    ],
)  # fmt: skip
def test_other_kinds_are_refused_by_name(change, reason, tmp_path):
    with pytest.raises(TokenizerError) as caught:
        opened(tmp_path, byte_pairs_file() | change)
    assert re.search(reason, caught.value.message)
    assert caught.value.hint
