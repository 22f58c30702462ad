"""scikit-learn's own checks of an estimator.

They feed matrices of numbers, while these estimators read molecules. So that their checks of
training, prediction, pickling, cloning and errors apply all the same, the classes here spell
each row of numbers as a molecule, and are otherwise the ones of the package.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict, cross_val_score
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

from deepchem_mmsa import MMSAClassifier, MMSAModel, MMSARegressor, MMSATransformer

ATOMS = ("C", "N", "O", "S", "[SiH2]", "C(=O)", "C(F)", "C(Cl)")


def spell(row):
    """A chain with a link for each number, chosen by its size."""
    steps = np.clip(np.round(np.arcsinh(row.astype(float)) + 4), 0, 7).astype(int)
    return "".join(ATOMS[step] for step in steps[:12]) + "C"


class SpelledNumbers:
    """Reads numbers as molecules; the numbers are checked as scikit-learn wants it."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        tags.input_tags.string = tags.input_tags.allow_nan = False
        for kind in (tags.classifier_tags, tags.regressor_tags):
            if kind is not None:
                kind.poor_score = True  # one epoch of a tiny network
        return tags

    def _molecules(self, X, reset):
        X = validate_data(self, X, reset=reset, dtype="numeric")
        return super()._molecules([spell(row) for row in X], reset)


class NumbersRegressor(SpelledNumbers, MMSARegressor):
    pass


class NumbersClassifier(SpelledNumbers, MMSAClassifier):
    pass


class NumbersTransformer(SpelledNumbers, MMSATransformer):
    pass


TINY = {
    "graph_width": 8, "graph_layers": 1, "embedding_dim": 8, "head_width": 8, "n_anchors": 4,
    "n_neighbors": 2,
}  # fmt: skip

# Checks that cannot hold, and why. scikit-learn reports it if one of them passes after all.
NOT_FOR_MINIBATCHES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "weights change a mini-batch's loss, repeated rows the batches themselves: equal in "
        "expectation, not bit for bit"
    )
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pre-trained model in a folder."""
    path = tmp_path_factory.mktemp("model")
    MMSAModel(modalities=("graph",), **TINY).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (NumbersRegressor, NOT_FOR_MINIBATCHES),
        (NumbersClassifier, NOT_FOR_MINIBATCHES),
        (NumbersTransformer, {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(kind, expected, folder):
    if kind is NumbersTransformer:
        estimator = kind(folder)
    else:
        small = {"preset": "small", "modalities": ("graph",), "config": TINY}
        estimator = kind(nb_epoch=1, random_state=0, **small)
    results = check_estimator(
        estimator, expected_failed_checks=expected, on_fail=None, on_skip=None
    )
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed, failed
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(expected)
    assert sum(r["status"] == "passed" for r in results) >= 45


@pytest.mark.parametrize("kind", [MMSARegressor, MMSAClassifier, MMSATransformer])
def test_tags_say_what_is_read(kind):
    tags = get_tags(kind())
    assert tags.input_tags.string
    assert tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array
    if kind is not MMSATransformer:
        assert tags.target_tags.required
        assert tags.target_tags.multi_output


# ---- rules that scikit-learn's checks do not reach ------------------------------------------

ALCOHOLS = ["C" * n + end for n in range(1, 13) for end in "ON"]
NUMBERS = np.arange(24.0)
TWO = np.stack([np.arange(24) % 2, np.arange(24) // 12], 1)
QUICK = {"modalities": "graph", "nb_epoch": 1, "random_state": 0}


@pytest.mark.parametrize("row", [0, 2, 5, 23])
def test_a_negative_weight_is_refused_wherever_it_stands(row):
    weights = np.ones(24)
    weights[row] = -5
    with pytest.raises(ValueError, match="[Nn]egative"):
        MMSARegressor(**QUICK).fit(ALCOHOLS, NUMBERS, sample_weight=weights)


THREE = np.column_stack([TWO, TWO[:, 0]])


@pytest.mark.parametrize("y", [TWO, THREE], ids=["two tasks", "three tasks"])
def test_probabilities_of_several_tasks_go_through_cross_validation(y):
    classifier, folds = MMSAClassifier(**QUICK), KFold(2, shuffle=True, random_state=0)
    p = cross_val_predict(classifier, ALCOHOLS, y, cv=folds, method="predict_proba")
    assert p.shape == y.shape
    assert np.isfinite(p).all()
    scores = cross_val_score(
        classifier, ALCOHOLS, y, cv=folds, scoring="roc_auc", error_score="raise"
    )
    expected = [
        np.mean([roc_auc_score(y[held, task], p[held, task]) for task in range(y.shape[1])])
        for _, held in folds.split(ALCOHOLS)
    ]
    assert scores.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("names", [["a", "a std"], ["a std", "a"], ["a", "reason"]], ids=str)
def test_columns_of_two_meanings_are_refused(names):
    y = pd.DataFrame(np.stack([NUMBERS, NUMBERS], 1), columns=names)
    with pytest.raises(ValueError, match="rename it"):
        MMSARegressor(**QUICK).fit(ALCOHOLS, y)


@pytest.mark.parametrize("estimator", [MMSARegressor, MMSAClassifier])
def test_labels_that_cannot_be_told_are_refused_with_a_remedy(estimator):
    with pytest.raises(TypeError, match=r"y\.toarray\(\)"):
        estimator(**QUICK).fit(ALCOHOLS, csr_array(TWO))
    with pytest.raises(ValueError, match="averaging=0.9 needs labelled molecules"):
        estimator(averaging=0.9, validation_fraction=0, **QUICK).fit(ALCOHOLS, TWO)
