"""What a row of a batch asks for is in its answer, in either format, or refused by name."""

import dataclasses
import json

import pytest
from helpers.models import DATA

from llama_cli.cli.app import main
from llama_cli.engine.request import Sampling

FOLDER = str(DATA / "tiny/bpe1024")
TINY = ["-m", FOLDER, "--dtype", "fp32", "-q"]
PROMPT = "number one and number two and number one"


def answers(tmp_path, capfdbinary, rows, *flags, code=0, name="in.jsonl"):
    """The rows of the output, with what is in both formats under one name."""
    source = tmp_path / name
    source.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    found = {}
    for shape in ("openai", "simple"):
        assert main(["batch", str(source), "-o", "-", "--output-format", shape, *TINY, *flags]) == code
        found[shape] = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    return found["openai"], found["simple"]


def completed(prompt, **settings):
    """What `complete --json` says of the same request: a twin on another way."""
    import llama_cli

    session = llama_cli.load(FOLDER, dtype="fp32")
    try:
        return session.complete(prompt, Sampling(**settings))
    finally:
        session.close()


# For every field: the value that a row has, and the same as the Python API takes it.
VALUES = {
    "max_tokens": 5,
    "temperature": 1.5,
    "top_p": 0.3,
    "top_k": 2,
    "min_p": 0.5,
    "repetition_penalty": 1.8,
    "presence_penalty": 5,
    "frequency_penalty": 5,
    "logit_bias": {"300": 100},
    "seed": 8,
    "stop": ["e"],
    "stop_token_ids": list(range(300, 900)),
    "ignore_eos": True,
    "n": 3,
    "logprobs": True,
    "top_logprobs": 2,
    "prompt_logprobs": True,
}


def test_every_field_has_a_value():
    """A new field of Sampling needs one here."""
    assert set(VALUES) == {each.name for each in dataclasses.fields(Sampling)}


@pytest.mark.parametrize("name", VALUES)
def test_every_field_is_in_the_answer(tmp_path, capfdbinary, name):
    """prompt_logprobs was computed, and left out."""
    settings = {"seed": 7, "max_tokens": 12, "temperature": 1.0, name: VALUES[name]}
    if name == "stop_token_ids":
        settings[name] = settings[name][:64]
    (openai,), (simple,) = answers(tmp_path, capfdbinary, [{"prompt": PROMPT} | settings])
    if name == "logit_bias":
        settings[name] = {int(token_id): bias for token_id, bias in settings[name].items()}
    expected = completed(PROMPT, **settings)
    body = openai["response"]["body"]
    assert [choice["text"] for choice in body["choices"]] == [each.text for each in expected]
    assert [choice["finish_reason"] for choice in body["choices"]] == [each.finish_reason for each in expected]
    assert simple["text"] == expected[0].text
    if name == "n":
        assert simple["texts"] == [each.text for each in expected]
        assert simple["finish_reasons"] == [each.finish_reason for each in expected]
    if name in ("logprobs", "top_logprobs"):
        scores = body["choices"][0]["logprobs"]["content"]
        assert scores == simple["logprobs"]
        assert [each["logprob"] for each in scores] == [each.logprob for each in expected[0].logprobs]
        assert [len(each.get("top_logprobs", [])) for each in scores] == [2 * (name == "top_logprobs")] * len(scores)
    else:
        assert body["choices"][0]["logprobs"] is None
        assert "logprobs" not in simple
    if name == "prompt_logprobs":
        assert body["prompt_logprobs"] == simple["prompt_logprobs"]
        assert body["prompt_logprobs"][0] is None
        found = [each["logprob"] for each in body["prompt_logprobs"][1:]]
        assert found == [each.logprob for each in expected[0].prompt_logprobs]
        assert len(found) == body["usage"]["prompt_tokens"] - 1
    else:
        assert "prompt_logprobs" not in body | simple


@pytest.mark.parametrize("more", [{}, {"n": 2}, {"max_tokens": 0}, {"logprobs": True, "n": 2}, {"top_logprobs": 1}])
def test_log_probabilities_together(tmp_path, capfdbinary, more):
    row = {"prompt": PROMPT, "max_tokens": 3, "prompt_logprobs": True, "seed": 1} | more
    (openai,), (simple,) = answers(tmp_path, capfdbinary, [row])
    body = openai["response"]["body"]
    assert len(body["prompt_logprobs"]) == body["usage"]["prompt_tokens"]
    of_choices = [choice["logprobs"] for choice in body["choices"]]
    if "logprobs" in more:
        assert simple["texts_logprobs"] == [each["content"] for each in of_choices]
        assert simple["logprobs"] == simple["texts_logprobs"][0]
    elif "top_logprobs" in more:
        assert body["prompt_logprobs"][1]["top_logprobs"]
    else:
        assert of_choices == [None] * len(of_choices)


