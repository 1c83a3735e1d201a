"""Each setting of loading is said once: flags, keywords and what ranks are told follow from LoadOptions."""

import dataclasses
import inspect

import pytest
from helpers.models import SMALL

import llama_cli
from llama_cli.cli.app import main
from llama_cli.memory import MemoryPlan
from llama_cli.options import LoadOptions
from llama_cli.parallel.team import Job

FIELDS = {each.name for each in dataclasses.fields(LoadOptions)}


def test_keywords_of_load_are_the_fields():
    parameters = inspect.signature(llama_cli.load).parameters
    assert set(parameters) == FIELDS
    assert [name for name, each in parameters.items() if each.kind is not inspect.Parameter.KEYWORD_ONLY] == ["model"]
    assert {name: each.default for name, each in parameters.items()} == {
        each.name: each.default for each in dataclasses.fields(LoadOptions)
    }
    assert "max_seq_len" in llama_cli.load.__doc__


def test_what_ranks_are_told_survives_its_numbers():
    options = LoadOptions("/a folder/é", dtype="fp32", quantize="int4", rope_scale_factor=32.0, tp=2, dp=3, threads=1)
    plan = MemoryPlan(1 << 40, 3, 4, 5, 6, 7, 8)
    job = Job(dataclasses.replace(options, max_seq_len=77), "abc", SMALL, plan, 90, frozenset({3, 5}))
    found = Job.of_numbers(job.to_numbers())
    assert found == job
    assert (found.tp, found.n_ranks, found.max_seq_len) == (2, 6, 77)


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("--threads", "0", "greater than or equal to 1, is 0"),
        ("--threads", "4097", "less than or equal to 4096, is 4097"),
        ("-c", "0", "greater than or equal to 1, is 0"),
        ("--max-seq-len", str(2**31), "less than or equal to 2147483647, is 2147483648"),
        ("--tp", "-1", "greater than or equal to 1, is -1"),
        ("--rope-scale-factor", "0.5", "greater than or equal to 1, is 0.5"),
        ("--rope-scale-factor", "inf", "a finite number, is inf"),
        ("--rope-scale-factor", "nan", "a finite number, is nan"),
    ],
)
def test_a_flag_out_of_its_bounds(flag, value, reason, capfd):
    assert main(["complete", flag, value, "x"]) == 2
    out, err = capfd.readouterr()
    named = "--max-seq-len" if flag == "-c" else flag
    assert (out, err.splitlines()[0]) == ("", f"llama-cli: error: {named}: Input should be {reason}")
    assert err.splitlines()[1] == "hint: llama-cli complete --help"
