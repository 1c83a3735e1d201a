"""The toy's tokenizer."""

import pytest
from helpers.bad_tokenizers import BAD_CHARACTERS

from llama_cli.tokenizer import CharTokenizer, EncodeError, StreamDecoder, TokenizerError, load_tokenizer


def test_ids_are_places_in_the_sorted_characters():
    tokenizer = CharTokenizer.from_text("hello é")
    assert tokenizer.symbols == (" ", "e", "h", "l", "o", "é")
    assert tokenizer.encode("hé l") == [2, 5, 0, 3]
    assert tokenizer.decode([2, 5, 0, 3]) == "hé l"
    assert (tokenizer.bos_id, tokenizer.vocab_size) == (None, 6)


def test_an_unknown_character_is_named_with_its_place():
    tokenizer = CharTokenizer.from_text("abc\n")
    with pytest.raises(EncodeError, match=r"'€' at character 5 \(line 2, column 2\)") as caught:
        tokenizer.encode("abc\nb€c")
    assert caught.value.hint == "its 4 characters are: abc"


def test_saved_and_read_again(tmp_path):
    tokenizer = CharTokenizer.from_text("To be, or nöt\n\u2028😀")
    tokenizer.save(tmp_path / "chars.json")
    again = load_tokenizer(tmp_path / "chars.json")
    assert isinstance(again, CharTokenizer)
    assert again.symbols == tokenizer.symbols


def test_streaming():
    tokenizer = CharTokenizer.from_text("aé😀")
    decoder = StreamDecoder(tokenizer)
    assert [decoder.feed(token_id) for token_id in (2, 0, 1)] == ["😀", "a", "é"]
    assert decoder.finish() == ""


@pytest.mark.parametrize(("content", "fragment"), BAD_CHARACTERS)
def test_bad_files_say_what_is_wrong(tmp_path, content, fragment):
    path = tmp_path / "chars.json"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=fragment):
        load_tokenizer(path)


@pytest.mark.parametrize("outside", [-1, 3])
def test_ids_outside(outside):
    with pytest.raises(EncodeError, match="outside the vocabulary of 3"):
        CharTokenizer.from_text("abc").decode([outside])
