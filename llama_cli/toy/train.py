"""Train a small character-level Llama on any text and write it in Meta's layout.

python -m llama_cli.toy.train TEXT --out FOLDER

Nine tenths of the text train it, the rest measures it. Hidden matrices are trained by Muon, the
embedding and the norms by AdamW; the learning rate falls to zero at the end of the budget.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoint.params import read_params
from ..errors import InputRejected, LlamaError, OutputRefused
from ..model.args import ModelArgs
from ..model.llama import Llama, TransformerBlock
from ..model.rope import rotate
from ..model.weights import OUTPUT, n_params, spec_of
from ..tokenizer.char import CharTokenizer

# 1.4 M parameters: the largest that stays under 3 MB in bfloat16.
PARAMS = {
    "dim": 192,
    "n_layers": 4,
    "n_heads": 6,
    "n_kv_heads": 2,
    "multiple_of": 32,
    "ffn_dim_multiplier": 0.8,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
CONTEXT = 256
BATCH = 32
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.1
WARMUP_STEPS = 100
EVALUATE_EVERY = 250  # steps


@dataclass(frozen=True)
class Budget:
    """How long to train: whichever of steps and seconds is used up first."""

    steps: int
    seconds: float

    def spent(self, step: int, seconds: float) -> float:
        """The part that is used up, 0 to 1."""
        return max(step / self.steps, seconds / self.seconds)


def training_logits(model: Llama, tokens: Tensor, dropout: float = 0.0) -> Tensor:
    """Logits (B, T, vocab_size) of whole texts (B, T): the model's own modules, without its cache."""
    args, length = model.args, tokens.shape[1]
    cos_sin = model.rope[:length][:, None]  # (T, 1, D / 2, 2)
    x = F.dropout(model.tok_embeddings(tokens), dropout)
    for layer in cast("list[TransformerBlock]", model.layers):
        attention, normed = layer.attention, layer.attention_norm(x)
        q, k, v = torch.split(attention.project(normed), [args.n_heads, args.n_kv_heads, args.n_kv_heads], -2)
        q, k, v = (t.transpose(1, 2) for t in (rotate(q, cos_sin), rotate(k, cos_sin), v))  # (B, heads, T, D)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + F.dropout(attention.wo(mixed.transpose(1, 2).flatten(2)), dropout)
        x = x + F.dropout(layer.feed_forward(layer.ffn_norm(x)), dropout)
    return F.linear(model.norm(x), model.output.weight)


def windows(ids: Tensor, length: int) -> Tensor:
    """The text cut into pieces of length + 1 that overlap by one: inputs and targets, (n, length + 1)."""
    return ids.unfold(0, length + 1, length)


@torch.no_grad()
def validation_loss(model: Llama, ids: Tensor, length: int) -> float:
    """Mean loss in nats per character over all windows of a text."""
    pieces = windows(ids, length)
    total = 0.0
    for first in range(0, len(pieces), BATCH):
        part = pieces[first : first + BATCH]
        logits = training_logits(model, part[:, :-1])
        total += float(F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())) * len(part)
    return total / len(pieces)


def new_model(args: ModelArgs) -> Llama:
    """Random weights; the output matrix is the embedding's."""
    model = Llama(args)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            spec = spec_of(name)
            residual = spec is not None and spec.split == 1  # start small: each layer adds its own
            torch.nn.init.normal_(weight, std=0.02 / ((2 * args.n_layers) ** 0.5 if residual else 1))
    model.output.weight = model.tok_embeddings.weight
    model.prepare_rope(args.max_seq_len)
    return model


def optimisers(model: Llama) -> list[torch.optim.Optimizer]:
    matrices = [weight for weight in model.layers.parameters() if weight.dim() == 2]
    ids = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in ids]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0),
    ]


@dataclass(frozen=True)
class Progress:
    """Where the training stands."""

    step: int
    part: float  # of the budget
    seconds: float
    training_loss: float
    validation_loss: float | None  # where it was measured at this step


def train(
    model: Llama,
    ids: Tensor,
    held_out: Tensor,
    budget: Budget,
    *,
    dropout: float,
    seed: int,
    compiled: bool = False,
) -> Iterator[Progress]:
    """Train in place on `ids`, measuring on `held_out`; yields after every step."""
    length = model.args.max_seq_len
    generator = torch.Generator().manual_seed(seed)
    optimizers = optimisers(model)
    forward = torch.compile(training_logits) if compiled else training_logits
    began = time.monotonic()
    step, part = 0, 0.0
    while part < 1:
        heat = min(1.0, (step + 1) / WARMUP_STEPS, (1 - part) / 0.8)
        starts = torch.randint(len(ids) - length, (BATCH,), generator=generator)
        pieces = ids[starts[:, None] + torch.arange(length + 1)]
        loss = F.cross_entropy(forward(model, pieces[:, :-1], dropout).flatten(0, 1), pieces[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * heat
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        seconds = time.monotonic() - began
        part = budget.spent(step, seconds)
        measured = None
        if step % EVALUATE_EVERY == 0 or part >= 1:
            measured = validation_loss(model, held_out, length)
        yield Progress(step, min(part, 1.0), seconds, float(loss.detach()), measured)


def write_folder(folder: Path, model: Llama, tokenizer: CharTokenizer) -> None:
    """Write params.json, consolidated.00.pth and chars.json, all of them or none."""
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    params = {**PARAMS, "vocab_size": model.args.vocab_size, "max_seq_len": model.args.max_seq_len}
    (work / "params.json").write_text(json.dumps(params, indent=1) + "\n")
    weights = {name: weight.detach().bfloat16() for name, weight in model.state_dict().items()}
    del weights[OUTPUT]  # the embedding's
    torch.save(weights, work / "consolidated.00.pth")
    tokenizer.save(work / "chars.json")
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputRejected(f"{path}: {error}", "give a UTF-8 text file") from None
    if len(text) < 20 * CONTEXT:
        raise InputRejected(f"{path}: {len(text)} characters are too few", f"give at least {20 * CONTEXT}")
    return text


def show(progress: Progress, last_validation: float) -> None:
    """One line on standard error, redrawn."""
    done = int(30 * progress.part)
    left = progress.seconds / max(progress.part, 1e-9) * (1 - progress.part)
    sys.stderr.write(
        f"\r[{'=' * done}{' ' * (30 - done)}] step {progress.step}  loss {progress.training_loss:.3f}"
        f"  validation {last_validation:.4f}  {left / 60:.0f} min left "
    )
    sys.stderr.flush()


def run(options: argparse.Namespace) -> int:
    folder: Path = options.out
    if folder.exists() and not options.force:
        raise OutputRefused(f"{folder} exists already", "give another --out, or --force to replace it")
    torch.manual_seed(options.seed)
    text = read_text(options.text)
    tokenizer = CharTokenizer.from_text(text)
    ids = torch.tensor(tokenizer.encode(text))
    cut = int(0.9 * len(ids))
    params = {**PARAMS, "vocab_size": tokenizer.vocab_size, "max_seq_len": CONTEXT}
    model = new_model(read_params(params))
    budget = Budget(options.steps or sys.maxsize, 60 * options.minutes if not options.steps else float("inf"))
    best, last, exit_code = float("inf"), float("nan"), 0
    progress = None
    steps = train(
        model,
        ids[:cut],
        ids[cut:],
        budget,
        dropout=options.dropout,
        seed=options.seed,
        compiled=options.compile,
    )
    try:
        for progress in steps:
            if progress.validation_loss is not None:
                last = progress.validation_loss
                if last < best:
                    best = last
                    write_folder(folder, model, tokenizer)
            show(progress, last)
    except KeyboardInterrupt:
        exit_code = 130
        if best == float("inf"):
            write_folder(folder, model, tokenizer)
    if progress is not None:
        sys.stderr.write(
            f"\n{folder}: {n_params(model.args, tied=True):,} parameters, validation loss {best:.4f} nats per"
            f" character, {progress.step} steps in {progress.seconds / 60:.1f} min\n"
        )
    return exit_code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m llama_cli.toy.train", description=__doc__)
    parser.add_argument("text", type=Path, help="a UTF-8 text file")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to train")
    parser.add_argument("--steps", type=int, help="train for so many steps instead")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="faster after a minute; needs a C++ compiler")
    parser.add_argument("--force", action="store_true", help="replace the folder")
    try:
        return run(parser.parse_args())
    except LlamaError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
