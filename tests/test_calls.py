"""Wrong calls from Python: errors of this program, with the name that was meant; never pydantic's own."""

import inspect
from typing import Literal

import pytest
from helpers.models import DATA

import llama_cli
from llama_cli import LlamaError, Prompt, Sampling


@pytest.fixture(scope="module", name="session")
def _session():
    return llama_cli.load(DATA / "tiny/bpe1024", max_seq_len=64)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"dtyp": "bf16"}, "load() has no argument dtyp", "did you mean dtype?"),
        ({"max_seq_length": 5}, "load() has no argument max_seq_length", "did you mean max_seq_len?"),
        ({"nonsense": 5}, "load() has no argument nonsense", None),
        ({"model": 5}, "load(): model: Input should be a valid string, is 5", None),
        ({"dtype": "bf17"}, "load(): dtype: Input should be 'auto', 'bf16', 'fp16' or 'fp32', is 'bf17'", None),
        ({"threads": "4"}, "load(): threads: Input should be a valid integer, is '4'", None),
        ({"threads": 0}, "load(): threads: Input should be greater than or equal to 1, is 0", None),
        ({"batch_size": True}, "load(): batch_size: Input should be a valid integer, is True", None),
        ({"max_seq_len": -5}, "load(): max_seq_len: Input should be greater than or equal to 1, is -5", None),
        ({"rope_scale_factor": 0.5}, "load(): rope_scale_factor: Input should be greater than", None),
        ({"quantize": "int3"}, "load(): quantize: Input should be 'int8' or 'int4', is 'int3'", None),
        ({"tp": 0}, "load(): tp: Input should be greater than or equal to 1, is 0", None),
        ({"rope_scale_factor": float("inf")}, "load(): rope_scale_factor: Input should be a finite number", None),
        ({"dp": 0}, "load(): dp: Input should be greater than or equal to 1, is 0", None),
        ({"mmap": "no"}, "load(): mmap: Input should be a valid boolean, is 'no'", None),
        ({"on_layer": 3}, "load(): on_layer: Input should be callable, is 3", None),
        ({"chat_template": "vicuna"}, "load(): chat_template: Input should be ", None),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_wrong_arguments_of_load(arguments, message, hint):
    with pytest.raises(LlamaError) as caught:
        llama_cli.load(**arguments)
    assert caught.value.message.startswith(message)
    assert caught.value.hint == hint


def test_arguments_of_load_have_names():
    with pytest.raises(LlamaError, match=r"load\(\) takes its arguments by name, but for the first"):
        llama_cli.load("model", "tokenizer")


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.complete(5),
        lambda session: session.complete(None),
        lambda session: session.complete([1, 2]),
        lambda session: session.complete(b"Hello"),
        lambda session: session.complete({"prompt": "Hello"}),
        lambda session: session.complete("Hello", {"temperature": 0}),
        lambda session: session.complete([Prompt("Hello", None)]),
        lambda session: session.complete([Prompt(5, Sampling())]),
        lambda session: session.complete([["Hello"]]),
        lambda session: session.complete([[1.5]]),
        lambda session: session.complete("Hello", Sampling(temprature=1)),
        lambda session: list(session.stream(5)),
        lambda session: list(session.run([5])),
        lambda session: session.encode(None),
        lambda session: session.encode_dialog([{"role": "user", "content": "Hello"}]),
        lambda session: session.chat("Hello"),
        lambda session: session.chat({"role": "user", "content": "Hello"}),
        lambda session: session.chat([5]),
        lambda session: session.chat(None),
        lambda session: session.chat([{"role": "user", "content": "Hello"}], {"temperature": 0}),
        lambda session: session.tokenize(5),
        lambda session: session.tokenize_more(None),
        lambda session: session.decode("abc"),
        lambda session: session.decode(5),
        lambda session: Sampling(max_tokens="5"),
        lambda session: Sampling(stop=5),
        lambda session: Sampling(temperature=float("nan")),
        lambda session: Sampling(5),
    ],
)
def test_wrong_calls_of_a_session(call, session):
    with pytest.raises(LlamaError):
        call(session)


def test_help_of_load_shows_types_and_what_it_gives():
    """It showed the descriptions of the flags in every type, and gave None."""
    signature = inspect.signature(llama_cli.load)
    assert signature.return_annotation is llama_cli.LLM
    assert signature.parameters["quantize"].annotation == Literal["int8", "int4"] | None
    assert "Field" not in str(signature)


def test_one_prompt_is_no_list_of_its_letters(session):
    """`stream("Hi")` ran two prompts, H and i."""
    greedy = Sampling(temperature=0, max_tokens=4)
    (whole,) = session.complete("Hi", greedy)
    assert {chunk.prompt for chunk in session.stream("Hi", greedy)} == {0}
    assert session.complete(Prompt("Hi", greedy))[0].token_ids == whole.token_ids
    assert [request.prompt for request in session.requests("Hi")] == [whole.prompt_token_ids]


def test_a_session_says_what_it_is(session):
    assert repr(session) in (
        "<LLM of bpe1024: float32, own kernels on cpu, 64 tokens of context>",
        "<LLM of bpe1024: float32, torch kernels on cpu, 64 tokens of context>",
    )
