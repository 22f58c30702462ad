"""The estimators as users meet them: molecules in, one row out for each."""

import pickle
import pickletools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from deepchem_mmsa import (
    MMSAClassifier,
    MMSAModel,
    MMSAPredictor,
    MMSARegressor,
    MMSATransformer,
)
from deepchem_mmsa.cli.predict import prediction_columns
from deepchem_mmsa.ensemble import check_alike
from deepchem_mmsa.views import FEATURE_VERSION, ViewSettings, many_views
from tests.fixtures import SMILES

TINY = {
    "graph_width": 16, "graph_layers": 2, "embedding_dim": 16, "head_width": 16, "n_anchors": 8,
    "n_neighbors": 4,
}  # fmt: skip
BAD = "C1CC"
Y = np.array([Chem.MolFromSmiles(s).GetNumHeavyAtoms() for s in SMILES], dtype=float)
BIG = np.digitize(Y, [np.median(Y)], right=True)
CLASSES = np.where(BIG, "large", "small")


SMALL = {
    "preset": "small", "modalities": ("graph",), "nb_epoch": 2, "config": TINY, "random_state": 0
}  # fmt: skip


def regressor(**arguments):
    return MMSARegressor(**{**SMALL, **arguments})


def classifier(**arguments):
    return MMSAClassifier(**{**SMALL, **arguments})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    MMSAModel(modalities=("graph",), **TINY).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def fitted():
    return regressor().fit(SMILES, Y)


@pytest.fixture(scope="module")
def fitted_classifier():
    return classifier().fit(SMILES, CLASSES)


# ---- input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        SMILES[:5],
        tuple(SMILES[:5]),
        np.array(SMILES[:5]),
        np.array(SMILES[:5], dtype=object)[:, None],
        pd.Series(SMILES[:5], index=list("abcde")),
        pd.DataFrame({"smiles": SMILES[:5]}),
        [Chem.MolFromSmiles(s) for s in SMILES[:5]],
        many_views(SMILES[:5], ViewSettings(("graph",))),
    ],
    ids=["list", "tuple", "array", "column", "series", "frame", "molecules", "records"],
)
def test_every_form_of_input_gives_the_same(given, fitted, folder):
    np.testing.assert_allclose(fitted.predict(given), fitted.predict(SMILES)[:5], rtol=1e-5)
    transformer = MMSATransformer(folder).fit(given)
    np.testing.assert_allclose(
        transformer.transform(given), transformer.transform(SMILES)[:5], atol=1e-5
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("CCO", "'CCO' is not a sequence of molecules"),
        (Chem.MolFromSmiles("CCO"), "is not a sequence of molecules"),
        (pd.DataFrame({"name": ["a"], "smiles": ["C"]}), r"\(1, 2\) \['name', 'smiles'\].*one col"),
        (np.zeros((3, 4)), r"\(3, 4\), but must be one column"),
    ],
)
def test_other_input_is_refused_with_a_remedy(given, message, fitted):
    with pytest.raises(ValueError, match=message):
        fitted.predict(given)
    with pytest.raises(ValueError, match=message):
        regressor().fit(given, [1.0])


# ---- unreadable molecules -----------------------------------------------------------------


@pytest.mark.parametrize("bad", [BAD, None, np.nan, "", 3])
def test_unreadable_rows_are_nan_with_a_reason(bad, fitted, fitted_classifier, folder):
    given = ["CCO", bad, "CCN"]
    transformer = MMSATransformer(folder).fit(["C"])
    for estimator, answer in (
        (fitted, fitted.predict),
        (fitted_classifier, fitted_classifier.predict_proba),
        (transformer, transformer.transform),
    ):
        with pytest.warns(UserWarning, match="1 of 3 molecules .* NaN; the first is row 1"):
            values = answer(given).reshape(3, -1)
        assert np.isnan(values[1]).all()
        assert not np.isnan(values[[0, 2]]).any()
        assert [(row, bool(reason)) for row, _, reason in estimator.failures_] == [(1, True)]
        answer(["CCO"])
        assert estimator.failures_ == []


