"""Events become chunks of text: ids are decoded as they come, and stop strings looked for."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

from ..engine.request import Event, Finish, FinishReason, PromptScored, Token
from ..tokenizer import StreamDecoder, Tokenizer
from .completion import Chunk


class StopFinder:
    """Holds back text that may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        if not self._stops or self.found:
            return "" if self.found else text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            return self._held[: min(places)]
        keep = max(map(self._possible_beginning, self._stops))
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return ready

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        rest, self._held = ("" if self.found else self._held), ""
        return rest

    def _possible_beginning(self, stop: str) -> int:
        """Length of the longest end of the held text with which `stop` begins."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


class Decoding:
    """Decoding state of one running sample."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self.stop = StopFinder(stops)

    def feed(self, token: Token) -> str:
        return "" if token.is_stop else self.stop.feed(self._decoder.feed(token.id))

    def finish(self) -> str:
        return self.stop.feed(self._decoder.finish()) + self.stop.finish()


def chunks_of(
    events: Iterable[Event], answers: dict[tuple[int, int], Decoding], cancel: Callable[[int, int], None]
) -> Generator[Chunk, None, None]:
    """Events as text; what has met a stop string is cancelled. `answers` holds those of all that may come."""
    for event in events:
        if isinstance(event, PromptScored):
            yield Chunk(event.key, 0, "", prompt_logprobs=event.logprobs)
            continue
        answer = answers[event.key, event.sample]
        if isinstance(event, Token):
            if answer.stop.found:  # an engine in another thread has gone on meanwhile
                continue
            text = answer.feed(event)
            if answer.stop.found:
                cancel(event.key, event.sample)
            scores = () if event.logprob is None else (event.logprob,)
            yield Chunk(event.key, event.sample, text, (event.id,), scores)
        else:
            del answers[event.key, event.sample]
            yield _last_chunk(event, answer)


def _last_chunk(event: Finish, answer: Decoding) -> Chunk:
    reason: FinishReason = "stop" if answer.stop.found else event.reason
    return Chunk(event.key, event.sample, answer.finish(), finish_reason=reason, error=event.error)
