"""Logits and greedy ids against what Meta's own code gave on the same weights."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.models import DATA, TINY, forward, golden, golden_tensors, kit_folder, load_model, needs_kit, new_cache

ATOL, LONG_ATOL = 5e-4, 2e-3  # float32 against another implementation: up to 300 tokens, and beyond

HF_TWINS = ["hf/gqa-v4", "hf/scaled-v4", "hf/scaled-v5", "hf/scaled-v4-factor32"]
SHARDED = ["mp/gqa-mp2", "mp/ffnmult-mp4", "mp/kv8-mp4"]
SHARDED_IN_KIT = ["mp/ffnmult-mp2", "mp/kv8-mp2"]


@pytest.fixture(name="folder_of")
def _folder_of(tmp_path):
    """The folder of a golden; the variants of one Hugging Face model share its weights."""

    def find(name: str) -> Path:
        folder = DATA / name
        if (folder / "model.safetensors").exists() or not name.startswith("hf/"):
            return folder
        for source in (DATA / "hf/scaled-v4", folder):
            shutil.copytree(source, tmp_path / "model", dirs_exist_ok=True)
        return tmp_path / "model"

    return find


def prompts(folder: Path):
    return golden(folder)["prompts"].items()


def greedy(model, ids: list[int], n: int) -> list[int]:
    cache = new_cache(model, 1, len(ids) + n)
    out, pending, start = [], ids, 0
    for _ in range(n):
        logits = forward(model, cache, pending, start)
        start += len(pending)
        pending = [int(logits[-1].argmax())]
        out += pending
    return out


@pytest.mark.parametrize("name", [*TINY, *HF_TWINS])
def test_prefill_and_greedy_ids_are_metas(name, folder_of):
    folder = folder_of(name)
    model, expected = load_model(folder), golden_tensors(folder)
    for prompt, case in prompts(folder):
        ids = case["ids"]
        logits = forward(model, new_cache(model, 1, len(ids)), ids)
        rows = case.get("logit_positions", range(len(ids)))
        atol = ATOL if len(ids) <= 300 else LONG_ATOL
        torch.testing.assert_close(logits[list(rows)], expected[f"{prompt}.prefill.f32"], atol=atol, rtol=0)
        wanted = case.get("greedy32_f32") or case["greedy24_f32"]
        assert greedy(model, ids, len(wanted)) == wanted, prompt


@pytest.mark.parametrize("name", ["tiny/gqa", "tiny/scaled", "tiny/mha"])
def test_step_by_step_is_prefill(name):
    model = load_model(DATA / name)
    expected = golden_tensors(DATA / name)
    for prompt, case in prompts(DATA / name):
        ids = case["ids"]
        if "logit_positions" in case:
            continue
        cache = new_cache(model, 1, len(ids))
        steps = torch.cat([forward(model, cache, [token], at) for at, token in enumerate(ids)])
        torch.testing.assert_close(steps, expected[f"{prompt}.prefill.f32"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("chunk", [1, 7, 64, 299])
def test_any_chunk_size_is_prefill(chunk):
    model, expected = load_model(DATA / "tiny/gqa"), golden_tensors(DATA / "tiny/gqa")
    case = golden(DATA / "tiny/gqa")["prompts"]["long300"]
    ids, cache = case["ids"], new_cache(model, 1, 300)
    logits = torch.cat([forward(model, cache, ids[at : at + chunk], at) for at in range(0, len(ids), chunk)])
    torch.testing.assert_close(logits[case["logit_positions"]], expected["long300.prefill.f32"], atol=ATOL, rtol=0)


def test_bfloat16_stays_near_metas_bfloat16():
    folder = DATA / "tiny/gqa"
    model, expected = load_model(folder, torch.bfloat16), golden_tensors(folder)
    for prompt, case in prompts(folder):
        if "logit_positions" in case:
            continue
        ids = case["ids"]
        logits = forward(model, new_cache(model, 1, len(ids)), ids)
        assert (logits - expected[f"{prompt}.prefill.bf16"]).abs().mean() <= 0.1, prompt


@pytest.mark.parametrize("name", [*SHARDED, *(pytest.param(name, marks=needs_kit) for name in SHARDED_IN_KIT)])
def test_shards_make_the_whole(name):
    """Bit for bit: merging copies, it does not compute."""
    folder = DATA / name if name in SHARDED else kit_folder(name)
    sharded, whole = load_model(folder), load_model(DATA / "tiny" / folder.name.split("-")[0])
    expected = whole.state_dict()
    for weight_name, weight in sharded.state_dict().items():
        assert torch.equal(weight, expected[weight_name]), weight_name


@pytest.mark.parametrize("name", HF_TWINS)
def test_hugging_face_twins_have_metas_weights(name, folder_of):
    twin = load_model(folder_of(name)).state_dict()
    expected = load_model(DATA / "tiny" / name.removeprefix("hf/").split("-")[0]).state_dict()
    for weight_name, weight in twin.items():
        assert torch.equal(weight, expected[weight_name]), weight_name


@needs_kit
@pytest.mark.parametrize("name", ["stories260k-tiktoken", "char-shakespeare"])
def test_trained_models_write_what_is_documented(name):
    folder = kit_folder(name)
    model = load_model(folder)
    for case in golden(folder)["cases"]:
        assert greedy(model, case["prompt_ids"], len(case["greedy_ids_f32"])) == case["greedy_ids_f32"]


@needs_kit
@pytest.mark.parametrize("name", ["stories260k-tiktoken", "char-shakespeare"])
def test_trained_models_logits(name):
    """The goldens hold the logits of each prompt followed by the first 30 tokens of its answer."""
    folder = kit_folder(name)
    model, expected = load_model(folder), golden_tensors(folder)
    for number, case in enumerate(golden(folder)["cases"]):
        want = expected[f"case{number}.f32"]
        ids = [*case["prompt_ids"], *case["greedy_ids_f32"]]
        logits = forward(model, new_cache(model, 1, len(want)), ids[: len(want)])
        torch.testing.assert_close(logits, want, atol=1e-4, rtol=0)
