"""Conversations on disk: JSONL, one branch a line, each a row that `llama-cli batch` reads too."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputRejected, OutputRefused
from ..files.claim import Claim
from ..files.write import replace_file
from ..llm import LLM
from ..tokenizer import EncodeError, Tokenizer
from ..tokenizer.chat import Message
from ..tokenizer.tool_calls import says_what_its_ids_say
from .conversation import FIRST_BRANCH, Branch, Conversation, turn_starts

logger = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
OF_A_BRANCH = {"id", "custom_id", "messages", "metadata", "model"}  # what else a row has are settings, for `batch`


class Origin(NamedTuple):
    """The model whose ids a conversation holds."""

    model: str
    fingerprint: str
    tokenizer: Tokenizer


def origin_of(session: LLM) -> Origin:
    """A loaded model as the files of its conversations name it."""
    return Origin(session.info.name, session.info.fingerprint, session.tokenizer)


class SessionFile:
    """One file that a chat keeps. Written whole: a kill at any moment leaves the old one or the new one."""

    def __init__(self, path: Path, origin: Origin, claim: Claim | None = None) -> None:
        self.path = path
        self._origin = origin
        self._claim = claim  # what keeps other chats from it
        self._is_begun = False  # whether it holds this conversation
        self._known: tuple[int, ...] | None = None  # the file as this process last saw it

    def load(self) -> Conversation:
        """Read it, as `read_conversation` does."""
        self._known = _identity(self.path)
        conversation = read_conversation(self.path, self._origin)
        self._is_begun = True
        return conversation

    def begin_anew(self) -> None:
        """Let another conversation take the place of the one that the file holds, once something was said."""
        self._known = _identity(self.path)

    def save(self, conversation: Conversation) -> None:
        """Write it. If another program has changed the file, write a new one beside it, and go on with that one.

        OutputRefused tells of the change, once, when the new file is written.
        """
        if not self._is_begun and not any(branch.spoken for branch in conversation.branches.values()):
            return
        if _identity(self.path) != self._known:
            other, self.path = self.path, _free_name(self.path)
            self._known = None
            self.save(conversation)
            raise OutputRefused(
                f"{other} was changed by another program", f"this conversation is kept in {self.path} from here on"
            )
        write_conversation(self.path, conversation, self._origin)
        self._known, self._is_begun = _identity(self.path), True
        if self._claim is not None:
            self._claim.renew(self.path)


def read_conversation(path: Path, origin: Origin | None = None) -> Conversation:
    """Every line with messages as a branch, with the ids that `branch_of` keeps. InputRejected if there are none."""
    branches: dict[str, Branch] = {}
    current = None
    for number, line in enumerate(_read_lines(path), 1):
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputRejected(f"{where} is no JSON", "give a file that /save or --session wrote") from None
        body = row.get("body", row) if isinstance(row, dict) else None
        fields: Mapping[str, Any] = body if isinstance(body, dict) else {}
        messages = fields.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise InputRejected(f"{where} has no list of messages", "give a file that /save or --session wrote")
        about = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
        others = sorted(name for name in fields.keys() - OF_A_BRANCH if fields[name] is not None)
        if others:
            logger.warning("%s: a chat takes the messages and leaves out %s", where, ", ".join(others)[:200])
        try:
            branch = branch_of([Message.of(message, with_ids=True) for message in messages], about, origin)
        except EncodeError as error:
            raise InputRejected(f"{where}: {error.message}", error.hint) from None
        name = str(row.get("id", row.get("custom_id", f"line-{number}")))
        if name in branches:
            raise InputRejected(
                f"{where} has the id {name[:40]!r} of a line above it", "give each line an id of its own"
            )
        branches[name] = branch
        current = name if about.get("current") is True else current
    return Conversation(branches, current or (list(branches) or [FIRST_BRANCH])[-1])


def branch_of(messages: Sequence[Message], about: Mapping[str, Any], origin: Origin | None) -> Branch:
    """Messages as a file has them, with what its `metadata` says of them.

    Ids stay only where the same model made them and they still say what the message says: a file may be edited, and
    what people read in it counts. What was dropped stays dropped if a turn begins behind it.
    """
    is_own = origin is not None and about.get("fingerprint") == origin.fingerprint
    tokenizer = origin.tokenizer if origin is not None and is_own else None
    branch = Branch(tuple(_with_true_ids(message, tokenizer) for message in messages))
    dropped = about.get("dropped") if "fingerprint" in about else None
    if type(dropped) is not int or dropped not in turn_starts(branch.spoken):
        return branch
    return replace(branch, n_dropped=dropped)


def _with_true_ids(message: Message, tokenizer: Tokenizer | None) -> Message:
    is_true = tokenizer is not None and says_what_its_ids_say(message, tokenizer)
    return message if message.token_ids is None or is_true else replace(message, token_ids=None)


def write_conversation(path: Path, conversation: Conversation, origin: Origin) -> None:
    """Write every branch that has messages; OutputFailed says why it could not be."""
    rows = []
    for name, branch in conversation.branches.items():
        if not branch.spoken:
            continue
        about: dict[str, Any] = {"model": origin.model, "fingerprint": origin.fingerprint}
        about["current"] = name == conversation.current
        if branch.n_dropped:
            about["dropped"] = branch.n_dropped
        rows.append({"id": name, "messages": [message.as_json() for message in branch.messages], "metadata": about})
    replace_file(path, (json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows), private=True)


def _read_lines(path: Path) -> list[bytes]:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, and a device has no end
            raise InputRejected(f"{path} is no regular file", "give a file that /save or --session wrote")
        if found.st_size > MAX_BYTES:
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
