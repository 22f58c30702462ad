"""The same records in one process, in many, on Dask and on Ray; a crash costs one molecule."""

import gc
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import pytest

from deepchem_mmsa import views
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.views import ViewSettings, many_views, stream_views
from deepchem_mmsa.views.isolation import isolated
from tests.conftest import DRUGS
from tests.deadly import Deadly, Endless, Faulty, Leaving, process_id

GRAPH = ViewSettings(("graph",))
ALL = ViewSettings(
    conformer_timeout=1000.0
)  # attempts are limited, not seconds: a busy machine counts
# Molecules, a salt, mistakes, and nothing.
ROWS = [*DRUGS[:14], "C1CC", "", None, "C(C)(C)(C)(C)C", "[Na+].[Cl-]", "*", "C\0"]


@pytest.fixture(scope="module")
def alone():
    """What one process makes of the rows, in bytes."""
    return [record.to_bytes() for record in many_views(ROWS, ALL)]


# --- crashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_crash_costs_that_molecule_only(n_jobs):
    rows = ["CCO", Deadly("CC"), "CCN", Leaving("CCF"), *DRUGS[:30], Deadly("NC"), Deadly("OC")]
    records = many_views(rows, GRAPH, n_jobs, contained=True)
    expected = many_views([r if type(r) is str else None for r in rows], GRAPH)
    assert len(records) == len(rows)
    for row, record, wanted in zip(rows, records, expected):
        if type(row) is str:
            assert record == wanted
        else:
            assert record.smiles == row
            assert not record.readable
    reasons = [record.reasons["graph"] for record in records if not record.readable]
    assert reasons == [
        "unreadable: its process ended by SIGSEGV",
        "unreadable: its process ended by 3",
        "unreadable: its process ended by SIGABRT",
        "unreadable: its process ended by SIGKILL",
    ]


def test_with_several_processes_crashes_are_contained_unasked():
    assert [r.readable for r in many_views(["C", Deadly("C"), "N"], GRAPH, 2)] == [
        True,
        False,
        True,
    ]


def test_shards_are_contained_unasked(tmp_path):
    shards = featurize_to_shards(["C", Deadly("C"), "N"], tmp_path, GRAPH)
    assert [record.readable for record in shards] == [True, False, True]
    assert shards.failures()["reason"].tolist() == ["unreadable: its process ended by SIGSEGV"]


def test_a_molecule_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr("deepchem_mmsa.views._SECONDS", 1.0)
    settings = ViewSettings(("graph",), conformer_timeout=0)
    records = many_views(["C", Endless("CC"), "N"], settings, contained=True)
    assert [record.readable for record in records] == [True, False, True]
    assert "took more than 1 s of processor time" in records[1].reasons["graph"]


def test_chance_deaths_are_tried_again(tmp_path):
    """As when the system kills a process for memory that others had taken."""

    def work(item):
        if item == 2 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return bytes([item])

    assert list(isolated(range(5), work, 10)) == [bytes([item]) for item in range(5)]


def test_a_child_that_sleeps_is_given_up(monkeypatch):
    monkeypatch.setattr("deepchem_mmsa.views.isolation._PATIENCE", 1)

    def work(item):
        time.sleep(60 if item == 1 else 0)
        return b"fine"

    began = time.monotonic()
    assert list(isolated([0, 1, 2], work, 0.5)) == [
        b"fine", "it took more than 0.5 s of processor time", b"fine",
    ]  # fmt: skip
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("files", [2**63 - 1, -1, 2**30])
def test_a_child_lives_where_the_number_of_files_has_no_limit(monkeypatch, files):
    """macOS calls that 2**63 - 1, Linux -1; containers have a billion."""
    known = resource.getrlimit
    monkeypatch.setattr(
        resource,
        "getrlimit",
        lambda what: (files, files) if what == resource.RLIMIT_NOFILE else known(what),
    )
    with open(os.devnull) as file:
        high = os.dup2(file.fileno(), 500)
        try:
            (left,) = isolated([high], lambda n: str(os.path.exists(f"/dev/fd/{n}")).encode(), 10)
        finally:
            os.close(high)
    assert left == b"False"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_fault_of_the_program_is_raised_and_not_hidden(n_jobs):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a fault of the program"):
        many_views(["C", Faulty("CC")], GRAPH, n_jobs, contained=True)


