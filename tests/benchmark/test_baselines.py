"""Baselines and scores: what they must give on data whose answer is known."""

import deepchem as dc
import numpy as np
import pytest
from scipy.optimize import minimize

from deepchem_mmsa.benchmark import (
    chemical_features,
    ecfp,
    forest_predictions,
    gaussian_process_predictions,
    mean_predictions,
    score,
)
from deepchem_mmsa.molecule import MoleculeViews
from tests.fixtures import SMILES


def labelled(y, w=None):
    return dc.data.NumpyDataset(np.zeros(len(SMILES)), y, w, np.array(SMILES, dtype=object))


def test_forest_learns_what_a_fingerprint_shows():
    y = np.array([["N" in s.upper()] for s in SMILES], dtype=float)
    p = forest_predictions(labelled(y), labelled(y), "classification", n_trees=30)
    assert p.shape == (len(SMILES), 1, 2)
    assert score(labelled(y), p, "roc_auc")[0] > 0.95


def test_missing_labels_do_not_reach_the_forest():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(len(SMILES), 2))
    w = (rng.random(y.shape) < 0.6).astype(float)
    other = np.where(w > 0, y, 99.0)
    a, b = (
        forest_predictions(labelled(v, w), labelled(v), "regression", n_trees=10)
        for v in (y, other)
    )
    np.testing.assert_allclose(a, b, rtol=1e-12)
    mean = mean_predictions(labelled(other, w), labelled(y), "regression")
    assert mean[0, 0] == pytest.approx(y[w[:, 0] > 0, 0].mean())


def test_an_empty_label_is_a_missing_one():
    y = np.arange(len(SMILES), dtype=float)[:, None]
    empty, w = np.where(y % 3 == 0, np.nan, y), (y % 3 != 0).astype(float)
    for predict in (forest_predictions, mean_predictions):
        found, expected = (
            predict(part, part, "regression") for part in (labelled(empty), labelled(y, w))
        )
        # The forest's threads add up its trees in any order.
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_task_with_one_class_is_predicted_as_it():
    y = np.c_[np.ones(len(SMILES)), np.zeros(len(SMILES)), np.arange(len(SMILES)) % 2]
    p = forest_predictions(labelled(y), labelled(y), "classification", n_trees=5)
    assert (p[:, 0, 1] == 1).all()
    assert (p[:, 1, 1] == 0).all()


def test_fingerprints_do_not_depend_on_writing():
    assert (ecfp(["OCC"]) == ecfp(["CCO"])).all()
    assert ecfp(["no molecule"]).sum() == 0


def test_features_of_a_record_are_bits_and_descriptors(molecules):
    features = chemical_features([*molecules[:3], MoleculeViews("C")])
    assert features.shape == (4, 2048 + 217)
    assert (features[:3, :2048] == ecfp(SMILES[:3])).all()
    np.testing.assert_array_equal(features[0, 2048:], molecules[0].descriptors)
    assert (features[3] == 0).all()
    assert np.isfinite(features).all()


def test_a_gaussian_process_is_the_formula_at_its_most_likely_kernel():
    """Against the mean of Rasmussen & Williams, eq. 2.25, and a search over the three numbers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(SMILES), 3))
    y = np.c_[np.sin(x[:, 0]) + 0.1 * rng.normal(size=len(x)), 5 * x[:, 1] ** 2 + 100]
    w = (rng.random(y.shape) < 0.8).astype(float)
    asked = rng.normal(size=(5, 3))
    found = gaussian_process_predictions(labelled(np.where(w, y, 99.0), w), asked, "regression",
                                         (x, asked))  # fmt: skip

    def matern(a, b, length):
        r = np.sqrt(3) * np.linalg.norm(a[:, None] - b[None], axis=2) / length
        return (1 + r) * np.exp(-r)

    def fitted(rows, t, variance, length, noise):
        K = variance * matern(x[rows], x[rows], length) + (noise + 1e-6) * np.eye(len(rows))
        k = variance * matern(asked, x[rows], length)
        evidence = t @ np.linalg.solve(K, t) + np.linalg.slogdet(K)[1]
        return 0.5 * evidence, k @ np.linalg.solve(K, t)

    for task in range(2):
        rows = np.flatnonzero(w[:, task])
        mean, std = y[rows, task].mean(), y[rows, task].std()
        t = (y[rows, task] - mean) / std
        best = minimize(lambda p: fitted(rows, t, *np.exp(p))[0], np.log([1, 1.7, 0.1]),  # noqa: B023
                        bounds=[(-11.5, 11.5), (-4, 5), (-11.5, 11.5)])  # fmt: skip
        expected = fitted(rows, t, *np.exp(best.x))[1] * std + mean
        np.testing.assert_allclose(found[:, task], expected, atol=0.02 * std)


def test_rows_beyond_the_limit_count_for_predictions_only():
    x = np.linspace(0, 6, len(SMILES))[:, None]
    y = np.sin(x)
    found = gaussian_process_predictions(labelled(y), x, "regression", (x, x), n_rows=10)
    np.testing.assert_allclose(found, y, atol=0.02)  # ten rows miss by more
    ten = np.random.default_rng(0).permutation(len(x))[:10]
    alone = labelled(np.where(np.isin(np.arange(len(x)), ten)[:, None], y, np.nan))
    few = gaussian_process_predictions(alone, x, "regression", (x, x), n_rows=10)
    assert np.abs(few - y).max() > 0.05
