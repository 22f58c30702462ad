"""Calibrated probabilities: temperature scaling, isotonic regression, reliability curves.

Everything here works on arrays, and so for any model: probabilities ``[N, C]`` with labels
``[N]``, or ``[N, T, C]`` with ``[N, T]``; values ``[N]`` or ``[N, T]``. Fit on molecules that the
model was **not** trained on. A label that is NaN, or has weight 0, is missing; a row whose
prediction is NaN is ignored in fitting and stays NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.isotonic import IsotonicRegression

_LEAST = 1e-12
"""Lower bound on probabilities before the logarithm is taken."""

_ROUNDED = 0.01
"""By how much probabilities, which a table may round, may miss 0, 1, or the sum of 1."""


def _checked(
    probabilities: ArrayLike, y: ArrayLike, w: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities ``[N, T, C]``, labels ``[N, T]`` and which of them can be used."""
    p = np.asarray(probabilities, dtype=float)
    weights = None if w is None else np.asarray(w, dtype=float)
    labels = known_classes(p, y, weights)
    shape = len(p), math.prod(p.shape[1:-1])
    p, labels = p.reshape(*shape, p.shape[-1]), labels.reshape(shape)
    known = ~np.isnan(labels) & ~np.isnan(p).any(-1)
    _refuse_empty(known)
    return p, labels, known


def known_classes(p: np.ndarray, y: ArrayLike, w: np.ndarray | None = None) -> np.ndarray:
    """Return labels ``[N]`` or ``[N, T]``, NaN where one is missing or has no weight.

    Parameters
    ----------
    p : np.ndarray
        Probabilities, ``[N, C]`` or ``[N, T, C]``.
    y : array-like
        Labels, NaN where one is missing.
    w : np.ndarray, optional
        Weights.

    Raises
    ------
    ValueError
        If the shapes do not belong together, a label is not one of the classes, or the
        probabilities of a row do not sum to 1.

    Examples
    --------
    >>> known_classes(np.array([[0.5, 0.5], [0.1, 0.9]]), [0, 1], np.array([1, 0]))
    array([ 0., nan])
    """
    labels = np.asarray(y, dtype=float)
    if p.ndim not in (2, 3) or p.shape[:-1] != labels.shape:
        raise ValueError(
            f"probabilities have shape {p.shape} and labels {labels.shape}: give [N, C] with [N], "
            "or [N, T, C] with [N, T]"
        )
    off = np.argwhere((np.abs(p.sum(-1) - 1) > _ROUNDED) | (p < -_ROUNDED).any(-1))
    if len(off):
        place = tuple(off[0])
        raise ValueError(
            f"row {place[0]}: {p[place].round(3).tolist()} are not the probabilities of all "
            "classes, which sum to 1; those of class 1 in several tasks are p: give "
            "np.stack([1 - p, p], -1)"
        )
    if w is not None:
        labels = np.where(w.reshape(labels.shape) == 0, np.nan, labels)
    wrong = np.argwhere(~np.isnan(labels) & ~np.isin(labels, np.arange(p.shape[-1])))
    if len(wrong):
        place = tuple(wrong[0])
        task = f", task {place[1]}" if labels.ndim == 2 else ""
        raise ValueError(
            f"row {place[0]}{task}: label {labels[place]:g} is not one of the classes 0 to "
            f"{p.shape[-1] - 1}; number the classes in the order of the probabilities' columns"
        )
    return labels


def _check_alike(p: np.ndarray, fitted: tuple[int, int]) -> None:
    given = (math.prod(p.shape[1:-1]), p.shape[-1]) if p.ndim > 1 else (0, 0)
    if given != fitted:
        raise ValueError(
            f"probabilities of shape {p.shape} do not match the {fitted[0]} task(s) and "
            f"{fitted[1]} classes that were fit: give the same ones, or fit again"
        )


def _refuse_empty(known: np.ndarray) -> None:
    empty = np.flatnonzero(~known.any(0))
    if len(empty):
        raise ValueError(
            f"task {empty[0]} has no label with a prediction to calibrate on; give labelled "
            "molecules for it, or leave the task out"
        )


# ---- probabilities ------------------------------------------------------------------------


