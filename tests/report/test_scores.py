"""Scores: scikit-learn's numbers, and intervals that hold what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from deepchem_mmsa.report import scores
from deepchem_mmsa.report.charts import _range
from deepchem_mmsa.report.scores import Problem, score


def problem(y, p):
    return Problem("a", 0, "test", np.arange(len(y)), np.asarray(y, float), np.asarray(p, float))


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_weighted_scores_are_those_of_repeated_rows(data):
    # What the bootstrap relies on: a row of weight k counts as k rows; ties included.
    n = data.draw(st.integers(2, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    y = np.r_[0.0, 1.0, rng.integers(0, 2, n - 2)]
    p = rng.integers(0, 5, n) / 5
    w = np.r_[1, 1, rng.integers(0, 4, n - 2)]
    yy, pp = np.repeat(y, w), np.repeat(p, w)
    expected = {
        "roc_auc": metrics.roc_auc_score(yy, pp),
        "average_precision": metrics.average_precision_score(yy, pp),
        "mean_square": metrics.brier_score_loss(yy, pp),
        "mean_error": metrics.mean_absolute_error(yy, pp),
        "rmse": metrics.root_mean_squared_error(yy, pp),
        "r2": metrics.r2_score(yy, pp),
    }
    for name, value in expected.items():
        found = getattr(scores, name)(y, p, w[None].astype(float))
        np.testing.assert_allclose(found, [value], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1.0, 1e6])
def test_r2_is_the_same_in_every_unit(unit):
    y, p, w = np.array([1.0, 2.0, 6.0]), np.array([1.5, 2.0, 5.0]), np.ones((1, 3))
    assert scores.r2(y * unit, p * unit, w) == pytest.approx(metrics.r2_score(y, p))
    assert np.isnan(scores.r2(0 * y + 0.3 * unit, p * unit, w)).all()  # labels do not vary


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e6])
def test_an_axis_spans_its_values_in_every_unit(unit):
    for values in ([1, 2, 6], [-3, 0], [0, 3], [5, 5]):
        (low, high), ticks = _range(np.array(values) * unit, False)
        assert low <= min(values) * unit <= max(values) * unit <= high
        assert high - low < 10 * unit
        assert len(ticks) > 1


def test_one_class_has_no_ranking():
    found = {s.metric: s for s in score(problem([1, 1, 1], [0.1, 0.5, 0.9]), "classification")}
    assert np.isnan([found["ROC AUC"].value, found["PR AUC"].value, found["ROC AUC"].low]).all()
    assert found["Brier"].low <= found["Brier"].value <= found["Brier"].high


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Errors of N(0, 1): the RMSE of the population is 1.
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(150):
        error = rng.normal(size=100)
        rmse = score(problem(error, np.zeros(100)), "regression", 200, seed)[0]
        assert rmse.metric == "RMSE"
        hits += rmse.low <= 1 <= rmse.high
    assert 0.86 <= hits / 150 <= 0.99


@pytest.mark.parametrize("resamples", [0, 7])
def test_many_rows_go_through_in_blocks(resamples, monkeypatch):
    y, p = np.arange(50.0), np.arange(50.0)[::-1]
    whole = score(problem(y, p), "regression", resamples)
    monkeypatch.setattr(scores, "_BLOCK", 100)
    parts = score(problem(y, p), "regression", resamples)
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a[2:], b[2:])
        assert np.isnan(a.low) == (resamples == 0)
