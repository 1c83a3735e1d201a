"""llama.cpp's converter reads what `convert --format hf` writes, and llama.cpp says of it what we say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.models import needs_kit
from real.judges import llama_cpp_converter
from real.shell import answers, run
from real.texts import PROMPTS, two_hundred

from llama_cli.checkpoint.tokenizer_file import tokenizer_of

pytestmark = pytest.mark.real
SCRIPT = Path(__file__).with_name("llama_cpp.py")
N_TOKENS = 16


def llama_cpp(*arguments, stdin=""):
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def converted(name, cuts, models, tmp_path):
    """Our folder as their file."""
    out = tmp_path / "model.gguf"
    llama_cpp("convert", llama_cpp_converter(), models[name], out, cuts)
    return out


def assert_the_same_greedy_texts(theirs, ours):
    """The same tokens, but where two are as likely but for rounding: once among the prompts at most."""
    n_ties = 0
    for prompt, one in zip(PROMPTS, theirs, strict=True):
        flags = ["-n", str(N_TOKENS), "-t", "0", "--dtype", "fp32", "--logprobs", "--top-logprobs", "2"]
        (answer,) = answers("complete", prompt, "-m", ours, *flags)
        assert one["prompt_tokens"] == len(answer["prompt_token_ids"]), prompt
        if one["text"] != answer["text"]:
            first, second = answer["logprobs"][n_shared(one["text"], answer["logprobs"])]["top_logprobs"]
            assert first["logprob"] - second["logprob"] < 1e-3, prompt
            n_ties += 1
    assert n_ties <= 1


def n_shared(text, tokens):
    """With how many of our tokens their text begins."""
    said = ""
    for place, token in enumerate(tokens):
        said += token["token"]
        if not text.startswith(said):
            return place
    return len(tokens)


@pytest.mark.parametrize(
    ("name", "ours", "cuts"),
    [
        ("smollm2-hf-fp32", "smollm2-fp32", "smollm"),
        pytest.param("pieces-hf-fp32", "stories", "", marks=needs_kit),
    ],
)
def test_the_same_greedy_texts(name, ours, cuts, models, tmp_path):
    gguf = converted(name, cuts, models, tmp_path)
    said = json.loads(llama_cpp("answer", gguf, N_TOKENS, stdin=json.dumps(PROMPTS)))
    assert_the_same_greedy_texts(said, models[ours])


def test_texts_have_as_many_tokens_as_in_the_file_it_came_from(models):
    """SmolLM2's own GGUF, as its maker wrote it, in llama.cpp."""
    texts = two_hundred()[:60]
    said = json.loads(llama_cpp("answer", models["wheel"], 1, stdin=json.dumps(texts)))
    tokenizer = tokenizer_of(models["smollm2"])
    begin = 0 if tokenizer.bos_id is None else 1
    assert [one["prompt_tokens"] for one in said] == [begin + len(tokenizer.encode(text)) for text in texts]


@pytest.mark.parametrize(("name", "cuts"), [("smollm2-hf-fp32", "smollm"), ("pieces-hf-fp32", "")])
def test_there_and_back(name, cuts, models, tmp_path):
    """Through their file a model becomes the one that it was: greedy texts are the same."""
    gguf = converted(name, cuts, models, tmp_path)
    run("convert", gguf, tmp_path / "back", "-q")
    for prompt in PROMPTS:
        flags = ["-n", str(N_TOKENS), "-t", "0", "--dtype", "fp32"]
        ours, back = (run("complete", prompt, "-m", model, *flags) for model in (models[name], tmp_path / "back"))
        assert ours == back
