"""What a user can do wrong, as exceptions: one line of what, one line of what to type, one exit code."""

SOME_ROWS_FAILED = 6  # exit code of a command that did its work, but not for every row


class LlamaError(Exception):
    """A failure the user can act on. `hint` is a thing to type or to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LlamaError):
    """The command line or the call does not make sense."""

    exit_code = 2


class ModelRejected(LlamaError):
    """The model folder is missing, damaged, hostile or of a kind that is not supported."""

    exit_code = 3


class NotComputed(ModelRejected):
    """The model is sound as far as is known, and of a kind that this program does not compute."""


class DoesNotFit(LlamaError):
    """Not enough memory, or no such device."""

    exit_code = 4


class InputRejected(LlamaError):
    """The prompt or the input file cannot be used."""

    exit_code = 5


class ContextTooLong(InputRejected):
    """The prompt is longer than the context."""


class OutputRefused(LlamaError):
    """The output exists, is locked or belongs to another run."""

    exit_code = 7


class OutputFailed(LlamaError):
    """Standard output or an output file could not be written."""

    exit_code = 74


class NumericalError(LlamaError):
    """The model produced NaN or infinity."""
