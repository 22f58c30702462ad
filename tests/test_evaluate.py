"""Evaluation on the labels that are there, against scikit-learn and against DeepChem's own."""

import deepchem as dc
import numpy as np
import pytest
from deepchem.trans import undo_transforms
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_squared_error, roc_auc_score

from deepchem_mmsa.evaluate import evaluate, masked_scores, mean_scores

AUC = dc.metrics.Metric(dc.metrics.roc_auc_score, name="auc")
RMSE = dc.metrics.Metric(dc.metrics.rms_score, name="rmse")


class Fixed(dc.models.Model):
    """A model that predicts what it was given."""

    def __init__(self, predictions):
        self.predictions = predictions
        self.model_dir_is_temp = False

    def predict(self, dataset, transformers=()):
        return self.predictions


def probabilities(p):
    return np.stack([1 - p, p], axis=-1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_equals_scikit_learn_on_the_known_labels(seed):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, (40, 3)).astype(float), rng.random((40, 3))
    w = (rng.random((40, 3)) < 0.6).astype(float)
    found = masked_scores(y, w, probabilities(p), AUC)["auc"]
    for task in range(3):
        known = w[:, task] > 0
        assert found[task] == pytest.approx(roc_auc_score(y[known, task], p[known, task]))


def test_deepchems_own_counts_missing_labels_and_ours_does_not():
    y = np.array([[1.0], [1], [0], [0], [0], [0]])
    w = np.array([[1.0], [1], [1], [1], [0], [0]])
    p = np.array([[0.9], [0.8], [0.1], [0.2], [0.95], [0.99]])  # high where nothing is known
    data = dc.data.NumpyDataset(np.zeros(6), y, w)
    model = Fixed(probabilities(p))
    stock = dc.models.Model.evaluate(model, data, [AUC])["auc"]
    assert stock < 0.6
    assert evaluate(model, data, [AUC])["auc"] == 1.0


def test_a_task_with_one_class_does_not_poison_the_mean():
    y = np.array([[1.0, 1], [0, 1], [1, 1]])
    p = np.array([[0.9, 0.5], [0.1, 0.4], [0.8, 0.3]])
    means, tasks = evaluate(
        Fixed(probabilities(p)), dc.data.NumpyDataset(np.zeros(3), y), [AUC], per_task_metrics=True
    )
    assert means["auc"] == 1.0
    assert tasks["auc"][0] == 1.0
    assert np.isnan(tasks["auc"][1])


def test_rows_without_prediction_are_left_out_and_counted(caplog):
    y = np.array([[1.0], [2], [3]])
    found = masked_scores(y, None, np.array([[1.0], [np.nan], [5.0]]), RMSE)
    assert found["rmse"][0] == pytest.approx(np.sqrt(2))
    assert "1 of 3 molecules have no prediction" in caplog.text


def test_transformers_are_undone():
    y = np.array([[1.0], [5.0], [9.0]])
    data = dc.data.NumpyDataset(np.zeros(3), y)
    normal = dc.trans.NormalizationTransformer(transform_y=True, dataset=data)
    found = evaluate(Fixed(y), normal.transform(data), [RMSE], [normal])
    assert found["rmse"] == pytest.approx(0, abs=1e-6)


def test_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="holds no molecule"):
        evaluate(Fixed(np.zeros((0, 1))), dc.data.NumpyDataset(np.zeros(0), np.zeros((0, 1))), RMSE)


@pytest.mark.parametrize("there, predicted", [(1, 2), (2, 1)])
def test_other_tasks_than_the_models_are_refused(there, predicted):
    data = dc.data.NumpyDataset(np.zeros(4), np.zeros((4, there)))
    values = np.zeros((4, predicted))
    with pytest.raises(ValueError, match=f"4 molecules and {there} task.*4 and {predicted}"):
        evaluate(Fixed(values), data, RMSE)


def test_weights_weigh_only_where_that_is_asked_for():
    mse = dc.metrics.Metric(mean_squared_error, name="mse", mode="regression")
    y, w, p = np.zeros((2, 1)), np.array([[1.0], [3.0]]), np.array([[0.0], [2.0]])
    for weighted, expected in ((False, 2.0), (True, 3.0)):
        found = masked_scores(y, w, p, mse, use_sample_weights=weighted)
        assert found["mse"][0] == pytest.approx(expected)


def test_a_gap_of_one_task_costs_no_other():
    y, p = np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[np.nan, 3.0], [2.0, 2.0]])
    assert masked_scores(y, None, p, RMSE)["rmse"].tolist() == pytest.approx([0, np.sqrt(2)])


