"""Meta's quantized formats, small and made here, against arithmetic spelt out value by value."""

import json
import math
import re
import shutil

import pytest
import torch
from helpers.folders import SHARD, checked, random_weights, refusal, shards_of
from helpers.models import DATA
from helpers.progress import Silent

import llama_cli
from llama_cli import Sampling
from llama_cli.checkpoint.params import read_params
from llama_cli.checkpoint.stored.int4 import hadamard, rotate
from llama_cli.checkpoint.verify import Verification
from llama_cli.cli.app import main
from llama_cli.convert.conversion import convert
from llama_cli.convert.outputs import Target
from llama_cli.convert.source import open_folder
from llama_cli.model.weights import weight_shapes

SIZES = {
    "dim": 64, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 512, "multiple_of": 32,
    "ffn_dim_multiplier": 0.7, "norm_eps": 1e-5, "rope_theta": 500000.0, "use_scaled_rope": True,
}  # fmt: skip
ARGS = read_params(SIZES)  # ffn_dim 128, a power of two as Llama 3.2's 8192 is
SCHEME = "int4_weight_int8_dynamic_activation"
QLORA = {"quantization_args": {"scheme": SCHEME, "group_size": 32}, "lora_args": {"rank": 4, "scale": 2.0}}
SPINQUANT = {"quantization_args": {"scheme": SCHEME, "group_size": 32, "spinquant": True}}
GREEDY = Sampling(temperature=0, max_tokens=8, ignore_eos=True)


def write(folder, params, *shards):
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    shutil.copy(DATA / "tokenizer/bytes256.model", folder / "tokenizer.model")
    for rank, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    return folder


def int4_tensors(*, adapters, zeros=False):
    """Random tensors in the layout of Meta's int4 files."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    found = {}
    for name, shape in weight_shapes(ARGS).items():
        base = name.removesuffix(".weight")
        if "norm" in name:
            found[name] = (1 + 0.1 * normal(*shape)).to(torch.bfloat16)
        elif base in ("tok_embeddings", "output"):
            found[name] = torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)
            found[f"{base}.scales"] = normal(shape[0], 1).abs() / 100
        else:
            n_out, n_in = shape
            found[name] = torch.randint(-8, 8, shape, dtype=torch.int8, generator=generator)
            found[f"{base}.scales"] = normal(n_out, n_in // 32).abs() / 50
            if zeros:
                found[f"{base}.zeros"] = torch.randint(-2, 3, (n_out, n_in // 32), generator=generator).float()
            if adapters:
                found[f"{base}.adaptor.A.weight"] = (0.1 * normal(4, n_in)).to(torch.bfloat16)
                found[f"{base}.adaptor.B.weight"] = (0.1 * normal(n_out, 4)).to(torch.bfloat16)
    return found


def int4_output(tensors, base, x, *, lora_scale=None, rotated=False):
    """What a layer gives for a vector, in plain Python floats, as Meta's modules compute it."""
    weight, scales = tensors[f"{base}.weight"].tolist(), tensors[f"{base}.scales"].tolist()
    zeros = tensors.get(f"{base}.zeros", torch.zeros(len(scales), len(scales[0]))).tolist()
    if rotated:  # H[i][j] = (-1)^(ones that i and j share)
        n = len(x)
        x = [sum((-1) ** (i & j).bit_count() * x[j] for j in range(n)) / math.sqrt(n) for i in range(n)]
    out = []
    for row, of_row, middle in zip(weight, scales, zeros, strict=True):
        group = len(row) // len(of_row)
        out.append(
            sum((q - middle[k // group]) * of_row[k // group] * v for k, (q, v) in enumerate(zip(row, x, strict=True)))
        )
    if lora_scale is not None:
        first, second = (tensors[f"{base}.adaptor.{part}.weight"].tolist() for part in "AB")
        inner = [sum(a * v for a, v in zip(row, x, strict=True)) for row in first]
        out = [
            y + lora_scale * sum(b * i for b, i in zip(row, inner, strict=True))
            for y, row in zip(out, second, strict=True)
        ]
    return torch.tensor(out)


LAYERS = ["layers.0.attention.wq", "layers.1.attention.wo", "layers.2.feed_forward.w1", "layers.3.feed_forward.w2"]


@pytest.mark.parametrize("base", [*LAYERS, "output"])
@pytest.mark.parametrize(
    ("extra", "options", "zeros"),
    [
        (QLORA, {"lora_scale": 2.0}, False),
        (SPINQUANT, {"rotated": True}, False),
        (SPINQUANT, {"rotated": True}, True),
        ({"quantization_args": {"scheme": SCHEME, "group_size": 32}}, {"rotated": True}, False),
        ({"quantization_args": SPINQUANT["quantization_args"] | {"spinquant": False}}, {}, False),
    ],
    ids=["QLoRA", "SpinQuant", "with zeros", "SpinQuant unsaid", "neither"],
)
def test_int4_layers_give_what_metas_give(tmp_path, base, extra, options, zeros):
    """A Hadamard left out, or the wrong way, adapters or zeros left out, groups of another size: all far off."""
    tensors = int4_tensors(adapters="lora_args" in extra, zeros=zeros)
    checkpoint, args = checked(write(tmp_path / "model", SIZES | extra, tensors))
    weight = dict(checkpoint.tensors(args))[f"{base}.weight"]
    assert weight.dtype == torch.bfloat16
    x = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(1))
    if base == "output" or not base.endswith("w2"):
        options = {name: value for name, value in options.items() if name != "rotated" and base != "output"}
    expected = int4_output(tensors, base, x.tolist(), **options)
    assert (weight.float() @ x - expected).abs().max() < 0.01 * expected.abs().max()


def test_embeddings_and_norms_of_int4_files(tmp_path):
    tensors = int4_tensors(adapters=False)
    tensors["tok_embeddings.scales"] = tensors["tok_embeddings.scales"][:, 0].contiguous()  # (V,) as well as (V, 1)
    checkpoint, args = checked(write(tmp_path / "model", SIZES | SPINQUANT, tensors))
    weights = dict(checkpoint.tensors(args))
    expected = tensors["tok_embeddings.weight"].double() * tensors["tok_embeddings.scales"].double()[:, None]
    assert torch.equal(weights["tok_embeddings.weight"], expected.float().to(torch.bfloat16))
    assert torch.equal(weights["norm.weight"], tensors["norm.weight"])
    assert not checkpoint.is_tied
    assert args.max_seq_len == 8192


def test_turning_is_sylvesters_matrix():
    for n in (1, 2, 8, 32, 128):
        spelt = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(n)] for i in range(n)]) / math.sqrt(n)
        assert torch.allclose(hadamard(n), spelt)
        weight = torch.randn(5, n, generator=torch.Generator().manual_seed(n))
        assert torch.allclose(rotate(weight), weight @ spelt, atol=1e-5)


