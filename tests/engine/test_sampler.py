"""Which tokens may be drawn, and how often."""

import json
import math
from collections import Counter
from random import Random

import pytest
import torch
from helpers.models import DATA

from llama_cli.engine.request import Sampling
from llama_cli.engine.sampler import Draw, candidates, choose, log_sum, logprobs, pick
from llama_cli.options import SettingRejected

CASES = json.loads((DATA / "sampling/top_p.json").read_text())["cases"]


def draw(seed=1, prompt=(), generated=(), **settings):
    return Draw(Sampling(**settings), Random(seed), prompt, generated)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}-{case['temperature']}-{case['top_p']}")
def test_top_p_keeps_what_metas_rule_keeps(case):
    logits = torch.tensor(case["logits"])
    if case["temperature"] == 0:
        assert choose(logits, draw(temperature=0)) == case["argmax"]
        return
    kept = candidates(logits, Sampling(temperature=case["temperature"], top_p=case["top_p"]))
    assert len(kept.ids) == case["n_kept"]
    expected = sorted(case["kept_probs_after_renormalisation"].values(), reverse=True)
    assert torch.allclose(kept.probabilities, torch.tensor(expected), atol=1e-5)
    if len(set(case["logits"])) == len(case["logits"]):
        assert sorted(kept.ids.tolist()) == case["kept_sorted_ids"]


def slow_candidates(logits, sampling):
    """The rules over a whole sorted vocabulary, one after the other."""
    ranked = sorted(enumerate((logits / sampling.temperature).softmax(-1).tolist()), key=lambda pair: -pair[1])
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
        total = sum(p for _, p in ranked)
        ranked = [(i, p / total) for i, p in ranked]
    kept, before = [], 0.0
    for i, p in ranked:
        if before <= sampling.top_p or sampling.top_p == 1:
            kept.append((i, p))
        before += p
    kept = [(i, p) for i, p in kept if p >= sampling.min_p * kept[0][1]]
    total = sum(p for _, p in kept)
    return {i: p / total for i, p in kept}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_p": 1.0},
        {"top_p": 1.0, "temperature": 3.0},
        {"top_k": 5, "top_p": 1.0},
        {"top_k": 300, "top_p": 0.95, "temperature": 2.0},
        {"top_k": 100_000, "top_p": 1.0},
        {"min_p": 0.2, "top_p": 1.0},
        {"top_k": 40, "top_p": 0.8, "min_p": 0.05, "temperature": 1.3},
    ],
)
@pytest.mark.parametrize("n_vocab", [7, 256, 257, 5000])
def test_filters_are_the_slow_twins(settings, n_vocab):
    """The first look at 256 candidates must not be seen in the result."""
    logits = torch.randn(n_vocab, generator=torch.Generator().manual_seed(n_vocab)) * 1.5
    sampling = Sampling(**{"temperature": 1.0, "top_p": 0.9, **settings})
    kept = candidates(logits, sampling)
    expected = slow_candidates(logits.double(), sampling)
    got = dict(zip(kept.ids.tolist(), kept.probabilities.tolist(), strict=True))
    assert abs(len(got) - len(expected)) <= 1  # rounding may move the very last one
    for token in got.keys() & expected.keys():
        assert math.isclose(got[token], expected[token], rel_tol=2e-3)


