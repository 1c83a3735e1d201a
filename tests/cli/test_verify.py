"""`llama-cli verify`: every kind of damage is found, and nothing sound is blamed."""

import hashlib
import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from helpers import commands
from helpers.folders import ARGS, SHARD, random_weights, write_hf, write_meta, write_params, write_safetensors
from helpers.models import DATA
from helpers.sparse import write_sparse
from safetensors.torch import load_file, save_file

from llama_cli.checkpoint import contents
from llama_cli.checkpoint.folders import TOY
from llama_cli.checkpoint.verify import Verification
from llama_cli.cli.app import main
from llama_cli.model.weights import weight_shapes

SOUND = [TOY, *sorted(DATA.rglob("consolidated.00.pth")), *sorted(DATA.rglob("model.safetensors"))]


@pytest.fixture(name="run")
def _run(capfdbinary, monkeypatch):
    monkeypatch.delenv("LLAMA_CLI_MODEL", raising=False)

    def run(*arguments):
        code = main(["verify", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """A tiny model with its tokenizer and its checklist, as a download leaves it."""
    folder = tmp_path / "Tiny"
    shutil.copytree(DATA / "tiny/gqa", folder, ignore=shutil.ignore_patterns("golden*"))
    write_checklist(folder)
    return folder


def write_checklist(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != "checklist.chk")
    lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "checklist.chk").write_text("".join(lines))


def bad(folder, **options):
    """(check, file) of everything that is found bad."""
    verification = Verification(folder, **options)
    verification.check_headers()
    verification.read_everything(lambda n_bytes: None)
    return {
        (finding.check, finding.file): finding.detail for finding in verification.findings if finding.status == "bad"
    }


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.promise("P4")
@pytest.mark.parametrize("path", SOUND, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_sound_folders(path, run):
    code, out, _ = run(path, "--json")
    assert code == 0, out


def test_the_table_and_the_json(run, folder):
    code, out, err = run(folder)
    assert code == 0
    assert out.splitlines()[0].split() == ["status", "check", "file", "finding"]
    assert err.startswith(f"llama-cli: {folder}: ")
    described = json.loads(run("-m", folder, "--json")[1])
    assert list(described) == ["folder", "sound", "findings", "bytes_read", "seconds"]
    assert list(described["findings"][0]) == ["check", "file", "status", "detail"]
    assert described["sound"] is True
    sizes = [path.stat().st_size for path in folder.iterdir() if path.name != "checklist.chk"]
    assert described["bytes_read"] == sum(sizes)


@pytest.mark.promise("P4")
def test_every_flipped_bit_of_the_data_is_found(tmp_path, record_property):
    """Without a checklist: the archive's own CRC-32 over every entry. 200 bits, each of them found."""
    record_property("cases", 200)
    folder = write_meta(tmp_path / "model")
    shutil.copy(DATA / "tokenizer/bytes256.model", folder / "tokenizer.model")
    whole, chance = (folder / SHARD).read_bytes(), random.Random(7)
    entries = list(contents.survey(folder / SHARD).entries.values())
    places = [record.offset + chance.randrange(record.size) for record, _ in chance.choices(entries, k=200)]
    for place in places:
        (folder / SHARD).write_bytes(whole)
        flip(folder / SHARD, 8 * place + chance.randrange(8))
        assert any(file == SHARD for _, file in bad(folder)), place


@pytest.mark.promise("P4")
def test_every_flipped_bit_is_found_by_the_checklist(folder, record_property):
    """Bits of any file, padding and directories too."""
    record_property("cases", 60)
    chance = random.Random(8)
    files = [folder / name for name in (SHARD, "params.json", "tokenizer.model")]
    for _ in range(60):
        path = chance.choice(files)
        whole = path.read_bytes()
        flip(path, chance.randrange(8 * len(whole)))
        assert any(file == path.name for _, file in bad(folder))
        path.write_bytes(whole)
    assert not bad(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "name", ["tok_embeddings.weight", "layers.1.attention.wq.weight", "norm.weight", "output.weight"]
)
def test_values_that_no_weight_has(name, dtype, value, tmp_path):
    weights = random_weights(dtype=dtype)
    weights[name].view(-1)[3] = value
    found = bad(write_meta(tmp_path, weights))["values", SHARD]
    assert found == f"NaN or infinite: {name} (1 values)"


@pytest.mark.parametrize("block", [1001, 4096, 8 << 20])
def test_blocks_may_end_inside_a_value(block, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "BLOCK_BYTES", block)
    folder = write_hf(tmp_path)
    path = folder / "model.safetensors"
    tensors, chance = load_file(path), random.Random(block)
    for tensor in tensors.values():
        for _ in range(5):
            tensor.view(-1)[chance.randrange(tensor.numel())] = float("nan")
    save_file(tensors, path)
    promised = contents.survey(path)
    found = contents.read_contents(path, promised, "sha256", lambda n_bytes: None, lambda: False)
    assert found.not_finite == {name: int(tensor.isnan().sum()) for name, tensor in tensors.items()}
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_large_values_are_finite(tmp_path):
    weights = random_weights()
    weights["norm.weight"].fill_(torch.finfo(torch.bfloat16).max)
    assert ("values", SHARD) not in bad(write_meta(tmp_path, weights))


def test_nothing_but_zeros_is_suspicious(tmp_path):
    weights = random_weights()
    weights["layers.0.feed_forward.w1.weight"].zero_()
    verification = Verification(write_meta(tmp_path, weights))
    verification.check_headers()
    verification.read_everything(lambda n_bytes: None)
    found = next(finding for finding in verification.findings if finding.check == "values")
    assert (found.status, found.detail) == ("warning", "nothing but zeros: layers.0.feed_forward.w1.weight")


def test_the_damaged_tensor_is_named(folder):
    (folder / "checklist.chk").unlink()
    place = contents.survey(folder / SHARD).tensors["layers.1.attention.wo.weight"].offset
    flip(folder / SHARD, 8 * place)
    assert bad(folder)["archive", SHARD] == "damaged since it was written: layers.1.attention.wo.weight"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
        (b"", "empty"),
        (bytes(1000), "full of zeros"),
    ],
)
def test_what_is_no_checkpoint_is_named(content, what, tmp_path):
    folder = write_meta(tmp_path, n_shards=4)
    (folder / "consolidated.01.pth").write_bytes(content)
    (folder / "consolidated.03.pth").write_bytes(content)
    found = bad(folder)
    assert what in found["headers", "consolidated.01.pth"]
    assert what in found["headers", "consolidated.03.pth"]


