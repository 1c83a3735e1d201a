"""What a request may ask of a model: every field that holds ids, and what only Python callers can get wrong."""

import json

import numpy
import pytest
import torch
from helpers.engines import make_engine, run
from helpers.models import DATA, SMALL, random_model

import llama_cli
from llama_cli.cli.app import main
from llama_cli.engine.request import Request, Sampling
from llama_cli.errors import ContextTooLong, InputRejected, LlamaError, UsageError
from llama_cli.options import SettingRejected
from llama_cli.parallel.replicas import Replicas

TINY = DATA / "tiny/bpe1024"
TOKENIZER_SIZE = 1024


@pytest.fixture(scope="module", name="spacious")
def _spacious(tmp_path_factory):
    """A model with two ids more than its tokenizer has tokens."""
    folder = tmp_path_factory.mktemp("spacious")
    weights = torch.load(TINY / "consolidated.00.pth", weights_only=True)
    for name in ("tok_embeddings.weight", "output.weight"):
        weights[name] = torch.cat([weights[name], weights[name][:2]])
    torch.save(weights, folder / "consolidated.00.pth")
    params = json.loads((TINY / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | {"vocab_size": TOKENIZER_SIZE + 2}))
    (folder / "tokenizer.model").write_bytes((TINY / "tokenizer.model").read_bytes())
    return folder


@pytest.fixture(scope="module", name="session")
def _session(spacious):
    return llama_cli.load(spacious, dtype="fp32", max_seq_len=64)


GOOD = Request(0, (1, 2, 3), Sampling(max_tokens=2), seed=0)
BAD = [
    GOOD._replace(prompt=()),
    GOOD._replace(prompt=(1, 96)),
    GOOD._replace(prompt=(1, -1)),
    GOOD._replace(prompt=(1, 2.0)),
    GOOD._replace(prompt=(1, True)),
    GOOD._replace(prompt=(1, numpy.int64(2))),
    GOOD._replace(prompt=(1, "2")),
    GOOD._replace(prompt=(1, None)),
    GOOD._replace(prompt=tuple([1] * 257)),
    GOOD._replace(seed=0.5),
    GOOD._replace(seed=None),
    GOOD._replace(score_from=0),
    GOOD._replace(score_from=-1),
    GOOD._replace(score_from=3),
    GOOD._replace(score_from=True),
    GOOD._replace(score_from=1.0),
    GOOD._replace(prompt=(1,), score_from=2),
    GOOD._replace(sampling=Sampling(logit_bias={96: -100})),
    GOOD._replace(sampling=Sampling(logit_bias={1: 1.0, 2**31 - 1: 1.0})),
    GOOD._replace(sampling=Sampling(stop_token_ids=(5, 96), n=2)),
]


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("make", [make_engine, lambda: Replicas(make_engine(), [], lambda error: error)])
def test_what_cannot_run_ends_with_the_reason_and_the_others_go_on(make, bad):
    events = list(make().generate([GOOD._replace(key=1), bad, GOOD._replace(key=2)]))
    ends = {(event.key, event.sample): event for event in events if hasattr(event, "reason")}
    for sample in range(bad.sampling.n):
        assert ends[0, sample].reason == "error"
        assert isinstance(ends[0, sample].error, InputRejected)
    assert ends[1, 0].reason == ends[2, 0].reason == "length"


def test_a_prompt_that_is_too_long_is_told_apart():
    (end,) = make_engine().generate([GOOD._replace(prompt=tuple([1] * 257))])
    assert isinstance(end.error, ContextTooLong)


def test_ids_without_a_token_are_read_and_nothing_else():
    model = random_model(SMALL)
    engine = make_engine(model=model, tokenizer_size=40)
    assert "error" in {end.reason for end in engine.generate([GOOD._replace(prompt=(1, 60))])}

    def limited(**more):
        engine = make_engine(model=model, tokenizer_size=40)
        engine.limits = engine.limits._replace(vocab_size=96)
        return run(engine, [GOOD._replace(prompt=(1, 60, 2), **more)])

    plain, _ = limited(sampling=Sampling(max_tokens=5, temperature=0))
    assert len(plain[0, 0][0]) == 5
    assert limited(sampling=Sampling(max_tokens=5, repetition_penalty=1.3))[0][0, 0][2] == "length"
    scored = Sampling(max_tokens=0, prompt_logprobs=True)
    assert limited(sampling=scored)[0][0, 0][2] == "error"
    _, scores = limited(sampling=scored, score_from=2)
    assert [score.token_id for score in scores[0]] == [2]


