"""Calibration: what stays, what gets better, and agreement with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from deepchem_mmsa.calibrate import (
    IsotonicCalibration,
    TemperatureScaling,
    plot_reliability,
    reliability,
)
from deepchem_mmsa.conformal import ConformalSets

seeds = st.integers(0, 2**32 - 1)


def classes(seed, n=600, n_classes=2, sharpness=3.0):
    """Labels, and the probabilities of a model that is `sharpness` times too sure."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, n_classes))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = np.array([random.choice(n_classes, p=p) for p in honest])
    sure = np.exp(sharpness * logits)
    return y, sure / sure.sum(1, keepdims=True), honest


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("sharpness", [0.4, 3.0])
def test_temperature_finds_how_sure_the_model_should_be(n_classes, sharpness):
    y, p, honest = classes(0, 4000, n_classes, sharpness)
    scaling = TemperatureScaling().fit(p, y)
    assert scaling.temperature == pytest.approx(sharpness, rel=0.12)
    np.testing.assert_allclose(scaling(p), honest, atol=0.05)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(2, 4), st.sampled_from([0.3, 1.0, 4.0]))
def test_temperature_keeps_the_answer_and_never_harms(seed, n_classes, sharpness):
    y, p, _ = classes(seed, 200, n_classes, sharpness)
    scaled = TemperatureScaling().fit(p, y)(p)
    np.testing.assert_array_equal(scaled.argmax(1), p.argmax(1))
    np.testing.assert_allclose(scaled.sum(1), 1)
    labels = np.arange(n_classes)
    assert log_loss(y, scaled, labels=labels) <= log_loss(y, p, labels=labels) + 1e-4


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(2, 4))
def test_isotonic_gives_probabilities_that_rise_with_the_model(seed, n_classes):
    y, p, _ = classes(seed, 200, n_classes)
    mapped = IsotonicCalibration().fit(p, y)(p)
    np.testing.assert_allclose(mapped.sum(1), 1)
    assert ((mapped >= 0) & (mapped <= 1)).all()
    if n_classes == 2:
        assert (np.diff(mapped[np.argsort(p[:, 1]), 1]) >= -1e-12).all()
        # In its own bins an isotonic fit says what came true.
        assert mapped[:, 1].mean() == pytest.approx(y.mean())


@pytest.mark.parametrize("method", [TemperatureScaling, IsotonicCalibration])
def test_held_out_reliability_gets_better(method):
    y, p, _ = classes(1, 4000)
    calibrated = method().fit(p[:2000], y[:2000])(p[2000:])
    before, after = (reliability(y[2000:], q[:, 1]).error for q in (p[2000:], calibrated))
    assert before > 0.1
    assert after < before / 3


@pytest.mark.parametrize("method", [TemperatureScaling, IsotonicCalibration])
def test_each_task_by_itself_and_missing_labels_change_nothing(method):
    (y1, p1, _), (y2, p2, _) = classes(2, 300), classes(3, 300, sharpness=0.5)
    y = np.stack([y1, y2], 1).astype(float)
    p = np.stack([p1, p2], 1)
    w = np.ones_like(y)
    y[:50, 0] = np.nan
    y[50:100, 1] = 1 - y[50:100, 1]
    w[50:100, 1] = 0
    p[100] = np.nan
    both = method().fit(p, y, w)(p)
    alone = method().fit(np.delete(p1, np.r_[:50, 100], 0), np.delete(y1, np.r_[:50, 100]))(p1)
    known = np.arange(300) != 100
    np.testing.assert_allclose(both[known, 0], alone[known], atol=1e-6)
    alone = method().fit(np.delete(p2, np.r_[50:101], 0), np.delete(y2, np.r_[50:101]))(p2)
    np.testing.assert_allclose(both[known, 1], alone[known], atol=1e-6)
    assert np.isnan(both[100]).all()


@pytest.mark.parametrize("method", [TemperatureScaling, IsotonicCalibration])
def test_errors_name_row_value_and_remedy(method):
    p = np.full((3, 2), 0.5)
    with pytest.raises(ValueError, match="row 1: label 2 is not one of the classes 0 to 1"):
        method().fit(p, [0, 2, 1])
    with pytest.raises(ValueError, match="row 1, task 1: label 2 is not one of the classes 0 to 1"):
        method().fit(np.stack([p, p], axis=1), [[0, 0], [0, 2], [1, 1]])
    with pytest.raises(ValueError, match="no label with a prediction"):
        method().fit(p, [np.nan] * 3)
    with pytest.raises(ValueError, match="task 1 has no label"):
        method().fit(np.stack([p, p], axis=1), [[0, np.nan], [1, np.nan], [1, np.nan]])
    with pytest.raises(ValueError, match=r"shape \(3, 2\) and labels \(2,\)"):
        method().fit(p, [0, 1])


