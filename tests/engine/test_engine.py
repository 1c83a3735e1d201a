"""What the loop promises: a row knows nothing of its neighbours."""

import pytest
import torch
from helpers.engines import PROMPTS, SETTINGS, make_engine, requests_of, run
from helpers.models import DATA, SMALL, golden, load_model, random_model

from llama_cli.engine.request import Finish, Request, Sampling, Token
from llama_cli.errors import InputRejected


@pytest.fixture(scope="module", name="model")
def _model():
    return random_model(SMALL)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("n_slots", "chunk"), [(2, 512), (8, 512), (3, 5), (8, 1), (1, 17)])
def test_a_row_is_the_same_alone_and_in_any_batch(model, settings, n_slots, chunk):
    """In float32: the same ids, and log-probabilities within rounding."""
    alone = {}
    for request in requests_of(settings):
        alone.update(run(make_engine(model=model), [request])[0])
    together, _ = run(make_engine(n_slots, chunk, model=model), requests_of(settings))
    assert together.keys() == alone.keys()
    for key, (ids, scores, reason) in alone.items():
        assert together[key][0] == ids
        assert together[key][1] == pytest.approx(scores, abs=2e-5)
        assert together[key][2] == reason == "length"


def test_slots_that_remember_change_nothing(model):
    """The same requests twice through one engine: the second time from the cache."""
    engine = make_engine(2, model=model)
    first, _ = run(engine, requests_of(SETTINGS[1]))
    before = engine.stats.n_prompt
    second, _ = run(engine, requests_of(SETTINGS[1]))
    assert {key: ids for key, (ids, _, _) in first.items()} == {key: ids for key, (ids, _, _) in second.items()}
    assert engine.stats.n_prompt - before < before


def test_samples_are_the_requests_with_the_next_seeds(model):
    one = Request(0, (1, 2, 3, 4), Sampling(max_tokens=10, n=3, temperature=1.0), seed=7)
    several, _ = run(make_engine(2, model=model), [one])
    for sample in range(3):
        single = Request(0, one.prompt, Sampling(max_tokens=10, temperature=1.0), seed=7 + sample)
        assert several[0, sample][0] == run(make_engine(model=model), [single])[0][0, 0][0]


def test_samples_prefill_once(model):
    engine = make_engine(4, model=model)
    run(engine, [Request(0, tuple(range(1, 81)), Sampling(max_tokens=4, n=4), seed=1)])
    assert engine.stats.n_prompt == 80 + 3  # the prompt, and its last token once for each further sample


def test_stop_tokens_end_a_row_and_stay_in_its_ids(model):
    free, _ = run(make_engine(model=model), [Request(0, (1, 2), Sampling(max_tokens=20, temperature=0), seed=1)])
    ids = free[0, 0][0]
    stop = ids[5]
    first = ids.index(stop)
    for engine, settings in (
        (make_engine(model=model, stops=frozenset({stop})), {}),
        (make_engine(model=model), {"stop_token_ids": [stop]}),
    ):
        request = Request(0, (1, 2), Sampling(max_tokens=20, temperature=0, **settings), seed=1)
        answers, _ = run(engine, [request])
        assert answers[0, 0][0] == ids[: first + 1]
        assert answers[0, 0][2] == "stop"
    ignoring = Request(0, (1, 2), Sampling(max_tokens=20, temperature=0, ignore_eos=True), seed=1)
    assert run(make_engine(model=model, stops=frozenset({stop})), [ignoring])[0][0, 0][0] == ids


@pytest.mark.parametrize(("n_prompt", "max_tokens", "n_new"), [(10, 100, 22), (31, 5, 1), (10, 5, 5), (10, 0, 0)])
def test_the_context_ends_an_answer(model, n_prompt, max_tokens, n_new):
    engine = make_engine(model=model, max_seq_len=32)
    request = Request(0, tuple(range(n_prompt)), Sampling(max_tokens=max_tokens, temperature=0), seed=1)
    answers, _ = run(engine, [request])
    assert len(answers[0, 0][0]) == n_new
    assert answers[0, 0][2] == "length"
    assert engine.runner.cache.max_seq_len <= 32


def test_ids_without_text_are_never_chosen(model):
    engine = make_engine(model=model, tokenizer_size=40)
    request = Request(0, (1, 2), Sampling(max_tokens=60, temperature=2.0, top_p=1.0), seed=1)
    assert max(run(engine, [request])[0][0, 0][0]) < 40


