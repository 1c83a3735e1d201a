"""What ranks that are started here need of the machine, and what a killed program leaves behind."""

import os
import resource
import socket
import tempfile

import pytest

from llama_cli import launch
from llama_cli.errors import DoesNotFit
from llama_cli.files.own import lock
from llama_cli.launch import FOLDER, ensure_ranks_can_meet


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


def test_what_a_killed_program_left_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ["killed", "young", "held", "open-to-others", "link"]
    killed, young, held, others, link = (tmp_path / f"{FOLDER}{name}" for name in names)
    elsewhere = tmp_path / "elsewhere"
    for folder in (killed, young, held, others, elsewhere):
        folder.mkdir(0o700)
        (folder / "store").touch()
    link.symlink_to(elsewhere)
    others.chmod(0o777)
    for folder in (killed, held, others, elsewhere):
        os.utime(folder, (0, 0))
    handle = os.open(held, os.O_RDONLY)
    assert lock(handle)
    launch._clear_folders()
    os.close(handle)
    assert sorted(os.listdir(tmp_path)) == sorted([young.name, held.name, others.name, link.name, elsewhere.name])
    assert (elsewhere / "store").exists()
