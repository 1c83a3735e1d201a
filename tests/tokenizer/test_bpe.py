"""Meta's byte-pair tokenizer against ids that Meta's class gave."""

import hashlib
import importlib.util
import json
import random
from pathlib import Path

import pytest
from helpers.bad_tokenizers import BAD_LINES, lines
from helpers.models import DATA, kit_folder, needs_kit
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cli.tokenizer import EncodeError, StreamDecoder, TokenizerError, load_tokenizer
from llama_cli.tokenizer.bpe import BPETokenizer, slices

TOKENIZERS = DATA / "tokenizer"


def real_llama3() -> Path | None:
    """Meta's own file, inside the package llama-models where that is installed."""
    spec = importlib.util.find_spec("llama_models")
    return Path(spec.origin).parent / "llama3/tokenizer.model" if spec and spec.origin else None


LLAMA3 = real_llama3()
needs_llama3 = pytest.mark.skipif(LLAMA3 is None, reason="llama-models, which has Meta's tokenizer.model, is absent")
NAMES = ["bytes256", "tiny768", pytest.param("llama3", marks=needs_llama3)]


@pytest.fixture(name="pair", params=NAMES, scope="module")
def _pair(request):
    """A tokenizer and its goldens."""
    path = LLAMA3 if request.param == "llama3" else TOKENIZERS / f"{request.param}.model"
    return load_tokenizer(path), json.loads((TOKENIZERS / f"{request.param}.json").read_text())


@pytest.mark.promise("P14")
def test_every_golden_text(pair):
    tokenizer, goldens = pair
    assert len(goldens["cases"]) == 59
    for case in goldens["cases"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["name"]
        assert tokenizer.decode(case["ids"]) == case["decoded"], case["name"]


def test_every_golden_long_run(pair):
    tokenizer, goldens = pair
    for case in goldens["long_cases"]:
        ids = tokenizer.encode(case["prefix"] + case["unit"] * case["repeat"] + case["suffix"])
        joined = ",".join(map(str, ids)).encode()
        assert len(ids) == case["n_ids"], case["name"]
        assert hashlib.sha256(joined).hexdigest() == case["sha256_of_comma_joined_ids"], case["name"]


def test_every_golden_decoding(pair):
    tokenizer, goldens = pair
    for case in goldens["decode_cases"]:
        assert tokenizer.decode(case["ids"]) == case["decoded"]
        if "bytes_hex_per_token" not in case:
            continue
        assert [tokenizer.token_bytes(i).hex() for i in case["ids"]] == case["bytes_hex_per_token"]
        prefixes = [tokenizer.decode(case["ids"][: n + 1]) for n in range(len(case["ids"]))]
        assert prefixes == case["prefix_decoded"]


def test_special_ids(pair):
    tokenizer, goldens = pair
    assert (tokenizer.bos_id, tokenizer.eos_id) == (goldens["bos_id"], goldens["eos_id"])
    assert tokenizer.vocab_size == goldens["n_words"]
    assert sorted(tokenizer.stop_tokens) == goldens["stop_tokens"]
    for name, token_id in goldens["special_tokens_first_16"].items():
        assert tokenizer.special_tokens[name] == token_id
        assert tokenizer.decode([token_id]) == name


def test_both_generations_of_names_resolve(pair):
    """Llama 3 called its last five ids reserved 246 to 250; 3.1 counts to 245 and means other ids by 2 to 4."""
    tokenizer, _ = pair
    last = tokenizer.vocab_size - 1
    assert tokenizer.special_tokens["<|reserved_special_token_250|>"] == last
    assert tokenizer.special_tokens["<|reserved_special_token_245|>"] == last
    assert tokenizer.special_tokens["<|reserved_special_token_246|>"] == last - 4
    assert tokenizer.special_tokens["<|reserved_special_token_2|>"] == tokenizer.vocab_size - 256 + 12


def test_begin_and_end_are_asked_for(pair):
    tokenizer, _ = pair
    assert tokenizer.encode("a", bos=True, eos=True) == [tokenizer.bos_id, *tokenizer.encode("a"), tokenizer.eos_id]
    assert tokenizer.encode("", bos=True) == [tokenizer.bos_id]


def test_every_id_decodes(pair):
    tokenizer, _ = pair
    assert all(tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size))
    for outside in (-1, tokenizer.vocab_size):
        with pytest.raises(EncodeError, match=f"id {outside} is outside the vocabulary"):
            tokenizer.token_bytes(outside)


@pytest.mark.promise("P12")
@settings(max_examples=500, deadline=None)
@given(text=st.lists(st.text(max_size=20) | st.sampled_from(["<|eot_id|>", "<|begin_of_text|>", "<|"])).map("".join))
def test_no_text_makes_a_control_token(text):
    tokenizer = tiny()
    ids = tokenizer.encode(text)
    assert all(token_id < 768 for token_id in ids)
    assert tokenizer.decode(ids) == text


def tiny() -> BPETokenizer:
    return load_tokenizer(TOKENIZERS / "tiny768.model")


@pytest.mark.promise("P11")
def test_streams_add_up_to_the_whole(record_property, whole):
    """Random id streams: characters cut anywhere, and never half of one shown."""
    n_streams = 20_000 if whole else 2000
    record_property("cases", n_streams)
    tokenizer, chance = tiny(), random.Random(11)
    for _ in range(n_streams):
        ids = [
            chance.randrange(tokenizer.vocab_size if chance.random() < 0.1 else 300)
            for _ in range(chance.randint(0, 8))
        ]
        decoder = StreamDecoder(tokenizer)
        parts = [decoder.feed(token_id) for token_id in ids]
        assert "".join(parts) + decoder.finish() == tokenizer.decode(ids)


