"""`tokenize` on Meta's own tokenizer.model: the ids that Meta's class gives."""

from pathlib import Path

import pytest
from real.judges import judge
from real.shell import run
from real.texts import KINDS, two_hundred

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]
N_PARTS = 4  # so that the processes of a run share them
SPECIAL = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|> 'quoted' <|reserved_special_token_7|>"


@pytest.fixture(scope="module", name="meta")
def _meta():
    """Of the package llama-models, where Llama 3's file lies beside the class that reads it."""
    return judge("llama_models.llama3.tokenizer")


@pytest.fixture(scope="module", name="file")
def _file(meta):
    return Path(meta.__file__).with_name("tokenizer.model")


@pytest.fixture(scope="module", name="theirs")
def _theirs(meta, file):
    return meta.Tokenizer(file)


def ids(file, text, *flags):
    return [int(number) for number in run("tokenize", "--tokenizer", file, "--ids", *flags, "--", text).split(",")]


@pytest.mark.parametrize("part", range(N_PARTS))
def test_the_same_ids_of_two_hundred_texts(part, file, theirs):
    for text in two_hundred()[part::N_PARTS]:
        assert ids(file, text) == theirs.encode(text, bos=False, eos=False), repr(text)


def test_the_same_text_of_ids(file, theirs):
    for text in KINDS:
        known = theirs.encode(text, bos=False, eos=False)
        shown = run("tokenize", "--tokenizer", file, "--decode", ",".join(map(str, known)))
        assert shown == theirs.decode(known) + "\n"


def test_begin_end_and_special_tokens(file, theirs):
    assert ids(file, SPECIAL) == theirs.encode(SPECIAL, bos=False, eos=False, disallowed_special=())
    assert ids(file, SPECIAL, "--bos", "--eos") == theirs.encode(SPECIAL, bos=True, eos=True, disallowed_special=())
    assert ids(file, SPECIAL, "--special") == theirs.encode(SPECIAL, bos=False, eos=False, allowed_special="all")
