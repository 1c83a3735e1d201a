"""Engines on small models, requests for them, and their answers as dicts that can be compared."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from helpers.models import SMALL, random_model
from torch import Tensor

from llama_cli.backends.cuda_graphs import Compute, DecodeGraphs, Record
from llama_cli.engine.engine import Engine
from llama_cli.engine.request import FinishReason, PromptScored, Request, Sampling, Token, TokenLogprob
from llama_cli.engine.runner import ModelRunner
from llama_cli.model.llama import Llama

SHARED = list(range(30, 70))
PROMPTS = [
    [1, 2, 3],
    [*SHARED, 5, 6],
    [9],
    [*SHARED, 7],
    list(range(1, 90)),
    [*SHARED[:20], 80, 81, 82],
    [4, 4, 4, 4, 4],
    [*SHARED, 5, 6],
]
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 10},
    {"temperature": 0.7, "repetition_penalty": 1.3, "frequency_penalty": 0.2},
]


class Answer(NamedTuple):
    """One sample of a request."""

    ids: list[int]
    logprobs: list[float]
    reason: FinishReason | None


Answers = dict[tuple[int, int], Answer]  # by key and sample
Scores = dict[int, list[TokenLogprob]]  # of the prompts, by key


def make_engine(
    n_slots: int = 1,
    chunk: int = 512,
    stops: frozenset[int] = frozenset(),
    model: Llama | None = None,
    max_seq_len: int = 256,
    tokenizer_size: int | None = None,
) -> Engine:
    model = model or random_model(SMALL)
    runner = ModelRunner(model, n_slots=n_slots, max_seq_len=max_seq_len)
    return Engine(runner, tokenizer_size=tokenizer_size or model.args.vocab_size, stop_tokens=stops, chunk=chunk)


def run(engine: Engine, requests: Iterable[Request | None]) -> tuple[Answers, Scores]:
    """All that an engine tells of requests."""
    answers: Answers = {}
    scores: Scores = {}
    for event in engine.generate(requests):
        if isinstance(event, PromptScored):
            scores.setdefault(event.key, []).extend(event.logprobs)
            continue
        answer = answers.setdefault((event.key, event.sample), Answer([], [], None))
        if isinstance(event, Token):
            answer.ids.append(event.id)
            if event.logprob:
                answer.logprobs.append(event.logprob.logprob)
        else:
            answers[event.key, event.sample] = answer._replace(reason=event.reason)
    return answers, scores


def requests_of(settings: Mapping[str, Any], **more: Any) -> list[Request]:
    """One for each of PROMPTS."""
    return [
        Request(key, tuple(prompt), Sampling(max_tokens=12, logprobs=True, **settings, **more), seed=100 + key)
        for key, prompt in enumerate(PROMPTS)
    ]


class Recorder:
    """Counts recordings and replays; keeps results in one place, as CUDA graphs do."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, compute: Compute) -> Compute:
        self.recorded += 1
        kept = compute().clone()

        def replay() -> Tensor:
            self.replayed += 1
            return kept.copy_(compute())

        return replay


def recording_engine(model: Llama, n_slots: int, recorder: Record, max_seq_len: int = 256, growth: int = 256) -> Engine:
    make_steps = partial(DecodeGraphs, record=recorder)
    runner = ModelRunner(model, n_slots=n_slots, max_seq_len=max_seq_len, make_steps=make_steps, growth=growth)
    return Engine(runner, tokenizer_size=model.args.vocab_size, stop_tokens=frozenset())
