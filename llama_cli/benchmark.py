"""Measures an engine on made-up requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from .engine.engine import Engine
from .engine.request import Request, Sampling, Token

SEED = 1234


@dataclass(frozen=True)
class Measured:
    """New tokens of all requests, and the seconds from the first to the last."""

    n_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.n_tokens / self.seconds


def mixed_requests(n: int, n_vocab: int, prompt_lengths: tuple[int, int], new_tokens: tuple[int, int]) -> list[Request]:
    """Greedy requests of random ids, their lengths spread evenly between the bounds; the same every time."""
    random = Random(SEED)
    requests = []
    for key in range(n):
        length, most = random.randint(*prompt_lengths), random.randint(*new_tokens)
        prompt = tuple(random.randrange(n_vocab) for _ in range(length))
        requests.append(Request(key, prompt, Sampling(temperature=0, max_tokens=most, ignore_eos=True), seed=0))
    return requests


def run_together(engine: Engine, requests: Sequence[Request]) -> Measured:
    """All of them, joining and leaving the batch at every step."""
    began = time.perf_counter()
    n_tokens = sum(isinstance(event, Token) for event in engine.generate(requests))
    return Measured(n_tokens, time.perf_counter() - began)


def run_one_by_one(engine: Engine, requests: Sequence[Request]) -> Measured:
    """Each alone, one after the other."""
    return _sum([run_together(engine, [request]) for request in requests])


def run_in_groups(engine: Engine, requests: Sequence[Request], size: int) -> Measured:
    """Groups of `size`, whose rows all run until the longest answer is done: what a program without a scheduler does.

    The tokens past a row's own end are computed, not counted.
    """
    groups = [requests[at : at + size] for at in range(0, len(requests), size)]
    measured = []
    for group in groups:
        longest = max(request.sampling.max_tokens for request in group)
        to_the_longest = replace(group[0].sampling, max_tokens=longest)
        seconds = run_together(engine, [request._replace(sampling=to_the_longest) for request in group]).seconds
        measured.append(Measured(sum(request.sampling.max_tokens for request in group), seconds))
    return _sum(measured)


def _sum(measured: Sequence[Measured]) -> Measured:
    return Measured(sum(each.n_tokens for each in measured), sum(each.seconds for each in measured))


@dataclass(frozen=True)
class MeasuredRow:
    """One request, its prompt and its answer apart."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float


def run_row(engine: Engine, request: Request) -> MeasuredRow:
    """One request alone; nothing of its prompt is taken from the cache."""
    engine.scheduler.forget()
    before = replace(engine.stats)
    run_together(engine, [request])
    after = engine.stats
    return MeasuredRow(
        (after.n_prompt - before.n_prompt) / (after.prefill_seconds - before.prefill_seconds),
        (after.n_decoded - before.n_decoded) / (after.decode_seconds - before.decode_seconds),
    )
