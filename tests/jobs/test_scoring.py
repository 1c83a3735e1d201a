"""How likely a text is, against a whole log-softmax and hand-made windows."""

import gzip
import json
import math

import pytest
from helpers.models import DATA, SMALL, forward, golden, kit_folder, load_model, needs_kit, new_cache, random_model

from llama_cli.cli.app import main
from llama_cli.engine.engine import Engine
from llama_cli.engine.runner import ModelRunner
from llama_cli.errors import LlamaError
from llama_cli.jobs.scoring import Score, Windows, score_tokens

TINY = str(DATA / "tiny/bpe1024")
TEXT = [(7 * n * n + 3 * n) % 96 for n in range(200)]


@pytest.fixture(scope="module", name="model")
def _model():
    return random_model(SMALL)


def make_engine(model, max_seq_len=256):
    return Engine(
        ModelRunner(model, n_slots=1, max_seq_len=max_seq_len),
        tokenizer_size=model.args.vocab_size,
        stop_tokens=frozenset(),
    )


def slow_scores(model, ids):
    """Log-probabilities of ids[1:], from one log-softmax over everything."""
    table = forward(model, new_cache(model, 1, len(ids)), ids).log_softmax(-1)
    return [float(table[place, token]) for place, token in enumerate(ids[1:])]


@pytest.mark.parametrize("n", [2, 63, 64, 65, 66, 129, 200])
def test_scores_are_the_slow_twins(model, n):
    scores = score_tokens(make_engine(model), TEXT[:n], Windows(256, 128))
    assert [score.token_id for score in scores] == TEXT[1:n]
    assert [score.logprob for score in scores] == pytest.approx(slow_scores(model, TEXT[:n]), abs=5e-5)


@pytest.mark.parametrize(
    ("n", "size", "stride"), [(10, 6, 2), (10, 6, 5), (11, 6, 3), (7, 6, 1), (200, 50, 25), (5, 8, 4), (8, 8, 4)]
)
def test_windows_score_every_token_once(n, size, stride):
    covered = []
    for begin, end, first in Windows(size, stride).over(n):
        assert 0 <= begin < first < end <= n
        assert end - begin <= size
        covered += range(first, end)
    assert covered == list(range(1, n))


@pytest.mark.parametrize(("size", "stride"), [(40, 20), (64, 63), (100, 10)])
def test_windows_are_the_slow_windows(model, size, stride):
    expected = []
    for begin, end, first in Windows(size, stride).over(len(TEXT)):
        expected += slow_scores(model, TEXT[begin:end])[first - begin - 1 :]
    scores = score_tokens(make_engine(model), TEXT, Windows(size, stride))
    assert [score.token_id for score in scores] == TEXT[1:]
    assert [score.logprob for score in scores] == pytest.approx(expected, abs=5e-5)


def test_choices_share_one_prefill(model):
    engine = make_engine(model)
    for choice in ([5, 6], [7], [5, 9, 11]):
        scores = score_tokens(engine, [*TEXT[:100], *choice], Windows(256, 128), first=100)
        assert [score.token_id for score in scores] == choice
        expected = slow_scores(model, [*TEXT[:100], *choice])[99:]
        assert [score.logprob for score in scores] == pytest.approx(expected, abs=5e-5)
    # The prompt once; then each choice and the last prompt token, whose logits are not cached.
    assert engine.stats.n_prompt <= 100 + (2 + 1) + (1 + 1) + (3 + 1)


def test_metas_own_log_probabilities():
    model = load_model(DATA / "tiny/gqa")
    for name in ("text_a", "text_b", "random40", "repeated"):
        case = golden(DATA / "tiny/gqa")["prompts"][name]
        scores = score_tokens(make_engine(model, 512), case["ids"], Windows(512, 256))
        assert [score.logprob for score in scores] == pytest.approx(case["token_logprobs_f32"][1:], abs=1e-3)


def test_units():
    class One:
        logprob = -math.log(2)

    score = Score([One, One, One], 6)
    assert (score.bits_per_token, score.bits_per_byte, score.perplexity) == pytest.approx((1.0, 0.5, 2.0))


def test_damage_is_an_error(model):
    broken = random_model(SMALL)
    broken.norm.weight[0] = float("nan")
    with pytest.raises(LlamaError, match="NaN or infinity"):
        score_tokens(make_engine(broken), TEXT[:5], Windows(256, 128))


def test_the_command(capfdbinary):
    tiny = str(DATA / "tiny/bpe1024")
    assert main(["score", "-m", tiny, "Hello, world!", "--json", "--logprobs"]) == 0
    out = json.loads(capfdbinary.readouterr().out)
    assert {"tokens", "bits_per_token", "nats_per_token", "bits_per_byte"} <= out.keys()
    assert out["bytes"] == 13
    assert out["nats"] == pytest.approx(-sum(score["logprob"] for score in out["logprobs"]))
    assert main(["score", "-m", tiny, "Hello", "--choices", "a", "--choices", "b", "--json"]) == 0
    choices = json.loads(capfdbinary.readouterr().out)["choices"]
    assert [choice["best"] for choice in choices].count(True) == 1
    assert main(["score", "-m", tiny, "Hello", "--logprobs"]) == 2
    assert main(["score", "-q", "a"]) == 5
    assert b"one token has nothing to score" in capfdbinary.readouterr().err


