"""`llama-cli verify`: whether a model's files are whole and belong together."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ModelRejected
from .info import chosen_model
from .options import MessageOptions, ModelArgument, OneJsonObject, WhichModel, with_options
from .progress import ReadProgress
from .terminal import Terminal, format_table

if TYPE_CHECKING:
    from ..checkpoint.verify import Finding


@with_options()
def verify(
    name: ModelArgument = None,
    *,
    model: WhichModel,
    quick: Annotated[bool, typer.Option("--quick", help="Headers only: do not read the weights.")] = False,
    as_json: OneJsonObject = False,
    messages: MessageOptions,
) -> None:
    """Check that a model's files are whole.

    Checksums, archives, names and shapes, NaN, the tokenizer. Every byte is read once. What is wrong is listed, and
    the exit code is then 3.

    Examples:
      llama-cli verify Llama3.2-1B
      llama-cli verify ~/.llama/checkpoints/Llama3.1-70B --quick
    """
    messages.apply()

    from ..checkpoint.verify import Verification

    began = time.monotonic()
    verification = Verification(chosen_model(name, model.model), tokenizer=model.tokenizer)
    verification.check_headers()
    n_bytes = 0 if quick else verification.n_bytes
    if not quick:
        with ReadProgress(n_bytes, quiet=messages.quiet) as progress:
            verification.read_everything(progress.advance)
    seconds = time.monotonic() - began
    terminal = Terminal()
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in verification.findings]
        described = {"folder": str(verification.folder), "sound": verification.is_sound, "findings": findings}
        terminal.write_json(described | {"bytes_read": n_bytes, "seconds": seconds})
    else:
        terminal.write(_format(verification.findings))
        speed = f", {n_bytes / max(seconds, 1e-9) / 1e9:.1f} GB/s" if n_bytes > 10**9 else ""
        messages.note(f"{verification.folder}: {_count(verification.findings)}, {seconds:.1f} s{speed}")
    if not verification.is_sound:
        raise typer.Exit(ModelRejected.exit_code)


def _format(findings: list[Finding]) -> str:
    rows = [(finding.status, finding.check, finding.file, finding.detail) for finding in findings]
    return format_table(("status", "check", "file", "finding"), rows)


def _count(findings: list[Finding]) -> str:
    counts = Counter(finding.status for finding in findings)
    return ", ".join(f"{counts[status]} {status}" for status in ("ok", "warning", "bad", "skipped") if counts[status])
