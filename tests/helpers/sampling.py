"""A pytest plugin: of a large enumeration `make test` runs a part, `make test-all` all; so does `pytest --whole`.

@pytest.mark.sampled(10) keeps about every tenth case of a parametrised test. Which ones follows from their ids alone,
so that a run finds what the run before found. Where several parameters are crossed, every value of each is in some
case that is kept; a function `kind` of the parameters may name groups of cases, and each of them is, too.
A case that is asked for by name always runs. Loops within a test ask the fixture `whole` how long they are to be.
"""

import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="run every case of the tests that are sampled")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "sampled(one_in, kind=None): too many cases for every day; `make test-all` runs all of them"
    )


def runs_whole(config: pytest.Config) -> bool:
    """Whether nothing is left out: slow tests run too, or it was asked for."""
    return bool(config.getoption("--whole")) or "not slow" not in config.option.markexpr


@pytest.fixture(scope="session", name="whole")
def _whole(pytestconfig: pytest.Config) -> bool:
    return runs_whole(pytestconfig)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if runs_whole(config) or any("::" in argument for argument in config.args):
        return
    cases = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("sampled"):
            cases[item.parent, item.originalname].append(item)
    left_out = {item for of_a_test in cases.values() for item in _left_out(of_a_test)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _left_out(cases: list[pytest.Function]) -> Iterator[pytest.Function]:
    marker = cases[0].get_closest_marker("sampled")
    assert marker is not None
    (one_in,) = marker.args
    crossed = _crossed(cases)
    kind: Callable[..., Hashable] | None = marker.kwargs.get("kind")
    seen: set[Hashable] = set()
    # The sample first: what it does not show is then taken from the others.
    for case in sorted(cases, key=lambda case: (_hash(case) % one_in, _hash(case))):
        found: set[Hashable] = {(name, case.callspec.indices[name]) for name in crossed}
        if kind is not None:
            found.add(kind(**case.callspec.params))
        if _hash(case) % one_in and found <= seen:
            yield case
        seen |= found


def _crossed(cases: list[pytest.Function]) -> list[str]:
    """The parameters that are crossed with others, one of those that are given together."""
    columns = {tuple(case.callspec.indices[name] for case in cases): name for name in cases[0].callspec.indices}
    return list(columns.values()) if len(columns) > 1 else []


def _hash(case: pytest.Function) -> int:
    """The same in every run, process and version of Python."""
    return zlib.crc32(case.name.encode())
