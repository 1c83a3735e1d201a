"""The settings of a chat that /set shows and changes while it runs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from ..engine.request import Sampling
from ..errors import UsageError
from ..options import SettingRejected
from .chat_screen import ChatScreen
from .typed import unquoted

SWITCHES = ("markdown", "wrap", "show_prompt", "stats")
OVERFLOWS = ("error", "truncate", "shift")
FIXED = {"n", "prompt_logprobs", "logprobs", "top_logprobs"}  # of no use in a chat
OF_SAMPLING = tuple(each.name for each in dataclasses.fields(Sampling) if each.name not in FIXED)
EXAMPLES = {"logit_bias": '{"128001": -100}', "stop_token_ids": "[128001]"}  # what cannot be told from their values
NAMES = (*OF_SAMPLING, "on_overflow", "prefill", *SWITCHES)

# As it is typed here, in config.toml, or as a flag.
_ASSIGNMENT = re.compile(r"-{0,2}([\w-]+)(?:(?:\s*=\s*|\s+)(.*))?", re.DOTALL)
_ON_OFF = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


class LiveSettings:
    """Those of a running chat. An answer that is already being made keeps the ones it began with."""

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self._answerer = screen.run.answerer

    def current(self) -> dict[str, Any]:
        """Every setting with its value, as JSON has it."""
        answerer, sampling = self._answerer, dataclasses.asdict(self._answerer.sampling)
        shown = {name: sampling[name] for name in OF_SAMPLING} | {"logit_bias": dict(sampling["logit_bias"])}
        shown |= {"on_overflow": answerer.overflow, "prefill": answerer.prefill}
        return shown | {name: getattr(self._screen.view, name) for name in SWITCHES}

    def describe(self, name: str) -> str:
        """One setting on a line."""
        return f"{name} {json.dumps(self.current()[name])}"

    def set(self, typed: str) -> str:
        """Carry out `NAME VALUE` or `NAME=VALUE`; with a name alone nothing is changed. What holds then, on a line."""
        matched = _ASSIGNMENT.fullmatch(typed)
        name, value = (matched[1].replace("-", "_"), matched[2]) if matched else (typed, None)
        if name not in NAMES:
            raise UsageError(f"there is no setting {name}", _suggestion(name))
        before = self.describe(name)
        if not value:
            return before
        self._change(name, unquoted(value.strip()))
        after = self.describe(name)
        return f"{after} (as it was)" if after == before else f"{after}, was{before.removeprefix(name)}"

    def _change(self, name: str, value: str) -> None:
        answerer, screen = self._answerer, self._screen
        if name in OF_SAMPLING:
            answerer.sampling = _changed(answerer.sampling, name, value)
        elif name in SWITCHES:
            screen.view = dataclasses.replace(screen.view, **{name: _as_bool(name, value)})
        elif name == "prefill":
            answerer.prefill = "" if value == "-" else value
        elif value in OVERFLOWS:
            answerer.overflow = value  # type: ignore[assignment]
        else:
            raise UsageError(f"on_overflow is {', '.join(OVERFLOWS)}, not {value}", "/set on_overflow truncate")


def values_of(name: str) -> Sequence[str]:
    """What a setting may be, where that is a choice."""
    if name == "on_overflow":
        return OVERFLOWS
    return ("on", "off") if name in SWITCHES else ()


def _changed(sampling: Sampling, name: str, text: str) -> Sampling:
    """`sampling` with one field as it was typed: JSON, or a plain text."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = _ON_OFF.get(text.lower(), text) if isinstance(getattr(sampling, name), bool) else text
    if name == "stop" and not isinstance(value, str | list):
        value = text  # a number is a text to stop at as well
    if name == "logit_bias" and isinstance(value, dict) and all(key.isdigit() for key in value):
        value = {int(key): bias for key, bias in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(getattr(sampling, name), float):
        value = float(value)
    try:
        return dataclasses.replace(sampling, **{name: value})
    except SettingRejected as error:
        example = EXAMPLES.get(name)
        way = f"/set {name} {example}" if example else f"/set {name} shows what it is"
        raise UsageError(f"{name}: {error.reason}", way) from None


def _as_bool(name: str, text: str) -> bool:
    if text.lower() not in _ON_OFF:
        raise UsageError(f"{name} is on or off, not {text}", f"/set {name} on")
    return _ON_OFF[text.lower()]


def _suggestion(name: str) -> str:
    close = get_close_matches(name, NAMES, n=1)
    return f"/set {close[0]}" if close else "/set lists them"