class TemperatureScaling:
    """Temperature scaling with one temperature per task: ``softmax(log p / T)``.

    It never changes which class is the most probable (Guo et al. 2017). The temperature minimises
    the negative log-likelihood.

    Attributes
    ----------
    temperature : np.ndarray
        ``[T]``; above 1 where the model was overconfident.

    Examples
    --------
    >>> y = np.array([0, 0, 0, 1] * 25)
    >>> sure = np.tile([0.99, 0.01], (100, 1))
    >>> TemperatureScaling().fit(sure, y)(sure)[0].round(2)
    array([0.75, 0.25])
    """

    temperature: np.ndarray

    def fit(self, probabilities: ArrayLike, y: ArrayLike, w: ArrayLike | None = None) -> Self:
        """Fit the temperatures.

        Parameters
        ----------
        probabilities : array-like
            ``[N, C]`` or ``[N, T, C]``.
        y : array-like
            ``[N]`` or ``[N, T]``, classes from 0; NaN is missing.
        w : array-like, optional
            Shaped like `y`; 0 is missing.

        Raises
        ------
        ValueError
            If shapes do not match, a label is not a class, or a task has no label.
        """
        p, labels, known = _checked(probabilities, y, w)
        self._shape = p.shape[1], p.shape[2]
        self.temperature = np.array(
            [
                _best_temperature(p[there, task], labels[there, task].astype(int))
                for task, there in enumerate(known.T)
            ]
        )
        return self

    def __call__(self, probabilities: ArrayLike) -> np.ndarray:
        """Return calibrated probabilities, shaped as given; NaN rows stay NaN."""
        p = np.asarray(probabilities, dtype=float)
        if not hasattr(self, "temperature"):
            raise RuntimeError("call fit with labelled molecules first")
        _check_alike(p, self._shape)
        logits = np.log(np.maximum(p, _LEAST)).reshape(len(p), len(self.temperature), p.shape[-1])
        return softmax(logits / self.temperature[:, None], axis=-1).reshape(p.shape)


def _best_temperature(p: np.ndarray, labels: np.ndarray) -> float:
    logits = np.log(np.maximum(p, _LEAST))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / math.exp(log_temperature), axis=1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    # Convex in 1/T, so unimodal in log T; the bounds apply where all predictions are right.
    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return math.exp(found.x)


class IsotonicCalibration:
    """Isotonic regression of each task's and class's probabilities, normalised to sum to 1.

    It is more flexible than temperature scaling but needs more molecules (several hundred); see
    Zadrozny and Elkan 2002. It introduces ties, which can change a ranking slightly.

    Examples
    --------
    >>> y = np.array([0, 0, 0, 1] * 25)
    >>> sure = np.tile([0.99, 0.01], (100, 1))
    >>> IsotonicCalibration().fit(sure, y)(sure)[0].round(2)
    array([0.75, 0.25])
    """

    _maps: list[list[IsotonicRegression]]

    def fit(self, probabilities: ArrayLike, y: ArrayLike, w: ArrayLike | None = None) -> Self:
        """Fit the isotonic regressions; arguments as in :meth:`TemperatureScaling.fit`."""
        p, labels, known = _checked(probabilities, y, w)
        self._shape = p.shape[1], p.shape[2]
        # For two classes, one regression is enough.
        classes = [1] if p.shape[-1] == 2 else range(p.shape[-1])
        self._maps = [
            [
                IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
                    p[there, task, c], labels[there, task] == c
                )
                for c in classes
            ]
            for task, there in enumerate(known.T)
        ]
        return self

    def __call__(self, probabilities: ArrayLike) -> np.ndarray:
        """Return calibrated probabilities, shaped as given; NaN rows stay NaN."""
        p = np.asarray(probabilities, dtype=float)
        if not hasattr(self, "_maps"):
            raise RuntimeError("call fit with labelled molecules first")
        _check_alike(p, self._shape)
        by_task = p.reshape(len(p), len(self._maps), p.shape[-1])
        result = np.full(by_task.shape, np.nan)
        for task, maps in enumerate(self._maps):
            there = ~np.isnan(by_task[:, task]).any(-1)
            if not there.any():
                continue
            if len(maps) == 1:
                one = maps[0].predict(by_task[there, task, 1])
                result[there, task] = np.stack([1 - one, one], axis=1)
                continue
            each = np.stack(
                [m.predict(by_task[there, task, c]) for c, m in enumerate(maps)], axis=1
            )
            total = each.sum(1, keepdims=True)
            even = np.full_like(each, 1 / len(maps))  # where every class has probability 0
            result[there, task] = np.divide(each, total, out=even, where=total > 0)
        return result.reshape(p.shape)


