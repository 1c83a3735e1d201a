"""Tells LLaMA 1 from Llama 2: the files of both have the same names, and 7B and 13B the same shapes."""

from __future__ import annotations

import re

CONTEXT = 2048

# (dim, n_layers, n_heads) of 7B, 13B, 30B and 65B. In none of them do heads share keys and values.
SHAPES = {(4096, 32, 32), (5120, 40, 40), (6656, 60, 52), (8192, 80, 64)}
ONLY_LLAMA_1 = {(6656, 60, 52), (8192, 80, 64)}  # no Llama 2 has these; its 70B shares keys and values
EPS = 1e-6  # of 7B, 13B and 30B; Llama 2 has 1e-5

# The clash: early downloads of Llama 2 7B-chat have LLaMA 1's norm_eps by mistake. What the folder is called decides.
LLAMA_2_7B = (4096, 32, 32)
SAYS_LLAMA_2 = re.compile(r"llama[-_ .]?(v?2(?!\d)|.*\bchat)|(?<![a-z\d])7b[-_]chat")
SAYS_LLAMA_1 = re.compile(r"llama[-_ .]?v?1(?!\d)|(?<![a-z])llama[-_ ]?7b|^7b$")


def is_llama_1(shape: tuple[int, int, int], n_kv_heads: int, norm_eps: float, name: str) -> bool:
    """Whether a model of Llama 2's vocabulary without `rope_theta` is LLaMA 1; `shape` is (dim, n_layers, n_heads)."""
    if shape not in SHAPES or n_kv_heads != shape[2]:
        return False
    if shape == LLAMA_2_7B and SAYS_LLAMA_2.search(name.casefold()):
        return False
    return shape in ONLY_LLAMA_1 or norm_eps == EPS


def doubt_about_7b(name: str) -> str | None:
    """What to say of a 7B with LLaMA 1's norm_eps in a folder of that name; None where the name leaves no doubt."""
    said = name.casefold()
    if SAYS_LLAMA_2.search(said):
        return (
            "norm_eps is 1e-06: early downloads of Llama 2 7B-chat say so and are wrong, it is 1e-05; mend params.json"
        )
    if SAYS_LLAMA_1.search(said):
        return None
    return (
        f"norm_eps is 1e-06: taken for LLaMA 1 7B, with a context of {CONTEXT:,} tokens; an early download of Llama 2"
        " 7B-chat says so too and is wrong: then mend params.json, it is 1e-05"
    )
