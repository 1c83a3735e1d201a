"""Input rows: what is understood, and what each bad line is called."""

import json

import pytest
from helpers.in_memory import InMemory

from llama_cli.engine.request import Sampling
from llama_cli.jobs import lines as lines_module
from llama_cli.jobs import rows as rows_module
from llama_cli.jobs.fields import Defaults
from llama_cli.jobs.lines import Line, Lines, read_lines
from llama_cli.jobs.rows import BadRow, BatchRow, hash_of, identify, parse_row, seed_of
from llama_cli.tokenizer.chat import Message

DEFAULTS = Defaults(Sampling(max_tokens=7, temperature=0.5))


def key_of(row):
    return row.index, row.custom_id, row.digest


def test_a_row_is_what_it_is_alone_whatever_was_before_it():
    """Rows that ask for the same share their settings: what Python takes for equal may not be."""
    asked = [{}, {"n": 1}, {"n": True}, {"n": 1}, {"n": 1.0}, {"n": "1"}, {"ignore_eos": True}, {"ignore_eos": 1}]
    asked += [{"top_p": 1}, {"n": 2, "seed": 3}, {"seed": 3, "n": 2}, {"stop": "a"}, {"stop": ["a"]}, {"stop": "['a']"}]
    asked += [
        {"logit_bias": {"1": 2}},
        {"logit_bias": {"1": True}},
        {"stop_token_ids": [1]},
        {"stop_token_ids": [True]},
    ]
    lines = [json.dumps({"id": "x", "prompt": "a"} | each).encode() for each in asked for _ in range(2)]
    lines += [lines[number * 7 % len(lines)] for number in range(200)]
    defaults = Defaults(Sampling(max_tokens=3))
    rows = [parse_row(Line(4, 5, line), "auto", defaults) for line in lines]
    assert rows == [parse_row(Line(4, 5, line), "auto", Defaults(Sampling(max_tokens=3))) for line in lines]
    assert rows[2].sampling is rows[3].sampling
    assert [isinstance(row, BadRow) for row in rows[4:10:2]] == [True, False, False]


def rows_of(content, defaults):
    lines = Lines(InMemory(content), "auto")
    return [parse_row(line, lines.format, defaults) for line in lines]


def parse(line, format_="auto"):
    data = line if isinstance(line, bytes | None) else json.dumps(line).encode()
    return parse_row(Line(4, 5, data), format_, DEFAULTS)


def test_an_openai_row():
    body = {
        "model": "any",
        "prompt": "Hi",
        "max_tokens": 3,
        "stop": "x",
        "n": 2,
        "seed": 5,
        "logprobs": 4,
        "user": "me",
    }
    job = parse({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body})
    assert isinstance(job, BatchRow)
    assert (job.index, job.custom_id, job.content, job.is_chat) == (4, "a", "Hi", False)
    assert job.sampling == Sampling(
        max_tokens=3, temperature=0.5, stop=("x",), n=2, seed=5, logprobs=True, top_logprobs=4
    )


def test_a_chat_row():
    body = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "logprobs": True,
            "top_logprobs": 2, "max_completion_tokens": 9, "stream": False, "temperature": None}  # fmt: skip
    job = parse({"custom_id": "a", "url": "/v1/chat/completions", "body": body})
    assert job.content == (Message("system", "s"), Message("user", "u"))
    assert job.is_chat
    assert (job.sampling.max_tokens, job.sampling.top_logprobs, job.sampling.temperature) == (9, 2, 0.5)


def test_short_rows():
    assert parse({"prompt": "Hi", "id": "b", "top_p": 1}).sampling.top_p == 1
    assert parse({"prompt": "Hi"}).custom_id == "line-000005"
    assert parse({"prompt": [1, 2, 3]}).content == (1, 2, 3)
    assert parse({"prompt": "Hi", "logit_bias": {"5": -100}}).sampling.logit_bias == {5: -100.0}
    assert parse({"prompt": ""}).content == ""
    assert parse({"prompt": "Hi"}).suffix is None
    assert parse({"prompt": "Hi", "suffix": None}).suffix is None
    assert parse({"prompt": "Hi", "suffix": ""}).suffix == ""


def test_a_suffix():
    body = {"prompt": "def f(", "suffix": "):\n", "max_tokens": 3}
    job = parse({"custom_id": "a", "url": "/v1/completions", "body": body})
    assert (job.content, job.suffix, job.sampling.max_tokens) == ("def f(", "):\n", 3)


def test_text_rows():
    lines = b"one\r\n\n {not json\n\xe2\x80\xa8three"
    assert [row.content for row in rows_of(lines, DEFAULTS)] == [
        "one",
        " {not json",
        "\u2028three",
    ]


