"""The table of commands, and the one place where errors and signals become exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException

from .. import __version__
from ..errors import LlamaError, OutputFailed, ReaderGone, UsageError, explained
from ..parallel.ranks import Place
from ..tokenizer.distribution import DISTRIBUTION
from .batch import batch
from .bench import bench
from .chat import chat
from .complete import complete
from .completion import installs_completion, unknown_shell, why_not
from .config import config
from .convert import convert
from .help import help_
from .info import info
from .merge import merge
from .models import models
from .page import Command, Commands, text_and_examples
from .score import score
from .settings import config_file, defaults_of, read_settings, source_of
from .spellings import hint_for, hint_for_words, refuse_foreign_line, spelled
from .terminal import CLOSED_OUTPUT, drop_stdout, show_error
from .tokenize import tokenize
from .verify import verify

INTERNAL_ERROR, USAGE_ERROR, READER_GONE, INTERRUPTED = 1, 2, 141, 130

# Commands that load a model: torchrun's other ranks help with these.
ON_RANKS = ("batch", "bench", "chat", "complete", "score")
SPINS = "10000"  # of libgomp's loop: half a millisecond

EXAMPLES = """Examples:
  llama-cli complete "Once upon a time"
  llama-cli chat -m Llama3.2-1B-Instruct
  llama-cli batch prompts.jsonl -o answers.jsonl"""

app = typer.Typer(
    name="llama-cli",
    cls=Commands,
    help="Run Meta's native Llama checkpoints as they lie on disk.",
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": spelled},
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
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _add(group: str, *commands: Callable[..., None]) -> None:
    """Make commands known, in a group of the help."""
    for command in commands:
        text, examples = text_and_examples(command)
        name = command.__name__.rstrip("_")  # Python has a `help` of its own
        app.command(name, cls=Command, help=text, epilog=examples, rich_help_panel=group)(command)


_add("Run a model", complete, chat, batch, merge, score)
_add("Models", models, info, verify, convert)
_add("Tools", tokenize, bench, config, help_)


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Not an Exception: nothing on the way may swallow it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def _end(signal_number: int, frame: FrameType | None) -> None:
    if _is_in_import(frame):
        # Nothing of ours is open, and modules that are interrupted while they load say so on standard error.
        os._exit(128 + signal_number)
    if signal_number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(signal_number)


def _is_in_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _yield_to_neighbours() -> None:
    """Let torch's threads sleep soon when they wait for each other.

    libgomp's spin for milliseconds. Where another program has one of the cores, each of the hundred waits of a step
    then takes as long as the kernel lets the other run: a tenth of the speed. It is read when torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _install_handlers() -> None:
    """End in an orderly way; a signal that the caller has set to be ignored stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _fill_closed_descriptors() -> None:
    """Open /dev/null for closed standard streams: else the next file gets their number, and what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _refuse_deleted_folder() -> None:
    """UsageError if the current folder was deleted: oneMKL would end the process without saying that this is why."""
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the current folder is not there any more", "cd to another one") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _yield_to_neighbours()
    _fill_closed_descriptors()
    try:
        place = Place.of(os.environ)
        if place.follows:  # rank 0 alone reads, thinks and prints
            if _runs_on_ranks(arguments):
                from ..loader import load_part
                from ..parallel.follow import follow

                follow(place, load_part, show_error)
            return 0
        _install_handlers()
        if sys.stdout is None:
            raise OutputFailed(*CLOSED_OUTPUT)
        _refuse_deleted_folder()
        code = _run(arguments)
        _flush_stdout()
    except (ReaderGone, BrokenPipeError):
        drop_stdout()
        return READER_GONE
    except SystemExit as error:  # typer's own, while it wrote help
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        drop_stdout()
        return READER_GONE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Terminated as error:
        return 128 + error.signal_number
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _report(error, arguments)
    return code


def _run(arguments: Sequence[str]) -> int:
    """What a command returns is its exit code, where it is a number."""
    commands: Any = typer.main.get_command(app)
    if not _completes():
        refuse_foreign_line(arguments, commands.commands)
    defaults = _defaults(commands, arguments)
    code = commands(arguments, prog_name=_program(), standalone_mode=False, default_map=defaults)
    if code and installs_completion(arguments):
        raise unknown_shell()
    return code if isinstance(code, int) else 0


def _completes() -> bool:
    """Whether the shell wants a word completed, which it says by a variable of the program's name."""
    return f"_{_program().replace('-', '_').upper()}_COMPLETE" in os.environ


def _program() -> str:
    """The name that it was called by: the shell's completion is made for that one."""
    return DISTRIBUTION if os.path.basename(sys.argv[0]) == DISTRIBUTION else "llama-cli"


def _runs_on_ranks(arguments: Sequence[str]) -> bool:
    """Whether a command line loads a model, so that torchrun's other ranks are needed."""
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    return command in ON_RANKS and not _asks_for_help(arguments)


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return arguments[:1] == ["help"] or not {"-h", "--help", "-V", "--version"}.isdisjoint(arguments)


def _defaults(commands: Any, arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What config.toml sets for each command. Help must come even where that file is broken."""
    if _asks_for_help(arguments) or _completes():
        return {}
    return defaults_of(commands.commands, read_settings(config_file()))


def _flush_stdout() -> None:
    """Help and version go through Python's buffer: find out now whether they arrived."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _report(error: Exception, arguments: Sequence[str]) -> int:
    as_json = "--json" in arguments
    if not isinstance(error, LlamaError | TyperException):
        error = why_not(error) if installs_completion(arguments) else explained(error) or error
    if isinstance(error, LlamaError):
        show_error(error.message, error.hint, error.exit_code, as_json=as_json)
        return error.exit_code
    if isinstance(error, TyperException):
        show_error(*_told(error, arguments), USAGE_ERROR, as_json=as_json)
        return USAGE_ERROR
    message = f"internal error: {type(error).__name__}: {error}"
    show_error(message, "this is a bug; run it again with --debug and report it", INTERNAL_ERROR, as_json=as_json)
    return INTERNAL_ERROR


def _told(error: TyperException, arguments: Sequence[str]) -> tuple[str, str]:
    """What typer finds wrong with a line, and what to type."""
    context: Any = getattr(error, "ctx", None)
    parameter: Any = getattr(error, "param", None)
    flag: str = getattr(error, "option_name", "")
    is_unknown = hasattr(error, "possibilities")
    if is_unknown:
        message = error.message  # without what is near by letters alone
    else:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        message = message.replace(": Value error, ", ": ")
        if isinstance(error.__cause__, ValidationError):
            given = repr(error.__cause__.errors(include_url=False)[0]["input"])
            message = message.partition(", unable to parse")[0]
            message += "" if given in message else f", is {given}"
    if context is not None and parameter is not None:
        source = source_of(context, parameter.name)
        message += "" if source in ("flag", "default") else f" (from {source})"
    if context is not None and parameter is None and not flag:
        taken = [each.metavar for each in context.command.params if each.param_type_name == "argument"]
        return message, hint_for_words(context.info_name, taken)
    # A flag that is known is one of ours, and lacks its value.
    return message, hint_for(flag if is_unknown else "", arguments, _options_of(context))


def _options_of(context: Any) -> dict[str, list[str]]:
    """The options of each command that its help shows."""
    commands = {} if context is None else context.find_root().command.commands
    return {
        name: [flag for each in command.params if not each.hidden for flag in (*each.opts, *each.secondary_opts)]
        for name, command in commands.items()
    }
