"""Puts the parts together: options become a model that answers."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, ParamSpec, get_type_hints

import torch
from torch import Tensor

from .backends.backend import Backend, Steps, choose_backend, machine_of
from .backends.dtype import name_of
from .backends.offers import DTYPES, SMALL_MODEL_BYTES, Wanted
from .chat.template import choose_template
from .checkpoint import Checkpoint, Slice, open_checkpoint
from .checkpoint.build import build_model
from .checkpoint.family import doubt_about
from .checkpoint.fingerprint import fingerprint_of_model, fingerprint_of_weights
from .checkpoint.folders import TOY, expand
from .checkpoint.installed import model_name
from .checkpoint.plan import plan_model, what_is_wanted
from .checkpoint.tokenizer_file import check_vocabulary, open_tokenizer
from .engine.engine import Engine
from .engine.runner import ModelRunner
from .errors import ModelRejected, UsageError
from .files.pages import keep_heap
from .llm import LLM, ModelInfo
from .memory import MemoryPlan, bytes_of_step, can_split, choose_context, choose_slots, possible_ranks
from .model.args import ModelArgs
from .model.split import WHOLE, Share, parallelize
from .model.weights import EMBEDDING, weight_shapes
from .options import LoadOptions, OnLayer
from .parallel.ranks import Place, Ranks
from .parallel.resources import choose_device, choose_threads, free_memory
from .parallel.team import Job, Team, place_of_leader, ranks_of_a_group
from .tokenizer import Tokenizer
from .tokenizer.chat import Template

logger = logging.getLogger(__name__)

# Where the batch size is left open: no more slots than this, and as many as leave each so many tokens.
MOST_SLOTS = 16
USUAL_CONTEXT = 4096

Keywords = ParamSpec("Keywords")


class Opened(NamedTuple):
    """What a model's folder says of it, before any weight is in memory."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    name: str
    args: ModelArgs


class Way(NamedTuple):
    """How a model is computed."""

    options: LoadOptions  # what every rank is told: nothing is left open but what memory decides
    device: torch.device  # of this rank
    backend: Backend


def load_model(options: LoadOptions) -> LLM:
    """Load a model and get it ready to run. LlamaError says what is wrong with its folder, or what does not fit."""
    began = time.perf_counter()
    opened = open_model(options)
    options = replace(options, tp=ranks_of_a_group(options))
    _check_split(opened, options)
    place = place_of_leader(options)
    way = choose_way(opened, options, place)
    plan, context = fit_into_memory(opened, way, free_memory(way.device, place))
    template = find_template(opened, options)
    job = Job(
        options=replace(way.options, batch_size=plan.n_slots, max_seq_len=context),
        weights=fingerprint_of_weights(opened.checkpoint),
        args=opened.args,
        plan=plan,
        tokenizer_size=min(opened.tokenizer.vocab_size, opened.args.vocab_size),
        stop_tokens=opened.tokenizer.stop_tokens | (template.format.stop_tokens if template.format else frozenset()),
    )
    team = Team(job) if job.n_ranks > 1 else None
    runner = build_runner(opened.checkpoint, job, way.device, team.share if team else WHOLE, options.on_layer)
    opened.checkpoint.ensure_unchanged()
    engine = Engine(
        team.lead(runner) if team else runner,
        tokenizer_size=job.tokenizer_size,
        vocab_size=opened.args.vocab_size,
        stop_tokens=job.stop_tokens,
    )
    info = describe(opened, way, load_seconds=time.perf_counter() - began)
    logger.info("%s, threads %d, context %s, from %s", info, torch.get_num_threads(), f"{context:,}", info.folder)
    return LLM(
        team.gather(engine) if team else engine,
        opened.tokenizer,
        info,
        template,
        ensure_unchanged=opened.checkpoint.ensure_unchanged,
        end=team.end if team else None,
    )


