"""Baselines that need no training loop: random forest, Gaussian process and mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from deepchem_mmsa.benchmark.scores import as_classes, labels_of
from deepchem_mmsa.molecule import FINGERPRINT_SIZE, N_DESCRIPTORS
from deepchem_mmsa.views.fingerprint import RADIUS


def ecfp(smiles: Sequence[str]) -> np.ndarray:
    """Return bits of ECFP4, uint8 ``[N, 2048]``; zeros for a SMILES that cannot be read.

    Examples
    --------
    >>> ecfp(["CCO", "OCC", "CCN"]).sum(1).tolist()
    [6, 6, 6]
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=FINGERPRINT_SIZE)
    bits = np.zeros((len(smiles), FINGERPRINT_SIZE), dtype=np.uint8)
    for row, text in zip(bits, smiles):
        molecule = Chem.MolFromSmiles(str(text))
        if molecule is not None:
            row[:] = generator.GetFingerprintAsNumPy(molecule)
    return bits


def chemical_features(records: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return ECFP4 bits and RDKit's descriptors of records, float32 ``[N, 2048 + 217]``.

    Parameters
    ----------
    records : sequence of MoleculeViews
        With the fingerprint view; a record without it gets zeros. An undefined descriptor is 0.
    """
    features = np.zeros((len(records), FINGERPRINT_SIZE + N_DESCRIPTORS), dtype=np.float32)
    for row, record in zip(features, records):
        if record.descriptors is not None:
            row[record.fingerprint_bits] = 1
            row[FINGERPRINT_SIZE:] = np.nan_to_num(record.descriptors)
    return features


def forest_predictions(
    train: Any,
    test: Any,
    mode: str,
    seed: int = 0,
    n_trees: int = 500,
    features: tuple[np.ndarray, np.ndarray] | None = None,
    n_jobs: int = -1,
) -> np.ndarray:
    """Train a random forest per task and predict the test set.

    Parameters
    ----------
    train, test : deepchem.data.Dataset
        With SMILES as ids; missing labels have weight 0.
    mode : {"classification", "regression"}
    seed, n_trees : int
    features : (np.ndarray, np.ndarray), optional
        Of train and test; ECFP4 by default.
    n_jobs : int

    Returns
    -------
    np.ndarray
        ``[N, T, 2]`` probabilities or ``[N, T]`` values.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    bits, test_bits = features or (ecfp(train.ids), ecfp(test.ids))

    def predict(rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
        if mode == "classification":
            forest = RandomForestClassifier(n_trees, n_jobs=n_jobs, random_state=seed)
            return np.asarray(forest.fit(bits[rows], truth).predict_proba(test_bits)[:, 1])
        # A third of the features at each split, as Breiman recommends for regression.
        forest = RandomForestRegressor(
            n_trees, max_features=1 / 3, n_jobs=n_jobs, random_state=seed
        )
        return np.asarray(forest.fit(bits[rows], truth).predict(test_bits))

    return _each_task(train, len(test), mode, predict)


def gaussian_process_predictions(
    train: Any,
    test: Any,
    mode: str,
    features: tuple[np.ndarray, np.ndarray],
    seed: int = 0,
    n_rows: int = 2000,
) -> np.ndarray:
    """Fit a Gaussian process per task and predict the test set by its mean.

    The kernel is a Matérn of order 3/2 and noise. Its variance, length and noise maximise the
    marginal likelihood of the training labels (Rasmussen & Williams 2006, eq. 5.8), so that no
    validation set is needed. Classes are regressed as 0 and 1 (ibid., section 6.5).

    Parameters
    ----------
    train, test : deepchem.data.Dataset
        Missing labels have weight 0.
    mode : {"classification", "regression"}
    features : (np.ndarray, np.ndarray)
        Of train and test, their columns on one scale.
    seed : int
        Of the choice of rows.
    n_rows : int
        With more labels, this many decide about variance, length and noise. All are used for the
        predictions: the time grows with their cube, the memory with their square.

    Returns
    -------
    np.ndarray
        ``[N, T, 2]`` probabilities or ``[N, T]`` values.

    Examples
    --------
    >>> import deepchem as dc
    >>> x = np.linspace(0, 6, 30)[:, None]
    >>> train = dc.data.NumpyDataset(x, np.sin(x))
    >>> found = gaussian_process_predictions(train, [None], "regression", (x, np.array([[0.7]])))
    >>> bool(abs(found[0, 0] - np.sin(0.7)) < 0.01)
    True
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    known, asked = features
    width = np.sqrt(known.shape[1])  # of the order of the distances between rows

    def fit(process: Any, x: np.ndarray, y: np.ndarray) -> Any:
        # A variance or noise that stops at its bound is used.
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            return process.fit(x, y)

    def predict(rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
        kernel = ConstantKernel() * Matern(width, (1e-2 * width, 1e2 * width), nu=1.5)
        process = GaussianProcessRegressor(kernel + WhiteKernel(0.1), alpha=1e-6, normalize_y=True)
        if len(rows) > n_rows:
            few = np.random.default_rng(seed).permutation(len(rows))[:n_rows]
            fit(process, known[rows[few]], truth[few])
            process.set_params(kernel=process.kernel_, optimizer=None)
        values = fit(process, known[rows], truth).predict(asked)
        return np.clip(values, 0, 1) if mode == "classification" else np.asarray(values)

    return _each_task(train, len(test), mode, predict)


def _each_task(
    train: Any, n_test: int, mode: str, predict: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Call ``predict(rows, labels)`` for each task; of labels of one class it is not asked."""
    y, w = labels_of(train)
    columns = []
    for task in range(y.shape[1]):
        rows = np.flatnonzero(w[:, task])
        truth = y[rows, task]
        if mode == "classification" and len(set(truth)) < 2:
            columns.append(np.full(n_test, truth[0] if len(truth) else 0.0))
        else:
            columns.append(predict(rows, truth))
    values = np.stack(columns, axis=1)
    return as_classes(values) if mode == "classification" else values


def mean_predictions(train: Any, test: Any, mode: str) -> np.ndarray:
    """Predict each task's training mean (regression) or class frequency (classification)."""
    y, w = labels_of(train)
    there = w != 0
    mean = np.where(there, y, 0).sum(0) / np.maximum(there.sum(0), 1)
    values = np.tile(mean, (len(test), 1))
    return as_classes(values) if mode == "classification" else values


def every_row(train: Any, part: Any, values: np.ndarray, mode: str) -> tuple[np.ndarray, int]:
    """Fill rows that a model cannot read with the training mean: all models score the same rows.

    Parameters
    ----------
    train, part : deepchem.data.Dataset
        The molecules that the mean is of, and those that were predicted.
    values : np.ndarray
        Predictions of `part`, ``[N, T, 2]`` or ``[N, T]``; NaN in a row that was not read.
    mode : {"classification", "regression"}

    Returns
    -------
    values : np.ndarray
    n_filled : int
    """
    missing = np.isnan(values).reshape(len(values), -1).any(1)
    filled = np.where(
        missing.reshape(-1, *[1] * (values.ndim - 1)), mean_predictions(train, part, mode), values
    )
    return filled, int(missing.sum())