def plain_twin(folder, tmp_path, params):
    """The same model with its weights stored in bfloat16."""
    checkpoint, args = checked(folder)
    return write(tmp_path / "twin", params, dict(checkpoint.tensors(args)))


def check_it_runs(folder, tmp_path, capfd):
    """It answers as its twin does and is sound; what `info` says of it, and the files that `verify` names."""
    (answer,) = llama_cli.load(folder).complete("Hello", GREEDY)
    (twin,) = llama_cli.load(plain_twin(folder, tmp_path, SIZES)).complete("Hello", GREEDY)
    assert answer.token_ids == twin.token_ids
    verification = Verification(folder)
    verification.check_headers()
    verification.read_everything(lambda _: None)
    assert verification.is_sound, verification.findings
    assert main(["info", "--json", str(folder)]) == 0
    described = json.loads(capfd.readouterr().out)
    assert described["stored_parameters"] == described["parameters"]["total"]
    return described, {finding.file for finding in verification.findings}


@pytest.mark.parametrize(("extra", "adapters"), [(QLORA, True), (SPINQUANT, False)], ids=["QLoRA", "SpinQuant"])
def test_int4_folders_run(tmp_path, extra, adapters, capfd):
    folder = write(tmp_path / "Llama3.2-1B", SIZES | extra, int4_tensors(adapters=adapters))
    described, _ = check_it_runs(folder, tmp_path, capfd)
    assert described["dtypes"]["int8"] == sum(math.prod(s) for n, s in weight_shapes(ARGS).items() if "norm" not in n)
    assert described["context"] == 8192
    assert not described["tied"]


