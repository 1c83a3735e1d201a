"""Measures this program and its peers on one random checkpoint, taking turns, and prints ratios.

    python benchmarks/compare.py [--shape 1b|8b] [--rows 1] [--rounds 3] [--peers ours,ours-int8,transformers]

Each turn is a process of its own, which loads the model, warms up and measures a prompt and an answer of --rows rows,
on the NVIDIA GPU if there is one. A peer that is not installed is left out and named. The last line is JSON with every
figure.

    ours, ours-int8, ours-int4               llama-cli bench
    ours-plain, ours-compile                 with torch's F.linear; with --compile
    transformers                             pip install transformers
    meta                                     Meta's own model.py: pip install --no-deps llama-models==0.3.0
    gpt-fast, gpt-fast-int8, gpt-fast-int4   a clone of meta-pytorch/gpt-fast that GPT_FAST names; int4 on a GPU only
    llama.cpp, llama.cpp-q8, llama.cpp-q4    llama-bench, llama-batched-bench and llama-quantize on the PATH
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from peers.turn import Sizes
from random_checkpoint import SHAPES, llama3_tokenizer, write_random_checkpoint

PEERS = Path(__file__).parent / "peers"


class Speed(NamedTuple):
    """Tokens of all rows a second."""

    prefill: float
    decode: float


class Peer(NamedTuple):
    """How to get ready once, and how to take a turn."""

    missing: Callable[[], str | None]  # what is not installed
    prepare: Callable[[Path, Path], Path]  # (Meta's folder, work folder) to what it runs
    measure: Callable[[Path, Sizes], Speed]


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def ours(*flags: str) -> Peer:
    def missing() -> str | None:
        useless = "--compile" in flags and not torch.cuda.is_available()
        return "it changes nothing on a CPU with kernels of our own" if useless else None

    def measure(folder: Path, sizes: Sizes) -> Speed:
        lengths = ["--lengths", str(sizes.prompt), "--new-tokens", str(sizes.new), "--rounds", "1"]
        command = [sys.executable, "-m", "llama_cli", "bench", "-m", str(folder), "--threads", str(sizes.threads)]
        rows = ["--rows", str(sizes.rows), "-c", str(sizes.prompt + sizes.new)]
        figures = json.loads(run([*command, *rows, *lengths, "--json", *flags]))["measured"][-1]
        return Speed(figures["prefill_tokens_per_second"], figures["decode_tokens_per_second"])

    return Peer(missing, as_it_lies, measure)


def script(name: str, missing: Callable[[], str | None], prepare: Callable[[Path, Path], Path], *flags: str) -> Peer:
    def measure(folder: Path, sizes: Sizes) -> Speed:
        command = [sys.executable, str(PEERS / name), *flags, str(folder), *map(str, sizes)]
        return Speed(**json.loads(run(command).splitlines()[-1]))

    return Peer(missing, prepare, measure)


def installed(package: str) -> Callable[[], str | None]:
    return lambda: None if find_spec(package) else f"pip install {package}"


def as_it_lies(folder: Path, work: Path) -> Path:
    return folder


def gpt_fast(*flags: str) -> Peer:
    def missing() -> str | None:
        if "int4" in flags and not torch.cuda.is_available():
            return "its int4 needs a GPU"
        folder = os.environ.get("GPT_FAST")
        return None if folder and (Path(folder) / "generate.py").is_file() else "GPT_FAST names no clone of it"

    return script("gpt_fast_peer.py", missing, as_it_lies, *flags)


def huggingface_folder(folder: Path, work: Path) -> Path:
    target = work / "hf"
    if not target.exists():
        run([sys.executable, "-m", "llama_cli", "convert", str(folder), str(target), "--format", "hf"])
    return target


def llama_cpp(quantization: str | None) -> Peer:
    def missing() -> str | None:
        wanted = ("llama-bench", "llama-batched-bench", "llama-quantize")
        absent = [name for name in wanted if shutil.which(name) is None]
        return f"{absent[0]} is not on the PATH" if absent else None

    def prepare(folder: Path, work: Path) -> Path:
        plain = work / "bf16.gguf"
        if not plain.exists():
            run([sys.executable, str(PEERS / "write_gguf.py"), str(folder), str(plain)])
        if quantization is None:
            return plain
        target = work / f"{quantization}.gguf"
        if not target.exists():
            run(["llama-quantize", "--pure", str(plain), str(target), quantization])
        return target

    return Peer(missing, prepare, llama_bench)


def llama_bench(path: Path, sizes: Sizes) -> Speed:
    if sizes.rows > 1:
        lengths = ["-npp", str(sizes.prompt), "-ntg", str(sizes.new), "-npl", str(sizes.rows)]
        context = ["-c", str(sizes.rows * (sizes.prompt + sizes.new)), "-t", str(sizes.threads)]
        out = run(["llama-batched-bench", "-m", str(path), *lengths, *context, "--output-format", "jsonl"])
        figures = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
        return Speed(figures["speed_pp"], figures["speed_tg"])
    command = ["llama-bench", "-m", str(path), "-p", str(sizes.prompt), "-n", str(sizes.new)]
    tests = json.loads(run([*command, "-t", str(sizes.threads), "-r", "1", "-o", "json"]))
    return Speed(**{("prefill" if test["n_prompt"] else "decode"): test["avg_ts"] for test in tests})


ALL = {
    "ours": ours(),
    "ours-int8": ours("--quantize", "int8"),
    "ours-int4": ours("--quantize", "int4"),
    "ours-plain": ours("--kernels", "plain"),
    "ours-compile": ours("--compile"),
    "transformers": script("transformers_peer.py", installed("transformers"), huggingface_folder),
    "meta": script("meta_peer.py", installed("llama_models"), as_it_lies),
    "gpt-fast": gpt_fast(),
    "gpt-fast-int8": gpt_fast("--quantize", "int8"),
    "gpt-fast-int4": gpt_fast("--quantize", "int4"),
    "llama.cpp": llama_cpp(None),
    "llama.cpp-q8": llama_cpp("Q8_0"),
    "llama.cpp-q4": llama_cpp("Q4_0"),
}


def compare(names: list[str], shape: str, work: Path, sizes: Sizes, rounds: int) -> dict[str, list[Speed]]:
    """The speeds of each peer, one for each round."""
    folder = work / shape
    if not folder.exists():
        write_random_checkpoint(folder, shape, llama3_tokenizer())
    present = {}
    for name in names:
        why = ALL[name].missing()
        if why:
            print(f"{name} is left out: {why}", file=sys.stderr)
        else:
            present[name] = ALL[name].prepare(folder, work)
    speeds: dict[str, list[Speed]] = {name: [] for name in present}
    for number in range(rounds):
        for name, path in present.items():
            speeds[name].append(ALL[name].measure(path, sizes))
            print(f"round {number + 1}  {name}: {speeds[name][-1]}", file=sys.stderr)
    return speeds


def show(speeds: dict[str, list[Speed]]) -> None:
    """Medians, their ranges, and what each is to the first: the median of the ratios within a round."""
    first = next(iter(speeds))
    print(f"{'':14} {'prompt tokens/s':>24} {'answer tokens/s':>24}   {first} is")
    for name, turns in speeds.items():
        columns, ratios = [], []
        for kind in Speed._fields:
            values = [getattr(turn, kind) for turn in turns]
            columns.append(f"{statistics.median(values):8.1f} ({min(values):6.1f}-{max(values):6.1f})")
            pairs = zip(speeds[first], turns, strict=True)
            ratios.append(statistics.median(getattr(mine, kind) / getattr(theirs, kind) for mine, theirs in pairs))
        print(f"{name:14} {columns[0]:>24} {columns[1]:>24}   {ratios[0]:.2f}x, {ratios[1]:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of prompt")
    parser.add_argument("--new", type=int, default=32, help="tokens of answer")
    parser.add_argument("--rows", type=int, default=1, help="rows at a time")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", default=",".join(ALL))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "llama-cli-compare")
    arguments = parser.parse_args()
    names = arguments.peers.split(",")
    unknown = [name for name in names if name not in ALL]
    if unknown:
        parser.error(f"no peer {unknown[0]!r}; there are {', '.join(ALL)}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(arguments.prompt, arguments.new, arguments.threads, arguments.rows)
    speeds = compare(names, arguments.shape, arguments.work, sizes, arguments.rounds)
    show(speeds)
    figures = {name: [turn._asdict() for turn in turns] for name, turns in speeds.items()}
    print(json.dumps({"shape": arguments.shape, "sizes": sizes._asdict(), "tokens_per_second": figures}))


if __name__ == "__main__":
    main()
