"""Conformal prediction: intervals and sets that hold the truth with a stated probability.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018): the model is trained on some
molecules, and its errors on *others*, the calibration set, determine how wide an interval must
be. If calibration and new molecules are exchangeable (for example, drawn from one distribution),
the truth is inside with probability of at least ``coverage``, and at most
``coverage + 1 / (n + 1)`` without ties, over the draw of both, for any model and any n. There is
no guarantee for molecules of another distribution, nor conditionally on a single molecule; a
scaffold split, for example, is not exchangeable.

A row whose prediction is NaN (or, for intervals, infinite) excludes nothing: its interval is the
whole real line, its set all classes. NaN labels are missing.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from deepchem_mmsa.calibrate import known_classes


def _quantile(scores: np.ndarray, coverage: float) -> float:
    """Return the ``⌈(n + 1) coverage⌉``-th smallest score, infinity if there is none."""
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 1e-9: 0.9 is not nine tenths in binary
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


def _by_task(values: np.ndarray) -> np.ndarray:
    """Return ``[N]`` or ``[N, T]`` as ``[N, T]``, also of no rows."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _check_coverage(coverage: float) -> float:
    if not 0 < coverage < 1:
        raise ValueError(
            f"coverage={coverage!r}: must lie between 0 and 1, such as 0.9 for nine of ten"
        )
    return float(coverage)


