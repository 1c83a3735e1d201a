"""pandas, jq and OpenAI's own types read the rows that commands write, and write rows that commands read."""

import pytest
from real.judges import judge
from real.shell import answers, ended, rows_of, run, write_rows

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]
OUR_OWN_FIELDS = {"token_id"}  # beside OpenAI's, which their types let pass

ASKED = [
    {"custom_id": "plain", "prompt": "The capital of France is", "n": 2},
    {"custom_id": "ids", "prompt": [504, 3575]},
    {"custom_id": "dialog", "messages": [{"role": "user", "content": "Say 'Grüße 🙂' and a \"quote\"\n"}]},
    {"custom_id": "007", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2},
    {"custom_id": "bad", "prompt": 5},
    {"custom_id": "long", "prompt": "word " * 9000},
]
FLAGS = ["-n", "5", "--seed", "1", "-q"]


@pytest.fixture(scope="module", name="out")
def _out(smollm2, tmp_path_factory):
    """The folder of `openai.jsonl` and `simple.jsonl`."""
    folder = tmp_path_factory.mktemp("rows")
    source = write_rows(folder / "in.jsonl", ASKED)
    for form in ("openai", "simple"):
        out = folder / f"{form}.jsonl"
        run("batch", source, "-o", out, "-m", smollm2, "--output-format", form, *FLAGS, code=6)
    return folder


def bodies(folder):
    rows = rows_of((folder / "openai.jsonl").read_text())
    return {row["custom_id"]: row["response"] and row["response"]["body"] for row in rows}


def extras_of(model):
    """The names, at any depth, that a type of OpenAI's does not have."""
    values = {**dict(model), **(model.model_extra or {})}
    found = set(model.model_extra or {})
    for value in values.values():
        for each in value if isinstance(value, list) else [value]:
            if hasattr(each, "model_extra"):
                found |= extras_of(each)
    return found


@pytest.mark.parametrize("name", ["plain", "ids"])
def test_openais_completion(name, out):
    types = judge("openai.types")
    completion = types.Completion.model_validate(bodies(out)[name], strict=True)
    assert extras_of(completion) == set()
    assert [choice.index for choice in completion.choices] == list(range(2 if name == "plain" else 1))
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


@pytest.mark.parametrize("name", ["dialog", "007"])
def test_openais_chat_completion(name, out):
    types = judge("openai.types.chat")
    completion = types.ChatCompletion.model_validate(bodies(out)[name], strict=True)
    assert extras_of(completion) <= OUR_OWN_FIELDS
    (choice,) = completion.choices
    assert choice.message.role == "assistant"
    if name == "007":
        assert len(choice.logprobs.content) == completion.usage.completion_tokens
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)


def test_openais_errors(out):
    """An error row has no response, and an error that their type takes."""
    errors = judge("openai.types").BatchError
    rows = {row["custom_id"]: row for row in rows_of((out / "openai.jsonl").read_text())}
    codes = {name: errors.model_validate(row["error"], strict=True).code for name, row in rows.items() if row["error"]}
    assert codes == {"bad": "invalid_request", "long": "context_length_exceeded"}
    assert all((row["response"] is None) == (name in codes) for name, row in rows.items())
    assert all(row["response"]["status_code"] == 200 for name, row in rows.items() if name not in codes)


def test_pandas_reads_both_forms(out):
    pandas = judge("pandas")
    for form in ("openai", "simple"):
        path = out / f"{form}.jsonl"
        frame = pandas.read_json(path, lines=True, dtype=False)
        rows = rows_of(path.read_text())
        assert frame["index"].nunique() == len(ASKED)
        key = "custom_id" if form == "openai" else "id"
        assert frame[key].tolist() == [row[key] for row in rows]
    texts = {row["id"]: row.get("text") for row in rows_of((out / "simple.jsonl").read_text())}
    assert {one["id"]: one["text"] for one in frame[frame["text"].notna()].to_dict("records")} == {
        name: text for name, text in texts.items() if text is not None
    }


