"""The table of commands, and the one place where errors and signals become exit codes."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException

from .. import __version__
from ..errors import LlamaError, OutputFailed
from .batch import batch
from .bench import bench
from .chat import chat
from .complete import complete
from .merge import merge
from .options import ALIASES
from .score import score
from .terminal import CLOSED_OUTPUT, ReaderGone, drop_stdout, show_error

INTERNAL_ERROR, USAGE_ERROR, READER_GONE, INTERRUPTED = 1, 2, 141, 130

EXAMPLES = """Examples:

  llama-cli complete "Once upon a time"

  llama-cli complete -m ~/.llama/checkpoints/Llama3.2-1B "The capital of France is" -n 16 -t 0
"""

app = typer.Typer(
    name="llama-cli",
    help="Run Meta's native Llama checkpoints as they lie on disk.",
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"llama-cli {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(complete)
app.command()(chat)
app.command()(batch)
app.command()(bench)
app.command()(merge)
app.command()(score)


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Not an Exception: nothing on the way may swallow it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def _raise_terminated(signal_number: int, frame: FrameType | None) -> None:
    raise Terminated(signal_number)


def _install_handlers() -> None:
    """End in an orderly way; a signal that the caller has set to be ignored stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise_terminated)


def rewrite_aliases(arguments: Sequence[str]) -> list[str]:
    """Meta's flags, in either spelling, as ours."""
    rewritten = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = ALIASES.get(name.replace("_", "-"), name) if name.startswith("--") else name
        rewritten.append(name + equals + value)
    return rewritten


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = rewrite_aliases(sys.argv[1:] if arguments is None else arguments)
    _install_handlers()
    try:
        if sys.stdout is None:
            raise OutputFailed(*CLOSED_OUTPUT)
        code = app(arguments, prog_name="llama-cli", standalone_mode=False)
        _flush_stdout()
    except (ReaderGone, BrokenPipeError):
        drop_stdout()
        return READER_GONE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Terminated as error:
        return 128 + error.signal_number
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _report(error, as_json="--json" in arguments)
    return code if isinstance(code, int) else 0


def _flush_stdout() -> None:
    """Help and version go through Python's buffer: find out now whether they arrived."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _report(error: Exception, *, as_json: bool) -> int:
    if isinstance(error, LlamaError):
        show_error(error.message, error.hint, error.exit_code, as_json=as_json)
        return error.exit_code
    if isinstance(error, TyperException):
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        show_error(message, "llama-cli --help", USAGE_ERROR, as_json=as_json)
        return USAGE_ERROR
    message = f"internal error: {type(error).__name__}: {error}"
    show_error(message, "this is a bug; run it again with --debug and report it", INTERNAL_ERROR, as_json=as_json)
    return INTERNAL_ERROR
