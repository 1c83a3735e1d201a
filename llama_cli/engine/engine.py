"""The loop: the only place where tokens are produced."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DoesNotFit, InputRejected, LlamaError, NumericalError
from ..model.pieces import CHUNK
from ..model.span import Span
from . import sampler
from .constraint import Constraint
from .limits import Limits
from .proposer import Proposer
from .request import Event, Finish, PromptScored, Request, Token, TokenLogprob
from .runner import Runner, Snapshot
from .scheduler import Plan, Scheduler, Sequence

logger = logging.getLogger(__name__)

END = object()


@dataclass
class Stats:
    """Counts and seconds of all steps so far. A step with any prompt in it counts as prefill."""

    n_prompt: int = 0  # prompt tokens computed
    n_reused: int = 0  # prompt tokens found in the cache
    n_decoded: int = 0  # tokens made in steps without prompt tokens
    n_steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_steps: int = 0
    n_guessed: int = 0  # tokens that a proposer guessed, and that steps computed
    n_kept: int = 0  # those of them that were drawn


class Guides(NamedTuple):
    """What takes part in the choice of one sample's tokens, besides the model and the sampling."""

    constraint: Constraint | None = None
    proposer: Proposer | None = None


def no_guides(request: Request) -> Guides:
    """Most requests have none."""
    return Guides()


