"""Baselines and scores: what they must give on data whose answer is known."""

import deepchem as dc
import numpy as np
import pytest

from deepchem_mmsa.benchmark import (
    chemical_features,
    ecfp,
    forest_predictions,
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
