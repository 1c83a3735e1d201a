"""What is converted comes back bit for bit, and equals what Meta's, torch's and safetensors' own writers make."""

import json
import shutil
import zipfile

import pytest
import torch
from helpers import folders
from helpers.models import DATA
from helpers.progress import Silent
from helpers.short_calls import end_early
from safetensors.torch import load_file, save_file

from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.pth.archive import open_archive
from llama_cli.convert import conversion
from llama_cli.convert.conversion import convert
from llama_cli.convert.outputs import Target
from llama_cli.convert.params_json import params_of, resolved
from llama_cli.convert.source import open_folder
from llama_cli.convert.split import check_split
from llama_cli.convert.writer_pth import PthFile
from llama_cli.convert.writer_safetensors import Blank, SafetensorsSet
from llama_cli.errors import ModelRejected, NumericalError, OutputFailed, UsageError
from llama_cli.model.args import ModelArgs


def converted(source, target, form="pth", n_shards=1, dtype=None):
    """Convert a folder; returns the new one."""
    progress = Silent()
    convert(open_folder(source), target, Target(form, n_shards, dtype), progress)
    assert progress.left == 0, "the bar ends full"
    return target


def shards(folder):
    archives = [open_archive(path) for path in sorted(folder.glob("consolidated.*.pth"))]
    return [{name: archive.tensor(name) for name in archive.names()} for archive in archives]


