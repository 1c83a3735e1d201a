"""Turns, branches and what is left out where the context is full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cli.chat.conversation import Branch, Conversation
from llama_cli.errors import UsageError
from llama_cli.tokenizer.chat import Message


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


def talked(n, system=None):
    conversation = Conversation()
    if system is not None:
        conversation.set_system(system)
    for place in range(n):
        conversation.add(user(f"q{place}"))
        conversation.add(assistant(f"a{place}"))
    return conversation


def contents(messages):
    return [message.content for message in messages]


def test_undo_takes_back_a_turn_with_its_tools():
    conversation = talked(1)
    for message in (user("q1"), assistant("calls"), Message("tool", "42"), assistant("a1")):
        conversation.add(message)
    assert contents(conversation.undo()) == ["q1", "calls", "42", "a1"]
    assert contents(conversation.undo()) == ["q0", "a0"]
    assert conversation.undo() == ()


def test_an_answer_to_a_tool_is_taken_back_alone():
    conversation = talked(1)
    conversation.add(Message("tool", "42"))
    assert conversation.awaits_answer
    conversation.add(assistant("so"))
    assert contents(conversation.take_back_answer()) == ["so"]
    assert conversation.awaits_answer
    assert contents(conversation.branch.spoken) == ["q0", "a0", "42"]


def test_the_system_prompt_is_no_turn():
    conversation = talked(1, "sys")
    conversation.set_system("other")
    assert contents(conversation.branch.messages) == ["other", "q0", "a0"]
    conversation.undo()
    assert conversation.undo() == ()
    assert conversation.system == "other"
    conversation.clear()
    assert conversation.system == "other"
    conversation.set_system(None)
    assert conversation.branch.messages == ()


def test_branches_share_their_beginning_and_nothing_else():
    conversation = talked(2)
    assert conversation.fork() == "main-2"
    conversation.undo()
    conversation.add(user("other"))
    conversation.switch("main")
    assert contents(conversation.branch.spoken) == ["q0", "a0", "q1", "a1"]
    assert conversation.fork("idea") == "idea"
    with pytest.raises(UsageError, match="a branch idea already"):
        conversation.fork("idea")
    with pytest.raises(UsageError, match="no branch nowhere; there are main, main-2, idea"):
        conversation.switch("nowhere")


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), limit=st.integers(0, 60), has_system=st.booleans())
def test_dropping_leaves_the_system_prompt_and_whole_turns(lengths, limit, has_system):
    """What is left out is the least that helps, oldest first; the last turn always stays, and nothing is lost."""
    conversation = Conversation()
    if has_system:
        conversation.set_system("s" * 5)
    for length in lengths:
        conversation.add(user("q" * length))
        conversation.add(assistant("a" * length))

    def size(messages):
        return sum(len(message.content) for message in messages)

    before = conversation.branch
    n_dropped = conversation.drop_turns(lambda sent: size(sent) <= limit)
    branch = conversation.branch
    assert branch.messages == before.messages
    assert n_dropped % 2 == 0
    assert n_dropped < 2 * len(lengths)
    assert branch.sent == (*branch.messages[: int(has_system)], *branch.spoken[n_dropped:])
    assert size(branch.sent) <= limit or n_dropped == 2 * (len(lengths) - 1)
    if n_dropped:
        one_less = Branch(branch.messages, n_dropped - 2)
        assert size(one_less.sent) > limit


def test_undo_brings_dropped_turns_back_where_nothing_else_is_left():
    conversation = talked(3)
    conversation.drop_turns(lambda sent: len(sent) <= 2)
    assert contents(conversation.branch.sent) == ["q2", "a2"]
    conversation.undo()
    assert contents(conversation.branch.sent) == ["q0", "a0", "q1", "a1"]
