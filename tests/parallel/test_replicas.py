"""Several engines as one, and one engine on several ranks: what is said between them, without processes."""

import threading
import time
from queue import SimpleQueue

import pytest
import torch
from helpers.engines import SETTINGS, make_engine, requests_of, run

from llama_cli.engine.engine import Engine
from llama_cli.engine.inbox import Cancel, Forget, serve
from llama_cli.engine.request import Finish, PromptScored, Request, Sampling, Token, TokenLogprob
from llama_cli.engine.scheduler import Copy, Plan
from llama_cli.engine.sharing import Caller, Sharing
from llama_cli.errors import DoesNotFit, InputRejected, LlamaError, NumericalError
from llama_cli.model.span import Span
from llama_cli.parallel.leader import Leader, Verb, decode_plan, encode_plan, repeat
from llama_cli.parallel.ranks import RankEnded
from llama_cli.parallel.replicas import (
    GOODBYE,
    Replicas,
    read_order,
    read_report,
    write_order,
    write_report,
)


class Wire:
    """One end of a link between two threads."""

    def __init__(self, incoming, outgoing):
        self.incoming, self.outgoing = incoming, outgoing

    def send(self, text):
        self.outgoing.put(text)

    def receive(self):
        text = self.incoming.get()
        if text is None:
            raise RuntimeError("Connection closed by peer")
        return text


class FarEngine:
    """An engine behind a link, in a thread instead of a process."""

    def __init__(self, engine):
        there, back = SimpleQueue(), SimpleQueue()
        self.link, self._end = Wire(back, there), Wire(there, back)
        self.keys = set()
        orders = SimpleQueue()
        threading.Thread(target=self._listen, args=(orders,), daemon=True).start()
        self.thread = threading.Thread(target=self._serve, args=(engine, orders), daemon=True)
        self.thread.start()

    def _listen(self, orders):
        while True:
            order = read_order(self._end.receive())
            orders.put(order)
            if order is None:
                return

    def _serve(self, engine, orders):
        serve(engine, orders, self._report)
        self._end.send(GOODBYE)

    def _report(self, event):
        self.keys.add(event.key)
        self._end.send(write_report(event))

    def die(self):
        self._end.send(None)


def explain(error):
    return RankEnded(f"explained: {error}")


@pytest.fixture(name="far")
def _far():
    return FarEngine(make_engine(n_slots=2))


@pytest.fixture(name="groups")
def _groups(far):
    groups = Replicas(make_engine(n_slots=2), [far.link], explain)
    yield groups
    groups.end()
    assert groups.wait(5), "no thread is left where Python ends"
    far.thread.join(5)
    assert not far.thread.is_alive()


def ids_of(answers):
    return {key: (ids, reason) for key, (ids, _, reason) in answers[0].items()}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_groups_answer_as_one_engine_does(settings, groups, far):
    expected = run(make_engine(n_slots=1), requests_of(settings, prompt_logprobs=True, n=2))
    found = run(groups, requests_of(settings, prompt_logprobs=True, n=2))
    assert ids_of(found) == ids_of(expected)
    assert found[1].keys() == expected[1].keys()
    for key, scores in expected[1].items():
        assert [score.token_id for score in found[1][key]] == [score.token_id for score in scores]
        assert [score.logprob for score in found[1][key]] == pytest.approx(
            [score.logprob for score in scores], abs=1e-4
        )
    assert far.keys, "the other one had its share"


def test_groups_run_again_and_again(groups):
    first = run(groups, requests_of({"temperature": 0}))
    assert ids_of(run(groups, requests_of({"temperature": 0}))) == ids_of(first)


def test_no_more_is_taken_than_there_is_room_for(groups):
    """Two engines of two slots: the fifth row is read when one of the first four has ended."""
    n_taken = 0

    def counted():
        nonlocal n_taken
        for request in requests_of({"temperature": 0}):
            n_taken += 1
            yield request

    events = groups.generate(counted())
    next(events)
    assert n_taken == 4
    assert sum(isinstance(event, Finish) for event in events) == n_taken == 8


