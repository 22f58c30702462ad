"""Anchors and neighbours of an explained molecule."""

import numpy as np
import pytest
import torch

from deepchem_mmsa.explain import explain, read_references
from deepchem_mmsa.explain.structure import memory_anchors, nearest_references
from deepchem_mmsa.predictor import MMSAPredictor
from tests.explain.small import IBUPROFEN, QUICK, network


def test_anchors_come_with_address_membership_and_exemplars(net):
    why = explain(net, IBUPROFEN, n_anchors=100, **QUICK)
    assert len(why.anchors) == int(net.memory.n_active)
    assert sum(a.address for a in why.anchors) == pytest.approx(1)
    assert why.own_share + sum(a.membership for a in why.anchors) == pytest.approx(1)
    assert 0 < sum(a.membership > 0 for a in why.anchors) < net.config.n_neighbors
    order = [a.address for a in why.anchors]
    assert order == sorted(order, reverse=True)
    for anchor in why.anchors:
        assert [s for s, _ in anchor.exemplars] == [
            s for s, _ in net.memory.exemplars[anchor.index]
        ]
    few = explain(net, IBUPROFEN, n_anchors=1, **QUICK)
    members = {a.index for a in why.anchors if a.membership > 0}
    assert {a.index for a in few.anchors} == members | {why.anchors[0].index}


def test_predictions_of_references_are_the_models():
    net, smiles = (
        network(mode="regression", modalities=("graph",), atom_sum=True),
        ["CCO", "c1ccn1"],
    )
    known, predictor = read_references(net, smiles), MMSAPredictor(net)
    values, _ = predictor.predict(smiles)
    np.testing.assert_allclose(known.predictions, values, rtol=1e-5)
    np.testing.assert_allclose(known.embeddings, predictor.embed(smiles).values, rtol=1e-5)
    none = read_references(net, [])
    assert (none.embeddings.shape, none.predictions.shape) == ((0, 16), (0, 1))


def test_a_molecule_is_its_own_nearest_reference(net, monkeypatch):
    given = ["C1CC", "c1ccccc1", "OCC", "CCCCN"]
    why = explain(net, "CCO", references=given, n_references=2, **QUICK)
    assert why.references[0].row == 2
    assert why.references[0].similarity == pytest.approx(1, abs=1e-5)
    assert why.references[0].prediction == pytest.approx(why.prediction, abs=1e-6)
    assert len(why.references) == 2  # and the unreadable one is none of them
    with monkeypatch.context() as m:
        known = read_references(net, given)
        m.setattr(MMSAPredictor, "apply", None)  # they are not embedded once more
        again = explain(net, "CCO", references=known, n_references=2, **QUICK)
    assert again.references == why.references


def test_an_anchor_is_as_similar_as_its_cosine_and_the_nearer_has_the_larger_share(net):
    torch.manual_seed(0)
    code, anchors = torch.randn(1, 16), net.active_anchors()
    found, _ = memory_anchors(net, code, n=len(anchors))
    cosine = torch.nn.functional.cosine_similarity(code, anchors).tolist()
    assert [a.similarity for a in found] == pytest.approx([cosine[a.index] for a in found])
    shares = [a.membership for a in sorted(found, key=lambda a: -a.similarity) if a.membership]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_exemplars_come_with_their_own_cosine(net):
    found, _ = memory_anchors(net, net.active_anchors()[:1].detach())
    for anchor in found:
        assert list(anchor.exemplars) == [tuple(one) for one in net.memory.exemplars[anchor.index]]


def test_references_are_compared_by_direction_and_keep_their_places():
    embeddings = np.array([[np.nan, np.nan], [9.0, 9.0], [0.5, 0.0]])
    found = nearest_references(np.array([2.0, 0.0]), embeddings, np.arange(3.0), ["?", "N", "O"])
    assert [(r.row, r.smiles, r.prediction) for r in found] == [(2, "O", 2.0), (1, "N", 1.0)]
    assert [r.similarity for r in found] == pytest.approx([1, np.sqrt(0.5)])