@pytest.mark.parametrize("seed", range(60))
def test_filters_over_a_real_vocabulary(seed):
    """Random settings against float64: the result hung on how many candidates were looked at first."""
    random = Random(seed)
    logits = torch.randn(random.choice([3000, 128_256]), generator=torch.Generator().manual_seed(seed))
    logits *= random.choice([0.5, 2.5, 8.0])
    sampling = Sampling(
        temperature=random.choice([0.01, 0.7, 1.0, 4.0]),
        top_k=random.choice([0, 1, 255, 256, 257, 300, 2000, 5000, 200_000]),
        top_p=random.choice([0.0, 0.1, 0.5, 0.99, 1.0]),
        min_p=random.choice([0.0, 0.0, 0.05]),
    )
    kept = candidates(logits, sampling)
    expected = _reference(logits, sampling)
    assert abs(len(kept.ids) - len(expected)) <= max(1, len(expected) // 1000)  # rounding moves the very last ones
    n = min(len(kept.ids), len(expected))
    assert torch.allclose(kept.probabilities[:n].double(), expected[:n], rtol=5e-3, atol=1e-9)


def _reference(logits, sampling):
    """The probabilities that may be drawn, likeliest first, by the rules over the whole vocabulary in float64."""
    probabilities = (logits.double() / sampling.temperature).softmax(-1).sort(descending=True).values
    if sampling.top_k:
        probabilities = probabilities[: sampling.top_k]
        probabilities = probabilities / probabilities.sum()
    if sampling.top_p < 1:
        probabilities = probabilities[probabilities.cumsum(-1) - probabilities <= sampling.top_p]
    probabilities = probabilities[probabilities >= sampling.min_p * probabilities[0]]
    return probabilities / probabilities.sum()


def test_the_candidates_of_top_k_share_their_sum():
    """With top_k 300 and top_p 0.1 seventeen of 128,256 tokens were kept; four are right."""
    logits = torch.randn(128_256, generator=torch.Generator().manual_seed(0)) * 2.5
    sampling = Sampling(temperature=1.0, top_k=300, top_p=0.1)
    assert len(candidates(logits, sampling).ids) == len(_reference(logits, sampling)) < 10


@pytest.mark.parametrize("n_vocab", [1, 7, 255, 5000, 49_152, 128_256])
def test_sums_are_the_same_bits_with_any_threads_beside_any_rows(n_vocab):
    """-inf is what a mask leaves."""
    logits = torch.randn(70, n_vocab, generator=torch.Generator().manual_seed(n_vocab)) * 3
    logits[:, 1::3] = -math.inf
    shifted = logits - logits.max(-1, keepdim=True).values
    torch.testing.assert_close(log_sum(shifted)[:, 0], shifted.double().logsumexp(-1).float(), atol=2e-6, rtol=2e-6)
    before, found = torch.get_num_threads(), []
    for n_threads in (1, 2, 3, 8):
        torch.set_num_threads(n_threads)
        alone = torch.stack([log_sum(row) for row in shifted[::23]])
        found += [log_sum(shifted)[::23], alone, log_sum(shifted[:47])[::23].expand_as(alone[:3])]
    torch.set_num_threads(before)
    assert all(torch.equal(found[0][: len(each)], each) for each in found)


@pytest.mark.parametrize("largest", [3e36, -3e36, 3.4e38])
@pytest.mark.parametrize("settings", [{"temperature": 0.01}, {"temperature": 0.01, "top_k": 3}, {"temperature": 10.0}])
def test_finite_logits_never_overflow(largest, settings):
    logits = torch.linspace(-3.0, 3.0, 300)
    logits[7] = largest
    assert choose(logits, draw(**settings)) is not None
    assert (choose(logits, draw(**settings)) == 7) == (largest > 0)


def test_a_penalty_that_overflows_fails_its_row_alone():
    logits = torch.linspace(-3.0, 3.0, 300).repeat(2, 1)
    logits[0, 7] = 3e38
    rows = [draw(prompt=[7], repetition_penalty=0.01), draw(temperature=0)]
    assert pick(logits, rows) == [None, 299]


def test_draws_follow_the_probabilities():
    """20,000 draws; a false alarm (five standard deviations in one of four) is less likely than 1 in 400,000."""
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    one = draw(temperature=1.0, top_p=1.0)
    counts = Counter(choose(logits, one) for _ in range(20_000))
    for token, probability in enumerate([0.5, 0.25, 0.15, 0.1]):
        deviation = math.sqrt(20_000 * probability * (1 - probability))
        assert abs(counts[token] - 20_000 * probability) < 5 * deviation


def test_one_random_number_a_token():
    """The number of candidates does not move the generator: rounding cannot shift what follows."""
    few, many = draw(seed=5, temperature=1.0, top_p=0.1), draw(seed=5, temperature=1.0, top_p=1.0)
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    for one in (few, many):
        for _ in range(10):
            choose(logits, one)
    assert few.random.random() == many.random.random()


def test_logit_bias():
    logits = torch.zeros(5)
    assert choose(logits, draw(temperature=0, logit_bias={3: 1.0})) == 3
    assert choose(torch.tensor([9.0, 0.0]), draw(temperature=0, logit_bias={0: -100.0})) == 1


def test_penalties():
    logits = torch.tensor([2.0, 1.9, -1.0])
    assert choose(logits, draw(temperature=0, repetition_penalty=1.1, prompt=(0,))) == 1
    assert choose(logits, draw(temperature=0, presence_penalty=0.2, prompt=(0,))) == 0  # the prompt does not count
    assert choose(logits, draw(temperature=0, presence_penalty=0.2, generated=(0,))) == 1
    assert choose(logits, draw(temperature=0, frequency_penalty=0.06, generated=(0,))) == 0
    assert choose(logits, draw(temperature=0, frequency_penalty=0.06, generated=(0, 0))) == 1
    negative = torch.tensor([-1.0, -1.05])
    assert choose(negative, draw(temperature=0, repetition_penalty=1.2, prompt=(0,))) == 1


def test_penalties_leave_the_logits_alone():
    logits = torch.tensor([2.0, 1.9])
    choose(logits, draw(temperature=0, repetition_penalty=2.0, prompt=(0,), logit_bias={1: 5.0}))
    assert logits.tolist() == pytest.approx([2.0, 1.9])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_a_number_is_seen(bad):
    """argmax of NaN is a valid id: 0, which writes `!` for ever in Llama 3's vocabulary."""
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    assert pick(logits, [draw(temperature=0)] * 3) == [0, None, 0]
    assert pick(logits, [draw(temperature=1.0)] * 3)[1] is None


def test_masked_tokens_are_no_damage():
    logits = torch.tensor([[float("-inf"), 1.0, float("-inf")]])
    assert pick(logits, [draw(temperature=1.0)]) == [1]


def test_logprobs_are_of_the_raw_logits():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(9))
    expected = logits.log_softmax(-1)
    for row, score in enumerate(logprobs(logits, [4, 0, 49], n_top=3)):
        assert score.logprob == pytest.approx(float(expected[row, [4, 0, 49][row]]), abs=1e-5)
        best = expected[row].topk(3)
        assert [token for token, _ in score.top] == best.indices.tolist()
        assert [value for _, value in score.top] == pytest.approx(best.values.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": 1e-45},
        {"temperature": 10.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": True},
        {"temperature": "1"},
        {"top_p": -0.1},
        {"top_p": 1.01},
        {"top_k": -1},
        {"top_k": 1.5},
        {"min_p": 1.5},
        {"max_tokens": -1},
        {"max_tokens": 2**31},
        {"n": 0},
        {"n": 129},
        {"top_logprobs": 21},
        {"seed": -1},
        {"seed": 2**64},
        {"stop": [""]},
        {"stop": ["x" * 257]},
        {"stop": ["x"] * 17},
        {"logit_bias": {1: 101.0}},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": dict.fromkeys(range(1025), 0.0)},
        {"repetition_penalty": 0},
        {"unknown": 1},
    ],
)
def test_every_setting_has_bounds(settings):
    with pytest.raises(SettingRejected):
        Sampling(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.01},
        {"temperature": 10},
        {"top_p": 1},
        {"seed": 2**64 - 1},
        {"stop": "one"},
        {"stop": ["one", "two"]},
        {"stop": ("x" * 256,) * 16},
        {"max_tokens": 0},
        {"n": 128},
        {"logit_bias": {0: -100.0}},
    ],
)
def test_bounds_themselves_are_allowed(settings):
    Sampling(**settings)
