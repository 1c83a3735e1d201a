"""Folders with quantized weights answer as --quantize at load does, and are plain models to everything else."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from helpers.folders import ARGS, PARAMS, checked, random_weights, raw_safetensors, refusal, write_meta, write_params
from helpers.models import DATA, backend_of, forward, golden, load_model, new_cache
from helpers.progress import Silent
from safetensors.torch import load_file, save_file

import llama_cli
from llama_cli import Sampling
from llama_cli.backends.backend import machine_of
from llama_cli.backends.onednn_int import can_quantize
from llama_cli.checkpoint import open_checkpoint
from llama_cli.checkpoint.build import build_model
from llama_cli.checkpoint.headers import read_headers
from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.stored import quantized as stored
from llama_cli.checkpoint.verify import Verification
from llama_cli.cli.app import main
from llama_cli.convert import conversion
from llama_cli.convert.conversion import convert
from llama_cli.convert.outputs import Target
from llama_cli.convert.source import open_folder
from llama_cli.errors import NumericalError, OutputFailed, UsageError
from llama_cli.model import quantized
from llama_cli.model.quantized import join, quantization_of, quantize_int4, quantize_int8
from llama_cli.model.split import Share, bounds_of
from llama_cli.model.weights import weight_shapes

CPU = torch.device("cpu")
FILE = "consolidated.safetensors"
GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)
needs_kernels = pytest.mark.skipif(not can_quantize(), reason="this processor has no kernels for few bits")
both = pytest.mark.parametrize("kind", ["int8", "int4"])


def saved(source, target, kind, dtype=None):
    """Convert a folder; returns the new one."""
    progress = Silent()
    n_bytes = convert(open_folder(source), target, Target("safetensors", 1, dtype, kind), progress)
    assert progress.left == 0, "the bar ends full"
    assert n_bytes == sum(tensor.nbytes for tensor in load_file(target / FILE).values())
    return target


def logits_of(model, folder):
    ids = next(case["ids"] for case in golden(folder)["prompts"].values())
    return forward(model, new_cache(model, 1, len(ids)), ids)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the numbers


def test_int8_values_are_the_nearest_steps():
    weight = random(5, 7)
    found = quantize_int8(weight)
    for row, values, scale in zip(weight.tolist(), found.values.tolist(), found.scales.tolist(), strict=True):
        assert scale == pytest.approx(max(map(abs, row)) / 127)
        assert all(abs(value * scale - x) <= scale * 0.5001 for value, x in zip(values, row, strict=True))
    assert torch.equal(found.dequantize(slice(1, 3)), found.values[1:3].float() * found.scales[1:3, None])


def test_int4_levels_lie_where_the_file_format_says():
    weight = random(3, 64)
    found = quantize_int4(weight)
    assert (found.values.shape, found.scales.shape) == ((3, 32), (3, 2, 2))
    for row in range(3):
        for column in range(64):
            group, place = divmod(column, 32)
            byte = int(found.values[row, group * 16 + place % 16])
            level = byte >> 4 if place >= 16 else byte & 15
            assert int(found.levels()[row, column]) == level
            step, middle = found.scales[row, group].tolist()
            assert float(found.dequantize()[row, column]) == pytest.approx((level - 8) * step + middle, abs=1e-6)
            assert abs((level - 8) * step + middle - float(weight[row, column])) < 0.6 * step + 0.02


@pytest.mark.parametrize("make", [quantize_int8, quantize_int4])
def test_parts_of_the_quantized_are_the_quantized_parts(make):
    weight = random(48, 128)
    whole = make(weight)
    parts = join([make(part) for part in weight.split(16)])
    for field in ("values", "scales"):
        assert torch.equal(getattr(parts, field), getattr(whole, field))
    full = whole.dequantize()
    assert torch.equal(whole.narrow(0, 7, 9).dequantize(), full[7:16])
    assert torch.equal(whole.narrow(1, 32, 64).dequantize(), full[:, 32:96])
    assert whole.shape == (48, 128)


def test_a_cut_group_is_no_int4():
    whole = quantize_int4(random(16, 96))
    assert whole.narrow(1, 16, 32) is None
    assert whole.narrow(1, 32, 16) is None


def test_the_reader_knows_the_size_of_a_group():
    assert stored.GROUP == quantized.GROUP


def test_matrices_that_are_joined_are_quantized_alike():
    """8 rows of wk fit no kernel alone, with wq and wv they do."""
    shapes = {f"layers.0.attention.{name}.weight": (n, 64) for name, n in (("wq", 16), ("wk", 8), ("wv", 8))}
    assert {quantization_of(name, shapes, "int4") for name in shapes} == {"int4"}
    shapes["layers.0.attention.wv.weight"] = (4, 64)
    assert {quantization_of(name, shapes, "int4") for name in shapes} == {None}
    assert {quantization_of(name, shapes, "int8") for name in shapes} == {"int8"}


# ---- what is made of a folder


FOLDERS = ["tiny/gqa", "tiny/ffnmult", "tiny/kv8"]


@needs_kernels
@pytest.mark.sampled(5)
@both
@pytest.mark.parametrize("source", [*FOLDERS, "mp/gqa-mp2", "hf/gqa-v4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_rounding_at_load(source, kind, dtype, tmp_path):
    folder = saved(DATA / source, tmp_path / "saved", kind)
    prompts = DATA / ("tiny/gqa" if source.startswith("mp") else source)
    expected = logits_of(load_model(DATA / source, dtype, quantize=kind), prompts)
    assert torch.equal(logits_of(load_model(folder, dtype, quantize=kind), prompts), expected)


@needs_kernels
@both
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_nothing_is_quantized_when_it_is_loaded(kind, kernels, tmp_path, monkeypatch):
    folder = saved(DATA / "tiny/gqa", tmp_path / "saved", kind)

    def fail(*arguments):
        raise AssertionError("quantized again")

    for name in ("model.quantized.quantize_int8", "model.quantized.int4_levels", "backends.onednn_int.int4_levels"):
        monkeypatch.setattr(f"llama_cli.{name}", fail)
    assert llama_cli.load(folder, kernels=kernels).complete("Hello", GREEDY)[0].token_ids
    with pytest.raises(AssertionError, match="quantized again"):
        llama_cli.load(DATA / "tiny/gqa", quantize=kind, kernels=kernels)


@needs_kernels
@both
def test_it_runs_quantized_without_being_asked(kind, tmp_path):
    folder = saved(DATA / "tiny/bpe1024", tmp_path / "saved", kind)
    session, plain = llama_cli.load(folder), llama_cli.load(DATA / "tiny/bpe1024")
    at_load = llama_cli.load(DATA / "tiny/bpe1024", quantize=kind)
    assert session.info.dtype == at_load.info.dtype == kind
    assert len({each.info.fingerprint for each in (session, plain, at_load)}) == 3
    (found,), (expected,) = (each.complete("Hello", GREEDY) for each in (session, at_load))
    assert found.token_ids == expected.token_ids


@both
def test_elsewhere_it_is_a_model_of_full_weights(kind, tmp_path, monkeypatch, caplog):
    folder = saved(DATA / "tiny/gqa", tmp_path / "saved", kind)
    plain = llama_cli.load(folder, kernels="plain")
    assert plain.info.dtype == "float32"
    assert caplog.text == ""
    other_machine = dataclasses.replace(machine_of(CPU), has_native_int8=False, has_onednn_int=False)
    monkeypatch.setattr("llama_cli.loader.machine_of", lambda device: other_machine)
    other = llama_cli.load(folder)
    assert other.info.dtype == "float32"
    assert f"saved holds {kind} weights, which do not run here as they are" in caplog.text
    (one,), (two,) = (each.complete("Hello", GREEDY) for each in (plain, other))
    assert one.token_ids == two.token_ids


@pytest.mark.sampled(3)
@both
@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_of_ranks_are_those_of_the_full_weights(kind, size, tmp_path):
    """Quantized or not, a rank has the same numbers of every matrix."""
    checkpoint, args = checked(saved(DATA / "tiny/kv8", tmp_path / "saved", kind))
    full = dict(checkpoint.tensors(args))
    n_quantized = 0
    for rank in range(size):

        def part(name, shape, rank=rank):
            bounds = bounds_of(args, Share(rank, size), name, shape)
            return bounds and type(bounds)(*bounds)

        for name, weight in checkpoint.stored(args, part):
            bounds = part(name, tuple(full[name].shape))
            expected = full[name] if bounds is None else full[name].narrow(*bounds[:2], bounds.end - bounds.begin)
            n_quantized += not isinstance(weight, torch.Tensor)
            found = weight if isinstance(weight, torch.Tensor) else weight.dequantize().to(expected.dtype)
            assert torch.equal(found, expected), name
    assert n_quantized > size * 7


@needs_kernels
@both
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_a_share_of_the_model_runs(kind, kernels, tmp_path):
    """Where an int4 part has rows that the kernel does not take, the layer has full weights."""
    checkpoint, args = checked(saved(DATA / "tiny/gqa", tmp_path / "saved", kind))
    for rank in range(2):
        backend = backend_of(torch.bfloat16, quantize=kind, kernels=kernels)
        model = build_model(checkpoint, args, backend, CPU, Share(rank, 2))
        x = random(3, args.dim).bfloat16()
        parts = []
        for name in (f"layers.0.attention.{each}.weight" for each in ("wq", "wk", "wv")):
            shape = weight_shapes(args)[name]
            wanted = bounds_of(args, Share(rank, 2), name, shape)
            parts.append(checkpoint.read(name, shape, wanted, head_dim=args.head_dim))
        expected = x.float() @ torch.cat(parts).float().T
        found = model.layers[0].attention.project(x).float().flatten(1)
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()


@both
@pytest.mark.parametrize("source", ["tiny/gqa", "mp/kv8-mp4"])
def test_what_lies_in_the_files(kind, source, tmp_path):
    args = checked(DATA / source)[1]
    folder = saved(DATA / source, tmp_path / "saved", kind)
    tensors = load_file(folder / FILE)
    assert json.loads((folder / "params.json").read_text())["quantization_args"] == {"scheme": f"llama_cli_{kind}"}
    for name, shape in weight_shapes(args).items():
        stored, scales = tensors.pop(name), tensors.pop(name.removesuffix("weight") + "scales", None)
        if "norm" in name or name.startswith("tok"):
            assert (stored.dtype, tuple(stored.shape), scales) == (torch.bfloat16, shape, None)
        elif kind == "int8" or name == "output.weight":
            assert (stored.dtype, tuple(stored.shape)) == (torch.int8, shape)
            assert (scales.dtype, tuple(scales.shape)) == (torch.float32, shape[:1])
        else:
            assert (stored.dtype, tuple(stored.shape)) == (torch.uint8, (shape[0], shape[1] // 2))
            assert (scales.dtype, tuple(scales.shape)) == (torch.bfloat16, (shape[0], shape[1] // 32, 2))
    assert not tensors


@needs_kernels
@both
def test_what_int4_does_not_fit_stays_as_it_is(kind, tmp_path):
    """80 columns are no groups of 32."""
    params = {"dim": 80, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 48, "multiple_of": 64}
    source = write_meta(tmp_path / "source", random_weights(read_params(params)))
    write_params(source, params)
    folder = saved(source, tmp_path / "saved", kind)
    dtypes = {name: tensor.dtype for name, tensor in load_file(folder / FILE).items()}
    assert dtypes["layers.0.attention.wo.weight"] == {"int8": torch.int8, "int4": torch.bfloat16}[kind]
    assert dtypes["layers.0.feed_forward.w2.weight"] == {"int8": torch.int8, "int4": torch.uint8}[kind]
    models = [load_model(place, torch.bfloat16, 64, quantize=kind) for place in (source, folder)]
    one, two = (forward(model, new_cache(model, 1, 8), [1, 2, 3]) for model in models)
    assert torch.equal(one, two)


@needs_kernels
@both
def test_a_shared_output_matrix_becomes_one_of_its_own(kind, tmp_path):
    weights = random_weights()
    del weights["output.weight"]
    source = write_meta(tmp_path / "source", weights)
    folder = saved(source, tmp_path / "saved", kind)
    assert not open_checkpoint(folder).is_tied
    models = [load_model(place, torch.bfloat16, 64, quantize=kind) for place in (source, folder)]
    one, two = (forward(model, new_cache(model, 1, 8), [1, 2, 3]) for model in models)
    assert torch.equal(one, two)


@both
def test_several_files(kind, tmp_path, monkeypatch):
    source = write_meta(tmp_path / "source")
    one = saved(source, tmp_path / "one", kind)
    monkeypatch.setattr(
        "llama_cli.convert.writer_safetensors.SafetensorsSet.__init__.__kwdefaults__", {"most_bytes": 9000}
    )
    convert(open_folder(source), tmp_path / "many", Target("safetensors", 1, None, kind), Silent())
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    expected, found = (dict(checked(folder)[0].tensors(ARGS)) for folder in (one, tmp_path / "many"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@both
def test_the_dtype_is_that_of_embedding_and_norms(kind, tmp_path):
    tensors = load_file(saved(DATA / "tiny/gqa", tmp_path / "saved", kind, torch.float32) / FILE)
    assert tensors["tok_embeddings.weight"].dtype == tensors["norm.weight"].dtype == torch.float32
    assert tensors["output.scales"].dtype == torch.float32


def test_blocks_make_what_the_whole_makes(tmp_path, monkeypatch):
    whole = load_file(saved(DATA / "tiny/gqa", tmp_path / "whole", "int4") / FILE)
    monkeypatch.setattr(conversion, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(quantized, "BLOCK_VALUES", 1000)
    pieces = load_file(saved(DATA / "tiny/gqa", tmp_path / "pieces", "int4") / FILE)
    assert all(torch.equal(pieces[name], tensor) for name, tensor in whole.items())


@pytest.mark.sampled(3)
@both
@pytest.mark.parametrize("form", ["pth", "safetensors", "hf"])
def test_back_to_full_weights(kind, form, tmp_path):
    folder = saved(DATA / "tiny/gqa", tmp_path / "saved", kind)
    convert(open_folder(folder), tmp_path / "back", Target(form), Silent())
    if form != "hf":
        assert json.loads((tmp_path / "back/params.json").read_text()) == json.loads(
            (DATA / "tiny/gqa/params.json").read_text()
        )
    found, expected = (dict(checked(place)[0].tensors(checked(place)[1])) for place in (tmp_path / "back", folder))
    assert open_checkpoint(tmp_path / "back").quantization is None
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_nested_params_json(tmp_path):
    source = shutil.copytree(DATA / "tiny/gqa", tmp_path / "source")
    params = json.loads((source / "params.json").read_text())
    write_params(source, {"model": params})
    folder = saved(source, tmp_path / "saved", "int8")
    nested = json.loads((folder / "params.json").read_text())
    assert nested == {"model": params | {"quantization_args": {"scheme": "llama_cli_int8"}}}
    assert open_checkpoint(folder).quantization == "int8"


# ---- what cannot be


def test_the_quantized_is_not_quantized_again(tmp_path):
    folder = saved(DATA / "tiny/gqa", tmp_path / "saved", "int8")
    with pytest.raises(UsageError, match="quantized to int8 before"):
        saved(folder, tmp_path / "again", "int4")


@both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_not_quantized(kind, value, tmp_path):
    weights = random_weights(dtype=torch.float32)
    weights["layers.1.feed_forward.w2.weight"][3, 4] = value
    source = write_meta(tmp_path / "source", weights)
    with pytest.raises(
        NumericalError, match=r"layers\.1\.feed_forward\.w2\.weight has values that are NaN or infinite"
    ):
        saved(source, tmp_path / "saved", kind)
    assert not (tmp_path / "saved").exists()


@both
@pytest.mark.parametrize("part", ["weight", "scales"])
def test_a_byte_that_changes_on_the_way_is_found(kind, part, tmp_path, monkeypatch):
    real = conversion._write

    def forgetful(*arguments):
        checksums = real(*arguments)
        (path,) = tmp_path.glob(f".saved.partial/new/{FILE}")
        length = int.from_bytes(path.read_bytes()[:8], "little")
        header = json.loads(path.read_bytes()[8 : 8 + length])
        data = bytearray(path.read_bytes())
        data[8 + length + header[f"layers.1.feed_forward.w2.{part}"]["data_offsets"][0]] ^= 1
        path.write_bytes(data)
        return checksums

    monkeypatch.setattr(conversion, "_write", forgetful)
    with pytest.raises(OutputFailed, match=r"layers\.1\.feed_forward\.w2\.weight reads back otherwise"):
        saved(DATA / "tiny/gqa", tmp_path / "saved", kind)


def spoiled(folder, **changes):
    """The same folder with tensors replaced, or left out where None."""
    tensors = load_file(folder / FILE) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / FILE)


WQ = "layers__0__attention__wq__"


@pytest.mark.parametrize(
    ("kind", "changes", "fragment"),
    [
        ("int8", {WQ + "scales": None}, "layers.0.attention.wq.scales is missing, which layers.0.attention.wq.weight"),
        ("int8", {WQ + "scales": torch.ones(32, 1)}, "wq.scales is of dtype float32 and shape (32, 1), must be"),
        ("int8", {WQ + "scales": torch.ones(32).half()}, "wq.scales is of dtype float16 and shape (32,)"),
        ("int8", {WQ + "weight": torch.ones(32, 32).bfloat16()}, "wq.weight' is of dtype bfloat16, which weights"),
        ("int8", {WQ + "weight": torch.ones(32, 16).byte()}, "wq.weight' is of dtype uint8"),
        ("int8", {WQ + "weight": torch.ones(32).char()}, "must be"),
        ("int8", {WQ + "weight": torch.ones(0, 32).char(), WQ + "scales": torch.ones(0)}, "for (0, 32) of int8"),
        ("int8", {WQ + "weight": torch.ones(32, 16).char()}, "has shape (32, 16), must be (32, 32)"),
        ("int8", {"norm__weight": torch.ones(32).char()}, "'norm.weight' is of dtype int8"),
        ("int8", {"norm__scales": torch.ones(32)}, "'norm.scales' belongs to no quantized matrix"),
        ("int8", {"more__scales": torch.ones(32)}, "'more.scales' belongs to no quantized matrix"),
        ("int8", {"more__weight": torch.ones(3, 3).bfloat16()}, "unexpected: 'more.weight'"),
        ("int8", {"tok_embeddings__weight": torch.ones(48, 32).char()}, "'tok_embeddings.weight' is of dtype int8"),
        ("int8", {"output__weight": None}, "output.weight is missing"),
        ("int4", {WQ + "scales": None}, "wq.scales is missing"),
        ("int4", {WQ + "scales": torch.ones(32, 1, 2)}, "must be bfloat16 and (32, 1, 2)"),
        ("int4", {WQ + "scales": torch.ones(32, 2).bfloat16()}, "must be bfloat16 and (32, 1, 2)"),
        ("int4", {WQ + "weight": torch.ones(32, 8).byte()}, "wq.scales is of dtype bfloat16 and shape (32, 1, 2)"),
        ("int4", {WQ + "weight": torch.ones(32, 24).byte()}, "wq.scales is of dtype bfloat16 and shape (32, 1, 2)"),
        ("int4", {WQ + "weight": torch.ones(32, 32).char()}, "wq.weight' is of dtype int8"),
        ("int4", {"output__weight": torch.ones(48, 16).byte()}, "'output.weight' is of dtype uint8"),
    ],
)  # fmt: skip
def test_what_quantized_files_may_not_be(kind, changes, fragment, tmp_path):
    folder = saved(write_meta(tmp_path / "source"), tmp_path / "saved", kind)
    spoiled(folder, **changes)
    message = refusal(folder).message
    assert fragment in message, message
    assert main(["verify", "-m", str(folder), "--quick", "-q"]) == 3


@both
def test_settings_of_other_weights(kind, tmp_path):
    plain = tmp_path / "plain"
    convert(open_folder(write_meta(tmp_path / "source")), plain, Target("safetensors"), Silent())
    folder = saved(tmp_path / "source", tmp_path / "saved", kind)
    scheme = {"quantization_args": {"scheme": f"llama_cli_{kind}"}}
    write_params(plain, PARAMS | scheme)
    for read in (checked, read_headers):
        assert "is of dtype bfloat16, which weights quantized to" in refusal(plain, read).message
    write_params(folder, PARAMS)
    for read in (checked, read_headers):
        assert "BF16, F16 and F32 are read" in refusal(folder, read).message
    write_params(tmp_path / "source", PARAMS | scheme)
    for read in (checked, read_headers):
        assert (
            f"quantized to {kind}, which lie in consolidated.safetensors" in refusal(tmp_path / "source", read).message
        )
    write_params(folder, PARAMS | scheme | {"lora_args": {"rank": 4}})
    assert "lora_args: this kind of checkpoint is not supported" in refusal(folder).message


def test_headers_that_do_not_lie_in_the_file(tmp_path):
    write_params(tmp_path, PARAMS | {"quantization_args": {"scheme": "llama_cli_int8"}})
    entry = {"dtype": "I8", "shape": [2, 2], "data_offsets": [0, 8]}
    (tmp_path / FILE).write_bytes(raw_safetensors({"output.weight": entry}, bytes(8)))
    assert "disagree" in refusal(tmp_path, read_headers).message


# ---- what commands say


@both
def test_verify(kind, tmp_path, capfd):
    folder = saved(DATA / "tiny/gqa", tmp_path / "saved", kind)
    assert main(["verify", "-m", str(folder), "-q"]) == 0
    tensors = load_file(folder / FILE)
    tensors["layers.0.attention.wq.scales"].flatten()[1] = math.nan
    save_file(tensors, folder / FILE)
    capfd.readouterr()
    verification = Verification(folder)
    verification.check_headers()
    verification.read_everything(lambda n: None)
    (bad,) = [finding for finding in verification.findings if finding.status == "bad"]
    assert bad.detail == "NaN or infinite: layers.0.attention.wq.scales (1 values)"


@both
def test_info_and_models(kind, tmp_path, capfd, monkeypatch):
    (tmp_path / "models").mkdir()
    folder = saved(DATA / "tiny/gqa", tmp_path / "models/saved", kind)
    assert main(["info", "--json", str(folder)]) == 0
    described = json.loads(capfd.readouterr().out)
    assert described["quantization"] == kind
    assert described["stored_parameters"] == described["parameters"]["total"]
    assert {kind, "int8", "bfloat16", "float32"} == set(described["dtypes"])
    assert sum(described["dtypes"].values()) == sum(t.nbytes for t in load_file(folder / FILE).values())
    assert main(["info", str(folder)]) == 0
    assert f"to {kind} by llama-cli convert" in capfd.readouterr().out
    monkeypatch.setenv("LLAMA_CLI_HOME", str(tmp_path / "models"))
    assert main(["models", "--json"]) == 0
    (found,) = [each for each in map(json.loads, capfd.readouterr().out.splitlines()) if each["name"] == "saved"]
    assert (found["parameters"], found["problem"]) == (described["parameters"]["total"], None)


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (["--format", "hf"], "--format hf: quantized weights are stored in safetensors", "leave out --format"),
        (["--format", "pth"], "--format pth: quantized weights are stored in safetensors", "leave out --format"),
        (["--mp", "2"], "--mp 2: only .pth files are split by rank", "leave out --quantize, or --mp"),
    ],
)
def test_usage_errors(flags, message, hint, tmp_path, capfd):
    line = ["convert", str(DATA / "tiny/gqa"), str(tmp_path / "saved"), "--quantize", "int8", *flags]
    assert main(line) == 2
    assert capfd.readouterr().err.splitlines() == [f"llama-cli: error: {message}", f"hint: {hint}"]
    assert not (tmp_path / "saved").exists()


def test_the_command(tmp_path, capfd):
    line = ["convert", str(DATA / "tiny/gqa"), str(tmp_path / "saved"), "--quantize", "int4", "--format", "safetensors"]
    assert main(line) == 0
    assert open_checkpoint(tmp_path / "saved").quantization == "int4"
