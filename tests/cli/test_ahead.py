"""Records made by other processes, or in a child process, beside the model."""

import os
import shutil
import signal
import time
from contextlib import contextmanager

import pandas as pd
import pytest
from joblib import cpu_count

from deepchem_mmsa import views
from deepchem_mmsa.cli import ahead, rows
from deepchem_mmsa.cli.console import Console, ExitCode, Failure
from deepchem_mmsa.views.isolation import AVAILABLE


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_processes_that_work_ahead_change_nothing(mmsa, models, tmp_path, monkeypatch, command):
    monkeypatch.setattr(rows.compute_table, "__defaults__", (None, None, None, 3))
    table = tmp_path / "many.csv"
    smiles = ["CCO", "C1CC", "", "c1ccccc1O", "[Na+].[Cl-]", "C(", "OCC", "CC(=O)O"]
    table.write_text("smiles\n" + "\n".join(f'"{s}"' for s in smiles) + "\n")
    told = {}
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}.csv"
        done = mmsa(command, table, "-m", models["regression"], "-o", out, "--jobs", jobs)
        assert done.exit_code == 0, done.output
        told[jobs] = out.read_bytes()
    assert told[1] == told[2]
    assert told[1].count(b",failed,") == 3
    assert not list(tmp_path.glob("*.partial"))


def test_a_fault_while_working_ahead_ends_the_run(mmsa, models, tmp_path):
    table = tmp_path / "torn.csv"
    table.write_text("smiles\nCCO\nCC,O\n")
    done = mmsa("predict", table, "-m", models["regression"], "-o", tmp_path / "o.csv", "-j", "2")
    assert done.exit_code == 3
    assert "line 3 has 2 cells" in done.stderr
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("text", ['{"config": [1]}', "[" * 100_000])
def test_a_description_that_is_none_is_told(mmsa, models, table, tmp_path, text):
    folder = shutil.copytree(models["regression"], tmp_path / "model")
    (folder / "config.json").write_text(text)
    done = mmsa("predict", table, "-m", folder)
    assert done.exit_code == 4
    assert "not an exported MMSA model" in done.stderr


def deadly_for(smiles):
    """Return what makes views, and ends the process that comes to `smiles`."""
    make, here = views._make, os.getpid()

    def deadly(task, settings):
        if task.smiles == smiles:
            assert os.getpid() != here
            os.kill(os.getpid(), signal.SIGSEGV)
        return make(task, settings)

    return deadly


@pytest.mark.skipif(not AVAILABLE, reason="needs fork")
@pytest.mark.parametrize("command", ["predict", "embed", "neighbors", "explain"])
def test_a_molecule_that_crashes_costs_its_row(mmsa, models, table, tmp_path, monkeypatch, command):
    """In one process too, which is what a small table gets."""
    if command == "explain":
        pytest.importorskip("captum")
    model = models["regression" if command in ("predict", "explain") else "pretraining"]
    (tmp_path / "known.smi").write_text("CCO\nCCC\n")
    more = ["-r", tmp_path / "known.smi", "-k", 1] if command == "neighbors" else []
    arguments = [command, table, "-m", model, *more]
    written = "explanations.csv" if command == "explain" else ""
    if not written:
        arguments += ["--jobs", 1]
    assert mmsa(*arguments, "-o", tmp_path / "straight.csv").exit_code == 0
    monkeypatch.setattr(views, "_make", deadly_for("CCN"))
    assert mmsa(*arguments, "-o", tmp_path / "out.csv").exit_code == 0
    straight, found = (
        pd.read_csv(tmp_path / name / written, dtype=str, keep_default_na=False)
        for name in ("straight.csv", "out.csv")
    )
    pd.testing.assert_frame_equal(found[:4], straight[:4])
    assert found["mmsa_status"].tolist()[4] == "failed"
    assert "its process ended by SIGSEGV" in found["reason"].iloc[4]


