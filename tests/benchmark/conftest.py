"""A small real split that the benchmark's tests share."""

import deepchem as dc
import numpy as np
import pytest

from deepchem_mmsa import MMSAFeaturizer
from deepchem_mmsa.benchmark.sets import Split, split_rows
from deepchem_mmsa.datasets import example_table

N_TASKS = 8


@pytest.fixture(scope="session")
def small_molecules():
    """FreeSolv's molecules: records of graph and fingerprint, SMILES as ids."""
    smiles = example_table("freesolv")["smiles"].tolist()
    X = MMSAFeaturizer(("graph", "fingerprint")).featurize_all(smiles)
    return dc.data.NumpyDataset(X, ids=np.array(smiles, dtype=object))


def split_of(molecules, labels, mode="classification"):
    """Split molecules with the given labels; a tenth of the training labels is missing."""
    w = np.ones_like(labels)
    w[np.random.default_rng(0).random(labels.shape) < 0.1] = 0
    parts = split_rows(molecules.ids, "hu")
    data = dc.data.NumpyDataset(molecules.X, labels, w, molecules.ids)
    train, valid, test = (data.select(rows) for rows in parts)
    metric = "roc_auc" if mode == "classification" else "rmse"
    tasks = [f"t{i}" for i in range(labels.shape[1])]
    return Split("toy", "hu", mode, metric, tasks, train, valid, test)


@pytest.fixture(scope="session")
def oxygen_split(small_molecules):
    """Tasks that a model can learn: elements and rings."""
    marks = ("O", "N", "Cl", "C1", "=", "c", "F", "(")
    labels = np.array([[m in s for m in marks] for s in small_molecules.ids], dtype=float)
    return split_of(small_molecules, labels)


@pytest.fixture(scope="session")
def shuffled_split(small_molecules):
    """The same shares of labels, each task's shuffled by itself: nothing can be learnt."""
    rng = np.random.default_rng(0)
    labels = np.stack([rng.permutation(len(small_molecules)) % 2 for _ in range(N_TASKS)], axis=1)
    return split_of(small_molecules, labels.astype(float))


@pytest.fixture(scope="session")
def energy_split(small_molecules):
    """Hydration free energies."""
    values = example_table("freesolv")["expt"].to_numpy()[:, None]
    return split_of(small_molecules, values, "regression")
