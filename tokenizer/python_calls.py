"""Calls that a model writes as Python would, `f(city="Bern")`: read as data, never run.

Models write what Python does not take, too: `get-weather` as a name, `from` as the name of an argument, JSON's `true`,
and line breaks within a text. Names are replaced before Python's own parser reads the text, and put back behind it.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Iterator, Mapping

from .message import ToolCall, plain_arguments

# A text, which is passed over whole, or a word that may be a name. A word is taken whole, so that time is linear.
TEXT_OR_WORD = re.compile(
    r"""(?P<long>\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3})"""
    r"""|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<word>[^\W\d][\w.-]*)""",
    re.DOTALL,
)
FUNCTION = re.compile(r"\s*\(")
ARGUMENT = re.compile(r"\s*=(?!=)")
CONSTANTS = {"true": "True", "false": "False", "null": "None"}
CALL_SUFFIX = ".call"  # as in brave_search.call(query="..."), behind the python tag


class NoCall(ValueError):
    """What was written is no call with literal keyword arguments."""


class _Readable:
    """A text as Python can parse it, and what its names stand for."""

    def __init__(self, text: str) -> None:
        self.names: dict[str, str] = {}
        self.tree: ast.Module | None = None
        source = TEXT_OR_WORD.sub(self._replace, text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes such as \d
                self.tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.tree = None

    def _replace(self, match: re.Match[str]) -> str:
        found = match[0]
        if match["word"] is None:
            return found if match["long"] is not None else found.replace("\n", "\\n")
        if FUNCTION.match(match.string, match.end()) or ARGUMENT.match(match.string, match.end()):
            alias = f"_{len(self.names)}"
            self.names[alias] = found
            return alias
        return CONSTANTS.get(found, found)

    def expressions(self) -> list[ast.expr]:
        """The values that the text consists of; nothing where it has statements too."""
        body = self.tree.body if self.tree is not None else []
        values = [statement.value for statement in body if isinstance(statement, ast.Expr)]
        return values if len(values) == len(body) else []


def read_literals(text: str) -> list[object]:
    """The values of Python literals, JSON's words for constants taken too; nothing where one is none."""
    try:
        return [ast.literal_eval(value) for value in _Readable(text).expressions()]
    except (ValueError, TypeError, RecursionError, MemoryError):
        return []


def calls_in_list(text: str) -> tuple[ToolCall, ...]:
    """The calls of `[f(a=1), g(b="x")]`; none where anything else stands there."""
    if not (text.startswith("[") and text.endswith("]")):
        return ()
    readable = _Readable(text)
    values = readable.expressions()
    elements = values[0].elts if len(values) == 1 and isinstance(values[0], ast.List) else []
    return _all_calls(elements, readable.names)


def lone_calls(text: str) -> tuple[ToolCall, ...]:
    """The calls of a text that consists of nothing else, such as `f(a=1)`: code for an interpreter looks otherwise.

    `print(end="x")` is code, and so are methods, `plot.show()`, but `brave_search.call(query="x")`.
    """
    readable = _Readable(text)
    values = [
        part for each in readable.expressions() for part in (each.elts if isinstance(each, ast.Tuple) else [each])
    ]
    calls = _all_calls(values, readable.names)
    calls = tuple(ToolCall(call.name.removesuffix(CALL_SUFFIX), call.arguments) for call in calls)
    is_code = any("." in call.name or hasattr(builtins, call.name) for call in calls)
    return () if is_code else calls


def _all_calls(nodes: list[ast.expr], names: Mapping[str, str]) -> tuple[ToolCall, ...]:
    try:
        return tuple(_call_of(node, names) for node in nodes)
    except NoCall:
        return ()


def _call_of(node: ast.expr, names: Mapping[str, str]) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Name) or node.func.id not in names:
        raise NoCall("no call with keywords")
    pairs = list(_keywords(node, names))
    arguments = plain_arguments(dict(pairs))
    if arguments is None or len(arguments) < len(pairs):
        raise NoCall("a value that JSON has not, or an argument given twice")
    return ToolCall(names[node.func.id], arguments)


def _keywords(node: ast.Call, names: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg not in names:
            raise NoCall("**")
        try:
            yield names[keyword.arg], ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise NoCall("a value that is no literal") from None