def test_a_checklist_that_is_a_web_page(folder):
    (folder / "checklist.chk").write_text("<html><head><title>Google Accounts</title>")
    assert "a web page" in bad(folder)["checklist", "checklist.chk"]


def test_checklists_of_every_style(folder):
    sums = dict(reversed(line.split()) for line in (folder / "checklist.chk").read_text().splitlines())
    (folder / "checklist.chk").write_text(
        f"{sums[SHARD].upper()} *./{SHARD}\r\n\nhash size is wrong\n{sums['params.json']}\tparams.json\n"
        f"{'0' * 32}  ../elsewhere\n"
    )
    verification = Verification(folder)
    verification.check_headers()
    verification.read_everything(lambda n_bytes: None)
    found = {(finding.check, finding.file): finding for finding in verification.findings}
    assert found["checklist", "checklist.chk"].detail == "2 MD5 sums; 2 lines are no sums"
    assert found["checksum", SHARD].status == found["checksum", "params.json"].status == "ok"
    assert verification.is_sound


def test_a_listed_file_is_missing(folder):
    listed = (folder / "checklist.chk").read_text()
    (folder / "checklist.chk").write_text(f"{listed}{'0' * 32}  consolidated.01.pth\n")
    assert "not there" in bad(folder)["checksum", "consolidated.01.pth"]


def test_llama_2_keeps_its_tokenizer_above(folder):
    shutil.move(folder / "tokenizer.model", folder.parent / "tokenizer.model")
    (folder / "checklist.chk").unlink()
    (folder.parent / "tokenizer_checklist.chk").write_text(f"{'0' * 32}  tokenizer.model\n")
    assert "download it again" in bad(folder)["checksum", "tokenizer.model"]


