"""Dataclasses to flags: one field is one flag, with its default and its help."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from ..engine.request import Sampling, SettingRejected
from ..errors import NOTE, UsageError
from .doubts import doubts_about_stops, doubts_about_text
from .terminal import show_log, write_stderr

# Flags that are not simply the field's name.
SAMPLING_FLAGS = {
    "max_tokens": ("--max-tokens", "-n"),
    "temperature": ("--temperature", "-t"),
    "n": ("--num-samples",),
}

# Fields that belong to one request: no setting of everyday.
REQUEST_ONLY = ("logit_bias", "stop", "stop_token_ids", "n", "logprobs", "top_logprobs", "prompt_logprobs")

MOST_TOKENS = 2**31 - 1

MODEL_PANEL, SAMPLING_PANEL, OUTPUT_PANEL = "Model", "Sampling", "Output"


def model_option(*flags: str, help: str, **more: Any) -> Any:  # noqa: A002
    """A flag in the panel of the model's flags."""
    return typer.Option(*flags, help=help, rich_help_panel=MODEL_PANEL, **more)


def is_setting(name: str) -> bool:
    """Whether the environment and config.toml may give a field a value."""
    return name not in REQUEST_ONLY


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


ModelName = Annotated[
    str | None,
    model_option(
        "--model",
        "-m",
        envvar="LLAMA_CLI_MODEL",
        autocompletion=complete_model,
        help="The model's name or folder. Default: the bundled toy.",
    ),
]
TokenizerFile = Annotated[
    Path | None,
    model_option(
        "--tokenizer",
        envvar="LLAMA_CLI_TOKENIZER",
        show_envvar=False,
        help="tokenizer.model, tokenizer.json or chars.json, if it lies elsewhere.",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", autocompletion=complete_model, help="The model's name or folder, as for -m."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        min=1,
        max=4096,
        envvar="LLAMA_CLI_BATCH_SIZE",
        show_envvar=False,
        help="Rows at a time. Default: by memory.",
    ),
]
UseStdin = Annotated[
    bool,
    typer.Option(
        " /--no-stdin",
        envvar="LLAMA_CLI_STDIN",
        show_envvar=False,
        show_default=False,
        help="Leave standard input alone, also where it is a pipe.",
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
    ),
]
OneRow = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, max=4096, hidden=True, help="Taken from Meta's scripts: one prompt runs."),
]


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which model, and how to run it."""

    model: ModelName = None
    tokenizer: TokenizerFile = None
    max_seq_len: Annotated[
        int | None,
        model_option(
            "--max-seq-len",
            "-c",
            min=1,
            max=MOST_TOKENS,
            help="Context in tokens. Default: what the family was trained for.",
        ),
    ] = None
    dtype: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        model_option("--dtype", help="Of weights and arithmetic; auto: as stored, a toy on a CPU in fp32."),
    ] = "auto"
    device: Annotated[str, model_option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    threads: Annotated[
        int | None, model_option("--threads", min=1, max=4096, help="CPU threads. Default: all cores.")
    ] = None
    quantize: Annotated[
        Literal["int8", "int4"] | None,
        model_option("--quantize", help="Round the weights of linear layers: int8 is fastest, int4 smallest."),
    ] = None
    kernels: Annotated[
        Literal["auto", "torch", "plain"],
        model_option("--kernels", help="auto: ours, compiled on first use; torch: its fastest; plain: its F.linear."),
    ] = "auto"
    compile: Annotated[
        bool, model_option("--compile", help="On GPUs, for long runs: torch.compile makes the layers' kernels.")
    ] = False
    rope_scale_factor: Annotated[
        float | None,
        model_option("--rope-scale-factor", min=1, help="Of Llama 3.1's RoPE; default 8, for 3.2 1B and 3B 32."),
    ] = None
    mmap: Annotated[bool, model_option("--mmap/--no-mmap", help="Map the files, or read them into memory first.")] = (
        True
    )
    tp: Annotated[
        int | None,
        model_option("--tp", min=1, max=1024, help="Processes that share the model, each with a part of every layer."),
    ] = None


TemplateOption = Annotated[
    Literal["auto", "llama3", "llama3-strip", "llama2", "codellama-70b", "chatml", "none"],
    model_option("--chat-template", help="The format of dialogs; auto: what the folder or the family says."),
]

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

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.", rich_help_panel=OUTPUT_PANEL)] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.", rich_help_panel=OUTPUT_PANEL)] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT_PANEL)
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

    def doubt(self, text: str) -> None:
        """Tell a person what a text will not do that it seems to be meant for."""
        for doubt in doubts_about_text(text):
            self.note(doubt)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer wants it: each parameter that is a dataclass becomes one flag for each of its fields.

    A default of such a parameter holds the flags' defaults.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {
        name: p.annotation
        for name, p in signature.parameters.items()
        if isinstance(p.annotation, type) and dataclasses.is_dataclass(p.annotation)
    }
    plain = [p for name, p in signature.parameters.items() if name not in groups]
    flags = [flag for name, group in groups.items() for flag in _flags_of(group, signature.parameters[name].default)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        built = {name: _build(group, values) for name, group in groups.items()}
        for doubt in doubts_about_stops(values.get("stop") or ()):
            built["messages"].note(doubt)
        command(**{p.name: values[p.name] for p in plain}, **built)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*plain, *flags)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _flags_of(group: type, defaults: Any = inspect.Parameter.empty) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    parameters = []
    for each in dataclasses.fields(group):
        default = each.default if each.default is not dataclasses.MISSING else None
        if defaults is not inspect.Parameter.empty and default is not None:
            default = getattr(defaults, each.name)
        annotation = hints[each.name]
        if group is Sampling:
            annotation, default = _sampling_flag(each.name, annotation), default if default != () else None
        if group in (Sampling, ModelOptions) and is_setting(each.name):
            annotation = _with_variable(each.name, annotation)
        parameters.append(
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return parameters


def _with_variable(name: str, annotation: Any) -> Any:
    """The same flag, with its environment variable if it has none yet."""
    value_type, option = get_args(annotation)
    if option.envvar is None:
        option = copy.copy(option)
        option.envvar, option.show_envvar = variable_of(name), False
    return Annotated[value_type, option]


def _sampling_flag(name: str, annotation: Any) -> Any:
    """The typer option of one field of Sampling; its bounds stay with Sampling."""
    value_type, *metadata = get_args(annotation)
    description = next(item.description for item in metadata if isinstance(item, FieldInfo))
    flags = SAMPLING_FLAGS.get(name, (f"--{name.replace('_', '-')}",))
    origin = get_origin(value_type)
    if origin is tuple:
        element = get_args(value_type)[0]
        value_type = list[get_args(element)[0]] | None  # type: ignore[misc]
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        value_type = list[str] | None
    return Annotated[value_type, typer.Option(*flags, help=description, rich_help_panel=SAMPLING_PANEL)]


def _build(group: type, values: dict[str, Any]) -> Any:
    chosen = {each.name: values[each.name] for each in dataclasses.fields(group)}
    if group is not Sampling:
        return group(**chosen)
    chosen["logit_bias"] = _parse_biases(chosen["logit_bias"] or [])
    chosen["stop"] = chosen["stop"] or ()
    chosen["stop_token_ids"] = chosen["stop_token_ids"] or ()
    try:
        return Sampling(**chosen)
    except SettingRejected as error:
        flag = SAMPLING_FLAGS.get(error.name, (f"--{error.name.replace('_', '-')}",))[0]
        raise UsageError(f"{flag}: {error.reason}", "llama-cli complete --help") from None


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
