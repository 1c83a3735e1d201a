"""What can be wrong with one tensor of a good .pth."""

from collections.abc import Callable
from pathlib import Path

import torch


def spoil(folder: Path, rank: int, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / f"consolidated.{rank:02d}.pth"
    weights = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    change(weights)
    torch.save(weights, path)


CHANGES = {
    "missing": lambda weights, name: weights.pop(name),
    "renamed": lambda weights, name: weights.update({"x." + name: weights.pop(name)}),
    "transposed": lambda weights, name: weights.update({name: weights[name][:, :7].T.contiguous()}),
    "one row more": lambda weights, name: weights.update({name: torch.cat([weights[name], weights[name][:1]])}),
    "one row less": lambda weights, name: weights.update({name: weights[name][:-1].clone()}),
    "flat": lambda weights, name: weights.update({name: weights[name].flatten()}),
    "scalar": lambda weights, name: weights.update({name: torch.tensor(1.0, dtype=torch.bfloat16)}),
    "no rows": lambda weights, name: weights.update({name: weights[name][:0].clone()}),
    "other dtype": lambda weights, name: weights.update({name: weights[name].double()}),
}
KINDS = ["tok_embeddings.weight", "norm.weight", "output.weight"] + [
    f"layers.1.{part}.weight"
    for part in ("attention.wq", "attention.wk", "attention.wo", "feed_forward.w1", "feed_forward.w2", "ffn_norm")
]
