"""Tool calls as Llama 3.1 and later write them, and the prompts in Meta's published formats that ask for them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .base import EncodeError
from .message import ToolCall

ToolFormat = Literal["json", "function_tag", "python_list"]

CODE_INTERPRETER = "code_interpreter"
BUILT_IN = ("brave_search", "wolfram_alpha", "photogen")
BUILT_IN_CALL = re.compile(rf'({"|".join(BUILT_IN)})\.call\(query="(.*)"\)', re.DOTALL)
FUNCTION_TAG = re.compile(r"<function=([^<>{}]+)>\s*(?=\{)")
SEPARATOR = re.compile(r"[\s;,]*")

PYTHON_TAG = "<|python_tag|>"


class ToolAnswer(NamedTuple):
    """An answer taken apart: what it says, and what it calls."""

    content: str
    calls: tuple[ToolCall, ...]


def parse_answer(text: str, *, python_tag: bool) -> ToolAnswer:
    """Find the calls of an answer; where there are none, the content is the whole text.

    `python_tag` says that the answer began with that token: what follows it is a call in any case, at least of
    the code interpreter. Otherwise the calls are tagged functions, or the whole text is JSON or a Python list.
    """
    body = text.removeprefix(PYTHON_TAG).strip() if python_tag else text.strip()
    tags = list(_function_tags(body))
    if tags:
        return ToolAnswer(body[: tags[0].start].rstrip(), tuple(tag.call for tag in tags))
    calls = _json_calls(body) or _python_calls(body)
    if not calls and python_tag:
        built_in = BUILT_IN_CALL.fullmatch(body)
        if built_in:
            calls = (ToolCall(built_in[1], {"query": built_in[2]}),)
        else:
            calls = (ToolCall(CODE_INTERPRETER, {"code": text.removeprefix(PYTHON_TAG)}),)
    return ToolAnswer("" if calls else text, calls)


class _Tag(NamedTuple):
    start: int
    call: ToolCall


def _function_tags(body: str) -> Iterator[_Tag]:
    """Every `<function=NAME>{...}`; single quotes for double ones are forgiven, as Meta's parser does."""
    for match in FUNCTION_TAG.finditer(body):
        rest = body[match.end() :].split("</function>")[0]
        for candidate in (rest, rest.replace("'", '"')):
            try:
                arguments, _ = json.JSONDecoder().raw_decode(candidate)
            except (ValueError, RecursionError):
                continue
            if _is_plain(arguments):
                yield _Tag(match.start(), ToolCall(match[1].strip(), arguments))
                break


def _json_calls(body: str) -> tuple[ToolCall, ...]:
    """Objects with `name` and `parameters`: one, a list of them, or several with `;` between."""
    calls: list[ToolCall] = []
    place = 0
    while place < len(body):
        try:
            value, place = json.JSONDecoder().raw_decode(body, place)
        except (ValueError, RecursionError):
            return ()
        for each in value if isinstance(value, list) else [value]:
            call = _json_call(each)
            if call is None:
                return ()
            calls.append(call)
        separator = SEPARATOR.match(body, place)
        place = separator.end() if separator else place
    return tuple(calls)


def _json_call(value: object) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("parameters", value.get("arguments"))
    if not isinstance(name, str) or not isinstance(arguments, dict) or not _is_plain(arguments):
        return None
    return ToolCall(name, arguments)


def _python_calls(body: str) -> tuple[ToolCall, ...]:
    """`[f(a=1), g(b="x")]`: read as data, never run."""
    if not (body.startswith("[") and body.endswith("]")):
        return ()
    try:
        tree = ast.parse(body, mode="eval").body
        elements = tree.elts if isinstance(tree, ast.List) else []
        return tuple(_python_call(element) for element in elements)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()


def _python_call(node: ast.expr) -> ToolCall:
    """ValueError where it is no call with literal keyword arguments."""
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Name | ast.Attribute):
        raise ValueError("no call with keywords")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("**")
        arguments[keyword.arg] = ast.literal_eval(keyword.value)
    if not _is_plain(arguments):
        raise ValueError("a value that JSON has not")
    return ToolCall(ast.unparse(node.func), arguments)


