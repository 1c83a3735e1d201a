"""Flags and command lines as other programs have them: what is taken as it is, and what to type here instead.

llama.cpp has a program of the same name, so that its command lines are typed here too.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from ..errors import UsageError

# Meta's own names of flags, without the dashes, for scripts that have them; not shown in the help.
ALIASES = {
    "ckpt-dir": "model",
    "tokenizer-path": "tokenizer",
    "max-gen-len": "max-tokens",
    "max-batch-size": "batch-size",
    "model-parallel-size": "tp",
    "world-size": "tp",
}

ROOT_FLAGS = ("-h", "--help", "-V", "--version", "--install-completion", "--show-completion")

PROMPT, NOTHING = "PROMPT", ""
TEXTS = {"PROMPT", "MESSAGE", "TEXT"}  # what the arguments are called that are texts
CLOSE = 0.7  # how alike a word must be to be meant, of 1

# llama.cpp's flags with a value, as they are called here.
WITH_VALUE = {
    "-m": "-m",
    "--model": "-m",
    "-hf": "-m",
    "--hf-repo": "-m",
    "-p": PROMPT,
    "--prompt": PROMPT,
    "-f": "-f",
    "--file": "-f",
    "-n": "-n",
    "--predict": "-n",
    "--n-predict": "-n",
    "-c": "-c",
    "--ctx-size": "-c",
    "-t": "--threads",
    "--threads": "--threads",
    "--temp": "-t",
    "--temperature": "-t",
    "--top-k": "--top-k",
    "--top-p": "--top-p",
    "--min-p": "--min-p",
    "-s": "--seed",
    "--seed": "--seed",
    "--repeat-penalty": "--repetition-penalty",
    "--presence-penalty": "--presence-penalty",
    "--frequency-penalty": "--frequency-penalty",
    "-r": "--stop",
    "--reverse-prompt": "--stop",
    "-sys": "--system",
    "--system-prompt": "--system",
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers", "-b", "-ub", "--ubatch-size", "-tb"), NOTHING),
    **dict.fromkeys(("--batch-size", "--threads-batch", "-fa", "--flash-attn", "-ctk", "-ctv", "-np"), NOTHING),
    **dict.fromkeys(("-sm", "-mg", "-ts", "-dev", "--device", "--keep", "--repeat-last-n", "--chat-template"), NOTHING),
    **dict.fromkeys(("--in-prefix", "--in-suffix", "--lora", "--grammar", "--samplers"), NOTHING),
}
DEFAULTS = [("-c", ["0"]), ("-n", ["-1"]), ("-n", ["-2"]), ("--seed", ["-1"])]  # what is done here without the flag

CHAT, COMPLETE = "chat", "complete"
SWITCHES = {
    **dict.fromkeys(("-i", "--interactive", "-if", "--interactive-first", "-cnv", "--conversation"), CHAT),
    **dict.fromkeys(("-no-cnv", "--no-conversation"), COMPLETE),
    "--no-mmap": "--no-mmap",
    "--ignore-eos": "--ignore-eos",
    **dict.fromkeys(("-e", "--escape", "--no-escape", "--color", "-co", "--mlock", "-st", "--single-turn"), NOTHING),
    **dict.fromkeys(("--no-display-prompt", "--simple-io", "--log-disable", "--jinja", "-nkvo", "-sp"), NOTHING),
    **dict.fromkeys(("--verbose-prompt", "--no-warmup", "--no-perf", "-v", "--verbose"), NOTHING),
}

# Flags that both have, with another meaning or the same: they do not tell whose a line is.
IN_BOTH = (
    *("-m", "--model", "-f", "--file", "-n", "-c", "-t", "-s", "-b", "-v", "--verbose", "--seed", "--threads"),
    *("--temperature", "--top-k", "--top-p", "--min-p", "--presence-penalty", "--frequency-penalty"),
    *("--batch-size", "--device", "--chat-template", "--ignore-eos", "--no-mmap"),
)

# Flags of further programs that stand behind a command of ours, and what to type for them.
ELSEWHERE = {
    "--max-new-tokens": "-n",
    "--max-length": "-n",
    "--checkpoint-path": "-m",
    "--checkpoint-dir": "-m",
    "--nproc-per-node": "--tp",
    "--quantization-mode": "--quantize int8, or --quantize int4",
}

# Commands of ollama and others.
COMMANDS = {
    **dict.fromkeys(("generate", "completion", "infer", "inference", "prompt", "text"), "complete"),
    **dict.fromkeys(("talk", "ask", "interactive"), "chat"),
    **dict.fromkeys(("list", "ls", "ps"), "models"),
    **dict.fromkeys(("show", "inspect", "describe"), "info"),
    **dict.fromkeys(("create", "quantize", "export", "import"), "convert"),
    **dict.fromkeys(("perplexity", "ppl", "eval", "evaluate"), "score"),
    "benchmark": "bench",
    "check": "verify",
    "encode": "tokenize",
    "decode": "tokenize --decode",
    "settings": "config",
    "version": "--version",
}
NO_SERVER = "llama-cli batch runs a file of prompts, and `import llama_cli` serves a program"
NO_DOWNLOAD = (
    "hf download meta-llama/Llama-3.2-1B --include 'original/*', or Meta's own downloader; llama-cli models lists them"
)


def spelled(name: str) -> str:
    """A flag's name as it is here: underscores are hyphens, and Meta's names are known."""
    hyphened = name.replace("_", "-")
    return ALIASES.get(hyphened, hyphened)


def refuse_foreign_line(arguments: Sequence[str], commands: Collection[str]) -> None:
    """UsageError with the line to type, where a line does not begin with one of our commands."""
    first = arguments[0] if arguments else "--help"
    if first in commands or _hyphened(first.partition("=")[0]) in ROOT_FLAGS:
        return
    if not first.strip("-") and first != "-":  # `-` is standard input
        raise UsageError("a command comes first", _line("--help"))
    if first.startswith("-"):
        raise _without_command(arguments, commands)
    rest = arguments[1:]
    if first == "run":
        model, prompt = rest[:1], [" ".join(rest[1:])] if rest[1:] else []
        raise _unknown(first, _line("chat", "-m", *(model or ["MODEL"]), *prompt))
    if first in ("serve", "server"):
        raise UsageError("there is no server here", NO_SERVER)
    if first in ("pull", "download", "push"):
        raise UsageError("this program loads models from the disk and does not download", NO_DOWNLOAD)
    if first in COMMANDS:
        raise _unknown(first, f"llama-cli {COMMANDS[first]} {shlex.join(rest)}".rstrip())
    if near := _nearest_command(first, commands):
        raise _unknown(first, _line(near, *rest))
    if Path(first).suffix == ".gguf":
        raise UsageError(f"a command comes first, not the model {first}", _line("convert", first, "FOLDER"))
    if _is_folder(first):
        raise UsageError(f"a command comes first, not the model {first}", _line("chat", "-m", first, *rest))
    if len(first.split()) > 1:
        raise UsageError("a command comes first, not the prompt", _line("complete", first, *rest))
    raise _unknown(first, f"llama-cli --help lists them; a prompt is continued by {_line('complete', first, *rest)}")


def unknown_command(name: str, commands: Collection[str], *before: str) -> UsageError:
    """The refusal of a name that is none of `commands`; `before` is what of the line stands before the name."""
    near = _nearest_command(name, commands)
    return _unknown(name, _line(*before, near) if near else f"{_line(*before)} lists them")


def _nearest_command(word: str, commands: Collection[str]) -> str | None:
    """The command that another program's name, a beginning or a misspelt name means."""
    known = COMMANDS.get(word, "").partition(" ")[0]
    if known in commands:
        return known
    word = word.casefold()
    begins = [name for name in commands if name.startswith(word)] if len(word) > 1 else []
    close = begins if len(begins) == 1 else get_close_matches(word, commands, n=1, cutoff=CLOSE)
    return next(iter(close), None)


