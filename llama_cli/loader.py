"""Puts the parts together: a folder becomes a Session."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from tokenizer import Tokenizer, TokenizerError, load_tokenizer

from .chat_template import TemplateChoice, choose_template
from .checkpoint import Checkpoint, open_checkpoint
from .engine.engine import Engine
from .engine.runner import Runner
from .errors import DoesNotFit, ModelRejected, UsageError
from .memory import choose_context, choose_slots, free_memory, plan_memory
from .model.args import ModelArgs, read_params
from .model.llama import Llama
from .model.packed import can_pack, pack
from .session import ModelInfo, Session

logger = logging.getLogger(__name__)

DtypeName = Literal["auto", "bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# The bundled character-level model, made by toy/train.py.
TOY = Path(__file__).parent / "toy"

# On a CPU, models below this many bytes of weights run on one thread and in float32, unless flags say otherwise.
SMALL_MODEL_BYTES = 16 << 20

# Where the batch size is left open: no more slots than this, and as many as leave each so many tokens.
MOST_SLOTS = 16
USUAL_CONTEXT = 4096

# A model may have some more ids than its tokenizer (padding, infilling, images); they are never chosen.
SPARE_IDS = 128


def load(
    model: str | Path | None = None,
    *,
    tokenizer: str | Path | None = None,
    max_seq_len: int | None = None,
    batch_size: int | None = 1,
    dtype: DtypeName = "auto",
    device: str = "auto",
    threads: int | None = None,
    rope_scale_factor: float | None = None,
    mmap: bool = True,
    chat_template: TemplateChoice = "auto",
) -> Session:
    """Load a model folder, or the bundled toy, and get it ready to run `batch_size` sequences at a time.

    `batch_size` None means as many as memory holds, at most 16. `max_seq_len` is the context in tokens; the
    default is what the family was trained for, or what fits into memory. `dtype` auto is the dtype the weights
    are stored in, float32 for a toy on a CPU. `chat_template` auto is the family's format of dialogs. LlamaError
    says what is wrong with the folder, or what does not fit.
    """
    began = time.perf_counter()
    checkpoint = open_checkpoint(TOY if model is None else model, tokenizer=tokenizer, mmap=mmap)
    words = _open_tokenizer(checkpoint)
    params = {key: value for key, value in checkpoint.params.items() if key != "chat_template"}
    args = read_params(
        params,
        source=checkpoint.params_name,
        vocab_size=checkpoint.vocab_size,
        llama2=words.kind == "sentencepiece",
        rope_scale_factor=rope_scale_factor,
    )
    checkpoint.check(args)
    _check_vocabulary(args, words, checkpoint)
    where = _choose_device(device)
    as_dtype = _choose_dtype(dtype, checkpoint, where)
    _use_threads(threads, checkpoint.n_bytes)
    free = _free_memory(where)
    packed = can_pack(as_dtype, where)
    tied = checkpoint.is_tied and not packed  # a packed output matrix is a copy of the embedding
    plan = plan_memory(args, n_slots=batch_size or MOST_SLOTS, itemsize=as_dtype.itemsize, tied=tied)
    if batch_size is None:
        plan = choose_slots(plan, free, context=max_seq_len or min(args.max_seq_len, USUAL_CONTEXT))
    context = choose_context(plan, free, asked=max_seq_len, trained=args.max_seq_len)
    if max_seq_len is None and context < args.max_seq_len:
        logger.warning("the context is %s tokens, not %s: more does not fit into memory", context, args.max_seq_len)
    transformer = build_model(checkpoint, args, as_dtype, where)
    if packed:
        pack(transformer)
    name = "toy" if model is None else _name_of(checkpoint.folder)
    template = choose_template(chat_template, checkpoint.params, words, name, transformer.tok_embeddings.weight)
    stop_tokens = words.stop_tokens | (template.format.stop_tokens if template.format else frozenset())
    checkpoint.ensure_unchanged()
    runner = Runner(transformer, n_slots=plan.n_slots, max_seq_len=context)
    engine = Engine(runner, n_words=min(words.n_words, args.vocab_size), stop_tokens=stop_tokens)
    info = ModelInfo(
        name=name,
        folder=str(checkpoint.folder),
        dtype=str(as_dtype).removeprefix("torch."),
        device=str(where),
        weight_bytes=args.n_params(tied=True) * as_dtype.itemsize,
        load_seconds=time.perf_counter() - began,
        fingerprint=_fingerprint(checkpoint, as_dtype),
    )
    return Session(engine, words, args, info, checkpoint.ensure_unchanged, template)


def build_model(checkpoint: Checkpoint, args: ModelArgs, dtype: torch.dtype, device: torch.device) -> Llama:
    """The transformer with its weights in place, one copy of them in memory, or none where they stay mapped."""
    with torch.device("meta"):
        model = Llama(args)
    for name, tensor in checkpoint.tensors(args):
        module = model.get_submodule(name.removesuffix(".weight"))
        module.weight = nn.Parameter(tensor.to(device=device, dtype=dtype), requires_grad=False)
    if checkpoint.is_tied:
        model.output.weight = model.tok_embeddings.weight
    assert not any(weight.is_meta for weight in model.parameters()), "every weight has been filled"
    return model.eval()


def _open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    if checkpoint.tokenizer is None:
        raise ModelRejected(
            f"no tokenizer.model or chars.json in {checkpoint.folder}, above it or in its original/",
            "give one with --tokenizer FILE",
        )
    try:
        return load_tokenizer(checkpoint.tokenizer)
    except TokenizerError as error:
        raise ModelRejected(error.message, error.hint) from None


def _check_vocabulary(args: ModelArgs, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    spare = args.vocab_size - tokenizer.n_words
    if not 0 <= spare <= SPARE_IDS:
        raise ModelRejected(
            f"the tokenizer has {tokenizer.n_words:,} tokens, the model {args.vocab_size:,}",
            f"{checkpoint.tokenizer} belongs to another model: give the right one with --tokenizer",
        )
    if spare:
        logger.info("the model has %d ids without text; they are never chosen", spare)


def _use_threads(asked: int | None, n_bytes: int) -> None:
    """A toy's matrices are done before a second thread has woken up; on a busy machine it waits for it."""
    if asked is not None or n_bytes < SMALL_MODEL_BYTES:
        torch.set_num_threads(asked or 1)


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name!r} is no device", "use auto, cpu, cuda, cuda:0 or mps") from None
    present = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise DoesNotFit(f"there is no device {name!r} here", "--device cpu")
    return device


def _choose_dtype(name: DtypeName, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """As stored; but on a CPU a toy is faster in float32, and float16 is slower than bfloat16."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cpu" and checkpoint.n_bytes < SMALL_MODEL_BYTES:
        return torch.float32
    return torch.bfloat16 if checkpoint.dtype == torch.float16 and device.type == "cpu" else checkpoint.dtype


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def _fingerprint(checkpoint: Checkpoint, dtype: torch.dtype) -> str:
    """Changes with whatever changes the answers, as far as can be told without reading the weights."""
    digest = hashlib.sha256(json.dumps([dict(checkpoint.params), str(dtype)], sort_keys=True).encode())
    if checkpoint.tokenizer is not None:
        digest.update(checkpoint.tokenizer.read_bytes())
    digest.update(str([identity.size for identity in checkpoint.identities.values()]).encode())
    return digest.hexdigest()


def _name_of(folder: Path) -> str:
    """The folder's own name; `original` and `mp8` say nothing, so the one above them."""
    resolved = folder.resolve()
    while resolved.name == "original" or resolved.name.startswith("mp"):
        resolved = resolved.parent
    return resolved.name
