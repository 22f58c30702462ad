"""The network: scopes agree, gaps are filled by nothing, structure awareness can be taken out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.batching import Collator
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.molecule import FINGERPRINT_SIZE, MODALITIES, MoleculeViews
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.predictor import MMSAPredictor
from deepchem_mmsa.pretraining import (
    LOSS_TERMS,
    MASK_TOKEN,
    _statistics,
    mask_atoms,
    pretraining_terms,
    total_loss,
)
from tests.fixtures import AtomCounts

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


def test_the_batch_scope_sees_the_batch_and_the_memory_scope_does_not():
    net = with_memory(network()).eval()
    c = torch.randn(6, 16)
    other = c.clone()
    other[1:] += 0.3 * torch.randn(5, 16)
    torch.testing.assert_close(net.structure_aware(c)[0], net.structure_aware(other)[0])
    a, b = net.structure_aware_in_batch(c)[0], net.structure_aware_in_batch(other)[0]
    assert not torch.allclose(a, b, atol=1e-4)


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


@pytest.mark.parametrize("atom_sum", [False, True])
def test_molecules_are_permuted_as_one(molecules, atom_sum):
    net = with_memory(network(mode="regression", atom_sum=atom_sum)).eval()
    order = np.random.default_rng(0).permutation(12)
    collate = Collator(MODALITIES, image_size=32)
    a = net(collate(molecules[:12]))
    b = net(collate([molecules[i] for i in order]))
    for x, y in zip(a, b):
        torch.testing.assert_close(x[order], y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_type_of_torch_does_not_change_a_network(batch, dtype):
    """What is in no state, the constants of encoders, is as precise as its weights."""
    net = network().eval()
    torch.set_default_dtype(dtype)
    try:
        other = network().eval()
        other.load_state_dict(net.state_dict())
        for view in MODALITIES:
            h, again = (n.encode(view, batch, batch.inputs[view]) for n in (net, other))
            torch.testing.assert_close(again, h, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)


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


def test_molecules_without_smiles_are_no_copies(molecules):
    views = ("graph", "fingerprint")
    net, collate = network(modalities=views, w_mask=0.0).eval(), Collator(views)
    named = collate(molecules[:6])
    nameless = replace(named, smiles=[""] * 6)
    terms, others = (seeded_terms(net, batch) for batch in (named, nameless))
    assert terms["con"] == others["con"] > 0
    assert terms["align"] == others["align"] > 0


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


# ---- the terms of pre-training, one by one


def seeded_terms(net, batch, seed=0):
    torch.manual_seed(seed)
    return pretraining_terms(net, batch)[1]


def bare(record):
    """The molecule with its graph only."""
    return MoleculeViews(
        record.smiles, atoms=record.atoms, bond_atoms=record.bond_atoms, bonds=record.bonds
    )


def test_each_weight_is_that_of_its_term():
    off = dict.fromkeys([f"w_{name}" for name in LOSS_TERMS], 0.0)
    for value, name in enumerate(LOSS_TERMS, start=1):
        only = MMSAConfig(**{**off, f"w_{name}": 1.0})
        assert total_loss(torch.arange(1.0, 8.0), only) == value
        of_memory = name in ("align", "commit", "balance")
        assert total_loss(torch.ones(7), only.replace(w_mem=3)) == (3 if of_memory else 1)


def test_descriptors_are_told_from_the_other_views_only(batch):
    net = network().eval()
    seeded_terms(net, batch)["desc"].backward()
    learnt = {
        view: any(
            p.grad is not None and p.grad.any() for p in net.fusion.encoders[view].parameters()
        )
        for view in MODALITIES
    }
    assert learnt == {view: view != "fingerprint" for view in MODALITIES}


def test_a_molecule_without_descriptors_has_no_part_in_telling_them(molecules):
    views = ("graph", "fingerprint")
    net, collate = network(modalities=views, w_mask=0.0).eval(), Collator(views)
    told = [
        seeded_terms(net, collate([*map(bare, first), *molecules[2:8]]))["desc"].item()
        for first in ([], molecules[:2])
    ]
    assert told[0] == pytest.approx(told[1], rel=1e-5)


def test_the_descriptor_loss_is_zero_for_who_knows_values_and_bits(molecules):
    views = ("graph", "fingerprint")
    net, chosen = network(modalities=views).eval(), molecules[:6]
    bits = torch.full((len(chosen), FINGERPRINT_SIZE), -50.0)
    for row, record in zip(bits, chosen):
        row[record.fingerprint_bits.tolist()] = 50.0
    inputs = Collator(views)(chosen)
    values = net.encoders["fingerprint"].scaled_descriptors(inputs.inputs["fingerprint"])
    # Mean squared error plus mean cross-entropy.
    for shift, sure, loss in ((0.0, 1.0, 0.0), (2.0, 1.0, 4.0), (0.0, 0.0, np.log(2))):
        told = torch.cat([values + shift, sure * bits], dim=1)
        net.descriptor_head.forward = lambda codes, told=told: told
        assert seeded_terms(net, inputs)["desc"].item() == pytest.approx(loss, abs=1e-5)


def test_pupils_see_a_part_of_the_views_that_is_drawn(batch):
    net = with_memory(network(w_mask=0.0)).eval()
    one, same, other = (seeded_terms(net, batch, seed) for seed in (0, 0, 1))
    for name in ("align", "desc"):
        assert one[name] == same[name] != other[name]
    assert one["con"] == other["con"]


@pytest.mark.parametrize("term", ["con", "align"])
def test_without_contrast_all_molecules_are_equally_likely(molecules, term):
    """At a high temperature InfoNCE is the logarithm of their number."""
    net = with_memory(network(modalities=("graph", "fingerprint"), temperature=1e6)).eval()
    terms = seeded_terms(net, Collator(("graph", "fingerprint"))(molecules[:12]))
    assert terms[term].item() == pytest.approx(np.log(12), rel=1e-4)


def test_a_view_is_rebuilt_from_others_too(molecules):
    """Of a molecule with one view there is no other, and then decoders of others learn nothing."""
    net = network(modalities=("graph", "fingerprint"), w_mask=0.0).eval()
    collate, chosen = Collator(("graph", "fingerprint")), molecules[:8]
    decoded = []
    reconstruct = net.fusion.reconstruct
    net.fusion.reconstruct = lambda codes: decoded.append(reconstruct(codes)) or decoded[-1]
    for records, crossed in ((chosen, True), (list(map(bare, chosen)), False)):
        terms = seeded_terms(net, collate(records))
        (gradient,) = torch.autograd.grad(terms["rec"], decoded.pop())
        assert bool(gradient[:, 1, 0].any()) == crossed
        assert gradient[:, 0, 0].any()


@pytest.mark.parametrize("scope", ["batch", "memory"])
def test_the_scope_says_whether_the_batch_is_seen(molecules, scope):
    net = with_memory(network(modalities=("graph",), hypergraph_scope=scope, w_mask=0.0)).eval()
    collate = Collator(("graph",))
    whole, part = (pretraining_terms(net, collate(molecules[:n]))[0] for n in (12, 4))
    assert torch.allclose(whole[:4], part, atol=1e-4) == (scope == "memory")


@pytest.mark.parametrize("wanted", [True, False])
def test_pictures_are_augmented_in_training_only(molecules, wanted):
    net = network(modalities=("image",), image_augmentation=wanted)
    batch, seen = Collator(("image",), image_size=32)(molecules[:6]), []
    net.encoders["image"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for training in (False, True):
        seeded_terms(net.train(training), batch)
    changed = [not torch.equal(pictures, batch.inputs["image"]) for pictures in seen]
    assert changed == [False, wanted]


def test_the_memory_hears_nothing_of_the_first_stage(batch):
    net = network().train()
    net.structure_on = False
    terms = seeded_terms(net, batch)
    assert len(net.memory.recent_codes) == 0
    assert {name for name in LOSS_TERMS if terms[name] == 0} == {"align", "commit", "balance"}
    net.structure_on = True
    seeded_terms(net, batch)
    assert net.memory.recent_smiles == batch.smiles


def test_hidden_atoms_are_hidden_from_the_embedding_too(molecules):
    net = network(modalities=("graph",), mask_rate=0.9).eval()
    batch = Collator(("graph",))(molecules[:6])
    hidden = pretraining_terms(net, batch)[0]
    assert not torch.allclose(hidden, net.embed(batch), atol=1e-4)


def test_what_is_logged_of_the_codes():
    random = torch.Generator().manual_seed(0)
    spread = torch.randn(4000, 2, 16, generator=random)
    there = torch.ones(4000, 2, dtype=torch.bool)
    found = _statistics(spread, there)
    assert found["code_std"] == pytest.approx(1, abs=0.05)
    assert found["retrieval"] < 0.01
    one = torch.ones(50, 2, 16) + 1e-3 * spread[:50]
    assert _statistics(one, there[:50])["code_std"] < 0.01
    pair = torch.nn.functional.normalize(spread[:2], dim=-1).numpy()  # one view's, of two molecules
    assert _statistics(spread[:2], there[:2])["code_std"] == pytest.approx(
        pair.std(0, ddof=1).mean() * 4, rel=1e-5
    )
    same = spread[:50, :1].expand(-1, 2, -1).clone()
    assert _statistics(same, there[:50])["retrieval"] == 1


@pytest.mark.parametrize("term", ["commit", "balance"])
def test_codes_learn_from_the_memory(batch, term):
    net = with_memory(network()).eval()
    seeded_terms(net, batch)[term].backward()
    assert any(p.grad is not None and p.grad.any() for p in net.fusion.encoders.parameters())


def test_the_memory_names_molecules_by_their_own_smiles(molecules):
    """One without any view does not shift the others'."""
    net = network(modalities=("graph",)).train()
    nothing = MoleculeViews.unreadable("C(", "open")
    pretraining_terms(net, Collator(("graph",))([molecules[0], nothing, *molecules[1:5]]))
    assert net.memory.recent_smiles == [record.smiles for record in molecules[:5]]


