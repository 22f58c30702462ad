"""Evaluation that masks missing labels and reports tasks that cannot be scored.

DeepChem's own evaluator counts missing labels (weight 0, value 0) as negatives unless sample
weights are used, and one task with a single class turns the mean over tasks into NaN.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from deepchem.trans import undo_transforms
from deepchem.utils.evaluate import _process_metric_input

from deepchem_mmsa.epochs import check_dataset
from deepchem_mmsa.labels import check_task_order, column_of

logger = logging.getLogger(__name__)


def masked_scores(
    y: np.ndarray,
    w: np.ndarray | None,
    predictions: np.ndarray,
    metrics: Any,
    n_classes: int = 2,
    use_sample_weights: bool = False,
) -> dict[str, np.ndarray]:
    """Score each task on its observed labels.

    Parameters
    ----------
    y : np.ndarray
        Labels, ``[N]`` or ``[N, T]``; NaN is a missing label too.
    w : np.ndarray or None
        Weights of the same shape (or ``[N, 1]``, ``[N]``: for all tasks); 0 marks a missing
        label.
    predictions : np.ndarray
        ``[N, T, C]`` probabilities or ``[N, T]`` values. A row of NaN (a molecule without any
        view) is left out, with a warning that counts them.
    metrics : deepchem.metrics.Metric, list of them, or metric functions
    n_classes : int
    use_sample_weights : bool
        Whether the metrics also use the weights as sample weights; where all weights are equal,
        a metric need not take them.

    Returns
    -------
    dict of str to np.ndarray
        Per metric, ``[T]`` scores; NaN for a task without labels, or with one class only in a
        classification metric.

    Raises
    ------
    TypeError
        If weights that differ are to be used by a metric that takes none.
    ValueError
        If labels and predictions differ in the number of molecules or tasks.

    Examples
    --------
    >>> import deepchem as dc
    >>> auc = dc.metrics.Metric(dc.metrics.roc_auc_score)
    >>> y, w = np.array([[1, 0], [0, 1], [1, 0]]), np.array([[1, 0], [1, 1], [1, 0]])
    >>> p = np.array([[.9, .5], [.2, .5], [.8, .5]])
    >>> masked_scores(y, w, np.stack([1 - p, p], -1), auc)
    {'roc_auc_score': array([ 1., nan])}
    """
    y = np.asarray(y, dtype=float)
    y = y.reshape(len(y), -1)
    n_tasks = y.shape[1]
    predictions = np.asarray(predictions)
    if predictions.ndim == 1:
        predictions = predictions[:, None]
    if predictions.shape[:2] != y.shape:
        raise ValueError(
            f"labels of {len(y)} molecules and {n_tasks} task(s), but predictions of "
            f"{len(predictions)} and {predictions.shape[1]}: score the tasks that the model was "
            "trained for, in their order"
        )
    weights = np.ones_like(y) if w is None else np.asarray(w, dtype=float)
    weights = np.broadcast_to(weights.reshape(len(y), -1), y.shape)
    there = (weights != 0) & ~np.isnan(y)
    unpredicted = np.isnan(predictions.reshape(len(y), n_tasks, -1)).any(-1)
    if (there & unpredicted).any():
        logger.warning(
            "%d of %d molecules have no prediction and are left out of the scores",
            (there & unpredicted).any(1).sum(),
            len(y),
        )
    there = there & ~unpredicted

    scores = {}
    for metric in _process_metric_input(metrics):
        # DeepChem applies the mean over tasks to the score of a single one too.
        single = copy.copy(metric)
        single.task_averager = _unchanged
        weighted = use_sample_weights and _takes_weights(metric.metric)
        per_task = np.full(n_tasks, np.nan)
        for task in range(n_tasks):
            kept = there[:, task]
            truth = y[kept, task]
            if len(truth) == 0 or (metric.mode == "classification" and len(set(truth)) < 2):
                continue
            if use_sample_weights and not weighted and np.ptp(weights[kept, task]) > 0:
                raise TypeError(
                    f"the metric {metric.name} takes no sample weights, and those of the labels "
                    "differ: give another metric, or use_sample_weights=False (labels of weight 0 "
                    "are left out in any case)"
                )
            per_task[task] = single.compute_metric(
                truth[:, None],
                predictions[kept][:, task : task + 1],
                weights[kept, task : task + 1],
                n_tasks=1,
                n_classes=n_classes,
                use_sample_weights=weighted,
            )
        scores[metric.name] = per_task
    return scores


def _takes_weights(function: Any) -> bool:
    """Return whether a metric function has the argument ``sample_weight``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of C
        return True
    return any(p.name == "sample_weight" or p.kind == p.VAR_KEYWORD for p in parameters)