def _is_plain(arguments: object) -> bool:
    """Whether they can be written as JSON: no NaN, no sets, no bytes."""
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(arguments, dict)


def format_call(call: ToolCall) -> str:
    """A call as the model itself would have written it."""
    if call.name == CODE_INTERPRETER and isinstance(call.arguments.get("code"), str):
        return str(call.arguments["code"])
    if call.name in BUILT_IN and call.arguments.keys() == {"query"}:
        return f'{call.name}.call(query="{call.arguments["query"]}")'
    return json.dumps({"type": "function", "name": call.name, "parameters": dict(call.arguments)})


def read_tools(value: object) -> list[dict[str, Any]]:
    """Tools from JSON: a list of functions, bare or each in OpenAI's `{"type": "function", "function": ...}`."""
    if isinstance(value, dict):
        value = value.get("tools", [value])
    if not isinstance(value, list) or not value:
        raise EncodeError("the tools are no list of functions")
    tools = []
    for place, each in enumerate(value):
        function = each.get("function", each) if isinstance(each, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise EncodeError(
                f"tool {place} has no name", 'a tool is {"name": ..., "description": ..., "parameters": {}}'
            )
        if not isinstance(function.get("parameters", {}), dict):
            raise EncodeError(f"tool {place}, {function['name'][:40]!r}: parameters is no JSON schema")
        tools.append(function)
    return tools


def tools_prompt(tools: Sequence[Mapping[str, Any]], form: ToolFormat, system: str | None) -> str:
    """The system prompt that offers `tools`: Meta's published words, then the caller's own system prompt.

    `json` and `function_tag` are Llama 3.1's, `python_list` Llama 3.2's. Meta's examples give 3.1's instructions
    in a message of their own; here they are part of the system prompt, which stays when old turns are dropped.
    """
    parts = ["Environment: ipython"] if form != "python_list" else []
    parts.append({"json": _json_prompt, "function_tag": _tag_prompt, "python_list": _list_prompt}[form](tools))
    return "\n\n".join(parts + ([system] if system else []))


def _json_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    shown = [json.dumps({"type": "function", "function": tool}, indent=4, ensure_ascii=False) for tool in tools]
    return (
        "Answer the user's question by making use of the following functions if needed.\n"
        "If none of the function can be used, please say so.\n"
        "Here is a list of functions in JSON format:\n" + "\n".join(shown) + "\n\nReturn function calls in JSON format."
    )


def _tag_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    shown = [
        f"Use the function '{tool['name']}' to '{tool.get('description', '')}':\n{json.dumps(tool, ensure_ascii=False)}"
        for tool in tools
    ]
    return (
        "You have access to the following functions:\n\n" + "\n\n".join(shown) + "\n\n"
        "Think very carefully before calling functions.\n"
        "If you choose to call a function ONLY reply in the following format with no prefix or suffix:\n\n"
        '<function=example_function_name>{"example_name": "example_value"}</function>\n\n'
        "Reminder:\n"
        "- If looking for real time information use relevant functions before falling back to brave_search\n"
        "- Function calls MUST follow the specified format, start with <function= and end with </function>\n"
        "- Required parameters MUST be specified\n"
        "- Only call one function at a time\n"
        "- Put the entire function call reply on one line"
    )


def _list_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    return (
        "You are an expert in composing functions. You are given a question and a set of possible functions.\n"
        "Based on the question, you will need to make one or more function/tool calls to achieve the purpose.\n"
        "If none of the function can be used, point it out. If the given question lacks the parameters required by"
        " the function,\n"
        "also point it out. You should only return the function call in tools call sections.\n\n"
        "If you decide to invoke any of the function(s), you MUST put it in the format of"
        " [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]\n"
        "You SHOULD NOT include any other text in the response.\n\n"
        "Here is a list of functions in JSON format that you can invoke.\n\n"
        + json.dumps(list(tools), indent=4, ensure_ascii=False)
    )
