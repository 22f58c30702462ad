"""Warnings point to the user's line, whatever stands between."""

import warnings

import deepchem as dc
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline

from deepchem_mmsa import MMSAFeaturizer, MMSATransformer, embed
from deepchem_mmsa.views import compare_features
from tests.estimators.small import BAD, CLASSES, Y, classifier, regressor
from tests.fixtures import SMILES

GIVEN = ["CCO", BAD, "CCN"]


@pytest.fixture(scope="module")
def callers(tmp_path_factory):
    """Calls that warn, by name."""
    fitted, classes = regressor(nb_epoch=1).fit(SMILES, Y), classifier(nb_epoch=1)
    classes.fit(SMILES, CLASSES)
    embedder = MMSATransformer().fit(GIVEN)
    pipeline = make_pipeline(embedder, HistGradientBoostingRegressor(max_iter=2)).fit(SMILES, Y)
    table = tmp_path_factory.mktemp("table") / "table.csv"
    table.write_text("smiles,y\nCCO,1\nC1CC,2\nCCN,3\n")
    loader = dc.data.CSVLoader(["y"], feature_field="smiles", featurizer=MMSAFeaturizer("graph"))
    return {
        "predict": lambda: fitted.predict(GIVEN),
        "predict_frame": lambda: fitted.predict_frame(GIVEN),
        "predict_proba": lambda: classes.predict_proba(GIVEN),
        "classes": lambda: classes.predict(GIVEN),
        "fit": lambda: regressor(on_error="drop", nb_epoch=1).fit(GIVEN, [1.0, 2.0, 3.0]),
        "transform": lambda: embedder.transform(GIVEN),
        "pandas": lambda: MMSATransformer().set_output(transform="pandas").fit_transform(GIVEN),
        "pipeline": lambda: pipeline.predict(GIVEN),
        "embed": lambda: embed(GIVEN),
        "featurize": lambda: MMSAFeaturizer("graph").featurize(GIVEN),
        "featurize_all": lambda: MMSAFeaturizer("graph").featurize_all(GIVEN),
        "loader": lambda: loader.create_dataset(str(table)),
        "version": lambda: compare_features(1, "runs/old"),
    }


@pytest.mark.parametrize(
    "name",
    ["predict", "predict_frame", "predict_proba", "classes", "fit", "transform", "pandas",
     "pipeline", "embed", "featurize", "featurize_all", "loader", "version"],
)  # fmt: skip
def test_a_warning_points_to_the_line_of_the_user(callers, name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callers[name]()
    assert [(w.filename, w.category) for w in caught] == [(__file__, UserWarning)]
    assert caught[0].lineno == callers[name].__code__.co_firstlineno
