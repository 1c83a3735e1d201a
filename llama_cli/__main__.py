"""Starts the program: `llama-cli`, or `python -m llama_cli`."""

import os
import signal
import sys


def _forget_current_folder() -> None:
    """`python -m` looks for modules in the current folder first: that may be a model's, with a torch.py in it."""
    is_safe = getattr(sys.flags, "safe_path", False)  # Python 3.11 and newer
    if not is_safe and os.path.dirname(os.path.dirname(os.path.abspath(__file__))) != sys.path[0]:
        del sys.path[0]


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until there is somebody to catch it, Ctrl-C is no exception in the middle of an import.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from .cli.app import main as run

        signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        from .cli.app import main as run
    return run()


if __name__ == "__main__":
    _forget_current_folder()
    sys.exit(main())
