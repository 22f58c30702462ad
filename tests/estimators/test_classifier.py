"""Classes: their names, their types, and those of molecules that cannot be read."""

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from deepchem_mmsa import MMSAModel, MMSAPredictor
from deepchem_mmsa.cli.predict import prediction_columns
from deepchem_mmsa.ensemble import check_alike
from tests.estimators.small import BAD, BIG, CLASSES, Y, classifier
from tests.fixtures import SMILES


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


def test_the_names_of_the_classes_travel(fitted_classifier, tmp_path):
    fitted_classifier.save_pretrained(tmp_path)
    predictor = MMSAPredictor.from_pretrained(tmp_path)
    assert predictor.classes == ["large", "small"]
    columns = prediction_columns(predictor, predictor.predict(SMILES[:3]).values)
    assert list(columns) == ["probability_task 0_small"]
    np.testing.assert_allclose(
        columns.iloc[:, 0], fitted_classifier.predict_proba(SMILES[:3])[:, 1], atol=1e-6
    )


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
