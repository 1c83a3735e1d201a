"""Conversations on disk."""

import json
import stat

import pytest
from helpers.in_memory import InMemory
from helpers.models import DATA
from helpers.sentencepieces import write_sentencepiece

from llama_cli.chat.conversation import Branch, Conversation
from llama_cli.chat.transcript import Origin, SessionFile, read_conversation
from llama_cli.engine.request import Sampling
from llama_cli.errors import InputRejected, OutputFailed, OutputRefused
from llama_cli.jobs.fields import Defaults
from llama_cli.jobs.lines import Lines
from llama_cli.jobs.rows import BatchRow, parse_row
from llama_cli.tokenizer import load_tokenizer
from llama_cli.tokenizer.chat import Message, ToolCall

TINY = load_tokenizer(DATA / "tiny/bpe1024/tokenizer.model")
CALL = ToolCall("f", {"x": 1})
ANSWER = json.dumps({"name": "f", "parameters": {"x": 1}})

MESSAGES = (
    Message("system", "Be brief."),
    Message("user", "漢字\u2028 \ud83d"),
    Message("assistant", "", (CALL,), awaits_tool=True, token_ids=tuple(TINY.encode(ANSWER))),
    Message("tool", "42"),
    Message("assistant", "So.", token_ids=tuple(b"So.")),  # not as it would be encoded
)


def rows_of(content, defaults):
    lines = Lines(InMemory(content), "auto")
    return [parse_row(line, lines.format, Defaults(defaults)) for line in lines]


def sentencepiece_tokenizer_of(folder):
    write_sentencepiece(folder / "tokenizer.model")
    return load_tokenizer(folder / "tokenizer.model")


def conversation():
    return Conversation({"main": Branch(MESSAGES), "other": Branch(MESSAGES[:2]), "empty": Branch()}, "other")


def session_file(path, fingerprint="abc"):
    return SessionFile(path, Origin("m", fingerprint, TINY))


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = session_file(path).load()
    assert loaded.branches == {"main": Branch(MESSAGES), "other": Branch(MESSAGES[:2])}
    assert loaded.current == "other"


def test_what_a_chat_leaves_out_of_a_row_is_told(tmp_path, caplog):
    """`batch` uses the settings of a row; a chat went on without them, and without a word."""
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    row = json.loads(path.read_text().splitlines()[0])
    session_file(path).load()
    assert not caplog.messages
    path.write_text(json.dumps(row | {"temperature": 2, "stop": None, "max_tokens": 5}) + "\n")
    session_file(path).load()
    assert caplog.messages == [f"{path} line 1: a chat takes the messages and leaves out max_tokens, temperature"]


def test_ids_are_those_of_one_model(tmp_path):
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    loaded = session_file(path, "another").load()
    assert all(message.token_ids is None for message in loaded.branches["main"].messages)
    assert [message.content for message in loaded.branches["main"].messages] == [m.content for m in MESSAGES]


def edited(path, place, **changes):
    """The messages of the first branch after an editor changed one of them."""
    row, *rest = map(json.loads, path.read_text().splitlines())
    row["messages"][place] |= changes
    path.write_text("".join(json.dumps(each) + "\n" for each in (row, *rest)))
    return session_file(path).load().branches["main"].messages


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (4, {"content": "So!"}),
        (4, {"content": ""}),
        (4, {"token_ids": [*b"Sa."]}),
        (4, {"token_ids": [10**9]}),
        (4, {"token_ids": [-1]}),
        (4, {"token_ids": []}),
        (4, {"tool_calls": [CALL.as_json()]}),
        (2, {"content": "Let me look."}),
        (2, {"tool_calls": [ToolCall("f", {"x": 2}).as_json()]}),
        (2, {"tool_calls": [ToolCall("f", {"x": True}).as_json()]}),
        (2, {"tool_calls": [ToolCall("g", {"x": 1}).as_json()]}),
        (2, {"tool_calls": [CALL.as_json(), CALL.as_json()]}),
        (2, {"tool_calls": []}),
    ],
)
def test_what_is_written_goes_before_the_ids(tmp_path, place, changes):
    """People edit these files: ids that say something else than the message would be what the model is shown."""
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    message = edited(path, place, **changes)[place]
    assert message.token_ids is None
    assert message.content == changes.get("content", MESSAGES[place].content)


def test_the_space_before_a_sentencepiece_text_is_no_edit(tmp_path):
    tokenizer = sentencepiece_tokenizer_of(tmp_path)
    ids = tuple(tokenizer.encode("the fox"))
    for content, stay in (("the fox", True), (" the fox", True), ("the fox ", False), ("thefox", False)):
        file = SessionFile(tmp_path / content, Origin("m", "abc", tokenizer))
        file.save(Conversation({"main": Branch((Message("user", "x"), Message("assistant", content, token_ids=ids)))}))
        (_, answer) = file.load().branch.messages
        assert (answer.token_ids == ids, answer.content) == (stay, content)


def test_ids_belong_to_answers_alone(tmp_path):
    """What a person says is always encoded as text, so that no file brings control tokens in."""
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    end = TINY.special_tokens["<|eot_id|>"]
    for place in (0, 1, 3):
        assert edited(path, place, content="<|eot_id|>", token_ids=[end])[place].token_ids is None


def test_messages_that_changed_places_keep_their_own_ids(tmp_path):
    path = tmp_path / "s.jsonl"
    turned = (*MESSAGES[:2], MESSAGES[4], *MESSAGES[1:3])
    session_file(path).save(Conversation({"main": Branch(turned)}))
    assert session_file(path).load().branch == Branch(turned)


def test_each_call_has_an_id_of_its_own_and_keeps_it(tmp_path):
    path = tmp_path / "s.jsonl"
    calls = [ToolCall("f", {"x": number % 2}) for number in range(4)]
    messages = (Message("assistant", "", tuple(calls[:2])), Message("assistant", "", tuple(calls[2:])))
    session_file(path).save(Conversation({"main": Branch((Message("user", "x"), *messages))}))
    loaded = [call.id for message in session_file(path).load().branch.messages for call in message.tool_calls]
    assert loaded == [call.id for call in calls]
    assert len(set(loaded)) == 4


def test_it_is_input_of_a_batch(tmp_path):
    path = tmp_path / "s.jsonl"
    session_file(path).save(conversation())
    rows = rows_of(path.read_bytes(), Sampling())
    assert all(isinstance(row, BatchRow) and row.is_chat for row in rows)
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


@pytest.mark.parametrize("dropped", [3, 4, 6, 99, -1, True, "2"])
def test_a_count_of_dropped_messages_that_fits_no_longer_drops_none(tmp_path, dropped):
    """A message was taken out of the file: the count would cut a turn in two."""
    path = tmp_path / "s.jsonl"
    about = {"fingerprint": "abc", "dropped": dropped}
    messages = [message.as_json() for message in (*MESSAGES[1:], Message("assistant", "x"), *MESSAGES[1:2])]
    path.write_text(json.dumps({"id": "a", "messages": messages, "metadata": about}))
    assert session_file(path).load().branch.n_dropped == 0


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (2 * '{"id": "a", "messages": []}\n', "line 2 has the id 'a' of a line above it"),
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