def test_requests_are_read_as_needed(model):
    """An endless source: no more than what runs is taken from it."""
    taken = []

    def endless():
        key = 0
        while True:
            taken.append(key)
            yield Request(key, (1, key % 50), Sampling(max_tokens=3), seed=key)
            key += 1

    events = make_engine(2, model=model).generate(endless())
    finished = 0
    while finished < 6:
        finished += isinstance(next(events), Finish)
    assert len(taken) <= 6 + 2 + 1


def test_abandoning_the_iterator_frees_the_slots(model):
    engine = make_engine(2, model=model)
    events = engine.generate(requests_of(SETTINGS[0]))
    for _ in range(5):
        next(events)
    events.close()
    assert not engine.scheduler.busy
    answers, _ = run(engine, requests_of(SETTINGS[0]))
    assert len(answers) == len(PROMPTS)


def test_cancelled_rows_stop_and_leave_the_others_alone(model):
    engine = make_engine(8, model=model)
    ids = {}
    reasons = {}
    for event in engine.generate(requests_of(SETTINGS[0])):
        if isinstance(event, Token):
            ids.setdefault(event.key, []).append(event.id)
            if event.key == 2 and len(ids[2]) == 3:
                engine.cancel(2, 0)
        elif isinstance(event, Finish):
            reasons[event.key] = event.reason
    assert len(ids[2]) == 3
    assert reasons == {key: "stop" if key == 2 else "length" for key in range(len(PROMPTS))}


def test_prompt_logprobs_are_the_models(model):
    """Against a log-softmax over the whole prompt at once."""
    from helpers.models import forward, new_cache

    prompt = tuple(range(1, 90)) + tuple(range(5, 70))
    request = Request(0, prompt, Sampling(max_tokens=2, prompt_logprobs=True, top_logprobs=2), seed=1)
    _, scores = run(make_engine(2, model=model), [request])
    expected = forward(model, new_cache(model, 1, len(prompt)), list(prompt)).log_softmax(-1)
    assert len(scores[0]) == len(prompt) - 1
    for place, score in enumerate(scores[0]):
        assert score.token_id == prompt[place + 1]
        assert score.logprob == pytest.approx(float(expected[place, prompt[place + 1]]), abs=5e-5)
        assert score.top[0][1] == pytest.approx(float(expected[place].max()), abs=5e-5)


def test_scoring_alone_makes_no_tokens(model):
    request = Request(0, (1, 2, 3), Sampling(max_tokens=0, prompt_logprobs=True), seed=1)
    answers, scores = run(make_engine(model=model), [request])
    assert answers[0, 0] == ([], [], "length")
    assert len(scores[0]) == 2


def test_prompt_logprobs_are_metas():
    """Meta's own token_logprobs of the golden prompts."""
    model = load_model(DATA / "tiny/gqa")
    case = golden(DATA / "tiny/gqa")["prompts"]["text_b"]
    request = Request(0, tuple(case["ids"]), Sampling(max_tokens=1, prompt_logprobs=True), seed=1)
    _, scores = run(make_engine(model=model), [request])
    assert [score.logprob for score in scores[0]] == pytest.approx(case["token_logprobs_f32"][1:], abs=1e-3)


@pytest.mark.parametrize("name", ["tiny/gqa", "tiny/kv8", "mp/kv8-mp4"])
def test_generate_is_metas_generate(name):
    """Single and ragged batch, the stop token kept as the last id."""
    meta = golden(DATA / "tiny" / name.split("/")[1].split("-")[0])
    engine = make_engine(3, model=load_model(DATA / name), max_seq_len=512, stops=frozenset(meta["stop_tokens"]))
    single = meta["prompts"]["text_b"]["ids"]
    answers, _ = run(engine, [Request(0, tuple(single), Sampling(max_tokens=24, temperature=0), seed=1)])
    assert answers[0, 0][0] == meta["generate"]["single_text_b_24"]
    ragged = meta["generate"]["batch_ragged_16"]
    prompts = [meta["prompts"][prompt]["ids"] for prompt in ragged["prompts"]]
    requests = [Request(k, tuple(p), Sampling(max_tokens=16, temperature=0), seed=1) for k, p in enumerate(prompts)]
    answers, _ = run(engine, requests)
    assert [answers[key, 0][0] for key in range(3)] == ragged["outputs"]