def test_rows_that_pandas_writes(smollm2, tmp_path):
    """Numbers as ids, whole numbers as floats, fields that are empty in some rows."""
    frame = judge("pandas").DataFrame(
        {"id": [7, 8], "prompt": ["The sky is", "The sea is"], "max_tokens": [3.0, 4.0], "seed": [1.0, 2.0]}
    )
    frame.to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    run("batch", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "-m", smollm2, "-q", "--output-format", "simple")
    read = judge("pandas").read_json(tmp_path / "out.jsonl", lines=True)
    merged = frame.merge(read, on="id")
    assert [usage["completion_tokens"] for usage in merged["usage"]] == [3, 4]


def test_jq_reads_them(out):
    jq = judge("jq")
    text = (out / "openai.jsonl").read_text()
    asked = "select(.error == null) | .response.body.choices[] | (.text // .message.content) | type"
    assert jq.compile(asked).input_text(text).all() == ["string"] * 5
    assert jq.compile("select(.error) | .error.code").input_text(text).all() == [
        "invalid_request", "context_length_exceeded",
    ]  # fmt: skip
    simple = (out / "simple.jsonl").read_text()
    assert jq.compile("select(.text) | .text").input_text(simple).all() == [
        row["text"] for row in rows_of(simple) if row.get("text")
    ]


@pytest.mark.parametrize("name", ["smollm2", "smollm2-int8", "pieces"])
def test_what_commands_print(name, models, tmp_path):
    """`complete --json`, `chat --json` and `score --rows`, in pandas and jq."""
    pandas, jq, model = judge("pandas"), judge("jq"), models[name]
    flags = ["-m", model, "-n", "4", "--json", "-q", "--seed", "3"]
    template = ["--chat-template", "chatml"] if name.startswith("smollm2") else ["--chat-template", "llama2"]
    texts = write_rows(
        tmp_path / "texts.jsonl", [{"text": "The sea is blue."}, {"text": 3}, {"prompt": "A", "choices": ["b", "c"]}]
    )
    printed = {
        "complete": ended("complete", "The sky", "--num-samples", "3", "--logprobs", *flags),
        "chat": ended("chat", "--stdin", *template, *flags, stdin="Hello\nWho are you?\n"),
        "score": ended("score", "--rows", texts, "-m", model, "-q", code=6),
    }
    for command, done in printed.items():
        text = done.stdout.decode()
        rows = rows_of(text)
        assert len(rows) == {"complete": 3, "chat": 2, "score": 3}[command]
        assert jq.compile(".").input_text(text).all() == rows
        (tmp_path / "rows.jsonl").write_text(text)
        frame = pandas.read_json(tmp_path / "rows.jsonl", lines=True)
        assert set(frame.columns) == {key for row in rows for key in row}
        numbers = frame["turn" if command == "chat" else "index"].tolist()
        assert numbers == ([1, 2] if command == "chat" else [0, 1, 2])


@pytest.mark.parametrize("name", ["smollm2-fp32", "stories"])
def test_rows_of_score_are_what_one_at_a_time_gives(name, models, tmp_path):
    texts = ["The sea is blue.", "Once upon a time there was a dog", "Lily said yes"]
    source = write_rows(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    rows = rows_of(run("score", "--rows", source, "-m", models[name], "-q"))
    for text, row in zip(texts, rows, strict=True):
        (alone,) = answers("score", text, "-m", models[name], "-q")
        assert (row["tokens"], row["bytes"]) == (alone["tokens"], alone["bytes"])
        assert row["nats"] == pytest.approx(alone["nats"], abs=1e-3)


def test_rows_of_score_in_bfloat16(smollm2, tmp_path):
    """Neighbours round it differently: half a percent of a text's nats."""
    texts = ["The sea is blue.", "Once upon a time there was a dog"]
    source = write_rows(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    rows = rows_of(run("score", "--rows", source, "-m", smollm2, "-q"))
    for text, row in zip(texts, rows, strict=True):
        assert row["nats"] == pytest.approx(answers("score", text, "-m", smollm2, "-q")[0]["nats"], rel=5e-3)
