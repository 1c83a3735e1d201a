"""Starts the program: `llama-cli`, or `python -m llama_cli`."""

import signal
import sys


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
    sys.exit(main())
