"""Who runs, where, on what: integers only."""

import random

import pytest

from llama_cli.engine.request import Request, Sampling
from llama_cli.engine.scheduler import SCORING_CHUNK, WORTH_WAITING_FOR, Copy, Scheduler, Sequence, common_prefix
from llama_cli.model.span import Span


def sequence(prompt, sample=0, max_tokens=8, **sampling):
    request = Request(0, tuple(prompt), Sampling(max_tokens=max_tokens, **sampling), 1)
    return Sequence(request, sample, len(prompt) + max_tokens)


def step(scheduler, token=99):
    """One plan carried out: rows at their end get a token; returns (copies, [(slot, start, length), ...])."""
    plan = scheduler.plan()
    done = [(span.slot, span.start, span.length) for span in plan.spans]
    scheduler.advance(plan)
    for span in plan.spans:
        sequence = scheduler.sequence_in(span.slot)
        if sequence.n_pending == 0:
            sequence.tokens.append(token)
    return plan.copies, done


def test_prompt_then_one_token_at_a_time():
    scheduler = Scheduler(1, chunk=512)
    scheduler.add(sequence([1, 2, 3]))
    assert step(scheduler) == ([], [(0, 0, 3)])
    assert step(scheduler) == ([], [(0, 3, 1)])
    assert step(scheduler) == ([], [(0, 4, 1)])


def test_long_prompts_are_cut_and_decoding_goes_on_beside_them():
    scheduler = Scheduler(2, chunk=10)
    scheduler.add(sequence([1, 2]))
    step(scheduler)
    scheduler.add(sequence(range(100, 125)))
    assert step(scheduler)[1] == [(0, 2, 1), (1, 0, 10)]
    assert step(scheduler)[1] == [(0, 3, 1), (1, 10, 10)]
    assert step(scheduler)[1] == [(0, 4, 1), (1, 20, 5)]
    assert step(scheduler)[1] == [(0, 5, 1), (1, 25, 1)]


def test_more_requests_than_slots_wait_their_turn():
    scheduler = Scheduler(2, chunk=512)
    waiting = [sequence([10 * n, 10 * n + 1]) for n in range(3)]
    for each in waiting:
        scheduler.add(each)
    assert not scheduler.has_room
    assert [slot for slot, _, _ in step(scheduler)[1]] == [0, 1]
    scheduler.remove(waiting[0])
    assert step(scheduler)[1] == [(1, 2, 1), (0, 0, 2)]


def test_a_chat_turn_costs_its_new_tokens():
    """The second turn begins with the first turn and its answer: only the rest is computed."""
    scheduler = Scheduler(1, chunk=512)
    first = sequence([1, 2, 3])
    scheduler.add(first)
    for _ in range(4):
        step(scheduler)
    scheduler.remove(first)  # 3 prompt tokens and 3 answers are cached; the last answer is not
    scheduler.add(sequence([*first.tokens, 50, 51]))
    assert step(scheduler)[1] == [(0, 6, 3)]
    assert scheduler.n_reused == 6


def test_the_same_prompt_again_computes_its_last_token():
    """Its logits are needed, and logits are not cached."""
    scheduler = Scheduler(1, chunk=512)
    first = sequence([1, 2, 3])
    scheduler.add(first)
    step(scheduler)
    scheduler.remove(first)
    scheduler.add(sequence([1, 2, 3]))
    assert step(scheduler)[1] == [(0, 2, 1)]


def test_samples_share_one_prefill():
    scheduler = Scheduler(3, chunk=512)
    for sample in range(3):
        one = sequence([1, 2, 3, 4], sample)
        one.request = scheduler.waiting[0].request if scheduler.waiting else one.request
        scheduler.add(one)
    assert step(scheduler) == ([], [(0, 0, 4)])
    copies, work = step(scheduler)
    assert copies == [Copy(0, 1, 3), Copy(0, 2, 3)]
    assert work == [(0, 4, 1), (1, 3, 1), (2, 3, 1)]


def test_a_shared_system_prompt_is_computed_once():
    scheduler = Scheduler(4, chunk=512)
    system = list(range(200, 300))
    for n in range(4):
        scheduler.add(sequence([*system, n]))
    total = 0
    for _ in range(3):
        total += sum(length for _, _, length in step(scheduler)[1])
    assert total <= len(system) + 4 * 3  # the prefix once, and the rows' own tokens


def test_unlike_prompts_do_not_wait_for_each_other():
    """Every prompt begins with the begin token; that is no reason to wait."""
    scheduler = Scheduler(2, chunk=512)
    scheduler.add(sequence([1, 5, 6]))
    scheduler.add(sequence([1, 7, 8]))
    assert len(step(scheduler)[1]) == 2


