"""What takes part in the choice of tokens: a constraint that narrows it, and a proposer that guesses what comes."""

import json
import threading
from queue import SimpleQueue

import pytest
import torch
from helpers.engines import PROMPTS, SETTINGS, make_engine, requests_of, run
from helpers.models import SMALL, random_model

from llama_cli.engine import sampler
from llama_cli.engine.engine import Engine, Guides
from llama_cli.engine.request import Finish, Request, Sampling
from llama_cli.engine.runner import ModelRunner
from llama_cli.engine.scheduler import Scheduler, Sequence
from llama_cli.errors import InputRejected
from llama_cli.model.span import Span
from llama_cli.parallel.leader import Leader, repeat
from llama_cli.parallel.replicas import read_order, write_order

N_IDS = SMALL.vocab_size


class EvenIds:
    """Lets even ids through, and ends an answer after so many."""

    def __init__(self, n=None):
        self.n, self.seen = n, []

    def mask(self):
        return torch.arange(N_IDS) % 2 == 0

    def accept(self, token):
        self.seen.append(token)

    @property
    def is_done(self):
        return self.n is not None and len(self.seen) >= self.n


class Nothing(EvenIds):
    def mask(self):
        return torch.zeros(N_IDS, dtype=torch.bool)


class Script:
    """Guesses from answers that are known, spoilt at every `wrong_every`-th place."""

    def __init__(self, prompt, answer, k, wrong_every=None):
        self.text, self.k, self.wrong_every = [*prompt, *answer], k, wrong_every

    def propose(self, tokens, most):
        known = self.text[len(tokens) : len(tokens) + min(self.k, most)]
        assert len(known) <= most
        places = range(len(tokens), len(tokens) + len(known))
        return [
            (token + 1) % N_IDS if self.wrong_every and place % self.wrong_every == 0 else token
            for place, token in zip(places, known, strict=True)
        ]


@pytest.fixture(scope="module", name="model")
def _model():
    return random_model(SMALL)


def guided(model, guide, n_slots=1, stops=frozenset(), **more):
    runner = ModelRunner(model, n_slots=n_slots, max_seq_len=256)
    return Engine(runner, tokenizer_size=N_IDS, stop_tokens=stops, guide=guide, **more)


def ids_of(answers):
    return {key: (ids, reason) for key, (ids, _, reason) in answers.items()}


# -- constraints


@pytest.mark.parametrize(
    "settings",
    [*SETTINGS, {"temperature": 2.0, "top_p": 1.0, "min_p": 0.01}, {"temperature": 0, "logit_bias": {7: 50.0}}],
)
@pytest.mark.parametrize("n_slots", [1, 8])
def test_every_row_keeps_to_its_constraint(model, settings, n_slots):
    """Greedy, drawn, penalised and biased rows; every token is told once, and log-probabilities stay the model's."""
    live = []

    def guide(request):
        live.append(EvenIds())
        return Guides(live[-1])

    answers, _ = run(guided(model, guide, n_slots), requests_of(settings))
    assert all(token % 2 == 0 for ids, _, _ in answers.values() for token in ids)
    assert sorted(each.seen for each in live) == sorted(ids for ids, _, _ in answers.values())
    if settings == {"temperature": 0}:
        free, _ = run(make_engine(n_slots, model=model), requests_of(settings))
        first = {key: (ids[0], scores[0]) for key, (ids, scores, _) in free.items()}
        for key, (ids, scores, _) in answers.items():
            if ids[0] == first[key][0]:
                assert scores[0] == pytest.approx(first[key][1], abs=2e-5)
            else:
                assert scores[0] < first[key][1]


def test_rows_beside_a_constrained_one_are_what_they_were(model):
    requests = requests_of(SETTINGS[1])
    free, _ = run(make_engine(8, model=model), requests)
    answers, _ = run(guided(model, lambda request: Guides(EvenIds() if request.key == 2 else None), 8), requests)
    assert all(token % 2 == 0 for token in answers[2, 0][0])
    assert {key: value for key, value in ids_of(answers).items() if key[0] != 2} == {
        key: value for key, value in ids_of(free).items() if key[0] != 2
    }


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_constraint_that_is_done_ends_the_answer(model, n):
    """At once, without a stop token, and without a step if nothing may come at all."""
    engine = guided(model, lambda request: Guides(EvenIds(n)))
    answers, _ = run(engine, [Request(0, (1, 2), Sampling(max_tokens=9, temperature=0), seed=1)])
    assert (len(answers[0, 0][0]), answers[0, 0][2]) == (n, "stop")
    assert engine.stats.n_steps == n
    assert not engine.scheduler.busy