@pytest.mark.parametrize("form", ["pth", "safetensors", "hf"])
@pytest.mark.parametrize("extra", [QLORA, SPINQUANT], ids=["QLoRA", "SpinQuant"])
def test_int4_folders_become_plain_ones(extra, form, tmp_path):
    """Settings that speak of few bits would have the new files read as such; the context stays Meta's."""
    folder = write(tmp_path / "model", SIZES | extra, int4_tensors(adapters=extra is QLORA))
    convert(open_folder(folder), tmp_path / "there", Target(form), Silent())
    if form != "hf":
        assert json.loads((tmp_path / "there/params.json").read_text()) == SIZES | {"max_seq_len": 8192}
    (found, args), (expected, _) = checked(tmp_path / "there"), checked(folder)
    assert args.max_seq_len == 8192
    weights = dict(found.tensors(args))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.tensors(ARGS))


def test_int4_folders_can_be_rounded_anew(tmp_path):
    folder = write(tmp_path / "model", SIZES | QLORA, int4_tensors(adapters=True))
    convert(open_folder(folder), tmp_path / "there", Target("safetensors", quantization="int8"), Silent())
    params = json.loads((tmp_path / "there/params.json").read_text())
    assert params == SIZES | {"max_seq_len": 8192, "quantization_args": {"scheme": "llama_cli_int8"}}
    (found, args), (expected, _) = checked(tmp_path / "there"), checked(folder)
    assert found.quantization == "int8"
    for (name, tensor), (_, full) in zip(found.tensors(args), expected.tensors(ARGS), strict=True):
        assert (tensor.float() - full.float()).abs().max() <= full.float().abs().max() / 100, name


def changed(extra, **tensors):
    """A QLoRA file with tensors replaced, or left out where None."""
    found = int4_tensors(adapters=True) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


WQ = "layers__0__attention__wq__"


@pytest.mark.parametrize(
    ("extra", "tensors", "fragment"),
    [
        (QLORA, {WQ + "scales": None}, r"wq\.scales is missing"),
        (QLORA, {WQ + "scales": torch.ones(64, 1)}, r"wq\.scales has shape \(64, 1\), must be \(64, 2\)"),
        (QLORA, {WQ + "adaptor__B__weight": None}, r"adaptor\.B\.weight is missing"),
        (QLORA, {WQ + "adaptor__A__weight": torch.ones(4, 32)}, r"adaptor\.A\.weight has shape"),
        (QLORA, {WQ + "adaptor__A__weight": torch.ones(())}, r"adaptor\.A\.weight has shape"),
        (SPINQUANT, {}, "params.json has no lora_args"),
        (QLORA, {WQ + "weight": torch.ones(64, 64)}, "of dtype float32; it must be int8"),
        (QLORA, {"norm__weight": torch.ones(64, dtype=torch.int8)}, "'norm.weight' is of dtype int8"),
        (QLORA, {WQ + "scales": torch.ones(64, 2, dtype=torch.int8)}, "scales' is of dtype int8"),
        (QLORA, {WQ + "weight": torch.ones(64, 64, dtype=torch.float8_e4m3fn)}, "of dtype float8_e4m3fn"),
        (QLORA, {"more__weight": torch.ones(3, 3)}, "unexpected: 'more.weight'"),
        (QLORA | {"lora_args": {"rank": 4}}, {}, "lora_args: scale"),
        ({"quantization_args": {"scheme": SCHEME}, "lora_args": QLORA["lora_args"]}, {}, "group_size"),
        ({"quantization_args": {"scheme": SCHEME, "group_size": 48}}, {}, "scales|columns"),
        ({"quantization_args": {"scheme": "int3"}}, {}, "this kind of checkpoint is not supported"),
        ({}, {}, "of dtype int8; bfloat16, float16 and float32 are read"),
    ],
)  # fmt: skip
def test_what_int4_files_may_not_be(tmp_path, extra, tensors, fragment):
    folder = write(tmp_path / "model", SIZES | extra, changed(extra, **tensors))
    message = refusal(folder).message
    assert re.search(fragment, message), message


# ---- fp8


def fp8_shards(n_shards):
    """What Meta's file of the 405B is: feed-forward matrices but the first's and last's in e4m3, scales beside."""
    whole = random_weights(ARGS)
    shards, scales = shards_of(whole, n_shards) if n_shards > 1 else [dict(whole)], []
    for rank, shard in enumerate(shards):
        of_shard = {}
        for layer in range(1, ARGS.n_layers - 1):
            for key in ("w1", "w3", "w2"):
                name = f"layers.{layer}.feed_forward.{key}.weight"
                scale = shard[name].float().abs().amax(1) / 448
                shard[name] = (shard[name].float() / scale[:, None]).to(torch.float8_e4m3fn)
                of_shard[f"{layer}_feed_forward.{key}_{rank}"] = scale
        scales.append(of_shard)
    return whole, shards, scales


