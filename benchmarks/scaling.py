"""How decoding scales with rows and with context: runs llama-cli bench, and plots what it says.

    python benchmarks/scaling.py MODEL [--name 1b-bf16] [-- --quantize int8 --threads 2]
    python benchmarks/scaling.py --plot benchmarks/scaling-1b-bf16.json

Writes benchmarks/scaling-NAME.json and docs/images/scaling-NAME.svg. Everything behind -- goes to llama-cli bench.
Plots need matplotlib (pip install matplotlib).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMAGES = HERE.parent / "docs/images"
ROWS = (1, 2, 4, 8, 16, 32)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192)
SHORT = 128  # tokens of prompt where rows are what changes
NEW_TOKENS = 16


def bench(model: str, rows: tuple[int, ...], lengths: tuple[int, ...], flags: list[str]) -> dict[str, Any]:
    """One run of llama-cli bench."""
    lists = ["--rows", ",".join(map(str, rows)), "--lengths", ",".join(map(str, lengths))]
    context = str(max(lengths) + NEW_TOKENS + 1)
    command = [sys.executable, "-m", "llama_cli", "bench", "-m", model, *lists, "-c", context, "--json", *flags]
    done = subprocess.run([*command, "--new-tokens", str(NEW_TOKENS), "--rounds", "1"], stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def plot(figures: dict[str, Any], path: Path) -> None:
    """Two panels: tokens a second of all rows against rows, and of one row against context."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "llama-cli", "font.size": 9}
    by_rows, by_context = figures["by_rows"]["measured"], figures["by_context"]["measured"]
    panels, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    decode = "decode_tokens_per_second"
    left.plot([each["rows"] for each in by_rows], [each[decode] for each in by_rows], "o-")
    left.set(xscale="log", xlabel="rows", ylabel="tokens/s, all rows", title=f"{SHORT} tokens of context", ylim=0)
    left.set_xticks(ROWS, map(str, ROWS))
    right.plot([each["prompt_tokens"] for each in by_context], [each[decode] for each in by_context], "o-")
    right.set(xscale="log", xlabel="tokens of context", ylabel="tokens/s", title="one row", ylim=0)
    right.set_xticks(CONTEXTS, map(str, CONTEXTS))
    for panel in (left, right):
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels.suptitle(figures["title"])
    panels.tight_layout()
    panels.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--name", default="model")
    parser.add_argument("--plot", type=Path, metavar="JSON", help="plot figures that are there already")
    ours, theirs = sys.argv[1:], []
    if "--" in ours:
        ours, theirs = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    arguments = parser.parse_args(ours)
    stored = arguments.plot or HERE / f"scaling-{arguments.name}.json"
    if arguments.plot is None:
        if arguments.model is None:
            parser.error("which model?")
        by_rows = bench(arguments.model, ROWS, (SHORT,), theirs)
        by_context = bench(arguments.model, (1,), CONTEXTS, theirs)
        title = f"{arguments.name}, {by_rows['threads']} threads"
        figures = {"title": title, "by_rows": by_rows, "by_context": by_context}
        stored.write_text(json.dumps(figures, indent=1) + "\n")
    plot(json.loads(stored.read_text()), IMAGES / f"{stored.stem}.svg")


if __name__ == "__main__":
    main()