def test_no_child_outlives_its_work_and_no_file_stays_open():
    def children():
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return set(file.read().split())

    gc.collect()  # what other tests left open is not closed in between
    before, files = children(), len(os.listdir("/proc/self/fd"))
    stream = stream_views(itertools.repeat("CCO"), GRAPH, contained=True)
    next(stream)
    stream.close()
    many_views(["C", Deadly("C")] * 3, GRAPH, contained=True)
    assert children() <= before
    assert len(os.listdir("/proc/self/fd")) <= files


def test_nothing_is_printed_by_a_crash(capfd):
    many_views(["C", Deadly("C"), "N"], GRAPH, contained=True)
    assert capfd.readouterr() == ("", "")


def test_nothing_forks_while_another_thread_loads_tables(monkeypatch):
    """A child would inherit RDKit's locks as they are at that moment, and wait for them."""
    settings = ViewSettings(("graph",), image_size=33)  # whose tables nobody has loaded
    loading, loaded, forked = threading.Event(), threading.Event(), []
    make, fork = views._make, os.fork

    def slow(task, settings):
        if threading.current_thread().name == "first" and not loaded.is_set():
            loading.set()
            loaded.wait(60)
        return make(task, settings)

    def watched():
        forked.append(loaded.is_set())
        return fork()

    monkeypatch.setattr(views, "_make", slow)
    monkeypatch.setattr(os, "fork", watched)
    found = {}

    def work():
        name = threading.current_thread().name
        found[name] = [r.smiles for r in many_views(["OCC"], settings, contained=True)]

    threads = [threading.Thread(target=work, name=name) for name in ("first", "second")]
    threads[0].start()
    assert loading.wait(60)
    threads[1].start()
    time.sleep(0.5)  # time to fork, if it could
    loaded.set()
    for thread in threads:
        thread.join()
    assert forked == [True, True]
    assert found == {"first": ["CCO"], "second": ["CCO"]}


# --- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs, ahead", [(1, 1), (2, 1024)])
def test_a_stream_reads_little_ahead(n_jobs, ahead):
    read = []

    def rows():
        for row in itertools.count():
            read.append(row)
            yield "C" * (1 + row % 7)

    stream = stream_views(rows(), GRAPH, n_jobs)
    first = list(itertools.islice(stream, 10))
    assert [len(record.atoms) for record in first] == [1 + row % 7 for row in range(10)]
    assert len(read) <= 10 + ahead
    stream.close()


def test_a_stream_that_is_left_ends_its_work_without_a_warning(recwarn):
    stream = stream_views(["CCO"] * 1000, ViewSettings(("graph",)), n_jobs=2)
    assert next(stream).smiles == "CCO"
    stream.close()
    assert [str(told.message) for told in recwarn] == []


def test_progress_ends_at_the_number_of_molecules():
    seen = []
    many_views(["C"] * 50, GRAPH, 2, seen.append)
    assert seen == list(range(1, 51))


# --- backends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_give_the_same_bytes(alone, n_jobs):
    assert [record.to_bytes() for record in many_views(ROWS, ALL, n_jobs=n_jobs)] == alone


def test_a_child_process_gives_the_same_bytes(alone):
    assert [record.to_bytes() for record in many_views(ROWS, ALL, contained=True)] == alone


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_joblibs_other_backends_give_the_same_bytes(alone, backend):
    with joblib.parallel_config(backend):
        assert [record.to_bytes() for record in many_views(ROWS, ALL, n_jobs=2)] == alone