def test_a_metric_of_ones_own_mean_over_tasks():
    worst = dc.metrics.Metric(dc.metrics.rms_score, task_averager=np.max, name="worst")
    y, p = np.zeros((2, 2)), np.array([[1.0, 3.0], [1.0, 3.0]])
    assert mean_scores(y, None, p, worst)["worst"] == pytest.approx(3)


@pytest.mark.parametrize("mean", [np.std, sum, lambda scores: scores[1], lambda s: 2 * max(s)])
def test_a_mean_over_tasks_is_taken_once_and_of_all_tasks(mean):
    y, p = np.zeros((2, 2)), np.array([[1.0, 3.0], [1.0, 3.0]])
    metric = dc.metrics.Metric(dc.metrics.rms_score, task_averager=mean, name="score")
    assert mean_scores(y, None, p, metric)["score"] == pytest.approx(mean([1.0, 3.0]))
    assert masked_scores(y, None, p, metric)["score"].tolist() == pytest.approx([1, 3])


def test_predictions_are_brought_to_label_units():
    data = dc.data.NumpyDataset(np.zeros(3), np.array([[1.0], [5.0], [9.0]]))
    normal = dc.trans.NormalizationTransformer(transform_y=True, dataset=data)
    scaled = normal.transform(data)
    model = Fixed(None)
    model.predict = lambda dataset, transformers=(): undo_transforms(scaled.y, transformers)
    assert evaluate(model, scaled, [RMSE], [normal])["rmse"] == pytest.approx(0, abs=1e-6)


def test_weights_weigh_each_task_by_its_own():
    mse = dc.metrics.Metric(mean_squared_error, name="mse", mode="regression")
    w, p = np.array([[1.0, 3.0], [3.0, 1.0]]), np.array([[0.0, 0.0], [2.0, 2.0]])
    data = dc.data.NumpyDataset(np.zeros(2), np.zeros((2, 2)), w)
    asked = {"use_sample_weights": True, "per_task_metrics": True}
    assert evaluate(Fixed(p), data, mse, **asked)[1]["mse"] == pytest.approx([3, 1])


def test_a_weight_for_each_molecule_is_that_of_all_its_tasks():
    y, p = np.zeros((3, 2)), np.array([[1.0, 2.0], [1.0, 2.0], [9.0, 9.0]])
    assert masked_scores(y, np.array([1, 1, 0]), p, RMSE)["rmse"].tolist() == [1, 2]


def test_one_value_for_each_molecule_is_one_task():
    assert masked_scores(np.zeros(2), None, np.array([1.0, 1.0]), RMSE)["rmse"] == [1]


def test_a_label_of_nan_is_missing_and_needs_no_prediction(caplog):
    y = np.array([[1.0], [np.nan], [np.nan], [3.0], [4.0]])
    p = np.array([[1.0], [np.nan], [2.0], [5.0], [np.nan]])
    assert masked_scores(y, None, p, RMSE)["rmse"][0] == pytest.approx(np.sqrt(2))
    assert "1 of 5 molecules have no prediction" in caplog.text


def test_more_than_two_classes_are_scored():
    kind = {"mode": "classification", "classification_handling_mode": "threshold-one-hot"}
    accuracy = dc.metrics.Metric(
        dc.metrics.accuracy_score, name="accuracy", threshold_value=0.5, **kind
    )
    data = dc.data.NumpyDataset(np.zeros(4), np.array([[0.0], [1.0], [2.0], [2.0]]))
    p = np.eye(3)[[0, 1, 2, 1]][:, None]
    assert evaluate(Fixed(p), data, [accuracy], n_classes=3)["accuracy"] == pytest.approx(0.75)


def test_sample_weights_of_a_metric_that_takes_none():
    """Equal weights change no score; others cannot be left out silently."""
    rng = np.random.default_rng(0)
    y, p, w = rng.random((20, 2)), rng.random((20, 2)), np.ones((20, 2))
    w[::3, 0], w[:, 1] = 0, 2
    plain = masked_scores(y, w, p, [RMSE])["rmse"]
    np.testing.assert_array_equal(
        masked_scores(y, w, p, [RMSE], use_sample_weights=True)["rmse"], plain
    )
    w[1] = 5
    with pytest.raises(TypeError, match="the metric rmse takes no sample weights, .* another"):
        masked_scores(y, w, p, [RMSE], use_sample_weights=True)