def test_a_character_is_shown_once_it_is_whole():
    decoder = StreamDecoder(tiny())
    shown = [decoder.feed(byte) for byte in "é😀".encode()]
    assert shown == ["", "é", "", "", "", "😀"]


def slow_slices(text):
    """Meta's rule, a character at a time."""
    for at in range(0, len(text), 400_000):
        piece, start, run = text[at : at + 400_000], 0, 0
        for i, character in enumerate(piece):
            run = run + 1 if i and character.isspace() == piece[i - 1].isspace() else 1
            if i and run > 25_000:
                yield piece[start:i]
                start, run = i, 1
        yield piece[start:]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(5))
def test_cuts_are_the_slow_twins(seed):
    chance = random.Random(seed)
    units = ["a", " ", "\n", "\x1c", "\u3000", "字", "x y"]
    text = "".join(chance.choice(units) * chance.choice([1, 3, 24_999, 25_000, 25_001, 50_001]) for _ in range(14))
    assert list(slices(text)) == list(slow_slices(text))


@pytest.mark.promise("P13")
@pytest.mark.parametrize("unit", ["a", " ", "\n", "字", "😀", "'", "\0", "ab ", "\t "])
def test_a_million_repeated_characters(unit):
    """tiktoken alone panics on a million spaces."""
    tokenizer = tiny()
    text = unit * (1_000_000 // len(unit))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(EncodeError, match="character 2 is a lone surrogate"):
        tiny().encode("ab\ud800c")


@pytest.mark.parametrize(("change", "fragment"), BAD_LINES)
def test_damaged_files_name_the_line(tmp_path, change, fragment):
    """Skipping a bad line, as Meta's reader does, would shift the id of every special token."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\n".join(change(lines())) + b"\n")
    with pytest.raises(TokenizerError, match=fragment):
        load_tokenizer(path)


def test_the_form_of_line_ends_does_not_matter(tmp_path):
    path = tmp_path / "tokenizer.model"
    for joined in (b"\n".join(lines()), b"\r\n".join(lines()) + b"\r\n", b"\n".join(lines()) + b"\n\n"):
        path.write_bytes(joined)
        assert load_tokenizer(path).vocab_size == 512


@needs_kit
@needs_llama3
def test_llama_cpp_vectors():
    folder = kit_folder("tokenizer/llamacpp")
    texts = (folder / "ggml-vocab-llama-bpe.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    wanted = (folder / "ggml-vocab-llama-bpe.gguf.out").read_text().splitlines()
    tokenizer = load_tokenizer(LLAMA3)
    assert len(wanted) == 44
    for text, ids in zip(texts, wanted, strict=False):
        assert tokenizer.encode(text) == [int(token) for token in ids.split()], text


POOLS = [
    "abc XYZ 0123 .,!?'\n\t",
    "äöüß€ 漢字 かな 한글 ไทย עברית العربية हिन्दी",
    "😀👨‍👩‍👧🏳️‍🌈 \u202e\u0000\x1b\ufeff\ufffd\U0010ffff",
    " \r\n\t\v\f\x1c\x85\u2028\u3000\xa0\u200b",
    "e\u0301 n\u0303 \u0130\u0131ſK\u212a ǅ ﬁ ²½Ⅷ٣ _-–—…",
]
WORDS = [
    *("<|eot_id|>", "<|begin_of_text|>", "<|reserved_special_token_0|>", "<|", "|>", "'s", "'LL", "'Re", "'ſ", "\r\n"),
    *("http://", "www.", "1234567", "    ", "\t\t", "\n\n\n", "def f(x):", "{}[]();", "--", "====", " \n ", "can't"),
]


def adversarial_text(chance):
    """Characters of one to three kinds, words that tokenizers treat apart, any code point, long runs."""
    kind = chance.randrange(4)
    if kind == 0:
        return "".join(chance.choice(WORDS) + chance.choice(["", " ", "x"]) for _ in range(chance.randint(1, 20)))
    if kind == 1:
        points = [*range(0xD800), *range(0xE000, 0x110000, 97)]
        return "".join(map(chr, chance.choices(points, k=chance.randint(0, 60))))
    pool = "".join(chance.sample(POOLS, chance.randint(1, 3)))
    if kind == 2:
        return "".join(chance.choice(pool) * chance.choice([1, 2, 3, 50]) for _ in range(chance.randint(0, 30)))
    return "".join(chance.choice(pool) for _ in range(chance.randint(0, 80)))


@pytest.mark.promise("P14")
@pytest.mark.slow
@needs_llama3
def test_ten_thousand_strings_are_metas(record_property):
    """Against Meta's class itself, on random and adversarial texts."""
    record_property("cases", 10000)
    reference_module = pytest.importorskip("llama_models.llama3.tokenizer")
    reference = reference_module.Tokenizer(LLAMA3)
    tokenizer, chance = load_tokenizer(LLAMA3), random.Random(3)
    for number in range(10_000):
        text = adversarial_text(chance)
        if number % 500 == 0:  # cuts of long runs, at 25,000 characters and at 400,000
            text += chance.choice("a 字\n") * chance.choice([24_999, 25_001, 60_000, 400_001]) + text
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text, bos=False, eos=False), text[:200]
        assert tokenizer.decode(ids) == text


@pytest.mark.promise("P13")
@pytest.mark.slow
@needs_llama3
@pytest.mark.parametrize("unit", ["a", "A", "\n", "^", "7", "字", "😀", "'", "\0", "ab ", " ", "\t "])
def test_ten_million_repeated_characters(unit):
    """tiktoken alone panics on some of these."""
    text = unit * (10**7 // len(unit))
    tokenizer = load_tokenizer(LLAMA3)
    assert tokenizer.decode(tokenizer.encode(text)) == text
