"""Text in, text out."""

import random
import shutil

import pytest
import torch
from helpers.folders import random_weights, write_meta
from helpers.models import DATA, kit_folder, needs_kit
from hypothesis import given, settings
from hypothesis import strategies as st

import llama_cli
from llama_cli import Prompt, Sampling
from llama_cli.answers.decoding import StopFinder
from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.verify import Verification
from llama_cli.errors import InputRejected, NumericalError
from llama_cli.tokenizer import StreamDecoder, load_tokenizer

GREEDY = Sampling(temperature=0, max_tokens=16)


@pytest.fixture(scope="module", name="toy")
def _toy():
    return llama_cli.load(batch_size=2, dtype="fp32")


@pytest.fixture(scope="module", name="tiny")
def _tiny():
    return llama_cli.load(DATA / "tiny/bpe1024", batch_size=2, dtype="fp32")


def test_a_stream_adds_up_to_the_completion(tiny):
    (whole,) = tiny.complete("Hello", GREEDY)
    chunks = list(tiny.stream(["Hello"], GREEDY))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert [chunk.finish_reason for chunk in chunks][-1] == whole.finish_reason == "length"
    assert len(whole.token_ids) == 16


def test_text_gets_the_begin_token_and_ids_do_not(tiny):
    text, ids = tiny.complete(["Hello", tiny.tokenizer.encode("Hello")], GREEDY)
    assert text.prompt_token_ids == (tiny.tokenizer.bos_id, *ids.prompt_token_ids)


def test_completions_come_in_the_order_of_the_prompts(toy):
    prompts = [Prompt("ROMEO:", Sampling(max_tokens=30, n=2, seed=1)), Prompt("A", Sampling(max_tokens=1, seed=5))]
    completions = toy.complete([*prompts, "B"], GREEDY)
    assert [(c.prompt, c.sample, c.seed) for c in completions[:3]] == [(0, 0, 1), (0, 1, 2), (1, 0, 5)]
    assert [len(c.token_ids) for c in completions] == [30, 30, 1, 16]


def test_a_seed_makes_the_text_and_its_absence_is_reported(toy):
    sampling = Sampling(temperature=1.0, max_tokens=40)
    first, second = (toy.complete("The", sampling)[0] for _ in range(2))
    assert first.seed != second.seed
    again = toy.complete("The", Sampling(temperature=1.0, max_tokens=40, seed=first.seed))[0]
    assert again.text == first.text


def test_stop_strings_end_the_text_before_them(toy):
    free = toy.complete("ROMEO:", Sampling(temperature=0, max_tokens=60))[0]
    stop = free.text[20:25]
    cut = toy.complete("ROMEO:", Sampling(temperature=0, max_tokens=60, stop=[stop, "never"]))[0]
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert len(cut.token_ids) == free.text.index(stop) + len(stop)


def test_a_stop_string_in_the_very_last_token_counts(toy):
    free = toy.complete("ROMEO:", Sampling(temperature=0, max_tokens=10))[0]
    cut = toy.complete("ROMEO:", Sampling(temperature=0, max_tokens=10, stop=free.text[-2:]))[0]
    assert cut.finish_reason == "stop"
    assert cut.text == free.text[: free.text.index(free.text[-2:])]


def slow_stop(text, stops):
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text


