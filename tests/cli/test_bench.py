"""`llama-cli bench`: that it counts right; its figures are for people."""

import json

import pytest
from support import DATA, SMALL, random_model

from llama_cli.benchmark import mixed_requests, run_in_groups, run_one_by_one, run_row, run_together
from llama_cli.cli.app import main
from llama_cli.engine.engine import Engine
from llama_cli.engine.runner import Runner

TINY = str(DATA / "tiny/bpe1024")


def test_every_way_makes_the_same_number_of_tokens():
    requests = mixed_requests(10, 96, (3, 30), (2, 9))
    engine = Engine(Runner(random_model(SMALL), n_slots=4, max_seq_len=64), n_words=96, stop_tokens=frozenset())
    wanted = sum(request.sampling.max_tokens for request in requests)
    assert run_together(engine, requests).n_tokens == wanted
    assert run_one_by_one(engine, requests).n_tokens == wanted
    before = engine.stats.n_decoded
    assert run_in_groups(engine, requests, 4).n_tokens == wanted
    longest = [max(request.sampling.max_tokens for request in requests[at : at + 4]) for at in (0, 4, 8)]
    computed = 4 * longest[0] + 4 * longest[1] + 2 * longest[2]
    assert engine.stats.n_decoded - before >= computed - 3 * 10  # all but the tokens of the steps with prompts
    assert mixed_requests(10, 96, (3, 30), (2, 9)) == requests
    assert run_row(engine, requests[0]).decode_tokens_per_second > 0


@pytest.mark.parametrize("flags", [["--batch", "--prompts", "6", "--alone", "2", "-b", "4"], ["--rounds", "2"]])
def test_the_last_line_is_json(flags, capfdbinary):
    sizes = ["--prompt-lengths", "4-9", "--new-tokens", "3-5"]
    assert main(["bench", "-m", TINY, *flags, *sizes]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) > 1
    figures = json.loads(lines[-1])
    assert figures["model"] == "bpe1024"
    assert all(value > 0 for name, value in figures.items() if name.endswith("tokens_per_second"))


@pytest.mark.parametrize("flags", [["--prompt-lengths", "9-4"], ["--new-tokens", "x"], ["--prompt-lengths", "1-99999"]])
def test_lengths_that_cannot_be(flags, capfdbinary):
    assert main(["bench", "-m", TINY, *flags]) == 2
    assert capfdbinary.readouterr().out == b""