def opened(net):
    """Open the gate, which begins closed: what the memory says has an influence."""
    torch.nn.init.constant_(net.readout.gate, 0.5)
    return net


@pytest.mark.parametrize("norm", ["row", "sym"])
def test_a_batch_of_one_makes_the_two_scopes_equal(norm):
    net = opened(with_memory(network(hypergraph_norm=norm))).eval()
    for c in torch.randn(5, 1, 16):
        torch.testing.assert_close(net.structure_aware(c), net.structure_aware_in_batch(c))


@pytest.mark.parametrize("hypergraph", [True, False])
def test_the_embedding_is_the_code_and_what_the_memory_says_to_it(hypergraph):
    """As docs/method.md writes it: addresses of the raw anchors, values convolved."""
    net = opened(with_memory(network(hypergraph=hypergraph, memory_temperature=0.2))).eval()
    c, anchors = torch.randn(5, 16), net.active_anchors()
    z = net.hypergraph.forward_memory(c, anchors, 4) if hypergraph else c
    values = net.hypergraph.convolve_anchors(anchors, 4) if hypergraph else anchors
    cosine = torch.nn.functional.cosine_similarity(c[:, None], anchors[None], dim=2)
    read = (cosine / 0.2).softmax(1) @ values
    expected = torch.nn.functional.layer_norm(z + 0.5 * read, (16,))
    torch.testing.assert_close(net.structure_aware(c), expected)


