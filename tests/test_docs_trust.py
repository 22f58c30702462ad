"""The pages on estimators and trust say what is so: their examples are run."""

import doctest
from pathlib import Path

import pytest

from deepchem_mmsa import MMSAModel

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["estimators.md", "trust.md"])
@pytest.mark.filterwarnings("ignore")
def test_examples_of_the_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MMSAModel(
        modalities=("graph",), graph_width=16, embedding_dim=16, n_anchors=8, n_neighbors=4
    ).save_pretrained(tmp_path / "model")
    failed, tried = doctest.testfile(
        str(DOCS / page),
        module_relative=False,
        globs={"folder": str(tmp_path / "model")},
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert tried >= 15
    assert failed == 0
