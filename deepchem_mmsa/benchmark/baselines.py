"""Baselines that need no training loop: random forest and mean."""

from __future__ import annotations

from collections.abc import Sequence
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
    y, w = labels_of(train)
    columns = []
    for task in range(y.shape[1]):
        there = w[:, task] != 0
        truth = y[there, task]
        if mode == "classification":
            if len(set(truth)) < 2:
                columns.append(np.full(len(test), truth[0] if len(truth) else 0.0))
                continue
            forest = RandomForestClassifier(n_trees, n_jobs=n_jobs, random_state=seed)
            columns.append(forest.fit(bits[there], truth).predict_proba(test_bits)[:, 1])
        else:
            # A third of the features at each split, as Breiman recommends for regression.
            forest = RandomForestRegressor(
                n_trees, max_features=1 / 3, n_jobs=n_jobs, random_state=seed
            )
            columns.append(forest.fit(bits[there], truth).predict(test_bits))
    values = np.stack(columns, axis=1)
    return as_classes(values) if mode == "classification" else values


def mean_predictions(train: Any, test: Any, mode: str) -> np.ndarray:
    """Predict each task's training mean (regression) or class frequency (classification)."""
    y, w = labels_of(train)
    there = w != 0
    mean = np.where(there, y, 0).sum(0) / np.maximum(there.sum(0), 1)
    values = np.tile(mean, (len(test), 1))
    return as_classes(values) if mode == "classification" else values