def test_without_anchors_the_structure_is_transparent():
    net = network().eval()
    c = torch.randn(4, 16)
    for aware in (net.structure_aware, net.structure_aware_in_batch):
        torch.testing.assert_close(aware(c), torch.nn.functional.layer_norm(c, (16,)))


@pytest.mark.parametrize("learns", [True, False])
def test_a_prediction_is_never_remembered(batch, learns):
    net = with_memory(network(mode="regression", update_memory=learns))
    before = net.memory.anchors.clone()
    net.eval()(batch)
    assert torch.equal(before, net.memory.anchors)
    net.train()(batch)
    assert torch.equal(before, net.memory.anchors) != learns


def test_rows_stay_with_their_molecules_where_a_view_is_missing(molecules):
    """Of one view alone: a molecule has its embedding whatever stands before it."""
    net = network(modalities=("graph", "image")).eval()
    collate = Collator(("graph", "image"), image_size=32)
    whole = net.embed(collate(molecules[2:6]))
    mixed = net.embed(collate([*map(bare, molecules[:2]), *molecules[2:6]]))
    torch.testing.assert_close(mixed[2:], whole, atol=1e-5, rtol=1e-5)


DROPOUTS = {
    "graph_dropout": "encoders",
    "fusion_dropout": "fusion",
    "hypergraph_dropout": "hypergraph",
    "head_dropout": "head",
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_each_dropout_is_that_of_its_part(name):
    off = dict.fromkeys([*DROPOUTS, "fingerprint_dropout"], 0.0)
    net = network(mode="regression", **{**off, name: 0.3})
    rates = {
        part: {m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)} - {0.0}
        for part, module in net.named_children()
    }
    assert {part: found for part, found in rates.items() if found} == {DROPOUTS[name]: {0.3}}


# ---- the sum over atoms -------------------------------------------------------------------


def of_atoms_alone(**arguments):
    """A network of which the head says nothing."""
    net = network(mode="regression", modalities=("graph",), atom_sum=True, **arguments).eval()
    for parameter in [p for layer in net.head for p in layer.parameters()]:
        parameter.data.zero_()
    return net