@pytest.mark.promise("P15")
@pytest.mark.parametrize(
    "where", ["tok_embeddings", "norm", "output", "layers.0.feed_forward.w1", "layers.1.attention.wv"]
)
def test_not_a_number_ends_the_row_with_the_reason(where):
    model = random_model(SMALL)
    weight = model.get_submodule(where).weight
    weight[(1, 0) if weight.dim() == 2 else 0] = float("nan")
    answers = list(make_engine(model=model).generate([Request(0, (1, 2, 3), Sampling(max_tokens=4), seed=1)]))
    last = answers[-1]
    assert isinstance(last, Finish)
    assert last.reason == "error"
    assert "NaN or infinity at position 3" in str(last.error)


def test_the_cache_grows_and_keeps_what_it_holds(model):
    engine = make_engine(model=model, max_seq_len=256 * 3)
    short = Request(0, tuple(range(1, 60)), Sampling(max_tokens=4, temperature=0), seed=1)
    first, _ = run(engine, [short])
    assert engine.runner.cache.max_seq_len == 256
    tokens = (*short.prompt, *first[0, 0][0])
    run(engine, [Request(0, (*tokens, *range(1, 90)) * 2, Sampling(max_tokens=4), seed=1)])
    assert engine.runner.cache.max_seq_len == 512
    assert engine.stats.n_reused >= 59
    torch.testing.assert_close(engine.runner.cache.layers[0].keys.shape[2], 512)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_memory_that_runs_out_halves_the_batch(model, monkeypatch, most):
    """A device that holds `most` rows: the answers are those of one that holds all."""
    requests = requests_of(SETTINGS[1])
    expected, _ = run(make_engine(8, model=model), requests)
    engine = make_engine(8, model=model)
    whole = engine.runner.run

    def run_if_it_fits(plan):
        if len(plan.spans) > most:
            raise torch.OutOfMemoryError("no more")
        return whole(plan)

    monkeypatch.setattr(engine.runner, "run", run_if_it_fits)
    answers, _ = run(engine, requests)
    assert {key: (ids, reason) for key, (ids, _, reason) in answers.items()} == {
        key: (ids, reason) for key, (ids, _, reason) in expected.items()
    }
    assert engine.scheduler.most_running <= most


def test_a_row_that_does_not_fit_alone_is_given_up(model, monkeypatch):
    engine = make_engine(4, model=model)

    def never(plan):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(engine.runner, "run", never)
    answers, _ = run(engine, requests_of(SETTINGS[0]))
    assert {reason for _, _, reason in answers.values()} == {"error"}


def test_what_was_computed_can_be_put_into_another_engine(model):
    """A prompt that goes on from a snapshot computes its last id alone, and says what it says anyway."""
    prompt = tuple(range(1, 60))
    request = Request(0, prompt, Sampling(temperature=0, max_tokens=3), 0)
    first, second = make_engine(2, model=model), make_engine(2, model=model)
    expected = run(first, [request])
    snapshot = first.snapshot()
    assert tuple(snapshot.ids[: len(prompt)]) == prompt
    second.restore(snapshot)
    assert run(second, [request]) == expected
    assert second.stats.n_prompt == 1
    second.forget()
    run(second, [request])
    assert second.stats.n_prompt == 1 + len(prompt)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda it: it._replace(keys=it.keys.bfloat16()), "has not the shape"),
        (lambda it: it._replace(values=it.values[:, :1]), "has not the shape"),
        (lambda it: it._replace(ids=it.ids[1:]), "has not the shape"),
        (lambda it: it._replace(values=it.values * torch.inf), "NaN or infinity"),
        (lambda it: type(it)([], it.keys[:, :, :0], it.values[:, :, :0]), "holds 0 tokens"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(model, change, why):
    engine = make_engine(model=model)
    run(engine, [Request(0, (1, 2, 3), Sampling(temperature=0, max_tokens=3), 0)])
    with pytest.raises(InputRejected, match=why):
        engine.restore(change(engine.snapshot()))
    small = make_engine(model=model, max_seq_len=4)
    with pytest.raises(InputRejected, match="the context holds 4"):
        small.restore(engine.snapshot())


def test_no_more_is_reserved_than_the_context(model):
    engine = make_engine(model=model, max_seq_len=40)
    engine.reserve(10**6)
    assert engine.runner.cache.max_seq_len == 40