def test_the_class_of_an_unreadable_molecule_is_missing(fitted_classifier):
    with pytest.warns(UserWarning, match="row 1, 'C1CC'"):
        labels = fitted_classifier.predict(["CCO", BAD])
    assert labels[0] in ("large", "small")
    assert isinstance(labels[1], float)
    assert np.isnan(labels[1])
    assert fitted_classifier.predict(["CCO"]).dtype == CLASSES.dtype
    numbers = classifier().fit(SMILES, (CLASSES == "large").astype(int))
    assert numbers.predict(["CCO"]).dtype.kind == "i"
    with pytest.warns(UserWarning, match="cannot be predicted"):
        labels = numbers.predict(["CCO", BAD])
    assert labels[0] in (0, 1)
    assert np.isnan(labels[1])


def test_fit_refuses_unreadable_molecules_or_leaves_them_out():
    with pytest.raises(ValueError, match=r"1 of 41 .* row 2, 'C1CC': .*unclosed.*on_error='drop'"):
        regressor().fit([*SMILES[:2], BAD, *SMILES[2:]], [*Y[:2], 99, *Y[2:]])
    dropping = regressor(on_error="drop")
    with pytest.warns(UserWarning, match="1 of 41 molecules .* left out of the training"):
        dropping.fit([*SMILES[:2], BAD, *SMILES[2:]], [*Y[:2], 99, *Y[2:]])
    assert dropping.failures_[0][:2] == (2, BAD)
    assert dropping.predictors_[0].network.label_mean.max() < 20  # 99 played no part


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
    ],
)
def test_other_faults_of_fit_are_named(arguments, X, y, message):
    with pytest.raises(ValueError, match=message):
        regressor(**arguments).fit(X, y)


# ---- learning -----------------------------------------------------------------------------


def test_regressor_and_classifier_learn():
    calm = {
        "config": {**TINY, "lr_schedule": "cosine"}, "nb_epoch": 60, "validation_fraction": 0,
        "batch_size": 20, "learning_rate": 5e-3,
    }  # fmt: skip
    assert regressor(**calm).fit(SMILES, Y).score(SMILES, Y) > 0.8
    learnt = classifier(**calm).fit(SMILES, CLASSES)
    assert learnt.score(SMILES, CLASSES) > 0.8
    p = learnt.predict_proba(SMILES)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(learnt.classes_[p.argmax(1)], learnt.predict(SMILES))


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


def test_calibration_of_scikit_learn_takes_the_classifier(fitted_classifier):
    calibrated = CalibratedClassifierCV(FrozenEstimator(fitted_classifier), cv=2)
    p = calibrated.fit(SMILES, CLASSES).predict_proba(SMILES)
    np.testing.assert_allclose(p.sum(1), 1)


def test_three_classes():
    y = np.digitize(Y, [6, 10])
    fit = classifier().fit(SMILES, y + 5)
    assert fit.classes_.tolist() == [5, 6, 7]
    assert fit.predict_proba(SMILES).shape == (40, 3)
    assert set(fit.predict(SMILES)) <= {5, 6, 7}


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


def test_spread_over_models_and_over_masks(fitted):
    mean, std = fitted.predict(SMILES, return_std=True)
    assert mean.shape == std.shape == (40,)
    assert (std > 0).all()  # dropout
    several = regressor(n_models=3).fit(SMILES, Y)
    mean, std = several.predict(SMILES, return_std=True)
    each = np.stack([p.predict(SMILES).values[:, 0] for p in several.predictors_])
    np.testing.assert_allclose(mean, each.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, each.std(0), rtol=1e-4, atol=1e-6)
    p, std = classifier(n_models=2).fit(SMILES, CLASSES).predict_proba(SMILES, return_std=True)
    assert p.shape == std.shape == (40, 2)


# ---- scikit-learn's tools -----------------------------------------------------------------


def test_pipeline_grid_search_and_cross_validation(folder):
    frame = pd.DataFrame({"smiles": SMILES}, index=np.arange(40) + 7)
    pipeline = make_pipeline(MMSATransformer(folder), Ridge())
    assert cross_val_score(pipeline, frame, Y, cv=3).shape == (3,)
    search = GridSearchCV(regressor(), {"learning_rate": [1e-3, 1e-2]}, cv=2).fit(frame, Y)
    assert search.best_params_["learning_rate"] in (1e-3, 1e-2)
    assert search.predict(frame).shape == (40,)
    scores = cross_val_score(classifier(), np.array(SMILES, dtype=object), CLASSES, cv=2)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_an_unreadable_molecule_goes_through_a_pipeline_that_takes_nan(folder):
    pipeline = make_pipeline(MMSATransformer(folder), HistGradientBoostingRegressor(max_iter=2))
    with pytest.warns(UserWarning, match="cannot be embedded"):
        pipeline.fit([BAD, *SMILES[1:]], Y)


def test_the_encoders_outputs_may_stand_beside_the_embedding(folder):
    wide = MMSATransformer(folder, features=True).fit(SMILES)
    found = wide.transform(["CCO", "CCN"])
    predictor = MMSAPredictor.from_pretrained(folder)
    np.testing.assert_array_equal(found, predictor.features(["CCO", "CCN"]).values)
    assert len(wide.get_feature_names_out()) == found.shape[1] == 32
    assert clone(wide).features


def test_pandas_in_pandas_out(folder, fitted, fitted_classifier):
    frame = pd.DataFrame({"smiles": ["CCO", BAD, "CCN"]}, index=["x", "y", "z"])
    transformer = MMSATransformer(folder).set_output(transform="pandas").fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = transformer.transform(frame)
        values, classes = (e.predict_frame(frame["smiles"]) for e in (fitted, fitted_classifier))
    assert out.index.tolist() == values.index.tolist() == classes.index.tolist() == ["x", "y", "z"]
    assert out.columns.tolist() == transformer.get_feature_names_out().tolist()
    assert out.columns[0] == "mmsatransformer0"
    assert values["reason"].astype(bool).tolist() == [False, True, False]
    assert values.isna().sum().tolist() == [1, 1, 0]
    assert classes.columns.tolist() == ["class", "p(large)", "p(small)", "reason"]
    assert classes["class"].isna().tolist() == [False, True, False]


def test_pickles_hold_no_module_and_answer_the_same(fitted, fitted_classifier, folder):
    transformer = MMSATransformer(folder).fit(SMILES)
    for estimator, what in (
        (fitted, "predict"), (fitted_classifier, "predict_proba"), (transformer, "transform"),
    ):  # fmt: skip
        data = pickle.dumps(estimator)
        names = [str(arg) for op, arg, _ in pickletools.genops(data) if isinstance(arg, str)]
        assert not [n for n in names if n.split(".")[0] in ("torch", "deepchem", "dgl")]
        again = pickle.loads(data)
        np.testing.assert_array_equal(
            getattr(again, what)(SMILES), getattr(estimator, what)(SMILES)
        )
    copy = clone(fitted)
    assert not hasattr(copy, "predictors_")
    assert copy.get_params() == fitted.get_params()


def test_exported_models_answer_the_same(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "one")
    exported = MMSAPredictor.from_pretrained(tmp_path / "one")
    assert exported.metadata["feature_version"] == FEATURE_VERSION
    predicted = exported.predict(SMILES).values[:, 0]
    np.testing.assert_allclose(predicted, fitted.predict(SMILES), rtol=1e-6)
    several = regressor(n_models=2).fit(SMILES, Y)
    several.save_pretrained(tmp_path / "two")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["model0", "model1"]


