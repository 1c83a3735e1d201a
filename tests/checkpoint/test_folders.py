"""Which folder a path means, what lies in it, and shards that do not belong together."""

import codecs
import itertools
import json
import logging
import os
from pathlib import Path

import pytest
import torch
from helpers.bad_tensors import CHANGES, KINDS, spoil
from helpers.folders import (
    ARGS,
    PARAMS,
    SHARD,
    assert_same,
    checked,
    random_weights,
    read_all,
    refusal,
    shards_of,
    write_hf,
    write_meta,
    write_params,
    write_safetensors,
)
from helpers.models import DATA, KIT, TINY, needs_kit

from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.folders import find_tokenizer
from llama_cli.checkpoint.open import require_safe_torch
from llama_cli.checkpoint.params import read_params
from llama_cli.errors import ModelRejected
from llama_cli.model.weights import weight_shapes

WEIGHTS = random_weights()


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return write_meta(tmp_path / "model")


@pytest.fixture(name="as_nobody")
def _as_nobody(tmp_path):
    """root may read everything: give that up for a while."""
    if os.geteuid() != 0:
        yield
        return
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == 0 and place.stat().st_mode & 0o777 == 0o700:
            place.chmod(0o755)
    codecs.lookup("utf-8-sig")  # Python itself may lie where nobody can read it
    os.seteuid(65534)
    yield
    os.seteuid(0)


# Folders.


@pytest.mark.parametrize("inner", [".", "original", "original/mp8", "original/mp16"])
def test_where_the_files_may_lie(inner, tmp_path):
    folder = write_meta(tmp_path / "model" / inner)
    assert open_checkpoint(tmp_path / "model").folder.resolve() == folder.resolve()


def test_fewer_shards_come_first(tmp_path):
    write_meta(tmp_path / "original/mp16")
    write_meta(tmp_path / "original/mp8")
    assert open_checkpoint(tmp_path).folder.name == "mp8"


@pytest.mark.parametrize("name", [SHARD, "params.json"])
def test_a_file_stands_for_its_folder(name, folder):
    assert open_checkpoint(folder / name).folder == folder


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_checkpoint("~/model").folder == folder


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "there is no"),
        ("~nobody-of-that-name/model", "there is no"),
        ("zero\0byte", "there is no"),
        ("x" * 300, "file name too long"),
        ("escape\x1b[2J\n", r"escape\x1b[2J\n"),
    ],
)
def test_missing_folder_says_where_it_looked(path, message, tmp_path):
    error = refusal(tmp_path, lambda folder: open_checkpoint(path if path.startswith("~") else folder / path))
    assert message in error.message
    assert len(path) > 200 or all(place in error.message for place in ("tried ", "/original", "/original/mp*"))


def test_folder_with_escapes_in_its_name(tmp_path):
    folder = write_meta(tmp_path / "\x1b]0;title\x07\nmodel")
    assert_same(read_all(folder), WEIGHTS)
    (folder / SHARD).write_bytes(b"")
    refusal(folder)
    (folder / SHARD).unlink()
    assert r"\x1b]0;title\x07\nmodel" in refusal(folder).message


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda folder: (folder / "params.json").unlink(), "weights, but no params.json"),
        (lambda folder: (folder / SHARD).unlink(), "no weights"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no model"),
        (lambda folder: (folder / SHARD).rename(folder / "consolidated.00.bin"), "no weights"),
    ],
)
def test_incomplete_folder(build, message, folder):
    build(folder)
    assert message in refusal(folder).message


@pytest.mark.parametrize("name", ["model.gguf", "tokenizer.model"])
def test_other_files_stand_for_nothing(name, folder):
    (folder / name).write_bytes(b"GGUF")
    assert "no file of a model folder" in refusal(folder / name).message


def replace(path: Path, make) -> None:
    path.unlink()
    make(path)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", [SHARD, "params.json"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "not a regular file"),
        (Path.mkdir, "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("."), "is a folder"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
    ids=["pipe", "folder", "device", "link to folder", "dangling link", "loop"],
)
def test_only_regular_files_are_opened(make, message, name, folder):
    replace(folder / name, make)
    found = refusal(folder).message
    assert message in found or (name == "params.json" and "no params.json" in found)


@pytest.mark.parametrize("name", [SHARD, "params.json", "."])
def test_permission_denied(name, folder, as_nobody):
    if os.getuid() == 0:
        os.seteuid(0)
        (folder / name).chmod(0)
        os.seteuid(65534)
    else:
        (folder / name).chmod(0)
    with pytest.raises(ModelRejected, match=r"cannot read .*: permission denied"):
        open_checkpoint(folder)
    if os.getuid() != 0:
        (folder / name).chmod(0o700)


def test_reading_needs_no_right_to_write(folder, as_nobody):
    assert_same(read_all(folder), WEIGHTS)