def test_a_prompt_is_scored_also_where_nothing_may_follow(model):
    request = Request(0, (1, 2, 3), Sampling(max_tokens=5, prompt_logprobs=True), seed=1)
    answers, scores = run(guided(model, lambda request: Guides(EvenIds(0))), [request])
    assert answers[0, 0] == ([], [], "stop")
    assert len(scores[0]) == 2


def test_a_constraint_without_a_way_out_ends_its_row_alone(model):
    engine = guided(model, lambda request: Guides(Nothing() if request.key == 1 else None), 8)
    ended = {each.key: each for each in engine.generate(requests_of(SETTINGS[0])) if isinstance(each, Finish)}
    assert {key: each.reason for key, each in ended.items()} == {
        key: "error" if key == 1 else "length" for key in range(len(PROMPTS))
    }
    assert isinstance(ended[1].error, InputRejected)
    assert str(ended[1].error) == f"what the answer is held to allows no token at position {len(PROMPTS[1])}"


def test_a_constraint_that_cannot_be_made_ends_its_row_alone(model):
    def guide(request):
        if request.key == 1:
            raise InputRejected("no such grammar")
        return Guides()

    engine = guided(model, guide, 2)
    reasons = {each.key: each.reason for each in engine.generate(requests_of(SETTINGS[0])) if isinstance(each, Finish)}
    assert reasons == {key: "error" if key == 1 else "length" for key in range(len(PROMPTS))}


def test_it_is_made_from_what_crosses_processes(model):
    """A request that came as JSON is as good as one of this process."""
    request = Request(3, (1, 2, 3), Sampling(max_tokens=6, logit_bias={7: 50.0}), seed=5)
    json.loads(write_order(request))
    guide = lambda request: Guides(EvenIds() if 7 in request.sampling.logit_bias else None)  # noqa: E731
    here, _ = run(guided(model, guide), [request])
    there, _ = run(guided(model, guide), [read_order(write_order(request))])
    assert here == there
    assert all(token % 2 == 0 for token in here[3, 0][0])


@pytest.mark.parametrize("n_allowed", [1, 2, 3])
def test_few_allowed_tokens_are_all_that_is_drawn(n_allowed):
    """Among 5,000 tokens whose probabilities are nearly nothing, at the top of the range of random numbers too."""

    class Top:
        def random(self):
            return 1 - 2**-53

    logits = torch.full((1, 5000), 20.0)
    allowed = torch.zeros(5000, dtype=torch.bool)
    allowed[torch.tensor([17, 400, 4999][:n_allowed])] = True
    logits[0, allowed] = -80.0
    for settings in ({"top_p": 1.0}, {"top_p": 0.9}, {"top_k": 50}, {"min_p": 0.1}, {"frequency_penalty": 1.0}):
        draw = sampler.Draw(Sampling(temperature=1.0, **settings), Top(), (1,), (17,), allowed)
        (token,) = sampler.pick(logits, [draw])
        assert allowed[token]


def test_not_a_number_is_found_before_a_mask_hides_it():
    logits = torch.zeros(1, 8)
    logits[0, 1] = float("nan")
    draw = sampler.Draw(Sampling(temperature=0), None, (), (), torch.arange(8) % 2 == 0)
    assert sampler.pick(logits, [draw]) == [None]


# -- proposers


