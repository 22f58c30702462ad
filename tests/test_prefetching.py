"""Iterating in the background: order, exceptions, threads."""

import threading
import time

import pytest

from deepchem_mmsa import prefetching
from deepchem_mmsa.prefetching import prefetched


def test_keeps_order_and_raises_in_place():
    def items():
        yield from range(20)
        raise KeyError("broken")

    seen = []
    with pytest.raises(KeyError, match="broken"):
        for item in prefetched(items()):
            seen.append(item)
    assert seen == list(range(20))


def test_stops_its_thread_when_left_early():
    before = threading.active_count()
    for item in prefetched(iter(range(10**9)), depth=2):
        if item == 3:
            break
    deadline = time.time() + 5
    while threading.active_count() > before and time.time() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_begins_before_it_is_asked_and_stops_when_closed():
    before, begun = threading.active_count(), threading.Event()

    def items():
        begun.set()
        yield from range(100)

    iterator = prefetched(items())
    assert begun.wait(5)
    iterator.close()
    assert threading.active_count() == before


def test_does_not_wait_for_a_source_that_says_nothing(monkeypatch):
    monkeypatch.setattr(prefetching, "PATIENCE", 0.1)
    silent = threading.Event()

    def source():
        yield 1
        silent.wait()

    ahead = prefetched(source())
    assert next(ahead) == 1
    ahead.close()  # would never return
    silent.set()
