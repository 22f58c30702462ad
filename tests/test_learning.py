"""It learns: the pre-training check at its full size (a quarter of an hour with AVX512-BF16)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# All threads of the machine, unlike the other tests.
THREADS = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    command = [sys.executable, str(EXAMPLES / "pretraining_check.py"), "--output", str(folder)]
    subprocess.run(command, check=True, cwd=folder, env=THREADS)
    return json.loads((folder / "check.json").read_text())


@pytest.mark.slow
def test_views_find_each_other(check):
    assert check["retrieval"]["graph→image"] >= 0.90
    assert check["retrieval"]["graph→geometry"] >= 0.75
    assert check["retrieval"]["image→geometry"] >= 0.75


@pytest.mark.slow
def test_nothing_collapses(check):
    assert check["anchors_in_use"] >= 0.8
    assert all(spread > 0.5 for spread in check["code_std"].values())


@pytest.mark.slow
def test_fine_tuning_starts_ahead(check):
    epochs = check["epochs_to_the_best_loss_from_scratch"]
    assert epochs["pre-trained"] is not None
    assert epochs["pre-trained"] < epochs["from scratch"]


@pytest.mark.slow
def test_the_first_run_beats_the_mean(tmp_path):
    command = [sys.executable, str(EXAMPLES / "first_run.py")]
    subprocess.run(command, check=True, cwd=tmp_path, env=THREADS)
    output = tmp_path / "runs" / "first"
    rmse = {row["model"]: row["rmse"] for row in json.loads((output / "results.json").read_text())}
    assert rmse["MMSA"] < 0.7 * rmse["mean"]
    for name in ("curves.png", "parity.png", "model/model.safetensors"):
        assert (output / name).stat().st_size > 1000