def test_prediction_needs_no_deepchem(fitted, tmp_path):
    import subprocess
    import sys

    (tmp_path / "model.pickle").write_bytes(pickle.dumps(fitted))
    code = (
        "import pickle, sys; "
        f"model = pickle.load(open({str(tmp_path / 'model.pickle')!r}, 'rb')); "
        "print(model.predict(['CCO']).shape, 'deepchem' in sys.modules, 'dgllife' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(1,) False False", done.stderr


@pytest.mark.parametrize("dropout", [0.2, 0.0])
def test_a_deviation_does_not_move_the_prediction(dropout):
    config = {**TINY, "head_dropout": dropout, "hypergraph_dropout": 0.0}
    fitted = regressor(config=config).fit(SMILES, Y)
    frame = fitted.predict_frame([*SMILES, BAD])
    np.testing.assert_array_equal(frame["task 0"][:-1], fitted.predict(SMILES))
    assert frame["task 0 std"].notna().sum() == (len(SMILES) if dropout else 0)
    assert len(fitted.predict_frame([])) == 0
    if dropout:
        np.testing.assert_array_equal(
            fitted.predict(SMILES, return_std=True)[0], frame["task 0"][:-1]
        )
    else:
        with pytest.raises(ValueError, match="no dropout to sample"):
            fitted.predict(SMILES, return_std=True)


def test_nothing_in_nothing_out(fitted, fitted_classifier):
    several = regressor().fit(SMILES, np.stack([Y, -Y], axis=1))
    assert several.predict([]).shape == (0, 2)
    values, std = several.predict([], return_std=True)
    assert (values.shape, std.shape) == ((0, 2), (0, 2))
    assert fitted.predict([]).shape == (0,)
    assert fitted_classifier.predict_proba([]).shape == (0, 2)


def test_the_names_of_the_classes_travel(fitted_classifier, tmp_path):
    fitted_classifier.save_pretrained(tmp_path)
    predictor = MMSAPredictor.from_pretrained(tmp_path)
    assert predictor.classes == ["large", "small"]
    columns = prediction_columns(predictor, predictor.predict(SMILES[:3]).values)
    assert list(columns) == ["probability_task 0_small"]
    np.testing.assert_allclose(
        columns.iloc[:, 0], fitted_classifier.predict_proba(SMILES[:3])[:, 1], atol=1e-6
    )


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


def test_a_target_called_like_a_column_of_the_table_is_named():
    y = pd.Series(Y, name="reason")
    with pytest.raises(ValueError, match="called 'reason'.*rename"):
        regressor(nb_epoch=1).fit(SMILES, y)


@pytest.mark.parametrize(
    "labels, classes, column",
    [
        (BIG, ["0", "1"], "probability_task 0"),
        (BIG.astype(float), ["0", "1"], "probability_task 0"),
        (BIG.astype(bool), ["0", "1"], "probability_task 0"),
        (pd.array(BIG, dtype="Int64"), ["0", "1"], "probability_task 0"),
        (BIG.astype(str), ["0", "1"], "probability_task 0"),
        (2.0 * BIG - 1, ["-1", "1"], "probability_task 0_1"),
        (BIG + 1, ["1", "2"], "probability_task 0_2"),
    ],
    ids=str,
)
def test_the_type_of_the_labels_names_no_column(labels, classes, column):
    predictor = classifier(nb_epoch=1).fit(SMILES, labels).predictors_[0]
    assert predictor.classes == classes
    values = predictor.predict(SMILES[:2]).values
    assert list(prediction_columns(predictor, values)) == [column]


def test_classes_stay_with_a_model_that_is_loaded_and_saved(fitted_classifier, tmp_path):
    fitted_classifier.save_pretrained(tmp_path / "a")
    MMSAModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    again = MMSAPredictor.from_pretrained(tmp_path / "b")
    assert again.classes == ["large", "small"]
    other = classifier(nb_epoch=1).fit(SMILES, BIG).predictors_[0]
    with pytest.raises(ValueError, match="has the classes 0, 1, model 1 large, small"):
        check_alike([again, other])
