"""Conversations on disk."""

import io
import json
import stat

import pytest

from llama_cli.conversation import Branch, Conversation
from llama_cli.engine.request import Sampling
from llama_cli.errors import InputRejected, OutputFailed, OutputRefused
from llama_cli.jobs.rows import Job, Lines
from llama_cli.session_file import SessionFile, read_conversation
from tokenizer.chat import Message, ToolCall

MESSAGES = (
    Message("system", "Be brief."),
    Message("user", "漢字\u2028 \ud83d"),
    Message("assistant", "", (ToolCall("f", {"x": 1}),), awaits_tool=True, token_ids=(5, 6)),
    Message("tool", "42"),
    Message("assistant", "So.", token_ids=(7,)),
)


def rows_of(content, defaults):
    lines = Lines(io.BytesIO(content), "auto")
    return [lines.row(index, line, defaults) for index, line in lines]


def conversation():
    return Conversation({"main": Branch(MESSAGES), "other": Branch(MESSAGES[:2]), "empty": Branch()}, "other")


def session_file(path, fingerprint="abc"):
    return SessionFile(path, model="m", fingerprint=fingerprint)


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = session_file(path).load()
    assert loaded.branches == {"main": Branch(MESSAGES), "other": Branch(MESSAGES[:2])}
    assert loaded.current == "other"


def test_ids_are_those_of_one_model(tmp_path):
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    loaded = session_file(path, "another").load()
    assert all(message.token_ids is None for message in loaded.branches["main"].messages)
    assert [message.content for message in loaded.branches["main"].messages] == [m.content for m in MESSAGES]


def test_it_is_input_of_a_batch(tmp_path):
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    rows = rows_of(path.read_bytes(), Sampling())
    assert all(isinstance(row, Job) and row.is_chat for row in rows)
    assert [row.custom_id for row in rows] == ["main", "other"]
    assert [message.content for message in rows[0].content] == [message.content for message in MESSAGES]


def test_input_of_a_batch_is_a_conversation(tmp_path):
    path = tmp_path / "in.jsonl"
    messages = [{"role": "user", "content": "Hi"}]
    path.write_text(
        json.dumps({"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": messages}})
        + "\n\n"
        + json.dumps({"messages": messages})
        + "\n"
    )
    assert list(read_conversation(path).branches) == ["a", "line-2"]
    (tmp_path / "empty").write_text("")
    assert read_conversation(tmp_path / "empty").branch.messages == ()


def test_dropped_messages_stay_in_the_file(tmp_path):
    path = tmp_path / "s.jsonl"
    branch = Branch((*MESSAGES, Message("user", "more")), 4)
    session_file(path).save(Conversation({"main": branch}))
    assert session_file(path).load().branch == branch


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("x", "line 1 is no JSON"),
        ("[" * 100_000, "line 1 is no JSON"),
        ("[]", "line 1 has no list of messages"),
        ('{"messages": [1]}', "line 1 has no list of messages"),
        ('{"messages": [{"role": "king", "content": "x"}]}', "line 1: a message has the role 'king'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, fragment):
    path = tmp_path / "s.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(InputRejected, match=fragment.replace("[", r"\[")):
        read_conversation(path)


def test_a_file_that_somebody_else_changed_is_left_alone(tmp_path):
    """Two chats on one session: the second one to write goes on beside it, and neither loses a word."""
    path = tmp_path / "s.jsonl"
    first, second = session_file(path), session_file(path)
    first.save(conversation())
    with pytest.raises(OutputRefused, match="was changed by another program"):
        second.save(Conversation({"main": Branch((Message("user", "mine"),))}))
    assert read_conversation(path).current == "other"
    assert second.path == tmp_path / "s-2.jsonl"
    assert read_conversation(second.path).branch.messages[0].content == "mine"
    second.save(conversation())
    first.save(conversation())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputFailed, match="cannot write"):
        session_file(tmp_path / "absent/s.jsonl").save(conversation())