@pytest.mark.parametrize(
    ("prompts", "sampling"),
    [
        ([5], None),
        ([None], None),
        ([b"bytes"], None),
        ([numpy.array([1, 2])], None),
        ([llama_cli.Prompt("a", {"n": 1})], None),
        (["a"], {"n": 1}),
        ([[]], None),
        ([llama_cli.Prompt([], Sampling())], None),
        ([["a"]], None),
        ([[1.0]], None),
        ([[True]], None),
        ([[numpy.int32(7)]], None),
        ([[TOKENIZER_SIZE + 2]], None),
        (["a"], Sampling(logit_bias={TOKENIZER_SIZE: 1.0})),
        (["a"], Sampling(stop_token_ids=(TOKENIZER_SIZE + 1,))),
        ([[1, TOKENIZER_SIZE]], Sampling(prompt_logprobs=True)),
    ],
    ids=str,
)
def test_what_python_callers_get_wrong(session, prompts, sampling):
    with pytest.raises(LlamaError) as caught:
        session.complete(prompts, sampling)
    assert isinstance(caught.value, InputRejected | UsageError)


def test_settings_of_a_request_that_is_none(session):
    with pytest.raises(UsageError, match="the settings are a Sampling, not dict"):
        list(session.run([Request(0, (1,), {}, 0)]))


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"n": 0}, "n: Input should be greater than or equal to 1, is 0", None),
        ({"n": True}, "n: Input should be a valid integer, is True", None),
        ({"max_tokens": 4.0}, "max_tokens: Input should be a valid integer, is 4.0", None),
        ({"temprature": 1.0}, "there is no setting temprature", "did you mean temperature?"),
        ({"stop_token_ids": [1, -2]}, "stop_token_ids.1: Input should be greater than or equal to 0, is -2", None),
    ],
)
def test_settings_that_are_none(settings, message, hint):
    with pytest.raises(SettingRejected) as caught:
        Sampling(**settings)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "--prompt-ids", f"1,2,{TOKENIZER_SIZE}"],
        ["score", "--prompt-ids", f"1,2,{TOKENIZER_SIZE + 2}"],
        ["complete", "--prompt-ids", f"1,{TOKENIZER_SIZE + 1}", "--prompt-logprobs", "--json"],
        ["complete", "--prompt-ids", f"1,{TOKENIZER_SIZE + 1}", "--echo"],
        ["complete", "--prompt-ids", f"1,{TOKENIZER_SIZE + 2}"],
        ["complete", "a", "--logit-bias", "999999=-100"],
        ["complete", "a", "--logit-bias", f"{TOKENIZER_SIZE}=-100", "--json"],
        ["complete", "a", "--stop-token-ids", str(TOKENIZER_SIZE)],
        ["chat", "a", "--chat-template", "none", "--logit-bias", f"{TOKENIZER_SIZE}=5"],
    ],
    ids=" ".join,
)
def test_commands_refuse_with_one_line(spacious, capfdbinary, arguments):
    command, *rest = arguments
    assert main([command, "-m", str(spacious), "-c", "64", *rest]) == 5
    shown = capfdbinary.readouterr()
    assert b"internal error" not in shown.out + shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "--prompt-ids", f"{TOKENIZER_SIZE},2,3"],
        ["score", "--prompt-ids", f"2,{TOKENIZER_SIZE}", "--choices", "a"],
        ["complete", "--prompt-ids", f"1,{TOKENIZER_SIZE}", "--repetition-penalty", "1.2", "-n", "3"],
        ["complete", "--prompt-ids", f"1,{TOKENIZER_SIZE}", "--logprobs", "--top-logprobs", "20", "--json", "-n", "3"],
    ],
    ids=" ".join,
)
def test_commands_read_ids_without_a_token(spacious, capfdbinary, arguments):
    command, *rest = arguments
    assert main([command, "-m", str(spacious), "-c", "64", *rest]) == 0
    assert capfdbinary.readouterr().out


def test_a_row_that_asks_for_another_models_ids_is_an_error_row(spacious, tmp_path, capfdbinary):
    asked = [{"logit_bias": {"128009": -100}}, {}, {"stop_token_ids": [128009]}, {"logit_bias": {"5": 1}}]
    rows = [json.dumps({"prompt": "a", "max_tokens": 2} | more) for more in asked]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    flags = ["-m", str(spacious), "-c", "64", "-o", str(tmp_path / "out.jsonl"), "-q"]
    assert main(["batch", str(tmp_path / "in.jsonl"), *flags]) == 6
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    codes = [row["error"] and row["error"]["code"] for row in found]
    assert codes == ["invalid_request", None, "invalid_request", None]
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": [1, 2, TOKENIZER_SIZE]}) + '\n{"text": [1, 2, 3]}\n')
    assert main(["score", "--rows", str(tmp_path / "texts.jsonl"), "-m", str(spacious), "-c", "64"]) == 6
    first, second = map(json.loads, capfdbinary.readouterr().out.splitlines())
    assert first["error"]["code"] == "invalid_request"
    assert second["tokens"] == 2
