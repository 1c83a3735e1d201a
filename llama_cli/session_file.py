"""Conversations on disk: JSONL, one branch a line, each a row that `llama-cli batch` reads too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizer import EncodeError
from tokenizer.chat import Message

from .conversation import FIRST_BRANCH, Branch, Conversation
from .errors import InputRejected, OutputRefused
from .files.write import replace_file

MAX_BYTES = 256 << 20


class SessionFile:
    """One file that a chat keeps. Written whole: a kill at any moment leaves the old one or the new one."""

    def __init__(self, path: Path, *, model: str, fingerprint: str) -> None:
        self.path = path
        self._model = model
        self._fingerprint = fingerprint
        self._known: tuple[int, ...] | None = None  # the file as this process last saw it

    def load(self) -> Conversation:
        """Read it. Ids are kept only where the same model made them. InputRejected if it is no conversation."""
        self._known = _identity(self.path)
        return read_conversation(self.path, self._fingerprint)

    def save(self, conversation: Conversation) -> None:
        """Write it. OutputRefused, once, if somebody else wrote it meanwhile: what follows goes beside it."""
        if _identity(self.path) != self._known:
            other, self.path = self.path, _free_name(self.path)
            self._known = None
            self.save(conversation)
            raise OutputRefused(
                f"{other} was changed by another program", f"this conversation is kept in {self.path} from here on"
            )
        write_conversation(self.path, conversation, model=self._model, fingerprint=self._fingerprint)
        self._known = _identity(self.path)


def read_conversation(path: Path, fingerprint: str | None = None) -> Conversation:
    """Every line with messages as a branch; `fingerprint` is that of the model whose ids may be kept."""
    branches: dict[str, Branch] = {}
    current = None
    for number, line in enumerate(_read_lines(path), 1):
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputRejected(f"{where} is no JSON", "give a file that /save or --session wrote") from None
        body = row.get("body", row) if isinstance(row, dict) else None
        messages = body.get("messages") if isinstance(body, dict) else None
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise InputRejected(f"{where} has no list of messages", "give a file that /save or --session wrote")
        about = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
        try:
            branch = _branch_of(messages, about, keep_ids=about.get("fingerprint") == fingerprint is not None)
        except EncodeError as error:
            raise InputRejected(f"{where}: {error.message}", error.hint) from None
        name = str(row.get("id", row.get("custom_id", f"line-{number}")))
        branches[name] = branch
        current = name if about.get("current") is True else current
    return Conversation(branches, current or (list(branches) or [FIRST_BRANCH])[-1])


def _branch_of(messages: Sequence[dict[str, Any]], about: dict[str, Any], *, keep_ids: bool) -> Branch:
    read = tuple(_with_ids(message) if keep_ids else Message.of(message) for message in messages)
    branch = Branch(read)
    dropped = about.get("dropped")
    return replace(branch, n_dropped=dropped) if type(dropped) is int and 0 < dropped < len(branch.spoken) else branch


def _with_ids(fields: dict[str, Any]) -> Message:
    message, ids = Message.of(fields), fields.get("token_ids")
    if isinstance(ids, list) and all(type(token_id) is int for token_id in ids):
        return replace(message, token_ids=tuple(ids))
    return message


def write_conversation(path: Path, conversation: Conversation, *, model: str, fingerprint: str) -> None:
    """Write every branch that has messages; OutputFailed says why it could not be."""
    rows = []
    for name, branch in conversation.branches.items():
        if not branch.spoken:
            continue
        about: dict[str, Any] = {"model": model, "fingerprint": fingerprint, "current": name == conversation.current}
        if branch.n_dropped:
            about["dropped"] = branch.n_dropped
        rows.append({"id": name, "messages": [message.as_json() for message in branch.messages], "metadata": about})
    replace_file(path, (json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows), private=True)


def _read_lines(path: Path) -> list[bytes]:
    try:
        if not path.is_file():  # a pipe would be waited for, and a device has no end
            raise InputRejected(f"{path} is no regular file", "give a file that /save or --session wrote")
        if path.stat().st_size > MAX_BYTES:
            raise InputRejected(f"{path} has more than {MAX_BYTES:,} bytes", "give a file of messages")
        return [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputRejected(f"cannot read {path}: {reason}", "give a file that /save or --session wrote") from None


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, 10**6))
    return next(name for name in names if not name.exists())
