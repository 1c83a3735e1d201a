"""`llama-cli bench`: that it counts right; its figures are for people."""

import json

import pytest
from helpers.models import DATA, SMALL, random_model

from llama_cli.cli.app import main
from llama_cli.engine import measure as benchmark
from llama_cli.engine.engine import Engine
from llama_cli.engine.measure import mixed_requests, run_in_groups, run_one_by_one, run_rows, run_together
from llama_cli.engine.runner import ModelRunner

TINY = str(DATA / "tiny/bpe1024")


def test_every_way_makes_the_same_number_of_tokens():
    requests = mixed_requests(10, 96, (3, 30), (2, 9))
    engine = Engine(
        ModelRunner(random_model(SMALL), n_slots=4, max_seq_len=64), tokenizer_size=96, stop_tokens=frozenset()
    )
    wanted = sum(request.sampling.max_tokens for request in requests)
    assert run_together(engine, requests).n_tokens == wanted
    assert run_one_by_one(engine, requests).n_tokens == wanted
    assert run_in_groups(engine, requests, 4).n_tokens == wanted
    assert mixed_requests(10, 96, (3, 30), (2, 9)) == requests


def test_groups_run_to_the_longest(monkeypatch):
    """Counted where it is computed: every row of a group has the longest prompt and the longest answer."""
    requests = mixed_requests(10, 96, (3, 30), (2, 9))
    engine = Engine(
        ModelRunner(random_model(SMALL), n_slots=4, max_seq_len=64), tokenizer_size=96, stop_tokens=frozenset()
    )
    seen = []
    monkeypatch.setattr(
        benchmark, "run_together", lambda engine, group: seen.append(group) or run_together(engine, group)
    )
    run_in_groups(engine, requests, 4)
    assert [len(group) for group in seen] == [4, 4, 2]
    for group, padded in zip((requests[:4], requests[4:8], requests[8:]), seen, strict=True):
        assert {len(row.prompt) for row in padded} == {max(len(row.prompt) for row in group)}
        assert {row.sampling.max_tokens for row in padded} == {max(row.sampling.max_tokens for row in group)}
        assert all(p.prompt[-len(row.prompt) :] == row.prompt for row, p in zip(group, padded, strict=True))


def test_rows_are_computed_anew_each_time():
    engine = Engine(
        ModelRunner(random_model(SMALL), n_slots=4, max_seq_len=64), tokenizer_size=96, stop_tokens=frozenset()
    )
    for _ in range(2):
        before = engine.stats.n_prompt, engine.stats.n_decoded
        speed = run_rows(engine, 3, 20, 5)
        assert speed.prefill > 0
        assert speed.decode > 0
        assert engine.stats.n_prompt - before[0] == 60
        assert engine.stats.n_decoded - before[1] == 12  # the first token of each came with its prompt


FEW_ROWS = ["--prompts", "6", "--alone", "2", "-b", "4", "--prompt-range", "4-9", "--answer-range", "3-5"]


@pytest.mark.parametrize(
    "flags",
    [["--batch", *FEW_ROWS], ["--rounds", "2", "--lengths", "4,9", "--rows", "1,3", "--new-tokens", "3"]],
    ids=["batch", "speeds"],
)
def test_the_last_line_is_json(flags, capfdbinary):
    assert main(["bench", "-m", TINY, *flags]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) > 1
    figures = json.loads(lines[-1])
    assert figures["model"] == "bpe1024"
    speeds = [figures, *figures.get("measured", [])]
    assert all(value > 0 for one in speeds for name, value in one.items() if name.endswith("per_second"))
    assert "--batch" in flags or [(one["rows"], one["prompt_tokens"]) for one in speeds[1:]] == [(1, 4), (1, 9), (3, 4)]


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch", "--prompt-range", "9-4"],
        ["--batch", "--answer-range", "x"],
        ["--batch", "--prompt-range", "1-99999"],
        ["--lengths", "1,x"],
        ["--rows", "0"],
        ["--lengths", "99999"],
    ],
)
def test_lengths_that_cannot_be(flags, capfdbinary):
    assert main(["bench", "-m", TINY, *flags]) == 2
    assert capfdbinary.readouterr().out == b""


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--batch", "--prompt-range", "1-9999"], "--prompt-range and --answer-range"),
        (["--lengths", "9999"], "--lengths and --new-tokens"),
    ],
)
def test_lengths_beyond_the_context_name_the_flags(flags, named, capfdbinary):
    assert main(["bench", "-m", TINY, *flags]) == 2
    assert f"hint: give smaller {named}, or a larger --max-seq-len" in capfdbinary.readouterr().err.decode()
