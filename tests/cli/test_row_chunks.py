"""Chunks of an output that is not whole yet: taken up where they are of the same run."""

import io
import os
import sys
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from deepchem_mmsa.cli import kept_rows, rows
from deepchem_mmsa.cli.console import Console, Interrupted, _explained
from deepchem_mmsa.views import ViewSettings

SMILES = ["CCO", "N", "CC", "O", "CCC"]


class Listening(Console):
    """A console that keeps what it would show."""

    def result(self, values, text, to_stderr=False):
        object.__setattr__(self, "told", text)

    @contextmanager
    def progress(self, what, total):
        object.__setattr__(self, "shown", [])
        yield self.shown.append


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("\n".join(["smiles", *SMILES, ""]))
    return path


@pytest.fixture
def count(table, tmp_path):
    """Count letters, two rows at a time; returns what was computed, and the console."""

    def run(stop=None, failed=(), output="out.csv", ended=KeyboardInterrupt, **arguments):
        computed, console = [], Listening(quiet=True)

        def compute(table, molecules, progress):
            if table.start == stop:
                raise ended
            computed.extend(table.smiles)
            progress(1)
            n = np.array([len(s) for s in table.smiles])
            found = {"n": n, "half": (n / 3).astype(np.float32), "long": n > 2}
            return pd.DataFrame(found), [f"no {s}" if s in failed else "" for s in table.smiles]

        arguments = {"chunk": 2, "identity": {"model": "a"}, **arguments}
        output = output if output == "-" else str(tmp_path / output)
        rows.compute_table(console, "count", str(table), output, lambda: compute, **arguments)
        return computed, console

    return run


def test_what_was_kept_is_not_computed_again_and_ends_the_same(count, tmp_path):
    count(output="straight.csv")
    with pytest.raises(Interrupted, match="2 finished rows are kept"):
        count(stop=2)
    with pytest.raises(Interrupted, match="4 finished rows are kept"):
        count(stop=4)
    assert count()[0] == SMILES[4:]
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "straight.csv").read_bytes()


def test_an_interruption_says_what_is_kept_where_nothing_is(count, tmp_path):
    with pytest.raises(Interrupted, match="Nothing was finished yet; run the same"):
        count(stop=0)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    with pytest.raises(Interrupted, match="Nothing is kept; with files for input and output"):
        count(stop=2, output="-")
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("ended", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)]  # Ctrl-C, SIGTERM
)  # fmt: skip
def test_both_ways_to_stop_a_run_keep_its_rows(count, ended, code):
    with pytest.raises(Interrupted, match="2 finished rows are kept") as stopped:
        count(stop=2, ended=ended)
    assert _explained(stopped.value)[0] == code
    assert count()[0] == SMILES[2:]


def test_an_interruption_does_not_wait_for_the_rest_of_a_chunk(count, monkeypatch):
    @contextmanager
    def slow(settings, jobs):
        def prepare(table, tell):
            for done in range(3000 if table.start else 1):
                tell(done)
                time.sleep(0.01)
            return table.smiles

        yield prepare

    monkeypatch.setattr(rows, "records_ahead", slow)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        count(stop=0, ended=SystemExit(143), ahead=(ViewSettings(("graph",)), 2))
    assert time.monotonic() - began < 5  # of 30


def test_rows_of_standard_input_are_not_kept_for_another(tmp_path, monkeypatch):
    output = tmp_path / "out.csv"

    def run(smiles, stop):
        def compute(table, molecules, progress):
            if table.start == stop:
                raise KeyboardInterrupt
            return pd.DataFrame({"n": [len(s) for s in table.smiles]}), [""] * len(table)

        given = io.BytesIO("\n".join(["smiles", *smiles]).encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(given)))
        console = Console(quiet=True)
        rows.compute_table(console, "count", "-", str(output), lambda: compute, chunk=2)

    with pytest.raises(Interrupted, match="Nothing is kept"):
        run(["C", "CC", "CCC"], 2)
    assert list(tmp_path.iterdir()) == []
    run(["N", "NN", "NNN"], None)
    assert pd.read_csv(output)["smiles"].tolist() == ["N", "NN", "NNN"]


@pytest.mark.parametrize("changed", ["content", "identity", "format", "chunk", "version"])
def test_what_was_kept_of_another_run_is_computed_again(count, table, monkeypatch, changed):
    with pytest.raises(Interrupted):
        count(stop=2)
    other = {"identity": {"model": "b"}, "format": "csv", "chunk": 3}
    if changed == "content":  # of the same length
        os.utime(table, ns=(0, 0))
    elif changed == "version":
        monkeypatch.setattr(kept_rows, "__version__", "another")
    assert count(**({changed: other[changed]} if changed in other else {}))[0] == SMILES


def test_a_part_that_is_damaged_is_computed_again(count, tmp_path):
    with pytest.raises(Interrupted):
        count(stop=4)
    (tmp_path / "out.csv.partial" / "000001.parquet").write_bytes(b"half")
    assert count()[0] == SMILES[2:]


def test_the_first_failure_is_named_by_its_row_of_the_table(count):
    told = count(failed=("CC", "O", "CCC"))[1].told
    assert "2 of 5 rows computed" in told
    assert told.endswith("3 failed; the first is row 3: no CC")
    assert count(failed=("O", "CCC"))[1].told.endswith("2 failed; the first is row 4: no O")


def test_views_of_what_was_kept_are_not_made_again(count, monkeypatch):
    made = []

    @contextmanager
    def noted(settings, jobs):
        yield lambda table, tell: made.append(table.start) or table.smiles

    monkeypatch.setattr(rows, "records_ahead", noted)
    with pytest.raises(Interrupted):
        count(stop=4)
    assert made == [0, 2, 4]
    assert count()[0] == SMILES[4:]
    assert made == [0, 2, 4, 4]


def test_progress_goes_on_through_the_chunks(count):
    assert count()[1].shown == [1, 2, 3, 4, 5, 5]


def test_new_columns_are_called_as_no_other():
    frame = pd.DataFrame(columns=["a", "mmsa_a", "mmsa_a_2"])
    assert rows.new_names(frame, ["a", "b", "a"]) == ["mmsa_a_3", "b", "mmsa_a_4"]


def test_a_file_is_told_by_its_content(tmp_path):
    for name, content in (("a", "CCO"), ("b", "CCO"), ("c", "CCN")):
        (tmp_path / name).write_text(content)
    one, same, other = (rows.file_identity(tmp_path / name) for name in "abc")
    assert one == same != other