@pytest.mark.parametrize("place", [".", "..", "original"])
@pytest.mark.parametrize("name", ["tokenizer.model", "chars.json"])
def test_tokenizer_is_found(place, name, folder):
    (folder / place).mkdir(exist_ok=True)
    (folder / place / name).touch()
    found = open_checkpoint(folder).tokenizer
    assert found is not None
    assert found.resolve() == (folder / place / name).resolve()


def test_tokenizer_order(folder):
    assert find_tokenizer(folder) is None
    for place in ("..", "."):
        (folder / place / "tokenizer.model").touch()
    assert open_checkpoint(folder).tokenizer == folder / "tokenizer.model"
    assert open_checkpoint(folder, tokenizer="else.model").tokenizer == Path("else.model")


# Shards.


@pytest.mark.parametrize("llama2", [False, True], ids=["split on words", "split on dim"])
@pytest.mark.parametrize("n_shards", [1, 2, 4, 8])
def test_shards_make_the_whole(n_shards, llama2, tmp_path):
    folder = write_meta(tmp_path, WEIGHTS, n_shards, llama2=llama2)
    checkpoint, args = checked(folder)
    assert checkpoint.vocab_size == ARGS.vocab_size
    assert len(checkpoint.files) == n_shards
    assert_same(dict(checkpoint.tensors(args)), WEIGHTS)


def test_vocab_size_comes_from_the_weights(tmp_path):
    folder = write_meta(tmp_path, WEIGHTS, 2)
    write_params(folder, PARAMS | {"vocab_size": -1})
    assert_same(read_all(folder), WEIGHTS)


@pytest.mark.parametrize("lost", [set(c) for n in (1, 2, 3) for c in itertools.combinations(range(4), n)], ids=str)
def test_every_missing_shard_is_noticed(lost, tmp_path):
    folder = write_meta(tmp_path, WEIGHTS, 4)
    for rank in lost:
        (folder / f"consolidated.{rank:02d}.pth").unlink()
    message = refusal(folder).message
    assert f"shard {min(lost):02d} of" in message
    assert "is missing" in message


def test_gap_of_eight(tmp_path):
    folder = write_meta(tmp_path, WEIGHTS, 8)
    (folder / "consolidated.03.pth").unlink()
    assert "shard 03 of 8 is missing" in refusal(folder).message


def test_other_pth_files_are_ignored_and_named(tmp_path, caplog):
    folder = write_meta(tmp_path, WEIGHTS, 2)
    for name in ("optimizer.pth", "consolidated.000.pth", "consolidated.99999999999.pth", "consolidated.٣٣.pth"):
        (folder / name).write_bytes(b"junk")
    with caplog.at_level(logging.INFO):
        assert_same(read_all(folder), WEIGHTS)
    assert "optimizer.pth" in caplog.text


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("change", CHANGES)
def test_wrong_tensor_is_named(change, name, tmp_path):
    if "norm" in name and change in ("transposed", "flat"):
        pytest.skip("a norm has one dimension")
    for n_shards in (1, 2):
        folder = write_meta(tmp_path / str(n_shards), WEIGHTS, n_shards)
        spoil(folder, n_shards - 1, lambda weights: CHANGES[change](weights, name))
        if (change, name, n_shards) == ("missing", "output.weight", 1):
            assert checked(folder)[0].is_tied
            continue
        message = refusal(folder).message
        # The first one that is off is named; a wrong embedding makes all others look wrong.
        assert name in message or name in ("tok_embeddings.weight", "norm.weight"), message
        assert n_shards == 1 or "shard 01" in message or "consolidated.01" in message


def test_unexpected_tensor_is_named(folder):
    torch.save(WEIGHTS | {"vision.x": torch.ones(1), "\x1b[2J": torch.ones(1)}, folder / SHARD)
    message = refusal(folder).message
    assert "unexpected: '\\x1b[2J', 'vision.x'" in message


def test_long_lists_are_cut(folder):
    write_params(folder, PARAMS | {"n_layers": 9})
    message = refusal(folder).message
    assert "missing: 'layers.2.attention.wq.weight'" in message
    assert message.count("layers.") == 5
    assert "and 58 more" in message


def test_wrong_shape_shows_both(folder):
    write_params(folder, PARAMS | {"n_kv_heads": 4})
    assert "layers.0.attention.wk.weight has shape (32, 32), must be (16, 32)" in refusal(folder).message


def test_shards_of_two_models(tmp_path):
    folder = write_meta(tmp_path, WEIGHTS, 2)
    torch.save(shards_of(random_weights(seed=5), 2)[1], folder / "consolidated.01.pth")
    assert "parts of two models" in refusal(folder).message


def test_whole_weights_in_every_shard(tmp_path):
    folder = write_meta(tmp_path)
    torch.save(WEIGHTS, folder / "consolidated.01.pth")
    assert "must be a part in 2 of" in refusal(folder).message


def test_nan_is_equal_to_itself_in_replicated_norms(tmp_path):
    weights = WEIGHTS | {"norm.weight": torch.full((32,), float("nan"), dtype=torch.bfloat16)}
    assert_same(read_all(write_meta(tmp_path, weights, 2)), weights)


# What an opened checkpoint says and does.


