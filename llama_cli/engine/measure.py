"""Measures an engine on made-up requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch

from .generator import Generator
from .request import Request, Sampling, Token

SEED = 1234
READ_BYTES = 1 << 30


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


def run_together(engine: Generator, requests: Sequence[Request]) -> Measured:
    """All of them, joining and leaving the batch at every step."""
    began = time.perf_counter()
    n_tokens = sum(isinstance(event, Token) for event in engine.generate(requests))
    return Measured(n_tokens, time.perf_counter() - began)


def run_one_by_one(engine: Generator, requests: Sequence[Request]) -> Measured:
    """Each alone, one after the other."""
    return _sum([run_together(engine, [request]) for request in requests])


def run_in_groups(engine: Generator, requests: Sequence[Request], size: int) -> Measured:
    """Groups of `size`, all to the longest: what a program without a scheduler does.

    Prompts are as long as the longest of their group, padded in front, and all rows run until the longest answer
    is done. Padding and tokens past a row's own end are computed, not counted.
    """
    groups = [requests[at : at + size] for at in range(0, len(requests), size)]
    measured = []
    for group in groups:
        seconds = run_together(engine, _as_long_as_the_longest(group)).seconds
        measured.append(Measured(sum(request.sampling.max_tokens for request in group), seconds))
    return _sum(measured)


def _as_long_as_the_longest(group: Sequence[Request]) -> list[Request]:
    n_prompt = max(len(request.prompt) for request in group)
    sampling = replace(group[0].sampling, max_tokens=max(request.sampling.max_tokens for request in group))
    padded = []
    for request in group:
        copies = -(-n_prompt // len(request.prompt))
        padded.append(request._replace(prompt=(request.prompt * copies)[-n_prompt:], sampling=sampling))
    return padded


def _sum(measured: Sequence[Measured]) -> Measured:
    return Measured(sum(each.n_tokens for each in measured), sum(each.seconds for each in measured))


@dataclass(frozen=True)
class Speed:
    """Prompt and answer apart, in tokens of all rows a second."""

    prefill: float
    decode: float


def run_rows(engine: Generator, n_rows: int, n_prompt: int, n_new: int) -> Speed:
    """So many rows of one length at a time; nothing of their prompts is taken from the cache."""
    engine.forget()
    before = replace(engine.stats)
    run_together(engine, mixed_requests(n_rows, engine.limits.tokenizer_size, (n_prompt, n_prompt), (n_new, n_new)))
    after = engine.stats
    return Speed(
        (after.n_prompt - before.n_prompt) / (after.prefill_seconds - before.prefill_seconds),
        (after.n_decoded - before.n_decoded) / (after.decode_seconds - before.decode_seconds),
    )


def read_bandwidth(rounds: int = 5) -> float:
    """Bytes a second that the CPU reads from memory: the best of some sums over more than its caches hold."""
    block = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    best = 0.0
    for _ in range(rounds):
        began = time.perf_counter()
        block.sum()
        best = max(best, READ_BYTES / (time.perf_counter() - began))
    return best
