"""Explanations where something is missing, at the border, or the user's own."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.explain import attribution, explain
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.predictor import MMSAPredictor
from deepchem_mmsa.views import molecule_views
from tests.explain.small import IBUPROFEN, QUICK, TINY, network
from tests.fixtures import AtomCounts


def test_a_missing_view_is_told_and_the_rest_adds_up(net):
    whole = molecule_views(IBUPROFEN, MMSAPredictor(net).settings)
    reason = "no conformer of 15 heavy atoms"
    record = MoleculeViews(
        whole.smiles, whole.image, whole.atoms, whole.bond_atoms, whole.bonds,
        reasons={"geometry": reason},
    )  # fmt: skip
    flat = explain(net, record)
    assert set(flat.atoms) == {"image", "graph"}
    assert reason in flat.reasons["geometry"]
    view = {v.name: v for v in flat.views}["geometry"]
    assert np.isnan(view.contribution)
    assert reason in view.reason
    assert reason in flat.to_html()
    with pytest.raises(ValueError, match=reason):
        flat.to_svg("geometry")
    # What the removal of a view is said to change is what a molecule without it gets.
    full = explain(net, whole)
    removal = {v.name: v.removal for v in full.views}["geometry"]
    assert removal == pytest.approx(full.output - flat.output, abs=1e-5)


def test_without_the_graph_its_sum_over_atoms_is_missing_too():
    views = ("graph", "geometry")
    net = network(mode="regression", modalities=views, atom_sum=True)
    net.head.atom_weight.data.mul_(100)
    whole = molecule_views(IBUPROFEN, MMSAPredictor(net).settings)
    bare = MoleculeViews(
        whole.smiles, atomic_numbers=whole.atomic_numbers, coordinates=whole.coordinates,
        reasons={"graph": "taken out"},
    )  # fmt: skip
    full, without = explain(net, whole), explain(net, bare)
    removal = {v.name: v.removal for v in full.views}["graph"]
    assert removal == pytest.approx(full.output - without.output, abs=1e-4)
    assert abs(removal) > 0.1


def test_the_only_view_cannot_be_left_out():
    (view,) = explain(network(modalities=("graph",)), "CCO").views
    assert np.isnan(view.removal)
    assert "only view" in view.reason


def test_a_class_is_called_by_its_name():
    predictor = MMSAPredictor(network(modalities=("graph",)), {"classes": ["1", "<b>2</b>"]})
    why = explain(predictor, "CCO", **QUICK)
    assert (why.target, why.class_name, why.unit) == (1, "<b>2</b>", "log-odds of class <b>2</b>")
    assert "Probability of class &lt;b&gt;2&lt;/b&gt;." in why.to_html()
    assert " % for task 0, class &lt;b&gt;2&lt;/b&gt;?</h1>" in why.to_html()
    assert why.to_dict()["class_name"] == "<b>2</b>"
    assert explain(network(modalities=("graph",)), "CCO", target=0, **QUICK).class_name == "0"


def test_it_is_shown_in_a_line():
    predictor = MMSAPredictor(network(modalities=("graph",)), {"tasks": ["toxic"]})
    why = explain(predictor, "CCO", **QUICK)
    (view,) = why.views
    assert repr(why) == (
        f"<Explanation of toxic (class 1) {why.prediction:.3g} for CCO: "
        f"graph {view.contribution:+.3g} log-odds of class 1>"
    )


def test_molecules_that_cannot_be_explained_say_why(net):
    with pytest.raises(ValueError, match="unclosed ring"):
        explain(net, "C1CC")
    with pytest.raises(ValueError, match="no view that this model reads.*too large to draw"):
        explain(
            network(modalities=("image",)),
            MoleculeViews("CCO", reasons={"image": "too large to draw"}),
        )
    with pytest.raises(ValueError, match="unreadable: bad line"):
        explain(net, MoleculeViews.unreadable("?", "bad line"))
    with pytest.raises(ValueError, match="pre-trained only"):
        explain(network_without_head(), "CCO")
    with pytest.raises(ValueError, match="has the tasks .'task 0'"):
        explain(net, "CCO", task="toxicity")
    with pytest.raises(ValueError, match="the classes are 0 to 1"):
        explain(net, "CCO", target=2)
    with pytest.raises(TypeError, match="not dict"):
        explain({}, "CCO")


def network_without_head():
    return MMSANetwork(MMSAConfig(**{**TINY, "mode": "pretraining"}))


@pytest.mark.parametrize("smiles", ["C", "[Na+].[Cl-]", "*c1ccccc1", "[2H]C([2H])([2H])O"])
def test_molecules_at_the_border(net, smiles):
    why = explain(net, smiles, **QUICK)
    assert len(why.total) == Chem.MolFromSmiles(smiles).GetNumAtoms()
    assert np.isfinite(why.total).all()
    assert why.to_html().startswith("<!DOCTYPE html>")


def test_a_view_without_a_path_is_held_as_it_is(net, monkeypatch):
    monkeypatch.delitem(attribution._PATHS, "image")
    why = explain(net, IBUPROFEN)
    assert set(why.atoms) == {"graph", "geometry"}
    assert "no blank molecule is defined" in why.reasons["image"]
    assert np.isfinite({v.name: v.removal for v in why.views}["image"])
    assert why.total.sum() == pytest.approx(why.output - why.baseline, rel=0.05)


def test_an_encoder_of_the_users_is_held_as_it_is():
    config = MMSAConfig(**{**TINY, "graph": "custom"})
    torch.manual_seed(0)
    why = explain(MMSANetwork(config, {"graph": AtomCounts()}), IBUPROFEN)
    assert set(why.atoms) == {"image", "geometry"}
    assert "Counts" in why.reasons["graph"]
    assert np.isfinite({v.name: v.removal for v in why.views}["graph"])
    assert why.total.sum() == pytest.approx(why.output - why.baseline, rel=0.05)
    alone = MMSAConfig(**{**TINY, "graph": "custom", "modalities": ("graph",)})
    why = explain(MMSANetwork(alone, {"graph": AtomCounts()}), IBUPROFEN)
    assert why.atoms == {}
    assert why.output == why.baseline
    assert "Counts" in why.to_html()
