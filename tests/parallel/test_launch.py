"""What ranks that are started here need of the machine."""

import resource
import socket

import pytest

from llama_cli.errors import DoesNotFit
from llama_cli.parallel.launch import ensure_ranks_can_meet


@pytest.fixture
def limits(monkeypatch):
    """Set what the system is said to allow; what was asked for since."""
    asked = []

    def set_to(soft, hard):
        monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda which, values: asked.append(values))
        return asked

    return set_to


@pytest.mark.parametrize(("soft", "hard"), [(16, 16), (16, 90), (24, 24)])
def test_too_few_files(limits, soft, hard):
    """It was "a rank has ended before its time", or an abort of torch's."""
    limits(soft, hard)
    with pytest.raises(DoesNotFit, match=f"may open {hard} files here, and each of 2 ranks may need 96") as caught:
        ensure_ranks_can_meet(2)
    assert caught.value.hint.startswith("ulimit -n 96")


@pytest.mark.parametrize("hard", [96, 5000, resource.RLIM_INFINITY])
def test_a_limit_that_can_be_raised_is(limits, hard):
    asked = limits(16, hard)
    ensure_ranks_can_meet(2)
    assert asked == [(96, hard)]


@pytest.mark.parametrize("soft", [96, 1024, resource.RLIM_INFINITY])
def test_a_limit_that_is_high_enough_stays(limits, soft):
    asked = limits(soft, resource.RLIM_INFINITY)
    ensure_ranks_can_meet(2)
    assert asked == []


def test_no_loopback(monkeypatch):
    def create(*arguments, **more):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", create)
    with pytest.raises(DoesNotFit, match=r"loopback network, which does not work here: Network is unreachable$"):
        ensure_ranks_can_meet(2)
