"""Files of earlier versions are read, and give the predictions that they gave."""

import json

import deepchem as dc
import numpy as np
import pytest

from deepchem_mmsa import MMSAModel, MMSAPredictor
from deepchem_mmsa.molecule import MoleculeViews
from tests.old_files import OLD, VIEWS

VERSIONS = sorted(p.name for p in OLD.iterdir())


@pytest.fixture(params=VERSIONS)
def old(request):
    return OLD / request.param


@pytest.fixture
def expected(old):
    return json.loads((old / "expected.json").read_text())


@pytest.fixture
def records(old):
    packed = json.loads((old / "records.json").read_text())
    records = np.empty(len(packed), dtype=object)
    records[:] = [MoleculeViews.from_bytes(bytes.fromhex(p)) for p in packed]
    return records


def test_there_are_some():
    assert VERSIONS


def test_an_old_model_predicts_what_it_did(old, expected, records):
    version = json.loads((old / "model" / "config.json").read_text())["metadata"]["feature_version"]
    with pytest.warns(UserWarning, match=f"trained on features of version {version}, and"):
        predictor = MMSAPredictor.from_pretrained(old / "model")
    for found, key in (
        (predictor.predict(records), "predictions"),
        (predictor.embed(records), "embeddings"),
    ):
        then = np.reshape(expected["model"][key], found.values.shape)
        np.testing.assert_allclose(found.values, then, rtol=0, atol=1e-5)


def test_an_old_checkpoint_is_restored_and_trained_on(old, expected, records):
    model = MMSAModel(mode="regression", seed=2, modalities=VIEWS["run"], **expected["settings"])
    model.restore(model_dir=str(old / "run"))
    data = dc.data.NumpyDataset(records, np.arange(10.0)[:, None])
    then = expected["run"]["predictions"]
    np.testing.assert_allclose(model.predict(data).ravel(), then, rtol=0, atol=1e-5)
    step = model._global_step
    model.fit(data, nb_epoch=1, checkpoint_interval=0)
    assert model._global_step == step + 2


def test_old_records_are_whole(records):
    assert all(len(record.available) == 4 for record in records)