def answers_by(model, settings, wrong_every=None, k=3, n_slots=8, constraint=None, **more):
    """The same requests without a proposer, with one that knows the answers, and the engine that ran them."""
    requests = requests_of(settings, **more)
    plain, _ = run(guided(model, lambda request: Guides(constraint and constraint()), n_slots), requests)

    def guide(request):
        answer = plain[request.key, 0][0]
        return Guides(constraint and constraint(), Script(request.prompt, answer, k, wrong_every))

    engine = guided(model, guide, n_slots)
    found, _ = run(engine, requests)
    return plain, found, engine


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("wrong_every", [None, 1, 2, 3], ids=["right", "wrong", "half", "partly"])
@pytest.mark.parametrize("n_slots", [1, 8])
def test_guesses_change_no_id(model, settings, wrong_every, n_slots):
    """Drawn with the request's own random numbers, one a token: right, wrong and partly right guesses."""
    plain, found, engine = answers_by(model, settings, wrong_every, n_slots=n_slots)
    assert ids_of(found) == ids_of(plain)
    for key, (_, scores, _) in found.items():
        assert scores == pytest.approx(plain[key][1], abs=2e-5)
    assert engine.stats.n_guessed > 0
    if wrong_every == 1:
        assert engine.stats.n_kept == 0
    elif wrong_every is None:
        assert engine.stats.n_kept == engine.stats.n_guessed
    else:
        assert 0 < engine.stats.n_kept < engine.stats.n_guessed


def test_guesses_keep_to_constraints(model):
    plain, found, engine = answers_by(model, SETTINGS[1], wrong_every=3, constraint=EvenIds)
    assert ids_of(found) == ids_of(plain)
    assert all(token % 2 == 0 for ids, _, _ in found.values() for token in ids)
    assert engine.stats.n_kept > 0


def test_statistics_count_what_was_drawn():
    """Two of three steps are saved; prompt and answer are counted as without guesses."""
    model = random_model(SMALL)
    request = Request(0, tuple(PROMPTS[4]), Sampling(max_tokens=13, temperature=0), seed=1)
    plain = make_engine(model=model)
    answer = run(plain, [request])[0][0, 0][0]
    engine = guided(model, lambda request: Guides(proposer=Script(request.prompt, answer, 2)))
    assert run(engine, [request])[0][0, 0][0] == answer
    for name in ("n_prompt", "n_reused", "n_decoded"):
        assert getattr(engine.stats, name) == getattr(plain.stats, name), name
    assert (engine.stats.decode_steps, plain.stats.decode_steps) == (4, 12)
    assert (engine.stats.n_guessed, engine.stats.n_kept) == (8, 8)


@pytest.mark.parametrize("wrong_every", [None, 1, 2])
def test_what_was_guessed_leaves_no_trace_in_the_cache(model, wrong_every):
    """What a slot says that it holds is what a prompt that goes on from there finds."""
    requests = requests_of(SETTINGS[0])[:2]
    plain, found, engine = answers_by(model, SETTINGS[0], wrong_every, n_slots=2)
    assert plain.keys() == found.keys()
    for request in requests:
        longer = request._replace(prompt=(*request.prompt, *plain[request.key, 0][0], 5, 6))
        expected, _ = run(make_engine(model=model), [longer])
        assert ids_of(run(engine, [longer])[0]) == ids_of(expected)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_stop_token_ends_the_answer_within_a_guess(model, place):
    request = Request(0, (1, 2), Sampling(max_tokens=20, temperature=0), seed=1)
    free = run(make_engine(model=model), [request])[0][0, 0][0]
    stops = frozenset({free[place]})
    plain, _ = run(make_engine(model=model, stops=stops), [request])
    engine = guided(model, lambda request: Guides(proposer=Script(request.prompt, free, 7)), stops=stops)
    found, _ = run(engine, [request])
    assert ids_of(found) == ids_of(plain)
    assert found[0, 0][2] == "stop"


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 254])
def test_no_guess_reaches_past_the_end(model, max_tokens):
    """Of the answer, and of the cache."""
    request = Request(0, (1, 2), Sampling(max_tokens=max_tokens, temperature=0), seed=1)
    answer = run(make_engine(model=model), [request])[0][0, 0][0]
    engine = guided(model, lambda request: Guides(proposer=Script(request.prompt, [*answer, *range(50)], 50)))
    assert run(engine, [request])[0][0, 0] == (answer, [], "length")


def test_cancelled_rows_and_shared_prompts_guess_too(model):
    one = Request(0, tuple(range(1, 40)), Sampling(max_tokens=10, n=3, temperature=1.0), seed=7)
    plain, _ = run(make_engine(3, model=model), [one])
    engine = guided(model, lambda request: Guides(proposer=Script(request.prompt, plain[0, 1][0], 4)), 3)
    assert ids_of(run(engine, [one])[0]) == ids_of(plain)
    assert engine.stats.n_kept > 0