def hint_for_words(command: str, taken: Collection[str]) -> str:
    """What to type instead of more words than a command takes; `taken` are the names of its arguments."""
    if TEXTS.isdisjoint(taken):
        return f"llama-cli {command} --help"
    return f'a text of several words stands in quotes: llama-cli {command} "Once upon a time"'


def hint_for(flag: str, arguments: Sequence[str], options: Mapping[str, Collection[str]]) -> str:
    """What to type instead of a flag that a command of ours does not have, or could not read.

    `options` are those of each command.
    """
    first = next(iter(arguments), "-")
    command = "" if first.startswith("-") else f"{first} "
    known = WITH_VALUE | SWITCHES | ELSEWHERE
    # `-ngl` is read as `-n gl` here, which is no number: the flag is not unknown, and stands in the line.
    several_letters = (word for word in arguments if word[:1] == "-" and word[:2] != "--" and len(word) > 2)
    meant = next((word for word in (_hyphened(flag), *several_letters) if word in known), None)
    ours = meant and known[meant]
    if meant is None or ours == meant:
        return f"{_nearest_option(_hyphened(flag), first, options)}llama-cli {command}--help"
    if ours == PROMPT:
        return f'the prompt stands without a flag: llama-cli {command}"Once upon a time"'
    if ours in (CHAT, COMPLETE):
        return f"{meant} is a command here: llama-cli {ours}"
    return f"leave {meant} out: there is nothing like it here" if ours == NOTHING else f"{meant} is {ours} here"


