"""SentencePiece: infilling as Meta's Code Llama has it, and marks in a text that stay text."""

import random

import pytest
from helpers.sentencepieces import MARKS, SPACE, write_sentencepiece

from llama_cli.cli.app import main
from llama_cli.tokenizer import EncodeError, StreamDecoder, TokenizerError, decode_text, load_tokenizer
from llama_cli.tokenizer.chat import Message, PlainFormat
from llama_cli.tokenizer.infill import infill_format


@pytest.fixture(name="code_llama", scope="module")
def _code_llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "tokenizer.model"
    write_sentencepiece(path, MARKS)
    return path


def metas_infilling(path, prefix, suffix):
    """Meta's infilling_prompt_tokens, over the library itself."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    prefix_id, suffix_id, middle_id, _ = (model.piece_to_id(mark) for mark in MARKS)
    shield = len(model.encode("\u263a"))  # 2 in Code Llama's own model, more where the character is bytes
    after = model.encode("\u263a" + suffix)[shield:]
    return [model.bos_id(), prefix_id, *model.encode(prefix), suffix_id, *after, middle_id]


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("def add(first", " + second"),
        ("def add(first, second):\n    return", "\n\nprint(add(1, 2))\n"),
        ("", "return first"),
        ("def", ""),
        ("", ""),
        ("  x", "   y \u6f22"),
    ],
)
def test_infilling_is_metas(code_llama, prefix, suffix):
    form = infill_format(load_tokenizer(code_llama))
    assert form is not None
    assert form.encode(prefix, suffix) == metas_infilling(code_llama, prefix, suffix)


def test_no_space_is_put_before_the_suffix(code_llama):
    tokenizer = load_tokenizer(code_llama)
    form = infill_format(tokenizer)
    ids = form.encode("a", "b")
    after = ids[ids.index(form.suffix_id) + 1 : -1]
    assert tokenizer.decode(after) == "b"
    assert tokenizer.decode(tokenizer.encode("b")) == " b"


@pytest.mark.parametrize("text", ["<PRE>", "a <EOT> b", "x <PRE> y <SUF>z <MID>", " <MID> <MID>", SPACE + "<SUF>"])
def test_marks_in_a_text_stay_text(code_llama, text):
    """SentencePiece itself would take them for the marks."""
    tokenizer = load_tokenizer(code_llama)
    marks = {tokenizer.special_tokens[mark] for mark in MARKS}
    ids = tokenizer.encode(text)
    assert not marks & set(ids)
    assert tokenizer.decode(ids).strip() == text.replace(SPACE, " ").strip()
    form = infill_format(tokenizer)
    assert [token_id for token_id in form.encode(text, text) if token_id in marks] == [
        form.prefix_id,
        form.suffix_id,
        form.middle_id,
    ]


def test_the_end_of_infilling_stops(code_llama):
    tokenizer = load_tokenizer(code_llama)
    assert tokenizer.stop_tokens == {tokenizer.eos_id, tokenizer.special_tokens[SPACE + "<EOT>"]}


def test_a_model_without_marks(tmp_path):
    write_sentencepiece(tmp_path / "tokenizer.model")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.model")
    assert infill_format(tokenizer) is None
    assert tokenizer.stop_tokens == {tokenizer.eos_id}
    assert sorted(tokenizer.special_tokens) == ["</s>", "<s>"]


@pytest.fixture(name="plain", scope="module")
def _plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "tokenizer.model"
    write_sentencepiece(path)
    return path


@pytest.mark.parametrize(
    "text", ["", "the quick", " the quick", "  two", "\n", "é", "漢字", " ", "lazy\tdog", "<s>", "\u2047 x"]
)
def test_a_text_that_goes_on_gets_no_space(plain, text):
    tokenizer = load_tokenizer(plain)
    assert tokenizer.decode(tokenizer.encode_more(text)) == text
    assert decode_text(tokenizer, tokenizer.encode(text)) == text


def test_a_lone_surrogate_is_told_with_its_place(plain):
    tokenizer = load_tokenizer(plain)
    for encode in (tokenizer.encode, tokenizer.encode_more):
        with pytest.raises(EncodeError, match="character 2 is a lone surrogate"):
            encode("ab\ud800")


def test_ids_decode_as_sentencepiece_itself_does(plain):
    """Control pieces show nothing, the unknown one its mark, bytes what they are; a stream adds up to the whole."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(plain))
    tokenizer = load_tokenizer(plain)
    encoded = tokenizer.encode("the quick é漢 fox")
    generator = random.Random(7)
    cases = [
        [1, *encoded, 2],
        [0],
        [1, 0, encoded[0]],
        [encoded[0], 2, encoded[0]],
        [2, 1],
        [],
        [*encoded[:-3]],
        [0, 0, encoded[1]],
    ]
    cases += [generator.choices(range(tokenizer.vocab_size), k=12) for _ in range(300)]
    for ids in cases:
        stream = StreamDecoder(tokenizer)
        assert "".join([*map(stream.feed, ids), stream.finish()]) == tokenizer.decode(ids)
        if 0 not in ids[1:] and not any(model.IsByte(token_id) for token_id in ids):
            assert decode_text(tokenizer, ids) == model.DecodeIds(ids)
    assert tokenizer.decode([1, *encoded, 0, 2]) == " the quick é漢 fox \u2047 "


