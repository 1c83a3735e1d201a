"""What the scripts of peers share: their arguments, and a prompt and an answer against the clock."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

N_IDS = 1024  # every vocabulary has so many


class Sizes(NamedTuple):
    """Tokens of prompt and answer, CPU threads, and rows at a time."""

    prompt: int
    new: int
    threads: int
    rows: int


class Turn(NamedTuple):
    """What is to be measured."""

    folder: Path
    sizes: Sizes

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def max_seq_len(self) -> int:
        return self.sizes.prompt + self.sizes.new + 1


def read_turn(parser: argparse.ArgumentParser) -> tuple[Turn, argparse.Namespace]:
    """FOLDER PROMPT NEW THREADS ROWS, after what the peer adds of its own."""
    parser.add_argument("folder", type=Path)
    for name in Sizes._fields:
        parser.add_argument(name, type=int)
    arguments = parser.parse_args()
    sizes = Sizes(*(getattr(arguments, name) for name in Sizes._fields))
    torch.set_num_threads(sizes.threads)
    return Turn(arguments.folder, sizes), arguments


def report(turn: Turn, fill: Callable[[Tensor], Tensor], step: Callable[[Tensor, int], Tensor]) -> None:
    """Times `fill`, ids (rows, prompt) to the next (rows, 1), and `step`, those at a position; prints one line of JSON.

    Everything runs once before, which compiles what is compiled.
    """
    n_prompt, n_new, _, n_rows = turn.sizes
    prompt = torch.randint(0, N_IDS, (n_rows, n_prompt), device=turn.device)
    step(step(fill(prompt), n_prompt), n_prompt + 1)
    began = _now()
    token = fill(prompt)
    filled = _now()
    for position in range(n_prompt, n_prompt + n_new):
        token = step(token, position)
    ended = _now()
    speeds = {"prefill": n_rows * n_prompt / (filled - began), "decode": n_rows * n_new / (ended - filled)}
    print(json.dumps(speeds))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
