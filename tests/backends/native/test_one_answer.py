"""A row has one answer, to the last bit: alone, beside any others, in any order, in any pieces of prompt."""

import random

import pytest
from helpers.engines import SHARED, run
from helpers.models import SMALL
from helpers.native import LIBRARY, many_rows_model, native_runner

from llama_cli.engine.engine import Engine
from llama_cli.engine.request import Request, Sampling

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C++ compiler")

SETTINGS = ({"temperature": 0}, {"temperature": 0.9, "top_p": 0.9}, {"temperature": 1.2, "repetition_penalty": 1.2})


def rows(n_rows):
    """Prompts of 1 to 90 tokens, of which some begin alike; some are scored."""
    chance = random.Random(5)
    made = []
    for number in range(n_rows):
        beginning = SHARED[: chance.choice([0, 0, 20, 40])]
        prompt = (*beginning, *(chance.randrange(96) for _ in range(chance.randint(1, 50))))
        settings = SETTINGS[number % 3] | {"prompt_logprobs": number % 10 == 9}
        sampling = Sampling(max_tokens=chance.randint(1, 8), logprobs=True, top_logprobs=2, **settings)
        made.append(Request(number, prompt, sampling, seed=number))
    return made


def answers_of(model, n_slots, chunk, requests):
    engine = Engine(native_runner(model, n_slots), tokenizer_size=96, stop_tokens=frozenset({17}), chunk=chunk)
    return run(engine, requests)


@pytest.mark.promise("P26")
@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_a_row_has_one_answer(kind, whole, record_property):
    model, requests = many_rows_model(SMALL, kind), rows(200 if whole else 16)
    wanted = answers_of(model, 1, 512, requests)
    shuffled = random.Random(1).sample(requests, len(requests))
    ways = [(1, 7, requests), (4, 512, requests), (16, 64, requests), (16, 3, shuffled), (5, 512, shuffled)]
    for n_slots, chunk, order in ways:
        assert answers_of(model, n_slots, chunk, order) == wanted, (n_slots, chunk)
    record_property("cases", len(ways) * len(requests))
