"""Output rows: OpenAI's batch shape, or a simple one. One row is one line of plain ASCII."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from tokenizer.tool_calls import ToolAnswer

from ..errors import ContextTooLong, DoesNotFit, InputRejected, LlamaError
from .rows import BadRow, ErrorCode, Job, hash_of

OutputFormat = Literal["openai", "simple"]


def error_code(error: LlamaError) -> ErrorCode:
    """What an error of the engine or the tokenizer is called in a row."""
    if isinstance(error, ContextTooLong):
        return "context_length_exceeded"
    if isinstance(error, InputRejected):
        return "invalid_unicode" if "surrogate" in error.message else "invalid_request"
    return "out_of_memory" if isinstance(error, DoesNotFit) else "numerical_error"


class Answer(NamedTuple):
    """One sample of a job. `logprobs` is ready for JSON, None where not asked for."""

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

    def answer(self, job: Job, answers: Sequence[Answer], n_prompt: int) -> bytes:
        """The row of a finished job."""
        n_answered = sum(answer.n_tokens for answer in answers)
        usage = {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_answered,
            "total_tokens": n_prompt + n_answered,
        }
        if self.shape == "simple":
            first = answers[0]
            row: dict[str, Any] = {"id": job.custom_id, "index": job.index, "prompt": _plain(job)}
            if job.suffix is not None:
                row["suffix"] = job.suffix
            row |= {"text": first.text, "finish_reason": first.finish_reason, "usage": usage}
            if first.said is not None and first.said.calls:
                row["tool_calls"] = _calls(job, 0, first.said)
            if first.logprobs is not None:
                row["logprobs"] = first.logprobs
            if len(answers) > 1:
                row["texts"] = [answer.text for answer in answers]
            return _line(row)
        body = {
            "id": f"{'chatcmpl' if job.is_chat else 'cmpl'}-{_name(job)}",
            "object": "chat.completion" if job.is_chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [_choice(job, index, answer) for index, answer in enumerate(answers)],
            "usage": usage,
        }
        response = {"status_code": 200, "request_id": f"req_{_name(job)}", "body": body}
        return _line(self._outer(job) | {"response": response, "error": None})

    def error(self, row: BadRow) -> bytes:
        """The row of one that could not run."""
        error = {"code": row.code, "message": row.message}
        if self.shape == "simple":
            return _line({"id": row.custom_id, "index": row.index, "error": error})
        return _line(self._outer(row) | {"response": None, "error": error})

    def _outer(self, row: Job | BadRow) -> dict[str, Any]:
        return {"id": f"batch_req_{_name(row)}", "custom_id": row.custom_id, "index": row.index}


def _choice(job: Job, index: int, answer: Answer) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index}
    if job.is_chat:
        choice["message"] = {"role": "assistant", "content": answer.text}
        if answer.said is not None and answer.said.calls:
            calls = _calls(job, index, answer.said)
            choice["message"] |= {"content": answer.said.content or None, "tool_calls": calls}
    else:
        choice["text"] = answer.text
    choice["finish_reason"] = answer.finish_reason
    choice["logprobs"] = None if answer.logprobs is None else {"content": answer.logprobs}
    return choice


def _calls(job: Job, sample: int, said: ToolAnswer) -> list[dict[str, Any]]:
    """OpenAI's `tool_calls`, with ids that a resumed run gives again."""
    ids = (f"call_{hash_of(f'{job.custom_id}:{sample}:{place}'):016x}" for place in range(len(said.calls)))
    return [dataclasses.replace(call, id=name).as_json() for call, name in zip(said.calls, ids, strict=True)]


def _name(row: Job | BadRow) -> str:
    return f"{hash_of(row.custom_id):016x}"


def _plain(job: Job) -> Any:
    """The prompt as it was given."""
    if job.is_chat:
        return [{"role": part.role, "content": part.content} for part in job.content]  # type: ignore[union-attr]
    return job.content


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"
