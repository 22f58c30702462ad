"""Embeddings in scikit-learn's pipelines."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline

from deepchem_mmsa import MMSAPredictor, MMSATransformer
from tests.estimators.small import BAD, Y
from tests.fixtures import SMILES


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
