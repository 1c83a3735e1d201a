"""What this program promises, and a pytest plugin that counts the cases that prove it.

A test says which promise it proves by @pytest.mark.promise("P5"). It counts as one case, or as many as it records
by record_property("cases", n). At its end pytest shows a table: promise, cases, cases asked for, failures.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest


class Promise(NamedTuple):
    """One line of the table."""

    text: str
    n_asked: int  # cases that a whole run must have


PROMISES = {
    "P1": Promise("no bad checkpoint is loaded or crashes it", 300),
    "P2": Promise("no pickle runs", 30),
    "P3": Promise("mutated archives cause one kind of error", 20_000),
    "P4": Promise("verify finds every flipped bit", 200),
    "P5": Promise("no bad line stops a batch", 200),
    "P6": Promise("kill -9 loses, doubles and alters no row", 200),
    "P7": Promise("a full or failing disk leaves whole rows", 8),
    "P8": Promise("one writer for an output", 20),
    "P9": Promise("pipes and signals end it with their code", 90),
    "P10": Promise("model output cannot act on a terminal", 5000),
    "P11": Promise("what is streamed is the whole", 20_000),
    "P12": Promise("no text makes a control token", 20_000),
    "P13": Promise("no text hangs or crashes a tokenizer", 12),
    "P14": Promise("token for token Meta's tokenizer", 10_000),
    "P15": Promise("NaN in any kind of tensor is reported", 24),
    "P16": Promise("it fits or says so, before it allocates", 20),
    "P17": Promise("no connection, no open port", 10),
    "P18": Promise("the same bytes in every environment", 36),
    "P19": Promise("a rank that dies takes nothing along", 20),
    "P20": Promise("--help and --version in 0.3 s", 2),
    "P21": Promise("a file that changes under a run is reported", 30),
    "P22": Promise("no planted name is followed", 50),
    "P23": Promise("no damaged file of ours is believed", 2000),
    "P24": Promise("no row's trouble ends a batch", 20),
    "P25": Promise("what is private is so at any moment", 600),
    "P26": Promise("a row has one answer beside any others", 3000),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Properties travel with a test's report, also from the workers of xdist."""
    for item in items:
        for marker in item.iter_markers("promise"):
            assert marker.args[0] in PROMISES, f"{item.nodeid} proves {marker.args[0]}, which nothing lists"
            item.user_properties.append(("promise", marker.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table; of a part of the tests only the promises that they prove."""
    counts = {name: [0, 0] for name in PROMISES}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            properties = getattr(report, "user_properties", [])  # a module that cannot be imported has none
            n_cases = sum(value for key, value in properties if key == "cases") or 1
            for name in (value for key, value in properties if key == "promise"):
                counts[name][0] += n_cases
                counts[name][1] += outcome != "passed"
    if not any(n_cases for n_cases, _ in counts.values()):
        return
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "not slow" not in config.option.markexpr
    terminalreporter.section("promises")
    terminalreporter.write_line(f"{'':<5}{'promise':<46}{'cases':>8}{'asked':>8}{'failures':>10}")
    for name, (text, n_asked) in PROMISES.items():
        n_cases, n_failures = counts[name]
        if n_cases or is_whole:
            note = "" if n_cases >= n_asked or not is_whole else "  fewer than asked" if n_cases else "  not here yet"
            line = f"{name:<5}{text:<46}{n_cases:>8,}{n_asked:>8,}{n_failures:>10}{note}"
            terminalreporter.write_line(line, red=n_failures > 0)
