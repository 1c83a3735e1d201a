"""`info` says of every way to run a model what `load` then plans."""

import json
import math
import shutil
from functools import cache

import pytest
import torch
from helpers.folders import random_weights, shards_of, write_hf
from helpers.models import DATA
from helpers.progress import Silent
from helpers.sparse import write_sparse_model

from llama_cli import loader
from llama_cli.backends import offers
from llama_cli.backends.backend import machine_of
from llama_cli.backends.native.library import native_library
from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.describe import plan_table
from llama_cli.checkpoint.params import read_params
from llama_cli.convert.conversion import convert
from llama_cli.convert.outputs import Target
from llama_cli.convert.source import open_folder
from llama_cli.memory import Gpu
from llama_cli.model.weights import n_params
from llama_cli.options import LoadOptions
from llama_cli.parallel.ranks import Place

FAMILY = json.loads((DATA / "params_family.json").read_text())["models"]
ONE_B = next(case for case in FAMILY if case["model"].endswith("3.2-1B"))
EIGHT = {"dim": 256, "n_layers": 3, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 256, "multiple_of": 64}
OPTIONS = {
    "bf16": {"dtype": "bf16"},
    "fp32": {"dtype": "fp32"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}
MUCH = 1 << 50


@pytest.fixture(name="folders", scope="module")
def _folders(tmp_path_factory):
    """Models of several forms: tied or not, in several files, in each dtype, quantized, Hugging Face's."""
    place = tmp_path_factory.mktemp("models")

    def write(name, dtype=torch.bfloat16, *, is_tied=False, n_shards=1):
        weights = random_weights(read_params(EIGHT), dtype=dtype)
        weights = {name: each for name, each in weights.items() if not is_tied or name != "output.weight"}
        (place / name).mkdir()
        (place / name / "params.json").write_text(json.dumps(EIGHT))
        shutil.copy(DATA / "tokenizer/bytes256.model", place / name / "tokenizer.model")
        for rank, shard in enumerate([weights] if n_shards == 1 else shards_of(weights, n_shards)):
            torch.save(shard, place / name / f"consolidated.{rank:02d}.pth")

    write("tied", is_tied=True)
    write("untied")
    write("float32", torch.float32)
    write("float16", torch.float16, is_tied=True)
    write("two files", n_shards=2)
    for quantization in ("int8", "int4"):
        convert(
            open_folder(place / "tied"),
            place / quantization,
            Target("safetensors", quantization=quantization),
            Silent(),
        )
    write_hf(place / "hf")
    (place / "1B").mkdir()
    (place / "1B/params.json").write_text(json.dumps(ONE_B["params"]))
    write_sparse_model(place / "1B", read_params(ONE_B["params"]), 1)
    shutil.copy(DATA / "tokenizer/bytes256.model", place / "1B")
    return place


NAMES = ("tied", "untied", "float32", "float16", "two files", "int8", "int4", "1B")


@cache
def opened(folder):
    checkpoint = open_checkpoint(folder)
    return loader.Opened(checkpoint, None, "model", checkpoint.headers.configuration().args)


def planned(folder, device, precision, monkeypatch, **options):
    """The plan of `load`, with its own slots and context, before it takes any memory."""
    monkeypatch.setattr(loader, "choose_device", lambda *asked: torch.device(device))
    is_undone = opened(folder).checkpoint.quantization and precision in ("bf16", "fp32")
    more = {"kernels": "plain"} if is_undone else {}
    asked = LoadOptions(folder, **OPTIONS[precision], **options, **more, threads=torch.get_num_threads())
    return loader.fit_into_memory(opened(folder), loader.choose_way(opened(folder), asked, Place.of({})), MUCH)


def rows_of(folder, **asked):
    settings = {"context": 2048, "batch_size": 1, "memory": MUCH, "gpus": []} | asked
    return plan_table(opened(folder).checkpoint.headers, opened(folder).args, **settings)


@pytest.fixture(name="gpus", autouse=True)
def _gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))


@pytest.mark.parametrize(("context", "batch_size"), [(64, 1), (2048, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_info_plans_what_load_plans_on_a_cpu(name, context, batch_size, folders, monkeypatch):
    rows = rows_of(folders / name, context=context, batch_size=batch_size)
    assert {(row["precision"], row["ranks"]) for row in rows} >= {(each, n) for each in OPTIONS for n in (1, 2, 4)}
    for row in rows:
        plan, found = planned(
            folders / name, "cpu", row["precision"], monkeypatch,
            batch_size=batch_size, max_seq_len=context, tp=row["ranks"],
        )  # fmt: skip
        told = plan.weights, plan.total(context), context * batch_size * plan.per_token
        assert (row["weight_bytes"], row["peak_bytes"], row["cache_bytes"]) == told, (row["precision"], row["ranks"])
        assert found == context


@pytest.mark.parametrize("name", NAMES)
def test_info_fits_a_gpu_where_load_does(name, folders, monkeypatch):
    """To the byte, in every precision: layers of few bits run there too."""
    for row in rows_of(folders / name):
        n_ranks = row["ranks"]
        plan, _ = planned(folders / name, "cuda", row["precision"], monkeypatch, max_seq_len=2048, tp=n_ranks)
        for free, fits in ((plan.total(2048), True), (plan.total(2048) - 1, False)):
            found = rows_of(folders / name, gpus=[Gpu(free, (8, 6))] * n_ranks)
            assert {one["precision"]: one["fits_gpu"] for one in found if one["ranks"] == n_ranks}[
                row["precision"]
            ] == fits


def test_int4_does_not_fit_a_gpu_that_cannot_multiply_bfloat16(folders):
    found = rows_of(folders / "tied", gpus=[Gpu(MUCH, (7, 5))])
    assert {row["precision"]: row["fits_gpu"] for row in found if row["ranks"] == 1} == {
        "bf16": True, "fp32": True, "int8": True, "int4": False
    }  # fmt: skip


def test_one_matrix_of_float32_serves_both_ends(folders):
    """Our own kernels take the embedding as the output matrix: `info` counted it twice, `load` once."""
    args = read_params(EIGHT)
    fp32 = next(row for row in rows_of(folders / "tied") if (row["precision"], row["ranks"]) == ("fp32", 1))
    n_twice = args.vocab_size * args.dim if native_library() is None else 0
    assert fp32["weight_bytes"] == 4 * (n_params(args, tied=True) + n_twice)


def test_info_expects_the_machine_that_torch_finds():
    found, expected = machine_of(torch.device("cpu")), offers.expected_machine()
    assert (expected.packed, expected.has_onednn_int, expected.upcasts) == (
        found.packed, found.has_onednn_int, found.upcasts
    )  # fmt: skip
    library = native_library()
    assert expected.has_native == (library is not None)
    assert library is None or expected.has_native_int8 == library.has_int8


@pytest.mark.parametrize("name", [*NAMES, "hf"])
def test_headers_know_the_dtype_and_the_bytes_of_the_weights(name, folders):
    checkpoint = open_checkpoint(folders / name)
    sizes = {}
    for shard in checkpoint.shards:
        for each in shard.names():
            if each != "output.weight" or not checkpoint.is_tied:
                dtype = shard.dtype(each)
                sizes[dtype] = sizes.get(dtype, 0) + math.prod(shard.shape(each)) * dtype.itemsize
    assert checkpoint.dtype == max(sizes, key=sizes.get)
    assert checkpoint.headers.n_bytes == sum(sizes.values())
