"""What people give to -m that is no model folder: named for what it is, with the command to type."""

import gzip
import json
import logging
import shutil
import tarfile
import zipfile

import pytest
import torch
from helpers.folders import SHARD, random_weights, read_all, refusal, write_hf, write_meta, write_params

from llama_cli.checkpoint.folders import find_folder
from llama_cli.checkpoint.headers import read_headers


def gguf(folder):
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(100))


def adapter(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}))
    (folder / "adapter_model.safetensors").write_bytes(b"x")


def executorch(folder):
    write_params(folder)
    (folder / "model.pte").write_bytes(b"ET")


def pickled(folder):
    write_hf(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def torchtune_in_hugging_faces_names(folder):
    write_hf(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "hf_model_0001_0.pt")


def distributed(folder):
    (folder / ".metadata").write_bytes(b"x")
    (folder / "__0_0.distcp").write_bytes(b"x")


def unfinished(folder):
    write_params(folder)
    (folder / "consolidated.00.pth.incomplete").write_bytes(b"x")


def packed(folder):
    with tarfile.open(folder / "llama.tar", "w") as archive:
        archive.add(__file__, "x")


def many(folder):
    write_meta(folder / "Llama3.2-1B")
    write_meta(folder / "Llama3.1-8B")


def cached(folder):
    write_meta(folder / "snapshots/abc/original")


def tokenizer(folder):
    (folder / "tokenizer.model").write_bytes(b"x")


FOLDERS = {
    gguf: ("holds a GGUF file", "llama-cli convert "),
    adapter: ("holds adapters (LoRA) for 'meta-llama/Llama-3.2-1B'", "merge_and_unload"),
    executorch: ("a program for ExecuTorch", "bf16"),
    pickled: ("weights in pytorch_model.bin, which is not read", "save_pretrained"),
    torchtune_in_hugging_faces_names: ("weights in hf_model_0001_0.pt", "save_pretrained"),
    distributed: ("torch's distributed checkpoint", "dcp_to_torch"),
    unfinished: ("a download that is not finished (consolidated.00.pth.incomplete)", "again"),
    packed: ("holds an archive, llama.tar", "tar -xf "),
    many: ("holds model folders, and is none: Llama3.1-8B, Llama3.2-1B", "/Llama3.1-8B"),
    cached: ("holds model folders, and is none: original", "snapshots/abc/original"),
    tokenizer: ("holds a tokenizer (tokenizer.model) and no model", "--tokenizer"),
}


@pytest.mark.parametrize("build", FOLDERS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("read", [read_all, read_headers, find_folder])
def test_folders_are_named_for_what_they_are(build, read, tmp_path):
    message, hint = FOLDERS[build]
    build(tmp_path)
    error = refusal(tmp_path, read)
    assert message in error.message
    assert hint in error.hint


FILES = {
    "sha256-74701a8c35f6c8d9a4b91f3f3497643001d63e0c7a84e085bed452548fa88d45": (b"GGUF" + bytes(100), "a GGUF file"),
    "model.gguf": (b"GGUF" + bytes(100), "a GGUF file"),
    "llama.tgz": (gzip.compress(b"x" * 600), "a compressed archive"),
    "tokenizer.model": (b"x", "a tokenizer"),
    "program.pte": (b"xxxxET12", "a program for ExecuTorch"),
    "pytorch_model.bin": (b"PK\x03\x04", "weights in pytorch_model.bin"),
    "notes.txt": (b"x", "no file of a model folder"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_named_for_what_they_are(name, tmp_path):
    data, message = FILES[name]
    (tmp_path / name).write_bytes(data)
    error = refusal(tmp_path / name, find_folder)
    assert message in error.message
    if message == "a GGUF file":
        assert error.hint.startswith("llama-cli convert ")
        assert name in error.hint


def test_archives_are_named(tmp_path):
    packed(tmp_path)
    with zipfile.ZipFile(tmp_path / "llama.zip", "w") as archive:
        archive.writestr("x", "y")
    assert refusal(tmp_path / "llama.tar", find_folder).hint.startswith("tar -xf ")
    assert refusal(tmp_path / "llama.zip", find_folder).hint.startswith("unzip ")


@pytest.mark.parametrize("damage", ["a missing file", "no index", "cut short"])
def test_a_whole_original_is_used_beside_a_broken_download(damage, tmp_path, caplog):
    """Its missing safetensors were an error, though Meta's own files lay below."""
    write_hf(tmp_path, n_files=2)
    write_meta(tmp_path / "original", random_weights(seed=3))
    assert find_folder(tmp_path) == tmp_path
    first, second = sorted(tmp_path.glob("*.safetensors"))
    if damage == "a missing file":
        second.unlink()
    elif damage == "no index":
        next(tmp_path.glob("*.index.json")).unlink()
    else:
        first.write_bytes(first.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert find_folder(tmp_path) == tmp_path / "original"
    assert "is not whole" in caplog.text
    assert "original is used instead" in caplog.text
    assert torch.equal(read_all(tmp_path)["norm.weight"], random_weights(seed=3)["norm.weight"])


def test_where_nothing_is_whole_what_is_missing_is_said(tmp_path):
    write_hf(tmp_path, n_files=2)
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    write_meta(tmp_path / "original", n_shards=2)
    (tmp_path / "original" / SHARD).unlink()
    assert "is missing (1 of 2 files)" in refusal(tmp_path).message


def test_adapters_beside_a_model_do_not_hide_it(tmp_path):
    write_hf(tmp_path)
    adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    read_all(tmp_path)
    meta = write_params(tmp_path / "tune") or tmp_path / "tune"
    torch.save(random_weights(), meta / "meta_model_0.pt")
    torch.save({}, meta / "adapter_0.pt")
    torch.save({}, meta / "recipe_state.pt")
    shutil.copy(tmp_path / "adapter_config.json", meta)
    read_all(meta)