def test_facts(folder):
    checkpoint = open_checkpoint(folder)
    assert checkpoint.params == PARAMS
    assert checkpoint.files == (folder / SHARD,)
    assert checkpoint.dtype == torch.bfloat16
    assert checkpoint.headers.n_bytes == sum(tensor.nbytes for tensor in WEIGHTS.values())
    assert not checkpoint.is_tied


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("how", ["left out", "shared"])
def test_tied_output_is_left_out(how, n_shards, tmp_path):
    write_params(tmp_path)
    for rank, shard in enumerate(shards_of(WEIGHTS, n_shards)):
        shard["output.weight"] = shard["tok_embeddings.weight"]
        if how == "left out":
            del shard["output.weight"]
        torch.save(shard, tmp_path / f"consolidated.{rank:02d}.pth")
    checkpoint, args = checked(tmp_path)
    expected = {name: tensor for name, tensor in WEIGHTS.items() if name != "output.weight"}
    assert checkpoint.is_tied
    assert checkpoint.headers.n_bytes == sum(
        tensor.nbytes * (n_shards if "norm" in name else 1) for name, tensor in expected.items()
    )
    assert_same(dict(checkpoint.tensors(args)), expected)


def test_one_shard_stays_mapped(folder):
    checkpoint, args = checked(folder)
    first, again = dict(checkpoint.tensors(args)), dict(checkpoint.tensors(args))
    assert all(first[name].data_ptr() == again[name].data_ptr() for name in first)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(0)
        file.write(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize("n_shards", [1, 2])
def test_without_mmap_later_changes_do_not_matter(n_shards, tmp_path):
    folder = write_meta(tmp_path / "model", WEIGHTS, n_shards)
    weights = read_all(folder, mmap=False)
    for path in folder.glob("*.pth"):
        overwrite(path)
    assert_same(weights, WEIGHTS)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def put_back(path: Path) -> None:
    """Another byte, and the time of the last change as it was."""
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_over(path: Path) -> None:
    (path.parent / "new").write_bytes(path.read_bytes())
    (path.parent / "new").replace(path)


@pytest.mark.parametrize(
    "change", [overwrite, put_back, append, rename_over, Path.unlink, lambda path: os.truncate(path, 100), os.utime]
)
@pytest.mark.parametrize("write", [write_meta, write_hf])
def test_change_of_a_file_is_noticed(change, write, tmp_path):
    folder = write(tmp_path)
    checkpoint = open_checkpoint(folder)
    checkpoint.ensure_unchanged()
    change(checkpoint.files[0])
    error = refusal(folder, lambda _: checkpoint.ensure_unchanged())
    assert "changed while it was being read" in error.message or "no such file" in error.message


@pytest.mark.parametrize("version", ["2.9.1", "2.9.1+cu128", "1.13.0", "2", "unknown", "0.10"])
def test_unsafe_torch_is_refused(version):
    with pytest.raises(ModelRejected, match=r"CVE-2026-24747; llama-cli needs 2\.10 or newer"):
        require_safe_torch(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.10rc1", "2.13.0+cpu", "2.14.0a0+git123", "3.0.0"])
def test_safe_torch_is_accepted(version):
    require_safe_torch(version)


# Real ones.


@pytest.mark.parametrize("name", ["mp/gqa-mp2", "mp/ffnmult-mp4", "mp/kv8-mp4"])
def test_metas_shards_are_the_single_file(name):
    single = DATA / "tiny" / name.removeprefix("mp/").split("-")[0]
    assert_same(read_all(DATA / name), read_all(single))


@pytest.mark.parametrize("name", TINY)
def test_metas_names_in_safetensors(name, tmp_path):
    weights = read_all(DATA / name)
    params = json.loads((DATA / name / "params.json").read_text())
    for number, n_files in enumerate((1, 3)):
        folder = tmp_path / str(number)
        write_params(folder, params)
        write_safetensors(folder, {n: t.contiguous() for n, t in weights.items()}, "consolidated", n_files)
        assert_same(read_all(folder), weights)


@needs_kit
def test_every_checkpoint_of_the_kit_opens():
    assert KIT is not None
    folders = sorted({path.parent for name in ("params.json", "config.json") for path in KIT.rglob(name)})
    folders = [folder for folder in folders if folder.parent.name != "families"]  # of Llama 4, and with pictures
    assert folders
    for folder in folders:
        checkpoint = open_checkpoint(folder)
        args = read_params(checkpoint.params, vocab_size=checkpoint.vocab_size)
        checkpoint.check(args)
        assert checkpoint.tokenizer is not None
        names = [name for name, _ in checkpoint.tensors(args)]
        assert len(names) >= len(weight_shapes(args)) - 1, folder
        checkpoint.ensure_unchanged()


@needs_kit
def test_every_twin_of_the_kit_is_equal():
    assert KIT is not None
    for folder in [*sorted((KIT / "mp").iterdir()), *sorted((KIT / "hf").iterdir())]:
        assert_same(read_all(folder), read_all(KIT / "tiny" / folder.name.split("-")[0]))
