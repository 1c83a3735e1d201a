"""Starts the program: `llama-cli`, or `python -m llama_cli`."""

import atexit
import gc
import os
import signal
import sys

# The imports of a command make some 320,000 objects that stay. Looking for garbage among them after every 700, as
# Python does, takes a sixth of the time until the first token. A row or a token leaves no cycles behind.
FEWEST_TO_COLLECT = 500_000


def _forget_current_folder() -> None:
    """`python -m` looks for modules in the current folder first: that may be a model's, with a torch.py in it."""
    is_safe = getattr(sys.flags, "safe_path", False)  # Python 3.11 and newer
    if not is_safe and os.path.dirname(os.path.dirname(os.path.abspath(__file__))) != sys.path[0]:
        del sys.path[0]


def _leave(codes: list[int]) -> None:
    """End here: Python would take torch's modules apart one by one, 0.4 s in which a pipe's reader waits."""
    if not codes:
        return  # an error that Python reports itself
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return  # for Python to report
    os._exit(codes[0])


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    codes: list[int] = []
    gc.set_threshold(FEWEST_TO_COLLECT)
    atexit.register(_leave, codes)  # the first to be registered is the last to be called
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until there is somebody to catch it, Ctrl-C is no exception in the middle of an import.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from .cli.app import main as run

        signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        from .cli.app import main as run
    codes.append(run())
    return codes[0]


if __name__ == "__main__":
    _forget_current_folder()
    sys.exit(main())