def write_fp8(folder, n_shards):
    whole, shards, scales = fp8_shards(n_shards)
    write(folder, SIZES, *shards)
    for rank, of_shard in enumerate(scales):
        torch.save(of_shard, folder / f"fp8_scales_{rank}.pt")
    return whole, shards, scales


@pytest.mark.parametrize("n_shards", [1, 2, 4])
def test_fp8_matrices_are_weight_times_scale(tmp_path, n_shards):
    whole, shards, scales = write_fp8(tmp_path / "model", n_shards)
    checkpoint, args = checked(tmp_path / "model")
    weights = dict(checkpoint.tensors(args))
    assert list(weights) == list(whole)
    for name, weight in weights.items():
        assert weight.dtype == torch.bfloat16
        if shards[0][name].dtype == torch.bfloat16:
            assert torch.equal(weight, whole[name])
        else:  # three bits behind the point, and bfloat16's seven
            assert (weight.float() - whole[name].float()).abs().max() <= whole[name].float().abs().max() / 14
    name, rank = "layers.2.feed_forward.w2.weight", n_shards - 1
    stored, scale = shards[rank][name].float().tolist(), scales[rank][f"2_feed_forward.w2_{rank}"].tolist()
    spelt = [[value * scale[row] for value in values] for row, values in enumerate(stored)]
    assert torch.equal(weights[name].chunk(n_shards, 1)[rank], torch.tensor(spelt).to(torch.bfloat16))


def test_fp8_folders_run(tmp_path, capfd):
    folder = tmp_path / "Llama3.1-405B"
    write_fp8(folder, 4)
    described, files = check_it_runs(folder, tmp_path, capfd)
    assert {f"fp8_scales_{rank}.pt" for rank in range(4)} <= files
    assert described["dtypes"]["float8_e4m3fn"] == 2 * 3 * ARGS.dim * ARGS.ffn_dim


def test_fp8_folders_become_plain_ones(tmp_path):
    folder = tmp_path / "model"
    write_fp8(folder, 2)
    convert(open_folder(folder), tmp_path / "there", Target(), Silent())
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [SHARD, "params.json", "tokenizer.model"]
    weights = dict(checked(tmp_path / "there")[0].tensors(ARGS))
    assert all(torch.equal(weights[name], tensor) for name, tensor in checked(folder)[0].tensors(ARGS))


def spoil(folder, rank, name, tensor):
    path = folder / (SHARD if name.startswith(("layers", "norm")) else f"fp8_scales_{rank}.pt")
    found = torch.load(path, weights_only=True) | {name: tensor}
    torch.save({key: value for key, value in found.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("name", "tensor", "fragment"),
    [
        ("1_feed_forward.w3_0", None, "has no 1_feed_forward.w3_0"),
        ("1_feed_forward.w3_0", torch.ones(3), "1_feed_forward.w3_0 has shape (3,)"),
        ("1_feed_forward.w3_0", torch.ones(64, dtype=torch.int8), "of dtype int8"),
        ("layers.1.attention.wq.weight", torch.ones(32, 64, dtype=torch.float8_e4m3fn), "of dtype float8_e4m3fn"),
        ("layers.1.feed_forward.w1.weight", torch.ones(64, 64, dtype=torch.float8_e5m2), "of dtype float8_e5m2"),
        ("layers.1.feed_forward.w1.weight", torch.ones(64, 64, dtype=torch.int8), "of dtype int8"),
    ],
)
def test_what_fp8_files_may_not_be(tmp_path, name, tensor, fragment):
    write_fp8(tmp_path / "model", 2)
    spoil(tmp_path / "model", 0, name, tensor)
    assert fragment in refusal(tmp_path / "model").message


def test_fp8_scales_that_are_not_there(tmp_path):
    folder = tmp_path / "model"
    write_fp8(folder, 2)
    (folder / "fp8_scales_1.pt").unlink()
    assert "fp8_scales_1.pt is missing" in refusal(folder).message
    (folder / "fp8_scales_0.pt").unlink()
    assert "of dtype float8_e4m3fn" in refusal(folder).message
