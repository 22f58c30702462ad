"""Scores of a fine-tuning: what can be scored, and what is said of the rest."""

import numpy as np
import pytest
from deepchem.data import NumpyDataset

from deepchem_mmsa.cli.scores import can_be_scored, metrics_of, rough, scores_of, untold
from deepchem_mmsa.config import MMSAConfig


@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_is_said_to_be_scorable_has_a_score(n_classes):
    """Whatever labels are missing: an absent one counts as no class."""
    random, found = np.random.default_rng(n_classes), set()
    for _ in range(60):
        n, tasks = random.integers(1, 6), random.integers(1, 4)
        y = random.integers(0, n_classes, (n, tasks)).astype(float)
        data = NumpyDataset(np.zeros((n, 1)), y, (random.random((n, tasks)) < 0.7).astype(float))
        p = random.dirichlet(np.ones(n_classes), (n, tasks))
        config = MMSAConfig(mode="classification", n_tasks=int(tasks), n_classes=n_classes)
        metrics = metrics_of("classification")[:1]
        names = [f"task {i}" for i in range(tasks)]
        told = scores_of({"valid": data}, {"valid": p}, metrics, names, n_classes)
        assert can_be_scored(data, config) == np.isfinite(told["scores"]["valid"]["roc_auc"])
        found.add(can_be_scored(data, config))
    assert found == {False, True}
    config = MMSAConfig(mode="regression")
    assert can_be_scored(NumpyDataset(np.zeros((1, 1)), np.ones((1, 1))), config)


def summary(*scores):
    """A part of nine molecules, and the scores of its tasks by one metric."""
    known = [score for score in scores if score == score]
    mean = {"rmse": np.mean(known) if known else np.nan}
    tasks = {f"task {i}": {"rmse": score} for i, score in enumerate(scores)}
    return {
        "molecules": {"train": 30, "test": 9}, "scores": {"test": mean},
        **({"scores_of_tasks": {"test": tasks}} if len(scores) > 1 else {}),
    }  # fmt: skip


def test_it_is_told_of_how_many_tasks_a_score_is_the_mean():
    missing = np.nan
    assert list(untold(summary(1.0, 2.0))) == []
    assert list(untold(summary(missing, 1.0, 2.0))) == [
        "test: the mean of rmse is over 2 of 3 tasks: it cannot be computed for task 0"
    ]
    (told,) = untold(summary(1.0, *[missing] * 6))
    assert "over 1 of 7 tasks" in told
    assert told.endswith("task 1, task 2, task 3, task 4, task 5, ...")


def test_scores_of_few_molecules_are_said_to_be_rough():
    (told,) = rough(summary(1.0))
    assert told.startswith("the scores of 9 test molecules are rough")
    (told,) = rough({"molecules": {"valid": 2, "test": 1}, "scores": {"valid": {}, "test": {}}})
    assert told.startswith("the scores of 2 valid and 1 test molecule are rough")
    assert list(rough({"molecules": {"test": 30}, "scores": {"test": {}}})) == []
    assert list(rough({"molecules": {"test": 0}, "scores": {}})) == []


@pytest.mark.parametrize("n_tasks", [1, 2])
def test_a_score_of_nothing_is_told_once_with_its_molecules(n_tasks):
    (told,) = untold(summary(*[np.nan] * n_tasks))
    assert told.startswith("test: rmse cannot be computed from 9 molecules")
