"""Worst errors: which labels are listed, in which order, beside which molecule."""

import re

import numpy as np
import pytest

from deepchem_mmsa.report.gallery import _nearest_training, anchors_section, errors_section
from deepchem_mmsa.report.run import from_model


def run_of(make_model, molecules, y, **arguments):
    model = make_model(n_tasks=y.shape[1], **arguments)
    model.tasks = ["large", "small"][: y.shape[1]]
    return from_model(model, {"train": (list(molecules), y)}, None, "", 100, 0)


def test_errors_of_tasks_are_compared_by_the_spread_of_their_labels(make_model, molecules):
    y = np.arange(len(molecules))[:, None] * np.array([1000.0, 1.0])
    run = run_of(make_model, molecules, y, mode="regression")
    run.predicted = y + [10.0, 2.0]
    run.predicted[4, 1] += 1
    cards = re.findall(r"<h3>(\w+), row (\d+)</h3>", errors_section(run))
    assert cards[0] == ("small", "5")
    assert {task for task, _ in cards} == {"small"}


def test_labels_more_likely_than_not_are_no_errors(make_model, molecules):
    run = run_of(make_model, molecules, np.ones((len(molecules), 1)), mode="classification")
    run.predicted = np.tile([0.4, 0.6], (len(molecules), 1, 1)).reshape(len(molecules), 1, 2)
    assert "Every label" in errors_section(run)
    run.predicted[2] = 0.6, 0.4
    assert re.findall(r"<h3>row (\d+)</h3>", errors_section(run)) == ["3"]


def test_anchors_without_a_molecule_are_counted_and_not_shown(pretrained, molecules):
    run = from_model(pretrained, {"train": (list(molecules), None)}, None, "", 100, 0)
    run.anchor[:] = 3
    section = anchors_section(run)
    assert re.findall(r"<h3>Anchor (\d+)</h3>", section) == ["3"]
    n = int(run.predictor.network.memory.n_active)
    assert f"{n - 1} anchors of {n} are nearest to none" in section


def test_a_training_molecule_is_not_the_nearest_to_itself(make_model, molecules):
    run = run_of(make_model, molecules, np.zeros((len(molecules), 1)), mode="regression")
    found = _nearest_training(run, [0, 5])
    unit = run.embedding / np.linalg.norm(run.embedding, axis=1, keepdims=True)
    for place in (0, 5):
        cosine = {row: unit[place] @ unit[row] for row in range(len(molecules)) if row != place}
        assert found[place] == (max(cosine, key=cosine.get), pytest.approx(max(cosine.values())))
