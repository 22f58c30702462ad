"""A folder with a model, and fitted estimators."""

import pytest

from deepchem_mmsa import MMSAModel
from tests.estimators.small import CLASSES, TINY, Y, classifier, regressor
from tests.fixtures import SMILES


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    MMSAModel(modalities=("graph",), **TINY).save_pretrained(path)
    return path


@pytest.fixture(scope="package")
def fitted():
    return regressor().fit(SMILES, Y)


@pytest.fixture(scope="package")
def fitted_classifier():
    return classifier().fit(SMILES, CLASSES)