def _by_keywords(make: Callable[Keywords, LoadOptions]) -> Callable[Keywords, LLM]:
    """`load_model` as a function whose keywords are the fields of its options."""

    def load(*arguments: Keywords.args, **named: Keywords.kwargs) -> LLM:
        return load_model(make(*arguments, **named))

    load.__doc__ = f"{load_model.__doc__}\n\n{make.__doc__}"
    load.__signature__ = _signature(make)  # type: ignore[attr-defined]
    return load


def _signature(make: Callable[..., LoadOptions]) -> inspect.Signature:
    """What `help(llama_cli.load)` shows: names, types and defaults, without what the command line reads off a type."""
    types = get_type_hints(make)
    shown = [each.replace(annotation=types[name]) for name, each in inspect.signature(make).parameters.items()]
    return inspect.Signature(shown, return_annotation=LLM)


load = _by_keywords(LoadOptions)


def open_model(options: LoadOptions) -> Opened:
    """Read and check all that can be without a weight."""
    checkpoint = open_checkpoint(
        TOY if options.model is None else options.model, tokenizer=options.tokenizer, mmap=options.mmap
    )
    tokenizer = open_tokenizer(checkpoint.tokenizer, checkpoint.folder)
    name = model_name(checkpoint.folder)
    args = checkpoint.headers.configuration(rope_scale_factor=options.rope_scale_factor).args
    if doubt := doubt_about(args, name):
        logger.warning(doubt)
    checkpoint.check(args)
    spare = check_vocabulary(args.vocab_size, tokenizer, checkpoint.tokenizer, checkpoint.folder, checkpoint.spare_rows)
    if spare.warning:
        logger.warning(spare.warning)
    return Opened(checkpoint, tokenizer, name, args)


def choose_way(opened: Opened, options: LoadOptions, place: Place) -> Way:
    """Settle device, threads, dtype and kernels."""
    checkpoint = opened.checkpoint
    device = choose_device(options.device, place)
    headers, machine = checkpoint.headers, machine_of(device)
    wanted = what_is_wanted(
        headers, machine, device.type, dtype=options.dtype, quantize=options.quantize, kernels=options.kernels
    )
    if headers.quantization and wanted.quantize is None and options.kernels != "plain":
        logger.warning(
            "%s holds %s weights, which do not run here as they are: they are made full ones, which take more memory",
            opened.name,
            headers.quantization,
        )
    backend = choose_backend(wanted, machine)
    offer = backend.offer
    if options.dtype != "auto" and offer.dtype != wanted.dtype:
        logger.warning("%s computes in bfloat16: --dtype %s changes nothing", offer.name, options.dtype)
    is_compiled = options.compile and not offer.is_native
    if options.compile and not is_compiled:
        logger.warning("--compile changes nothing: llama-cli's own kernels, compiled for this processor, are faster")
    threads = choose_threads(options.threads, place, is_small=headers.n_bytes < SMALL_MODEL_BYTES)
    torch.set_num_threads(threads)
    settled = replace(
        options,
        model=_same_everywhere(options.model),
        tokenizer=None,
        dtype=name_of(wanted.dtype),
        device=device.type,
        threads=threads,
        quantize=wanted.quantize,
        compile=is_compiled,
        on_layer=None,
    )
    return Way(settled, device, backend)


def fit_into_memory(opened: Opened, way: Way, free: int) -> tuple[MemoryPlan, int]:
    """What a rank takes of its `free` bytes, and the context in tokens that they hold. DoesNotFit if they do not."""
    options, trained = way.options, opened.args.max_seq_len
    n_slots = options.batch_size or MOST_SLOTS
    plan = plan_model(
        opened.checkpoint.headers,
        opened.args,
        way.backend.offer,
        n_slots=n_slots,
        n_ranks=options.tp or 1,
        mmap=options.mmap,
    )
    if options.batch_size is None:
        plan = choose_slots(plan, free, context=options.max_seq_len or min(trained, USUAL_CONTEXT))
    context = choose_context(plan, free, asked=options.max_seq_len, trained=trained)
    if options.max_seq_len is None and context < trained:
        logger.warning("the context is %s tokens, not %s: more does not fit into memory", context, trained)
    return plan, context


