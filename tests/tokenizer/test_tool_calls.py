"""Tool calls in every form that Meta's models write them, and text that is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cli.tokenizer import EncodeError
from llama_cli.tokenizer.message import ToolCall
from llama_cli.tokenizer.tool_calls import PYTHON_TAG, format_call, offers_tools, parse_answer, read_tools, tools_prompt

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
        ('[get-weather(city="Bern")]', [ToolCall("get-weather", {"city": "Bern"})]),
        ("[f(a=true, b=null, c=[false])]", [ToolCall("f", {"a": True, "b": None, "c": [False]})]),
        ('[f(a="true, g(b=null)")]', [ToolCall("f", {"a": "true, g(b=null)"})]),
        ("[trip(from='Bern', in_=1, user-id='x')]", [ToolCall("trip", {"from": "Bern", "in_": 1, "user-id": "x"})]),
        ('[f(a="x]) [, \\"y\\" \\d \\u00fc", b=\'it"s\')]', [ToolCall("f", {"a": 'x]) [, "y" \\d ü', "b": 'it"s'})]),
        ('[f(a="two\nlines", b="""g(x=1)"\n""")]', [ToolCall("f", {"a": "two\nlines", "b": 'g(x=1)"\n'})]),
        ("[für(größe=(1, 2))]", [ToolCall("für", {"größe": [1, 2]})]),
        ('[f(a="\\ud83d\\ude00")]', [ToolCall("f", {"a": "\U0001f600"})]),
        ("[f(), print(a=1)]", [ToolCall("f"), ToolCall("print", {"a": 1})]),
        ('{"name": "f"}', [ToolCall("f")]),
        ('{"type": "function", "name": "f", "parameters": null}', [ToolCall("f")]),
        ('{"name": "f", "parameters": "{\\"city\\": \\"Bern\\"}"}', [ToolCall("f", {"city": "Bern"})]),
        ('{"name": "f", "arguments": ""}', [ToolCall("f")]),
        ('{"name": "f", "parameters": null, "arguments": {"a": 1}}', [ToolCall("f", {"a": 1})]),
        (
            "[ f ( a = -1.5e3 , b = [1, {'c': [true, null]}], ) ,\n g(x='It\\'s') ]",
            [ToolCall("f", {"a": -1500.0, "b": [1, {"c": [True, None]}]}), ToolCall("g", {"x": "It's"})],
        ),
        ("{'name': 'f', 'parameters': {'a': True, 'b': null}}", [ToolCall("f", {"a": True, "b": None})]),
        ('{"type": "function", "function": {"name": "f", "arguments": "{}"}}', [ToolCall("f")]),
        ('{"name": "f", "parameters": {"a": "two\nlines"}}', [ToolCall("f", {"a": "two\nlines"})]),
        ("<function=f>{'a': \"it's\"} </function>", [ToolCall("f", {"a": "it's"})]),
        ("<function=f>{'a': 1}<function=g>{'b': True}", [ToolCall("f", {"a": 1}), ToolCall("g", {"b": True})]),
        ('<function="f">{"a": 1}</function>', [ToolCall("f", {"a": 1})]),
        ('```json\n{"name": "f", "parameters": {"a": 1}}\n```', [ToolCall("f", {"a": 1})]),
        ('```\n[f(a="x"), g()]\n```', [ToolCall("f", {"a": "x"}), ToolCall("g")]),
        # A tag within a text is none.
        (
            '{"name": "f", "parameters": {"a": "<function=g>{}</function>"}}',
            [ToolCall("f", {"a": "<function=g>{}</function>"})],
        ),
        ("[f(a='<function=g>{}</function>')]", [ToolCall("f", {"a": "<function=g>{}</function>"})]),
        ('{"name": "f", "parameters": {"a": 1}, "arguments": {"a": 1}}', [ToolCall("f", {"a": 1})]),
    ],
)
def test_calls(text, calls):
    parsed = parse_answer(text, python_tag=False)
    assert list(parsed.calls) == calls
    assert parsed.content == ""
    assert list(parse_answer(PYTHON_TAG + text, python_tag=True).calls) == calls


