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


class Turn(NamedTuple):
    """What is to be measured; lengths in tokens, and CPU threads."""

    folder: Path
    prompt: int
    new: int
    threads: int
    rows: int

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def max_seq_len(self) -> int:
        return self.prompt + self.new + 1


def read_turn(parser: argparse.ArgumentParser) -> tuple[Turn, argparse.Namespace]:
    """FOLDER PROMPT NEW THREADS ROWS, after what the peer adds of its own."""
    parser.add_argument("folder", type=Path)
    for name in Turn._fields[1:]:
        parser.add_argument(name, type=int)
    arguments = parser.parse_args()
    turn = Turn(*(getattr(arguments, name) for name in Turn._fields))
    torch.set_num_threads(turn.threads)
    return turn, arguments


def report(turn: Turn, fill: Callable[[Tensor], Tensor], step: Callable[[Tensor, int], Tensor]) -> None:
    """Times `fill`, ids (rows, prompt) to the next (rows, 1), and `step`, those at a position; prints one line of JSON.

    Everything runs once before, which compiles what is compiled.
    """
    prompt = torch.randint(0, N_IDS, (turn.rows, turn.prompt), device=turn.device)
    step(step(fill(prompt), turn.prompt), turn.prompt + 1)
    began = _now()
    token = fill(prompt)
    filled = _now()
    for position in range(turn.prompt, turn.prompt + turn.new):
        token = step(token, position)
    ended = _now()
    speeds = turn.prompt / (filled - began), turn.new / (ended - filled)
    print(json.dumps(dict(zip(("prefill", "decode"), (turn.rows * speed for speed in speeds), strict=True))))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
