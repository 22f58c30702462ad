"""Scores with bootstrap intervals, which show how they vary with the choice of molecules."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deepchem_mmsa.report.run import Run

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_BLOCK = 1 << 24  # numbers of a block of resamples in memory
_ROWS = 5_000_000  # drawn in all: with many molecules, fewer resamples suffice
_FEWEST = 200


class Problem(NamedTuple):
    """One problem with labels and predictions: a task, or a class of a task against the rest.

    Attributes
    ----------
    name : str
    task : int
    part : str
    places : np.ndarray
        int ``[n]``, rows of the run.
    y : np.ndarray
        ``[n]`` labels, 0 and 1 in classification.
    answer : np.ndarray
        ``[n]`` values, or probabilities of 1.
    """

    name: str
    task: int
    part: str
    places: np.ndarray
    y: np.ndarray
    answer: np.ndarray


class Score(NamedTuple):
    """A score of one problem, with the 95 % interval of its bootstrap."""

    problem: Problem
    metric: str
    value: float
    low: float
    high: float


def problems(run: Run, part: str) -> list[Problem]:
    """Return the problems of a part that have labels."""
    found = []
    for task, name in enumerate(run.tasks):
        places = run.labelled(part, task)
        if not len(places):
            continue
        y, answer = run.y[places, task], run.predicted[places, task]
        if run.kind == "regression":
            found.append(Problem(name, task, part, places, y, answer))
        elif answer.shape[1] == 2:
            found.append(Problem(name, task, part, places, (y == 1) * 1.0, answer[:, 1]))
        else:
            found += [
                Problem(f"{name}, class {called}", task, part, places, (y == c) * 1.0, answer[:, c])
                for c, called in enumerate(run.predictor.classes)
            ]
    return found


def metrics_of(kind: str) -> dict[str, Metric]:
    """Return the metrics by name."""
    if kind == "classification":
        return {"ROC AUC": roc_auc, "PR AUC": average_precision, "Brier": mean_square}
    return {"RMSE": rmse, "MAE": mean_error, "R²": r2}


def score(problem: Problem, kind: str, resamples: int = 1000, seed: int = 0) -> list[Score]:
    """Score a problem, and bootstrap resamples of its molecules.

    Parameters
    ----------
    problem : Problem
    kind : {"classification", "regression"}
    resamples : int
        0 for no interval; with ``n`` molecules, at most ``max(200, 5,000,000 / n)`` are drawn.
    seed : int

    Returns
    -------
    list of Score
        Percentile intervals, 2.5 % to 97.5 %; NaN where a score is not defined (one class only)
        or fewer than half of the resamples have one.
    """
    n = len(problem.y)
    resamples = min(resamples, max(_FEWEST, _ROWS // n))
    metrics = metrics_of(kind)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    even = np.full(n, 1 / n)
    for start in range(0, resamples, block):
        counts = rng.multinomial(n, even, size=min(block, resamples - start)).astype(float)
        for name, metric in metrics.items():
            drawn[name].append(metric(problem.y, problem.answer, counts))
    scores = []
    for name, metric in metrics.items():
        value = float(metric(problem.y, problem.answer, np.ones((1, n)))[0])
        values = np.concatenate(drawn[name]) if drawn[name] else np.zeros(0)
        values = values[np.isfinite(values)]
        low = high = float("nan")
        if 2 * len(values) >= max(resamples, 1):
            low, high = np.percentile(values, [2.5, 97.5]).tolist()
        scores.append(Score(problem, name, value, low, high))
    return scores


# ---- metrics of weighted rows: y [n], answers [n], weights [R, n] -> [R] -------------------------


def mean_square(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the mean squared error; of probabilities, the Brier score."""
    return w @ (y - p) ** 2 / w.sum(1)


def rmse(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the root mean squared error."""
    return np.sqrt(mean_square(y, p, w))


def mean_error(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the mean absolute error."""
    return w @ np.abs(y - p) / w.sum(1)


def r2(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the coefficient of determination; NaN where labels do not vary."""
    centred = y - y.mean()  # differences of large numbers would lose precision
    mean = w @ centred / w.sum(1)
    spread = w @ centred**2 / w.sum(1) - mean**2
    rounding = (1e-12 * np.abs(y).max()) ** 2  # relative: the unit of labels may be very small
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > rounding, 1 - mean_square(y, p, w) / spread, np.nan)


def roc_auc(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve, ties counted half; NaN with one class only.

    Examples
    --------
    >>> roc_auc(np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.2, 0.9]), np.ones((1, 3)))
    array([0.75])
    """
    positive, negative = _by_value(y, p, w)
    below = np.cumsum(negative, 1) - negative
    area = (positive * (below + negative / 2)).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return area / (positive.sum(1) * negative.sum(1))


def average_precision(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the average precision, ``Σ (recall step) × precision``; NaN with one class only.

    Examples
    --------
    >>> average_precision(np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.2, 0.9]), np.ones((1, 3)))
    array([0.8333])
    """
    positive, negative = (part[:, ::-1] for part in _by_value(y, p, w))
    hits, said = np.cumsum(positive, 1), np.cumsum(positive + negative, 1)
    precision = np.divide(hits, said, out=np.zeros_like(hits), where=said > 0)
    total = positive.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (positive * precision).sum(1) / total
    return np.where((total > 0) & (negative.sum(1) > 0), value, np.nan)


def _by_value(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and negatives at each prediction, ascending, ``[R, G]``."""
    order = np.argsort(p, kind="stable")
    starts = np.flatnonzero(np.diff(p[order], prepend=-np.inf))
    positive = np.add.reduceat(w[:, order] * y[order], starts, axis=1)
    return positive, np.add.reduceat(w[:, order] * (1 - y[order]), starts, axis=1)