def test_the_slot_that_was_idle_longest_is_overwritten():
    scheduler = Scheduler(2, chunk=512)
    for prompt in ([1, 2, 3], [4, 5, 6]):
        one = sequence(prompt)
        scheduler.add(one)
        step(scheduler)
        scheduler.remove(one)
    scheduler.add(sequence([7, 8, 9]))
    assert step(scheduler)[1] == [(0, 0, 3)]


def test_scoring_a_prompt_computes_all_of_it_in_small_steps():
    scheduler = Scheduler(1, chunk=512)
    first = sequence(range(100))
    scheduler.add(first)
    step(scheduler)
    scheduler.remove(first)
    scheduler.add(sequence(range(100), prompt_logprobs=True))
    plan = scheduler.plan()
    assert plan.spans == [Span(0, 0, SCORING_CHUNK, SCORING_CHUNK)]
    assert plan.n_scored == 1


@pytest.mark.parametrize(
    ("a", "b", "n"), [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 9], [1, 2, 3], 2), ([5], [6], 0)]
)
def test_common_prefix(a, b, n):
    assert common_prefix(a, b) == common_prefix(b, a) == common_prefix(a, b, n) == n


def slow_place(scheduler, arriving):
    """Whose beginning a sequence takes over and how much of it, by counting in every slot."""
    usable = len(arriving.tokens) - 1
    shared = {slot.index: min(common_prefix(arriving.tokens, slot.tokens), usable) for slot in scheduler.slots}
    best = max(scheduler.slots, key=lambda slot: (shared[slot.index], slot.sequence is None, -slot.last_used))
    for other in scheduler.running:
        gain = min(common_prefix(arriving.tokens, other.tokens), usable) - shared[best.index]
        if other.in_prefill and gain >= (1 if other.request is arriving.request else WORTH_WAITING_FOR):
            return None
    return best.index, shared[best.index]


def test_a_sequence_takes_the_longest_beginning_there_is():
    """3,000 prompts out of few beginnings, some long: slots are compared no further than needed, with one result."""
    chance = random.Random(11)
    scheduler = Scheduler(6, chunk=8)
    found = []
    for number in range(3000):
        shared = chance.choice([[], [0], [0, 1, 2], [number // 8] * 20])
        arriving = sequence([*shared, *(chance.randrange(2) for _ in range(chance.randint(1, 25)))])
        expected = slow_place(scheduler, arriving)
        n_reused = scheduler.n_reused
        scheduler.add(arriving)
        plan = scheduler.plan()
        if expected is None:
            assert arriving.slot is None
        else:
            place, length = expected
            assert scheduler.n_reused - n_reused == length
            assert plan.copies in ([Copy(place, arriving.slot, length)], [])
            assert bool(plan.copies) == (length > 0 and place != arriving.slot)
        found.append(expected)
        scheduler.advance(plan)
        for running in list(scheduler.running):
            if running.n_pending == 0:
                running.tokens.append(chance.randrange(2))
            if chance.random() < 0.4 or not scheduler.has_room:
                scheduler.remove(running)
        for waiting in list(scheduler.waiting):
            scheduler.remove(waiting)
    assert None in found
    assert len({length for _, length in filter(None, found)}) > 20


def test_random_arrivals_keep_every_promise():
    """2,000 steps of random prompts, ends and lengths: slots hold one each, every token is computed once, in order."""
    chance = random.Random(7)
    scheduler = Scheduler(5, chunk=16)
    for _ in range(2000):
        if scheduler.has_room and chance.random() < 0.5:
            shared = list(range(chance.choice([0, 3, 20])))
            scheduler.add(sequence([*shared, *(chance.randrange(50) for _ in range(chance.randint(1, 30)))]))
        if not scheduler.busy:
            continue
        plan = scheduler.plan()
        assert plan.spans, "a busy scheduler has work"
        assert sum(span.length for span in plan.spans if span.length > 1) <= 16
        assert sum(span.length for span in plan.spans) == len(plan.tokens)
        slots = [span.slot for span in plan.spans]
        assert len(set(slots)) == len(slots)
        for copy in plan.copies:
            target = scheduler.slots[copy.target].sequence
            assert target is not None
            assert target.n_cached >= copy.length
        for span in plan.spans:
            assert span.start == scheduler.sequence_in(span.slot).n_cached
        scheduler.advance(plan)
        for sequence_ in list(scheduler.running):
            if sequence_.n_pending == 0:
                sequence_.tokens.append(chance.randrange(50))
                if chance.random() < 0.2:
                    scheduler.remove(sequence_)
