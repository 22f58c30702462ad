"""Comparison on equal terms: the same split, the same labels, baselines in the same run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import deepchem as dc
import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from deepchem_mmsa.evaluate import masked_scores
from deepchem_mmsa.featurizer import MMSAFeaturizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """A MoleculeNet data set: DeepChem's loader, the kind of task, and the metric."""

    loader: str
    mode: str
    metric: str

    @property
    def minimize(self) -> bool:
        """Whether small scores are good."""
        return self.metric == "rmse"


BENCHMARKS = {
    "bbbp": Benchmark("load_bbbp", "classification", "roc_auc"),
    "bace": Benchmark("load_bace_classification", "classification", "roc_auc"),
    "clintox": Benchmark("load_clintox", "classification", "roc_auc"),
    "sider": Benchmark("load_sider", "classification", "roc_auc"),
    "tox21": Benchmark("load_tox21", "classification", "roc_auc"),
    "toxcast": Benchmark("load_toxcast", "classification", "roc_auc"),
    "hiv": Benchmark("load_hiv", "classification", "roc_auc"),
    "muv": Benchmark("load_muv", "classification", "roc_auc"),
    "esol": Benchmark("load_delaney", "regression", "rmse"),
    "freesolv": Benchmark("load_sampl", "regression", "rmse"),
    "lipophilicity": Benchmark("load_lipo", "regression", "rmse"),
}


def load_benchmark(
    name: str,
    featurizer: MMSAFeaturizer,
    data_dir: str | None = None,
    save_dir: str | None = None,
    splitter: str = "scaffold",
) -> tuple[list[str], tuple[Any, Any, Any]]:
    """Return task names and (train, valid, test) of a MoleculeNet set, labels as they are.

    Parameters
    ----------
    name : str
        A key of :data:`BENCHMARKS`.
    featurizer : MMSAFeaturizer
    data_dir : str, optional
        Where the file lies; DeepChem downloads it if it is missing.
    save_dir : str, optional
        Where DeepChem keeps the featurized set for the next run; without it nothing is kept.
    splitter : str
        DeepChem's splitter.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    loader = getattr(dc.molnet, BENCHMARKS[name].loader)
    tasks, splits, _ = loader(
        featurizer=featurizer,
        splitter=splitter,
        transformers=[],
        data_dir=data_dir,
        save_dir=save_dir,
        reload=save_dir is not None,
    )
    return list(tasks), splits


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


def ecfp(smiles: Sequence[str], radius: int = 2, size: int = 2048) -> np.ndarray:
    """Return Morgan fingerprints, uint8 ``[N, size]``; zeros for a SMILES that cannot be read.

    Examples
    --------
    >>> ecfp(["CCO", "OCC", "CCN"]).sum(1).tolist()
    [6, 6, 6]
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)
    bits = np.zeros((len(smiles), size), dtype=np.uint8)
    for row, text in zip(bits, smiles):
        molecule = Chem.MolFromSmiles(str(text))
        if molecule is not None:
            row[:] = generator.GetFingerprintAsNumPy(molecule)
    return bits


def forest_predictions(
    train: Any, test: Any, mode: str, seed: int = 0, n_trees: int = 500
) -> np.ndarray:
    """Train a random forest on ECFP4 per task and predict the test set.

    Parameters
    ----------
    train, test : deepchem.data.Dataset
        With SMILES as ids; missing labels have weight 0.
    mode : {"classification", "regression"}
    seed, n_trees : int

    Returns
    -------
    np.ndarray
        ``[N, T, 2]`` probabilities or ``[N, T]`` values.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    bits, test_bits = ecfp(train.ids), ecfp(test.ids)
    y = np.asarray(train.y, dtype=float).reshape(len(train), -1)
    w = np.broadcast_to(np.asarray(train.w).reshape(len(train), -1), y.shape)
    columns = []
    for task in range(y.shape[1]):
        there = w[:, task] != 0
        truth = y[there, task]
        if mode == "classification":
            if len(set(truth)) < 2:
                columns.append(np.full(len(test), truth[0] if len(truth) else 0.0))
                continue
            forest = RandomForestClassifier(n_trees, n_jobs=-1, random_state=seed)
            columns.append(forest.fit(bits[there], truth).predict_proba(test_bits)[:, 1])
        else:
            forest = RandomForestRegressor(n_trees, n_jobs=-1, random_state=seed)
            columns.append(forest.fit(bits[there], truth).predict(test_bits))
    values = np.stack(columns, axis=1)
    return np.stack([1 - values, values], axis=-1) if mode == "classification" else values


def mean_predictions(train: Any, test: Any, mode: str) -> np.ndarray:
    """Predict each task's training mean (regression) or class frequency (classification)."""
    y = np.asarray(train.y, dtype=float).reshape(len(train), -1)
    w = np.broadcast_to(np.asarray(train.w).reshape(len(train), -1), y.shape)
    there = w != 0
    mean = np.where(there, y, 0).sum(0) / np.maximum(there.sum(0), 1)
    values = np.tile(mean, (len(test), 1))
    return np.stack([1 - values, values], axis=-1) if mode == "classification" else values


def score(test: Any, predictions: np.ndarray, metric: str) -> tuple[float, list[float]]:
    """Return the mean over tasks, and each task's score, on the labels that are there."""
    per_task = masked_scores(test.y, test.w, predictions, metric_of(metric))[metric]
    known = per_task[~np.isnan(per_task)]
    return (float(known.mean()) if len(known) else float("nan")), per_task.tolist()