def find_template(opened: Opened, options: LoadOptions) -> Template:
    """How dialogs are written for the model."""
    checkpoint, args = opened.checkpoint, opened.args

    def embedding_rows(begin: int, end: int) -> Tensor:
        wanted = Slice(0, begin, min(end, args.vocab_size))
        return checkpoint.read(EMBEDDING, weight_shapes(args)[EMBEDDING], wanted, head_dim=args.head_dim)

    return choose_template(options.chat_template, checkpoint.params, opened.tokenizer, opened.name, embedding_rows)


def describe(opened: Opened, way: Way, load_seconds: float) -> ModelInfo:
    """What was loaded, for people to read."""
    offer, checkpoint = way.backend.offer, opened.checkpoint
    return ModelInfo(
        name=opened.name,
        folder=str(checkpoint.folder),
        dtype=offer.name,
        kernels="own" if offer.is_native else "compiled" if way.options.compile else "torch",
        device=str(way.device),
        weight_bytes=bytes_of_step(opened.args, offer),
        load_seconds=load_seconds,
        fingerprint=fingerprint_of_model(checkpoint, offer.name, str(way.backend.dtype)),
    )


def load_part(job: Job, ranks: Ranks) -> ModelRunner:
    """The runner of a rank that follows: its part of the model of a job. LlamaError as from `load`."""
    options = job.options
    assert options.model is not None, "rank 0 has settled it"
    assert options.threads is not None, "rank 0 has settled it"
    checkpoint = open_checkpoint(options.model, mmap=options.mmap)
    checkpoint.check(job.args)
    if fingerprint_of_weights(checkpoint) != job.weights:
        raise ModelRejected(
            f"{checkpoint.folder} on rank {ranks.place.rank} is not the model of rank 0", "copy the same files there"
        )
    device = choose_device(options.device, ranks.place)
    torch.set_num_threads(options.threads)
    if ranks.place.local_rank == 0:  # the first one of another machine
        context = job.max_seq_len
        choose_context(job.plan, free_memory(device, ranks.place), asked=context, trained=context)
    return build_runner(checkpoint, job, device, Share(ranks.place.rank % job.tp, job.tp))


def build_runner(
    checkpoint: Checkpoint, job: Job, device: torch.device, share: Share, on_layer: OnLayer | None = None
) -> ModelRunner:
    """One rank's part of the model of a job, joined with the other parts, and its cache."""
    options = job.options
    wanted = Wanted(DTYPES[options.dtype], device.type, options.quantize, options.kernels)
    backend = choose_backend(wanted, machine_of(device))
    model = build_model(checkpoint, job.args, backend, device, share, on_layer)
    if share.size > 1:
        parallelize(model, job.args, share)
    if options.compile:
        from .backends.compile import compile_blocks, folder_of_results  # takes torch a second to import

        logger.info("compiling the layers, which takes half a minute at first and some seconds later on")
        compile_blocks(model, job.plan.n_slots, folder_of_results())
    keep_heap()
    # Ranks have to meet in every layer, which the faster ways do not know.
    steps = backend.steps_of(model) if share.size == 1 else Steps()
    return ModelRunner(
        model, n_slots=job.plan.n_slots, max_seq_len=job.max_seq_len, make_steps=steps.make, growth=steps.cache_growth
    )


def _check_split(opened: Opened, options: LoadOptions) -> None:
    args, tp = opened.args, options.tp or 1
    if not can_split(args, tp):
        possible = ", ".join(map(str, possible_ranks(args)))
        raise UsageError(
            f"{tp} ranks cannot share {opened.name}: it has {args.n_heads} heads, {args.n_kv_heads} key/value heads,"
            f" {args.ffn_dim} hidden columns and {args.vocab_size} ids",
            f"--tp may be {possible}",
        )


def _same_everywhere(model: str | Path | None) -> str:
    """A folder as its whole path, since other ranks may start elsewhere; a name stays a name."""
    folder = expand(TOY if model is None else model)
    return str(folder.absolute()) if folder.is_dir() else str(model)
