"""A bar in a terminal, lines in a log."""

import io
import sys

from deepchem_mmsa import progress
from deepchem_mmsa.progress import progress_bar, show_means


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, monkeypatch, shown=True):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with progress_bar(shown, total=3, desc="train", unit="step") as bar:
        for epoch in range(3):
            show_means(bar, epoch + 1, {"loss": 1 / 3, "retrieval": 0.25, "con": 1.0})
            bar.update()
    return stream.getvalue()


def test_a_log_gets_lines_that_say_how_far_and_how_long(monkeypatch):
    first, *_, last, end = shown(io.StringIO(), monkeypatch).split("\n")
    assert end == ""
    assert first.startswith("train:   0% 0/3 [00:00<?")
    assert last.startswith("train: 100% 3/3 [00:00<00:00")
    assert last.endswith("epoch 3 loss 0.3333 retrieval 0.25]")


def test_a_terminal_is_redrawn(monkeypatch):
    text = shown(Terminal(), monkeypatch)
    assert text.count("\n") == 1
    assert text.count("\r") > 1


def test_without_being_asked_only_a_terminal_shows_it(monkeypatch):
    assert shown(io.StringIO(), monkeypatch, None) == shown(Terminal(), monkeypatch, False) == ""
    assert shown(Terminal(), monkeypatch, None)


def test_a_process_without_standard_error_shows_nothing(monkeypatch):
    """Closed by the caller, or that of a window (pythonw)."""
    monkeypatch.setattr(sys, "stderr", None)
    for asked in (True, False, None):
        with progress_bar(asked, total=1) as bar:
            show_means(bar, 1, {"loss": 0.5})
            bar.update()
