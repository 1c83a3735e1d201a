"""What a model can be asked for: the one place where a request's ids are checked against it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import ContextTooLong, InputRejected, LlamaError
from .request import Request


class Limits(NamedTuple):
    """The sizes of a model that requests must keep to."""

    vocab_size: int  # rows of the embedding: a prompt may hold them all
    tokenizer_size: int  # those with a token: the others have no text, are never chosen and have no probability
    max_seq_len: int

    def fault_of(self, request: Request) -> LlamaError | None:
        """Why the model cannot run a request; None if it can."""
        try:
            self.check(request)
        except LlamaError as error:
            return error
        return None

    def check(self, request: Request) -> None:
        """InputRejected if a field of a request is none that the model can take."""
        for name in ("key", "seed", "score_from"):
            _check_int(name, getattr(request, name))
        self.check_prompt(request.prompt)
        self._check_length(len(request.prompt))
        self._check_tokens("logit_bias", request.sampling.logit_bias)
        self._check_tokens("stop_token_ids", request.sampling.stop_token_ids)
        self._check_scored(request)

    def check_prompt(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Ids that may be read; InputRejected if there are none, or one of them is none of the model's."""
        checked = tuple(ids)
        if not checked:
            raise InputRejected("the prompt has no ids", "give it one or more")
        for token_id in checked:
            if type(token_id) is not int:  # asked here, too: a prompt may have 100,000 ids
                _check_int("prompt id", token_id)
            if not 0 <= token_id < self.vocab_size:
                raise InputRejected(
                    f"prompt id {token_id} is not in 0 ... {self.vocab_size - 1}",
                    "ids of another model? llama-cli tokenize",
                )
        return checked

    def _check_length(self, n_prompt: int) -> None:
        if n_prompt > self.max_seq_len:
            raise ContextTooLong(
                f"the prompt has {n_prompt:,} tokens; the context holds {self.max_seq_len:,}",
                "give a larger context with --max-seq-len, or shorten the prompt",
            )

    def _check_tokens(self, what: str, ids: Iterable[int]) -> None:
        """Ids that are to be chosen, or not to be."""
        for token_id in ids:
            if token_id >= self.tokenizer_size:
                raise InputRejected(
                    f"{what}: {token_id} is no token of this model, which has 0 ... {self.tokenizer_size - 1}",
                    "ids of another model? llama-cli tokenize",
                )

    def _check_scored(self, request: Request) -> None:
        last = max(len(request.prompt) - 1, 1)
        if not 1 <= request.score_from <= last:
            raise InputRejected(
                f"score_from is {request.score_from}; the first token has no probability, and the last one is {last}",
                "leave it out to score the whole prompt",
            )
        if request.sampling.prompt_logprobs:
            spare = [token_id for token_id in request.prompt[request.score_from :] if token_id >= self.tokenizer_size]
            if spare:
                raise InputRejected(
                    f"prompt id {spare[0]} has no token, so it has no probability; the tokens are 0 ... "
                    f"{self.tokenizer_size - 1}",
                    "leave it out of what is scored",
                )


def _check_int(what: str, value: object) -> None:
    """Only Python's own whole numbers reach other processes and files as what they are."""
    if type(value) is not int:
        raise InputRejected(f"{what} {str(value)[:40]} is of the type {type(value).__name__}, not int")