def _nearest_option(flag: str, command: str, options: Mapping[str, Collection[str]]) -> str:
    """The flag that was probably meant, as the beginning of a hint; empty if none is near."""
    own = options.get(command, ())
    if flag in own or not flag.startswith("--") or not flag.strip("-"):
        return ""
    flag = flag.casefold()
    others = [f"llama-cli {name}" for name, flags in options.items() if flag in flags]
    if others:
        return f"{flag} is an option of {', '.join(others)}; of this one: "
    begins = sorted(each for each in own if each.startswith(flag))
    close = begins or get_close_matches(flag, own, n=1, cutoff=CLOSE)
    return f"did you mean {' or '.join(close)}? All options: " if close else ""


def _hyphened(flag: str) -> str:
    return flag.replace("_", "-")


def _unknown(command: str, hint: str) -> UsageError:
    return UsageError(f"there is no command {command!r}", hint)


def _line(*words: str) -> str:
    return shlex.join(["llama-cli", *words])


def _is_folder(text: str) -> bool:
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return False


@dataclass
class _Meant:
    """What a line without a command asks for, in our words."""

    command: str | None = None
    model: str = ""
    flags: list[str] = field(default_factory=list)
    prompt: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, flag: str, ours: str, values: Sequence[str]) -> None:
        """A flag of llama.cpp's, with its value if it has one."""
        if ours == PROMPT:
            self.prompt += values
        elif ours in (CHAT, COMPLETE):
            self.command = ours
        elif ours == NOTHING:
            self.left_out.append(" ".join((flag, *values)))
        elif ours == "-m":
            self.model = values[0] if values else ""
        elif (ours, values[:1]) not in DEFAULTS:
            self.flags += [ours, *values]

    @property
    def hint(self) -> str:
        has_text = bool(self.prompt) or "-f" in self.flags
        command = self.command or (COMPLETE if has_text else CHAT)
        prompt = self.prompt or ([] if has_text or command == CHAT else ["Once upon a time"])
        is_file = self.model.endswith(".gguf")
        model = ["-m", "FOLDER" if is_file else self.model] if self.model else []
        converted = f"{_line('convert', self.model, 'FOLDER')}, then " if is_file else ""
        left_out = f" (without {', '.join(self.left_out)})" if self.left_out else ""
        return f"{converted}{_line(command, *model, *self.flags, *prompt)}{left_out}"


def _without_command(arguments: Sequence[str], commands: Collection[str]) -> UsageError:
    """For a line that begins with a flag: llama.cpp's, or one of ours whose command stands elsewhere."""
    near = get_close_matches(arguments[0], ROOT_FLAGS, n=1, cutoff=CLOSE)
    if near and len(arguments) == 1:
        return UsageError(f"no such option: {arguments[0]}", _line(*near))
    takes_value = [*WITH_VALUE, *(f"--{name}" for name in ALIASES)]
    for place, word in enumerate(arguments):
        if word in commands and _hyphened(arguments[place - 1]) not in takes_value:
            moved = [word, *arguments[:place], *arguments[place + 1 :]]
            return UsageError("the command comes first, its flags behind it", _line(*moved))
    if not any(_is_llama_cpps(word) for word in arguments):
        return UsageError("a command comes first", _line(COMPLETE, *arguments))
    meant = _Meant()
    for flag, ours, values in _flags_of_llama_cpp(arguments):
        meant.add(flag, ours, values)
    return UsageError(
        "a command comes first; this is a line of llama.cpp, whose program is called llama-cli too", meant.hint
    )


def _is_llama_cpps(word: str) -> bool:
    """Whether a word is seen in llama.cpp's lines alone."""
    name = word.partition("=")[0]
    return word.endswith(".gguf") or (name in WITH_VALUE | SWITCHES and name not in IN_BOTH)


def _flags_of_llama_cpp(arguments: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Each flag as it was typed, what it is here, and its values; words without a flag are prompts."""
    left = list(arguments)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name in WITH_VALUE:
            optional = name in ("-fa", "--flash-attn") and left[:1] not in (["on"], ["off"], ["auto"])
            values = [value] if equals else [] if optional else left[:1]
            del left[: 0 if equals else len(values)]
            yield name, WITH_VALUE[name], values
        elif word.startswith("-"):
            yield word, SWITCHES.get(word, NOTHING), []
        else:
            yield "", PROMPT, [word]
