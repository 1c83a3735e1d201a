"""What the ranks other than 0 do: load their part of the model, and whatever rank 0 says."""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn

from ..engine.engine import Engine
from ..engine.inbox import Orders, serve
from ..engine.runner import ModelRunner
from ..errors import LlamaError, explained
from .launch import LOST_THE_OTHERS
from .leader import Leader, repeat
from .ranks import Link, Place, RankEnded, Ranks, is_about_a_connection
from .replicas import GOODBYE, read_order, write_report
from .team import Job

INTERNAL_ERROR = 1

LoadPart = Callable[[Job, Ranks], ModelRunner]
ShowError = Callable[[str, str | None, int], None]  # a message, what to type, the exit code


def follow(place: Place, load_part: LoadPart, show_error: ShowError) -> NoReturn:
    """Do what rank 0 says, and end with it. `show_error` tells why it ends before."""
    os._exit(_exit_code(place, load_part, show_error))  # not through Python's end, which waits for what has gone


def _exit_code(place: Place, load_part: LoadPart, show_error: ShowError) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides
    logging.getLogger("llama_cli").setLevel(logging.ERROR)  # rank 0 has said what else there is to say
    try:
        _work(place, load_part)
    except Exception as error:
        return _report(place, error, show_error)
    return 0


def _report(place: Place, error: Exception, show_error: ShowError) -> int:
    if is_about_a_connection(error):
        show_error(f"rank {place.rank}: another rank has ended", None, LOST_THE_OTHERS)
        return LOST_THE_OTHERS
    error = explained(error) or error
    if isinstance(error, LlamaError):
        show_error(f"rank {place.rank}: {error.message}", error.hint, error.exit_code)
        return error.exit_code
    traceback.print_exc()
    show_error(f"rank {place.rank}: internal error: {type(error).__name__}: {error}", None, INTERNAL_ERROR)
    return INTERNAL_ERROR


def _work(place: Place, load_part: LoadPart) -> None:
    ranks = Ranks(place)
    job = Job.of_numbers(ranks.everyone.receive())
    ranks.divide(job.tp)
    runner = load_part(job, ranks)
    if not ranks.leads_group:
        repeat(runner, ranks.group.receive)
        return
    leader = Leader(runner, ranks.group.send, lambda error: error) if job.tp > 1 else None
    engine = Engine(
        leader or runner, tokenizer_size=job.tokenizer_size, vocab_size=job.args.vocab_size, stop_tokens=job.stop_tokens
    )
    try:
        _serve(engine, Link(0))
    except Exception as error:
        Link(0).send(write_report(_cause(place, error)))
        raise
    if leader is not None:
        leader.end()


def _serve(engine: Engine, link: Link) -> None:
    """Run what rank 0 orders on a group of its own."""
    orders: Orders = SimpleQueue()

    def listen() -> None:
        try:
            order = read_order(link.receive())
            orders.put(order)
            while order is not None:
                order = read_order(link.receive())
                orders.put(order)
        except RuntimeError:
            os._exit(LOST_THE_OTHERS)

    threading.Thread(target=listen, daemon=True).start()
    serve(engine, orders, lambda event: link.send(write_report(event)))
    link.send(GOODBYE)


def _cause(place: Place, error: Exception) -> Exception:
    if is_about_a_connection(error):
        return RankEnded(f"a rank beside rank {place.rank} has ended before its time", "what it said last tells why")
    return error