def test_a_cancelled_row_ends_and_frees_its_place(groups):
    requests = [Request(key, (1, 2, key), Sampling(max_tokens=200, temperature=0), seed=0) for key in range(6)]
    lengths = dict.fromkeys(range(6), 0)
    for event in groups.generate(requests):
        if isinstance(event, Token):
            lengths[event.key] += 1
            if event.key % 2 == 0 and lengths[event.key] == 5:
                groups.cancel(event.key, 0)
    assert all(lengths[key] == 200 for key in (1, 3, 5))
    assert all(5 <= lengths[key] < 200 for key in (0, 2, 4))


def test_abandoned_rows_do_not_reach_the_next_caller(groups):
    expected = run(make_engine(), requests_of({"temperature": 0}))
    events = groups.generate(requests_of({"temperature": 1.0, "top_p": 1.0}))
    next(events)
    events.close()
    assert ids_of(run(groups, requests_of({"temperature": 0}))) == ids_of(expected)


def test_none_among_requests_is_no_end(groups):
    """What waits for a caller gives None where it has none yet; replicas took that for the end."""
    expected = run(make_engine(), requests_of({"temperature": 0}))
    gaps = (each for request in requests_of({"temperature": 0}) for each in (None, request, None))
    assert ids_of(run(groups, gaps)) == ids_of(expected)


def test_what_replicas_remember_can_be_dropped(groups):
    """Asked twice, a prompt comes out of the cache; once that is forgotten, it is computed again."""
    request = Request(0, tuple(range(1, 30)), Sampling(temperature=0, max_tokens=2), 0)

    def n_reused():
        before = groups.stats.n_reused
        run(groups, [request] * 3)
        return groups.stats.n_reused - before

    n_reused()
    assert n_reused() > 0
    groups.forget()
    before = groups.stats.n_prompt
    run(groups, [request])
    assert groups.stats.n_prompt - before == len(request.prompt)


def test_what_several_processes_hold_is_in_no_snapshot(groups):
    leader = Leader(make_engine().runner, lambda numbers: None, explain)
    snapshot = make_engine().runner.snapshot(0, [])
    for take in (groups.snapshot, lambda: leader.snapshot(0, [])):
        with pytest.raises(InputRejected, match="several processes have"):
            take()
    for put in (groups.restore, lambda it: leader.restore(0, it)):
        with pytest.raises(InputRejected, match="several processes have"):
            put(snapshot)


def test_replicas_can_be_shared_by_threads(groups):
    """What one thread owns may be several processes."""
    expected = ids_of(run(make_engine(), requests_of({"temperature": 0})))
    sharing = Sharing(groups)
    callers = [Caller(sharing) for _ in range(3)]
    for caller in callers:
        for request in requests_of({"temperature": 0})[:4]:
            caller.hand(request)
    for caller in callers:
        rest = requests_of({"temperature": 0})[4:]
        events = list(caller.generate(rest))
        tokens = [event for event in events if isinstance(event, Token)]
        found = {key: [token.id for token in tokens if token.key == key] for key in range(8)}
        assert found == {key: ids for (key, _), (ids, _) in expected.items()}
    sharing.end()


def test_a_broken_link_is_an_error_at_once(groups, far):
    far.die()
    with pytest.raises(RankEnded, match="explained: Connection closed"):
        run(groups, requests_of({"temperature": 0}))


def test_an_error_of_the_own_engine_is_raised():
    engine = make_engine()
    engine.runner.run = lambda plan: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(Replicas(engine, [], explain), requests_of({"temperature": 0}))


def test_a_row_that_waits_can_be_cancelled():
    """Its cancellation must not be lost because the engine has not begun with it."""
    orders, reports = SimpleQueue(), []
    for key in range(3):
        orders.put(Request(key, (1, 2), Sampling(max_tokens=20, temperature=0), seed=0))
    for order in (Cancel(2, 0), None):
        orders.put(order)
    serve(make_engine(n_slots=1), orders, reports.append)
    assert [event for event in reports if event.key == 2] == [Finish(2, 0, "stop")]
    assert sum(isinstance(event, Token) for event in reports) == 40


@pytest.mark.parametrize(
    "order",
    [
        None,
        Cancel(3, 1),
        Forget(),
        Request(7, (1, 2, 3), Sampling(), 2**64 - 1),
        Request(0, (5,), Sampling(stop=("a", '"\n'), logit_bias={5: -1.5}, stop_token_ids=(4,), n=3, seed=1), 0, 4),
    ],
    ids=["end", "cancel", "forget", "request", "settings"],
)
def test_orders_survive_the_wire(order):
    assert read_order(write_order(order)) == order


