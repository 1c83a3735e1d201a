"""A conversation without a terminal: what a program, or a server, makes of it."""

import json

import pytest
from helpers.models import DATA

from llama_cli.chat.keeping import keep_in_file
from llama_cli.chat.message_lines import read_messages
from llama_cli.chat.run import ChatRun, ChatSettings
from llama_cli.engine.request import Sampling
from llama_cli.errors import ContextTooLong, InputRejected, OutputRefused
from llama_cli.loader import load
from llama_cli.tokenizer.chat import Message

SAMPLING = Sampling(max_tokens=4, temperature=0)


@pytest.fixture(name="session", scope="module")
def _session():
    return load(DATA / "tiny/bpe1024", batch_size=1, chat_template="llama3", max_seq_len=256)


class Heard:
    """Takes answers as they are made."""

    def __init__(self):
        self.texts = []

    def __call__(self, turn, chunks):
        self.texts.append("".join(chunk.text for chunk in chunks))


def begin(session, keeping=None, **settings):
    notes = []
    return ChatRun(session, ChatSettings(**settings), SAMPLING, keeping, notes.append), notes


def test_messages_come_in_and_answers_go_out(session):
    run, notes = begin(session, system="Be short.")
    heard = Heard()
    lines = ['{"role": "user", "content": "one"}', "", '{"role": "assistant", "content": "said elsewhere"}',
             '{"role": "system", "content": "Be long."}', '{"role": "user", "content": "two"}']  # fmt: skip
    run.take(read_messages(lines, as_json=True), lambda message: run.answer(message, None, heard))
    assert [message.role for message in run.conversation.branch.spoken] == ["user", "assistant", "assistant", "user",
                                                                            "assistant"]  # fmt: skip
    assert run.conversation.system == "Be long."
    assert [run.conversation.branch.spoken[place].content for place in (1, 4)] == heard.texts
    assert notes == []


def test_text_is_the_users(session):
    assert [message.role for message in read_messages(["a", " ", "b"], as_json=False)] == ["user", "user"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[]", "line 2 is no JSON object"),
        ("{", "line 2 is no JSON object"),
        ('{"role": "user", "content": "a", "seed": 1}', "line 2: seed is no part of a message"),
        ('{"role": "nobody", "content": "a"}', "line 2: "),
    ],
)
def test_a_line_that_is_no_message_is_named(line, said):
    messages = read_messages(["", line], as_json=True)
    with pytest.raises(InputRejected, match=said):
        next(messages)


def test_what_is_not_answered_is_not_kept(session, tmp_path):
    """Neither where the message does not fit, nor where whoever shows the answer ends before its first token."""

    def leave(turn, chunks):
        raise KeyboardInterrupt

    path = tmp_path / "talk.jsonl"
    with keep_in_file(path, go_on=False, with_cache=False) as keeping:
        run, _ = begin(session, keeping)
        run.answer(Message("user", "one"), None, Heard())
        kept = path.read_bytes()
        for message, show, error in [("x " * 999, Heard(), ContextTooLong), ("two", leave, KeyboardInterrupt)]:
            with pytest.raises(error):
                run.answer(Message("user", message), None, show)
            assert len(run.conversation.branch.spoken) == 2
            run.save()
            assert path.read_bytes() == kept


def test_a_conversation_goes_on_from_its_file(session, tmp_path):
    path = tmp_path / "talk.jsonl"
    with keep_in_file(path, go_on=False, with_cache=True) as keeping:
        run, _ = begin(session, keeping, keep_cache=True)
        run.answer(Message("user", "one"), None, Heard())
        run.close()
    with pytest.raises(OutputRefused, match="exists"), keep_in_file(path, go_on=False, with_cache=False):
        pass
    with keep_in_file(path, go_on=True, with_cache=False) as keeping:
        run, notes = begin(session, keeping, go_on=True)
        assert (run.conversation.n_turns, notes) == (1, [])
        run.answer(Message("user", "two"), None, Heard())
    assert [len(row["messages"]) for row in map(json.loads, path.read_text().splitlines())] == [4]