@pytest.mark.skipif(not AVAILABLE, reason="needs fork")
@pytest.mark.parametrize("command", ["neighbors", "predict"])
def test_a_reference_that_crashes_costs_itself(mmsa, models, table, tmp_path, monkeypatch, command):
    others = [n * "C" + "O" for n in range(2, 18)]
    (tmp_path / "known.smi").write_text("\n".join([others[0], "COC", *others[1:]]))
    (tmp_path / "alive.smi").write_text("\n".join(others))
    model = models["regression" if command == "predict" else "pretraining"]
    option = "-r" if command == "neighbors" else "--domain"
    arguments = [command, table, "-m", model, "--jobs", 1, *(["-k", 1] if option == "-r" else [])]
    straight = mmsa(*arguments, option, tmp_path / "alive.smi", "-o", tmp_path / "straight.csv")
    assert straight.exit_code == 0, straight.output
    monkeypatch.setattr(views, "_make", deadly_for("COC"))
    done = mmsa(*arguments, option, tmp_path / "known.smi", "-o", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    straight, found = (
        pd.read_csv(tmp_path / name, dtype=str) for name in ("straight.csv", "out.csv")
    )
    same = [name for name in found if name != "row_1"]  # of the reference, where one is more
    pd.testing.assert_frame_equal(found[same], straight[same])


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_is_shown_row_by_row_and_never_goes_back(
    mmsa, models, table, tmp_path, monkeypatch, jobs
):
    shown = []

    @contextmanager
    def progress(console, what, total):
        yield shown.append

    monkeypatch.setattr(Console, "progress", progress)
    monkeypatch.setattr(rows.compute_table, "__defaults__", (None, None, None, 3))
    arguments = ("predict", table, "-m", models["regression"], "-o", tmp_path / "out.csv")
    assert mmsa(*arguments, "--jobs", jobs).exit_code == 0
    assert shown == sorted(shown)
    assert shown[-1] == 5
    if jobs == 1:
        assert set(shown) == {1, 2, 3, 4, 5}


def test_progress_does_not_wait_for_the_views_of_a_whole_chunk(
    mmsa, models, table, tmp_path, monkeypatch
):
    """With processes in the background: five rows whose views are made, and none computed."""
    shown, halves = [], ahead.Halves()

    @contextmanager
    def progress(console, what, total):
        yield shown.append

    @contextmanager
    def maker(*arguments, **options):
        with record_maker(*arguments, **options) as make:

            def made(molecules):
                while halves.progress is None:  # until the model is loaded
                    time.sleep(0.01)
                yield from make(molecules)

            yield made

    record_maker = ahead.record_maker
    monkeypatch.setattr(ahead, "record_maker", maker)
    monkeypatch.setattr(rows, "Halves", lambda: halves)
    monkeypatch.setattr(Console, "progress", progress)
    done = mmsa(
        "predict", table, "-m", models["regression"], "-o", tmp_path / "out.csv", "--jobs", 2
    )
    assert done.exit_code == 0
    assert shown[:5] == [0, 1, 1, 2, 2]
    assert shown == sorted(shown)
    assert shown[-1] == 5


def test_few_molecules_start_no_processes(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(ahead, "warm_up", started.append)
    few, many = tmp_path / "few.smi", tmp_path / "many.smi"
    few.write_text("CCO\n")
    many.write_text("CCO\n" * (1 << 15))
    assert ahead.processes(0, str(few)) == ahead.processes(0, "-") == 1
    assert ahead.processes(0, str(many)) == ahead.processes(-1, str(few)) == cpu_count()
    assert ahead.processes(3, str(few)) == 3
    assert started == [1, 1, cpu_count(), cpu_count(), 3]


@pytest.mark.parametrize(
    ("command", "option"), [("neighbors", "--reference"), ("predict", "--domain")]
)
def test_the_larger_of_two_tables_decides_on_processes(
    mmsa, models, tmp_path, monkeypatch, command, option
):
    started = []

    def stop(jobs):
        started.append(jobs)
        raise Failure("enough is known", ExitCode.FAULT)

    monkeypatch.setattr(ahead, "warm_up", stop)
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    few, many = tmp_path / "few.smi", tmp_path / "many.smi"
    few.write_text("CCO\n")
    many.write_text("CCO\n" * (1 << 15))
    for source, other in ((few, many), (many, few), (few, few)):
        done = mmsa(command, source, option, other, "-m", models["regression"])
        assert "enough is known" in done.stderr
    assert started == [4, 4, 1]


def test_a_model_that_predicts_nothing_starts_no_processes(mmsa, models, table, monkeypatch):
    monkeypatch.setattr(ahead, "warm_up", lambda jobs: pytest.fail("processes were started"))
    done = mmsa("predict", table, "-m", models["pretraining"], "--jobs", 2)
    assert done.exit_code == 4
    assert "was pre-trained only" in done.stderr


@pytest.mark.parametrize(
    "cores, jobs, threads", [(2, 2, 1), (2, 0, 2), (16, 16, 8), (16, 4, 12), (1, 2, 1)]
)
def test_torch_keeps_half_of_the_cores_beside_processes(monkeypatch, cores, jobs, threads):
    asked = []
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    monkeypatch.setattr("torch.get_num_threads", lambda: cores)
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    with ahead.threads_beside(jobs) as take_all:
        assert asked == [threads]
        take_all()
    assert asked == [threads, cores, cores]