def test_the_first_line_tells_the_format():
    jsonl = b'{"prompt": "a"}\nnot json\n'
    first, second = rows_of(jsonl, DEFAULTS)
    assert isinstance(first, BatchRow)
    assert isinstance(second, BadRow)


BAD = [
    (b"", "invalid_json"),
    (b"   ", "invalid_json"),
    (b"nonsense", "invalid_json"),
    (b"{", "invalid_json"),
    (b'{"prompt": "a"', "invalid_json"),
    (b'{"prompt": "a"}}', "invalid_json"),
    (b'{"prompt": "a",}', "invalid_json"),
    (b"{'prompt': 'a'}", "invalid_json"),
    (b"[]", "invalid_json"),
    (b'"text"', "invalid_json"),
    (b"3", "invalid_json"),
    (b"null", "invalid_json"),
    (b'{"prompt": NaN}', "invalid_json"),
    (b'{"prompt": "a", "temperature": Infinity}', "invalid_json"),
    (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "invalid_json"),
    (b'{"a":' * 100_000, "invalid_json"),
    (b"[" * 100_000, "invalid_json"),
    (b"\xff\xfe{\x00", "invalid_unicode"),
    (b'{"prompt": "\xff"}', "invalid_unicode"),
    (b'{"prompt": "\xed\xa0\x80"}', "invalid_unicode"),
    (b'{"prompt": "a", "custom_id": "\\ud800"}', "invalid_unicode"),
    (None, "line_too_long"),
    ({}, "invalid_request"),
    ({"prompt": None}, "invalid_request"),
    ({"prompt": 5}, "invalid_request"),
    ({"prompt": True}, "invalid_request"),
    ({"prompt": {}}, "invalid_request"),
    ({"prompt": []}, "invalid_request"),
    ({"prompt": ["a", "b"]}, "invalid_request"),
    ({"prompt": [1, "b"]}, "invalid_request"),
    ({"prompt": [1, True]}, "invalid_request"),
    ({"prompt": [1.5]}, "invalid_request"),
    ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "invalid_request"),
    ({"prompt": "a", "suffix": 5}, "invalid_request"),
    ({"prompt": [1, 2], "suffix": "b"}, "invalid_request"),
    ({"messages": [{"role": "user", "content": "a"}], "suffix": "b"}, "invalid_request"),
    ({"messages": []}, "invalid_request"),
    ({"messages": "hi"}, "invalid_request"),
    ({"messages": ["hi"]}, "invalid_request"),
    ({"messages": [{"role": "user"}]}, "invalid_request"),
    ({"messages": [{"content": "x"}]}, "invalid_request"),
    ({"messages": [{"role": "root", "content": "x"}]}, "invalid_request"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "invalid_request"),
    ({"prompt": "a", "bogus": 1}, "invalid_request"),
    ({"prompt": "a", "\x1b[2J": 1}, "invalid_request"),
    ({"prompt": "a", "temperature": -1}, "invalid_request"),
    ({"prompt": "a", "temperature": 11}, "invalid_request"),
    ({"prompt": "a", "temperature": "0"}, "invalid_request"),
    ({"prompt": "a", "temperature": 1e-45}, "invalid_request"),
    ({"prompt": "a", "temperature": True}, "invalid_request"),
    ({"prompt": "a", "top_p": 1.5}, "invalid_request"),
    ({"prompt": "a", "top_k": -1}, "invalid_request"),
    ({"prompt": "a", "min_p": 2}, "invalid_request"),
    ({"prompt": "a", "max_tokens": -1}, "invalid_request"),
    ({"prompt": "a", "max_tokens": 1.5}, "invalid_request"),
    ({"prompt": "a", "max_tokens": 10**30}, "invalid_request"),
    ({"prompt": "a", "n": 0}, "invalid_request"),
    ({"prompt": "a", "n": 10**9}, "invalid_request"),
    ({"prompt": "a", "seed": -1}, "invalid_request"),
    ({"prompt": "a", "seed": 2**64}, "invalid_request"),
    ({"prompt": "a", "stop": ["x"] * 17}, "invalid_request"),
    ({"prompt": "a", "stop": [""]}, "invalid_request"),
    ({"prompt": "a", "stop": 5}, "invalid_request"),
    ({"prompt": "a", "stop": "x" * 257}, "invalid_request"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "invalid_request"),
    ({"prompt": "a", "logit_bias": {"1": 101}}, "invalid_request"),
    ({"prompt": "a", "logit_bias": [1]}, "invalid_request"),
    ({"prompt": "a", "logit_bias": {"5": -100, "05": 100}}, "invalid_request"),
    ({"prompt": "a", "logit_bias": {"5_0": 1}}, "invalid_request"),
    ({"prompt": "a", "logit_bias": {"\u0665": 1}}, "invalid_request"),
    ({"prompt": "a", "logprobs": 21}, "invalid_request"),
    ({"prompt": "a", "logprobs": "yes"}, "invalid_request"),
    ({"prompt": "a", "stream": True}, "invalid_request"),
    ({"prompt": "a", "id": 5.5}, "invalid_request"),
    ({"prompt": "a", "id": True}, "invalid_request"),
    ({"prompt": "a", "id": 10**600}, "invalid_request"),
    ({"prompt": "a", "id": ""}, "invalid_request"),
    ({"prompt": "a", "id": "x" * 513}, "invalid_request"),
    ({"custom_id": None, "prompt": "a"}, "invalid_request"),
    ({"custom_id": "a", "body": []}, "invalid_request"),
    ({"custom_id": "a", "body": {"prompt": "x"}, "extra": 1}, "invalid_request"),
    ({"custom_id": "a", "url": "/v1/embeddings", "body": {"prompt": "x"}}, "invalid_request"),
]


