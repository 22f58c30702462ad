"""Deviations beside predictions."""

import numpy as np
import pytest

from tests.estimators.small import BAD, CLASSES, TINY, Y, classifier, regressor
from tests.fixtures import SMILES


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
