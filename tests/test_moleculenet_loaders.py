"""The MoleculeNet loaders of DeepChem with MMSAFeaturizer, on slices of their real files."""

import logging
import warnings

import deepchem as dc
import numpy as np
import pandas as pd
import pytest

from deepchem_mmsa.featurizer import MMSAFeaturizer
from deepchem_mmsa.molecule import DEFAULT_MODALITIES, MoleculeViews

# loader, file, arguments: every loader whose file is at hand
LOADERS = [
    ("load_bbbp", "BBBP.csv", {}),
    ("load_bace_classification", "bace.csv", {}),
    ("load_bace_regression", "bace.csv", {}),
    ("load_clintox", "clintox.csv.gz", {}),
    ("load_sider", "sider.csv.gz", {}),
    ("load_tox21", "tox21.csv.gz", {}),
    ("load_toxcast", "toxcast_data.csv.gz", {}),
    ("load_hiv", "HIV.csv", {}),
    ("load_muv", "muv.csv.gz", {}),
    ("load_delaney", "delaney-processed.csv", {}),
    ("load_sampl", "SAMPL.csv", {}),
    ("load_lipo", "Lipophilicity.csv", {}),
    ("load_chembl", "chembl_5thresh.csv.gz", {"set": "5thresh"}),
]
N_ROWS = 60


def load(name, folder, save, featurizer, **arguments):
    """Run one loader as a user would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows that DeepChem drops are named in a warning
        return getattr(dc.molnet, name)(
            featurizer=featurizer,
            splitter="scaffold",
            data_dir=str(folder),
            save_dir=str(save),
            **arguments,
        )


@pytest.mark.parametrize("name, file, arguments", LOADERS, ids=[row[0] for row in LOADERS])
def test_loader_on_a_slice(name, file, arguments, moleculenet, tmp_path, caplog):
    # Graph and picture only: the conformers of so many molecules are for the slow test.
    featurizer = MMSAFeaturizer(("image", "graph"), image_size=64)
    table = pd.read_csv(moleculenet / file, nrows=N_ROWS)
    table.to_csv(tmp_path / file, index=False)
    with caplog.at_level(logging.WARNING):
        tasks, parts, _ = load(
            name, tmp_path, tmp_path / "saved", featurizer, reload=True, **arguments
        )
    n_kept = sum(len(part) for part in parts)
    assert n_kept == N_ROWS - len(featurizer.failures)
    assert n_kept >= 0.9 * N_ROWS
    for part in parts:
        assert part.y.shape == part.w.shape == (len(part), len(tasks))
        for record in part.X:
            assert isinstance(record, MoleculeViews)
            assert record.available == ("image", "graph")
    # The cache lies under the featurizer's name, and gives the same back.
    again = load(name, tmp_path, tmp_path / "saved", featurizer, reload=True, **arguments)
    assert list((tmp_path / "saved").glob(f"*/{featurizer}"))
    for part, copy in zip(parts, again[1]):
        assert list(part.X) == list(copy.X)
        np.testing.assert_array_equal(part.ids, copy.ids)


def test_all_views_of_a_slice(moleculenet, tmp_path):
    table = pd.read_csv(moleculenet / "Lipophilicity.csv", nrows=40)
    table.to_csv(tmp_path / "Lipophilicity.csv", index=False)
    _, parts, _ = load("load_lipo", tmp_path, tmp_path, MMSAFeaturizer(), reload=False)
    assert all(record.available == DEFAULT_MODALITIES for part in parts for record in part.X)


# Molecules that DeepChem 2.8 keeps with its own featurizers.
KEPT = {"BBBP.csv": 2039, "clintox.csv.gz": 1480, "sider.csv.gz": 1427, "tox21.csv.gz": 7823}
KEPT |= {"toxcast_data.csv.gz": 8579, "HIV.csv": 41120, "muv.csv.gz": 93087}


@pytest.mark.slow
@pytest.mark.parametrize("name, file, arguments", LOADERS, ids=[row[0] for row in LOADERS])
def test_loader_on_the_whole_file(name, file, arguments, moleculenet, tmp_path):
    featurizer = MMSAFeaturizer("graph", n_jobs=-1)
    _, parts, _ = load(name, moleculenet, tmp_path, featurizer, reload=False, **arguments)
    n_rows = len(pd.read_csv(moleculenet / file, usecols=[0]))
    n_kept = sum(len(part) for part in parts)
    assert n_kept == n_rows - len(featurizer.failures)
    assert n_kept == KEPT.get(file, n_rows)
