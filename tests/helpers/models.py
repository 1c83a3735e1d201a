"""What several test modules share: where the goldens lie, and small checkpoints made on the spot."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llama_cli.backends.backend import Backend, choose_backend, machine_of
from llama_cli.backends.dtype import DTYPES
from llama_cli.backends.offers import DTYPES as NAMES
from llama_cli.backends.offers import Wanted
from llama_cli.backends.place import MakeLinear, fuse
from llama_cli.checkpoint import Checkpoint, open_checkpoint
from llama_cli.checkpoint.build import build_model
from llama_cli.checkpoint.params import read_params
from llama_cli.model.args import ModelArgs
from llama_cli.model.batch import Batch
from llama_cli.model.cache import Cache
from llama_cli.model.llama import Llama
from llama_cli.model.span import Span
from llama_cli.options import Kernels, Quantization

DATA = Path(__file__).parents[1] / "data"

# Further goldens that are not committed: a folder named by this variable, or skipped.
KIT = Path(os.environ["LLAMA_CLI_KIT"]) if os.environ.get("LLAMA_CLI_KIT") else None
needs_kit = pytest.mark.skipif(KIT is None, reason="LLAMA_CLI_KIT names no kit of further goldens")

TINY = ["tiny/gqa", "tiny/mha", "tiny/ffnmult", "tiny/scaled", "tiny/kv8", "tiny/bpe1024"]


def empty_home(folder: Path) -> dict[str, str]:
    """Variables of a user who has no files yet but compiled kernels: these take many seconds to make anew."""
    kernels = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "XDG_CACHE_HOME": kernels}


def kit_folder(name: str) -> Path:
    assert KIT is not None
    return KIT / name


def golden(folder: Path) -> dict:
    return json.loads((folder / "golden.json").read_text())


def golden_tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "golden.safetensors")


def open_model(folder: Path) -> tuple[Checkpoint, ModelArgs]:
    """A checked folder and its shape."""
    checkpoint = open_checkpoint(folder)
    args = read_params(checkpoint.params, vocab_size=checkpoint.vocab_size)
    checkpoint.check(args)
    return checkpoint, args


def backend_of(
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    quantize: Quantization | None = None,
    kernels: Kernels = "auto",
) -> Backend:
    """How a model runs here in a dtype."""
    name = next(NAMES[name] for name, each in DTYPES.items() if each == dtype)
    return choose_backend(Wanted(name, device, quantize, kernels), machine_of(torch.device(device)))


def load_model(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    positions: int = 2048,
    *,
    quantize: Quantization | None = None,
    kernels: Kernels = "plain",
) -> Llama:
    """The bare transformer of a folder."""
    checkpoint, args = open_model(folder)
    cpu = torch.device("cpu")
    model = build_model(checkpoint, args, backend_of(dtype, quantize=quantize, kernels=kernels), cpu)
    model.prepare_rope(positions)
    return model


def fused_model(folder: Path, make: MakeLinear) -> Llama:
    """The same of joined layers of one kind."""
    model = load_model(folder)
    for block in model.layers:
        weights = {name: weight for name, weight in block.named_parameters() if "norm" not in name}
        fuse(block, weights, lambda weight, role: make(weight))
    return model


def new_cache(model: Llama, n_slots: int, length: int) -> Cache:
    return model.make_cache(n_slots, length)


@torch.inference_mode()
def forward(model: Llama, cache: Cache, tokens: list[int], start: int = 0, slot: int = 0) -> Tensor:
    """Logits (T, V) of `tokens` at positions start, start + 1, ..."""
    return model(Batch.of([Span(slot, start, len(tokens), len(tokens))], tokens, model.rope, cache), cache)


def random_model(args: ModelArgs, seed: int = 0, positions: int = 256) -> Llama:
    """A model of random weights whose logits spread enough to choose by."""
    generator = torch.Generator().manual_seed(seed)
    model = Llama(args)
    for weight in model.parameters():
        weight.requires_grad_(False)
        if weight.dim() == 2:
            weight.normal_(0, 1.5 / weight.shape[1] ** 0.5, generator=generator)
    model.prepare_rope(positions)
    return model.eval()


SMALL = ModelArgs(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=96, multiple_of=16, ffn_dim_multiplier=None, max_seq_len=256
)
