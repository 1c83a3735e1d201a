"""Other people's programs. `make test-real` installs them all; elsewhere a test is skipped whose judge is not there."""

import importlib
import os
import warnings

import pytest

IS_WHOLE = bool(os.environ.get("LLAMA_CLI_REAL"))  # nothing may be skipped


def judge(name):
    """A module of another program, whatever it warns about while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if IS_WHOLE:
            return importlib.import_module(name)
        return pytest.importorskip(name, exc_type=ImportError)
