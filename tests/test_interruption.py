"""A request to stop: noted, told, and left to whoever handled it before."""

import itertools
import os
import signal
import time

import pytest

from deepchem_mmsa.interruption import ONE_REQUEST, STOPPING, Interruption, exception_of


@pytest.fixture
def slowly(monkeypatch):
    """So that two signals are never one request."""
    monkeypatch.setattr(time, "monotonic", itertools.count(0, 2 * ONE_REQUEST).__next__)


@pytest.mark.parametrize("number", STOPPING)
def test_a_request_is_noted_and_told_and_a_second_one_ends_the_run(slowly, capfd, number):
    before = [signal.getsignal(each) for each in STOPPING]
    with pytest.raises(type(exception_of(number, ""))) as ended, Interruption() as interruption:
        assert interruption.signal == 0
        signal.raise_signal(number)
        assert interruption.signal == number
        assert "finishing the step" in capfd.readouterr().err
        signal.raise_signal(number)
    assert [signal.getsignal(each) for each in STOPPING] == before
    if number == signal.SIGTERM:
        assert ended.value.code == 143


def test_handlers_that_python_did_not_set_stay(monkeypatch):
    """They could not be restored."""
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)
        patch.setattr(signal, "signal", lambda *_: pytest.fail("a handler was replaced"))
        with Interruption() as interruption:
            assert interruption.signal == 0


@pytest.mark.parametrize("number", STOPPING)
def test_a_third_request_meets_the_former_handler(slowly, number):
    """While the second one's exception is on its way."""
    met = []
    before = signal.signal(number, lambda *_: met.append(os.getpid()))
    try:
        with Interruption():
            signal.raise_signal(number)
            with pytest.raises(type(exception_of(number, ""))):
                signal.raise_signal(number)
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert met == [os.getpid()]


def test_a_sigterm_that_torchrun_passes_on_belongs_to_the_scheduler_s(capfd):
    with Interruption() as interruption:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err.count("finishing the step") == 1


def test_a_request_is_noted_where_it_cannot_be_told(monkeypatch):
    """The terminal is gone, or standard error was closed."""

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", fail)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM
