"""Output rows: OpenAI's batch shape, or a simple one. One row is one line of plain ASCII."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ..chat.shapes import describe_usage
from ..errors import ContextTooLong, DoesNotFit, InputRejected, LlamaError
from ..tokenizer.tool_calls import ToolAnswer
from .fields import ErrorCode
from .rows import BadRow, BatchRow, RowKey, hash_of

OutputFormat = Literal["openai", "simple"]
STRICT_JSON = json.JSONEncoder(allow_nan=False)


def error_code(error: LlamaError) -> ErrorCode:
    """What an error of the engine or the tokenizer is called in a row."""
    if isinstance(error, ContextTooLong):
        return "context_length_exceeded"
    if isinstance(error, InputRejected):
        return "invalid_unicode" if "surrogate" in error.message else "invalid_request"
    return "out_of_memory" if isinstance(error, DoesNotFit) else "numerical_error"


class Answer(NamedTuple):
    """One sample of a row. `logprobs` is ready for JSON, None where not asked for."""

    text: str
    finish_reason: str
    n_tokens: int
    logprobs: list[dict[str, Any]] | None
    said: ToolAnswer | None = None  # of a dialog: the same, taken apart


class RowWriter(NamedTuple):
    """Makes rows that depend on nothing but the row's own input: a resumed run writes the same bytes."""

    shape: OutputFormat
    model: str
    created: int  # when the run first began, seconds since 1970

    def answer(
        self, row: BatchRow, answers: Sequence[Answer], n_prompt: int, prompt_logprobs: list[Any] | None = None
    ) -> bytes:
        """The line of a finished row; `prompt_logprobs` are those of the prompt's tokens, None for the first one."""
        usage = describe_usage(n_prompt, sum(answer.n_tokens for answer in answers))
        scored = {} if prompt_logprobs is None else {"prompt_logprobs": prompt_logprobs}
        if self.shape == "simple":
            return json_line(_simple_key(row) | _simple(row, answers) | {"usage": usage} | _more(row, answers) | scored)
        name = _name(row)
        body = {
            "id": f"{'chatcmpl' if row.is_chat else 'cmpl'}-{name}",
            "object": "chat.completion" if row.is_chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [_choice(row, index, answer) for index, answer in enumerate(answers)],
            "usage": usage,
            **scored,
        }
        response = {"status_code": 200, "request_id": f"req_{name}", "body": body}
        return json_line(_openai_key(row, name) | {"response": response, "error": None})

    def error(self, row: BadRow) -> bytes:
        """The line of one that could not run."""
        error = {"code": row.code, "message": row.message}
        if self.shape == "simple":
            return json_line(_simple_key(row) | {"error": error})
        return json_line(_openai_key(row, _name(row)) | {"response": None, "error": error})


def _simple_key(row: RowKey) -> dict[str, Any]:
    """How a row begins: the ledger reads it again."""
    return {"id": row.custom_id, "index": row.index, "row_hash": f"{row.digest:016x}"}


def _openai_key(row: RowKey, name: str) -> dict[str, Any]:
    """The same in OpenAI's shape."""
    return {"id": f"batch_req_{name}", "custom_id": row.custom_id, "index": row.index}


def _simple(row: BatchRow, answers: Sequence[Answer]) -> dict[str, Any]:
    shown: dict[str, Any] = {"prompt": _plain(row)}
    if row.suffix is not None:
        shown["suffix"] = row.suffix
    return shown | {"text": answers[0].text, "finish_reason": answers[0].finish_reason}


def _more(row: BatchRow, answers: Sequence[Answer]) -> dict[str, Any]:
    """What was asked for or found beside the text: of the first sample, and of all where there are several."""
    of_each: dict[str, list[Any]] = {}
    if answers[0].logprobs is not None:
        of_each["logprobs"] = [answer.logprobs for answer in answers]
    calls = [_calls(row, place, answer.said) for place, answer in enumerate(answers)]
    if any(calls):
        of_each["tool_calls"] = calls
    shown = {name: values[0] for name, values in of_each.items() if values[0] or name == "logprobs"}
    if len(answers) > 1:
        shown["texts"] = [answer.text for answer in answers]
        shown["finish_reasons"] = [answer.finish_reason for answer in answers]
        shown |= {f"texts_{name}": values for name, values in of_each.items()}
    return shown


def _choice(row: BatchRow, index: int, answer: Answer) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index}
    if row.is_chat:
        choice["message"] = {"role": "assistant", "content": answer.text}
        if answer.said is not None and answer.said.calls:
            calls = _calls(row, index, answer.said)
            choice["message"] |= {"content": answer.said.content or None, "tool_calls": calls}
    else:
        choice["text"] = answer.text
    choice["finish_reason"] = answer.finish_reason
    choice["logprobs"] = None if answer.logprobs is None else {"content": answer.logprobs}
    return choice


def _calls(row: BatchRow, sample: int, said: ToolAnswer | None) -> list[dict[str, Any]]:
    """OpenAI's `tool_calls`, with ids that a resumed run gives again."""
    if said is None:
        return []
    ids = (f"call_{hash_of(f'{row.custom_id}:{sample}:{place}'):016x}" for place in range(len(said.calls)))
    return [dataclasses.replace(call, id=name).as_json() for call, name in zip(said.calls, ids, strict=True)]


def _name(row: RowKey) -> str:
    """Hashes of the id and of what was asked for: by the second one a later run sees that a row has changed."""
    return f"{hash_of(row.custom_id):016x}{row.digest:016x}"


def _plain(row: BatchRow) -> Any:
    """The prompt as it was given."""
    if row.is_chat:
        return [{"role": part.role, "content": part.content} for part in row.content]  # type: ignore[union-attr]
    return row.content


def json_line(row: dict[str, Any]) -> bytes:
    """A row as it is written, with its newline."""
    return STRICT_JSON.encode(row).encode() + b"\n"
