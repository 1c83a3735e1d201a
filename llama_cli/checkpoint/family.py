"""Which of Meta's families a configuration belongs to. For people to read: nothing is decided by it."""

from __future__ import annotations

from ..model.args import ModelArgs
from . import llama1
from .params import FACTOR_32_SHAPES

# (dim, n_layers) of the models that Meta published.
SHAPES = {
    (2048, 16), (3072, 28), (4096, 32), (5120, 40), (6656, 60), (8192, 48), (8192, 80), (16384, 126),
}  # fmt: skip
LLAMA_3_VOCAB = 128256
LLAMA_2_VOCABS = range(32000, 32065)  # people add some tokens of their own
CODE_LLAMA_VOCAB = 32016


def family_of(args: ModelArgs, name: str = "") -> str | None:
    """`Llama 3.1`, or None for a shape that is not Meta's. `name` tells apart what the numbers do not."""
    if (args.dim, args.n_layers) not in SHAPES:
        return None
    said = name.casefold()
    if args.vocab_size == LLAMA_3_VOCAB:
        if "guard" in said:
            return "Llama Guard 2" if "guard-2" in said else "Llama Guard 3"
        if args.rope_scaling is None:
            return "Llama 3"
        if (args.dim, args.n_layers, args.n_heads, args.n_kv_heads) in FACTOR_32_SHAPES:
            return "Llama 3.2"
        return "Llama 3.3" if "3.3" in said else "Llama 3.1"
    if args.vocab_size in LLAMA_2_VOCABS:
        is_code = (
            args.vocab_size == CODE_LLAMA_VOCAB or args.rope_theta == 1e6 or (args.dim, args.n_layers) == (8192, 48)
        )
        if is_code or "codellama" in said:
            return "Code Llama"
        return "LLaMA 1" if _is_llama_1(args, name) else "Llama 2"
    return None


def _is_llama_1(args: ModelArgs, name: str) -> bool:
    return llama1.is_llama_1((args.dim, args.n_layers, args.n_heads), args.n_kv_heads, args.norm_eps, name)


def doubt_about(args: ModelArgs, name: str = "") -> str | None:
    """What is known to be wrong with files of such a configuration, or None. `name` is what the folder is called."""
    if (args.dim, args.n_layers, args.vocab_size, args.norm_eps) == (4096, 32, 32000, llama1.EPS):
        return llama1.doubt_about_7b(name)
    return None


def format_count(n_params: int) -> str:
    """`8.03B`, `163M`, `1.4M`, `260K`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if n_params >= size:
            scaled = n_params / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"
    return str(n_params)
