"""Nothing is lost: killed, interrupted and failing runs, and what is left of them."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepchem_mmsa import EarlyStopping
from deepchem_mmsa.checkpoint import CheckpointError, load_state, save_state
from deepchem_mmsa.interruption import Interruption
from deepchem_mmsa.run_folder import LOCK, RunFolder

ROOT = Path(__file__).parents[1]


def same_weights(a, b):
    a, b = a.model.state_dict(), b.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a if torch.is_tensor(a[k]))


# ---- killed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_runs_end_as_if_nobody_had_killed_them(kills):
    """In pre-training and in fine-tuning, at any moment and in the writing of a checkpoint."""
    # In memory where there is such a folder: the disk is not what is tested.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(dir=place)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.killed_runs", folder, str(kills), "7"],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()[-2:]]
    assert [run["mode"] for run in runs] == ["pretraining", "regression"]
    for run in runs:
        assert run["differs"] == []
        assert sum(run["killed"].values()) == kills, run["killed"]
        assert run["compared"] > 100
        assert run["left"] == [LOCK, "checkpoint1.pt", "checkpoint2.pt", "checkpoint3.pt"]


# ---- damaged files --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_checkpoint_is_never_taken_for_a_whole_one(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("t") / "checkpoint1.pt"
    save_state(path, {"weights": torch.arange(300.0), "history": [{"loss": 1.0}]})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_state(path)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(place=0.2643366060785106, bit=2)  # an EOFError that says nothing
def test_a_flipped_bit_never_becomes_a_weight(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("t") / "checkpoint1.pt"
    state = {"weights": torch.arange(300.0), "history": [{"loss": 1.0}]}
    save_state(path, state)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        read = load_state(path)
    except CheckpointError:
        return
    assert torch.equal(read["weights"], state["weights"])
    assert read["history"] == state["history"]


def test_a_damaged_newest_checkpoint_costs_only_its_steps(
    make_model, graph_dataset, tmp_path, caplog
):
    def fit(folder, restore=False):
        model = make_model(mode="regression", model_dir=str(tmp_path / folder))
        model.fit(graph_dataset, nb_epoch=2, checkpoint_interval=1, restore=restore)
        return model

    whole, broken = fit("a"), fit("b")
    newest, older = broken.get_checkpoints()[:2]
    Path(newest).write_bytes(Path(newest).read_bytes()[:-100])
    assert load_state(older)["global_step"] == broken.get_global_step()
    Path(older).write_bytes(b"")
    again = fit("b", restore=True)
    assert caplog.text.count("skipped a damaged checkpoint") == 2
    assert same_weights(whole, again)
    assert again.history == whole.history


# ---- disks and folders ------------------------------------------------------------------------


def test_a_full_disk_is_told_and_harms_nothing(make_model, graph_dataset, tmp_path, monkeypatch):
    model = make_model(mode="regression", model_dir=str(tmp_path))
    model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(value, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left on device.*what stood there before") as told:
        model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=1)
    assert told.value.errno == errno.ENOSPC
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 300 kB."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("a file system of a given size needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_during_a_run(make_model, graph_dataset, small_disk):
    model = make_model(mode="regression", model_dir=str(small_disk))
    with pytest.raises(OSError, match=r"No space left on device"):
        model.fit(graph_dataset, nb_epoch=2, checkpoint_interval=1, max_checkpoints_to_keep=50)
    paths = model.get_checkpoints()
    assert paths
    assert all(load_state(path)["global_step"] for path in paths)
    assert not list(small_disk.glob(".*.pt.*"))


def in_child_as_nobody(work):
    """Run `work` without root's rights in a copy of this process; return what it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            work()
            os.write(writer, b"nothing raised")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


def test_a_read_only_folder_is_told_before_the_run(tmp_path):
    tmp_path.chmod(0o555)
    told = in_child_as_nobody(lambda: RunFolder(tmp_path / "models").__enter__())
    assert told.startswith("PermissionError")
    assert "the run cannot write its checkpoints (Permission denied)" in told
    assert str(tmp_path) in told