class ConformalIntervals:
    """Intervals around predicted values, for regression.

    Without a scale all intervals of a task are equally wide: ``ŷ ± q`` with q a quantile of
    ``|y − ŷ|``. With a scale, such as the deviation over an ensemble, ``ŷ ± q · scale`` with q
    a quantile of ``|y − ŷ| / scale``: wide where the model is uncertain. Coverage holds either way.

    Parameters
    ----------
    coverage : float
        Target share of truths inside their intervals.

    Attributes
    ----------
    quantile : np.ndarray
        q of each task, ``[T]``; infinite where the calibration set is too small for the coverage
        (fewer than ``coverage / (1 − coverage)`` molecules, 9 for 0.9).

    Raises
    ------
    ValueError
        If the coverage is not between 0 and 1.

    Examples
    --------
    >>> truth = np.arange(19.0)
    >>> intervals = ConformalIntervals(coverage=0.9).fit(truth, predicted=truth + 0.5)
    >>> intervals([2.0])
    (array([1.5]), array([2.5]))
    """

    quantile: np.ndarray

    def __init__(self, coverage: float = 0.9) -> None:
        self.coverage = _check_coverage(coverage)

    def fit(self, y: ArrayLike, predicted: ArrayLike, scale: ArrayLike | None = None) -> Self:
        """Compute the quantiles from the errors on a calibration set.

        Parameters
        ----------
        y, predicted : array-like
            ``[N]`` or ``[N, T]``, in label units; for molecules that the model was not trained on.
        scale : array-like, optional
            Positive, of the same shape.

        Raises
        ------
        ValueError
            If shapes differ, or a scale is not positive (the message names row and value).
        """
        truth = np.asarray(y, dtype=float)
        values, widths = _values(predicted, scale)
        if truth.shape != values.shape:
            raise ValueError(
                f"y has shape {truth.shape}, predicted {values.shape}: give the same shape"
            )
        scores = _by_task(np.abs(truth - values) / widths)
        self.quantile = np.array([_quantile(c[~np.isnan(c)], self.coverage) for c in scores.T])
        self._scaled = scale is not None
        return self

    def __call__(
        self, predicted: ArrayLike, scale: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper ends, shaped like `predicted`.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called.
        ValueError
            If the number of tasks differs from the fit, only one of the two had a `scale`, its
            shape differs, or a scale is not positive.
        """
        values, widths = _values(predicted, scale)
        _check_fit(self, values.shape[1:])
        if (scale is not None) != self._scaled:
            raise ValueError(
                f"these intervals were fit with{'' if self._scaled else 'out'} a scale: give "
                f"{'it' if self._scaled else 'none'} here too, or fit again"
            )
        half = (_by_task(widths) * self.quantile).reshape(values.shape)
        # A margin for rounding, so that an error equal to the quantile (a tie) is covered.
        half = half + 4 * np.finfo(float).eps * (np.abs(values) + half)
        half = np.where(np.isfinite(values), half, np.inf)
        centre = np.nan_to_num(values)
        return centre - half, centre + half

    def covers(
        self, y: ArrayLike, predicted: ArrayLike, scale: ArrayLike | None = None
    ) -> np.ndarray:
        """Return whether each truth is inside, bool, shaped like `predicted`."""
        low, high = self(predicted, scale)
        truth = np.asarray(y, dtype=float)
        return (low <= truth) & (truth <= high)

    def size(self, predicted: ArrayLike, scale: ArrayLike | None = None) -> np.ndarray:
        """Return the width of each interval, in label units."""
        low, high = self(predicted, scale)
        return high - low


def _check_fit(fitted: ConformalIntervals | ConformalSets, shape: tuple[int, ...]) -> None:
    """Check that `fitted` was fit, and to rows of this shape."""
    if not hasattr(fitted, "quantile"):
        raise RuntimeError("call fit with a calibration set first")
    if math.prod(shape) != fitted.quantile.size:
        raise ValueError(
            f"rows of shape {shape} do not match the fit, which had "
            f"{fitted.quantile.size} number(s) per molecule: give the same tasks, or fit again"
        )


def _values(predicted: ArrayLike, scale: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(predicted, dtype=float)
    if values.ndim == 0:
        raise ValueError("predicted is one number: give [N] or [N, T], such as [2.0]")
    if scale is None:
        return values, np.ones_like(values)
    widths = np.asarray(scale, dtype=float)
    if widths.shape != values.shape:
        raise ValueError(f"scale has shape {widths.shape}, predicted {values.shape}")
    wrong = np.argwhere(~np.isnan(values) & ~(widths > 0))
    if len(wrong):
        place = tuple(wrong[0])
        raise ValueError(
            f"row {place[0]}: scale is {widths[place]}, but must be positive; add a constant, "
            "such as the median of the scales"
        )
    return values, widths


class ConformalSets:
    """Sets of classes, for classification.

    A set holds every class with ``1 − p ≤ q``, q a quantile of ``1 − p(true class)`` (least
    ambiguous sets; Sadinle et al. 2019). One class is a clear prediction, several are an
    ambiguous one; the set is empty if no class is as probable as the true class usually is.

    Parameters
    ----------
    coverage : float
        Target share of true classes in their sets.
    per_class : bool
        Whether coverage holds within each class (Mondrian conformal prediction, needed for rare
        classes) instead of on average over all classes.

    Attributes
    ----------
    quantile : np.ndarray
        q, ``[T, C]``; equal for all classes of a task unless `per_class`.

    Raises
    ------
    ValueError
        If the coverage is not between 0 and 1.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]] * 6 + [[0.6, 0.4]])
    >>> sets = ConformalSets(coverage=0.9).fit([0, 1, 1] * 6 + [1], p)
    >>> sets([[0.95, 0.05], [0.65, 0.35]]).tolist()
    [[True, False], [False, False]]
    """

    quantile: np.ndarray

    def __init__(self, coverage: float = 0.9, per_class: bool = False) -> None:
        self.coverage = _check_coverage(coverage)
        self.per_class = per_class

    def fit(self, y: ArrayLike, predicted: ArrayLike) -> Self:
        """Compute the quantiles from the probabilities of the true classes in a calibration set.

        Parameters
        ----------
        y : array-like
            ``[N]`` or ``[N, T]``, classes from 0.
        predicted : array-like
            Probabilities ``[N, C]`` or ``[N, T, C]``, for molecules that the model was not
            trained on.

        Raises
        ------
        ValueError
            If shapes do not fit, or a label is not a class.
        """
        p = np.asarray(predicted, dtype=float)
        truth = known_classes(p, y)
        n_classes = p.shape[-1]
        miss = 1 - _of_true_class(p, truth)
        rows = []
        for scores, own in zip(_by_task(miss).T, _by_task(truth).T):
            known = ~np.isnan(scores)
            groups = [known & (own == c) if self.per_class else known for c in range(n_classes)]
            rows.append([_quantile(scores[g], self.coverage) for g in groups])
        self.quantile = np.array(rows)
        return self

    def __call__(self, predicted: ArrayLike) -> np.ndarray:
        """Return which classes are in the set, bool, shaped like `predicted`."""
        p = np.asarray(predicted, dtype=float)
        _check_fit(self, p.shape[1:])
        by_task = p.reshape(len(p), *self.quantile.shape)
        inside = (1 - by_task <= self.quantile) | np.isnan(by_task)
        return inside.reshape(p.shape)

    def covers(self, y: ArrayLike, predicted: ArrayLike) -> np.ndarray:
        """Return whether each true class is in its set; False where the label is missing."""
        p = np.asarray(predicted, dtype=float)
        return _of_true_class(self(p).astype(float), known_classes(p, y)) == 1

    def size(self, predicted: ArrayLike) -> np.ndarray:
        """Return the number of classes in each set."""
        return self(predicted).sum(-1)


def _of_true_class(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the value at the true class, NaN where the label is missing."""
    index = np.nan_to_num(truth).astype(int)[..., None]
    return np.where(np.isnan(truth), np.nan, np.take_along_axis(values, index, -1)[..., 0])


