"""Run work that may crash in a child process: a crash costs one item, which is reported.

RDKit is C++: a molecule that overflows its stack or its memory ends the whole process, and no
Python code can catch that or interrupt a call that does not return. So items are processed in a
forked child, which inherits everything loaded and costs a few milliseconds; each result is sent
at once, so that when the child dies, the item that it was processing is known.
"""

from __future__ import annotations

import faulthandler
import gc
import math
import os
import select
import signal
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

AVAILABLE = hasattr(os, "fork")
"""Whether this system can fork; on Windows nothing is isolated."""

_MESSAGE = struct.Struct("<BQ")  # kind, bytes that follow
_RESULT, _FAULT = 0, 1
_MOST_FILES = 1 << 16  # closed in a child; the system may set no limit, or one of a billion
_PATIENCE = 10  # wall time per processor time, for a child that sleeps or waits for a lock


class Lost(str):
    """Why an item has no result, such as the signal that ended its process."""


_lock = threading.Lock()


def _forked() -> None:
    """Give a child its own lock: a thread that holds this one does not exist there."""
    global _lock
    _lock = threading.Lock()


if AVAILABLE:
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def no_other_fork() -> Iterator[None]:
    """Keep other threads from forking children, and wait for those that are about to.

    A lock of RDKit's that one thread holds while another one forks is never released in the child,
    which then waits for it until its time is over. Held at the fork, and while this process is in
    RDKit on behalf of its children.
    """
    with _lock:
        yield


def isolated(
    items: Sequence[T], work: Callable[[T], bytes], seconds: float
) -> Iterator[bytes | Lost]:
    """Yield ``work(item)`` for each item, computed in a child process, in their order.

    Parameters
    ----------
    items : sequence
    work : callable
        Item → bytes. Nothing that it changes is seen by this process.
    seconds : float
        Processor time per item; the wall time is limited to ten times as much.

    Yields
    ------
    bytes or Lost
        :class:`Lost` for an item that ended its process twice (once may be chance, such as
        memory that others had taken), or that exceeded its time.

    Raises
    ------
    RuntimeError
        If `work` raises, which is a bug; the message is its traceback.

    Examples
    --------
    >>> def work(item):
    ...     return b"fine" if item else os.kill(os.getpid(), signal.SIGSEGV)
    >>> list(isolated([1, 0, 1], work, seconds=60))
    [b'fine', 'its process ended by SIGSEGV', b'fine']
    """
    done, deaths = 0, 0
    while done < len(items):
        child = _Child(items[done:], work, seconds)
        try:
            for result in child.results():
                yield result
                done, deaths = done + 1, 0
        finally:
            reason = child.end()
        if done < len(items):
            deaths += 1
            if deaths == 2 or child.out_of_time:
                yield Lost(reason)
                done, deaths = done + 1, 0


class _Child:
    """A forked process that works through items."""

    def __init__(self, items: Sequence[T], work: Callable[[T], bytes], seconds: float) -> None:
        self.out_of_time = False
        self._seconds = seconds
        self._source, sink = os.pipe()
        with no_other_fork():
            self._pid = os.fork()
        if self._pid == 0:
            _work_and_exit(items, work, seconds, sink)
        os.close(sink)

    def results(self) -> Iterator[bytes]:
        """Yield results until the child has finished or died."""
        while header := self._read(_MESSAGE.size):
            kind, size = _MESSAGE.unpack(header)
            body = self._read(size)
            if len(body) < size:
                return
            if kind == _FAULT:
                raise RuntimeError(f"making a record failed:\n{body.decode()}")
            yield body

    def end(self) -> str:
        """Make sure that the child has ended; return why it did."""
        os.close(self._source)
        try:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            if not ended:
                # It has finished and is about to exit, or its results are no longer wanted.
                os.kill(self._pid, signal.SIGKILL)
                _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:  # other code in this process has waited for it
            return "its process ended"
        code = os.waitstatus_to_exitcode(status)
        self.out_of_time |= -code == signal.SIGXCPU
        if self.out_of_time:
            return f"it took more than {self._seconds:g} s of processor time"
        return f"its process ended by {signal.Signals(-code).name if code < 0 else code}"

    def _read(self, size: int) -> bytes:
        """Read `size` bytes, or fewer if the child has ended."""
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        parts: list[bytes] = []
        while size:
            if not poll.poll(1000 * _PATIENCE * self._seconds):
                self.out_of_time = True
                return b""
            part = os.read(self._source, min(size, 1 << 20))
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _work_and_exit(
    items: Sequence[T], work: Callable[[T], bytes], seconds: float, sink: int
) -> None:
    """Run the child; this never returns."""
    import resource  # like fork, not on Windows

    code = 1
    try:
        # Locks and sockets of the parent must not outlive it here.
        os.closerange(3, sink)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        os.closerange(sink + 1, most if 0 <= most < _MOST_FILES else _MOST_FILES)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        gc.freeze()  # a collection would copy all memory that is still shared with the parent
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        for item in items:
            limit = math.ceil(time.process_time() + seconds)
            soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
            _send(sink, _RESULT, work(item))
        code = 0
    except BaseException:  # whatever it is, the parent raises it
        _send(sink, _FAULT, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _send(sink: int, kind: int, body: bytes) -> None:
    message = memoryview(_MESSAGE.pack(kind, len(body)) + body)
    while message:
        message = message[os.write(sink, message) :]
