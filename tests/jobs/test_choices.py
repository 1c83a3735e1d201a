"""Continuations: scored on the ids of the whole text, since a word's ids hang on what is beside it."""

import json

import pytest
import torch
from helpers.folders import random_weights
from helpers.models import DATA, kit_folder, needs_kit
from helpers.sentencepieces import write_sentencepiece

import llama_cli
from llama_cli.checkpoint.params import read_params
from llama_cli.cli.app import main
from llama_cli.errors import InputRejected
from llama_cli.jobs.scorer import Scorer
from llama_cli.jobs.scoring import Windows, score_tokens

TINY = DATA / "tiny/bpe1024"
WINDOWS = Windows(128, 64)


@pytest.fixture(scope="module", name="pieces")
def _pieces(tmp_path_factory):
    """A model of random weights with a SentencePiece tokenizer."""
    folder = tmp_path_factory.mktemp("pieces")
    vocab_size = write_sentencepiece(folder / "tokenizer.model")
    params = {"dim": 32, "n_layers": 2, "n_heads": 8, "n_kv_heads": 8, "vocab_size": vocab_size, "multiple_of": 16}
    (folder / "params.json").write_text(json.dumps(params))
    torch.save(random_weights(read_params(params)), folder / "consolidated.00.pth")
    return folder


@pytest.fixture(scope="module", name="scorers")
def _scorers(pieces):
    load = {"tiktoken": TINY, "sentencepiece": pieces, "char": None}
    return {
        kind: Scorer(llama_cli.load(folder, dtype="fp32", max_seq_len=128), WINDOWS, logprobs=True)
        for kind, folder in load.items()
    }


def harness_rule(session, text, choice):
    """lm-evaluation-harness: white space goes to the choice; what lies behind as many ids as the text has counts."""
    bare = text.rstrip()
    whole = session.tokenize(bare + text[len(bare) :] + choice)
    return whole, max(len(session.tokenize(bare)), 1)


@pytest.mark.parametrize("kind", ["tiktoken", "sentencepiece", "char"])
@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("the quick", [" brown", " lazy dog", " fox"]),
        ("the quick ", ["brown", "lazy dog", "fox"]),
        ("the quick", ["\nbrown", " fox"]),
        ("the quick:\n", ["brown", "fox"]),
        ("the lazy dog", [", then", "."]),
        ("the lazy", ["   dog", " dog"]),
    ],
)
def test_the_whole_texts_ids_are_scored_behind_the_texts(scorers, kind, text, choices):
    scorer = scorers[kind]
    described = scorer.describe(text, None, choices)["choices"]
    for choice, found in zip(choices, described, strict=True):
        whole, first = harness_rule(scorer.session, text, choice)
        expected = score_tokens(scorer.session.engine, whole, WINDOWS, first=first)
        assert [each["token_id"] for each in found["logprobs"]] == whole[first:]
        assert found["nats"] == pytest.approx(-sum(each.logprob for each in expected), abs=1e-4)
        assert found["nats_per_token"] == pytest.approx(found["nats"] / found["tokens"])
        assert found["nats_per_byte"] == pytest.approx(found["nats"] / len(choice.encode()))


@pytest.mark.parametrize("kind", ["tiktoken", "sentencepiece"])
def test_a_choice_that_changes_the_texts_last_id_moves_the_place_of_all(scorers, kind):
    """Where one goes on inside the text's last id, P(quick) and P(q) P(x) can be compared, P(x | q) alone cannot."""
    scorer = scorers[kind]
    encode = scorer.session.tokenize
    text, choices = "the q", ["uick brown", "x"]
    assert encode(text + choices[0])[: len(encode(text))] != encode(text), "the case that is meant"
    first, second = scorer.texts(text, None, choices)
    assert first.first == second.first < len(encode(text))
    for each, choice in ((first, choices[0]), (second, choices[1])):
        assert each.ids == encode(text + choice)
        assert each.ids[: each.first] == encode(text)[: each.first]


def test_white_space_and_nothing(scorers):
    scorer = scorers["tiktoken"]
    with pytest.raises(InputRejected, match="a choice is empty"):
        scorer.texts("a", None, ["b", ""])
    with pytest.raises(InputRejected, match="not continuations"):
        scorer.texts("a", 5, ["b"])
    (blank,) = scorer.texts("the quick", None, [" "])
    assert blank.ids[blank.first :] == scorer.session.tokenizer.encode(" ")
    (unconditional,) = scorer.texts("", None, ["the"])
    assert unconditional == ([scorer.session.tokenizer.bos_id, *scorer.session.tokenizer.encode("the")], 1)
    with pytest.raises(InputRejected, match="need a text before them"):
        scorers["char"].texts("", None, ["a"])
    (behind_space,) = scorers["char"].texts(" ", None, ["a"])
    assert behind_space.first == 1


