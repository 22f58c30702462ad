"""Molecules as users hold them: every form, one row out for each."""

import numpy as np
import pandas as pd
import pytest
from deepchem.data import NumpyDataset
from rdkit import Chem

from deepchem_mmsa import MMSATransformer
from deepchem_mmsa.views import ViewSettings, many_views
from tests.estimators.small import BAD, CLASSES, Y, classifier, regressor
from tests.fixtures import SMILES


class PolarsLike:
    """A table as Polars has it: without ``ndim``, and iterated over by column."""

    def __init__(self, **columns):
        self.columns, self._data = list(columns), list(columns.values())
        self.shape = (len(self), len(columns))

    def __len__(self):
        return len(self._data[0])

    def __iter__(self):
        return iter(self._data)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._data, dtype=object).T


@pytest.mark.parametrize(
    "given",
    [
        SMILES[:5],
        tuple(SMILES[:5]),
        np.array(SMILES[:5]),
        np.array(SMILES[:5], dtype=object)[:, None],
        pd.Series(SMILES[:5], index=list("abcde")),
        pd.DataFrame({"smiles": SMILES[:5]}),
        PolarsLike(smiles=SMILES[:5]),
        [Chem.MolFromSmiles(s) for s in SMILES[:5]],
        many_views(SMILES[:5], ViewSettings(("graph",))),
    ],
    ids=["list", "tuple", "array", "column", "series", "frame", "polars", "molecules", "records"],
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
        (PolarsLike(name=["a"], smiles=["C"]), r"\(1, 2\) \['name', 'smiles'\].*one column"),
        (np.zeros((3, 4)), r"\(3, 4\), but must be one column"),
        ({"smiles": ["CCO"]}, "is not a sequence of molecules"),
        ({"CCO", "CCN"}, "is not a sequence of molecules"),
        (np.array("CCO"), "is not a sequence of molecules"),
        (NumpyDataset(np.array(["CCO"])), "is not a sequence of molecules"),
    ],
)
def test_other_input_is_refused_with_a_remedy(given, message, fitted):
    with pytest.raises(ValueError, match=message):
        fitted.predict(given)
    with pytest.raises(ValueError, match=message):
        regressor().fit(given, [1.0])


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


def test_fit_refuses_unreadable_molecules_or_leaves_them_out():
    with pytest.raises(ValueError, match=r"1 of 41 .* row 2, 'C1CC': .*unclosed.*on_error='drop'"):
        regressor().fit([*SMILES[:2], BAD, *SMILES[2:]], [*Y[:2], 99, *Y[2:]])
    dropping = regressor(on_error="drop")
    with pytest.warns(UserWarning, match="1 of 41 molecules .* left out of the training"):
        dropping.fit([*SMILES[:2], BAD, *SMILES[2:]], [*Y[:2], 99, *Y[2:]])
    assert dropping.failures_[0][:2] == (2, BAD)
    assert dropping.predictors_[0].network.label_mean.max() < 20  # 99 played no part


def test_a_class_of_unreadable_molecules_only_is_left_out():
    X, y = [BAD, *SMILES, BAD], ["c", *CLASSES, "c"]
    with pytest.warns(UserWarning, match="2 of 42 molecules .* left out of the training"):
        dropping = classifier(on_error="drop", nb_epoch=1).fit(X, y)
    assert dropping.classes_.tolist() == ["large", "small"]
    plain = classifier(nb_epoch=1).fit(SMILES, CLASSES)
    assert dropping.predict_proba(SMILES).shape == plain.predict_proba(SMILES).shape
    with pytest.raises(ValueError, match="one class only"), pytest.warns(UserWarning, match="left"):
        classifier(on_error="drop").fit([BAD, *SMILES], ["c", *["a"] * len(SMILES)])


def test_nothing_in_nothing_out(fitted, fitted_classifier):
    several = regressor().fit(SMILES, np.stack([Y, -Y], axis=1))
    assert several.predict([]).shape == (0, 2)
    values, std = several.predict([], return_std=True)
    assert (values.shape, std.shape) == ((0, 2), (0, 2))
    assert fitted.predict([]).shape == (0,)
    assert fitted_classifier.predict_proba([]).shape == (0, 2)
