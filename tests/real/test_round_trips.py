"""Conversions of real models, there and back bit for bit, and what the commands say of each form."""

import pytest
import torch
from real.shell import answers, rows_of, run
from safetensors.torch import load_file

pytestmark = pytest.mark.real
PROMPT = "Once upon a time, there was"


def weights_of(folder):
    if (folder / "consolidated.00.pth").exists():
        return torch.load(folder / "consolidated.00.pth", weights_only=True, mmap=True)
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_the_same_model(folder, other):
    ours, theirs = weights_of(folder), weights_of(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert torch.equal(tensor.view(torch.uint8), theirs[name].view(torch.uint8)), name


@pytest.mark.parametrize("form", ["safetensors", "hf"])
@pytest.mark.parametrize("name", ["smollm2", "pieces"])
def test_there_and_back(name, form, models, tmp_path):
    run("convert", models[name], tmp_path / "there", "--format", form, "-q")
    run("convert", tmp_path / "there", tmp_path / "back", "-q")
    assert_the_same_model(models[name], tmp_path / "back")
    texts = [run("complete", PROMPT, "-m", model, "-n", "8", "-t", "0", "-q")
             for model in (models[name], tmp_path / "there", tmp_path / "back")]  # fmt: skip
    assert len(set(texts)) == 1


def test_shards_there_and_back(pieces, models, tmp_path):
    run("convert", models["pieces-mp2"], tmp_path / "back", "-q")
    assert_the_same_model(pieces, tmp_path / "back")


@pytest.mark.parametrize("name", ["smollm2", "pieces"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantized_at_load_and_before(name, kind, models, tmp_path):
    """`--quantize` of a loading command and of convert make the same ids."""
    run("convert", models[name], tmp_path / kind, "--quantize", kind, "-q")
    flags = ["-n", "12", "-t", "0", "-q"]
    (at_load,) = answers("complete", PROMPT, "-m", models[name], "--quantize", kind, *flags)
    (saved,) = answers("complete", PROMPT, "-m", tmp_path / kind, *flags)
    assert at_load["token_ids"] == saved["token_ids"]


@pytest.mark.parametrize("name", ["smollm2", "smollm2-int8", "smollm2-int4", "smollm2-hf", "smollm2-safetensors",
                                  "pieces", "pieces-int8", "pieces-mp2", "pieces-hf"])  # fmt: skip
def test_every_command_takes_it(name, models):
    model = models[name]
    (verified,) = answers("verify", model)
    assert verified["sound"], verified["findings"]
    (described,) = answers("info", "-m", model)
    assert described["parameters"]
    (tokens,) = answers("tokenize", "-m", model, PROMPT)
    assert run("tokenize", "-m", model, "--decode", ",".join(map(str, tokens["token_ids"]))).strip() == PROMPT
    (scored,) = answers("score", "-m", model, PROMPT, "-q")
    assert 0 < scored["bits_per_token"] < 20
    assert run("complete", PROMPT, "-m", model, "-n", "4", "-t", "0", "-q").strip()
    assert run("chat", "Hi", "-m", model, "-n", "4", "-q", "--chat-template", "none")


def test_bench_ends_with_json(smollm2):
    flags = ["--lengths", "32", "--rows", "1", "--new-tokens", "4", "--rounds", "1"]
    assert rows_of(run("bench", "-m", smollm2, *flags).splitlines()[-1])


def test_models_lists_them(models):
    made = [models[name] for name in ("smollm2", "smollm2-int8", "pieces")]
    listed = {
        row["name"]: row for row in rows_of(run("models", "--json", settings={"LLAMA_CLI_HOME": str(made[0].parent)}))
    }
    assert {folder.name for folder in made} <= listed.keys()
    assert all(row["problem"] is None for row in listed.values())
