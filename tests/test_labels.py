"""Labels: refused with the row named, or scaled and weighed on what is there."""

import deepchem as dc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.utils.class_weight import compute_class_weight

from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.labels import check_labels, class_weights, label_scaling, set_statistics
from deepchem_mmsa.network import MMSANetwork


def dataset(y, w=None):
    n = len(y)
    return dc.data.NumpyDataset(np.zeros(n), np.asarray(y), w, ids=[f"mol{i}" for i in range(n)])


CLASSES = MMSAConfig(mode="classification")
VALUES = MMSAConfig(mode="regression")


@pytest.mark.parametrize(
    "y, config, message",
    [
        ([[0], [2]], CLASSES, r"first is 2 in row 1 \(mol1\), task 0.*0 to 1"),
        ([[0.5], [1]], CLASSES, "0.5 in row 0"),
        ([[-1], [1]], CLASSES, "-1 in row 0"),
        ([[1.0], [np.inf]], VALUES, r"inf in row 1 \(mol1\).*finite"),
        ([[1.0], [1e200]], VALUES, r"1e\+200 in row 1 \(mol1\).*below 3e38"),
        ([[1.0, 2.0]], VALUES, r"has 2 task\(s\), the model n_tasks=1; build it with n_tasks=2"),
        ([[np.nan], [np.nan]], VALUES, "every label of the dataset is missing"),
        ([["1"], [""]], VALUES, "row 1, task 0 is the text ''.*as NaN, or as 0 with weight 0"),
        ([["1"], ["<10"]], VALUES, "row 1, column 0: '<10' is not a number; a limit"),
    ],
)
def test_errors_name_row_value_and_remedy(y, config, message):
    with pytest.raises(ValueError, match=message):
        check_labels(dataset(y), config)


def test_an_empty_text_among_other_gaps_is_named():
    y = np.array([[None, 1.0], [2.0, "NA"]], dtype=object)
    with pytest.raises(ValueError, match="row 1, task 1 is the text 'NA'"):
        check_labels(dataset(y), MMSAConfig(mode="regression", n_tasks=2))


def test_all_weights_zero_is_no_label():
    with pytest.raises(ValueError, match="every label"):
        check_labels(dataset([[1], [0]], np.zeros((2, 1))), CLASSES)


def test_missing_labels_may_hold_anything():
    _, w = check_labels(dataset([[7], [1], [np.nan]], np.array([[0.0], [1], [1]])), CLASSES)
    assert w[:, 0].tolist() == [0, 1, 0]


@settings(max_examples=50, deadline=None)
@given(
    y=arrays(float, (9, 2), elements=st.floats(-1e3, 1e3)),
    there=arrays(bool, (9, 2)),
)
def test_scaling_sees_only_what_is_there(y, there):
    mean, scale = label_scaling(np.where(there, y, 1e9), there.astype(float))
    for task in range(2):
        known = y[there[:, task], task]
        if len(known):
            assert mean[task] == pytest.approx(known.mean(), abs=1e-2)
            if known.std() > 1e-3:
                assert scale[task] == pytest.approx(known.std(), rel=1e-3)
        assert scale[task] > 0


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1.0, 1e9])
def test_scaling_is_the_same_in_every_unit(unit):
    y = np.array([[1.0, 0.3], [2.0, 0.3], [6.0, 0.3]])
    mean, scale = label_scaling(y * unit, np.ones_like(y))
    np.testing.assert_allclose(mean, [3 * unit, 0.3 * unit], rtol=1e-6)
    np.testing.assert_allclose(scale, [y[:, 0].std() * unit, 1.0], rtol=1e-6)  # 0.3 does not vary


def test_balanced_weights_are_scikit_learns():
    y = np.array([[0], [0], [0], [1], [1], [0]], float)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=y[:, 0])
    config = MMSAConfig(mode="classification", class_weights="balanced")
    np.testing.assert_allclose(class_weights(y, np.ones_like(y), config)[0], expected, rtol=1e-6)


def test_a_task_without_a_label_is_told(make_model, graph_dataset, caplog):
    y = np.hstack([graph_dataset.y, graph_dataset.y])
    w = np.ones_like(y)
    for weight in (1, 0):
        w[:, 1] = weight
        data = dc.data.NumpyDataset(graph_dataset.X, y, w)
        make_model(mode="regression", n_tasks=2, tasks=["a", "b"]).fit(data, nb_epoch=1)
        told = "1 of 2 tasks have no label in this dataset, so their predictions mean nothing: b"
        assert (told in caplog.text) == (weight == 0)


def test_balanced_weights_see_only_what_is_there():
    config = MMSAConfig(mode="classification", class_weights="balanced", n_tasks=2)
    y = np.array([[0, 0], [0, 0], [0, 0], [1, 0], [1, 1], [0, 1]], float)
    w = np.array([[1, 1], [1, 1], [1, 1], [1, 1], [0, 0], [0, 0]], float)
    found = class_weights(y, w, config)
    np.testing.assert_allclose(found[0], [4 / 6, 4 / 2], rtol=1e-6)
    np.testing.assert_allclose(found[1], [4 / 8, 1], rtol=1e-6)  # 1 for a class without labels


@pytest.mark.parametrize("weight", [np.nan, -1.0, np.inf])
def test_weights_that_are_none_are_refused(weight):
    with pytest.raises(ValueError, match="first is .* in row 1, task 0: weights are 0"):
        check_labels(dataset([[0.0], [1.0]], [[1.0], [weight]]), VALUES)


def test_the_weight_of_a_missing_label_may_be_anything():
    _, w = check_labels(dataset([[0.0], [np.nan]], [[1.0], [np.nan]]), VALUES)
    assert w.tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("shift, told", [(1e3, False), (1e8, True)])
def test_labels_that_lose_their_digits_are_told(caplog, shift, told):
    network = MMSANetwork(MMSAConfig(mode="regression", modalities=("graph",), graph_width=16))
    y = np.random.default_rng(0).normal(size=(20, 1)) + shift
    set_statistics(network, y, np.ones_like(y))
    assert ("subtract a constant" in caplog.text) == told
