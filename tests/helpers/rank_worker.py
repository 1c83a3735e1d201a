"""One of several ranks that a test starts: all load their parts, and run the prompts of each case together.

A case is {"folder", "dtype", "quantize", "prompts": [ids, ...], "n"}. Rank 0 writes a line of JSON for each: the
greedy ids, the logits of the prompts as a file, and how often each collective was called in one decoding step.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from helpers.models import backend_of, open_model
from torch import Tensor, distributed

from llama_cli.checkpoint.build import build_model
from llama_cli.engine.engine import Engine
from llama_cli.engine.request import Request, Sampling, Token
from llama_cli.engine.runner import ModelRunner
from llama_cli.model.args import ModelArgs
from llama_cli.model.batch import Batch
from llama_cli.model.llama import Llama
from llama_cli.model.span import Span
from llama_cli.model.split import Share, parallelize
from llama_cli.parallel.leader import Leader, repeat
from llama_cli.parallel.ranks import Place, Ranks

CPU = torch.device("cpu")
COLLECTIVES = ("all_reduce", "all_gather", "broadcast")


def build(case: dict[str, Any], share: Share) -> tuple[Llama, ModelArgs]:
    checkpoint, args = open_model(case["folder"])
    backend = backend_of(getattr(torch, case["dtype"]), quantize=case["quantize"])
    model = build_model(checkpoint, args, backend, CPU, share)
    if share.size > 1:
        parallelize(model, args, share)
    return model, args


@torch.inference_mode()
def logits_of(runner: ModelRunner, ids: list[int]) -> Tensor:
    runner.reserve(len(ids))
    return runner.model(Batch.of([Span(0, 0, len(ids), len(ids))], ids, runner.model.rope, runner.cache), runner.cache)


def greedy(engine: Engine, prompts: list[list[int]], n: int) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    sampling = Sampling(temperature=0, max_tokens=n, ignore_eos=True)
    for event in engine.generate([Request(key, tuple(ids), sampling, 0) for key, ids in enumerate(prompts)]):
        if isinstance(event, Token):
            answers[event.key].append(event.id)
    return answers


def count_collectives() -> Counter[str]:
    """The calls from now on, as they are made."""
    calls: Counter[str] = Counter()
    for name in COLLECTIVES:
        real = getattr(distributed, name)

        def counted(*arguments: Any, _real: Any = real, _name: str = name, **more: Any) -> Any:
            calls[_name] += 1
            return _real(*arguments, **more)

        setattr(distributed, name, counted)
    return calls


def work(file: str, place: Place) -> None:
    """Run the cases of a file as one rank."""
    torch.set_num_threads(1)
    os.environ.update(place.variables)
    ranks = None
    if place.world_size > 1:
        ranks = Ranks(place)
        ranks.divide(place.world_size)
    calls = count_collectives()
    cases = json.loads(Path(file).read_text())
    for number, case in enumerate(cases):
        model, args = build(case, Share(place.rank, place.world_size))
        longest = max(map(len, case["prompts"])) + case["n"]
        runner = ModelRunner(model, n_slots=2, max_seq_len=longest)
        logits = [logits_of(runner, ids) for ids in case["prompts"]]
        if place.follows:
            repeat(runner, ranks.group.receive)
            continue
        leader = Leader(runner, ranks.group.send, lambda error: error) if ranks else runner
        engine = Engine(leader, tokenizer_size=args.vocab_size, stop_tokens=frozenset())
        answers = greedy(engine, case["prompts"], case["n"])
        list(engine.generate([Request(0, (1,), Sampling(temperature=0, max_tokens=0), 0)]))
        leader.reserve(longest)
        before, steps_before = calls.copy(), engine.stats.n_steps
        greedy(engine, [case["prompts"][0][:1]], 6)
        per_step = {name: (calls[name] - before[name]) / (engine.stats.n_steps - steps_before) for name in COLLECTIVES}
        if ranks:
            leader.end()
        torch.save(logits, f"{file}.{number}.pt")
        result = {"ids": answers, "per_step": per_step, "n_layers": args.n_layers}
        sys.stdout.write(json.dumps(result) + "\n")
    if ranks:
        ranks.part()
