"""Labels of the molecules that tests share, and estimators that are trained in no time."""

import numpy as np
from rdkit import Chem

from deepchem_mmsa import MMSAClassifier, MMSARegressor
from tests.fixtures import SMILES

TINY = {
    "graph_width": 16, "graph_layers": 2, "embedding_dim": 16, "head_width": 16, "n_anchors": 8,
    "n_neighbors": 4,
}  # fmt: skip
BAD = "C1CC"
Y = np.array([Chem.MolFromSmiles(s).GetNumHeavyAtoms() for s in SMILES], dtype=float)
BIG = np.digitize(Y, [np.median(Y)], right=True)
CLASSES = np.where(BIG, "large", "small")
SMALL = {
    "preset": "small", "modalities": ("graph",), "nb_epoch": 2, "config": TINY, "random_state": 0
}  # fmt: skip


def regressor(**arguments):
    return MMSARegressor(**{**SMALL, **arguments})


def classifier(**arguments):
    return MMSAClassifier(**{**SMALL, **arguments})
