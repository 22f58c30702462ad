"""Scores on non-missing labels."""

from __future__ import annotations

from typing import Any

import deepchem as dc
import numpy as np

from deepchem_mmsa.evaluate import mean_scores


def metric_of(name: str) -> dc.metrics.Metric:
    """Return DeepChem's metric for ``"roc_auc"``, ``"rmse"`` or ``"mae"``.

    Examples
    --------
    >>> metric_of("rmse").name
    'rmse'
    """
    function, mode = {
        "roc_auc": (dc.metrics.roc_auc_score, "classification"),
        "rmse": (dc.metrics.rms_score, "regression"),
        "mae": (dc.metrics.mae_score, "regression"),
    }[name]
    return dc.metrics.Metric(function, name=name, mode=mode)


def score(dataset: Any, predictions: np.ndarray, metric: str) -> tuple[float, list[float]]:
    """Return the mean over tasks, and each task's score, on non-missing labels.

    Parameters
    ----------
    dataset : deepchem.data.Dataset
        With labels ``y`` and weights ``w``, 0 for a missing one.
    predictions : np.ndarray
        ``[N, T, 2]`` probabilities or ``[N, T]`` values in label units.
    metric : {"roc_auc", "rmse", "mae"}
    """
    means, per_task = mean_scores(
        dataset.y, dataset.w, predictions, metric_of(metric), per_task_metrics=True
    )
    return means[metric], per_task[metric]


def labels_of(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and weights of a data set, float ``[N, T]`` each."""
    y = np.asarray(dataset.y, dtype=float).reshape(len(dataset), -1)
    w = np.asarray(dataset.w, dtype=float).reshape(len(dataset), -1)
    return y, np.broadcast_to(w, y.shape) * ~np.isnan(y)


def as_classes(positive: np.ndarray) -> np.ndarray:
    """Return ``[N, T, 2]`` probabilities from those of the positive class, ``[N, T]``."""
    return np.stack([1 - positive, positive], axis=-1)
