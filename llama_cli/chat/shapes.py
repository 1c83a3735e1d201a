"""The JSON of answers, said once: what `complete`, `chat`, `batch` and `score` call things. Names are promises."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..answers.completion import Completion
    from ..engine.engine import Stats
    from ..engine.request import TokenLogprob
    from ..llm import LLM, ModelInfo
    from .answerer import Turn


def describe_usage(n_prompt: int, n_answer: int) -> dict[str, int]:
    """OpenAI's `usage`: tokens of a prompt and of all its answers."""
    return {"prompt_tokens": n_prompt, "completion_tokens": n_answer, "total_tokens": n_prompt + n_answer}


def describe_scores(session: LLM, scores: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities: each with its token, and the likeliest at its place."""

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


def describe_prompt_scores(session: LLM, scores: Iterable[TokenLogprob]) -> list[dict[str, Any] | None]:
    """The same of a prompt, whose first token has none: nothing is before it."""
    return [None, *describe_scores(session, scores)]


def describe_completion(session: LLM, completion: Completion, echoed: str, timings: dict[str, Any]) -> dict[str, Any]:
    """The object that `complete --json` prints; `echoed` is what of the prompt stands before the text."""
    described: dict[str, Any] = {
        "model": session.info.name,
        "index": completion.sample,
        "text": echoed + completion.text,
        "token_ids": completion.token_ids,
        "prompt_token_ids": list(completion.prompt_token_ids),
        "finish_reason": completion.finish_reason,
        "seed": completion.seed,
        "usage": describe_usage(len(completion.prompt_token_ids), len(completion.token_ids)),
    }
    if completion.logprobs:
        described["logprobs"] = describe_scores(session, completion.logprobs)
    if completion.prompt_logprobs:
        described["prompt_logprobs"] = describe_prompt_scores(session, completion.prompt_logprobs)
    described["timings"] = timings
    return described


def describe_turn(session: LLM, turn: Turn, number: int) -> dict[str, Any]:
    """The object that `chat --json` prints for the answer of the turn with this number, counted from 1."""
    described: dict[str, Any] = {
        "model": session.info.name,
        "turn": number,
        "text": turn.text,
        "token_ids": turn.token_ids,
        "prompt_token_ids": list(turn.prompt),
        "finish_reason": turn.finish_reason,
        "seed": turn.seed,
        "usage": describe_usage(len(turn.prompt), len(turn.token_ids)),
        "dropped_messages": turn.n_dropped,
    }
    if turn.tool_calls:
        described["tool_calls"] = [call.as_json() for call in turn.tool_calls]
    if turn.logprobs:
        described["logprobs"] = describe_scores(session, turn.logprobs)
    described["timings"] = describe_timings(session.info, turn.stats, turn.first_token_seconds)
    return described


def describe_timings(info: ModelInfo, stats: Stats, first_token_seconds: float | None) -> dict[str, Any]:
    """`timings`: seconds, tokens per second, bytes; None where nothing was measured."""
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
