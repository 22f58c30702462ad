"""Background iteration: the next items are prepared while the current step is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds that a thread is given to end its work.
PATIENCE = 10.0


def prefetched(
    items: Iterable[T], depth: int = 2, stopping: threading.Event | None = None
) -> Generator[T, None, None]:
    """Iterate in a background thread, some items ahead; order and values are unchanged.

    Image decoding releases the GIL, so one thread hides the cost of preparing batches behind the
    computation of the previous step. The thread starts immediately, and ends when the generator
    is exhausted, closed or garbage-collected; an exception in it is raised here.

    Parameters
    ----------
    items : iterable
    depth : int
        Maximum number of prepared items.
    stopping : threading.Event, optional
        Set when no further item is needed, also after an exception; slow producers may check it.

    Examples
    --------
    >>> list(prefetched(range(3)))
    [0, 1, 2]
    """
    generator = _prefetched(items, depth, stopping or threading.Event())
    next(generator)
    return generator


def _prefetched(
    items: Iterable[Any], depth: int, stop: threading.Event
) -> Generator[Any, None, None]:
    """Start the thread, yield once, then the items."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end", None)
        except BaseException as error:  # handed to the consumer, who raises it
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield None
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join(PATIENCE)  # it cannot be told to stop waiting for a silent pipe