def test_memory_that_runs_out_drops_the_guesses(model, monkeypatch):
    """The device holds two rows."""
    requests = requests_of(SETTINGS[1])
    plain, _ = run(make_engine(8, model=model), requests)
    engine = guided(model, lambda request: Guides(proposer=Script(request.prompt, plain[request.key, 0][0], 2)), 8)
    whole = engine.runner.run

    def run_if_it_fits(plan):
        if len(plan.spans) > 2:
            raise torch.OutOfMemoryError("no more")
        return whole(plan)

    monkeypatch.setattr(engine.runner, "run", run_if_it_fits)
    assert ids_of(run(engine, requests)[0]) == ids_of(plain)
    assert engine.stats.n_kept > 0


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_guess_of_a_damaged_id_costs_the_row_nothing(place):
    """Keys that are NaN reach all that looks past them: the span is computed again, and guesses end."""
    model = random_model(SMALL)
    model.tok_embeddings.weight[95] = float("nan")
    request = Request(0, (1, 2, 3), Sampling(max_tokens=10, temperature=0, logit_bias={95: -100.0}), seed=1)
    expected, _ = run(make_engine(model=model), [request])
    assert expected[0, 0][2] == "length"
    answer = expected[0, 0][0]
    spoilt = [*answer[:place], 95, *answer[place + 1 :]]
    engine = guided(model, lambda request: Guides(proposer=Script(request.prompt, spoilt, 3)))
    assert run(engine, [request])[0] == expected
    assert engine.stats.n_guessed == 0, "the guess was dropped with what it spoilt"


def test_ranks_repeat_guesses(model):
    """A follower's cache is the leader's to the bit."""
    leading, following = (ModelRunner(model, n_slots=3, max_seq_len=256) for _ in range(2))
    said = SimpleQueue()
    thread = threading.Thread(target=repeat, args=(following, said.get), daemon=True)
    thread.start()
    requests = requests_of(SETTINGS[1])
    plain, _ = run(make_engine(3, model=model), requests)
    leader = Leader(leading, said.put, lambda error: error)
    guide = lambda request: Guides(proposer=Script(request.prompt, plain[request.key, 0][0], 3, 4))  # noqa: E731
    engine = Engine(leader, tokenizer_size=N_IDS, stop_tokens=frozenset(), guide=guide)
    assert ids_of(run(engine, requests)[0]) == ids_of(plain)
    leader.clear(1, 20)
    leader.end()
    thread.join(10)
    for mine, theirs in zip(leading.cache.layers, following.cache.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)
    assert not leading.cache.layers[0].keys[1, :, 20:].any()
    assert leading.cache.layers[0].keys[1, :, :20].any()


class Constant:
    def __init__(self, *ids):
        self.ids = ids

    def propose(self, tokens, most):
        return self.ids


def test_what_the_scheduler_plans_for_a_guess():
    """One token and so many more, with as many outputs; none beside a prompt, and none of them cached."""
    scheduler = Scheduler(2, chunk=16)
    first = Sequence(Request(0, (1, 2), Sampling(), 1), 0, 12, proposer=Constant(7, 8, 9))
    scheduler.add(first)
    plan = scheduler.plan()
    assert plan.spans == [Span(0, 0, 2, 1)]
    scheduler.advance(plan)
    first.tokens.append(5)
    plan = scheduler.plan()
    assert (plan.spans, plan.tokens) == ([Span(0, 2, 4, 4)], [5, 7, 8, 9])
    scheduler.advance(plan)
    assert first.n_cached == 3
    first.tokens.append(7)
    assert first.keep_guessed(7)
    first.tokens.append(6)
    assert not first.keep_guessed(6)
    assert first.n_cached == 4
    scheduler.add(Sequence(Request(1, tuple(range(20, 40)), Sampling(), 1), 0, 30))
    plan = scheduler.plan()
    assert plan.spans == [Span(0, 4, 1, 1), Span(1, 0, 16, 0)]
    assert not first.guessed
    scheduler.advance(plan)
    first.tokens += [1, 2, 3, 4, 5]
    first.n_cached = 9
    scheduler.remove(scheduler.sequence_in(1))
    assert scheduler.plan().spans == [Span(0, 9, 2, 2)], "two more may be drawn"