def test_flags_are_asked_of_every_row(tmp_path, capfdbinary):
    flags = ["--prompt-logprobs", "--top-logprobs", "1", "--num-samples", "2", "--stop", "e", "--seed", "3"]
    openai, simple = answers(tmp_path, capfdbinary, [{"prompt": PROMPT}, {"prompt": "x"}], *flags)
    for row, short in zip(openai, simple, strict=True):
        body = row["response"]["body"]
        assert len(body["choices"]) == len(short["texts"]) == 2
        assert body["prompt_logprobs"]
        assert all(choice["logprobs"] is not None for choice in body["choices"])
        assert not any("e" in text for text in short["texts"])


def test_a_seed_of_its_own_always_counts(tmp_path, capfdbinary):
    """Where it was the run's seed too, the row got another one."""
    rows = [{"prompt": PROMPT, "seed": 7}, {"prompt": PROMPT, "seed": 7.0}, {"prompt": PROMPT, "seed": None}]
    texts = [
        [row["text"] for row in answers(tmp_path, capfdbinary, rows, "--seed", str(seed))[1]] for seed in (7, 1, 0)
    ]
    own = completed(PROMPT, seed=7)[0].text
    assert [of_run[:2] for of_run in texts] == [[own, own]] * 3
    assert len({of_run[2] for of_run in texts} | {own}) == 4
    zero = [{"prompt": PROMPT, "seed": 0}]
    assert answers(tmp_path, capfdbinary, zero, "--seed", "0")[1][0]["text"] == completed(PROMPT, seed=0)[0].text


BY_NAME = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
    ({"tool_choice": "auto"}, "tool_choice is not supported"),
    ({"functions": [{"name": "f"}]}, "functions is not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format is not supported"),
    ({"echo": True}, "echo is not supported"),
    ({"best_of": 3}, "best_of is not supported"),
    ({"n": 2, "best_of": 1}, "best_of is not supported"),
    ({"stream": True}, "stream is not supported"),
    ({"stream_options": {"include_usage": True}}, "stream_options is not supported"),
    ({"modalities": ["audio"]}, "modalities is not supported"),
    ({"reasoning_effort": "low"}, "reasoning_effort is not supported"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens is 4 and max_tokens is 3"),
    ({"max_completion_tokens": 4, "max_tokens": 3}, "max_completion_tokens is 4 and max_tokens is 3"),
    ({"logprobs": 2, "top_logprobs": 3}, "logprobs is 2 and top_logprobs is 3"),
    ({"logprobs": False, "top_logprobs": 3}, "logprobs is false"),
    ({"prompt": ["a", "b"]}, "prompt is a list of prompts"),
    ({"prompt": [[1], [2]]}, "prompt is a list of prompts"),
    ({"max_tokens": 4.5}, "max_tokens: "),
    ({"seed": 1e19}, "seed: "),
    ({"custom_id": "a", "id": "b"}, "custom_id is 'a' and id is 'b'"),
    ({"logit_bias": {"999999": -100}}, "logit_bias: 999999 is no token"),
    ({"stop_token_ids": [999999]}, "stop_token_ids: 999999 is no token"),
    ({"prompt": [999999]}, "prompt id 999999"),
    ({"prompt": None, "messages": [{"role": "developer", "content": "x"}]}, "messages[0].role must be one of"),
    ({"prompt": None, "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
     "messages[0].content must be a text"),
    ({"prompt": None, "messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": {"a": 1}}]},
     "messages[1].content must be a text"),
    ({"prompt": None, "messages": [{"role": "user", "content": "x", "audio": {"id": 1}}]}, "messages[0].audio"),
    ({"prompt": None, "messages": [{"role": "user", "content": "x"}], "suffix": "y"}, "suffix needs a prompt"),
]  # fmt: skip


def test_what_is_not_supported_is_refused_by_name(tmp_path, capfdbinary):
    openai, _ = answers(tmp_path, capfdbinary, [{"prompt": "x"} | fields for fields, _ in BY_NAME], "-n", "2", code=6)
    for row, (_, fragment) in zip(openai, BY_NAME, strict=True):
        assert row["error"]["code"] == "invalid_request"
        assert fragment in row["error"]["message"], row


