"""Fixtures for every test."""

import logging
import os
import signal

# As the program does for itself: threads that wait for each other sleep. It is read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest
import torch

pytest_plugins = ["helpers.promises", "helpers.sampling"]

# Tiny matrices: a second thread costs more than it saves, and tests run side by side.
torch.set_num_threads(1)


# A shell that runs the tests in the background has them ignore Ctrl-C, nohup a hang-up, and the programs that they
# start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The settings of whoever runs the tests are none of theirs.
os.environ["LLAMA_CLI_CONFIG"] = os.devnull


@pytest.fixture(autouse=True)
def _fresh_log():
    """Commands that run in this process set up the program's log."""
    logger = logging.getLogger("llama_cli")
    logger.setLevel(logging.NOTSET)
    logger.handlers = []
