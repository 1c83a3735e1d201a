"""`llama-cli convert`: a model in another form, for other programs or other numbers of ranks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import OutputRefused, UsageError
from .options import MessageOptions, with_options
from .progress import PhaseProgress


@with_options()
def convert(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder, or a GGUF file.")],
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")],
    *,
    form: Annotated[
        Literal["pth", "safetensors", "hf"] | None,
        typer.Option(
            "--format",
            help="hf: a folder as Hugging Face's; else as Meta's. Default: pth, with --quantize safetensors.",
        ),
    ] = None,
    mp: Annotated[int, typer.Option("--mp", min=1, max=99, help="Into how many .pth shards to split.")] = 1,
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option("--dtype", help="Of the weights. Default: as stored; bf16 for a quantized GGUF file."),
    ] = None,
    quantize: Annotated[
        Literal["int8", "int4"] | None,
        typer.Option("--quantize", help="Round the weights of linear layers. Default: as stored."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="The tokenizer's file. Default: the one beside the model.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FOLDER if it holds a model.")] = False,
    messages: MessageOptions,
) -> None:
    """Write a model in another form.

    Any folder that `complete` runs, or a GGUF file of a Llama model. FOLDER is there whole, checked, or not at all.

    Examples:
      llama-cli convert ~/.llama/checkpoints/Llama3.1-8B 8b-int8 --quantize int8
      llama-cli convert ~/.llama/checkpoints/Llama3.1-70B 70b-hf --format hf
      llama-cli convert model.gguf model
    """
    messages.apply()
    if quantize is not None and form not in (None, "safetensors"):
        raise UsageError(f"--format {form}: quantized weights are stored in safetensors", "leave out --format")
    form = form or ("safetensors" if quantize else "pth")
    if mp > 1 and form != "pth":
        flag = "--quantize" if quantize else "--format"
        raise UsageError(f"--mp {mp}: only .pth files are split by rank", f"leave out {flag}, or --mp")

    from ..backends.dtype import DTYPES
    from ..checkpoint.folders import expand
    from ..convert.conversion import convert as run
    from ..convert.gguf import is_gguf, open_gguf
    from ..convert.outputs import Target
    from ..convert.source import Source, open_folder
    from ..files.new_folder import check_target

    path, folder = expand(source), expand(target)
    here, there = (Path(os.path.realpath(each)) for each in (path, folder))
    if here == there or (there in here.parents and there.exists() and force):
        raise OutputRefused(f"{source} would be replaced by itself", "give another folder")
    check_target(folder, replace=force)
    if is_gguf(path):
        opened: Source = open_gguf(path, tokenizer, keep_ids=form == "hf")
    else:
        opened = open_folder(path, tokenizer)
    wanted = Target(form, mp, dtype and DTYPES[dtype], quantize)
    with PhaseProgress(quiet=messages.quiet) as progress:
        n_bytes = run(opened, folder, wanted, progress, replace=force)
    messages.note(f"{target}: {n_bytes / 1e6:,.1f} MB of weights, checked")
