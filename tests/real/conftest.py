"""Real models for every test of this folder, and the programs that judge what they give."""

import pytest
from real.judges import IS_WHOLE
from real.models import Models, NotToBeHad


@pytest.fixture(scope="session", name="models")
def _models():
    return Models()


@pytest.fixture(scope="session", name="smollm2")
def _smollm2(models):
    """SmolLM2 135M in Meta's layout, bfloat16; skipped without a network, except where nothing may be."""
    try:
        return models["smollm2"]
    except NotToBeHad as error:
        if IS_WHOLE:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session", name="pieces")
def _pieces(models):
    """A SentencePiece model in bfloat16."""
    return models["pieces"]
