"""All estimators in scikit-learn's tools."""

import pickle
import pickletools
import warnings

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from deepchem_mmsa import MMSATransformer
from tests.estimators.small import BAD, CLASSES, TINY, Y, classifier, regressor
from tests.fixtures import SMILES


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


def test_pipeline_grid_search_and_cross_validation(folder):
    frame = pd.DataFrame({"smiles": SMILES}, index=np.arange(40) + 7)
    pipeline = make_pipeline(MMSATransformer(folder), Ridge())
    assert cross_val_score(pipeline, frame, Y, cv=3).shape == (3,)
    search = GridSearchCV(regressor(), {"learning_rate": [1e-3, 1e-2]}, cv=2).fit(frame, Y)
    assert search.best_params_["learning_rate"] in (1e-3, 1e-2)
    assert search.predict(frame).shape == (40,)
    scores = cross_val_score(classifier(), np.array(SMILES, dtype=object), CLASSES, cv=2)
    assert ((scores >= 0) & (scores <= 1)).all()


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
