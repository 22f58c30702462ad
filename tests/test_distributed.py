"""Training on many processes: loss, step and memory are those of one with all molecules."""

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa import MMSAModel, MMSAPredictor, distributed
from deepchem_mmsa.cli.rows import checked_device

ROOT = Path(__file__).parents[1]
N = 2


def launch(scenario, folder, timeout=1200):
    """Run a scenario of tests/processes.py in N processes, as torchrun would start them."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    started = []
    for rank in range(N):
        group = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(N),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        with open(folder / f"output-{rank}.txt", "w") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.processes", scenario, str(folder)],
                    env={**os.environ, **group},
                    cwd=ROOT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        status = started[0].wait(timeout)
    finally:
        for process in started:  # a silent one would stay
            process.kill()
            process.wait()
    assert status == 0, (folder / "output-0.txt").read_text()[-4000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What two processes, and one alone, came to."""
    folder = tmp_path_factory.mktemp("runs")
    launch("everything", folder)
    return folder


def read(folder, name, who):
    return torch.load(folder / f"{name}-{who}.pt", weights_only=True)


RUNS = ["pretraining", "attention", "uneven", "targets", "regression"]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_loss_and_the_weights_of_one(results, name):
    many, one = read(results, name, 0), read(results, name, "alone")
    assert len(many["losses"]) == 3
    np.testing.assert_allclose(many["losses"], one["losses"], atol=1e-4)
    for key, value in one["state"].items():
        torch.testing.assert_close(many["state"][key], value, atol=1e-5, rtol=1e-4, msg=key)
    for row, other in zip(many["history"], one["history"]):
        assert row == pytest.approx(other, abs=1e-4, nan_ok=True)
    if name == "pretraining":
        assert [[s for s, _ in kept] for kept in many["exemplars"]] == (
            [[s for s, _ in kept] for kept in one["exemplars"]]
        )


@pytest.mark.parametrize("name", [*RUNS, "random", "resumed", "skipped"])
def test_all_processes_end_equal_bit_for_bit(results, name):
    first, last = read(results, name, 0), read(results, name, N - 1)
    different = [
        k
        for k in first["state"]
        # A counter that nothing reads; a process without molecules does not count.
        if not k.endswith("num_batches_tracked")
        and not torch.equal(first["state"][k], last["state"][k])
    ]
    assert different == []
    assert first["losses"] == last["losses"]
    assert first["exemplars"] == last["exemplars"]
    if name in ("pretraining", "attention", "uneven", "random"):
        assert int(first["state"]["memory.n_active"]) > 0


def test_checkpoints_are_written_once(results):
    files = sorted(p.name for p in (results / f"pretraining-{N}").glob("*.pt"))
    assert files == ["checkpoint1.pt", "checkpoint2.pt"]  # of step 2 and of the end


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on_exactly(results):
    assert [(results / f"stopped-{r}.txt").read_text() for r in range(N)] == ["143"] * N
    whole, resumed = read(results, "random", 0), read(results, "resumed", 0)
    assert resumed["step"] == whole["step"] == 4 * 3
    assert resumed["history"] == whole["history"]
    assert [k for k, v in whole["state"].items() if not torch.equal(v, resumed["state"][k])] == []


def test_a_loss_that_is_not_finite_ends_all_processes_with_all_molecules(results):
    told = [(results / f"bad-{r}.txt").read_text() for r in range(N)]
    assert told[0] == told[1]
    assert "the loss became inf" in told[0]
    assert told[0].split("molecules of this batch: ")[1].count(", ") >= 15
    assert [row["skipped_batches"] for row in read(results, "skipped", 0)["history"]] == [1, 1]


def test_a_failure_of_the_first_process_is_told_by_all(results):
    first, last = ((results / f"failed-{r}.txt").read_text() for r in range(N))
    assert "the run cannot write its checkpoints" in first
    assert "process 0 of the run failed" in last
    assert "the run cannot write its checkpoints" in last


def lost(folder, how):
    told = json.loads((folder / f"{how}-0.json").read_text())
    assert "another process of this run has died or does not answer" in told["error"]
    assert "restore=True" in told["error"]
    return told["seconds"]


def test_a_dead_process_ends_the_run(results):
    assert lost(results, "dead") < 120  # not after a time-out, which is ten minutes


@pytest.mark.slow
def test_a_silent_process_ends_the_run_after_the_time_out(tmp_path):
    launch("silent", tmp_path)
    assert 8 <= lost(tmp_path, "silent") < 300


def test_a_process_does_not_wait_for_itself_when_it_leaves(tmp_path):
    """Seen with torch 2.1 and 2.6 (and not with 2.13): the run was over, and never ended."""
    launch("leaving", tmp_path, timeout=120)


def test_torchrun_runs_the_example(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "examples/distributed_pretraining.py", "--model-dir", str(tmp_path), "--epochs", "2",
         "--batch-size", "16", "--tiny"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2") == 1
    assert (tmp_path / "exported" / "model.safetensors").is_file()


# ---- one process ------------------------------------------------------------------------------


@settings(deadline=None)
@given(n=st.integers(0, 300), processes=st.integers(1, 20))
def test_shares_are_whole_and_never_of_one_molecule(n, processes):
    shares = [distributed.bounds(n, processes, r) for r in range(processes)]
    assert shares[0][0] == 0
    assert shares[-1][1] == n
    assert all(a[1] == b[0] for a, b in itertools.pairwise(shares))
    sizes = [end - start for start, end in shares]
    assert 1 not in sizes or n == 1
    assert max(sizes) - min(s for s in sizes if s or not n) <= 1


def test_alone_nothing_is_sent():
    x = torch.randn(3, 2)
    assert not distributed.is_shared()
    assert distributed.gather(x)[0] is x
    assert distributed.gather_lists(["a"]) == ["a"]
    assert distributed.average_gradients([], [], True)
    with pytest.raises(ZeroDivisionError):
        distributed.on_first(lambda: 1 / 0)


# ---- the device of a process --------------------------------------------------------------


@pytest.mark.parametrize("device", [None, "auto", "cuda"])
@pytest.mark.parametrize("local", [None, "3"])
def test_a_gpu_is_taken_with_its_number(monkeypatch, device, local):
    current = [1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_device", lambda i: current.__setitem__(0, i))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    own = 3 if local is not None and device != "cuda" else 1
    assert distributed.chosen_device(device) == torch.device("cuda", own)
    current[0] = 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # its own is all that is shown
    assert distributed.chosen_device(device) == torch.device("cuda", 0)


def test_the_command_line_takes_the_gpu_of_its_process(monkeypatch):
    current = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "set_device", lambda i: current.__setitem__(0, i))
    monkeypatch.setattr(torch, "empty", lambda size, device: None)  # which is there, then
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert checked_device("auto") == "cuda:2"


def test_without_a_gpu_it_is_the_processor_and_what_is_named_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert {distributed.chosen_device(d) for d in (None, "auto", "cpu")} == {torch.device("cpu")}
    assert distributed.chosen_device("cuda:2") == torch.device("cuda", 2)
    assert distributed.chosen_device(torch.device("meta")) == torch.device("meta")


@pytest.mark.parametrize("make", [MMSAPredictor.from_pretrained, MMSAModel.from_pretrained])
def test_every_model_knows_auto(monkeypatch, make):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked.append(1) or False)
    made = make("mmsa-small", device="auto")
    assert asked
    assert next(getattr(made, "network", getattr(made, "model", None)).parameters()).is_cpu
