"""Molecules, data sets and small models that many tests share."""

import deepchem as dc
import numpy as np
import pytest
import torch

from deepchem_mmsa import MMSAFeaturizer, MMSAModel
from deepchem_mmsa.molecule import MODALITIES, MoleculeViews

SMILES = [
    "CCO", "CC(=O)O", "c1ccccc1", "CCN(CC)CC", "C1CCCCC1O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "OC(=O)c1ccccc1OC(C)=O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(=O)Nc1ccc(O)cc1", "ClCCl",
    "FC(F)(F)c1ccccc1", "CS(C)=O", "NCCc1c[nH]c2ccc(O)cc12", "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O", "F/C=C/F", "F/C=C\\F", "O=C1CCCN1", "N#Cc1ccccc1", "CCOC(=O)CC",
    "BrC1=CC=CS1", "OCC1OC(O)C(O)C(O)C1O", "CC#N", "O=S(=O)(N)c1ccccc1", "c1ccc2ccccc2c1",
    "C1=CC=NC=C1", "CCCCCCCC", "CC(C)(C)O", "Oc1ccccc1Cl", "CCSCC", "C1COCCO1", "NC(=O)c1cccnc1",
    "Cn1cccc1", "O=Cc1ccco1", "CCCl", "ICC", "c1ccsc1", "CC(=O)C=C", "OCCO", "C=CC#N",
]  # fmt: skip


@pytest.fixture(scope="session")
def molecules():
    """Records of 40 molecules with all four views."""
    return list(MMSAFeaturizer(MODALITIES, image_size=32).featurize(SMILES))


@pytest.fixture(scope="session")
def dataset(molecules):
    """The molecules with the share of heteroatoms as label."""
    X = np.empty(len(molecules), dtype=object)
    X[:] = molecules
    carbon = np.array([[(r.atoms[:, 0] == 5).mean()] for r in molecules])
    return dc.data.NumpyDataset(X, 1 - carbon, ids=np.array(SMILES, dtype=object))


@pytest.fixture(scope="session")
def graph_dataset(dataset):
    """The same molecules with their graph only: what most laws of a model need."""
    X = np.empty(len(dataset), dtype=object)
    X[:] = [
        MoleculeViews(r.smiles, atoms=r.atoms, bond_atoms=r.bond_atoms, bonds=r.bonds)
        for r in dataset.X
    ]
    return dc.data.NumpyDataset(X, dataset.y, ids=dataset.ids)


@pytest.fixture(scope="session")
def make_model():
    """A maker of models so small that a run takes a moment."""

    def make(**arguments):
        modality = arguments.get("modalities") or ("graph",)
        small = {
            "modalities": modality, "image_size": 32, "image_width": 8, "graph_width": 16,
            "graph_layers": 2, "geometry_width": 16, "geometry_layers": 1, "fingerprint_width": 16,
            "embedding_dim": 16, "n_anchors": 8, "n_neighbors": 4, "head_width": 16,
            "batch_size": 8, "progress": False,
        }  # fmt: skip
        return MMSAModel(**{**small, **arguments})

    return make


class AtomCounts(torch.nn.Module):
    """A user's graph encoder: counts of elements, no atom embeddings."""

    out_dim = 12

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(120, 12)

    def forward(self, graph):
        h = self.table(graph.atoms[:, 0])
        return h.new_zeros(graph.n_molecules, 12).index_add(0, graph.molecule_of_atom, h)


def labelled(dataset, y, w=None):
    """The molecules of `dataset` with other labels."""
    return dc.data.NumpyDataset(dataset.X, np.asarray(y, float), w, dataset.ids)


def multitask(dataset, n_tasks=3, n_classes=2, seed=0):
    """The molecules of `dataset` with several labels at random, three in ten of them missing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, (len(dataset), n_tasks)).astype(float)
    w = (rng.random(y.shape) < 0.7).astype(float)
    return labelled(dataset, y, w)