def test_a_worker_of_the_callers_own_gives_the_same_bytes(alone):
    """As in ``GridSearchCV(n_jobs=2)`` over a step that has several jobs itself."""
    calls = [joblib.delayed(many_views)(ROWS, ALL, n_jobs=2)] * 2
    with joblib.parallel_config("loky"):
        for records in joblib.Parallel(n_jobs=2, timeout=120)(calls):
            assert [record.to_bytes() for record in records] == alone


def same_shards(folder, backend, alone):
    """Make shards on a backend and in this process; compare the bytes of all files."""
    one, other = folder / "one", folder / "other"
    with joblib.parallel_config(**backend):
        shards = featurize_to_shards(ROWS, one, ALL, shard_size=8, n_jobs=2)
    featurize_to_shards(ROWS, other, ALL, shard_size=8)
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    assert [record.to_bytes() for record in shards] == alone


def crashes_stay_contained(backend):
    with joblib.parallel_config(**backend):
        records = many_views(["CCO", Deadly("CC"), "CCN", *DRUGS[:8]], GRAPH, n_jobs=2)
    assert [record.readable for record in records] == [True, False, *[True] * 9]
    assert "SIGSEGV" in records[1].reasons["graph"]


@pytest.mark.slow
def test_dask_gives_the_same_bytes(alone, tmp_path):
    distributed = pytest.importorskip("distributed", reason="pip install 'deepchem_mmsa[dask]'")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        client.run(sys.path.insert, 0, os.getcwd())
        workers = set(client.run(os.getpid).values())
        assert len(workers) == 2
        assert os.getpid() not in workers
        backend = {"backend": "dask"}
        with joblib.parallel_config(**backend):
            assert [record.to_bytes() for record in many_views(ROWS, ALL, n_jobs=-1)] == alone
            used = joblib.Parallel(n_jobs=2)(joblib.delayed(process_id)(0.3) for _ in range(8))
        assert set(used) == workers
        same_shards(tmp_path, backend, alone)
        crashes_stay_contained(backend)
        assert set(client.run(os.getpid).values()) == workers


@pytest.mark.slow
def test_ray_gives_the_same_bytes(alone, tmp_path):
    ray = pytest.importorskip("ray", reason="pip install 'deepchem_mmsa[ray]'")
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(
        num_cpus=2, object_store_memory=10**8, include_dashboard=False, log_to_driver=False,
        configure_logging=False, runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}},
    )  # fmt: skip
    try:
        backend = {"backend": "ray"}
        with joblib.parallel_config(**backend):
            assert [record.to_bytes() for record in many_views(ROWS, ALL, n_jobs=-1)] == alone
            used = joblib.Parallel(n_jobs=2)(joblib.delayed(process_id)(0.3) for _ in range(8))
        assert len(set(used)) == 2
        assert os.getpid() not in used
        same_shards(tmp_path, backend, alone)
        crashes_stay_contained(backend)
    finally:
        ray.shutdown()


BUSY = """
import itertools, pathlib, time
from deepchem_mmsa.views import ViewSettings, stream_views

made = stream_views(itertools.repeat("CCO"), ViewSettings(("graph",)), n_jobs=2)
next(made)
for task in pathlib.Path("/proc/self/task").iterdir():
    print((task / "children").read_text(), end=" ")
print(flush=True)
time.sleep(120)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_workers_of_a_killed_process_end():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as main:
        children = main.stdout.readline().split()
        main.kill()
    assert len(children) >= 2
    deadline = time.monotonic() + 30
    while alive := [pid for pid in children if state(pid) not in "ZX"]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


def state(pid):
    """Return a process's letter in /proc, X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


@pytest.mark.skipif(not hasattr(os, "nice"), reason="the system has no niceness")
def test_workers_in_the_background_yield_to_this_process_but_do_not_starve():
    """At a niceness of 10 other programs got ten times their share; at 3 they get twice it."""

    def niceness(_):
        views._made_chunk([], GRAPH, contain=False, background=True, owner=os.getpid())
        return str(os.nice(0)).encode()

    (found,) = isolated([None], niceness, seconds=60)
    assert max(1, os.nice(0)) <= int(found) <= max(3, os.nice(0))
