"""Ends a long command in an orderly way: the first signal asks, the second one insists."""

from __future__ import annotations

import signal
import time
from types import FrameType

GRACE_SECONDS = 5.0


class Stopping:
    """While entered, SIGINT, SIGTERM and SIGHUP set `requested`; a second one raises KeyboardInterrupt.

    A process that was suspended did not work meanwhile: `awake_since` says when it went on.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.awake_since = 0.0
        self._since = 0.0
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.signal_number is not None

    @property
    def out_of_time(self) -> bool:
        """Whether what was running has had its time to finish."""
        return self.requested and time.monotonic() - self._since > GRACE_SECONDS

    @property
    def exit_code(self) -> int:
        return 0 if self.signal_number is None else 128 + self.signal_number

    def __enter__(self) -> Stopping:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # a shell's background job ignores SIGINT: leave it so
                self._before[number] = signal.signal(number, self._ask)
        self._before[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._wake)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _wake(self, number: int, frame: FrameType | None) -> None:
        self.awake_since = time.monotonic()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.signal_number = number
        self._since = time.monotonic()