def test_a_folder_that_is_a_file(make_model, graph_dataset, tmp_path):
    model = make_model(mode="regression", model_dir=str(tmp_path / "run"))
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="the run cannot write its checkpoints"):
        model.fit(graph_dataset, nb_epoch=1)
    assert np.isfinite(model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0))


def test_a_folder_deleted_under_the_run(make_model, graph_dataset, tmp_path):
    folder = tmp_path / "run"
    model = make_model(mode="regression", model_dir=str(folder))

    def delete(model, step):
        if step == 3:
            shutil.rmtree(folder)

    with pytest.raises(FileNotFoundError, match="was removed or replaced while a run"):
        model.fit(graph_dataset, nb_epoch=2, checkpoint_interval=1, callbacks=delete)
    assert model.get_global_step() == 3
    assert not folder.exists()
    model.save_checkpoint(model_dir=str(tmp_path / "elsewhere"))  # as the error advises
    assert load_state(tmp_path / "elsewhere" / "checkpoint1.pt")["global_step"] == 3


# ---- two writers ------------------------------------------------------------------------------


def test_one_writer_at_a_time(make_model, graph_dataset, tmp_path):
    first = make_model(mode="regression", model_dir=str(tmp_path))
    second = make_model(mode="regression", model_dir=str(tmp_path))
    seen = []

    def intrude(model, step):
        with pytest.raises(RuntimeError, match=rf"process {os.getpid()} on .* is training into"):
            second.fit(graph_dataset, nb_epoch=1)
        assert np.isfinite(second.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0))
        seen.append(step)

    first.fit(graph_dataset, nb_epoch=1, callbacks=intrude)
    assert seen
    second.fit(graph_dataset, nb_epoch=1)  # the lock is held during a run only


def test_the_lock_of_a_dead_process_does_not_hold(tmp_path):
    child = os.fork()
    if child == 0:
        RunFolder(tmp_path).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert (tmp_path / LOCK).exists()
    with RunFolder(tmp_path) as folder:
        folder.check()


# ---- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number, exception", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_finishes_the_step_and_says_how_to_go_on(
    make_model, graph_dataset, tmp_path, caplog, number, exception
):
    def fit(folder, callbacks=(), restore=False):
        model = make_model(mode="pretraining", memory_warmup=16, model_dir=str(tmp_path / folder))
        stopping = EarlyStopping(graph_dataset, patience=50)
        model.fit(graph_dataset, nb_epoch=3, restore=restore, callbacks=[stopping, *callbacks])
        return model

    def send(model, step):
        if step == 7:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(exception) as stopped:
        fit("b", [send])
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    if number == signal.SIGTERM:
        assert stopped.value.code == 143
    assert "after step 7" in caplog.text
    assert "the same command with fit(..., restore=True) resumes from there" in caplog.text
    assert load_state(tmp_path / "b" / "checkpoint1.pt")["global_step"] == 7
    whole, resumed = fit("a"), fit("b", restore=True)
    assert same_weights(whole, resumed)
    assert resumed.history == whole.history


