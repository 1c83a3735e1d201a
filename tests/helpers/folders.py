"""Tiny model folders, written on the spot, and what every refusal has in common."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llama_cli.checkpoint import Checkpoint, open_checkpoint
from llama_cli.checkpoint.params import read_params
from llama_cli.errors import ModelRejected
from llama_cli.model.args import ModelArgs
from llama_cli.model.weights import weight_shapes

PARAMS = {"dim": 32, "n_layers": 2, "n_heads": 8, "n_kv_heads": 8, "vocab_size": 48, "multiple_of": 16}
ARGS = read_params(PARAMS)
SHARD = "consolidated.00.pth"

Weights = dict[str, Tensor]
Entries = list[tuple[str, bytes]]


def random_weights(args: ModelArgs = ARGS, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in weight_shapes(args).items()}


def split_dim(name: str, *, llama2: bool = False) -> int | None:
    """fairscale's table, which the program does without."""
    if "norm" in name:
        return None
    return 1 if name.endswith(("wo.weight", "w2.weight")) or (llama2 and name.startswith("tok")) else 0


def shards_of(weights: Weights, n_shards: int, *, llama2: bool = False) -> list[Weights]:
    dims = {name: split_dim(name, llama2=llama2) for name in weights}
    return [
        {
            name: tensor if dims[name] is None else tensor.chunk(n_shards, dims[name])[rank].clone()
            for name, tensor in weights.items()
        }
        for rank in range(n_shards)
    ]


def write_params(folder: Path, params: dict | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(PARAMS if params is None else params))


def write_meta(folder: Path, weights: Weights | None = None, n_shards: int = 1, *, llama2: bool = False) -> Path:
    """A folder of Meta's kind; returns it."""
    write_params(folder)
    weights = random_weights() if weights is None else weights
    shards = [weights] if n_shards == 1 else shards_of(weights, n_shards, llama2=llama2)
    for rank, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    return folder


HF_NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": ARGS.dim,
    "intermediate_size": ARGS.ffn_dim,
    "num_hidden_layers": ARGS.n_layers,
    "num_attention_heads": ARGS.n_heads,
    "num_key_value_heads": ARGS.n_kv_heads,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "vocab_size": ARGS.vocab_size,
}


def to_hugging_face(weights: Weights, head_dim: int = ARGS.head_dim) -> Weights:
    """The slow obvious way: rows of a head one by one, the even ones first."""
    renamed = {}
    for name, tensor in weights.items():
        for ours, theirs in HF_NAMES.items():
            name = name.replace(ours + ".", theirs + ".")
        name = {"tok_embeddings.weight": "embed_tokens.weight", "output.weight": "lm_head.weight"}.get(name, name)
        name = name if name == "lm_head.weight" else "model." + name
        if "q_proj" in name or "k_proj" in name:
            order = [
                head * head_dim + row
                for head in range(len(tensor) // head_dim)
                for row in [*range(0, head_dim, 2), *range(1, head_dim, 2)]
            ]
            tensor = tensor[order]
        renamed[name] = tensor.contiguous()
    return renamed


def write_hf(folder: Path, weights: Weights | None = None, n_files: int = 1, **config: object) -> Path:
    """A Hugging Face folder; `config` overrides keys of config.json, None removes one."""
    folder.mkdir(parents=True, exist_ok=True)
    merged = {key: value for key, value in (CONFIG | config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(merged))
    theirs = to_hugging_face(random_weights() if weights is None else weights)
    write_safetensors(folder, theirs, "model", n_files)
    return folder


def write_safetensors(folder: Path, weights: Weights, stem: str, n_files: int = 1) -> None:
    if n_files == 1:
        save_file(weights, folder / f"{stem}.safetensors")
        return
    weight_map = {}
    for number in range(n_files):
        file = f"{stem}-{number + 1:05d}-of-{n_files:05d}.safetensors"
        names = list(weights)[number::n_files]
        save_file({name: weights[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def read_entries(path: Path) -> Entries:
    """The entries of a .pth without their root folder."""
    with zipfile.ZipFile(path) as archive:
        return [(name.split("/", 1)[1], archive.read(name)) for name in archive.namelist()]


def write_entries(path: Path, entries: Entries, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr("archive/" + name, data)


def edit_entries(folder: Path, edit: Callable[[dict[str, bytes]], None]) -> None:
    entries = dict(read_entries(folder / SHARD))
    edit(entries)
    write_entries(folder / SHARD, list(entries.items()))


def raw_safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def checked(folder: Path | str, **options: bool) -> tuple[Checkpoint, ModelArgs]:
    """What load() does before it asks for tensors."""
    checkpoint = open_checkpoint(folder, **options)
    args = read_params(checkpoint.params, source=checkpoint.params_name, vocab_size=checkpoint.vocab_size)
    checkpoint.check(args)
    return checkpoint, args


def read_all(folder: Path | str, **options: bool) -> Weights:
    checkpoint, args = checked(folder, **options)
    weights = dict(checkpoint.tensors(args))
    shapes = weight_shapes(args)
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {n: shapes[n] for n in weights}
    return weights


def assert_same(found: Weights, expected: Weights) -> None:
    """Bit for bit, NaN included."""
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor.contiguous().view(torch.uint8), expected[name].contiguous().view(torch.uint8)), name


def listing(folder: Path) -> dict[str, tuple]:
    """Everything about the files of a folder that a reader could change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def refusal(folder: Path, action: Callable[[Path], object] = checked, *, needs_hint: bool = True) -> ModelRejected:
    """The one kind of error a bad folder may cause, with what holds for every one of them."""
    before = listing(folder)
    with pytest.raises(ModelRejected) as caught:
        action(folder)
    error = caught.value
    assert error.exit_code == 3
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None, "no foreign error is shown"
    assert error.hint or not needs_hint, error.message
    for text in (error.message, error.hint or "-"):
        assert text.isprintable(), repr(text)
        assert len(text) < 1000
        assert "weights_only" not in text
    assert listing(folder) == before
    return error