@needs_kit
@pytest.mark.parametrize(("dtype", "name", "tolerance"), [("fp32", "f32", 1e-4), ("bf16", "bf16", 5e-3)])
def test_a_trained_model_scores_what_is_documented(capfdbinary, dtype, name, tolerance):
    folder = kit_folder("stories260k-tiktoken")
    expected = golden(folder)
    assert main(["score", "-m", str(folder), expected["nll_text"], "--dtype", dtype, "--json"]) == 0
    out = json.loads(capfdbinary.readouterr().out)
    assert out["tokens"] == expected["nll_tokens"]
    assert out["nats_per_token"] == pytest.approx(expected[f"nll_mean_nats_{name}"], abs=tolerance)


ROWS = [
    {"id": "one", "text": "The quick brown fox"},
    {"text": [256, 5, 6, 7, 8]},
    {"prompt": "The quick", "choices": [" brown", " zebra", " fox"]},
    {"text": "x" * 3000},
]


def score_rows(tmp_path, capfdbinary, lines, *flags):
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    code = main(["score", "-m", TINY, "--dtype", "fp32", "--rows", str(source), "-c", "1024", *flags])
    printed = capfdbinary.readouterr()
    return code, [json.loads(line) for line in printed.out.splitlines()], printed.err.decode()


def score_one(capfdbinary, *arguments):
    assert main(["score", "-m", TINY, "--dtype", "fp32", "--json", "-c", "1024", *arguments]) == 0
    return json.loads(capfdbinary.readouterr().out)


@pytest.mark.parametrize("size", [1, 3, 16])
def test_rows_score_what_each_scores_alone(tmp_path, capfdbinary, size):
    """Texts, ids, continuations and a text of several windows, in one run; in the order of the input."""
    code, rows, err = score_rows(tmp_path, capfdbinary, ROWS, "-b", str(size))
    assert code == 0
    assert [row["id"] for row in rows] == ["one", "line-000002", "line-000003", "line-000004"]
    alone = [
        score_one(capfdbinary, ROWS[0]["text"]),
        score_one(capfdbinary, "--prompt-ids", "256,5,6,7,8"),
        score_one(capfdbinary, "The quick", *(f"--choices={choice}" for choice in ROWS[2]["choices"])),
        score_one(capfdbinary, ROWS[3]["text"]),
    ]
    for row, one in zip(rows, alone, strict=True):
        if "choices" in one:
            assert [choice["best"] for choice in row["choices"]] == [choice["best"] for choice in one["choices"]]
            nats = [choice["nats"] for choice in one["choices"]]
            assert [choice["nats"] for choice in row["choices"]] == pytest.approx(nats, abs=1e-4)
        else:
            assert row["nats"] == pytest.approx(one["nats"], rel=1e-5)
            assert (row["tokens"], row["bytes"]) == (one["tokens"], one["bytes"])
    assert "4 rows: 4 ok, 0 errors" in err


def test_bad_rows_of_texts(tmp_path, capfdbinary):
    bad = {
        b"nonsense": "invalid_json",
        b"\xff": "invalid_unicode",
        b'{"text": 5}': "invalid_request",
        b'{"text": ""}': "invalid_request",
        b'{"text": [1, 99999]}': "invalid_request",
        b'{"text": "x", "bogus": 1}': "invalid_request",
        b'{"text": "x", "choices": ["y"]}': "invalid_request",
        b'{"prompt": "x"}': "invalid_request",
        b'{"prompt": "x", "choices": [""]}': "invalid_request",
        b'{"prompt": "x", "choices": "y"}': "invalid_request",
    }
    lines = [line for each in bad for line in (each, ROWS[0] | {"id": each.hex()})]
    code, rows, _ = score_rows(tmp_path, capfdbinary, lines)
    assert code == 6
    assert [row["error"]["code"] for row in rows[::2]] == list(bad.values())
    assert len({row["nats"] for row in rows[1::2]}) == 1


def test_rows_have_their_texts_in_the_file(capfdbinary):
    assert main(["score", "-m", TINY, "--rows", "x", "a text"]) == 2
    assert main(["score", "-m", TINY, "--rows", "/nowhere"]) == 5
    assert capfdbinary.readouterr().out == b""


def test_rows_of_a_file_that_other_programs_wrote(tmp_path, capfdbinary):
    """A byte-order mark, blank lines, numbers as ids, gzip; a JSON array by its name."""
    lines = [b"\xef\xbb\xbf", b'{"id": 7, "text": "The quick brown fox"}', b"", b'{"id": 8.0, "text": [256, 5.0, 6]}\r']
    code, rows, _ = score_rows(tmp_path, capfdbinary, lines)
    assert (code, [(row["id"], row["index"]) for row in rows]) == (0, [(7, 0), (8, 1)])
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    assert main(["score", "-m", TINY, "--dtype", "fp32", "--rows", str(packed), "-c", "1024"]) == 0
    assert [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()] == rows
    code, _, err = score_rows(tmp_path, capfdbinary, [b'[{"text": "a b c"}]'])
    assert (code, "is one JSON array" in err) == (5, True)
