"""Writes a checkpoint of random weights in Meta's layout: the shape of a real model, for measuring speed.

python benchmarks/random_checkpoint.py FOLDER [--shape 1b|8b]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from llama_cli.checkpoint.params import read_params
from llama_cli.model.weights import weight_shapes

SHAPES = {
    "1b": {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "multiple_of": 256, "ffn_dim_multiplier": 1.5},
    "8b": {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "multiple_of": 1024, "ffn_dim_multiplier": 1.3},
}
COMMON = {"vocab_size": 128256, "norm_eps": 1e-5, "rope_theta": 500000.0, "use_scaled_rope": True}


def write_random_checkpoint(folder: Path, shape: str, tokenizer: Path) -> None:
    """params.json, consolidated.00.pth in bfloat16 and a copy of `tokenizer`; 1b shares embedding and output."""
    folder.mkdir(parents=True)
    params = SHAPES[shape] | COMMON
    (folder / "params.json").write_text(json.dumps(params))
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, size in weight_shapes(read_params(params)).items():
        if name == "output.weight" and shape == "1b":
            weights[name] = weights["tok_embeddings.weight"]
        elif len(size) == 1:
            weights[name] = torch.ones(size, dtype=torch.bfloat16)
        else:
            weights[name] = torch.empty(size, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
    torch.save(weights, folder / "consolidated.00.pth")
    shutil.copy(tokenizer, folder / "tokenizer.model")


def llama3_tokenizer() -> Path:
    """Meta's Llama 3 tokenizer.model, as the package llama-models carries it."""
    from importlib.util import find_spec

    found = find_spec("llama_models")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps llama-models==0.3.0   (for its tokenizer.model)")
    return Path(found.submodule_search_locations[0]) / "llama3" / "tokenizer.model"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    arguments = parser.parse_args()
    write_random_checkpoint(arguments.folder, arguments.shape, llama3_tokenizer())