@pytest.mark.parametrize("method", [TemperatureScaling, IsotonicCalibration, ConformalSets])
def test_what_is_no_distribution_over_the_classes_is_refused(method):
    """Such as ``MMSAClassifier.predict_proba`` of two tasks, logits, or percentages."""
    y = np.array([0, 1, 1, 0])
    for p in ([0.2, 0.9], [-0.5, 1.5], [20.0, 80.0]):
        rows = np.tile(p, (4, 1))
        with pytest.raises(ValueError, match=r"row 0: .* are not the probabilities of all classes"):
            method().fit(*((y, rows) if method is ConformalSets else (rows, y)))
    rounded = np.tile([0.334, 0.333, 0.334], (4, 1))
    rounded[0] = np.nan
    method().fit(*((y, rounded) if method is ConformalSets else (rounded, y)))
    with pytest.raises(ValueError, match="20 to 80: must be between 0 and 1"):
        reliability([0, 1], [20, 80])


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 12), st.sampled_from(["quantile", "uniform"]))
def test_curve_is_scikit_learns(seed, n_bins, strategy):
    y, p, _ = classes(seed, 150)
    observed, predicted = calibration_curve(y, p[:, 1], n_bins=n_bins, strategy=strategy)
    curve = reliability(y, p[:, 1], n_bins, strategy)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)
    assert curve.n.sum() == 150
    assert ((curve.low <= observed + 1e-9) & (observed <= curve.high + 1e-9)).all()
    gap = np.abs(observed - predicted)
    assert curve.error == pytest.approx(np.average(gap, weights=curve.n))


def test_curve_leaves_out_what_is_missing_and_refuses_the_rest():
    whole = reliability([0, 1, 1], [0.2, 0.6, 0.9], 2)
    gaps = reliability([0, np.nan, 1, 1, 1], [0.2, 0.5, 0.6, 0.9, np.nan], 2)
    assert whole.error == gaps.error
    for y, p, message in (
        ([0, 2], [0.1, 0.2], "one class against the rest"),
        ([], [], "labels 0 and 1"),
        ([0], [0.1, 0.2], "1 labels for 2"),
    ):
        with pytest.raises(ValueError, match=message):
            reliability(y, p)
    with pytest.raises(ValueError, match="choose 'quantile' or 'uniform'"):
        reliability([0, 1], [0.1, 0.2], strategy="even")


def test_picture_is_drawn(tmp_path):
    y, p, honest = classes(4)
    curves = {"raw": reliability(y, p[:, 1]), "true": reliability(y, honest[:, 1])}
    plot_reliability(curves, tmp_path / "reliability.svg")
    drawn = (tmp_path / "reliability.svg").read_text()
    assert drawn.count("<path") > 20


def test_each_curve_is_drawn_where_it_lies_and_named_with_its_error(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    y, p, honest = classes(4)
    curves = {"raw": reliability(y, p[:, 1]), "true": reliability(y, honest[:, 1])}
    curves |= {f"{n} bins": reliability(y, p[:, 1], n) for n in range(3, 8)}
    plot_reliability(curves, tmp_path / "reliability.svg")
    (axes,) = figures[0].axes
    for line, (name, curve) in zip(axes.lines[1:], curves.items(), strict=True):
        np.testing.assert_array_equal(line.get_xydata().T, [curve.predicted, curve.observed])
        assert line.get_label() == f"{name}: calibration error {curve.error:.3f}"


@pytest.mark.parametrize("method", [TemperatureScaling, IsotonicCalibration])
def test_a_call_that_does_not_go_with_the_fit_is_refused(method):
    p = np.tile([0.3, 0.7], (40, 1))
    with pytest.raises(RuntimeError, match="call fit"):
        method()(p)
    fitted = method().fit(p, [0, 1] * 20)
    with pytest.raises(
        ValueError, match=r"do not match the 1 task\(s\) and 2 classes that were fit"
    ):
        fitted(np.full((5, 2, 2), 0.5))
    for wrong in (np.full((5, 3), 1 / 3), np.full(5, 0.5)):
        with pytest.raises(ValueError, match="do not match the"):
            fitted(wrong)
    assert fitted(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("method", [TemperatureScaling, IsotonicCalibration])
def test_without_a_molecule_there_is_nothing_to_fit(method):
    with pytest.raises(ValueError, match="task 0 has no label with a prediction to calibrate on"):
        method().fit(np.zeros((0, 2)), [])


def test_who_is_wholly_sure_and_sometimes_wrong_is_softened():
    sure, y = np.tile([1.0, 0.0], (100, 1)), [0] * 90 + [1] * 10
    scaled = TemperatureScaling().fit(sure, y)(sure)
    np.testing.assert_allclose(scaled, np.tile([0.9, 0.1], (100, 1)), atol=1e-3)


def test_beyond_what_it_was_fit_on_an_isotonic_map_goes_on_level():
    p = np.linspace(0.3, 0.7, 40)
    fitted = IsotonicCalibration().fit(np.stack([1 - p, p], 1), np.arange(40) >= 20)
    found = fitted([[0.95, 0.05], [0.7, 0.3], [0.3, 0.7], [0.05, 0.95]])[:, 1]
    assert found.tolist() == [found[1], 0, 1, found[2]]


def test_where_every_class_is_ruled_out_all_are_equally_likely():
    p = np.array([[0.4, 0.35, 0.25], [0.25, 0.4, 0.35], [0.35, 0.25, 0.4]])
    even = IsotonicCalibration().fit(p, [0, 1, 2])([[1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(even, 1 / 3)


@pytest.mark.parametrize("method", [TemperatureScaling, IsotonicCalibration])
def test_a_weight_says_only_that_a_label_is_there(method):
    y, p, _ = classes(5, 100)
    weighed = method().fit(p, y, np.where(np.arange(100) < 50, 0.2, 3.0))
    np.testing.assert_array_equal(weighed(p), method().fit(p, y)(p))


def test_intervals_of_a_share_are_wilsons():
    curve = reliability([1] * 8 + [0] * 2, [0.5] * 10, n_bins=1)
    assert (curve.low[0], curve.high[0]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