def _unchanged(score: Any) -> Any:
    return score


def mean_scores(
    y: np.ndarray,
    w: np.ndarray | None,
    predictions: np.ndarray,
    metrics: Any,
    n_classes: int = 2,
    use_sample_weights: bool = False,
    per_task_metrics: bool = False,
) -> Any:
    """Score by :func:`masked_scores`, and take the mean over the tasks that can be scored.

    Parameters
    ----------
    y, w, predictions, metrics, n_classes, use_sample_weights
        As in :func:`masked_scores`.
    per_task_metrics : bool
        Whether to return the scores of the tasks too.

    Returns
    -------
    dict or (dict, dict)
        Metric name to the mean, NaN where no task can be scored; with `per_task_metrics` also to
        the list of all tasks' scores.

    Examples
    --------
    >>> import deepchem as dc
    >>> auc = dc.metrics.Metric(dc.metrics.roc_auc_score)
    >>> y, p = np.array([[1, 0], [0, 0]]), np.array([[.9, .5], [.2, .5]])
    >>> mean_scores(y, None, np.stack([1 - p, p], -1), auc)
    {'roc_auc_score': 1.0}
    """
    per_task = masked_scores(y, w, predictions, metrics, n_classes, use_sample_weights)
    means = {}
    for metric in _process_metric_input(metrics):
        values = per_task[metric.name]
        scored = values[~np.isnan(values)]
        if len(scored) < len(values):
            logger.info(
                "%s: %d of %d tasks cannot be scored (no labels, or one class only)",
                metric.name,
                len(values) - len(scored),
                len(values),
            )
        means[metric.name] = float(metric.task_averager(scored)) if len(scored) else float("nan")
    if per_task_metrics:
        return means, {name: values.tolist() for name, values in per_task.items()}
    return means


def evaluate(
    model: Any,
    dataset: Any,
    metrics: Any,
    transformers: Sequence[Any] = (),
    per_task_metrics: bool = False,
    use_sample_weights: bool = False,
    n_classes: int = 2,
) -> Any:
    """Predict a dataset and score it by :func:`mean_scores`.

    Parameters
    ----------
    model : deepchem.models.Model
    dataset : deepchem.data.Dataset
    metrics, use_sample_weights, n_classes, per_task_metrics
        As in :func:`mean_scores`.
    transformers : sequence of deepchem.trans.Transformer
        Undone on labels and predictions first.

    Returns
    -------
    dict or (dict, dict)
        As returned by :func:`mean_scores`.

    Raises
    ------
    TypeError
        If it is not a DeepChem dataset.
    ValueError
        If the dataset is empty or has no labels, or has more or fewer tasks than the model, or
        the same in another order.
    """
    check_dataset(dataset)
    if len(dataset) == 0:
        raise ValueError("the dataset to evaluate holds no molecule")
    labels = column_of(dataset, "y")
    if labels is None:
        raise ValueError("the dataset has no labels (y is None); load it with its tasks")
    check_task_order(dataset, getattr(model, "tasks", None))
    output_transformers = [t for t in transformers if t.transform_y]
    y = undo_transforms(labels, output_transformers)
    predictions = model.predict(dataset, output_transformers)
    w = column_of(dataset, "w")
    return mean_scores(y, w, predictions, metrics, n_classes, use_sample_weights, per_task_metrics)
