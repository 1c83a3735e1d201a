"""Logits to tokens. Each request draws from a generator of its own, so its text knows no neighbours.

Order: a constraint, logit bias and penalties, then temperature, top-k, top-p, min-p, then one draw on the sorted
candidates. Shapes: M rows, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from .request import Sampling, TokenLogprob

SUMMED = 256  # probabilities that are added up by themselves

# So many candidates are sorted before looking whether top-p needs more: sorting 128,256 takes ten times as long.
FIRST_LOOK = 256


class Draw(NamedTuple):
    """What one row needs to choose a token."""

    sampling: Sampling
    random: Random
    prompt: Sequence[int]
    generated: Sequence[int]
    allowed: Tensor | None = None  # bool (V,): what a constraint lets through; None lets all


class Candidates(NamedTuple):
    """The tokens that may be drawn, likeliest first, and their probabilities, which sum to 1."""

    ids: Tensor  # (C,)
    probabilities: Tensor  # (C,)


def bias_and_penalise(logits: Tensor, draw: Draw) -> Tensor:
    """Apply logit bias and penalties to one row (V,); returns a new tensor.

    The repetition penalty counts prompt and answer (arXiv:1909.05858); the presence and frequency
    penalties count the answer alone, as OpenAI's do.
    """
    logits = logits.clone()
    sampling = draw.sampling
    if sampling.logit_bias:
        bias = torch.tensor(list(sampling.logit_bias.values()), dtype=logits.dtype, device=logits.device)
        logits[torch.tensor(list(sampling.logit_bias), device=logits.device)] += bias
    if sampling.repetition_penalty != 1.0:
        tokens = [each for each in {*draw.prompt, *draw.generated} if each < len(logits)]  # others are never chosen
        seen = torch.tensor(tokens, dtype=torch.int64, device=logits.device)
        values = logits[seen]
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if draw.generated:
        answered = torch.tensor(list(draw.generated), device=logits.device)
        counts = torch.bincount(answered, minlength=len(logits)).to(logits.dtype)
        logits -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    return logits


def narrow(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Logits (M, V) with -inf for what a row's constraint forbids; the same tensor where no row has one."""
    if not any(draw.allowed is not None for draw in draws):
        return logits
    logits = logits.clone()
    for row, draw in enumerate(draws):
        if draw.allowed is not None:
            logits[row].masked_fill_(~draw.allowed.to(logits.device), float("-inf"))
    return logits


def log_sum(x: Tensor) -> Tensor:
    """log Σ e^x of x (..., V), whose largest is 0, -> (..., 1): the same bits with any threads, beside any rows.

    torch divides one long sum among threads, but not short ones: blocks are summed, then their sums.
    """
    powers = x.exp()
    *rows, n = powers.shape
    n_blocks = n // SUMMED
    blocks: Tensor = powers[..., : n_blocks * SUMMED].reshape(*rows, n_blocks, SUMMED).sum(-1)
    return (blocks.sum(-1, keepdim=True) + powers[..., n_blocks * SUMMED :].sum(-1, keepdim=True)).log()


def candidates(logits: Tensor, sampling: Sampling, n_allowed: int | None = None) -> Candidates:
    """Which tokens of one row (V,) may be drawn, no more than the likeliest `n_allowed`: the others are forbidden.

    Top-p is Meta's rule: with probabilities sorted, a token stays while the sum before it is at most
    top_p, so the one that crosses the line stays.
    """
    scaled = (logits - logits.max()) / sampling.temperature  # the largest is 0: no finite logit overflows
    normaliser = log_sum(scaled)
    most = scaled.shape[0] if n_allowed is None else n_allowed
    looked_at = min(max(FIRST_LOOK, sampling.top_k), most)  # top-k's sum needs all of its candidates
    while True:
        values, ids = scaled.topk(looked_at)
        probabilities = (values - normaliser).exp()
        kept = _filter(probabilities, sampling)
        n_kept = kept.shape[0]
        if n_kept < looked_at or looked_at == most:
            return Candidates(ids[:n_kept], kept / kept.sum())
        looked_at = min(looked_at * 16, most)


def _filter(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """The leading probabilities that survive top-k, top-p and min-p."""
    if sampling.top_k:
        probabilities = probabilities[: sampling.top_k]
        probabilities = probabilities / probabilities.sum()
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities[: int((before <= sampling.top_p).sum())]
    if sampling.min_p > 0:
        probabilities = probabilities[: int((probabilities >= sampling.min_p * probabilities[0]).sum())]
    return probabilities


def choose(logits: Tensor, draw: Draw) -> int | None:
    """The next token of one row (V,): the likeliest, or one draw at a single uniform number.

    One number a token keeps the stream of random numbers in step with the text, whatever rounding does
    to the number of candidates. None where a penalty makes a logit overflow.
    """
    if draw.sampling.changes_logits:
        logits = bias_and_penalise(logits, draw)
        if not logits.max().isfinite():
            return None
    if draw.sampling.is_greedy:
        return int(logits.argmax())
    n_allowed = None if draw.allowed is None else int(draw.allowed.sum())
    ids, probabilities = candidates(logits, draw.sampling, n_allowed)
    place = int(torch.searchsorted(probabilities.double().cumsum(-1), draw.random.random(), right=True))
    return int(ids[min(place, ids.shape[0] - 1)])


def pick(logits: Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """Choose a token for each row of logits (M, V), within what its constraint allows.

    None where the model or a penalty made NaN or infinity, or where a constraint allows nothing.
    """
    likeliest = logits.max(-1)
    finite = likeliest.values.isfinite()  # the maximum shows NaN and +inf, and lets -inf masks pass
    narrowed = narrow(logits, draws)
    if narrowed is not logits:  # NaN of a token that is forbidden is NaN of the model
        logits, likeliest = narrowed, narrowed.max(-1)
        finite &= likeliest.values.isfinite()
    healthy = finite.tolist()
    greedy = likeliest.indices.tolist()
    chosen: list[int | None] = []
    for row, draw in enumerate(draws):
        if not healthy[row]:
            chosen.append(None)
        elif draw.sampling.is_greedy and not draw.sampling.changes_logits:
            chosen.append(greedy[row])
        else:
            chosen.append(choose(logits[row], draw))
    return chosen


def logprobs(logits: Tensor, token_ids: Sequence[int], n_top: int) -> list[TokenLogprob]:
    """Log-probabilities of `token_ids` (M) under logits (M, V), as the model gave them, and the n_top likeliest."""
    largest = logits.max(-1, keepdim=True).values
    normaliser = largest + log_sum(logits - largest)
    taken = torch.tensor(token_ids, device=logits.device)[:, None]
    values = (logits.gather(-1, taken) - normaliser).squeeze(-1).tolist()
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(values)
    if n_top:
        best = logits.topk(min(n_top, logits.shape[-1]))
        scores = (best.values - normaliser).tolist()
        tops = [tuple(zip(ids, row, strict=True)) for ids, row in zip(best.indices.tolist(), scores, strict=True)]
    return [TokenLogprob(token, value, top) for token, value, top in zip(token_ids, values, tops, strict=True)]