def test_what_is_said_around_tagged_calls_is_kept():
    parsed = parse_answer('Let me look.\n<function=f>{"a": 1}</function>', python_tag=False)
    assert parsed == ("Let me look.", (ToolCall("f", {"a": 1}),))
    parsed = parse_answer("One <function=f>{}</function> two <function=x>{ <function=g>{} three", python_tag=False)
    assert parsed == ("One\ntwo <function=x>{\nthree", (ToolCall("f"), ToolCall("g")))


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('get_weather(location="Paris")', [ToolCall("get_weather", {"location": "Paris"})]),
        ("get-time()", [ToolCall("get-time")]),
        ("f(a=true)\ng(b='x')", [ToolCall("f", {"a": True}), ToolCall("g", {"b": "x"})]),
        ("f(a=1), g()", [ToolCall("f", {"a": 1}), ToolCall("g")]),
        ('brave_search.call(query="a \\"b\\"")', [ToolCall("brave_search", {"query": 'a "b"'})]),
        ("wolfram_alpha.call(query='x')", [ToolCall("wolfram_alpha", {"query": "x"})]),
        (
            'brave_search.call(query="a"); brave_search.call(query="b")',
            [ToolCall("brave_search", {"query": "a"}), ToolCall("brave_search", {"query": "b"})],
        ),
    ],
)
def test_a_lone_call_behind_the_python_tag_is_no_code(text, calls):
    assert list(parse_answer(PYTHON_TAG + text, python_tag=True).calls) == calls
    assert parse_answer(text, python_tag=False) == (text, ())


@pytest.mark.parametrize(
    "text",
    [
        "print()",
        "print(end='x')",
        "plot.show()",
        "math.sqrt(16)",
        "f(1)",
        "x = f(a=1)",
        "f(a=b)",
        "f(a=1)\nprint(2)",
        "1",
    ],
)
def test_other_code_behind_the_python_tag_is_code(text):
    assert parse_answer(PYTHON_TAG + text, python_tag=True).calls == (ToolCall("code_interpreter", {"code": text}),)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "parameters": {"a": 1}, "arguments": {"a": 2}}',
        '```json\n{"a": 1}\n```',
        '```json\n{"name": "f", "parameters": {}}',
        'So:\n```json\n{"name": "f", "parameters": {}}\n```',
    ],
)
def test_what_says_two_things_or_more_than_calls_is_content(text):
    assert parse_answer(text, python_tag=False) == (text, ())


@pytest.mark.parametrize("text", ["a" * 200_000, "a(" * 50_000, '"' * 99_999, "a =" * 50_000, "a" + " " * 200_000])
def test_long_answers(text):
    """Words, texts and spaces are each read once, so the work grows with the length and no faster: once for each
    character it would be hours."""
    assert parse_answer(text, python_tag=False).calls == ()
    parse_answer(PYTHON_TAG + text, python_tag=True)


@pytest.mark.parametrize(
    "text",
    [
        "Hello!",
        "",
        "[]",
        "[1, 2]",
        "{}",
        '{"name": "Bern", "inhabitants": 130000}',
        '{"name": "Bern", "parameters": [1]}',
        '{"name": "Bern", "parameters": "of a text"}',
        '{"name": "", "parameters": {}}',
        '{"name": 1, "parameters": {}}',
        "[f(a=1, a=2)]",
        "[f(a=g(b=1))]",
        "[a - b(c=1)]",
        "[f(a=NaN)]",
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
        json.dumps([call.as_json() for call in parsed.calls], allow_nan=False)


@given(arguments=st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none()))
def test_a_written_call_is_read_again(arguments):
    call = ToolCall("f", arguments)
    assert parse_answer(format_call(call), python_tag=False).calls == (call,)


def test_the_system_prompt_says_whether_there_are_tools():
    for form in ("json", "function_tag", "python_list"):
        assert offers_tools(tools_prompt([WEATHER], form, "Be brief."))
    assert offers_tools("Environment: ipython\nTools: brave_search")
    assert not offers_tools(None)
    assert not offers_tools("Answer in JSON. No Environment: ipython here.")


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
