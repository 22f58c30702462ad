"""The examples on trust and on hyperparameter search, run as users run them, at a small size."""

import csv
import json

import pytest

from tests.conftest import DRUGS
from tests.fixtures import SMILES
from tests.test_examples import run

pytestmark = pytest.mark.slow


def test_trust_answers_every_question(tmp_path):
    molecules = DRUGS + SMILES
    with open(tmp_path / "delaney-processed.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["smiles", "measured log solubility in mols per litre"])
        rows.writerows((s, 1 - len(s) / 10) for s in molecules)
    with open(tmp_path / "BBBP.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["smiles", "p_np"])
        rows.writerows((s, int(len(s) > 20)) for s in [*molecules, "C1CC", "C1CC"])
    printed = run(
        tmp_path, "trust.py", "--data-dir", str(tmp_path), "--datasets", "esol", "bbbp",
        "--pretrain-molecules", "200", "--pretrain-epochs", "1", "--epochs", "2", "--members", "2",
        "--splits", "20", "--jobs", "1",
    )  # fmt: skip
    assert "largest distance of mean from stated coverage over 20 splits" in printed
    output = tmp_path / "runs" / "trust"
    results = json.loads((output / "results.json").read_text())
    assert results["bbbp"]["held_out"] + results["bbbp"]["unreadable"] == 42
    for name in ("esol", "bbbp"):
        assert set(results[name]["ordering"]) == {
            "memory anchors", "training anchors", "Tanimoto to training set",
            "spread of the ensemble",
        }  # fmt: skip
        assert len(results[name]["coverage"]) == 6
        assert (output / f"{name}_ordering.png").stat().st_size > 5000
    assert (output / "bbbp.png").stat().st_size > 5000
    assert "| esol |" in (output / "results.md").read_text()


def test_optuna_search_finds_and_writes_its_best(tmp_path):
    printed = run(
        tmp_path, "optuna_search.py", "--trials", "2", "--epochs", "1", "--folds", "2",
        "--max-molecules", "60",
    )  # fmt: skip
    assert "best of 2 trials" in printed
    output = tmp_path / "runs" / "optuna"
    best = json.loads((output / "best.json").read_text())
    assert set(best["parameters"]) >= {"learning_rate", "batch_size", "graph_width"}
    with open(output / "trials.csv") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_an_optuna_search_goes_on_with_new_trials_and_the_same_arguments(tmp_path):
    command = [
        "optuna_search.py", "--trials", "1", "--epochs", "1", "--folds", "2", "--max-molecules",
        "40", "--storage", f"sqlite:///{tmp_path / 'search.db'}",
    ]  # fmt: skip
    run(tmp_path, *command)
    assert "best of 2 trials" in run(tmp_path, *command)
    with open(tmp_path / "runs" / "optuna" / "trials.csv") as file:
        rates = [row["params_learning_rate"] for row in csv.DictReader(file)]
    assert rates[0] != rates[1]
    with pytest.raises(AssertionError, match="holds a search with other arguments"):
        run(tmp_path, *command, "--seed", "1")