@pytest.mark.parametrize(("line", "code"), BAD, ids=[str(line)[:40] for line, _ in BAD])
def test_every_bad_line_has_its_code(line, code):
    row = parse(line)
    assert isinstance(row, BadRow)
    assert row.code == code
    assert row.index == 4
    assert row.message.isprintable()
    assert len(row.message) < 300


def test_an_error_keeps_the_id_of_its_row():
    assert parse({"custom_id": "mine", "body": {"prompt": "x", "bogus": 1}}).custom_id == "mine"


def test_long_lines_are_not_held(monkeypatch):
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(lines_module, "SKIP_BYTES", 7)
    lines = [b"a" * 100, b"b" * 101, b"c" * 1000, b"d", b"e" * 500]
    assert list(read_lines(InMemory(b"\n".join(lines)))) == [b"a" * 100, None, None, b"d", None]


def test_seeds_follow_from_the_run_and_the_id():
    seeds = {seed_of(run, custom_id) for run in range(50) for custom_id in ("a", "b", "line-000001")}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, "a") == seed_of(1, "a")
    assert hash_of("a") != hash_of("b")


@pytest.mark.parametrize("format_", ["auto", "openai", "prompts", "text"])
def test_the_id_of_a_line_is_the_id_of_its_row(format_):
    """Good and bad lines: reading an id alone must not tell another one."""
    content = [b'{"id": "a", "prompt": "x"}', b'{"custom_id": "b", "body": {"prompt": "x"}}', b'{"id": 5}', b"nonsense",
               b'{"id": "\\ud800", "prompt": "x"}', b'{"id": "c", "bogus": 1}', b"\xff", b"", b"[]"]  # fmt: skip
    lines = [Line(place, place + 1, data) for place, data in enumerate(content)]
    found = [(key_of(identify(line, format_)), key_of(parse_row(line, format_, DEFAULTS))) for line in lines]
    assert all(short == whole for short, whole in found)
    assert len(set(found)) == len(content)


def test_a_shard_is_every_nth_line():
    content = b"".join(b"line %d\n" % n for n in range(10))
    shards = [[line.place for line in Lines(InMemory(content), "text", (part, 3))] for part in range(3)]
    assert shards == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("depth", [101, 450, 600, 900, 990, 5000])
@pytest.mark.parametrize("nested", ['{{"a":{}}}', "[{}]"], ids=["objects", "lists"])
@pytest.mark.parametrize("field", ["id", "prompt", "messages", "stop", "temperature", "logit_bias", "url", "metadata"])
def test_a_row_that_is_nested_deeply_is_one_bad_row(field, nested, depth):
    """What showed its value called itself too often, and that ended the whole run."""
    value = "1"
    for _ in range(depth):
        value = nested.format(value)
    line = Line(4, 5, f'{{"custom_id": "a", "{field}": {value}}}'.encode())
    row = parse_row(line, "auto", DEFAULTS)
    assert (row.code, row.message) == ("invalid_json", "the line is nested too deeply")
    assert key_of(identify(line, "auto")) == key_of(row)


def test_brackets_in_a_text_are_no_depth():
    assert parse({"prompt": "[{" * 5000}).content == "[{" * 5000
    assert parse({"prompt": "a", "metadata": [[]] * 500}).content == "a"


def test_memory_that_runs_out_at_a_line_is_that_rows(monkeypatch):
    class Full:
        def decode(self, text):
            raise MemoryError

    monkeypatch.setattr(rows_module, "STRICT_JSON", Full())
    line = Line(4, 5, b'{"prompt": "a"}')
    assert parse_row(line, "auto", DEFAULTS).code == "out_of_memory"
    assert key_of(identify(line, "auto")) == key_of(parse_row(line, "auto", DEFAULTS))
