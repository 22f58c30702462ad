"""Predictive uncertainty: deep ensembles (models of different seeds) and MC dropout.

Both give standard deviations of the prediction, in its units. They are not calibrated: they rank
predictions by uncertainty, but do not give the width of an interval. For intervals with a stated
coverage, see :mod:`deepchem_mmsa.conformal`, which can use such a deviation as its scale.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.hub import find_model, members
from deepchem_mmsa.mc_dropout import check_dropout, sample_dropout
from deepchem_mmsa.predictor import MMSAPredictor, check_batch_size


class Spread(NamedTuple):
    """Prediction and its standard deviation.

    Parameters
    ----------
    values, std : np.ndarray
        ``[N, T, C]`` probabilities or ``[N, T]`` values in label units; NaN rows for molecules
        without any view that the models read.
    reasons : list of str
        One per row: why it has no finite output; empty otherwise.
    """

    values: np.ndarray
    std: np.ndarray
    reasons: list[str]


def load_ensemble(
    folder_or_name: str | os.PathLike, device: torch.device | str | None = None
) -> list[MMSAPredictor]:
    """Read all models of a folder, for :func:`ensemble_spread`; a single model is a list of one.

    Parameters
    ----------
    folder_or_name : path-like
        A folder written by ``mmsa finetune --n-models`` or ``save_pretrained`` of an estimator,
        or one model as in :meth:`MMSAPredictor.from_pretrained`.
    device : torch.device or str, optional
        As there.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or model, or its run is not finished.
    CheckpointError
        If the files of a model are damaged.
    ValueError
        If the models differ in more than their weights (:func:`check_alike`).

    Examples
    --------
    >>> [model.config.mode for model in load_ensemble("mmsa-small")]
    ['pretraining']
    """
    folders: list[str | os.PathLike] = [*members(find_model(folder_or_name))]
    predictors = [
        MMSAPredictor.from_pretrained(folder, device) for folder in folders or [folder_or_name]
    ]
    check_alike(predictors)
    return predictors


def check_alike(predictors: Sequence[MMSAPredictor]) -> None:
    """Check that models predict the same tasks from the same views.

    Parameters
    ----------
    predictors : sequence of MMSAPredictor

    Raises
    ------
    ValueError
        If there is no model, or one differs from the first in mode, classes, tasks, views or
        featurizer settings; the message says which (counted from 1) and how.

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> from deepchem_mmsa.network import MMSANetwork
    >>> config = MMSAConfig(mode="regression", modalities=("graph",), graph_width=16)
    >>> check_alike([
    ...     MMSAPredictor(MMSANetwork(config), {"tasks": [name]}) for name in ("logD", "logS")
    ... ])
    Traceback (most recent call last):
    ValueError: model 2 has the tasks logS, model 1 logD: they cannot be averaged
    """
    if not predictors:
        raise ValueError("an ensemble needs at least one model")

    def said(predictor: MMSAPredictor) -> dict[str, str]:
        config = predictor.config
        classes = f" of {config.n_classes} classes" if config.mode == "classification" else ""
        names = predictor.classes if config.mode == "classification" else []
        return {
            "the mode": config.mode + classes,
            "the classes": ", ".join(names),
            "the tasks": ", ".join(predictor.tasks),
            "the views": ", ".join(config.modalities),
            "the settings": str(predictor.settings),
        }

    first = said(predictors[0])
    for number, predictor in enumerate(predictors[1:], start=2):
        for what, told in said(predictor).items():
            if told != first[what]:
                raise ValueError(
                    f"model {number} has {what} {told}, model 1 {first[what]}: they cannot be "
                    "averaged"
                )


def ensemble_spread(
    predictors: Sequence[MMSAPredictor],
    molecules: Iterable[object],
    batch_size: int = 256,
    n_jobs: int = 1,
) -> Spread:
    """Return mean and standard deviation over a deep ensemble (Lakshminarayanan et al. 2017).

    Parameters
    ----------
    predictors : sequence of MMSAPredictor
        Trained with different seeds and otherwise alike; all read the same views.
    molecules : iterable of str, rdkit.Chem.Mol or MoleculeViews
        Featurized once.
    batch_size, n_jobs : int
        As in :meth:`MMSAPredictor.predict`.

    Raises
    ------
    ValueError
        If there is no model, or they differ in more than their weights (:func:`check_alike`).

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> from deepchem_mmsa.network import MMSANetwork
    >>> config = MMSAConfig(mode="regression", modalities=("graph",), graph_width=16)
    >>> models = [MMSAPredictor(MMSANetwork(config)) for _ in range(3)]
    >>> ensemble_spread(models, ["CCO", "CCN"]).std.shape
    (2, 1)
    """
    check_alike(predictors)
    records = predictors[0].records(molecules, n_jobs)
    answers = [p.predict(records, batch_size) for p in predictors]
    # In float64, so that the deviation of equal predictions is 0.
    stacked = np.stack([a.values for a in answers]).astype(float)
    reasons = [next(filter(None, of_row), "") for of_row in zip(*(a.reasons for a in answers))]
    return Spread(stacked.mean(0), stacked.std(0), reasons)


def dropout_spread(
    predictor: MMSAPredictor,
    molecules: Iterable[object],
    masks: int = 50,
    seed: int = 0,
    batch_size: int = 256,
    n_jobs: int = 1,
) -> Spread:
    """Return mean and standard deviation over MC dropout masks (Gal and Ghahramani 2016).

    Parameters
    ----------
    predictor : MMSAPredictor
    molecules : iterable of str, rdkit.Chem.Mol or MoleculeViews
    masks : int
    seed : int
        The same seed draws the same masks.
    batch_size, n_jobs : int
        As in :meth:`MMSAPredictor.predict`.

    Raises
    ------
    ValueError
        If the model has no head or no dropout, or `masks` is below 2.

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> from deepchem_mmsa.network import MMSANetwork
    >>> config = MMSAConfig(mode="regression", modalities=("graph",), graph_width=16)
    >>> predictor = MMSAPredictor(MMSANetwork(config))
    >>> bool((dropout_spread(predictor, ["CCO", "CCN"], masks=5).std > 0).all())
    True
    """
    check_dropout(predictor.network, masks)
    molecules = predictor.records(molecules, n_jobs)
    if not molecules:
        nothing = predictor.predict([]).values.astype(float)
        return Spread(nothing, nothing, [])
    # A copy: dropout is switched on in it while other threads may predict with the original.
    own = copy.deepcopy(predictor.network)

    def sample(batch: MoleculeBatch) -> Tensor:
        return torch.stack(sample_dropout(own, batch, masks, seed), dim=-1)

    both, reasons = over_batches(predictor, molecules, sample, batch_size)
    return Spread(both[..., 0], both[..., 1], reasons)


def over_batches(
    predictor: MMSAPredictor,
    molecules: Iterable[object],
    compute: Callable[[MoleculeBatch], Tensor],
    batch_size: int = 256,
) -> tuple[np.ndarray, list[str]]:
    """Apply a function of a batch to molecules.

    Parameters
    ----------
    predictor : MMSAPredictor
    molecules : iterable of str, rdkit.Chem.Mol or MoleculeViews
    compute : callable
        Returns a tensor with a row per molecule of the batch.
    batch_size : int
        As in :meth:`MMSAPredictor.predict`.

    Returns
    -------
    values : np.ndarray
        float64 ``[N, ...]``, NaN rows where the model reads no view of the molecule.
    reasons : list of str
        Why a row is NaN, or that its output is not finite; empty otherwise.

    Raises
    ------
    TypeError
        If `molecules` is a single string or a table.
    ValueError
        If there is no molecule, or `batch_size` is below 1.
    """
    check_batch_size(batch_size)
    records = predictor.records(molecules)
    if not records:
        raise ValueError("no molecule was given")
    parts = list(predictor.apply(records, compute, batch_size))
    values = np.concatenate([part.values for part in parts]).astype(float)
    return values, [reason for part in parts for reason in part.reasons]
