"""Output rows whose answers call tools."""

import json

from llama_cli.engine.request import Sampling
from llama_cli.jobs.results import Answer, RowWriter
from llama_cli.jobs.rows import BatchRow
from llama_cli.tokenizer.chat import Message
from llama_cli.tokenizer.tool_calls import parse_answer

TEXT = 'Look: <function=f>{"x": 1}</function><function=f>{"x": 1}</function>'
ANSWERS = [Answer(TEXT, "tool_calls", 3, None, parse_answer(TEXT, python_tag=False)), Answer("No.", "stop", 2, None)]


def row(shape, custom_id):
    job = BatchRow(0, custom_id, 7, (Message("user", "x"),), Sampling(n=2))
    return RowWriter(shape, "model", 0).answer(job, ANSWERS, 2)


def test_calls_stand_beside_what_is_said():
    first, second = json.loads(row("openai", "a"))["response"]["body"]["choices"]
    assert first["finish_reason"] == "tool_calls"
    assert first["message"]["content"] == "Look:"
    function = {"name": "f", "arguments": '{"x": 1}'}
    assert [call["function"] for call in first["message"]["tool_calls"]] == [function, function]
    assert second["message"] == {"role": "assistant", "content": "No."}
    simple = json.loads(row("simple", "a"))
    assert (simple["text"], simple["tool_calls"]) == (TEXT, first["message"]["tool_calls"])


def test_ids_of_calls_are_unique_and_made_again():
    """A run that is resumed writes the same bytes."""
    rows = [row("simple", name) for name in ("a", "b")]
    ids = [call["id"] for line in rows for call in json.loads(line)["tool_calls"]]
    assert len(set(ids)) == 4
    assert rows == [row("simple", name) for name in ("a", "b")]
