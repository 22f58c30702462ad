"""Conformal prediction: the stated coverage holds, for any model, scale and size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.conformal import ConformalIntervals, ConformalSets, coverage_over_splits

coverages = st.sampled_from([0.5, 0.8, 0.9, 0.95])


def mean_coverage(make, n_splits=2000):
    """Mean coverage of one new row over draws of calibration set and row."""
    return np.mean([make(np.random.default_rng(i)) for i in range(n_splits)])


@settings(max_examples=8, deadline=None)
@given(
    coverages, st.integers(20, 60), st.booleans(), st.sampled_from(["normal", "standard_cauchy"])
)
def test_interval_coverage_is_the_stated_one(coverage, n, scaled, shape):
    """At least the coverage and at most 1 / (n + 1) more, within the noise of 2,000 draws."""

    def draw(random):
        noise = random.exponential(size=n + 1) + 0.1
        y = noise * getattr(random, shape)(size=n + 1)
        scale = noise * random.uniform(0.5, 2, n + 1) if scaled else None  # an imperfect guess
        predicted = 0.3 * y + 1  # a bad model
        first = None if scale is None else scale[:n]
        last = None if scale is None else scale[n:]
        intervals = ConformalIntervals(coverage).fit(y[:n], predicted[:n], first)
        return intervals.covers(y[n:], predicted[n:], last)[0]

    noise = 4 * np.sqrt(0.25 / 2000)
    assert coverage - noise <= mean_coverage(draw) <= coverage + 1 / (n + 1) + noise


@settings(max_examples=8, deadline=None)
@given(coverages, st.integers(20, 60), st.integers(2, 4), st.booleans())
def test_set_coverage_is_the_stated_one(coverage, n, n_classes, per_class):
    def draw(random):
        p = random.dirichlet(np.ones(n_classes), n + 1)
        y = random.choice(
            n_classes, size=n + 1, p=[0.7] + [0.3 / (n_classes - 1)] * (n_classes - 1)
        )
        sets = ConformalSets(coverage, per_class).fit(y[:n], p[:n])
        return sets.covers(y[n:], p[n:])[0]

    noise = 4 * np.sqrt(0.25 / 2000)
    found = mean_coverage(draw)
    assert found >= coverage - noise
    if not per_class:  # within small classes the sets are larger than that
        assert found <= coverage + 1 / (n + 1) + noise


def test_rare_class_is_covered_only_when_asked_by_class():
    random = np.random.default_rng(0)
    y = (random.uniform(size=8000) < 0.05).astype(int)
    p1 = 1 / (1 + np.exp(-(random.normal(size=8000) + 2 * y - 3)))
    p = np.stack([1 - p1, p1], 1)
    rare = {}
    for per_class in (False, True):
        sets = ConformalSets(0.9, per_class).fit(y[:4000], p[:4000])
        covered = sets.covers(y[4000:], p[4000:])
        assert covered.mean() == pytest.approx(0.9, abs=0.03)
        rare[per_class] = covered[y[4000:] == 1].mean()
    assert rare[False] < 0.5
    assert rare[True] == pytest.approx(0.9, abs=0.08)


def test_scale_makes_intervals_shorter_where_the_model_is_sure():
    random = np.random.default_rng(0)
    scale = random.exponential(size=4000) + 0.05
    y, predicted = scale * random.normal(size=4000), np.zeros(4000)
    plain = coverage_over_splits(ConformalIntervals(0.9), y, predicted, n_splits=50)
    scaled = coverage_over_splits(ConformalIntervals(0.9), y, predicted, scale, n_splits=50)
    assert abs(plain.coverage.mean() - 0.9) < 0.02
    assert abs(scaled.coverage.mean() - 0.9) < 0.02
    assert scaled.size.mean() < 0.9 * plain.size.mean()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), coverages, st.integers(1, 40))
def test_intervals_grow_with_coverage_and_too_few_molecules_say_nothing(seed, coverage, n):
    random = np.random.default_rng(seed)
    y, predicted = random.normal(size=(2, n))
    less, more = (ConformalIntervals(c).fit(y, predicted) for c in (coverage / 2, coverage))
    assert (more.size(predicted) >= less.size(predicted)).all()
    assert np.isinf(more.quantile[0]) == (round((n + 1) * coverage, 9) > n)


def test_order_of_the_calibration_set_does_not_matter():
    random = np.random.default_rng(0)
    y, predicted, scale = random.uniform(0.5, 1, size=(3, 99))
    p = random.dirichlet([1, 1, 1], 99)
    order = random.permutation(99)
    first = ConformalIntervals(0.9).fit(y, predicted, scale)
    other = ConformalIntervals(0.9).fit(y[order], predicted[order], scale[order])
    assert first.quantile == other.quantile
    labels = p.argmax(1)
    np.testing.assert_array_equal(
        ConformalSets().fit(labels, p).quantile,
        ConformalSets().fit(labels[order], p[order]).quantile,
    )


def test_tasks_stand_alone_and_missing_labels_are_left_out():
    random = np.random.default_rng(0)
    y, predicted = random.normal(size=(2, 60, 2))
    y[:20, 1] = np.nan
    predicted[0, 0] = np.nan
    both = ConformalIntervals(0.8).fit(y, predicted)
    assert both.quantile[0] == ConformalIntervals(0.8).fit(y[1:, 0], predicted[1:, 0]).quantile
    assert both.quantile[1] == ConformalIntervals(0.8).fit(y[20:, 1], predicted[20:, 1]).quantile
    low, high = both(predicted)
    assert (low[0, 0], high[0, 0]) == (-np.inf, np.inf)
    assert np.isfinite(low[1:]).all()

    p = random.dirichlet([1, 1], (60, 2))
    labels = random.integers(2, size=(60, 2)).astype(float)
    labels[:20, 1] = np.nan
    p[0] = np.nan
    sets = ConformalSets(0.8).fit(labels, p)
    assert sets.quantile[1, 0] == ConformalSets(0.8).fit(labels[20:, 1], p[20:, 1]).quantile[0, 0]
    assert sets(p)[0].all()
    assert not sets.covers(labels, p)[1:20, 1].any()


@pytest.mark.parametrize("n_tasks", [(), (1,), (3,)], ids=str)
def test_no_molecules_say_nothing(n_tasks):
    nothing, n = np.zeros((0, *n_tasks)), max(n_tasks, default=1)
    assert ConformalIntervals().fit(nothing, nothing).quantile.tolist() == [np.inf] * n
    sets = ConformalSets().fit(nothing, np.zeros((0, *n_tasks, 2)))
    assert sets.quantile.tolist() == [[np.inf, np.inf]] * n


def test_errors_name_what_is_wrong():
    for coverage in (0, 1, 90):
        with pytest.raises(ValueError, match="between 0 and 1"):
            ConformalIntervals(coverage)
        with pytest.raises(ValueError, match="between 0 and 1"):
            ConformalSets(coverage)
    with pytest.raises(ValueError, match="row 1: scale is 0.0, but must be positive"):
        ConformalIntervals().fit([1, 2], [1, 2], [1, 0])
    with pytest.raises(ValueError, match="give the same shape"):
        ConformalIntervals().fit([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="row 0: label 2 is not one of the classes 0 to 1"):
        ConformalSets().fit([2, 1], np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="at least 4"):
        coverage_over_splits(ConformalIntervals(), [1, 2, np.nan], [1, 2, 3])


def test_a_call_that_does_not_go_with_the_fit_is_refused():
    y = np.arange(20.0)
    plain, scaled = ConformalIntervals(), ConformalIntervals()
    with pytest.raises(RuntimeError, match="call fit"):
        plain(y)
    plain.fit(y, y + 1)
    scaled.fit(y, y + 1, np.full(20, 2.0))
    with pytest.raises(ValueError, match="fit without a scale: give none"):
        plain.covers(y, y, y + 1)
    with pytest.raises(ValueError, match="fit with a scale: give it"):
        scaled.size(y)
    with pytest.raises(ValueError, match=r"shape \(2,\) do not match the fit, which had 1"):
        plain(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="is one number"):
        plain(2.0)
    assert [end.shape for end in plain([])] == [(0,), (0,)]
    with pytest.raises(RuntimeError, match="call fit"):
        ConformalSets()(np.full((3, 2), 0.5))
    sets = ConformalSets().fit([0, 1] * 10, np.full((20, 2), 0.5))
    with pytest.raises(ValueError, match="do not match the fit"):
        sets(np.full((3, 3), 1 / 3))
    assert sets(np.zeros((0, 2))).shape == (0, 2)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), scaled=st.booleans())
def test_ties_at_the_end_of_an_interval_are_inside(seed, scaled):
    """Where all errors are the same, as of a constant label and answer, all are covered."""
    random = np.random.default_rng(seed)
    y, value = random.normal(0, 10.0 ** random.integers(-6, 6), 2)
    value = float(np.float32(value))
    scale = np.full(30, random.uniform(0.1, 3)) if scaled else None
    intervals = ConformalIntervals(0.9).fit(np.full(30, y), np.full(30, value), scale)
    assert intervals.covers(np.full(30, y), np.full(30, value), scale).all()


@pytest.mark.parametrize("per_class", [False, True])
def test_a_class_as_improbable_as_the_limit_is_in_the_set(per_class):
    p = np.tile([[0.7, 0.3], [0.3, 0.7]], (10, 1))
    sets = ConformalSets(0.9, per_class).fit([0, 1] * 10, p)
    assert sets.quantile.tolist() == [[1 - 0.7] * 2]
    assert sets(p).tolist() == [[True, False], [False, True]] * 10


@pytest.mark.parametrize("shape", [(30, 3), (30, 2, 3)], ids=str)
def test_the_size_of_a_set_is_the_number_of_its_classes(shape):
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(3), shape[:-1])
    sets = ConformalSets(0.6).fit(random.integers(3, size=shape[:-1]), p)
    assert set(sets.size(p).flat) >= {1, 2}
    assert sets.size(p).tolist() == np.count_nonzero(sets(p), axis=-1).tolist()


def test_ranks_are_counted_in_decimals():
    """55 % of a hundred are 55, though 100 * 0.55 is a little more in binary."""
    errors = np.arange(1.0, 100)
    assert ConformalIntervals(0.55).fit(errors, np.zeros(99)).quantile[0] == 55


def test_scales_stay_with_their_rows_and_tasks():
    random = np.random.default_rng(0)
    y, predicted, scale = random.uniform(0.5, 1, size=(3, 30, 2))
    both = ConformalIntervals(0.8).fit(y, predicted, scale).size(predicted, scale)
    for task in range(2):
        of_task = predicted[:, task], scale[:, task]
        alone = ConformalIntervals(0.8).fit(y[:, task], *of_task).size(*of_task)
        np.testing.assert_allclose(both[:, task], alone)


def test_a_row_without_prediction_needs_no_scale():
    known = ConformalIntervals(0.5).fit([1, 2, 4], [1, 1, 1], [1, 1, 1])
    gap = ConformalIntervals(0.5).fit([1, 2, 3, 4], [1, 1, np.nan, 1], [1, 1, np.nan, 1])
    assert gap.quantile == known.quantile


@pytest.mark.filterwarnings("error")
def test_a_prediction_that_is_not_finite_excludes_nothing():
    intervals = ConformalIntervals(0.5).fit([1, 2, 4], [1, 1, 1])
    low, high = intervals([np.nan, np.inf, -np.inf, 0.0])
    assert low.tolist() == [-np.inf] * 3 + [low[3]]
    assert high.tolist() == [np.inf] * 3 + [-low[3]]
    assert intervals.covers([3.0] * 3, [np.nan, np.inf, -np.inf]).all()


class Halves:
    """Notes which molecules a method is fit on, and which are counted."""

    def __init__(self):
        self.known, self.counted = [], []

    def fit(self, y, predicted):
        self.known.append(set(y))

    def covers(self, y, predicted):
        self.counted.append(set(y))
        return np.ones(len(y), bool)

    def size(self, predicted):
        return predicted


def test_no_molecule_is_counted_that_was_fit_on():
    halves, y = Halves(), np.arange(9.0)
    coverage_over_splits(halves, y, y, n_splits=5)
    for known, counted in zip(halves.known, halves.counted):
        assert (len(known), len(counted)) == (4, 5)
        assert known | counted == set(y)


def test_splitting_needs_two_molecules_on_each_side():
    coverage_over_splits(Halves(), np.arange(4.0), np.arange(4.0), n_splits=1)
    with pytest.raises(ValueError, match="at least 4"):
        coverage_over_splits(Halves(), np.arange(3.0), np.arange(3.0), n_splits=1)


@pytest.mark.parametrize("scaled", [False, True])
def test_one_task_may_be_a_column(scaled):
    random = np.random.default_rng(0)
    y, value = random.normal(size=40), random.normal(size=40)
    y[3] = value[5] = np.nan
    given = [y, value, np.linspace(1, 2, 40)] if scaled else [y, value]
    flat = coverage_over_splits(ConformalIntervals(), *given)
    column = coverage_over_splits(ConformalIntervals(), *(a[:, None] for a in given))
    np.testing.assert_array_equal(flat, column)
    labels, p = random.integers(0, 3, 40), random.dirichlet(np.ones(3), 40)
    flat = coverage_over_splits(ConformalSets(), labels, p)
    np.testing.assert_array_equal(
        flat, coverage_over_splits(ConformalSets(), labels[:, None], p[:, None])
    )
    with pytest.raises(ValueError, match=r"\(40, 2\): give one task at a time"):
        coverage_over_splits(ConformalIntervals(), np.zeros((40, 2)), np.zeros((40, 2)))


def test_splits_are_those_of_the_seed():
    y, drawn = np.arange(20.0), []
    for seed in (0, 0, 1):
        halves = Halves()
        coverage_over_splits(halves, y, y, n_splits=3, seed=seed)
        drawn.append(halves.known)
    assert drawn[0] == drawn[1] != drawn[2]


def test_rows_that_say_nothing_do_not_count_as_covered():
    random = np.random.default_rng(0)
    y, predicted = random.normal(size=(2, 40))
    whole = coverage_over_splits(ConformalIntervals(0.8), y, predicted, n_splits=5)
    gaps = [np.insert(y, 3, [0, np.nan]), np.insert(predicted, 3, [np.nan, 0])]
    found = coverage_over_splits(ConformalIntervals(0.8), *gaps, n_splits=5)
    np.testing.assert_array_equal(found, whole)


def test_any_more_than_a_rank_is_the_next_one():
    errors = np.arange(1.0, 100)
    assert ConformalIntervals(0.550005).fit(errors, np.zeros(99)).quantile[0] == 56


def test_a_row_that_lacks_one_probability_is_left_out():
    random = np.random.default_rng(0)
    p, y = random.dirichlet([1, 1, 1], 40), random.integers(3, size=40)
    whole = coverage_over_splits(ConformalSets(0.8), y, p, n_splits=5)
    found = coverage_over_splits(
        ConformalSets(0.8), np.insert(y, 3, 0), np.insert(p, 3, [np.nan, 0.5, 0.5], 0), n_splits=5
    )
    np.testing.assert_array_equal(found, whole)
