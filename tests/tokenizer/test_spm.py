"""SentencePiece: infilling as Meta's Code Llama has it, and marks in a text that stay text."""

import pytest
from sentencepieces import MARKS, SPACE, write_sentencepiece

from tokenizer import load_tokenizer
from tokenizer.infill import infill_format


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