def test_urls_say_what_a_body_holds(tmp_path, capfdbinary):
    chat, plain = "/v1/chat/completions", "/v1/completions"
    rows = [
        {"custom_id": "a", "url": chat, "body": {"prompt": "x"}},
        {"custom_id": "b", "url": plain, "body": {"messages": [{"role": "user", "content": "x"}]}},
        {"custom_id": "c", "method": "GET", "url": plain, "body": {"prompt": "x"}},
    ]
    openai, _ = answers(tmp_path, capfdbinary, rows, code=6)
    assert [row["error"]["message"] for row in openai] == [
        f"a body for {chat} has messages", f"a body for {plain} has prompt", "method must be POST, is 'GET'",
    ]  # fmt: skip


NOTHING_MORE = [
    {"echo": False}, {"best_of": 1}, {"response_format": {"type": "text"}}, {"stream": False}, {"tools": []},
    {"tool_choice": "none"}, {"max_completion_tokens": 5}, {"max_tokens": 5.0}, {"n": 1.0, "best_of": 1.0},
    {"user": "x"},
    {"metadata": {"a": 1}}, {"stop": None, "logprobs": None}, {"temperature": 1}, {"model": "gpt-4o-mini"},
]  # fmt: skip


def test_what_asks_for_nothing_changes_nothing(tmp_path, capfdbinary):
    plain = {"prompt": PROMPT, "max_tokens": 5, "seed": 3, "temperature": 1.0}
    rows = [plain, *(plain | more for more in NOTHING_MORE), dict(reversed((plain | {"n": 1}).items()))]
    _, simple = answers(tmp_path, capfdbinary, rows)
    assert {row["text"] for row in simple} == {simple[0]["text"]}
    assert {row["usage"]["completion_tokens"] for row in simple} == {5}


def test_numbers_as_ids_stay_numbers(tmp_path, capfdbinary):
    """Rows with them were lost."""
    rows = [{"id": 7, "prompt": "x"}, {"custom_id": 12345678901, "prompt": "x"}, {"id": 3.0, "prompt": "x"}, {"id": -1}]
    openai, simple = answers(tmp_path, capfdbinary, rows, "-n", "1", code=6)
    assert [row["custom_id"] for row in openai] == [row["id"] for row in simple] == [7, 12345678901, 3, -1]
    assert all(isinstance(row["custom_id"], int) for row in openai)
    source = tmp_path / "in.jsonl"
    for shape in ("openai", "simple"):
        out = tmp_path / f"{shape}.jsonl"
        arguments = ["batch", str(source), "-o", str(out), "-n", "1", *TINY, "--output-format", shape]
        assert main(arguments) == 6
        before = out.read_bytes()
        assert main(arguments) == 6
        assert out.read_bytes() == before
    source.write_text('{"id": 7, "prompt": "x"}\n{"id": "7", "prompt": "x"}\n')
    assert main(["batch", str(source), "-o", str(tmp_path / "x"), *TINY]) == 5


@pytest.mark.parametrize(("flags", "code"), [(["--logit-bias", "999999=-100"], 5), (["--stop-token-ids", "999999"], 5)])
def test_a_flag_that_no_row_could_have(tmp_path, capfd, flags, code):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "x"}\n')
    assert main(["batch", str(source), "-o", str(tmp_path / "out"), *TINY, *flags]) == code
    assert "999999 is no token" in capfd.readouterr().err


@pytest.mark.parametrize("flag", ["--retry-errors", "--rerun-changed", "--force-resume"])
def test_flags_of_a_resumed_run_need_an_output(tmp_path, capfd, flag):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "x"}\n')
    assert main(["batch", str(source), "-o", "-", *TINY, flag]) == 2
    assert flag in capfd.readouterr().err


@pytest.mark.parametrize("ending", ["gz", "csv", "zst", "parquet", "XLSX"])
@pytest.mark.parametrize("command", ["batch", "merge"])
def test_outputs_that_would_be_something_else(tmp_path, capfd, ending, command):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "x"}\n')
    out = tmp_path / f"out.{ending}"
    assert main([command, str(source), "-o", str(out), *(TINY if command == "batch" else [])]) == 2
    assert "would be JSONL" in capfd.readouterr().err
    assert not out.exists()
