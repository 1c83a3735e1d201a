"""What the engine is asked for and what it answers: requests in, tokens out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic.functional_validators import ModelWrapValidatorHandler  # older ones have it there alone

from ..errors import LlamaError
from ..options import SettingRejected

FinishReason = Literal["stop", "length", "error"]


def _as_tuple(value: Any) -> Any:
    """One stop string or a list of them: OpenAI's API takes both."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _temperature(value: Any) -> Any:
    """Below 0.01 the quotient of logits overflows; zero means greedy."""
    if isinstance(value, int | float) and 0 < value < 0.01:
        raise ValueError("temperature must be 0 (greedy) or between 0.01 and 10")
    return value


StopString = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Sampling:
    """How to choose tokens and when to stop: the flags, the JSON fields, the Python API and the defaults."""

    max_tokens: Annotated[
        int, Field(ge=0, lt=2**31, description="Most new tokens; fewer where the context is full.")
    ] = 256
    temperature: Annotated[
        float,
        BeforeValidator(_temperature),
        Field(ge=0, le=10, description="How freely to choose, up to 10; 0 takes the likeliest token."),
    ] = 0.6
    top_p: Annotated[
        float, Field(ge=0, le=1, description="Keep the likeliest tokens up to this sum of probability; 1 keeps all.")
    ] = 0.9
    top_k: Annotated[int, Field(ge=0, lt=2**31, description="Keep this many tokens; 0 keeps all.")] = 0
    min_p: Annotated[
        float,
        Field(ge=0, le=1, description="Keep tokens at least this likely, relative to the likeliest; 0 keeps all."),
    ] = 0.0
    repetition_penalty: Annotated[
        float, Field(ge=0.01, le=100, description="Above 1: tokens of prompt and answer become less likely.")
    ] = 1.0
    presence_penalty: Annotated[
        float, Field(ge=-10, le=10, description="Taken off the logit of every token generated so far.")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Field(ge=-10, le=10, description="Taken off the logit of a token for each time it was generated.")
    ] = 0.0
    logit_bias: Annotated[
        Mapping[TokenId, Bias],
        Field(max_length=1024, description="Add BIAS, from -100 to 100, to the logit of the token ID."),
    ] = field(default_factory=dict)
    seed: Annotated[
        int | None, Field(ge=0, lt=2**64, description="Same seed, same text. Default: a new one every time.")
    ] = None
    stop: Annotated[
        tuple[StopString, ...],
        BeforeValidator(_as_tuple),
        Field(max_length=16, description="Stop before this text, which is left out."),
    ] = ()
    stop_token_ids: Annotated[
        tuple[TokenId, ...],
        BeforeValidator(_as_tuple),
        Field(max_length=64, description="Stop at this token too."),
    ] = ()
    ignore_eos: Annotated[bool, Field(description="Go on past the model's own stop tokens.")] = False
    n: Annotated[int, Field(ge=1, le=128, description="How many answers to each prompt.")] = 1
    logprobs: Annotated[bool, Field(description="Report the log-probability of each new token.")] = False
    top_logprobs: Annotated[
        int, Field(ge=0, le=20, description="Report so many of the likeliest tokens at each place, at most 20.")
    ] = 0
    prompt_logprobs: Annotated[bool, Field(description="Report the prompt's log-probabilities too.")] = False

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, values: Any, validate: ModelWrapValidatorHandler[Sampling]) -> Sampling:
        """What is wrong is an error of this program, also for who calls it from Python."""
        try:
            return validate(values)
        except ValidationError as error:
            raise SettingRejected(error, [each.name for each in fields(cls)]) from None

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def changes_logits(self) -> bool:
        """Whether anything is done to the logits before the choice."""
        return bool(self.logit_bias) or self.penalises

    @property
    def penalises(self) -> bool:
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0)

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs or self.top_logprobs > 0 or self.prompt_logprobs


class Request(NamedTuple):
    """One prompt, already as ids. `key` is the caller's own and comes back with every event."""

    key: int
    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int  # of the first sample; sample i draws from seed + i
    score_from: int = 1  # with prompt_logprobs: the first prompt token to score; those before may come from the cache


class TokenLogprob(NamedTuple):
    """Natural log-probability of one token, before temperature, and the likeliest at its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Token(NamedTuple):
    """One generated token."""

    key: int
    sample: int
    id: int
    logprob: TokenLogprob | None
    is_stop: bool  # a stop token: part of the ids, not of the text


class PromptScored(NamedTuple):
    """Log-probabilities of the next prompt tokens of a request, from `score_from` on; the very first token has none."""

    key: int
    logprobs: tuple[TokenLogprob, ...]


class Finish(NamedTuple):
    """The last event of a sample."""

    key: int
    sample: int
    reason: FinishReason
    error: LlamaError | None = None


Event = Token | PromptScored | Finish
