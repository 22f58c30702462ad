"""The network: scopes agree, gaps are filled by nothing, structure awareness can be taken out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.batching import Collator
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.molecule import MODALITIES
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.pretraining import (
    LOSS_TERMS,
    MASK_TOKEN,
    mask_atoms,
    pretraining_terms,
    total_loss,
)

TINY = {
    "image_size": 32, "image_width": 8, "graph_width": 16, "graph_layers": 2,
    "geometry_width": 16, "geometry_layers": 1, "fingerprint_width": 16, "embedding_dim": 16,
    "n_anchors": 8, "n_neighbors": 4, "memory_warmup": 32, "head_width": 16,
    "modalities": MODALITIES,
}  # fmt: skip


def network(**arguments):
    torch.manual_seed(0)
    return MMSANetwork(MMSAConfig(**{**TINY, **arguments}))


def with_memory(net, seed=0):
    """Give a network's memory codes to start from."""
    codes = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed))
    net.memory.update(codes, [f"m{i}" for i in range(64)])
    assert net.memory.is_active
    return net


@pytest.fixture
def batch(molecules):
    return Collator(MODALITIES, image_size=32)(molecules[:12])


@pytest.mark.parametrize("norm", ["row", "sym"])
def test_a_batch_of_one_makes_the_two_scopes_equal(norm):
    net = with_memory(network(hypergraph_norm=norm)).eval()
    for c in torch.randn(5, 1, 16):
        torch.testing.assert_close(net.structure_aware(c), net.structure_aware_in_batch(c))


def test_the_batch_scope_sees_the_batch_and_the_memory_scope_does_not():
    net = with_memory(network()).eval()
    c = torch.randn(6, 16)
    other = c.clone()
    other[1:] += 0.3 * torch.randn(5, 16)
    torch.testing.assert_close(net.structure_aware(c)[0], net.structure_aware(other)[0])
    a, b = net.structure_aware_in_batch(c)[0], net.structure_aware_in_batch(other)[0]
    assert not torch.allclose(a, b, atol=1e-4)


def test_without_anchors_the_structure_is_transparent():
    net = network().eval()
    c = torch.randn(4, 16)
    torch.testing.assert_close(net.structure_aware(c), torch.nn.functional.layer_norm(c, (16,)))


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_missing_view_has_no_influence(molecules, data):
    """Codes of unavailable modalities are fillers: whatever stands there, e stays."""
    net = with_memory(network()).eval()
    codes = torch.randn(4, 4, 16)
    available = torch.tensor(
        [data.draw(st.lists(st.booleans(), min_size=4, max_size=4)) for _ in range(4)]
    )
    other = torch.where(available[..., None], codes, torch.full_like(codes, 1e6))
    torch.testing.assert_close(net.embed_codes(codes, available), net.embed_codes(other, available))


def test_molecules_are_permuted_as_one(molecules):
    net = with_memory(network(mode="regression")).eval()
    order = np.random.default_rng(0).permutation(12)
    collate = Collator(MODALITIES, image_size=32)
    a = net(collate(molecules[:12]))
    b = net(collate([molecules[i] for i in order]))
    for x, y in zip(a, b):
        torch.testing.assert_close(x[order], y, atol=1e-5, rtol=1e-5)


def test_terms_have_their_names_and_weights(batch):
    net = with_memory(network()).train()
    embedding, terms = pretraining_terms(net, batch)
    assert tuple(terms) == LOSS_TERMS
    assert embedding.shape == (len(batch), 16)
    assert all(float(terms[name].detach()) > 0 for name in LOSS_TERMS)
    total = total_loss(torch.stack(list(terms.values())), net.config)
    by_hand = (
        terms["con"] + terms["rec"] + 0.5 * terms["mask"]
        + 1.0 * (terms["align"] + 0.1 * terms["commit"] + 0.1 * terms["balance"])
        + terms["desc"]
    )  # fmt: skip
    torch.testing.assert_close(total, by_hand)
    total.backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None]
    assert silent == []


@pytest.mark.parametrize(
    "arguments, off",
    [
        ({"w_con": 0.0}, {"con"}),
        ({"w_rec": 0.0}, {"rec"}),
        ({"w_mask": 0.0}, {"mask"}),
        ({"w_align": 0.0}, {"align"}),
        ({"memory": False}, {"commit", "balance"}),
        ({"w_desc": 0.0}, {"desc"}),
        ({"modalities": ("image",)}, {"con", "mask", "desc"}),
        ({"modalities": ("graph", "geometry")}, {"desc"}),
        ({"modalities": ("fingerprint",)}, {"con", "mask", "desc"}),
    ],
)
def test_a_term_that_is_switched_off_is_zero(molecules, arguments, off):
    net = network(**arguments).train()
    if net.memory is not None:
        with_memory(net)
    batch = Collator(net.config.modalities, image_size=32)(molecules[:8])
    terms = pretraining_terms(net, batch)[1]
    assert {name for name in LOSS_TERMS if float(terms[name].detach()) == 0} == off


@pytest.mark.parametrize("memory", [True, False])
def test_copies_of_one_molecule_have_nothing_to_tell_apart(molecules, memory):
    net = network(memory=memory).eval()
    if memory:
        with_memory(net)
    copies = Collator(MODALITIES, image_size=32)([molecules[5]] * 6)
    terms = pretraining_terms(net, copies)[1]
    assert terms["con"].item() == terms["align"].item() == 0
    others = Collator(MODALITIES, image_size=32)([molecules[5]] * 5 + [molecules[8]])
    assert pretraining_terms(net, others)[1]["con"].item() > 0


def test_memory_follows_in_training_only(batch):
    net = with_memory(network())
    before = net.memory.anchors.clone()
    pretraining_terms(net.eval(), batch)
    assert torch.equal(before, net.memory.anchors)
    pretraining_terms(net.train(), batch)
    assert not torch.equal(before, net.memory.anchors)
    other = with_memory(network(mode="regression")).train()
    before = other.memory.anchors.clone()
    other(batch)
    assert torch.equal(before, other.memory.anchors)


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(0.01, 0.9), seed=st.integers(0, 99))
def test_masking_hides_the_share_and_nothing_else(molecules, rate, seed):
    graph = Collator(("graph",))(molecules[:6]).inputs["graph"]
    torch.manual_seed(seed)
    masked, hidden, truth = mask_atoms(graph, rate)
    n = len(graph.atoms)
    assert len(hidden) == len(set(hidden.tolist())) == max(1, round(rate * n))
    assert (masked.atoms[hidden, 0] == MASK_TOKEN).all()
    assert (masked.atoms[hidden, 1:] == 0).all()  # other features would tell the element
    assert torch.equal(truth, graph.atoms[hidden, 0])
    rest = torch.ones(n, dtype=torch.bool)
    rest[hidden] = False
    assert torch.equal(masked.atoms[rest], graph.atoms[rest])
    assert torch.equal(masked.src, graph.src)


def test_without_a_memory_the_hypergraph_still_learns(batch):
    net = network(memory=False).train()
    terms = pretraining_terms(net, batch)[1]
    terms["align"].backward()
    gradients = [p.grad for p in net.hypergraph.transform.parameters()]
    assert all(g is not None and float(g.abs().sum()) > 0 for g in gradients)


def test_anchors_that_are_parameters_rest_after_pretraining():
    for mode, learns in (("pretraining", True), ("regression", False)):
        assert network(mode=mode, memory_update="gradient").memory.anchors.requires_grad == learns
