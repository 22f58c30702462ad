"""The model card of an export: what the hub reads, and what a stranger needs."""

import re

import numpy as np
import pytest
from huggingface_hub import ModelCard

from deepchem_mmsa.exports import load_pretrained, model_card
from deepchem_mmsa.hub import shipped_models


@pytest.fixture
def made(make_model, graph_dataset, tmp_path):
    """Export a model of each mode and return its folder, and its card."""

    def make(mode, metadata=None, **arguments):
        model = make_model(mode=mode, **arguments)
        model.classes = ["inert", "active"] if mode == "classification" else None
        model.save_pretrained(tmp_path / "mine", metadata=metadata)
        return tmp_path / "mine", model_card(tmp_path / "mine")

    return make


@pytest.mark.parametrize("mode", ["pretraining", "classification", "regression"])
def test_the_hub_reads_it_and_its_code_runs(made, monkeypatch, mode):
    folder, text = made(mode)
    card = ModelCard(text)
    assert card.data.library_name == "deepchem_mmsa"
    assert card.text.lstrip().startswith("# mine")
    (code,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(folder.parent)
    names = {}
    exec(code, names)
    assert np.isfinite(names["values"]).all()


def test_it_says_what_the_files_say(made):
    scores = {"scores": {"test": {"rmse": 0.98213}}, "data": [{"file": "a.csv"}, {"file": "b.csv"}]}
    folder, text = made("regression", {**scores, "unknown": None}, tasks=["logS"])
    assert "Regression of `logS`" in text
    assert "* scores.test.rmse: 0.9821\n* data.1.file: a.csv\n* data.2.file: b.csv\n" in text
    assert "unknown" not in text
    assert load_pretrained(folder).metadata["sha256"] in text
    assert "has stated no licence" in text
    _, text = made("classification", {"licence": "CC0"})
    assert "probabilities of the classes `inert`, `active`, in this order" in text
    assert "* licence: CC0" in text
    assert "no licence" not in text
    assert str(folder.parent) not in text


def test_a_note_of_several_lines_stays_one(made):
    _, text = made("regression", {"data": "a\n---\n# Use"}, tasks=["a`\n# b"])
    assert "* data: a --- # Use\n" in text
    assert "Regression of `a' # b`" in text


@pytest.mark.parametrize("name", shipped_models())
def test_exemplars_are_told(name):
    kept = sum(map(len, load_pretrained(name).exemplars))
    assert f"* exemplars: SMILES of {kept} molecules of its pre-training" in model_card(name)
