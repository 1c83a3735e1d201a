"""How Meta's files divide each tensor among the ranks of a model-parallel group, as fairscale does."""

from __future__ import annotations

from ..errors import UsageError
from ..model.args import ModelArgs
from ..model.weights import spec_of

MOST_SHARDS = 99  # consolidated.00 to .98: two digits


def split_dim(name: str, embedding_dim: int) -> int | None:
    """The dimension on which a tensor is split; None for norms, which every shard has whole.

    `embedding_dim` is 0 (rows of the vocabulary) for Llama 3, 1 for Llama 2 and Code Llama.
    """
    spec = spec_of(name)
    assert spec is not None, f"{name} is one of Meta's names"
    return embedding_dim if spec.role == "embedding" else spec.split


def check_split(args: ModelArgs, n_shards: int, embedding_dim: int) -> None:
    """UsageError that lists the possible numbers of shards if `n_shards` is not among them."""
    sizes = {"n_heads": args.n_heads, "n_kv_heads": args.n_kv_heads, "hidden_dim": args.ffn_dim}
    sizes |= {"vocab_size": args.vocab_size} | ({"dim": args.dim} if embedding_dim == 1 else {})
    uneven = [f"{name} {size}" for name, size in sizes.items() if size % n_shards]
    if uneven:
        possible = [n for n in range(1, MOST_SHARDS + 1) if all(size % n == 0 for size in sizes.values())]
        raise UsageError(
            f"--mp {n_shards}: cannot be divided so: {', '.join(uneven)}",
            f"--mp with one of {', '.join(map(str, possible))}"
            if possible != [1]
            else "leave --mp out: one file is all",
        )
