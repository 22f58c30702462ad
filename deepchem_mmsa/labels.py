"""Checks and statistics of the labels ``y`` and weights ``w`` before supervised training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.tables import label_array

if TYPE_CHECKING:
    from deepchem_mmsa.network import MMSANetwork

logger = logging.getLogger(__name__)


def column_of(dataset: Any, name: str) -> np.ndarray | None:
    """Return ``y`` or ``w`` of a dataset; None if it has none.

    Where a ``DiskDataset`` has none, DeepChem looks for a file without a name.
    """
    try:
        return getattr(dataset, name)
    except TypeError:
        return None


def check_labels(dataset: Any, config: MMSAConfig) -> tuple[np.ndarray, np.ndarray]:
    """Check labels and weights and return them as ``[N, T]``, missing labels with weight 0.

    Parameters
    ----------
    dataset : deepchem.data.Dataset
    config : MMSAConfig

    Raises
    ------
    ValueError
        If the number of columns is not `n_tasks`, a label is not a class (or not finite), a
        weight is negative or not finite, or there is no label at all; the message names row,
        value and remedy.
    """
    n = len(dataset)
    given, weights = column_of(dataset, "y"), column_of(dataset, "w")
    if given is None:
        raise ValueError(
            f"the dataset has no labels (y is None), but mode={config.mode!r} needs them; "
            "load it with its tasks, or use mode='pretraining'"
        )
    try:
        y = np.asarray(given, dtype=float).reshape(n, -1)
    except ValueError:
        absent = np.isnan(label_array(given).reshape(n, -1))  # which names what is no number
        cells = np.asarray(given, dtype=object).reshape(n, -1)
        for row, task in np.argwhere(absent):
            if isinstance(cells[row, task], str):
                raise ValueError(
                    f"the label of row {row}, task {task} is the text {cells[row, task]!r}: give "
                    "a missing label as NaN, or as 0 with weight 0"
                ) from None
        raise
    if y.shape[1] != config.n_tasks:
        raise ValueError(
            f"the dataset has {y.shape[1]} task(s), the model n_tasks={config.n_tasks}; "
            f"build it with n_tasks={y.shape[1]}"
        )
    w = np.ones_like(y) if weights is None else np.asarray(weights, dtype=float)
    w = np.where(np.isnan(y), 0.0, np.broadcast_to(w.reshape(n, -1), y.shape))
    wrong = np.argwhere(~(np.isfinite(w) & (w >= 0)))
    if len(wrong):
        row, task = wrong[0]
        raise ValueError(
            f"{len(wrong)} weight(s) cannot be used; the first is {w[row, task]:g} in row {row}, "
            f"task {task}: weights are 0, for a missing label, or positive"
        )
    there = w != 0
    if not there.any():
        raise ValueError(
            "every label of the dataset is missing (weight 0 or NaN); nothing can be learnt: "
            "check the task columns, or use mode='pretraining'"
        )
    allowed, remedy = usable(y, config)
    wrong = np.argwhere(there & ~allowed)
    if len(wrong):
        row, task = wrong[0]
        name = dataset.ids[row] if len(dataset.ids) else ""
        raise ValueError(
            f"{len(wrong)} label(s) cannot be used; the first is {y[row, task]:g} in row {row} "
            f"({name}), task {task}: {remedy}"
        )
    return y, w


def check_task_order(dataset: Any, tasks: Sequence[str] | None) -> None:
    """Check that a dataset with the tasks of a model has them in the model's order.

    Labels are matched by column: in another order they would be those of other tasks.

    Raises
    ------
    ValueError
        If the names are the same in another order.
    """
    names = [str(name) for name in dataset.get_task_names()]
    if tasks and names != list(tasks) and sorted(names) == sorted(tasks):
        raise ValueError(
            f"the tasks of the dataset are {names}, those of the model {list(tasks)}: put the "
            "columns in the model's order (tasks= of the loader)"
        )


def tell_unlabelled(w: np.ndarray, tasks: Sequence[str]) -> None:
    """Warn of tasks without any label.

    Parameters
    ----------
    w : np.ndarray
        ``[N, T]``, of :func:`check_labels`.
    tasks : sequence of str
    """
    empty = np.flatnonzero(~(w != 0).any(0))
    if len(empty):
        logger.warning(
            "%d of %d tasks have no label in this dataset, so their predictions mean nothing: %s",
            len(empty), w.shape[1], ", ".join(str(tasks[task]) for task in empty[:10])
            + (", ..." if len(empty) > 10 else ""),
        )  # fmt: skip


def usable(y: np.ndarray, config: MMSAConfig) -> tuple[np.ndarray, str]:
    """Return a mask of the labels that a model can use, and the remedy for the others.

    Examples
    --------
    >>> usable(np.array([0., 1., 2., np.nan]), MMSAConfig(mode="classification"))[0]
    array([ True,  True, False, False])
    """
    if config.mode == "classification":
        return np.isin(y, np.arange(config.n_classes)), (
            f"labels are the classes 0 to {config.n_classes - 1}; map them, or set n_classes, "
            "or use mode='regression'"
        )
    with np.errstate(over="ignore"):
        finite = np.isfinite(y.astype(np.float32))
    return finite, "labels must be finite, and below 3e38; leave missing ones empty (NaN)"


def label_scaling(y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each task's observed labels, ``[T]`` each.

    A task whose labels do not vary (or are all missing) has scale 1.

    Examples
    --------
    >>> label_scaling(np.array([[1., 5.], [3., 7.]]), np.array([[1., 1.], [1., 0.]]))
    (array([2., 5.], dtype=float32), array([1., 1.], dtype=float32))
    """
    there = w != 0
    count = np.maximum(there.sum(0), 1)
    known = np.where(there, y, 0.0)
    mean = known.sum(0) / count
    scale = np.sqrt((np.where(there, y - mean, 0.0) ** 2).sum(0) / count)
    # Rounding, not variation: relative to the labels, whose unit may make them very small.
    least = np.maximum(1e-8 * np.abs(mean), np.finfo(np.float32).tiny)
    scale = np.where(scale > least, scale, 1.0)
    return mean.astype(np.float32), scale.astype(np.float32)


def class_weights(y: np.ndarray, w: np.ndarray, config: MMSAConfig) -> np.ndarray:
    """Return the weight of each class in the loss, ``[T, C]``.

    ``"balanced"`` is as in scikit-learn: labels of the task / (classes × labels of the class).

    Examples
    --------
    >>> config = MMSAConfig(mode="classification", class_weights="balanced")
    >>> class_weights(np.array([[0.], [0.], [0.], [1.]]), np.ones((4, 1)), config)
    array([[0.6666667, 2.       ]], dtype=float32)
    """
    if config.class_weights != "balanced":
        weights = np.asarray(config.class_weights, dtype=np.float32)
        return np.tile(weights, (config.n_tasks, 1))
    counts = np.stack([((y == c) & (w != 0)).sum(0) for c in range(config.n_classes)], 1)
    total = counts.sum(1, keepdims=True)
    balanced = total / (config.n_classes * np.maximum(counts, 1))
    return np.where(counts > 0, balanced, 1.0).astype(np.float32)


def set_statistics(network: MMSANetwork, y: np.ndarray, w: np.ndarray) -> None:
    """Set a network's label scale, or its class weights.

    Parameters
    ----------
    network : MMSANetwork
    y, w : np.ndarray
        ``[N, T]``, of :func:`check_labels`.
    """
    config = network.config
    if config.mode == "regression" and config.scale_labels:
        mean, scale = label_scaling(y, w)
        for task in np.flatnonzero(np.abs(mean) > 1e5 * scale):
            logger.warning(
                "task %d: labels of %g ± %g; 32-bit numbers keep seven digits, so subtract a "
                "constant from the labels, or take their logarithm",
                task, mean[task], scale[task],
            )  # fmt: skip
        network.label_mean.copy_(torch.from_numpy(mean))
        network.label_scale.copy_(torch.from_numpy(scale))
    if config.mode == "regression" and config.class_weights is not None:
        logger.warning("class_weights are ignored: a regression has no classes")
    if config.mode == "classification" and config.class_weights is not None:
        network.class_weight.copy_(torch.from_numpy(class_weights(y, w, config)))


def do_without(network: MMSANetwork, labels_seen: bool = False) -> None:
    """Do what :func:`set_statistics` can do without a dataset; warn of settings without effect.

    Parameters
    ----------
    network : MMSANetwork
    labels_seen : bool
        Whether an earlier run has seen labels.
    """
    config = network.config
    told = []
    if config.mode == "pretraining" and config.schedule == "staged":
        told.append(
            "how long it is, so schedule='staged' cannot find its middle: structure awareness is "
            "on from the first step"
        )
    if config.mode == "pretraining":
        told.append(
            "its molecules in advance, so batch norm keeps statistics of augmented views: give "
            "callbacks=[deepchem_mmsa.batch_norm.PreciseBatchNorm(dataset)]"
        )
    if config.lr_schedule == "cosine":
        told.append("how long it is, so lr_schedule='cosine' stays at the learning rate")
    if config.freeze_epochs:
        told.append("its epochs, so freeze_epochs has no effect: use freeze_components")
    if not labels_seen and config.mode == "regression" and config.scale_labels:
        told.append(
            "its labels in advance, to standardise them: do it yourself "
            "(NormalizationTransformer), or set scale_labels=False if it is done"
        )
    if not labels_seen and config.mode == "classification" and config.class_weights is not None:
        if config.class_weights == "balanced":
            told.append(
                "its labels in advance, to balance the classes: give class_weights as numbers"
            )
        else:
            set_statistics(network, np.empty(0), np.empty(0))
    for text in told:
        logger.warning("a generator does not reveal %s", text)
