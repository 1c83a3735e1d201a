"""Tool calls as Llama 3.1 and later write them, and the prompts in Meta's published formats that ask for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .base import EncodeError, Tokenizer
from .message import Message, ToolCall, plain_arguments, read_arguments
from .python_calls import calls_in_list, lone_calls, read_literals

ToolFormat = Literal["json", "function_tag", "python_list"]

CODE_INTERPRETER = "code_interpreter"
BUILT_IN = ("brave_search", "wolfram_alpha", "photogen")
BUILT_IN_CALL = re.compile(rf'({"|".join(BUILT_IN)})\.call\(query="(.*)"\)', re.DOTALL)
FENCE = re.compile(r"```(?:\w+)?[ \t]*\n(.*)\n```", re.DOTALL)
FUNCTION_TAG = re.compile(r"<function=([^<>{}]+)>\s*(?=\{)")
CLOSING_TAG = re.compile(r"\s*</function>")
ANY_TAG = re.compile(r"</function>|<function=")
SEPARATOR = re.compile(r"[\s;,]*")
LENIENT_JSON = json.JSONDecoder(strict=False)  # takes line breaks within a text

PYTHON_TAG = "<|python_tag|>"

# How Meta's system prompts begin where a model has tools.
ENVIRONMENT = "Environment: ipython"
LIST_BEGINNING = "You are an expert in composing functions."


class ToolAnswer(NamedTuple):
    """An answer taken apart: what it says, and what it calls."""

    content: str
    calls: tuple[ToolCall, ...]


def parse_answer(text: str, *, python_tag: bool) -> ToolAnswer:
    """Find the calls of an answer; where there are none, the content is the whole text.

    `python_tag` says that the answer began with that token: what follows it is a call in any case, at least of
    the code interpreter. Otherwise the whole text is JSON or a Python list, in a fence or without, or the calls are
    tagged functions. A tag within JSON is part of what it says.
    """
    body = text.removeprefix(PYTHON_TAG).strip() if python_tag else text.strip()
    fenced = FENCE.fullmatch(body)
    inner = fenced[1].strip() if fenced else body
    calls = _json_calls(inner) or calls_in_list(inner)
    tags = [] if calls else list(_function_tags(body))
    if tags:
        return ToolAnswer(_around(body, tags), tuple(tag.call for tag in tags))
    if not calls and python_tag:
        code = ToolCall(CODE_INTERPRETER, {"code": text.removeprefix(PYTHON_TAG)})
        calls = lone_calls(body) or _built_in_call(body) or (code,)
    return ToolAnswer("" if calls else text, calls)


def _built_in_call(body: str) -> tuple[ToolCall, ...]:
    """A built-in tool's, whose query may hold quotes that Python would not read."""
    found = BUILT_IN_CALL.fullmatch(body)
    return (ToolCall(found[1], {"query": found[2]}),) if found else ()


class _Tag(NamedTuple):
    start: int
    end: int
    call: ToolCall


def _function_tags(body: str) -> Iterator[_Tag]:
    """Every `<function=NAME>{...}`; what Python alone reads, as single quotes, is forgiven as by Meta's parser."""
    for match in FUNCTION_TAG.finditer(body):
        begin = match.end()
        try:
            value, end = LENIENT_JSON.raw_decode(body, begin)
        except (ValueError, RecursionError):
            rest = ANY_TAG.split(body[begin:], maxsplit=1)[0]
            end = begin + rest.rfind("}") + 1
            value = next(iter(read_literals(body[begin:end])), None)
        arguments = plain_arguments(value)
        if arguments is not None:
            closing = CLOSING_TAG.match(body, end)
            yield _Tag(match.start(), closing.end() if closing else end, ToolCall(match[1].strip(" \n\"'"), arguments))


def _around(body: str, tags: Sequence[_Tag]) -> str:
    """What is said before, between and behind the calls."""
    starts, ends = [tag.start for tag in tags], [tag.end for tag in tags]
    said = [body[begin:end].strip() for begin, end in zip([0, *ends], [*starts, len(body)], strict=True)]
    return "\n".join(filter(None, said))


def _json_calls(body: str) -> tuple[ToolCall, ...]:
    """Objects with `name` and `parameters`: one, a list of them, or several with `;` between."""
    calls: list[ToolCall] = []
    for value in _json_values(body) or read_literals(body):
        for each in value if isinstance(value, list) else [value]:
            call = _json_call(each)
            if call is None:
                return ()
            calls.append(call)
    return tuple(calls)


def _json_values(body: str) -> list[Any]:
    """What the text holds, one value behind the other; nothing where a part of it is no JSON."""
    values = []
    place = 0
    while place < len(body):
        try:
            value, place = LENIENT_JSON.raw_decode(body, place)
        except (ValueError, RecursionError):
            return []
        values.append(value)
        separator = SEPARATOR.match(body, place)
        place = separator.end() if separator else place
    return values


def _json_call(value: object) -> ToolCall | None:
    """`{"name": ..., "parameters": ...}`, bare or as OpenAI's `function`; one without arguments has nothing else."""
    if not isinstance(value, dict):
        return None
    function = value.get("function")
    fields: dict[str, Any] = function if isinstance(function, dict) else value
    name, given = fields.get("name"), [fields[key] for key in ("parameters", "arguments") if key in fields]
    if not isinstance(name, str) or not name or not (given or fields.keys() <= {"name", "type"}):
        return None
    said = [read_arguments(each) for each in given if each is not None] or [{}]
    arguments = said[0] if all(each == said[0] for each in said) else None
    return None if arguments is None else ToolCall(name, arguments)


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
    parts = [ENVIRONMENT] if form != "python_list" else []
    parts.append({"json": _json_prompt, "function_tag": _tag_prompt, "python_list": _list_prompt}[form](tools))
    return "\n\n".join(parts + ([system] if system else []))


def offers_tools(system: str | None) -> bool:
    """Whether a system prompt offers tools in Meta's words, so that an answer may be a call."""
    return any(line.startswith((ENVIRONMENT, LIST_BEGINNING)) for line in (system or "").splitlines())


def find_calls(text: str, ids: Sequence[int], python_tag: int | None, system: str | None) -> ToolAnswer:
    """`parse_answer` where an answer may be a call: behind the tag, or where the system prompt offers tools.

    `python_tag` is the format's, None where it has no tools. JSON that nobody asked to be a call is content.
    """
    is_tagged = python_tag is not None and tuple(ids[:1]) == (python_tag,)
    may_call = is_tagged or (python_tag is not None and offers_tools(system))
    return parse_answer(text, python_tag=is_tagged) if may_call else ToolAnswer(text, ())


def says_what_its_ids_say(message: Message, tokenizer: Tokenizer) -> bool:
    """Whether the ids of an answer still are its content, or its content and its calls: either may be edited.

    The space that SentencePiece puts before a text, which an answer may begin with or not, says nothing.
    """
    ids, put = message.token_ids or (), " " if tokenizer.puts_space else ""
    try:
        text = tokenizer.decode(ids).removeprefix(put)
    except EncodeError:
        return False
    read = parse_answer(text, python_tag=ids[:1] == (tokenizer.special_tokens.get(PYTHON_TAG),))
    written = _as_written(message.content.removeprefix(put), message.tool_calls)
    return written in (_as_written(text, ()), _as_written(*read))


def _as_written(content: str, calls: Sequence[ToolCall]) -> list[object]:
    """For comparing: to Python 1 and True are equal, in JSON they are not."""
    return [content, *(call.as_json()["function"] for call in calls)]


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
        f"{LIST_BEGINNING} You are given a question and a set of possible functions.\n"
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
