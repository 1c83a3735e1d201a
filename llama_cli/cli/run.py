"""Runs requests for a command and keeps what it reports: completions, usage, timings. Imports torch."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..llm import Chunk, Completion
from ..loader import OnLayer, load
from ..parallel.ranks import Place
from ..parallel.team import place_of_leader

if TYPE_CHECKING:
    from ..chat.template import TemplateChoice
    from ..engine.engine import Stats
    from ..engine.request import Request, TokenLogprob
    from ..llm import ModelInfo, Session
    from .options import ModelOptions


def ranks_of_a_group(options: ModelOptions, dp: int = 1) -> int:
    """How many ranks are to share a model: as the flag says, else all that torchrun has started."""
    return options.tp or max(Place.of(os.environ).world_size // dp, 1)


def load_model(
    options: ModelOptions,
    *,
    batch_size: int | None,
    chat_template: TemplateChoice = "auto",
    dp: int = 1,
    on_layer: OnLayer | None = None,
) -> Session:
    """A session as the flags ask for it, on the ranks that torchrun has started or those they ask for."""
    tp = ranks_of_a_group(options, dp)
    if Place.of(os.environ).world_size > 1:
        place_of_leader(tp * dp)  # as many as were asked for
    return load(
        options.model,
        tokenizer=options.tokenizer,
        max_seq_len=options.max_seq_len,
        batch_size=batch_size,
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
        quantize=options.quantize,
        kernels=options.kernels,
        compile=options.compile,
        rope_scale_factor=options.rope_scale_factor,
        mmap=options.mmap,
        chat_template=chat_template,
        tp=tp,
        dp=dp,
        on_layer=on_layer,
    )


class Run:
    """One command's requests on a session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._began = time.perf_counter()
        self._first_token: float | None = None

    def _chunks(self, requests: list[Request]) -> Iterator[Chunk]:
        for chunk in self.session.run(requests):
            if self._first_token is None and chunk.token_ids:
                self._first_token = time.perf_counter() - self._began
            if chunk.error is not None:
                raise chunk.error
            yield chunk

    def texts(self, request: Request) -> Iterator[str]:
        """The text of a request's only sample, as it is made."""
        return (chunk.text for chunk in self._chunks([request]))

    def collect(self, requests: list[Request]) -> list[Completion]:
        """All samples of all requests, finished."""
        completions = {(c.prompt, c.sample): c for request in requests for c in Completion.of(request)}
        for chunk in self._chunks(requests):
            completions[chunk.prompt, chunk.sample].add(chunk)
        return list(completions.values())

    def describe(self, completion: Completion, echoed: str) -> dict[str, Any]:
        """The documented object of `--json`."""
        prompt_tokens, answer_tokens = len(completion.prompt_token_ids), len(completion.token_ids)
        described: dict[str, Any] = {
            "model": self.session.info.name,
            "index": completion.sample,
            "text": echoed + completion.text,
            "token_ids": completion.token_ids,
            "prompt_token_ids": list(completion.prompt_token_ids),
            "finish_reason": completion.finish_reason,
            "seed": completion.seed,
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": answer_tokens,
                "total_tokens": prompt_tokens + answer_tokens,
            },
        }
        if completion.logprobs:
            described["logprobs"] = describe_scores(self.session, completion.logprobs)
        if completion.prompt_logprobs:
            described["prompt_logprobs"] = [None, *describe_scores(self.session, completion.prompt_logprobs)]
        described["timings"] = self.timings()
        return described

    def timings(self) -> dict[str, Any]:
        """Seconds, tokens per second, bytes; None where nothing was measured."""
        return describe_timings(self.session.info, self.session.stats, self._first_token)


def describe_timings(info: ModelInfo, stats: Stats, first_token_seconds: float | None) -> dict[str, Any]:
    """The documented `timings`: seconds, tokens per second, bytes; None where nothing was measured."""
    steps_per_second = _per_second(stats.decode_steps, stats.decode_seconds)
    bandwidth = None if steps_per_second is None else info.weight_bytes * steps_per_second / 1e9
    return {
        "load_seconds": info.load_seconds,
        "first_token_seconds": first_token_seconds,
        "prompt_tokens": stats.n_prompt + stats.n_reused,
        "cached_tokens": stats.n_reused,
        "prefill_tokens_per_second": _per_second(stats.n_prompt, stats.prefill_seconds),
        "decode_tokens": stats.n_decoded,
        "decode_tokens_per_second": _per_second(stats.n_decoded, stats.decode_seconds),
        "weight_gigabytes_per_second": bandwidth,
        "peak_memory_bytes": peak_memory(),
        "kernels": info.kernels,
    }


def describe_scores(session: Session, scores: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities as JSON shows them: each with its token, and the likeliest at its place."""

    def named(token_id: int, logprob: float) -> dict[str, Any]:
        raw = session.tokenizer.token_bytes(token_id)
        token = raw.decode("utf-8", errors="replace") or session.special_names.get(token_id, "")
        return {"token_id": token_id, "token": token, "bytes": list(raw), "logprob": logprob}

    described = []
    for score in scores:
        described.append(named(score.token_id, score.logprob))
        if score.top:
            described[-1]["top_logprobs"] = [named(token_id, value) for token_id, value in score.top]
    return described


def _per_second(count: int, seconds: float) -> float | None:
    return count / seconds if count and seconds else None


def peak_memory() -> int:
    """The most memory this process has had in use, in bytes."""
    try:  # Linux's getrusage counts what the parent had when it started this process
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(line) * 1024
    except (OSError, ValueError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
