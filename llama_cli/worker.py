"""Starts a rank: `python worker.py`, and behind it the sys.path of rank 0. Nothing is imported before that is set."""

import sys


def main() -> None:
    """A process that rank 0 has started: its standard input ends when rank 0 does."""
    import os
    import threading

    from llama_cli.loader import load_part
    from llama_cli.parallel.follow import follow
    from llama_cli.parallel.launch import READY
    from llama_cli.parallel.ranks import Place

    place = Place.of(os.environ)
    threading.Thread(target=_end_with_rank_0, args=(place.store,), daemon=True).start()
    os.write(1, READY)
    os.dup2(2, 1)
    follow(place, load_part, _show_error)


def _end_with_rank_0(store: str | None) -> None:
    import os
    import shutil

    from llama_cli.parallel.launch import LOST_THE_OTHERS

    while os.read(0, 1024):
        pass
    if store:  # rank 0 may have been killed, and left its folder behind
        shutil.rmtree(os.path.dirname(store), ignore_errors=True)
    os._exit(LOST_THE_OTHERS)


def _show_error(message: str, hint: str | None, code: int) -> None:
    """One line each, as rank 0 looks for them when a rank has ended."""
    for line in [f"llama-cli: error: {message}"] + [f"hint: {hint}"] * (hint is not None):
        sys.stderr.write(" ".join(line.splitlines()) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    # Python has put the folder of this file first, where `files` or `model` would be found as modules of their own.
    sys.path[:] = sys.argv[1:]
    main()