@pytest.mark.parametrize("kind", ["tiktoken", "sentencepiece"])
def test_ids_stay_as_they_are_and_the_choice_goes_on_behind_them(scorers, kind):
    scorer = scorers[kind]
    tokenizer = scorer.session.tokenizer
    ids = scorer.session.tokenize("the quick é")[:-1]  # in the middle of a character
    (text,) = scorer.texts(ids, None, [" brown fox"])
    assert text.ids[: len(ids)] == list(ids)
    assert tokenizer.decode(text.ids[text.first :]) == " brown fox"


def test_choices_of_a_long_text_see_the_same_before_them(scorers, caplog):
    """Each choice was read in windows of its own, behind more or less of the text: a window changed the ranks."""
    session = scorers["tiktoken"].session
    text, choices = "the quick brown fox jumps over the lazy dog and", [" runs away from the fox", " x"]
    wholes = [session.tokenize(text + choice) for choice in choices]
    first, size = len(session.tokenize(text)), max(map(len, wholes)) - 3
    scorer = Scorer(session, Windows(size, size // 2), logprobs=True)
    texts = scorer.texts(text, None, choices)
    assert texts == [(whole[3:], first - 3) for whole in wholes]
    described = scorer.describe(text, None, choices)["choices"]
    for (ids, behind), found in zip(texts, described, strict=True):
        expected = score_tokens(session.engine, ids, WINDOWS, first=behind)
        assert found["nats"] == pytest.approx(-sum(each.logprob for each in expected), abs=1e-4)
    assert caplog.messages == [f"3 tokens at the beginning are left out: text and choices hold more than {size}"]
    with pytest.raises(InputRejected, match="a choice has"):
        Scorer(session, Windows(3, 1), logprobs=False).texts("the", None, choices)


def test_ties_are_told(pieces, capfdbinary, tmp_path):
    flags = ["-m", str(pieces), "-c", "64"]
    choices = ["--choices", " fox", "--choices", " fox", "--choices", " dog"]
    assert main(["score", "the quick", *flags, *choices, "--json"]) == 0
    shown = capfdbinary.readouterr()
    out = json.loads(shown.out)
    if out["tie"]:  # the two may be less likely than the third
        assert b"equally likely" in shown.err
        assert [choice["best"] for choice in out["choices"]].count(True) == 1
    assert {"text", "tokens", "bytes", "nats", "nats_per_token", "nats_per_byte", "best"} <= out["choices"][0].keys()
    assert out["choices"][0]["nats"] == out["choices"][1]["nats"]
    assert main(["score", "the quick", *flags, *choices[:4], "--json"]) == 0
    shown = capfdbinary.readouterr()
    assert json.loads(shown.out)["tie"] is True
    assert b"equally likely" in shown.err
    row = {"prompt": "the quick", "choices": [" fox", " fox"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert main(["score", *flags, "--rows", str(tmp_path / "rows.jsonl")]) == 0
    found = json.loads(capfdbinary.readouterr().out)
    assert found["tie"] is True
    assert "nats_per_byte" in found["choices"][0]
    assert main(["score", "the quick", *flags, "-n", "5", *choices]) == 2


def test_a_text_counts_its_own_bytes(scorers):
    """SentencePiece's first id holds a space that nobody wrote."""
    for scorer in scorers.values():
        text = "the quick"
        n_unscored = 0 if scorer.session.tokenizer.bos_id is not None else 1
        assert scorer.describe(text, None, ())["bytes"] == len(text) - n_unscored


@needs_kit
def test_a_trained_sentencepiece_model_ranks_as_it_should(capfdbinary):
    pytest.importorskip("sentencepiece")
    expected = {" Lily": 0.0766, " Sue": 4.4341, " Tim": 8.1189}
    choices = [f"--choices={choice}" for choice in expected]
    text = "Once upon a time, there was a little girl named"
    flags = ["-m", str(kit_folder("stories260k-sp")), "--json"]
    for content, shown in ((text, choices), (f"{text} ", [choice.replace("= ", "=") for choice in choices])):
        assert main(["score", content, *flags, *shown]) == 0
        found = json.loads(capfdbinary.readouterr().out)["choices"]
        assert [each["nats"] for each in found] == pytest.approx(list(expected.values()), abs=1e-4)
