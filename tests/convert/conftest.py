"""Fixtures for conversions."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    """A tiny model is written in less time than a disk takes to say that it has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield
