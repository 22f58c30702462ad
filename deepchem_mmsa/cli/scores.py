"""Scores of a fine-tuning: which metrics, of which tasks, and what cannot be scored."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepchem_mmsa.words import counted

if TYPE_CHECKING:
    import numpy as np
    from deepchem.data import Dataset

    from deepchem_mmsa.config import MMSAConfig

Scores = dict[str, dict[str, float]]

#: Molecules of a part below which a note says that their scores are rough.
FEW = 30


def metrics_of(kind: str) -> list[Any]:
    """Return DeepChem's metrics of a classification or regression; the first one is watched."""
    import deepchem as dc

    if kind == "classification":
        return [
            dc.metrics.Metric(dc.metrics.roc_auc_score, name="roc_auc"),
            dc.metrics.Metric(
                average_precision,
                name="pr_auc",
                mode="classification",
                classification_handling_mode="direct",
            ),
        ]
    return [
        dc.metrics.Metric(dc.metrics.rms_score, name="rmse"),
        dc.metrics.Metric(dc.metrics.mae_score, name="mae"),
        dc.metrics.Metric(dc.metrics.r2_score, name="r2"),
    ]


def average_precision(y: np.ndarray, p: np.ndarray) -> float:
    """Return the area under the precision-recall curve, as average precision.

    Parameters
    ----------
    y, p : np.ndarray
        One-hot classes and probabilities, ``[N, C]``. With two classes the score is that of class
        1, with more the mean over the classes.

    Examples
    --------
    >>> import numpy as np
    >>> y, p = np.array([0, 1, 1]), np.array([0.2, 0.2, 0.9])
    >>> round(average_precision(np.stack([1 - y, y], 1), np.stack([1 - p, p], 1)), 4)
    0.8333
    """
    from sklearn.metrics import average_precision_score

    columns = slice(1, None) if y.shape[1] == 2 else slice(None)
    return float(average_precision_score(y[:, columns], p[:, columns]))


def can_be_scored(data: Any, network: MMSAConfig) -> bool:
    """Return whether the metric is defined: regression, or some task has all classes."""
    if network.mode == "regression":
        return True
    y, w = data.y, data.w
    found = (len(set(y[w[:, task] != 0, task])) for task in range(y.shape[1]))
    return any(n == network.n_classes for n in found)


def scores_of(
    data: Mapping[str, Dataset],
    values: Mapping[str, np.ndarray],
    metrics: Sequence[Any],
    tasks: Sequence[str],
    n_classes: int,
) -> dict[str, Any]:
    """Return ``scores``, the mean over tasks of each metric by part, and ``scores_of_tasks``.

    Parameters
    ----------
    data, values : mapping
        Datasets and predictions by part.
    metrics : sequence of deepchem.metrics.Metric
    tasks : sequence of str
    n_classes : int

    Returns
    -------
    dict
        ``scores[part][metric]``; of several tasks also ``scores_of_tasks[part][task][metric]``,
        NaN where a task cannot be scored, which takes no part in the mean.
    """
    from sklearn.exceptions import UndefinedMetricWarning

    from deepchem_mmsa.evaluate import mean_scores

    means: Scores = {}
    by_task: dict[str, Scores] = {}
    with warnings.catch_warnings():  # a score that is NaN is reported
        warnings.simplefilter("ignore", category=UndefinedMetricWarning)
        warnings.filterwarnings("ignore", "No positive class found")  # not of that category
        for part, of in data.items():
            means[part], each = mean_scores(
                of.y, of.w, values[part], metrics, n_classes, per_task_metrics=True
            )
            by_task[part] = {
                task: {name: float(scores[i]) for name, scores in each.items()}
                for i, task in enumerate(tasks)
            }
    return {"scores": means, **({"scores_of_tasks": by_task} if len(tasks) > 1 else {})}


def rough(summary: Mapping[str, Any]) -> Iterator[str]:
    """Say which scores are those of few molecules.

    Examples
    --------
    >>> list(rough({"molecules": {"train": 9, "valid": 40, "test": 3}, "scores": {"test": {}}}))
    ['the scores of 3 test molecules are rough: average runs with --split random and other --seed']
    """
    sizes = {part: summary["molecules"][part] for part in summary["scores"]}
    if few := {part: n for part, n in sizes.items() if n < FEW}:
        *first, last = few
        listed = [f"{few[part]} {part}" for part in first]
        listed.append(counted(few[last], f"{last} molecule"))
        yield (
            f"the scores of {' and '.join(listed)} are rough: average runs with --split "
            "random and other --seed"
        )


def untold(summary: Mapping[str, Any]) -> Iterator[str]:
    """Say which scores cannot be computed, and which are means over some of the tasks only."""
    for part, scores in summary["scores"].items():
        if missing := [name for name, value in scores.items() if value != value]:
            n = summary["molecules"][part]
            yield (
                f"{part}: {', '.join(missing)} cannot be computed from {counted(n, 'molecule')}: "
                "too few, or a class is missing there"
            )
        by_task = summary.get("scores_of_tasks", {}).get(part, {})
        partial: dict[tuple[str, ...], list[str]] = {}
        for name in scores:
            lost = [task for task, found in by_task.items() if found[name] != found[name]]
            if 0 < len(lost) < len(by_task):
                partial.setdefault(tuple(lost), []).append(name)
        for tasks, names in partial.items():
            shown = ", ".join(tasks[:5]) + (", ..." if len(tasks) > 5 else "")
            yield (
                f"{part}: the mean of {', '.join(names)} is over {len(by_task) - len(tasks)} of "
                f"{len(by_task)} tasks: it cannot be computed for {shown}"
            )
