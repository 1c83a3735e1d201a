"""Dataclasses to flags: one field is one flag, with its default and its help."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from ..engine.request import Sampling
from ..errors import NOTE, UsageError
from ..options import LoadOptions, SettingRejected
from .doubts import doubts_about_stops, doubts_about_text
from .panels import CHAT_PANEL, GENERAL_PANEL, INPUT_PANEL, MODEL_PANEL, OUTPUT_PANEL, SAMPLING_PANEL, arranged
from .terminal import show_log, write_stderr

# Flags that are not simply the field's name.
FLAGS = {
    "max_tokens": ("--max-tokens", "-n"),
    "temperature": ("--temperature", "-t"),
    "n": ("--num-samples",),
    "model": ("--model", "-m"),
    "max_seq_len": ("--max-seq-len", "-c"),
    "batch_size": ("--batch-size", "-b"),
    "mmap": ("--mmap/--no-mmap",),
}

# Fields that belong to one request, or to one command: no setting of everyday.
REQUEST_ONLY = ("logit_bias", "stop", "stop_token_ids", "n", "logprobs", "top_logprobs", "prompt_logprobs")
COMMAND_ONLY = ("chat_template", "dp", "on_layer")

PANEL_OF: Mapping[type, str] = {LoadOptions: MODEL_PANEL, Sampling: SAMPLING_PANEL}


def is_setting(name: str) -> bool:
    """Whether the environment and config.toml may give a field a value."""
    return name not in REQUEST_ONLY + COMMAND_ONLY


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return f"LLAMA_CLI_{name.upper()}"


def complete_model(incomplete: str) -> list[str]:
    """Names that begin so, for the shell; with none, it goes on with file names.

    In either case of letters, but with those typed: the shell drops what does not begin as the word does.
    """
    from ..checkpoint.installed import installed_models

    names = [each.name for each in installed_models()]
    typed = incomplete.casefold()
    return [incomplete + name[len(incomplete) :] for name in names if name.casefold().startswith(typed)]


ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", autocompletion=complete_model, help="The model's name or folder, as for -m."),
]
FromFile = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="Read the text from a file; - is standard input.", rich_help_panel=INPUT_PANEL),
]
AsIds = Annotated[
    str | None,
    typer.Option("--prompt-ids", metavar="IDS", help="Token ids, not a text: 1,2,3.", rich_help_panel=INPUT_PANEL),
]
UseStdin = Annotated[
    bool,
    typer.Option(
        " /--no-stdin",
        envvar="LLAMA_CLI_STDIN",
        show_envvar=False,
        show_default=False,
        help="Leave standard input alone, also where it is a pipe.",
        rich_help_panel=INPUT_PANEL,
    ),
]
KeepSession = Annotated[
    bool,
    typer.Option(
        " /--no-session",
        envvar="LLAMA_CLI_KEEP_SESSION",
        show_envvar=False,
        show_default=False,
        help="Keep nothing of a conversation that has no --session.",
        rich_help_panel=CHAT_PANEL,
    ),
]
OneRow = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, max=4096, hidden=True, help="Taken from Meta's scripts: one prompt runs."),
]


class Offered(NamedTuple):
    """The fields of a group that a command has flags for, where these are not all: `Annotated[LoadOptions, ...]`."""

    names: tuple[str, ...]


# What every command takes that runs a model.
RUN_FLAGS = tuple(
    each.name for each in dataclasses.fields(LoadOptions) if each.name not in (*COMMAND_ONLY, "batch_size")
)
ModelOptions = Annotated[LoadOptions, Offered(RUN_FLAGS)]
ChatModelOptions = Annotated[LoadOptions, Offered((*RUN_FLAGS, "chat_template"))]
BatchModelOptions = Annotated[LoadOptions, Offered((*RUN_FLAGS, "batch_size", "chat_template", "dp"))]
ModelSettings = Annotated[LoadOptions, Offered((*RUN_FLAGS, "batch_size"))]
AS_MANY_AS_FIT = LoadOptions(batch_size=None)  # a default of those two

# What commands take that only look at a model.
WhichModel = Annotated[LoadOptions, Offered(("model", "tokenizer"))]
PlannedModel = Annotated[LoadOptions, Offered(("model", "tokenizer", "max_seq_len", "rope_scale_factor"))]

OneJsonObject = Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT_PANEL)]
Raw = Annotated[
    bool, typer.Option("--raw", help="Send control characters to a terminal too.", rich_help_panel=OUTPUT_PANEL)
]
Wrap = Annotated[
    bool,
    typer.Option(
        "--wrap/--no-wrap",
        help="On a terminal, break lines at words, but not those of code.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


@dataclasses.dataclass(frozen=True)
class MessageOptions:
    """What to say on standard error."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.", rich_help_panel=GENERAL_PANEL)] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.", rich_help_panel=GENERAL_PANEL)] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=GENERAL_PANEL)
    ] = False

    def apply(self) -> None:
        """Say so much from here on; first of all which variables of the environment set nothing."""
        show_log(logging.ERROR if self.quiet else logging.INFO if self.verbose else NOTE)
        from .settings import unknown_variables  # which is made of the flags here

        for name, advice in unknown_variables(os.environ).items():
            self.note(f"{name} is no setting: {advice}")

    def note(self, text: str) -> None:
        if not self.quiet:
            write_stderr(f"llama-cli: {text}")

    def tell_of_toy(self, model: str | Path | None) -> None:
        """Say what runs where no model was given."""
        if model is None:
            self.note("no --model given: running the bundled toy, a small model that writes like Shakespeare")

    def doubt(self, text: str) -> None:
        """Tell a person what a text will not do that it seems to be meant for."""
        for doubt in doubts_about_text(text):
            self.note(doubt)


CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


class Group(NamedTuple):
    """A parameter of a command that stands for flags."""

    kind: type
    offered: tuple[str, ...]  # fields that have flags
    defaults: Any  # an instance that holds them, or Parameter.empty

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> Group | None:
        """None where a parameter is a flag or an argument itself."""
        kind, offered = parameter.annotation, None
        if get_origin(kind) is Annotated:
            kind, *metadata = get_args(kind)
            offered = next((each.names for each in metadata if isinstance(each, Offered)), None)
        if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
            return None
        return cls(kind, offered or tuple(each.name for each in dataclasses.fields(kind)), parameter.default)

    @property
    def flags(self) -> Iterator[inspect.Parameter]:
        """One for each field that is offered, as typer wants it."""
        hints = get_type_hints(self.kind, include_extras=True)
        for each in dataclasses.fields(self.kind):
            if each.name not in self.offered:
                continue
            default = each.default if each.default is not dataclasses.MISSING else None
            if self.defaults is not inspect.Parameter.empty and default is not None:
                default = getattr(self.defaults, each.name)
            default = None if default == () else default
            annotation = hints[each.name]
            if self.kind in PANEL_OF:
                annotation = _flag(each.name, annotation, PANEL_OF[self.kind])
            yield inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def build(self, values: Mapping[str, Any], context: typer.Context) -> Any:
        """The group with what was given; UsageError names a flag whose value it does not take, and whence that came."""
        chosen = {name: values[name] for name in self.offered}
        if self.kind is Sampling:
            chosen["logit_bias"] = _parse_biases(chosen["logit_bias"] or [])
            chosen["stop"] = chosen["stop"] or ()
            chosen["stop_token_ids"] = chosen["stop_token_ids"] or ()
        try:
            return self.kind(**chosen)
        except SettingRejected as error:
            from .settings import source_of  # which is made of the flags here

            source = source_of(context, error.name)
            whence = "" if source in ("flag", "default") else f" (from {source})"
            flag = _names_of(error.name)[0].partition("/")[0]
            raise UsageError(f"{flag}: {error.reason}{whence}", f"llama-cli {context.info_name} --help") from None


def with_options(*first: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command as typer wants it: each parameter that is a dataclass becomes one flag for each of its fields.

    A default of such a parameter holds the flags' defaults. The flags of the parameters `first` are those that a
    newcomer needs: the help shows them first.
    """

    def made(command: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(command, eval_str=True).parameters
        groups = {name: group for name, parameter in parameters.items() if (group := Group.of(parameter)) is not None}
        plain = [parameter for name, parameter in parameters.items() if name not in groups]
        context = next((each for each in plain if each.annotation is typer.Context), CONTEXT)

        @functools.wraps(command)
        def run(**values: Any) -> None:
            built = {name: group.build(values, values[context.name]) for name, group in groups.items()}
            for doubt in doubts_about_stops(values.get("stop") or ()):
                built["messages"].note(doubt)
            command(**{parameter.name: values[parameter.name] for parameter in plain}, **built)

        flags = [_named(flag) for flag in (*plain, *(flag for group in groups.values() for flag in group.flags))]
        flags = arranged([flag for flag in flags if flag is not context], first)
        flags.append(context.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        run.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
        run.__annotations__ = {flag.name: flag.annotation for flag in flags}
        return run

    return made


def _named(flag: inspect.Parameter) -> inspect.Parameter:
    """The flag of a file refuses an empty name: that of a variable that is not set would be the current folder."""
    if get_origin(flag.annotation) is Annotated:
        value_type, option = get_args(flag.annotation)
        if Path in (value_type, *get_args(value_type)):
            option.parser = _path_of
    return flag


def _path_of(text: str) -> Path:
    if not text:
        raise typer.BadParameter("the name of a file or folder is empty")
    return Path(text)


def _names_of(name: str) -> tuple[str, ...]:
    return FLAGS.get(name, (f"--{name.replace('_', '-')}",))


def _flag(name: str, annotation: Any, panel: str) -> Any:
    """The typer option of one field of a group; its bounds stay with the group."""
    value_type, *metadata = get_args(annotation)
    description = next(item.description for item in metadata if isinstance(item, FieldInfo))
    option: Any = typer.Option(*_names_of(name), help=description, rich_help_panel=panel)
    if is_setting(name):
        option.envvar, option.show_envvar = variable_of(name), name == "model"
    if name == "model":
        option.autocompletion = complete_model
    return Annotated[_typed(value_type), option]


def _typed(value_type: Any) -> Any:
    """What is typed for a value of such a type: a list for several, and a text for what a text may be."""
    origin = get_origin(value_type)
    if origin is tuple:
        element = get_args(value_type)[0]
        return list[get_args(element)[0]] | None  # type: ignore[misc]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return list[str] | None
    return str | None if str in get_args(value_type) else value_type


def _parse_biases(texts: list[str]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for text in texts:
        token_id, _, bias = text.partition("=")
        try:
            number, value = int(token_id), float(bias)
        except ValueError:
            raise UsageError(f"--logit-bias {text!r} is not ID=BIAS", "--logit-bias 128001=-100") from None
        if biases.setdefault(number, value) != value:
            raise UsageError(f"--logit-bias gives {number} two biases: {biases[number]:g} and {value:g}", "give one")
    return biases
