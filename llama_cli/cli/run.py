"""Runs requests for a command and keeps what it reports: completions and timings. Imports torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..chat.shapes import describe_timings
from ..llm import Chunk, Completion
from ..loader import OnLayer, load
from ..parallel.ranks import Place
from ..parallel.team import place_of_leader

if TYPE_CHECKING:
    from ..chat.template import TemplateChoice
    from ..engine.request import Request
    from ..llm import Session
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

    def timings(self) -> dict[str, Any]:
        """Seconds, tokens per second, bytes; None where nothing was measured."""
        return describe_timings(self.session.info, self.session.stats, self._first_token)