def assert_same_shards(found, expected):
    """Bit for bit. Order is of no matter: Meta's splitter has another one."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        folders.assert_same(dict(sorted(one.items())), dict(sorted(other.items())))


@pytest.mark.parametrize(
    ("whole", "split"),
    [("tiny/gqa", "mp/gqa-mp2"), ("tiny/ffnmult", "mp/ffnmult-mp4"), ("tiny/kv8", "mp/kv8-mp4")],
)
def test_shards_are_those_that_fairscale_makes(whole, split, tmp_path):
    n_shards = len(shards(DATA / split))
    assert_same_shards(shards(converted(DATA / whole, tmp_path / "split", n_shards=n_shards)), shards(DATA / split))
    assert_same_shards(shards(converted(DATA / split, tmp_path / "whole")), shards(DATA / whole))


def test_one_to_four_to_two_to_one(tmp_path):
    four = converted(DATA / "tiny/kv8", tmp_path / "4", n_shards=4)
    two = converted(four, tmp_path / "2", n_shards=2)
    eight = converted(two, tmp_path / "8", n_shards=8)
    assert [len(shards(folder)) for folder in (four, two, eight)] == [4, 2, 8]
    one = converted(eight, tmp_path / "1")
    assert_same_shards(shards(one), shards(DATA / "tiny/kv8"))
    for name in ("params.json", "tokenizer.model"):
        assert (one / name).read_bytes() == (DATA / "tiny/kv8" / name).read_bytes()


def test_llama_2_keeps_its_split_of_the_embedding(tmp_path):
    weights = folders.random_weights()
    source = folders.write_meta(tmp_path / "source", weights, 2, llama2=True)
    found = shards(converted(source, tmp_path / "four", n_shards=4))
    assert_same_shards(found, folders.shards_of(weights, 4, llama2=True))


def test_llama_2_is_known_by_its_tokenizer_where_nothing_is_split(tmp_path):
    weights = folders.random_weights()
    source = folders.write_meta(tmp_path / "source", weights)
    (source / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    found = shards(converted(source, tmp_path / "two", n_shards=2))
    assert_same_shards(found, folders.shards_of(weights, 2, llama2=True))


@pytest.mark.parametrize("name", ["gqa", "mha", "scaled", "bpe1024"])
def test_pth_to_safetensors_to_pth(name, tmp_path):
    source = DATA / "tiny" / name
    there = converted(source, tmp_path / "there", "safetensors")
    assert sorted(path.name for path in there.iterdir()) == [
        "consolidated.safetensors",
        "params.json",
        "tokenizer.model",
    ]
    back = converted(there, tmp_path / "back")
    assert_same_shards(shards(back), shards(source))
    assert (back / "params.json").read_bytes() == (source / "params.json").read_bytes()


@pytest.mark.parametrize(("metas", "theirs"), [("gqa", "gqa-v4"), ("scaled", "scaled-v4")])
def test_hugging_face_there_and_back(metas, theirs, tmp_path):
    """The twins in the data were made by other programs: ours makes the same tensors of each."""
    metas, theirs = DATA / "tiny" / metas, DATA / "hf" / theirs
    to_theirs = converted(metas, tmp_path / "theirs", "hf")
    folders.assert_same(
        dict(sorted(load_file(to_theirs / "model.safetensors").items())),
        dict(sorted(load_file(theirs / "model.safetensors").items())),
    )
    for source, name in ((theirs, "from theirs"), (to_theirs, "and back")):
        assert_same_shards(shards(converted(source, tmp_path / name)), shards(metas))
        assert resolved(open_folder(tmp_path / name).args).rope_scaling == open_folder(metas).args.rope_scaling
    again = converted(converted(theirs, tmp_path / "meta"), tmp_path / "again", "hf")
    folders.assert_same(load_file(again / "model.safetensors"), load_file(to_theirs / "model.safetensors"))
    assert resolved(open_folder(again).args) == resolved(open_folder(theirs).args)


def test_a_hugging_face_folder_keeps_its_small_files(tmp_path):
    source = shutil.copytree(DATA / "hf/gqa-v4", tmp_path / "source")
    (source / "generation_config.json").write_text('{"eos_token_id": 7}')
    (source / "notes.txt").write_text("not of the model")
    there = converted(source, tmp_path / "there", "hf", dtype=torch.float32)
    assert (there / "generation_config.json").read_text() == '{"eos_token_id": 7}'
    assert not (there / "notes.txt").exists()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, there))
    assert {**before, "torch_dtype": "float32"} == after


def test_the_config_of_a_meta_folder_says_where_to_stop(tmp_path):
    config = json.loads((converted(DATA / "tiny/gqa", tmp_path / "hf", "hf") / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (256, [257, 264, 265])
    assert config["torch_dtype"] == "bfloat16"


def tied_folder(folder):
    weights = folders.random_weights()
    weights["output.weight"] = weights["tok_embeddings.weight"]
    folders.write_meta(folder, weights)
    folders.write_params(folder, {**folders.PARAMS, "rope_theta": 500000.0})
    return folder


@pytest.mark.parametrize("form", ["safetensors", "hf"])
def test_a_shared_output_matrix_stays_shared(form, tmp_path):
    source = tied_folder(tmp_path / "source")
    there = converted(source, tmp_path / "there", form)
    names = load_file(next(there.glob("*.safetensors"))).keys()
    assert not {"output.weight", "lm_head.weight"} & names
    back = converted(converted(there, tmp_path / "two", n_shards=2), tmp_path / "back")
    assert_same_shards(shards(back), shards(source))
    assert open_checkpoint(back).is_tied
    assert open_checkpoint(tmp_path / "two").is_tied
    assert (back / folders.SHARD).stat().st_size == (source / folders.SHARD).stat().st_size


def test_dtypes(tmp_path):
    wide = converted(DATA / "tiny/gqa", tmp_path / "fp32", dtype=torch.float32)
    assert {tensor.dtype for tensor in shards(wide)[0].values()} == {torch.float32}
    assert_same_shards(shards(converted(wide, tmp_path / "bf16", dtype=torch.bfloat16)), shards(DATA / "tiny/gqa"))
    half = converted(DATA / "tiny/gqa", tmp_path / "fp16", "hf", dtype=torch.float16)
    found, expected = open_folder(half), open_folder(DATA / "tiny/gqa")
    rows = expected.rows("layers.1.attention.wq.weight", 0, 64)
    assert torch.equal(found.rows("layers.1.attention.wq.weight", 0, 64), rows.half())


def test_float16_that_overflows_is_refused(tmp_path):
    weights = folders.random_weights()
    weights["layers.1.feed_forward.w2.weight"][3, 4] = 1e9
    source = folders.write_meta(tmp_path / "source", weights)
    with pytest.raises(NumericalError, match=r"layers\.1\.feed_forward\.w2\.weight has values beyond float16"):
        converted(source, tmp_path / "there", dtype=torch.float16)
    assert not (tmp_path / "there").exists()


def test_values_that_are_no_numbers_pass_unchanged(tmp_path):
    weights = folders.random_weights(dtype=torch.float32)
    weights["norm.weight"][:2] = torch.tensor([float("nan"), float("inf")])
    source = folders.write_meta(tmp_path / "source", weights)
    assert_same_shards(shards(converted(source, tmp_path / "two", n_shards=2)), folders.shards_of(weights, 2))


@pytest.mark.parametrize(("n_shards", "reason"), [(3, "n_heads 8, n_kv_heads 2, vocab_size 512"), (4, "n_kv_heads 2")])
def test_impossible_splits_name_the_possible_ones(n_shards, reason, tmp_path):
    with pytest.raises(UsageError) as caught:
        converted(DATA / "tiny/gqa", tmp_path / "there", n_shards=n_shards)
    assert reason in caught.value.message
    assert caught.value.hint == "--mp with one of 1, 2"


def test_a_model_that_cannot_be_split_needs_no_flag():
    """Nine heads of SmolLM2, and as many ids: the hint was `--mp with one of 1`."""
    args = ModelArgs(dim=576, n_heads=9, n_kv_heads=3, vocab_size=49412, hidden_dim=1536)
    with pytest.raises(UsageError) as caught:
        check_split(args, 3, embedding_dim=0)
    assert caught.value.hint == "leave --mp out: one file is all"


def test_the_family_of_a_folder_without_tokenizer_must_be_known(tmp_path):
    source = folders.write_meta(tmp_path / "source")
    converted(source, tmp_path / "meta")  # the same params.json goes along
    with pytest.raises(ModelRejected, match="no rope_theta"):
        converted(source, tmp_path / "theirs", "hf")


def values():
    generator = torch.Generator().manual_seed(1)
    shapes = {"b": (300, 70), "a": (64, 3), "norm": (5,), "é": (2, 2)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def fill(file, weights):
    """In pieces, the pieces of tensors mixed."""
    for name, tensor in weights.items():
        file.append(name, tensor[:1])
    for name, tensor in weights.items():
        file.append(name, tensor[1:])
    file.close()


def blanks_of(weights):
    return {name: Blank(tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}


def shapes_of(weights):
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def test_a_pth_is_what_torch_saves(tmp_path):
    """Every byte, but for the number that names the file; its checksums are those that torch leaves unchecked."""
    weights = values()
    ours, theirs = tmp_path / "ours/consolidated.00.pth", tmp_path / "theirs/consolidated.00.pth"
    for path in (ours, theirs):
        path.parent.mkdir()
    torch.save(weights | {"o": weights["b"]}, theirs)
    fill(PthFile(ours, shapes_of(weights), torch.bfloat16, {"o": "b"}), weights)
    assert [path.name for path in ours.parent.iterdir()] == [ours.name]
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(theirs) as other:
        assert one.testzip() is None
        entries = [
            [(e.filename, e.header_offset, e.CRC, e.extra) for e in archive.infolist()] for archive in (one, other)
        ]
        assert entries[0][:-1] == entries[1][:-1]
        last = entries[0][-1]
        assert last[0] == entries[1][-1][0] == "consolidated.00/.data/serialization_id"
    assert ours.read_bytes()[: last[1]] == theirs.read_bytes()[: last[1]]
    loaded = torch.load(ours, weights_only=True)
    assert loaded["o"].data_ptr() == loaded["b"].data_ptr()


def test_a_safetensors_file_is_what_its_library_saves(tmp_path):
    weights = values()
    save_file(weights, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    fill(SafetensorsSet(tmp_path, "ours", blanks_of(weights)), weights)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_records_beyond_4_gib_pass_our_gate(tmp_path):
    """Places that need 64 bits; the file is sparse. The checksum of zeros is told, not computed."""
    path = tmp_path / "consolidated.00.pth"
    PthFile(path, {"a": (1 << 30, 5), "b": (3,), "c": (1 << 30, 1)}, torch.bfloat16, {})
    assert path.stat().st_size > 12 << 30
    assert path.stat().st_blocks * 512 < 1 << 20
    archive = open_archive(path)
    assert archive.shape("a") == (1 << 30, 5)
    assert archive.tensor("c")[-1].item() == 0


def test_several_files_and_their_index(tmp_path):
    weights = folders.random_weights()
    folders.write_params(tmp_path)
    fill(SafetensorsSet(tmp_path, "consolidated", blanks_of(weights), most_bytes=9000), weights)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"consolidated-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "consolidated.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    folders.assert_same(folders.read_all(tmp_path), weights)


def family():
    return [case["params"] for case in json.loads((DATA / "params_family.json").read_text())["models"]]


METAS_KEYS = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "use_scaled_rope",
}  # fmt: skip


@pytest.mark.parametrize("params", family(), ids=str)
def test_models_of_metas_are_told_in_metas_own_words(params):
    args = read_params(params)
    told = params_of(args)
    assert told.keys() <= METAS_KEYS
    assert resolved(read_params(told)) == resolved(args)


@pytest.mark.parametrize(
    "more",
    [
        {"hidden_dim": 191},
        {"head_dim": 24},
        {"max_seq_len": 1234},
        {"use_scaled_rope": True, "rope_scaling_factor": 32.0},
        {"rope_scaling": {"factor": 4.0, "low_freq_factor": 2.0, "high_freq_factor": 3.0}},
        {"rope_theta": 1e6, "norm_eps": 1e-6},
    ],
    ids=str,
)
def test_other_models_lose_nothing(more):
    args = read_params(folders.PARAMS | more)
    assert resolved(read_params(params_of(args))) == resolved(args)


def test_blocks_smaller_than_tensors_change_nothing(tmp_path, monkeypatch):
    """Blocks of one head: they cross the borders of shards."""
    monkeypatch.setattr("llama_cli.convert.conversion.BLOCK_BYTES", 1)
    two = converted(DATA / "mp/ffnmult-mp4", tmp_path / "2", n_shards=2)
    theirs = converted(two, tmp_path / "theirs", "hf")
    assert_same_shards(shards(converted(theirs, tmp_path / "1")), shards(DATA / "tiny/ffnmult"))


@pytest.mark.parametrize("record", [0, 7, 20])
def test_a_disk_that_forgets_is_noticed(record, tmp_path, monkeypatch):
    """One bit of one weight is other than it was written, behind the writer's back."""
    real = conversion._write

    def forgetful(*arguments):
        checksums = real(*arguments)
        (path,) = tmp_path.glob(".there.partial/new/*.pth")
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"consolidated.00/data/{record}")
        data = bytearray(path.read_bytes())
        data[entry.header_offset + 128 + entry.file_size // 2] ^= 1
        path.write_bytes(data)
        return checksums

    monkeypatch.setattr(conversion, "_write", forgetful)
    with pytest.raises(OutputFailed, match="reads back otherwise"):
        converted(DATA / "tiny/gqa", tmp_path / "there")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["tiny/gqa", "mp/gqa-mp2"])
@pytest.mark.parametrize("form", ["pth", "safetensors", "hf"])
def test_calls_of_the_system_that_end_early(source, form, tmp_path, monkeypatch):
    """While a model is read and while it is written: every file is the same to the byte."""
    expected = converted(DATA / source, tmp_path / "expected", form)
    end_early(monkeypatch)
    found = converted(DATA / source, tmp_path / "found", form)
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in expected.iterdir()
    }


def test_a_source_that_changes_is_noticed(tmp_path):
    source = shutil.copytree(DATA / "tiny/gqa", tmp_path / "source")
    opened = open_folder(source)
    replaced = source / folders.SHARD
    data = replaced.read_bytes()
    replaced.unlink()
    replaced.write_bytes(data)
    with pytest.raises(ModelRejected, match="changed while"):
        convert(opened, tmp_path / "there", Target(), Silent())
    assert not (tmp_path / "there").exists()
