"""A loaded model: text in, text out."""

from __future__ import annotations

import secrets
import weakref
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, TypeGuard

from .answers.completion import AnyPrompt, Chunk, Completion, Prompt, collect
from .answers.decoding import Decoding, chunks_of
from .answers.stream import Stream
from .engine.engine import Stats
from .engine.generator import Generator
from .engine.request import Request, Sampling
from .engine.sharing import Caller, Sharing
from .errors import ContextTooLong, InputRejected, UsageError
from .tokenizer import EncodeError, Tokenizer, decode_text, names_of
from .tokenizer.chat import ChatFormat, Message, Template
from .tokenizer.chat_formats import spell_prompt
from .tokenizer.infill import infill_format


@dataclass(frozen=True)
class ModelInfo:
    """What was loaded, for people to read."""

    name: str
    folder: str
    dtype: str
    kernels: Literal["own", "torch", "compiled"]
    device: str
    weight_bytes: int  # read once for every decoding step
    load_seconds: float
    fingerprint: str  # of the configuration, the tokenizer and the sizes of the weights

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}, {self.kernels} kernels on {self.device}"


class LLM:
    """A loaded model. Make one with `llama_cli.load`.

    `submit` may be called by several threads at once. All else is for one thread.
    """

    def __init__(
        self,
        engine: Generator,
        tokenizer: Tokenizer,
        info: ModelInfo,
        template: Template,
        *,
        ensure_unchanged: Callable[[], None],
        end: Callable[[], None] | None = None,
    ) -> None:
        """`engine` runs all requests; `ensure_unchanged` looks at the model's files; `end` lets other processes go."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.info = info
        self.template = template
        self.ensure_unchanged = ensure_unchanged  # ModelRejected if the model's files are no longer the same
        self.special_names = names_of(tokenizer)
        self._end = end
        self._source: Generator | Caller = engine  # what the last requests run on
        self._sharing: Sharing | None = None
        self._beginning = Lock()

    def __repr__(self) -> str:
        return f"<LLM of {self.info}, {self.max_seq_len:,} tokens of context>"

    def close(self) -> None:
        """End the thread that answers what was submitted, and the ranks that share the model.

        Without it they go when this process ends, or nobody has the model any more.
        """
        if self._sharing is not None:
            self._sharing.end()
        if self._end is not None:
            self._end()

    @property
    def max_seq_len(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self.engine.limits.max_seq_len

    @property
    def stats(self) -> Stats:
        return self.engine.stats

    def encode(self, content: str | Sequence[int], max_tokens: int = 1) -> tuple[int, ...]:
        """The ids of a prompt; InputRejected if it is empty, unknown to the vocabulary or too long."""
        _check_kind(content)
        if isinstance(content, str):
            ids = tuple(self._encode_text(content))
            if not ids:
                raise InputRejected(
                    "the prompt is empty, and this model has no begin token to start from",
                    "give it a first character",
                )
        else:
            ids = self.engine.limits.check_prompt(content)
        if len(ids) + min(max_tokens, 1) > self.max_seq_len:
            self._refuse_length(f"{len(ids):,} tokens")
        return ids

    def _encode_text(self, text: str) -> list[int]:
        self._refuse_bytes(_n_bytes(text))
        return self.tokenize(text)

    def _refuse_bytes(self, n_bytes: int) -> None:
        """A token has few bytes: what cannot fit is refused before the work of tokenising it."""
        at_least = -(-n_bytes // self.tokenizer.max_token_bytes)
        if at_least > self.max_seq_len:
            self._refuse_length(f"{at_least:,} tokens or more")

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text of any length, behind the begin token if the model has one."""
        _check_text(text)
        try:
            return self.tokenizer.encode(text, bos=self.tokenizer.bos_id is not None)
        except EncodeError as error:
            raise InputRejected(error.message, error.hint) from None

    def tokenize_more(self, text: str) -> list[int]:
        """The ids of a text that goes on behind other ids."""
        _check_text(text)
        try:
            return self.tokenizer.encode_more(text)
        except EncodeError as error:
            raise InputRejected(error.message, error.hint) from None

    def decode(self, ids: Sequence[int], form: ChatFormat | None = None) -> str:
        """The text of a prompt's ids, in the names of its format; InputRejected if there is none for one of them."""
        _check_ids(ids)
        try:
            return decode_text(self.tokenizer, ids) if form is None else spell_prompt(self.tokenizer, form, ids)
        except EncodeError as error:
            raise InputRejected(error.message, error.hint) from None

    def encode_dialog(
        self, dialog: Sequence[Message], max_tokens: int = 1, form: ChatFormat | None = None
    ) -> tuple[int, ...]:
        """The ids of a dialog in `form`, by default the model's chat format; InputRejected if it has none."""
        for message in dialog:
            if not isinstance(message, Message):
                raise UsageError(f"a dialog has Messages, not {type(message).__name__}", 'Message("user", "Hello")')
        form = form or self.template.format
        if form is None:
            raise InputRejected(
                "this model has no chat format; --chat-template none takes messages as plain text",
                "give prompts instead of messages",
            )
        self._refuse_bytes(sum(_n_bytes(message.content) for message in dialog if message.token_ids is None))
        try:
            return self.encode(form.encode(dialog), max_tokens)
        except EncodeError as error:
            raise InputRejected(error.message, error.hint) from None

    def encode_infilling(self, prefix: str, suffix: str, max_tokens: int = 1) -> tuple[int, ...]:
        """The ids that ask for what stands between two texts; InputRejected if the model was not trained for it."""
        form = infill_format(self.tokenizer)
        if form is None:
            raise InputRejected(
                "this model cannot fill in: its tokenizer has no <PRE>, <SUF>, <MID> and <EOT>",
                "use Code Llama 7B, 13B or 70B, or leave the suffix out",
            )
        self._refuse_bytes(_n_bytes(prefix) + _n_bytes(suffix))
        try:
            return self.encode(form.encode(prefix, suffix), max_tokens)
        except EncodeError as error:
            raise InputRejected(error.message, error.hint) from None

    def _refuse_length(self, length: str) -> None:
        raise ContextTooLong(
            f"the prompt has {length}; the context holds {self.max_seq_len:,}, the answer included",
            "give a larger context with --max-seq-len, or shorten the prompt",
        )

    def requests(
        self, prompts: str | Prompt | Iterable[AnyPrompt], sampling: Sampling | None = None
    ) -> Iterator[Request]:
        """Prompts as the engine takes them: ids, settings and a seed. `sampling` is for those without their own."""
        default = sampling or Sampling()
        for key, prompt in enumerate(_as_several(prompts)):
            content, own = prompt if isinstance(prompt, Prompt) else (prompt, default)
            _check_kinds(content, own)
            seed = secrets.randbits(63) if own.seed is None else own.seed
            yield Request(key, self.encode(content, own.max_tokens), own, seed)

    def run(self, requests: Iterable[Request]) -> abc.Generator[Chunk, None, None]:
        """Run requests together, as many at a time as the batch size, and yield text as it is made.

        `requests` is read as needed, so it may be endless. Chunks of different requests interleave. A request
        that fails ends with a chunk that carries the error; the others go on. Closing it abandons what still runs.
        """
        answers: dict[tuple[int, int], Decoding] = {}

        def noted() -> Iterator[Request]:
            for request in requests:
                if not isinstance(request, Request):
                    raise UsageError(f"run takes Requests, not {type(request).__name__}", "llm.stream takes prompts")
                _check_kinds(request.prompt, request.sampling)
                answers.update(self._answers_of(request))
                yield request

        source: Generator | Caller = self.engine if self._sharing is None else Caller(self._sharing)
        self._source = source
        yield from chunks_of(source.generate(noted()), answers, source.cancel)

    def _answers_of(self, request: Request) -> dict[tuple[int, int], Decoding]:
        samples = range(request.sampling.n)
        return {(request.key, sample): Decoding(self.tokenizer, request.sampling.stop) for sample in samples}

    def submit(self, prompt: AnyPrompt, sampling: Sampling | None = None) -> Stream:
        """Begin with a prompt now, beside all others that were submitted, and return at once.

        The chunks are what `run` alone would give: a request knows nothing of its neighbours. Any thread may call it,
        many at the same time. From the first call on `run`, `stream` and `complete` go the same way; InputRejected
        as from `encode`.
        """
        (request,) = self.requests([prompt], sampling)
        caller = Caller(self._share())
        caller.hand(request)
        chunks = chunks_of(caller.generate(()), self._answers_of(request), caller.cancel)
        return Stream(self, request, caller, chunks)

    def _share(self) -> Sharing:
        """The thread that owns the engine, begun when it is first needed."""
        with self._beginning:
            if self._sharing is None:
                if self.engine.is_busy:
                    raise UsageError(
                        "the model is in the middle of `run` or `stream`", "read these to their ends, or close them"
                    )
                self._sharing = Sharing(self.engine)
                weakref.finalize(self, self._sharing.end)
            return self._sharing

    def chat(self, messages: Sequence[Message | Mapping[str, Any]], sampling: Sampling | None = None) -> Stream:
        """Answer a conversation, {"role": ..., "content": ...} each, as `submit` answers a prompt.

        InputRejected if it cannot be written in the model's chat template, or is too long.
        """
        wanted = sampling or Sampling()
        _check_sampling(wanted)
        _check_messages(messages)
        try:
            dialog = [each if isinstance(each, Message) else Message.of(each) for each in messages]
        except EncodeError as error:
            raise InputRejected(error.message, error.hint) from None
        return self.submit(self.encode_dialog(dialog, wanted.max_tokens), wanted)

    def cancel(self, key: int, sample: int) -> None:
        """Stop one sample of a running request of `run` before the next step."""
        self._source.cancel(key, sample)

    def stream(self, prompts: str | Prompt | Iterable[AnyPrompt], sampling: Sampling | None = None) -> Iterator[Chunk]:
        """`run` for prompts that are text or ids."""
        return self.run(self.requests(prompts, sampling))

    def complete(
        self, prompts: str | Prompt | Iterable[AnyPrompt], sampling: Sampling | None = None
    ) -> list[Completion]:
        """Run prompts to their ends: the completions in the order of the prompts, each with its n samples.

        LlamaError if the model produces NaN.
        """
        requests = list(self.requests(prompts, sampling))
        return collect(requests, self.run(requests))