def test_the_hubs_cache_names_files_by_their_sum(tmp_path):
    folder = write_hf(tmp_path / "snapshot")
    shutil.copy(DATA / "tokenizer/bytes256.model", folder / "tokenizer.model")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    shutil.move(folder / "model.safetensors", blobs / digest)
    (folder / "model.safetensors").symlink_to(os.path.relpath(blobs / digest, folder))
    assert ("checksum", "model.safetensors") not in bad(folder)
    flip(blobs / digest, 8 * ((blobs / digest).stat().st_size - 2))
    assert f"should be {digest}" in bad(folder)["checksum", "model.safetensors"]


def test_missing_shards_and_strangers(tmp_path):
    folder = write_meta(tmp_path, n_shards=4)
    (folder / "consolidated.02.pth").unlink()
    (folder / "optimizer.pth").write_bytes(b"x")
    verification = Verification(folder)
    verification.check_headers()
    found = {(finding.status, finding.detail) for finding in verification.findings}
    assert any(status == "bad" and "shard 02 of 4 is missing" in detail for status, detail in found)
    assert any(status == "warning" and "ignored" in detail for status, detail in found)


def test_names_shapes_and_dtypes(tmp_path):
    weights = random_weights()
    weights["norm.weight"] = weights["norm.weight"][:30].clone()
    found = bad(write_meta(tmp_path, weights))
    assert any(check == "weights" and "norm.weight has shape" in detail for (check, _), detail in found.items())


def test_settings_that_are_wrong(tmp_path):
    folder = write_meta(tmp_path)
    write_params(folder, {"dim": 0})
    assert any(check == "settings" and "dim" in detail for (check, _), detail in bad(folder).items())


def test_the_tokenizer_of_another_model(folder):
    found = bad(folder, tokenizer=DATA / "tiny/bpe1024/tokenizer.model")
    assert found["tokenizer", "tokenizer.model"].startswith("the tokenizer has 1,024 tokens, the model 512")


def test_safetensors_in_metas_names(tmp_path):
    write_params(tmp_path)
    write_safetensors(tmp_path, random_weights(), "consolidated", 3)
    shutil.copy(DATA / "tokenizer/bytes256.model", tmp_path / "tokenizer.model")
    found = bad(tmp_path)
    assert set(found) == {("tokenizer", "tokenizer.model")}, "512 words are too many for 48"
    (tmp_path / "consolidated-00002-of-00003.safetensors").write_bytes(b"<html>")
    assert ("headers", "consolidated-00002-of-00003.safetensors") in bad(tmp_path)


def test_quick_reads_headers_alone(run, folder):
    flip(folder / SHARD, 8 * contents.survey(folder / SHARD).tensors["norm.weight"].offset)
    assert run(folder, "--quick")[0] == 0
    code, out, err = run(folder)
    assert code == 3
    assert "bad" in out
    assert "error" not in err, "the table says it"


def test_control_characters_in_names_are_shown(run, tmp_path):
    folder = write_meta(tmp_path / "a\x1b[31mb")
    code, out, err = run(folder)
    assert code == 3  # no tokenizer
    assert "\x1b" not in out + err


@pytest.mark.parametrize(("name", "code"), [("/nowhere", 3), ("zzz", 3)])
def test_no_such_model(run, name, code):
    exit_code, out, err = run(name)
    assert (exit_code, out) == (code, "")
    assert "there is no" in err


def test_ctrl_c_while_reading(tmp_path):
    """A hundred gigabytes of holes: nobody waits for their end."""
    write_params(tmp_path)
    write_sparse(tmp_path / SHARD, {**weight_shapes(ARGS), "more": (50_000, 1_000_000)})
    started = commands.start("verify", tmp_path)
    started.wait_until(lambda: int(Path(f"/proc/{started.pid}/io").read_text().split()[1]) > 1 << 28)
    os.kill(started.pid, signal.SIGINT)
    ended = started.wait()
    assert (ended.code, ended.out, ended.err) == (130, b"", "")