def test_a_second_signal_is_obeyed_at_once():
    with pytest.raises(KeyboardInterrupt, match="stopped immediately"), Interruption():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_signals_are_left_alone_outside_the_main_thread_and_where_they_are_ignored():
    seen = []

    def enter():
        with Interruption() as interruption:
            seen.append(interruption._before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [{}]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with Interruption():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---- runs that ended, and runs that never began -------------------------------------------------


def test_restore_without_a_checkpoint_begins(make_model, graph_dataset, tmp_path):
    model = make_model(mode="regression", scale_labels=False, model_dir=str(tmp_path / "a"))
    model.fit(graph_dataset, nb_epoch=1, restore=True)
    plain = make_model(mode="regression", scale_labels=False, model_dir=str(tmp_path / "b"))
    plain.fit(graph_dataset, nb_epoch=1)
    assert same_weights(model, plain)
    generated = make_model(mode="regression", scale_labels=False, model_dir=str(tmp_path / "c"))
    batches = generated.default_generator(graph_dataset, 1, deterministic=False)
    generated.fit_generator(batches, restore=True)
    assert same_weights(generated, plain)


def test_a_run_that_ended_is_not_begun_again(make_model, graph_dataset, tmp_path):
    def fit(epochs):
        model = make_model(mode="regression", model_dir=str(tmp_path), learning_rate=0.05)
        losses, stopping = [], EarlyStopping(graph_dataset, patience=1)
        last = model.fit(
            graph_dataset, nb_epoch=epochs, restore=True, callbacks=stopping, all_losses=losses
        )
        return model, losses, last, stopping.best_score

    first, losses, last, best = fit(40)
    assert len(first.history) < 40  # stopped early
    written = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.pt")}
    again, losses_again, last_again, best_again = fit(40)
    assert same_weights(first, again)
    assert (losses_again, last_again, best_again) == (losses, last, best)
    assert again.history == first.history
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.pt")} == written


def test_killed_after_early_stopping_but_before_the_end(make_model, graph_dataset, tmp_path):
    class Killed(Exception):
        pass

    class Dying:
        def __call__(self, model, step):
            pass

        def on_fit_end(self, model):
            raise Killed

    def fit(folder, callbacks=()):
        model = make_model(mode="regression", model_dir=str(tmp_path / folder), learning_rate=0.05)
        stopping = EarlyStopping(graph_dataset, patience=1)
        model.fit(
            graph_dataset, nb_epoch=40, checkpoint_interval=1, restore=True,
            callbacks=[*callbacks, stopping],
        )  # fmt: skip
        return model

    whole = fit("a")
    with pytest.raises(Killed):
        fit("b", [Dying()])
    # A callback more than before: its state is matched by position, so it stands first.
    resumed = fit("b", [lambda model, step: None])
    assert resumed.history == whole.history
    assert same_weights(whole, resumed)


def test_the_optimizer_of_chosen_variables_goes_on(make_model, graph_dataset, tmp_path):
    class Interrupt(Exception):
        pass

    def fit(folder, stop=None, restore=False):
        model = make_model(mode="regression", model_dir=str(tmp_path / folder))

        def callback(model, step):
            if step == stop:
                raise Interrupt

        model.fit(
            graph_dataset, nb_epoch=3, checkpoint_interval=1, restore=restore,
            variables=list(model.model.head.parameters()), callbacks=callback,
        )  # fmt: skip
        return model

    whole = fit("a")
    with pytest.raises(Interrupt):
        fit("b", stop=7)
    assert same_weights(whole, fit("b", restore=True))


def test_the_middle_of_an_epoch_is_of_that_epoch(make_model, graph_dataset, tmp_path):
    def killed(model, step):
        if step == 3:
            raise RuntimeError("killed")

    def model(size):
        return make_model(mode="regression", model_dir=str(tmp_path), batch_size=size)

    with pytest.raises(RuntimeError, match="killed"):
        model(4).fit(graph_dataset, nb_epoch=2, checkpoint_interval=2, callbacks=killed)
    for size, data in ((8, graph_dataset), (4, graph_dataset.select(range(20)))):
        with pytest.raises(ValueError, match=r"at batch 2 of an epoch of \d+ molecules.*of 4"):
            model(size).fit(data, nb_epoch=2, restore=True)
    again = model(4)
    again.fit(graph_dataset, nb_epoch=2, restore=True)
    assert [row["epoch"] for row in again.history] == [1, 2]
    model(8).fit(graph_dataset, nb_epoch=3, restore=True)  # from the end of an epoch it may