Session = LLM  # its name in version 0.1


def _as_several(prompts: object) -> Iterable[AnyPrompt]:
    """One prompt alone is a list of one, not one of its letters."""
    if isinstance(prompts, str | Prompt):
        return [prompts]
    if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Iterable):
        raise UsageError(
            f"prompts are a text, or a list of texts, of lists of ids and of Prompts, not {type(prompts).__name__}",
            'llm.complete(["a text", [1, 2, 3]])',
        )
    return prompts


def _check_kinds(content: object, sampling: object) -> None:
    """UsageError if a caller from Python gave something else than a prompt and its settings."""
    _check_kind(content)
    _check_sampling(sampling)


def _check_sampling(sampling: object) -> None:
    if not isinstance(sampling, Sampling):
        raise UsageError(f"the settings are a Sampling, not {type(sampling).__name__}", "llama_cli.Sampling(n=2)")


def _check_kind(content: object) -> None:
    """UsageError if it is no prompt."""
    if isinstance(content, bytes) or not isinstance(content, str | Sequence):
        raise UsageError(
            f"a prompt is a text or a list of ids, not {type(content).__name__}",
            'llm.complete(["a text", [1, 2, 3]])',
        )


def _check_messages(messages: object) -> None:
    """UsageError if it is no conversation."""
    what = type(messages).__name__
    if _is_list(messages):
        kinds = [type(each).__name__ for each in messages if not isinstance(each, Message | Mapping)]
        if not kinds:
            return
        what = f"a list with {kinds[0]}"
    raise UsageError(
        f"messages are a list of objects with role and content, not {what}",
        'llm.chat([{"role": "user", "content": "Hello"}])',
    )


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise UsageError(f"a text is a str, not {type(text).__name__}", 'llm.tokenize("a text")')


def _check_ids(ids: object) -> None:
    if not _is_list(ids) or not all(isinstance(each, int) for each in ids):
        raise UsageError("ids are a list of whole numbers", "llm.decode([1, 2, 3])")


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _n_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
