"""Installing the completion for the shell: typer does it, and what keeps it from that is said here."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import LlamaError, OutputFailed, UsageError

BY_HAND = 'put this line into your shell\'s start file: eval "$(llama-cli --show-completion)"'


def installs_completion(arguments: Sequence[str]) -> bool:
    """Whether a line wants the completion installed."""
    return next(iter(arguments), "").replace("_", "-") == "--install-completion"


def why_not(error: Exception) -> LlamaError:
    """The refusal where `error` kept typer from installing it: no home folder, or a start file it cannot change."""
    if isinstance(error, UnicodeError):
        reason = "the shell's start file is not UTF-8"
    elif isinstance(error, OSError) and error.strerror:
        reason = f"{error.filename or 'a file'}: {error.strerror.lower()}"
    else:
        reason = str(error)
    return OutputFailed(f"the completion cannot be installed: {reason}", BY_HAND)


def unknown_shell() -> LlamaError:
    """The refusal of a shell that typer does not know; typer has printed its own on standard output."""
    return UsageError("the shell that this runs in is not known", "bash, zsh, fish and PowerShell are; run it from one")