@pytest.mark.promise("P11")
@settings(max_examples=1000, deadline=None)
@given(
    data=st.data(),
    text=st.text("ab\n", max_size=30),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_at_every_split(data, text, stops):
    """However the text is cut into pieces, the result is that of the earliest stop in the whole."""
    finder, shown, at = StopFinder(stops), "", 0
    while at < len(text) and not finder.found:
        size = data.draw(st.integers(1, 5))
        shown += finder.feed(text[at : at + size])
        at += size
    shown += finder.finish()
    if not finder.found:
        assert shown == text
    # A piece may hold two stops of which the later-ending one begins earlier; the text seen so far decides.
    assert shown == slow_stop(text[:at], stops)


def test_stop_strings_hold_back_no_more_than_their_beginning():
    finder = StopFinder(["STOP"])
    assert [finder.feed(piece) for piece in ("abc", "ST", "AR", "STO")] == ["abc", "", "STAR", ""]
    assert finder.finish() == "STO"


@pytest.mark.promise("P11")
def test_streaming_random_ids_through_stops_equals_the_whole(record_property):
    """2,000 random streams of a byte-pair vocabulary with multi-byte characters, and each place a stop may have."""
    n_cases = 0
    tokenizer, chance = load_tokenizer(DATA / "tokenizer/tiny768.model"), random.Random(5)
    for _ in range(2000):
        ids = [chance.randrange(300) for _ in range(chance.randint(1, 12))]
        whole = tokenizer.decode(ids)
        for stop in {"x", *(whole[place : place + size] for place in range(len(whole)) for size in (1, 2, 5))}:
            decoder, finder = StreamDecoder(tokenizer), StopFinder([stop])
            shown = "".join(finder.feed(decoder.feed(token_id)) for token_id in ids)
            shown += finder.feed(decoder.finish()) + finder.finish()
            assert shown == slow_stop(whole, [stop])
            n_cases += 1
    record_property("cases", n_cases)


def test_the_context_boundary():
    session = llama_cli.load(DATA / "tiny/gqa", max_seq_len=32)
    bos = 1
    assert len(session.complete("a" * (31 - bos), GREEDY)[0].token_ids) == 1
    with pytest.raises(InputRejected, match="the prompt has 32 tokens; the context holds 32"):
        session.complete("a" * (32 - bos), GREEDY)
    scored = session.complete("a" * (32 - bos), Sampling(max_tokens=0, prompt_logprobs=True))[0]
    assert len(scored.prompt_logprobs) == 31
    with pytest.raises(InputRejected, match="33 tokens"):
        session.complete("a" * (33 - bos), Sampling(max_tokens=0, prompt_logprobs=True))


@pytest.mark.promise("P13")
def test_a_hopeless_prompt_is_refused_before_it_is_tokenised(tiny):
    """200 million characters: counted, not encoded."""
    with pytest.raises(InputRejected, match="tokens or more; the context holds 8,192"):
        tiny.encode("a" * 20_000_000)


def test_prompts_that_cannot_be(toy, tiny):
    with pytest.raises(InputRejected, match="'€' at character 3"):
        toy.encode("abc€")
    with pytest.raises(InputRejected, match="the prompt is empty, and this model has no begin token"):
        toy.encode("")
    with pytest.raises(InputRejected, match=r"prompt id 65 is not in 0 \.\.\. 64"):
        toy.encode([1, 65])
    with pytest.raises(InputRejected, match="lone surrogate"):
        tiny.encode("\ud800")
    assert tiny.encode("") == (tiny.tokenizer.bos_id,)


def test_damage_is_an_error_of_its_row_alone(toy):
    weight = toy.engine.runner.model.norm.weight
    kept = weight.clone()
    weight[0] = float("nan")
    try:
        chunks = list(toy.stream(["ab"], GREEDY))
        assert isinstance(chunks[-1].error, NumericalError)
        assert chunks[-1].finish_reason == "error"
        with pytest.raises(NumericalError, match="NaN or infinity at position 2"):
            toy.complete("ab", GREEDY)
    finally:
        weight.copy_(kept)
    assert toy.complete("ab", GREEDY)[0].text


KINDS = ["tok_embeddings", "norm", "output"] + [
    f"layers.0.{part}"
    for part in ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w2",
                 "feed_forward.w3", "attention_norm", "ffn_norm")
]  # fmt: skip


@pytest.mark.promise("P15")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_that_no_weight_has_is_reported(kind, value, tmp_path, record_property):
    """By verify in every tensor. A run either ends with the position or is that of finite numbers; never `!!!!`."""
    record_property("cases", 1 if "wq" in kind or "wk" in kind else 2)
    args = read_params({"dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 512, "multiple_of": 16})
    weights = random_weights(args, dtype=torch.float32)
    weights[f"{kind}.weight"].view(-1)[:] = value
    write_meta(tmp_path, weights)
    (tmp_path / "params.json").write_text(
        '{"dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 512, "multiple_of": 16}'
    )
    shutil.copy(DATA / "tokenizer/bytes256.model", tmp_path / "tokenizer.model")
    verification = Verification(tmp_path)
    verification.check_headers()
    verification.read_everything(lambda n_bytes: None)
    assert any(f"NaN or infinite: {kind}.weight" in finding.detail for finding in verification.findings)
    session = llama_cli.load(tmp_path, dtype="fp32")
    if kind in ("layers.0.attention.wq", "layers.0.attention.wk"):
        return  # torch's attention on a CPU turns a row of NaN scores into zeros: that is what verify is for
    with pytest.raises(NumericalError, match="NaN or infinity at position"):
        session.complete("ab", Sampling(max_tokens=4))


def test_the_python_api_is_what_is_exported():
    assert {name: getattr(llama_cli, name).__name__ for name in llama_cli.__all__} == {
        name: "LLM" if name == "Session" else name for name in llama_cli.__all__
    }
    assert callable(llama_cli.load)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llama_cli.nothing


@needs_kit
def test_the_documented_story():
    """karpathy/llama2.c's doc/stories260K.md, as the kit quotes it."""
    import json

    folder = kit_folder("stories260k-tiktoken")
    expected = json.loads((folder / "golden.json").read_text())["documented_greedy_text_256_tokens"]
    session = llama_cli.load(folder)
    story = session.complete([[session.tokenizer.bos_id]], Sampling(temperature=0, max_tokens=256))[0]
    assert story.text.strip().startswith(expected.strip()[:600])