class SplitCoverage(NamedTuple):
    """Coverage and size over random splits.

    Parameters
    ----------
    coverage : np.ndarray
        Share of truths covered in each split.
    size : np.ndarray
        Mean width, or mean number of classes, in each split.
    """

    coverage: np.ndarray
    size: np.ndarray


def coverage_over_splits(
    method: ConformalIntervals | ConformalSets,
    y: ArrayLike,
    predicted: ArrayLike,
    scale: ArrayLike | None = None,
    n_splits: int = 100,
    seed: int = 0,
) -> SplitCoverage:
    """Split held-out molecules at random, fit on one half and evaluate on the other, many times.

    Use it to check that the stated coverage holds on your data. `method` stays fit to the
    calibration half of the last split.

    Parameters
    ----------
    method : ConformalIntervals or ConformalSets
    y, predicted : array-like
        As in ``method.fit``, of one task: ``[N]``, and ``[N]`` or ``[N, C]``; or DeepChem's
        ``[N, 1]``, and ``[N, 1]`` or ``[N, 1, C]``. Rows with NaN are left out.
    scale : array-like, optional
        For intervals, ``[N]`` or ``[N, 1]``.
    n_splits : int
    seed : int

    Raises
    ------
    ValueError
        If fewer than 4 rows are left, or there are several tasks.

    Examples
    --------
    >>> error = np.random.default_rng(0).normal(size=400)
    >>> result = coverage_over_splits(ConformalIntervals(0.8), error, np.zeros(400))
    >>> bool(abs(result.coverage.mean() - 0.8) < 0.02)
    True
    """
    truth, p = np.asarray(y, dtype=float), np.asarray(predicted, dtype=float)
    given = [truth, p] if scale is None else [truth, p, np.asarray(scale, dtype=float)]
    if truth.shape[1:] == (1,):
        given = [column[:, 0] if column.ndim > 1 else column for column in given]
    elif truth.ndim != 1:
        raise ValueError(f"y has shape {truth.shape}: give one task at a time, such as y[:, 0]")
    known = ~np.isnan(truth.reshape(-1)) & ~np.isnan(p.reshape(len(p), -1)).any(1)
    columns = [column[known] for column in given]
    n = len(columns[0])
    if n < 4:
        raise ValueError(f"{n} labelled prediction(s): splitting needs at least 4")
    random = np.random.default_rng(seed)
    coverage, size = np.empty(n_splits), np.empty(n_splits)
    for i in range(n_splits):
        order = random.permutation(n)
        method.fit(*(column[order[: n // 2]] for column in columns))
        held = [column[order[n // 2 :]] for column in columns]
        coverage[i] = method.covers(*held).mean()
        size[i] = method.size(*held[1:]).mean()
    return SplitCoverage(coverage, size)
