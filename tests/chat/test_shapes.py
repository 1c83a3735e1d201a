"""The JSON of answers, byte for byte: other programs read it."""

import json
from types import SimpleNamespace

import pytest

from llama_cli.answers.completion import Completion
from llama_cli.chat.answerer import Begun, Turn
from llama_cli.chat.shapes import describe_completion, describe_turn, describe_usage
from llama_cli.engine.engine import Stats
from llama_cli.engine.request import Sampling, TokenLogprob
from llama_cli.jobs.fields import Defaults
from llama_cli.jobs.lines import Line
from llama_cli.jobs.results import Answer, RowWriter
from llama_cli.jobs.rows import parse_row
from llama_cli.tokenizer.chat import ToolCall

SCORES = [TokenLogprob(104, -0.5, ((104, -0.5), (105, -1.25)))]
SCORED = (
    '{"token_id": 104, "token": "h", "bytes": [104], "logprob": -0.5, "top_logprobs": ['
    '{"token_id": 104, "token": "h", "bytes": [104], "logprob": -0.5}, '
    '{"token_id": 105, "token": "i", "bytes": [105], "logprob": -1.25}]}'
)
TIMINGS = (
    '{"load_seconds": 0.5, "first_token_seconds": 0.25, "prompt_tokens": 3, "cached_tokens": 1, '
    '"prefill_tokens_per_second": 4.0, "decode_tokens": 6, "decode_tokens_per_second": 3.0, '
    '"weight_gigabytes_per_second": 0.005, "peak_memory_bytes": 7, "kernels": "own"}'
)


@pytest.fixture(name="session")
def _session(monkeypatch):
    monkeypatch.setattr("llama_cli.chat.shapes.peak_memory", lambda: 7)
    info = SimpleNamespace(name="m", weight_bytes=2_000_000, load_seconds=0.5, kernels="own")
    tokenizer = SimpleNamespace(token_bytes=lambda token_id: bytes([token_id]))
    return SimpleNamespace(info=info, tokenizer=tokenizer, special_names={})


def test_a_completion(session):
    done = Completion(0, 1, (3, 4), 9, "hi", [104, 105], SCORES, SCORES, "stop")
    assert json.dumps(describe_completion(session, done, "> ", {})) == (
        '{"model": "m", "index": 1, "text": "> hi", "token_ids": [104, 105], "prompt_token_ids": [3, 4], '
        '"finish_reason": "stop", "seed": 9, '
        '"usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}, '
        f'"logprobs": [{SCORED}], "prompt_logprobs": [null, {SCORED}], "timings": {{}}}}'
    )


def test_a_turn(session):
    stats = Stats(n_prompt=2, n_reused=1, n_decoded=6, decode_steps=5, prefill_seconds=0.5, decode_seconds=2.0)
    turn = Turn(
        (3, 4), 9, Begun("", ()), "hi", [104], SCORES, (ToolCall("f", {"a": 1}, "c"),), "tool_calls", 2, stats, 0.25
    )
    assert json.dumps(describe_turn(session, turn, 3)) == (
        '{"model": "m", "turn": 3, "text": "hi", "token_ids": [104], "prompt_token_ids": [3, 4], '
        '"finish_reason": "tool_calls", "seed": 9, '
        '"usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}, "dropped_messages": 2, '
        '"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}], '
        f'"logprobs": [{SCORED}], "timings": {TIMINGS}}}'
    )


@pytest.mark.parametrize("shape", ["openai", "simple"])
def test_a_row_has_the_same_usage(shape):
    job = parse_row(Line(0, 1, b'{"prompt": "x"}'), "auto", Defaults(Sampling()))
    line = RowWriter(shape, "m", 0).answer(job, [Answer("a", "stop", 3, None), Answer("b", "stop", 4, None)], 2)
    assert json.dumps(describe_usage(2, 7)).encode() in line