def test_special_tokens_in_a_text_put_no_spaces(plain, capfdbinary):
    """`tokenize --special`: a text begins at its beginning and behind <s>; elsewhere it goes on."""
    tokenizer = load_tokenizer(plain)

    def run(text, *flags):
        assert main(["tokenize", "--tokenizer", str(plain), "--special", "--ids", text, *flags]) == 0
        return [int(part) for part in capfdbinary.readouterr().out.decode().split(",")]

    the, fox = tokenizer.encode("the"), tokenizer.encode("fox")
    assert run("<s>the</s><s>fox") == [1, *the, 2, 1, *fox]
    assert run("the</s>fox") == [*the, 2, *tokenizer.encode_more("fox")]
    assert run("the</s> fox") == [*the, 2, *fox]
    assert run("the", "--bos", "--eos") == [1, *the, 2]
    assert run("</s>the") == [2, *tokenizer.encode_more("the")]


def test_plain_dialogs_are_one_text(plain):
    """The second line gets no space of its own, and text beside text becomes ids as one."""
    tokenizer = load_tokenizer(plain)
    form = PlainFormat(tokenizer)
    spoken = [Message("user", "the qu"), Message("assistant", "ick brown"), Message("user", "fox")]
    assert form.encode(spoken) == tokenizer.encode("the quick brown\nfox", bos=True)
    answered = tuple(tokenizer.encode_more("ick brown"))
    spoken[1] = Message("assistant", "ick brown", token_ids=answered)
    expected = [*tokenizer.encode("the qu", bos=True), *answered, *tokenizer.encode_more("\nfox")]
    assert form.encode(spoken) == expected
    assert decode_text(tokenizer, expected) == "the quick brown\nfox"


@pytest.mark.parametrize("byte", [0xFF, 0x80, 0xC3, 0xF8])
@pytest.mark.parametrize("place", [0, 2])
def test_a_piece_that_is_no_text_is_named(tmp_path, code_llama, byte, place):
    """One byte of one piece ended every command with an internal error, `verify` too."""
    damaged = tmp_path / "tokenizer.model"
    data = bytearray(code_llama.read_bytes())
    data[data.find(b"return") + place] = byte
    damaged.write_bytes(data)
    with pytest.raises(TokenizerError, match="is damaged"):
        load_tokenizer(damaged)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_reads_or_is_named(tmp_path, code_llama, seed):
    damaged, random_ = tmp_path / "tokenizer.model", random.Random(seed)
    data = bytearray(code_llama.read_bytes())
    for _ in range(random_.choice([1, 1, 5])):
        data[random_.randrange(len(data))] = random_.randrange(256)
    damaged.write_bytes(data)
    try:
        tokenizer = load_tokenizer(damaged)
        tokenizer.decode(tokenizer.encode("a return of the fox"))
    except (TokenizerError, EncodeError):
        pass
