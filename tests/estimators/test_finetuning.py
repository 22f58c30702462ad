"""What fitting refuses, begins with, learns from and leaves on disk."""

import deepchem as dc
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from deepchem_mmsa import MMSAPredictor, MMSARegressor
from deepchem_mmsa.views import FEATURE_VERSION
from tests.estimators.small import BAD, BIG, CLASSES, TINY, Y, classifier, regressor
from tests.fixtures import SMILES, AtomCounts


@pytest.mark.parametrize(
    ("arguments", "X", "y", "message"),
    [
        ({"on_error": "ignore"}, SMILES, Y, "choose 'raise' or 'drop'"),
        ({"n_models": 0}, SMILES, Y, "n_models=0"),
        ({"validation_fraction": 1}, SMILES, Y, r"in \[0, 1\)"),
        ({}, SMILES[:3], Y[:2], "inconsistent numbers of samples"),
        ({}, SMILES[:1], Y[:1], "at least 2 molecules"),
        ({}, SMILES[:2], [1, np.nan], "y contains NaN: leave the molecules without a label out"),
        ({}, SMILES[:2], np.array([1, 2], dtype="M8[s]"), "dates or durations"),
        ({"config": {"graph_with": 3}}, SMILES, Y, "did you mean 'graph_width'"),
        ({"config": {"learning_rate": 0.1}}, SMILES, Y, "leave it out; learning_rate= dec"),
        ({"config": {"seed": 1}}, SMILES, Y, "'seed'.*leave it out; random_state= decides"),
        ({"config": {"n_tasks": 2}}, SMILES, Y, "'n_tasks'.*leave it out; the labels decide"),
        ({"nb_epoch": 0}, SMILES, Y, "nb_epoch=0: must be a whole number of at least 1"),
        ({"n_models": 1.5}, SMILES, Y, "n_models=1.5: must be a whole number of at least 1"),
        ({"validation_fraction": 0.99}, SMILES, Y, "validation_fraction=0.99 leaves 0 of 40"),
        ({"averaging": 1}, [BAD], [1], "averaging must be at least 0 and below 1, got 1"),
        ({"averaging": "0.9"}, [BAD], [1], "averaging must be .* got '0.9'"),
        ({"patience": -1}, [BAD], [1], "patience=-1: must be a number of epochs"),
        ({"averaging": 0.9, "validation_fraction": 0}, [BAD], [1], "increase validation_frac"),
        ({}, SMILES[:2], ["1.5", "<10"], "row 1, column 0: '<10' is not a number; a limit"),
    ],
)
def test_other_faults_of_fit_are_named(arguments, X, y, message):
    with pytest.raises(ValueError, match=message):
        regressor(**arguments).fit(X, y)


def test_a_class_that_is_no_number_is_named_among_several_tasks():
    y = pd.DataFrame({"a": [0, 1, 1], "b": [1, "high", "low"]})
    with pytest.raises(ValueError, match="row 1, column 'b': 'high' is not a number; write class"):
        classifier().fit(SMILES[:3], y)


@pytest.mark.parametrize("make, y", [(regressor, Y), (classifier, CLASSES)])
def test_after_an_error_nothing_is_fitted(make, y):
    """Otherwise the network of the fit before would speak in the names of the new classes."""
    estimator = make(nb_epoch=1)
    with pytest.raises(NotFittedError):
        estimator.predict(SMILES)
    estimator.fit(SMILES, y)
    with pytest.raises(ValueError, match="cannot be read"):
        estimator.fit(["C", "CC", BAD], [3, 1, 3])
    with pytest.raises(NotFittedError):
        estimator.predict(SMILES)


def test_the_seed_decides_and_validation_stops():
    first, again, other = (
        regressor(random_state=seed, nb_epoch=40, patience=1).fit(SMILES, Y) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.predict(SMILES), again.predict(SMILES))
    assert not np.allclose(first.predict(SMILES), other.predict(SMILES))
    assert "valid_loss" in first.history_[0][-1]
    assert len(first.history_[0]) < 40


def test_weights_count():
    weights = BIG.astype(float)
    fit = regressor(validation_fraction=0).fit(SMILES, Y, sample_weight=weights)
    other = regressor(validation_fraction=0).fit(
        SMILES, np.where(weights > 0, Y, -50), sample_weight=weights
    )
    np.testing.assert_array_equal(fit.predict(SMILES), other.predict(SMILES))


def test_several_tasks_with_missing_labels():
    y = pd.DataFrame({"atoms": Y, "half": Y / 2})
    y.iloc[::3, 1] = np.nan
    fit = regressor().fit(SMILES, y)
    assert fit.predict(SMILES).shape == (40, 2)
    assert fit.predict_frame(["CCO"]).columns.tolist() == [
        "atoms", "atoms std", "half", "half std", "reason",
    ]  # fmt: skip
    labels = (y > y.median()).astype(float).mask(y.isna())
    fit = classifier().fit(SMILES, labels)
    p = fit.predict_proba(SMILES)
    np.testing.assert_array_equal(fit.predict(SMILES), (p > 0.5).astype(int))
    with pytest.raises(ValueError, match="row 0, task 1: label 2"):
        classifier().fit(["C", "CC"], [[0, 2], [1, 0]])
    with pytest.raises(ValueError, match="one class only"):
        classifier().fit(["C", "CC"], ["a", "a"])


