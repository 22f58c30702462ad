"""Rows that an interrupted command keeps: whose they are, and where it continues."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from deepchem_mmsa import MMSAPredictor
from deepchem_mmsa.cli import rows
from deepchem_mmsa.cli.console import ExitCode
from deepchem_mmsa.cli.kept_rows import KeptRows, read_part
from deepchem_mmsa.tables import read_chunks, write_chunks, write_table
from tests.conftest import DRUGS

SMILES = ["CCO", "C1CC", "", "c1ccccc1", "CCN"]


def test_every_option_that_decides_the_numbers_is_part_of_what_is_kept(
    mmsa, models, table, tmp_path, monkeypatch
):
    kept = []

    class Noted(KeptRows):
        def __init__(self, source, output, identity):
            super().__init__(source, output, identity)
            kept.append(self._text)

    monkeypatch.setattr(rows, "KeptRows", Noted)
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["SMILES", *DRUGS[: 20 + len(name)], name]))
    other = [tmp_path / "one.csv", tmp_path / "two.csv"]
    other[1].write_text("\n".join(["SMILES", *DRUGS[:24]]))
    trained, bare = models["regression"], models["pretraining"]
    single = tmp_path / "single.csv"
    single.write_text("SMILES\nCO\n")
    column = ["--smiles-column", "SMILES"]
    compared = ["--reference", other[0]]
    named = ["--reference-column", "SMILES"]
    for command, choices in (
        (["predict", table, "-m", trained], [
            [], column, ["--uncertainty", 2], ["--uncertainty", 3],
            ["--uncertainty", 2, "--batch-size", 3], ["--domain", other[0]], ["--domain", other[1]],
            ["--domain", other[0], "--domain-column", "SMILES"],
        ]),
        (["predict", table, "-m", models["classification"]], [[]]),
        (["embed", table, "-m", bare], [[], column, ["--features"]]),
        (["neighbors", table, "-m", bare, *compared], [[], column, named, ["--count", 2]]),
        (["neighbors", table, "-m", bare, "--reference", other[1]], [[]]),
        (["explain", single, "-m", trained], [
            [], column, ["--svg"], compared, [*compared, *named], ["--reference", other[1]],
        ]),
        (["explain", single, "-m", models["classification"]], [
            [], ["--task", "b"], ["--target", 0],
        ]),
    ):  # fmt: skip
        for more in choices:
            out = tmp_path / ("why" if command[0] == "explain" else "out.csv")
            done = mmsa(*command, "-o", out, *more)
            assert done.exit_code == 0, (command, more, done.output)
    assert len(kept) == 26
    assert len(set(kept)) == len(kept)


def interrupt_second_chunk(monkeypatch):
    """Interrupt the second prediction; return the SMILES of each, as they are asked for."""
    predict, asked = MMSAPredictor.predict, []

    def interrupted(self, molecules, *arguments):
        asked.append([molecule.smiles for molecule in molecules])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return predict(self, molecules, *arguments)

    monkeypatch.setattr(MMSAPredictor, "predict", interrupted)
    return asked


def test_an_interrupted_run_goes_on_where_it_was(mmsa, models, table, tmp_path, monkeypatch):
    monkeypatch.setattr(rows.compute_table, "__defaults__", (None, None, None, 2))
    command = ["predict", table, "--model", models["classification"]]
    assert mmsa(*command, "-o", tmp_path / "straight.csv").exit_code == 0
    asked = interrupt_second_chunk(monkeypatch)
    out = tmp_path / "out.csv"
    stopped = mmsa(*command, "-o", out)
    assert stopped.exit_code == 130
    assert "2 finished rows are kept" in stopped.stderr
    assert "same command again" in stopped.stderr
    assert not out.exists()
    assert mmsa(*command, "-o", out).exit_code == 0
    assert asked[2:] == [SMILES[2:4], SMILES[4:]]
    assert out.read_bytes() == (tmp_path / "straight.csv").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv", "straight.csv"]


def test_half_an_output_of_a_killed_run_is_removed(mmsa, models, table, tmp_path):
    (tmp_path / ".out.csv.a1b2c3d4.part").write_text("id,SMILES")  # test_atomic.py: its name
    out = ["-o", tmp_path / "out.csv"]
    assert mmsa("predict", table, "--model", models["regression"], *out).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_what_was_kept_of_another_input_is_not_taken_up(mmsa, models, table, tmp_path, monkeypatch):
    monkeypatch.setattr(rows.compute_table, "__defaults__", (None, None, None, 2))
    command = ["predict", table, "-m", models["regression"], "-o", tmp_path / "out.csv"]
    asked = interrupt_second_chunk(monkeypatch)
    assert mmsa(*command).exit_code == 130
    table.write_text("SMILES\nCCCC\nCCO\nC\n")
    assert mmsa(*command).exit_code == 0
    assert asked[2] == ["CCCC", "CCO"]
    assert pd.read_csv(tmp_path / "out.csv")["SMILES"].tolist() == ["CCCC", "CCO", "C"]


def test_a_chunk_is_taken_up_for_the_same_file_and_version_alone(tmp_path, monkeypatch):
    source, frame = tmp_path / "in.csv", pd.DataFrame({"a": [1]})

    def found():
        with KeptRows(str(source), str(tmp_path / "out.csv"), {}) as parts:
            there = parts.read(0) is not None
            parts.keep(0, frame)
        return there

    source.write_text("C")
    os.utime(source, (1, 1))
    assert [found(), found()] == [False, True]
    os.utime(source, (2, 2))
    assert [found(), found()] == [False, True]
    source.write_text("CC")
    os.utime(source, (2, 2))
    assert [found(), found()] == [False, True]
    monkeypatch.setattr("deepchem_mmsa.cli.kept_rows.__version__", "0")
    assert [found(), found()] == [False, True]


def test_two_runs_do_not_write_to_one_output(mmsa, models, table, tmp_path):
    output = tmp_path / "out.csv"
    place = tmp_path / "out.csv.partial"
    place.mkdir()
    asked = ("predict", table, "--model", models["regression"], "--output", output)
    with FileLock(place / "lock"):
        done = mmsa(*asked)
    assert done.exit_code == ExitCode.OUTPUT
    assert "another process is writing to" in done.output
    assert mmsa(*asked).exit_code == 0
    assert output.is_file()
    assert not place.exists()
    assert mmsa(*asked[:3], tmp_path / "none", *asked[4:]).exit_code == ExitCode.MODEL
    assert not place.exists()


def test_a_place_where_nothing_can_be_kept_is_told(mmsa, models, table, tmp_path):
    out = tmp_path / "out.csv"
    (tmp_path / "out.csv.partial").touch()
    done = mmsa("predict", table, "-m", models["regression"], "-o", out)
    assert done.exit_code == 5
    assert "cannot write to" in done.stderr
    assert "File exists; give another --output" in done.stderr.replace("\n", " ")


def test_parts_hold_every_type_of_parquet(tmp_path):
    frame = pd.DataFrame(
        {
            "kind": pd.Categorical(["a", "b", None]), "bits": [[1, 2], [], None],
            "record": [{"x": 1}, {"x": 2}, None], "text": ["a", None, "c"],
        }
    )  # fmt: skip
    frame.to_parquet(tmp_path / "in.parquet")
    first = next(read_chunks(tmp_path / "in.parquet", 10, "text")).frame
    write_table(first, tmp_path / "part.parquet", notes=True)
    again = read_part(tmp_path / "part.parquet")
    assert again.to_dict("list").keys() == first.to_dict("list").keys()
    for name in first:
        assert [str(x) for x in again[name]] == [str(x) for x in first[name]]
    write_table(first, tmp_path / "first.parquet")
    write_table(again, tmp_path / "again.parquet")
    written = [(tmp_path / f"{name}.parquet").read_bytes() for name in ("first", "again")]
    assert written[0] == written[1]
    assert pd.read_parquet(tmp_path / "first.parquet")["bits"][0].tolist() == [1, 2]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_was_computed_is_written_from_a_part_as_it_was(tmp_path, ending):
    """Beside a chunk that is new, and where the first one holds no value."""
    values = [0.1, np.nan, 1e-300, np.inf]
    frame = pd.DataFrame(
        {
            "double": values, "single": np.array(values, "float32"), "whole": [1, -2, 2**62, 0],
            "truth": [True, False] * 2, "row": pd.array([1, None, 3, 4], dtype="Int64"),
        }
    )  # fmt: skip
    gaps = frame[1:2].assign(row=pd.array([None], dtype="Int64"))
    for name, chunk in (("frame", frame), ("gaps", gaps)):
        write_table(chunk, tmp_path / f"{name}.part.parquet", notes=True)
    kept, kept_gaps = (read_part(tmp_path / f"{name}.part.parquet") for name in ("frame", "gaps"))
    for straight, resumed in (
        ([frame, gaps], [kept, gaps]), ([gaps, frame], [kept_gaps, frame]),
        ([gaps, frame], [kept_gaps, kept]),
    ):  # fmt: skip
        written = []
        for name, chunks in (("straight", straight), ("resumed", resumed)):
            write_chunks(chunks, tmp_path / f"{name}.{ending}")
            written.append((tmp_path / f"{name}.{ending}").read_bytes())
        assert written[0] == written[1]


@pytest.mark.slow
def test_an_interruption_ends_the_wait_for_a_silent_pipe(models):
    command = [sys.executable, "-m", "deepchem_mmsa", "predict", "-", "-j", "2", "-m"]
    process = subprocess.Popen(
        [*command, models["regression"]], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdin.write("smiles\n" + "CCO\n" * 20_000)  # more than is taken at once
    process.stdin.flush()
    time.sleep(10)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = process.stderr.read()
    assert "interrupted" in said
    assert "Fatal" not in said
