"""Several ranks of one model: the text of one process in float32; below it whole answers, the same each time."""

import pytest
from real.shell import answers

pytestmark = pytest.mark.real
PROMPT = "Once upon a time, there was"
ASKED = ["-n", "8", "-t", "0", "-q"]


def ranks_of(name):
    """Of 8 heads and 4 key/value heads; SmolLM2 has 9 and 3."""
    return ["--tp", "3" if name.startswith("smollm2") else "2"]


@pytest.mark.parametrize("name", ["smollm2", "pieces", "pieces-mp2"])
def test_they_say_the_same_in_float32(name, models):
    flags = ["-m", models[name], *ASKED, "--dtype", "fp32"]
    (alone,) = answers("complete", PROMPT, *flags)
    (together,) = answers("complete", PROMPT, *flags, *ranks_of(name))
    assert (together["token_ids"], together["text"]) == (alone["token_ids"], alone["text"])


@pytest.mark.parametrize("name", ["smollm2", "smollm2-int8", "pieces", "pieces-int8"])
def test_they_say_it_twice(name, models):
    """In bfloat16 and int8, where the parts of a sum are rounded, the text may be another than that of one process."""
    flags = ["-m", models[name], *ASKED, *ranks_of(name)]
    (first,), (again,) = (answers("complete", PROMPT, *flags) for _ in range(2))
    assert first["finish_reason"] in ("stop", "length")
    assert 1 <= first["usage"]["completion_tokens"] <= 8
    assert (first["token_ids"], first["text"]) == (again["token_ids"], again["text"])


def test_int8_at_load(pieces):
    """Each rank rounds the part that it has."""
    flags = ["-m", pieces, *ASKED, *ranks_of("pieces"), "--quantize", "int8"]
    (first,), (again,) = (answers("complete", PROMPT, *flags) for _ in range(2))
    assert first["finish_reason"] in ("stop", "length")
    assert first["token_ids"] == again["token_ids"]
