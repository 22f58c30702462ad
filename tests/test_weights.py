"""The models that ship with the package: whole, small, and loadable in one line."""

import itertools
import json

import deepchem as dc
import numpy as np
import pytest

import deepchem_mmsa
from deepchem_mmsa import MMSAModel, MMSAPredictor
from deepchem_mmsa.hub import WEIGHTS, shipped_models
from deepchem_mmsa.predictor import DEFAULT_MODEL
from deepchem_mmsa.views import FEATURE_VERSION
from tests.conftest import DRUGS
from tests.fixtures import SMILES


def test_the_default_model_ships():
    assert DEFAULT_MODEL in shipped_models()


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_describes_itself(name):
    described = json.loads((WEIGHTS / name / "config.json").read_text("utf-8"))
    notes = described["metadata"]
    assert 1 <= notes["feature_version"] <= FEATURE_VERSION
    assert notes["licence"]
    assert notes["data"]["dropped"] >= 0
    assert all(len(source["sha256"]) == 64 for source in notes["data"]["sources"])


def test_weights_are_small():
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) <= 25 * 2**20


def test_embeddings_in_one_line():
    vectors = deepchem_mmsa.embed([*SMILES[:6], "no molecule"])
    assert np.isfinite(vectors[:6]).all()
    assert np.isnan(vectors[6]).all()
    unit = vectors[:6] / np.linalg.norm(vectors[:6], axis=1, keepdims=True)
    assert (unit @ unit.T - np.eye(6)).max() < 0.999  # different molecules, different vectors


@pytest.mark.parametrize("views", [("graph",), ("image",), ("fingerprint", "geometry")])
def test_a_subset_of_the_views_serves(views):
    model = MMSAModel.from_pretrained("mmsa-base", modalities=views)
    assert np.isfinite(MMSAPredictor(model.model).embed(SMILES[:3]).values).all()


def test_the_small_model_reads_two_views():
    assert MMSAModel.from_pretrained("mmsa-small").config.modalities == ("graph", "fingerprint")


@pytest.mark.parametrize("name", shipped_models())
def test_views_of_a_molecule_find_each_other(name):
    """What the model card says of molecules that pre-training held out, on molecules of here."""
    model = MMSAModel.from_pretrained(name)
    records = MMSAPredictor(model.model).records(DRUGS)
    X = np.empty(len(records), dtype=object)
    X[:] = records
    codes, available = model.predict_codes(dc.data.NumpyDataset(X))
    whole = available.all(1)
    codes = codes[whole] / np.linalg.norm(codes[whole], axis=-1, keepdims=True)
    for a, b in itertools.permutations(range(codes.shape[1]), 2):
        found = ((codes[:, a] @ codes[:, b].T).argmax(1) == np.arange(whole.sum())).mean()
        # Chance is 0.02; these drugs are odder than what they learnt from.
        assert found >= 0.8, (model.config.modalities[a], model.config.modalities[b])


def test_fine_tuning_starts_from_it():
    model = MMSAModel.from_pretrained(
        DEFAULT_MODEL, mode="classification", n_tasks=2, modalities=("graph",)
    )
    assert model.model.memory.is_active
    assert MMSAPredictor(model.model).predict(SMILES[:3]).values.shape == (3, 2, 2)
