"""Dialogs against Meta's own ChatFormat."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import DATA

from tokenizer import CharTokenizer, EncodeError, load_tokenizer
from tokenizer.chat import ROLES, Llama3Format, Message, chat_format

TOKENIZER = load_tokenizer(DATA / "tokenizer/tiny768.model")
CASES = json.loads((DATA / "chat/tiny768.json").read_text())["cases"]
PLAIN = [case for case in CASES if not any("tool_calls" in message for message in case["dialog"])]


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case["name"])
def test_dialogs_are_metas(case):
    dialog = [Message.of(message) for message in case["dialog"]]
    assert Llama3Format(TOKENIZER).encode(dialog) == case["prompt_ids"]
    stripped = case["prompt_ids_llama3_repo_strip"]
    expected = case["prompt_ids"] if stripped == "same" else stripped
    assert Llama3Format(TOKENIZER, strip=True).encode(dialog) == expected


@settings(max_examples=200, deadline=None)
@given(
    dialog=st.lists(
        st.builds(Message, st.sampled_from(ROLES), st.text(max_size=40) | st.just("<|eot_id|>")), max_size=4
    )
)
def test_contents_make_no_control_tokens(dialog):
    """The control ids are the begin, and three for each message and the answer's two: no more."""
    ids = Llama3Format(TOKENIZER).encode(dialog)
    assert sum(token_id >= 768 for token_id in ids) == 1 + 3 * len(dialog) + 2


def test_families_without_a_format():
    assert chat_format(CharTokenizer("ab")) is None
    assert chat_format(TOKENIZER) is not None


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ({"role": "admin", "content": "x"}, "the role 'admin'"),
        ({"content": "x"}, "the role 'None'"),
        ({"role": "user"}, "no text"),
        ({"role": "user", "content": [1]}, "no text"),
    ],
)
def test_bad_messages(fields, fragment):
    with pytest.raises(EncodeError, match=fragment):
        Message.of(fields)
