"""`llama-cli complete`: continue a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..engine.request import Sampling
from ..errors import UsageError
from .options import AsIds, FromFile, MessageOptions, ModelOptions, OneRow, Raw, UseStdin, Wrap, with_options
from .panels import INPUT_PANEL, OUTPUT_PANEL
from .progress import Loading, shown_while_read
from .prompts import check_text, read_prompt
from .terminal import Terminal, format_stats

if TYPE_CHECKING:
    from ..engine.request import Request
    from ..llm import LLM
    from .run import Run

BETWEEN_SAMPLES = "\n---\n"


@dataclass(frozen=True)
class Printed:
    """How the text is printed: its flags are its fields."""

    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt first.", rich_help_panel=OUTPUT_PANEL)] = False
    stream: Annotated[
        bool,
        typer.Option("--stream/--no-stream", help="Print the text while it is made.", rich_help_panel=OUTPUT_PANEL),
    ] = True
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each sample.", rich_help_panel=OUTPUT_PANEL)
    ] = False
    raw: Raw = False
    wrap: Wrap = True
    stats: Annotated[
        bool, typer.Option("--stats", help="Report speed and memory at the end.", rich_help_panel=OUTPUT_PANEL)
    ] = False


@with_options("model", "max_tokens", "temperature")
def complete(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The text to continue; - reads standard input.")
    ] = None,
    *,
    file: FromFile = None,
    prompt_ids: AsIds = None,
    stdin: UseStdin = True,
    suffix: Annotated[
        str | None,
        typer.Option(
            "--suffix",
            help="Fill in what stands between the prompt and this text (Code Llama).",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None,
    batch_size: OneRow = None,
    model: ModelOptions,
    sampling: Sampling,
    printed: Printed,
    messages: MessageOptions,
) -> None:
    """Continue a text.

    The prompt is the argument, -f FILE and what is piped in, joined by line breaks.

    Examples:
      llama-cli complete "Once upon a time"
      llama-cli complete -m Llama3.2-1B -n 16 -t 0 "The capital of France is"
      llama-cli complete -m Llama3.2-1B -f story.txt --stop "The end"
    """
    messages.apply()
    if sampling.wants_logprobs and not printed.as_json:
        raise UsageError("--logprobs, --top-logprobs and --prompt-logprobs need --json", "add --json")
    content = read_prompt(prompt, file, prompt_ids, stdin=stdin, note=messages.note)
    if isinstance(content, str):
        messages.doubt(content)
    if suffix is not None and prompt_ids is not None:
        raise UsageError("--suffix needs a prompt that is text, not ids", "leave --prompt-ids out")
    messages.tell_of_toy(model.model)

    with Loading(model.model, quiet=messages.quiet) as loading:
        from ..loader import load_model
        from .run import Run

        session = load_model(replace(model, batch_size=sampling.n, on_layer=loading.on_layer))
    asked: str | Sequence[int] = content
    if suffix is not None and isinstance(content, str):
        asked = session.encode_infilling(content, check_text(suffix, "--suffix"), sampling.max_tokens)
    (request,) = session.requests([asked], sampling)
    run = Run(session)
    terminal = Terminal(raw=printed.raw)
    shown = _text_of(session, content, request) if printed.echo else ""
    _print(run, request, shown, printed, terminal, quiet=messages.quiet)
    session.ensure_unchanged()
    if printed.stats:
        terminal.note(f"llama-cli: {format_stats(run.timings())}")


def _print(run: Run, request: Request, shown: str, printed: Printed, terminal: Terminal, *, quiet: bool) -> None:
    """The answer behind what is shown of the prompt."""
    from ..chat.shapes import describe_completion

    if printed.as_json:
        for completion in run.collect([request]):
            terminal.write_json(describe_completion(run.session, completion, shown, run.timings()))
        return
    with terminal.answer(wrap=printed.wrap) as write:
        for text in _texts(run, request, shown, stream=printed.stream, quiet=quiet):
            write(text)
        write("\n")


def _texts(run: Run, request: Request, shown: str, *, stream: bool, quiet: bool) -> Iterator[str]:
    """What is printed, piece by piece as it is made; several samples at once are printed when all are done."""
    if request.sampling.n == 1 and stream:
        pieces = shown_while_read(run.texts(request), len(request.prompt), run.session.stats, quiet=quiet)
        yield shown + next(pieces, "")  # what is read is shown in the row where it begins
        yield from pieces
    else:
        yield BETWEEN_SAMPLES.join(shown + completion.text for completion in run.collect([request]))


def _text_of(session: LLM, content: str | list[int], request: Request) -> str:
    return content if isinstance(content, str) else session.decode(request.prompt)
