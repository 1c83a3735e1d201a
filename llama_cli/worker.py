"""What the ranks other than 0 do: load their part of the model, and whatever rank 0 says."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn

from .cli.terminal import show_error, show_log
from .engine.engine import Engine
from .errors import LlamaError, explained
from .loader import load_part
from .parallel.launch import LOST_THE_OTHERS, READY
from .parallel.leader import Leader, repeat
from .parallel.ranks import Link, Place, RankEnded, Ranks, is_about_a_connection
from .parallel.replicas import GOODBYE, Orders, read_order, serve, write_report
from .parallel.team import Job

INTERNAL_ERROR = 1


def main() -> None:
    """A process that rank 0 has started: its standard input ends when rank 0 does."""
    place = Place.of(os.environ)
    threading.Thread(target=_end_with_rank_0, args=(place,), daemon=True).start()
    os.write(1, READY)
    os.dup2(2, 1)
    follow(place)


def _end_with_rank_0(place: Place) -> None:
    while os.read(0, 1024):
        pass
    if place.store:  # rank 0 may have been killed, and left its folder behind
        shutil.rmtree(Path(place.store).parent, ignore_errors=True)
    os._exit(LOST_THE_OTHERS)


def follow(place: Place) -> NoReturn:
    """Do what rank 0 says, and end with it."""
    os._exit(_exit_code(place))  # not through Python's end, which waits for what is no longer there


def _exit_code(place: Place) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides
    show_log(logging.ERROR)
    try:
        _work(place)
    except Exception as error:
        return _report(place, error)
    return 0


def _report(place: Place, error: Exception) -> int:
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


def _work(place: Place) -> None:
    ranks = Ranks(place)
    job = Job.of_numbers(ranks.everyone.receive())
    ranks.divide(job.tp)
    runner = load_part(job, ranks)
    if not ranks.leads_group:
        repeat(runner, ranks.group.receive)
        return
    leader = Leader(runner, ranks.group.send, lambda error: error) if job.tp > 1 else None
    engine = Engine(leader or runner, n_words=job.n_words, n_ids=job.args.vocab_size, stop_tokens=job.stop_tokens)
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