@pytest.mark.parametrize("graph", ["gin", "gcn", "gat", "attentivefp"])
def test_what_the_atoms_say_adds_up_over_molecules(graph):
    net, parts = of_atoms_alone(graph=graph), ["c1ccccc1N", "CCO", "[Cl-]"]
    values, _ = MMSAPredictor(net).predict([*parts, ".".join(parts), ".".join(parts[:2])])
    a, b, c, all_three, two = values[:, 0]
    assert all_three == pytest.approx(a + b + c, rel=1e-4)
    assert two == pytest.approx(a + b, rel=1e-4)
    assert abs(a) > 1e-3


def test_atoms_that_are_not_there_say_nothing(batch):
    net = network(mode="regression", atom_sum=True).eval()
    h = net.modality_embeddings(batch)
    column = net.config.modalities.index("graph")
    there = batch.available.clone()
    there[::2, column] = False
    h["graph"][::2] = torch.inf
    e = net.embed(batch)
    raw = net.supervised_outputs(e, h, there)[1]
    torch.testing.assert_close(raw[::2], net.head(e)[::2])
    assert not torch.isclose(raw[1::2], net.head(e)[1::2]).any()


def test_a_network_with_a_silent_sum_is_the_one_without(batch):
    """Embedding and memory hear nothing of it."""
    with_sum = network(mode="regression", atom_sum=True).eval()
    without = network(mode="regression").eval()
    without.load_state_dict(with_sum.state_dict(), strict=False)
    with_sum.head.atom_weight.data.zero_()
    for a, b in zip(with_sum(batch), without(batch)):
        torch.testing.assert_close(a, b)


def test_an_encoder_without_atoms_has_no_sum():
    config = MMSAConfig(mode="regression", modalities=("graph",), graph="custom", atom_sum=True)
    with pytest.raises(ValueError, match="AtomCounts does not expose its atoms by `atom_dim`"):
        MMSANetwork(config, {"graph": AtomCounts()})


def test_regression_is_trained_in_standardised_labels():
    net = network(mode="regression", n_tasks=2)
    net.label_mean.copy_(torch.tensor([100.0, -3.0]))
    net.label_scale.copy_(torch.tensor([10.0, 0.5]))
    raw = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    labels, weights = (
        torch.tensor([[110.0, -3.0], [120.0, torch.nan]]),
        torch.tensor([[1, 1], [1, 0]]),
    )
    assert net.supervised_loss(raw, labels, weights).item() == pytest.approx(4 / 3)
    net.head.forward = lambda embedding: raw
    values = net.supervised_outputs(torch.zeros(2, 16), {}, torch.ones(2, 4, dtype=torch.bool))[0]
    assert values.tolist() == [[110.0, -3.0], [100.0, -2.0]]


@pytest.mark.parametrize("class_weights", [None, (1.0, 5.0)])
def test_the_loss_of_a_whole_is_the_mean_of_its_parts_by_their_shares(class_weights):
    net = network(mode="classification", n_tasks=2, class_weights=class_weights)
    if class_weights:
        net.class_weight.copy_(torch.tensor([[1.0, 5.0], [2.0, 0.5]]))
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(9, 2, 2, generator=generator)
    labels = torch.randint(0, 2, (9, 2), generator=generator).float()
    weights = torch.rand(9, 2, generator=generator).round(decimals=1)
    weights[::4], labels[::4] = 0, torch.nan
    parts = [slice(0, 2), slice(2, 9)]
    shares = [net.share(labels[p], weights[p]) for p in parts]
    losses = [net.supervised_loss(raw[p], labels[p], weights[p]).item() for p in parts]
    whole = net.supervised_loss(raw, labels, weights).item()
    assert np.average(losses, weights=shares) == pytest.approx(whole, rel=1e-5)


def test_a_frozen_memory_remembers_nothing(batch):
    net = with_memory(network()).train()
    before = net.memory.state_dict()
    net.frozen = {"memory"}
    pretraining_terms(net, batch)
    assert net.memory.n_updates == before["_extra_state"]["n_updates"]
    assert torch.equal(net.memory.anchors, before["anchors"])
    net.frozen = set()
    pretraining_terms(net, batch)
    assert net.memory.n_updates == before["_extra_state"]["n_updates"] + 1


def test_encoders_are_trained_in_half_precision_and_read_in_single(batch):
    net = network(precision="auto")
    seen = []
    encoder = net.encoders["graph"]
    forward = encoder.forward
    encoder.forward = lambda graph: seen.append(torch.is_autocast_enabled("cpu")) or forward(graph)
    for dtype, training in ((torch.bfloat16, True), (torch.bfloat16, False), (None, True)):
        net.training_dtype = dtype
        net.train(training)
        assert net.encode("graph", batch, batch.inputs["graph"]).dtype == torch.float32
    assert seen == [True, False, False]
