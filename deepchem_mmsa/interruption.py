"""Ctrl-C and SIGTERM: the step is finished and a checkpoint written before the run ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM)

ONE_REQUEST = 5.0
"""Seconds in which further SIGTERMs belong to the first: a scheduler sends one to every process of
a job, and ``torchrun``, which gets one of them, passes it on to its processes."""


class Interruption:
    """Context manager that records a request to stop (SIGINT or SIGTERM).

    Handlers are set in the main thread only (the only one in which Python handles signals), for
    signals that are not ignored, and restored on exit. A second signal stops immediately, except a
    SIGTERM within :data:`ONE_REQUEST` of another.

    Attributes
    ----------
    signal : int
        The signal received, 0 if none.

    Examples
    --------
    >>> with Interruption() as interruption:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     interruption.signal == signal.SIGTERM
    True
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Set the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                before = signal.getsignal(number)
                # None: not set from Python, so it could not be restored.
                if before is not None and before is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the previous handlers."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            if number == self.signal == signal.SIGTERM and time.monotonic() < self._since:
                return
            self.__exit__()
            raise exception_of(number, "stopped immediately, without writing a checkpoint")
        self.signal, self._since = number, time.monotonic() + ONE_REQUEST
        # Not through logging or print, which may hold a lock when the signal arrives.
        text = "\nfinishing the step, then stopping with a checkpoint; repeat to stop at once\n"
        with suppress(OSError):  # closed, or a terminal that is gone
            os.write(2, text.encode())


def exception_of(number: int, message: str) -> BaseException:
    """Return a signal's exception: KeyboardInterrupt for SIGINT, SystemExit(143) for SIGTERM.

    Examples
    --------
    >>> exception_of(signal.SIGTERM, "stopped").code
    143
    """
    if number == signal.SIGINT:
        return KeyboardInterrupt(message)
    stopped = SystemExit(128 + number)
    stopped.add_note(message)
    return stopped