def test_labels_of_pandas_keep_name_and_gaps():
    nullable = pd.DataFrame({"a": pd.array(Y, dtype="Float64"), "b": pd.array(Y, dtype="Float64")})
    nullable.iloc[3, 1] = pd.NA
    assert regressor(nb_epoch=1).fit(SMILES, nullable).predictors_[0].tasks == ["a", "b"]
    series = pd.Series(Y, name="heavy atoms")
    frame = regressor(nb_epoch=1).fit(SMILES, series).predict_frame(["C"])
    assert frame.columns.tolist() == ["heavy atoms", "heavy atoms std", "reason"]
    for gap in (None, pd.NA, np.nan):
        with pytest.raises(ValueError, match="row 1: y is .*a missing class|y contains NaN"):
            classifier().fit(["C", "CC", "CCC"], pd.Series(["a", gap, "b"], dtype=object))


def test_a_target_called_like_a_column_of_the_table_is_named():
    y = pd.Series(Y, name="reason")
    with pytest.raises(ValueError, match="name 'reason' clashes.*rename"):
        regressor(nb_epoch=1).fit(SMILES, y)


def test_fine_tuning_starts_from_the_given_model(folder):
    frozen = {"learning_rate": 1e-12}
    fit = MMSARegressor(folder, nb_epoch=2, random_state=0, **frozen).fit(SMILES, Y)
    network = fit.predictors_[0].network
    source = MMSAPredictor.from_pretrained(folder)
    for name, tensor in source.network.encoders.named_parameters():
        np.testing.assert_allclose(
            network.encoders.get_parameter(name).detach(), tensor.detach(), atol=1e-9
        )
    assert fit.predictors_[0].config.mode == "regression"


def test_without_a_word_training_begins_with_the_shipped_weights():
    fit = MMSARegressor(nb_epoch=1, learning_rate=1e-12).fit(SMILES, Y)
    network = fit.predictors_[0].network
    shipped = MMSAPredictor.from_pretrained("mmsa-small").network.encoders
    for name, tensor in shipped.named_parameters():
        assert torch.allclose(network.encoders.get_parameter(name), tensor, atol=1e-9), name
    with pytest.raises(ValueError, match="give one of the two"):
        regressor(from_model="mmsa-small").fit(SMILES, Y)


def test_exported_models_answer_the_same(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "one")
    exported = MMSAPredictor.from_pretrained(tmp_path / "one")
    assert exported.metadata["feature_version"] == FEATURE_VERSION
    assert exported.metadata["labels_seen"]  # so that no benchmark takes it for pre-trained only
    predicted = exported.predict(SMILES).values[:, 0]
    np.testing.assert_allclose(predicted, fitted.predict(SMILES), rtol=1e-6)
    several = regressor(n_models=2).fit(SMILES, Y)
    several.save_pretrained(tmp_path / "two")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["model0", "model1"]


def test_models_of_an_earlier_export_are_not_left_among_the_new(fitted, tmp_path):
    three = regressor(n_models=3, nb_epoch=1).fit(SMILES, Y)
    two = regressor(n_models=2, nb_epoch=1).fit(SMILES, Y)
    three.save_pretrained(tmp_path / "a")
    three.save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="model2 holds a model of another export"):
        two.save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="model0 holds a model of another"):
        fitted.save_pretrained(tmp_path / "a")
    fitted.save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match="holds a model of another"):
        two.save_pretrained(tmp_path / "b")


def test_each_model_has_an_encoder_of_its_own():
    """One module for all would be what the last model has made of it."""
    given = AtomCounts()
    before = given.table.weight.detach().clone()
    alone = regressor(config={**TINY, "graph": given}).fit(SMILES, Y)
    several = regressor(config={**TINY, "graph": given}, n_models=2).fit(SMILES, Y)
    assert torch.equal(given.table.weight, before)
    tables = [p.network.encoders["graph"].table.weight for p in several.predictors_]
    assert not torch.equal(*tables)
    again = regressor(config={**TINY, "graph": given}).fit(SMILES, Y)
    np.testing.assert_array_equal(again.predict(SMILES), alone.predict(SMILES))


def test_a_weight_for_each_label_equals_leaving_labels_out():
    """DeepChem's SklearnModel gives 0 with weight 0 for a missing label."""
    y, w = np.stack([Y, -Y], axis=1), np.ones((len(Y), 2))
    w[::3, 0] = w[1::4, 1] = 0
    known = regressor(nb_epoch=1).fit(SMILES, np.where(w > 0, y, np.nan))
    weighted = regressor(nb_epoch=1).fit(SMILES, y * w, w)
    np.testing.assert_array_equal(known.predict(SMILES), weighted.predict(SMILES))
    X = np.array(SMILES)
    model = dc.models.SklearnModel(regressor(nb_epoch=1))
    model.fit(dc.data.NumpyDataset(X, y * w, w))
    np.testing.assert_array_equal(model.predict(dc.data.NumpyDataset(X)), weighted.predict(SMILES))
    for wrong in (w[:, :1], w[:-1], np.ones((len(Y), 3)), -w):
        with pytest.raises(ValueError, match=r"[Ss]ample.weight|Negative"):
            regressor().fit(SMILES, y, wrong)
