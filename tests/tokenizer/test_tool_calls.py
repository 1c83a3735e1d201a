"""Tool calls in every form that Meta's models write them, and text that is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer import EncodeError
from tokenizer.message import ToolCall
from tokenizer.tool_calls import PYTHON_TAG, format_call, parse_answer, read_tools, tools_prompt

SONGS = ToolCall("trending_songs", {"n": "10", "genre": "all"})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"type": "function", "name": "trending_songs", "parameters": {"n": "10", "genre": "all"}}', [SONGS]),
        ('\n{"name": "trending_songs", "parameters": {"n": "10", "genre": "all"}}\n', [SONGS]),
        (
            '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": 1}}',
            [ToolCall("a"), ToolCall("b", {"x": 1})],
        ),
        ('[{"name": "a", "arguments": {}}]', [ToolCall("a")]),
        ('<function=trending_songs>{"n": "10", "genre": "all"}</function>', [SONGS]),
        ("<function=trending_songs>{'n': '10', 'genre': 'all'}", [SONGS]),
        (
            '<function=f>{"deep": {"a": "}"}}</function><function=g>{}</function>',
            [ToolCall("f", {"deep": {"a": "}"}}), ToolCall("g")],
        ),
        (
            "[get_weather(city='San Francisco', metric=\"celsius\"), f(n=-2, b=True, l=[1, {'a': None}])]",
            [
                ToolCall("get_weather", {"city": "San Francisco", "metric": "celsius"}),
                ToolCall("f", {"n": -2, "b": True, "l": [1, {"a": None}]}),
            ],
        ),
        ("[spotify.play(n=1)]", [ToolCall("spotify.play", {"n": 1})]),
    ],
)
def test_calls(text, calls):
    parsed = parse_answer(text, python_tag=False)
    assert list(parsed.calls) == calls
    assert parsed.content == ""
    assert list(parse_answer(PYTHON_TAG + text, python_tag=True).calls) == calls


def test_what_is_said_before_a_tagged_call_is_kept():
    parsed = parse_answer('Let me look.\n<function=f>{"a": 1}</function>', python_tag=False)
    assert parsed == ("Let me look.", (ToolCall("f", {"a": 1}),))


@pytest.mark.parametrize(
    "text",
    [
        "Hello!",
        "",
        "[]",
        "[1, 2]",
        "{}",
        '{"name": "x"}',
        '{"name": 1, "parameters": {}}',
        "[f(1)]",
        "[f(**a)]",
        "[f(a=b)]",
        "[f(a=1)] and more",
        '{"name": "a", "parameters": {}} is the call',
        "f(a=1)",
        "<function=f>",
        "<function=f>{broken",
        '{"name": "a", "parameters": {"x": NaN}}',
        '{"name": "a", "parameters": {"x": 1e999}}',
        "[f(a=1e999)]",
        "[f(a={1})]",
        "[f(a=b'x')]",
        "[f(a={(1, 2): 3})]",
        "[" * 100_000,
        '{"a":' * 100_000,
        "[f(a=" + "(" * 5000 + ")]",
        'brave_search.call(query="x")',
    ],
)
def test_text_that_is_no_call_stays_text(text):
    assert parse_answer(text, python_tag=False) == (text, ())


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (
            'brave_search.call(query="price of "gold" today")',
            ToolCall("brave_search", {"query": 'price of "gold" today'}),
        ),
        (
            'wolfram_alpha.call(query="100th decimal of pi")',
            ToolCall("wolfram_alpha", {"query": "100th decimal of pi"}),
        ),
        ("def f():\n    return 1\n", ToolCall("code_interpreter", {"code": "def f():\n    return 1\n"})),
        ('print("brave_search.call")', ToolCall("code_interpreter", {"code": 'print("brave_search.call")'})),
    ],
)
def test_behind_the_python_tag_all_is_a_call(text, call):
    assert parse_answer(PYTHON_TAG + text, python_tag=True) == ("", (call,))


@given(text=st.text() | st.from_regex(r"\[[a-z]\([a-z]=.{0,20}\)\]|<function=[a-z]>\{.{0,20}", fullmatch=True))
def test_no_text_breaks_the_parser_and_what_it_finds_is_json(text):
    for tagged in (False, True):
        parsed = parse_answer(text, python_tag=tagged)
        json.dumps([call.as_json("x") for call in parsed.calls], allow_nan=False)


@given(arguments=st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none()))
def test_a_written_call_is_read_again(arguments):
    call = ToolCall("f", arguments)
    assert parse_answer(format_call(call), python_tag=False).calls == (call,)


WEATHER = {
    "name": "get_weather",
    "description": "Weather of a place",
    "parameters": {"type": "object", "properties": {}},
}


@pytest.mark.parametrize(
    "value", [[WEATHER], WEATHER, {"tools": [WEATHER]}, [{"type": "function", "function": WEATHER}]], ids=str
)
def test_tools_in_either_form(value):
    assert read_tools(value) == [WEATHER]


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        ([], "no list"),
        ("x", "no list"),
        ([1], "tool 0 has no name"),
        ([{"name": "f", "parameters": 3}], "no JSON schema"),
    ],
)
def test_bad_tools(value, fragment):
    with pytest.raises(EncodeError, match=fragment):
        read_tools(value)


@pytest.mark.parametrize("form", ["json", "function_tag", "python_list"])
def test_the_prompt_shows_the_tools_and_keeps_the_system_prompt(form):
    prompt = tools_prompt([WEATHER], form, "Be brief.")
    assert '"get_weather"' in prompt
    assert prompt.endswith("\n\nBe brief.")
    assert prompt.startswith("Environment: ipython\n\n") == (form != "python_list")
    assert not tools_prompt([WEATHER], form, None).endswith("\n")