SCORE = TokenLogprob(5, -0.1234567890123456789, ((5, -0.1), (6, float("-inf"))))


@pytest.mark.parametrize(
    "event",
    [Token(1, 0, 5, SCORE, is_stop=False), Token(1, 2, 5, None, is_stop=True), PromptScored(4, (SCORE, SCORE)),
     PromptScored(4, ()), Finish(3, 1, "length")],
    ids=repr,
)  # fmt: skip
def test_events_survive_the_wire(event):
    assert read_report(write_report(event)) == event


@pytest.mark.parametrize("error", [NumericalError("NaN", "a hint"), DoesNotFit("full", None), LlamaError("other")])
def test_errors_survive_the_wire(error):
    found = read_report(write_report(Finish(1, 0, "error", error))).error
    assert (type(found), found.message, found.hint) == (type(error), error.message, error.hint)
    ended = read_report(write_report(error))
    assert (ended.message, ended.hint, ended.exit_code) == (error.message, error.hint, error.exit_code)


@pytest.mark.parametrize(
    "plan",
    [
        Plan([Copy(1, 2, 30)], [Span(0, 5, 1, 1), Span(2, 30, 3, 0)], [9, 8, 7, 6]),
        Plan([Copy(1, 2, 30), Copy(0, 3, 4)], [Span(0, 5, 1, 1), Span(1, 8, 4, 4), Span(2, 0, 3, 2)], [*range(8)], 1),
        Plan([], [], []),
    ],
)
def test_a_plan_survives_its_numbers(plan):
    verb, *numbers = encode_plan(plan)
    assert verb == Verb.STEP
    assert decode_plan(numbers) == plan


def test_who_repeats_has_the_same_cache():
    """Rank 1 does what rank 0 says, nothing else: its cache is the same to the bit, whatever was run."""
    leading, following = make_engine(n_slots=3).runner, make_engine(n_slots=3).runner
    said = SimpleQueue()
    thread = threading.Thread(target=repeat, args=(following, said.get), daemon=True)
    thread.start()
    leader = Leader(leading, said.put, explain)
    engine = Engine(leader, tokenizer_size=leading.model.args.vocab_size, stop_tokens=frozenset(), chunk=7)
    expected = run(make_engine(), requests_of({"temperature": 0}))
    assert ids_of(run(engine, requests_of({"temperature": 0}))) == ids_of(expected)
    leader.clear(1)
    leader.end()
    thread.join(10)
    assert leading.cache.max_seq_len == following.cache.max_seq_len > 0
    for mine, theirs in zip(leading.cache.layers, following.cache.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)
    assert leading.cache.layers[0].keys[0].any()
    assert not leading.cache.layers[0].keys[1].any()


class Scripted:
    """A runner that does what it is told to, instead of computing."""

    def __init__(self, act):
        self.run = lambda plan: act()


NOTHING = Plan([], [], [])


def test_an_interrupt_waits_for_the_end_of_a_step():
    """Half a step would leave the other ranks waiting inside it."""
    import signal

    done = []

    def act():
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.001)
        done.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        leader = Leader(Scripted(act), lambda numbers: None, explain)
        with pytest.raises(KeyboardInterrupt):
            leader.run(NOTHING)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert done
    assert not leader.in_step


def test_a_second_interrupt_does_not_wait():
    import signal

    def act():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    leader = Leader(Scripted(act), lambda numbers: None, explain)
    with pytest.raises(KeyboardInterrupt):
        leader.run(NOTHING)
    assert leader.in_step, "the others cannot be told anything any more"


@pytest.mark.parametrize(
    ("error", "becomes"), [(RuntimeError("Connection closed"), RankEnded), (torch.OutOfMemoryError(), DoesNotFit)]
)
def test_errors_of_a_step_are_explained(error, becomes):
    """Out of memory on one rank cannot be mended by a smaller step: the others are in the middle of this one."""

    def act():
        raise error

    leader = Leader(Scripted(act), lambda numbers: None, explain)
    with pytest.raises(becomes):
        leader.run(NOTHING)
    assert leader.in_step