class Engine:
    """Continuous batching: requests join and leave the running batch at every step."""

    def __init__(
        self,
        runner: Runner,
        *,
        tokenizer_size: int,
        stop_tokens: frozenset[int],
        vocab_size: int | None = None,
        chunk: int = CHUNK,
        guide: Callable[[Request], Guides] = no_guides,
    ) -> None:
        """The tokenizer has text for `tokenizer_size` ids; the model has `vocab_size`, by default as many.

        A request is plain data, since it may cross processes. In the process that runs it, `guide` is called for each
        of its samples and gives the sample's constraint and proposer; a LlamaError that it raises ends that sample.
        """
        self._guide = guide
        self._constraints: dict[Sequence, Constraint] = {}
        self.runner = runner
        self.limits = Limits(vocab_size or tokenizer_size, tokenizer_size, runner.max_seq_len)
        self.stop_tokens = stop_tokens
        self.scheduler = Scheduler(runner.n_slots, chunk)
        self.stats = Stats()
        self._random: dict[Sequence, Random] = {}
        self._cancelled: set[tuple[int, int]] = set()

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Event]:
        """Run requests to their ends, as many at once as there are slots; `requests` is read as needed.

        None among them means that there is none at the moment. One that the model cannot run ends with the reason,
        and the others go on. Abandoning the iterator abandons the requests.
        """
        coming = iter(requests)
        exhausted = False
        try:
            while True:
                while not exhausted and self.scheduler.has_room:
                    request = next(coming, END)
                    if request is None:
                        break
                    if isinstance(request, Request):
                        yield from self._start(request)
                    else:
                        exhausted = True
                yield from self._drop_cancelled()
                if self.scheduler.busy:
                    yield from self._step()
                elif exhausted:
                    return
        finally:
            for sequence in list(self._random):
                self._end(sequence)
            self._cancelled.clear()

    def cancel(self, key: int, sample: int) -> None:
        """Stop one sample before the next step: the caller has seen a stop string."""
        self._cancelled.add((key, sample))

    def refuse(self, request: Request) -> list[Finish]:
        """The last events of a request that the model cannot run, one for each sample; none if it can."""
        fault = self.limits.fault_of(request)
        if fault is None:
            return []
        return [Finish(request.key, each, "error", fault) for each in range(getattr(request.sampling, "n", 1))]

    @property
    def is_busy(self) -> bool:
        """Whether a request waits or runs."""
        return self.scheduler.busy

    def reserve(self, length: int) -> None:
        """Let the cache grow now to what a sequence of `length` tokens takes; no more than the context."""
        self.runner.reserve(min(length, self.limits.max_seq_len))

    def forget(self) -> None:
        """Compute the next prompts from their beginnings, whatever the cache holds of them."""
        self.scheduler.forget()

    def snapshot(self) -> Snapshot:
        """What the slot with the longest past sequence holds; InputRejected where several ranks have parts of it."""
        slot = max(self.scheduler.slots, key=lambda slot: len(slot.held))
        return self.runner.snapshot(slot.index, slot.held)

    def restore(self, snapshot: Snapshot) -> None:
        """Let a prompt that begins as a snapshot does find it in the cache; InputRejected if it is another model's."""
        self.runner.restore(0, snapshot)
        self.scheduler.slots[0].held = list(snapshot.ids)

    def _start(self, request: Request) -> Iterator[Event]:
        if refused := self.refuse(request):
            yield from refused
            return
        limit = min(len(request.prompt) + request.sampling.max_tokens, self.runner.max_seq_len)
        for sample in range(request.sampling.n):
            try:
                constraint, proposer = self._guide(request)
            except LlamaError as error:
                yield Finish(request.key, sample, "error", error)
                continue
            sequence = Sequence(request, sample, limit, proposer=proposer)
            is_done = constraint is not None and constraint.is_done
            if (sequence.is_full or is_done) and not sequence.scores_prompt:
                yield Finish(request.key, sample, "stop" if is_done else "length")
                continue
            if constraint is not None:
                self._constraints[sequence] = constraint
            self.runner.reserve(limit)
            self._random[sequence] = Random((request.seed + sample) % 2**64)
            self.scheduler.add(sequence)

    def _end(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        del self._random[sequence]
        self._constraints.pop(sequence, None)

    def _end_damaged(self, sequence: Sequence) -> None:
        """End a sequence that met NaN, and leave none of it in its slot."""
        slot = sequence.slot
        assert slot is not None, "it ran"
        self._end(sequence)
        self.scheduler.forget_slot(slot)
        self.runner.clear(slot)

    def _drop_cancelled(self) -> Iterator[Event]:
        if not self._cancelled:
            return
        for sequence in list(self._random):
            if (sequence.request.key, sequence.sample) in self._cancelled:
                self._end(sequence)
                yield Finish(sequence.request.key, sequence.sample, "stop")
        self._cancelled.clear()

    def _step(self) -> Iterator[Event]:
        began = time.perf_counter()
        plan = self.scheduler.plan()
        try:
            logits = self.runner.run(plan)[:, : self.limits.tokenizer_size]
        except torch.OutOfMemoryError:
            yield from self._make_room()
            return
        n_prompt = sum(span.length for span in plan.spans if self.scheduler.sequence_in(span.slot).in_prefill)
        self.scheduler.advance(plan)
        kept_before = self.stats.n_kept
        with torch.inference_mode():  # around all of it: as a decorator it is entered once for each event
            events = list(self._choose(plan, logits))
        self._count(plan, n_prompt, self.stats.n_kept - kept_before, time.perf_counter() - began)
        yield from events

    def _make_room(self) -> Iterator[Event]:
        """A step did not fit into the device's memory: go on with half the rows, or give up the only one."""
        if self.scheduler.shrink():
            logger.warning("out of memory: going on with %d rows at a time", self.scheduler.most_running)
            return
        for sequence in list(self.scheduler.running):
            self._end(sequence)
            error = DoesNotFit("the memory of the device ran out with one row", "give a smaller --max-seq-len")
            yield Finish(sequence.request.key, sequence.sample, "error", error)

    def _choose(self, plan: Plan, logits: Tensor) -> Iterator[Event]:
        """Score the prompts that asked for it and give every sequence at its end the next token."""
        rows: dict[Sequence, int] = {}  # of the logits that its next token is drawn from
        first = 0
        for number, span in enumerate(plan.spans):
            sequence = self.scheduler.sequence_in(span.slot)
            if number >= len(plan.spans) - plan.n_scored:
                yield from self._score_prompt(sequence, span, logits[first : first + span.n_outputs])
            first += span.n_outputs
            if sequence.n_pending:
                continue
            is_done = plan.n_scored > 0 and self._is_done(sequence)
            if is_done or sequence.is_full:  # only its prompt was to be scored
                self._end(sequence)
                yield Finish(sequence.request.key, sequence.sample, "stop" if is_done else "length")
            elif sequence.guessed and not _are_finite(logits[first - span.n_outputs : first]):
                self._compute_again(sequence, span)
            else:
                n_guessed = len(sequence.guessed)
                self.stats.n_guessed += n_guessed
                rows[sequence] = first - 1 - n_guessed
        while rows:
            wanted = logits[list(rows.values())]
            if plan.n_scored:
                wanted = wanted.to(self.runner.rounds_to).float()  # a token is chosen as where nothing is scored
            chosen = sampler.pick(wanted, [self._draw(sequence) for sequence in rows])
            following: dict[Sequence, int] = {}
            for (sequence, row), token, of_row in zip(rows.items(), chosen, wanted, strict=True):
                yield from self._append(sequence, token, of_row)
                if sequence.guessed and sequence in self._random and token is not None and sequence.keep_guessed(token):
                    self.stats.n_kept += 1
                    following[sequence] = row + 1
            rows = following

    def _compute_again(self, sequence: Sequence, span: Span) -> None:
        """Have a span that met NaN computed anew without guesses: the NaN of a wrong guess spreads, masked or not."""
        sequence.guessed, sequence.proposer = [], None
        sequence.n_cached = span.start
        self.runner.clear(span.slot, span.start)

    def _is_done(self, sequence: Sequence) -> bool:
        """Whether its constraint lets nothing follow."""
        constraint = self._constraints.get(sequence)
        return constraint is not None and constraint.is_done

    def _draw(self, sequence: Sequence) -> sampler.Draw:
        sampling = sequence.request.sampling
        generated = sequence.tokens[sequence.n_prompt :] if sampling.penalises else ()
        constraint = self._constraints.get(sequence)
        allowed = None if constraint is None else constraint.mask()
        return sampler.Draw(sampling, self._random[sequence], sequence.request.prompt, generated, allowed)

    def _score_prompt(self, sequence: Sequence, span: Span, logits: Tensor) -> Iterator[Event]:
        """The logits at position p tell the probability of token p + 1; the last ones tell the answer's."""
        request = sequence.request
        targets = request.prompt[span.end - span.n_outputs + 1 : span.end + 1]
        if targets:
            scores = sampler.logprobs(logits[: len(targets)], targets, request.sampling.top_logprobs)
            yield PromptScored(request.key, tuple(scores))

    def _append(self, sequence: Sequence, token: int | None, logits: Tensor) -> Iterator[Event]:
        key, sample, sampling = sequence.request.key, sequence.sample, sequence.request.sampling
        constraint = self._constraints.get(sequence)
        if token is None:
            self._end_damaged(sequence)
            is_stuck = constraint is not None and _allows_nothing(constraint)
            yield Finish(key, sample, "error", (_stuck if is_stuck else _not_a_number)(len(sequence.tokens)))
            return
        score: TokenLogprob | None = None
        if sampling.wants_logprobs:
            score = sampler.logprobs(logits[None], [token], sampling.top_logprobs)[0]
        is_stop = token in sampling.stop_token_ids or (not sampling.ignore_eos and token in self.stop_tokens)
        sequence.tokens.append(token)
        if constraint is not None:
            constraint.accept(token)
        ends = is_stop or (constraint is not None and constraint.is_done)
        yield Token(key, sample, token, score, is_stop)
        if ends or sequence.is_full:
            self._end(sequence)
            yield Finish(key, sample, "stop" if ends else "length")

    def _count(self, plan: Plan, n_prompt: int, n_kept: int, seconds: float) -> None:
        self.stats.n_steps += 1
        self.stats.n_reused = self.scheduler.n_reused
        if n_prompt:
            self.stats.prefill_seconds += seconds
            self.stats.n_prompt += n_prompt
        else:
            self.stats.decode_seconds += seconds
            self.stats.decode_steps += 1
            self.stats.n_decoded += len(plan.spans) + n_kept


def _are_finite(logits: Tensor) -> bool:
    return bool(logits.max(-1).values.isfinite().all())


def _allows_nothing(constraint: Constraint) -> bool:
    mask = constraint.mask()
    return mask is not None and not bool(mask.any())


def _stuck(position: int) -> InputRejected:
    return InputRejected(f"what the answer is held to allows no token at position {position}")


def _not_a_number(position: int) -> NumericalError:
    return NumericalError(
        f"the model produced NaN or infinity at position {position}",
        "a damaged weight, or float16 overflowing: try --dtype fp32, or download the files again",
    )