class Reliability(NamedTuple):
    """Predicted probability and observed frequency per probability bin.

    Parameters
    ----------
    predicted, observed : np.ndarray
        Mean probability and share of positives in each bin that is not empty, ``[B]``.
    low, high : np.ndarray
        95 % Wilson interval of the share.
    n : np.ndarray
        Molecules in the bin.
    error : float
        Expected calibration error: ``Σ n |observed − predicted| / Σ n``.
    """

    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    error: float


def reliability(
    y: ArrayLike, probability: ArrayLike, n_bins: int = 10, strategy: str = "quantile"
) -> Reliability:
    """Compare the predicted probability of class 1 with its observed frequency.

    The curve is that of :func:`sklearn.calibration.calibration_curve`, with counts and confidence
    intervals in addition.

    Parameters
    ----------
    y : array-like
        ``[N]`` of 0 and 1; rows with NaN here or in `probability` are left out.
    probability : array-like
        ``[N]``.
    n_bins : int
    strategy : {"quantile", "uniform"}
        Bins of equally many molecules, or of equal width.

    Raises
    ------
    ValueError
        If no row is left, a label is not 0 or 1, a probability not between them, lengths differ,
        or `strategy` is unknown.

    Examples
    --------
    >>> reliability([0, 1, 1, 1], [0.5, 0.5, 0.9, 0.9], n_bins=2).error
    0.05
    """
    labels = np.asarray(y, dtype=float).reshape(-1)
    p = np.asarray(probability, dtype=float).reshape(-1)
    if labels.shape != p.shape:
        raise ValueError(f"{len(labels)} labels for {len(p)} probabilities; give one for each")
    known = ~np.isnan(labels) & ~np.isnan(p)
    labels, p = labels[known], p[known]
    if len(labels) == 0 or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            "a reliability curve needs labels 0 and 1 with a probability each; for more classes, "
            "draw one class against the rest"
        )
    if p.min() < -_ROUNDED or p.max() > 1 + _ROUNDED:
        raise ValueError(f"probabilities of {p.min():g} to {p.max():g}: must be between 0 and 1")
    if strategy not in ("quantile", "uniform"):
        raise ValueError(f"strategy={strategy!r}: choose 'quantile' or 'uniform'")
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        edges = np.percentile(p, edges * 100)
    index = np.searchsorted(edges[1:-1], p)
    count = np.bincount(index, minlength=n_bins)
    hits = np.bincount(index, labels, n_bins)[count > 0]
    total = np.bincount(index, p, n_bins)[count > 0]
    count = count[count > 0]
    intervals = [
        binomtest(int(k), int(n)).proportion_ci(method="wilson") for k, n in zip(hits, count)
    ]
    gap = np.abs(hits / count - total / count)
    return Reliability(
        predicted=total / count,
        observed=hits / count,
        low=np.array([i.low for i in intervals]),
        high=np.array([i.high for i in intervals]),
        n=count,
        error=float((count * gap).sum() / count.sum()),
    )


def plot_reliability(curves: Mapping[str, Reliability], path: str | Path) -> None:
    """Plot reliability curves into one figure (PNG, SVG or PDF by the file's suffix).

    Parameters
    ----------
    curves : mapping of str to Reliability
        Legend to curve.
    path : path-like
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.8), dpi=120, layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=1, zorder=0)
    colours = itertools.cycle(("#0b5fa5", "#d1495b", "#2e8b57", "#8a5fbf"))
    for colour, (name, c) in zip(colours, curves.items()):
        ax.vlines(c.predicted, c.low, c.high, color=colour, alpha=0.35)
        ax.plot(
            c.predicted, c.observed, color=colour, marker="o", markersize=4,
            label=f"{name}: calibration error {c.error:.3f}",
        )  # fmt: skip
    ax.set(
        xlabel="predicted probability", ylabel="share that came true (95 % interval)",
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal",
    )  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(str(path))
