"""Encoders of the 2D graph: laws for all of them, and GIN equal to dgllife's."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.dgl_backend import import_dgl, import_dgllife
from deepchem_mmsa.layers.encoders import ENCODERS, make_encoder
from deepchem_mmsa.layers.gin import shared_rows
from deepchem_mmsa.layers.graph_encoder import GIN
from deepchem_mmsa.layers.message_passing import BatchedGraph, pool

from .batches import order_within_molecules, permute_graph, random_graph, take_graph

QUICK = settings(max_examples=20, deadline=None)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def small(name: str, features: str = "basic", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_encoder("graph", name, features=features, width=16, n_layers=3, **options)


@pytest.fixture(scope="module", params=sorted(ENCODERS["graph"]))
def encoder(request):
    return small(request.param, features="full").eval()


def real_graph() -> BatchedGraph:
    """Batch real molecules, featurized as the package does it."""
    from deepchem_mmsa.views import topology

    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "C", "F/C=C/F", "C[C@H](N)C(=O)O", "C#N", "[Na+].[Cl-]",
              "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "c1ccc2ccccc2c1"]  # fmt: skip
    atoms, bond_atoms, bonds, n_atoms, offset = [], [], [], [], 0
    for text in smiles:
        a, pairs, b = topology.topology(topology.canonical(text))
        atoms.append(torch.as_tensor(a).long())
        bond_atoms.append(torch.as_tensor(pairs.astype("int64")).view(-1, 2) + offset)
        bonds.append(torch.as_tensor(b).long().view(-1, 5))
        n_atoms.append(len(a))
        offset += len(a)
    pairs = torch.cat(bond_atoms)
    return BatchedGraph(
        torch.cat(atoms),
        torch.stack([pairs[:, 0], pairs[:, 1]], 1).flatten(),
        torch.stack([pairs[:, 1], pairs[:, 0]], 1).flatten(),
        torch.cat(bonds).repeat_interleave(2, 0),
        torch.tensor(n_atoms),
        torch.tensor([2 * len(p) for p in bond_atoms]),
    )


def by_dgllife(reference: torch.nn.Module, graph: BatchedGraph) -> torch.Tensor:
    """dgllife's GIN with self-loops as edges, as its pre-training code makes them."""
    atoms = torch.arange(len(graph.atoms))
    dgl_graph = import_dgl().graph(
        (torch.cat([graph.src, atoms]), torch.cat([graph.dst, atoms])), num_nodes=len(atoms)
    )
    loops = torch.zeros(len(atoms), 5, dtype=torch.int64)
    loops[:, 0] = 4
    bonds = torch.cat([graph.bonds, loops])
    n_atom, n_bond = len(reference.node_embeddings), len(reference.gnn_layers[0].edge_embeddings)
    hidden = reference(
        dgl_graph, list(graph.atoms.unbind(1))[:n_atom], list(bonds.unbind(1))[:n_bond]
    )
    return pool(hidden, graph.n_atoms)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("features", ["basic", "full"])
@pytest.mark.parametrize("source", ["random", "few kinds", "real"])
def test_gin_equals_dgllife(source, features, share):
    if source == "real":
        graph = real_graph()
    else:
        graph = random_graph(3, [25, 1, 13, 2, 30, 7], few_kinds=source == "few kinds")
    torch.manual_seed(0)
    ours = GIN(features, width=300, n_layers=5, share_rows=share)
    reference = import_dgllife().model.GIN(
        ours.atom_vocabularies, ours.bond_vocabularies, num_layers=5, emb_dim=300, dropout=0.0
    )
    ours.load_state_dict(reference.state_dict(), strict=True)  # the names are dgllife's

    # In training batch norm divides by small spreads: rounding grows, so compare in double.
    ours.double().train(), reference.double().train()
    a, b = ours(graph), by_dgllife(reference, graph)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    (a**2).sum().backward(), (b**2).sum().backward()
    for (name, p), q in zip(ours.named_parameters(), reference.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-9, msg=name)

    ours.float().eval(), reference.float().eval()
    torch.testing.assert_close(ours(graph), by_dgllife(reference, graph), rtol=1e-5, atol=1e-5)


def test_gin_shares_rows_only_while_they_are_equal():
    graph = random_graph(0, [3] * 30, few_kinds=True)
    encoder = GIN(width=16, n_layers=4, dropout=0.5)
    assert len(encoder._shared_rows(graph)) == 2  # of the inputs and of the first step
    assert len(encoder.eval()._shared_rows(graph)) == 5
    encoder.dropout.train()  # as in sampling dropout at prediction
    assert len(encoder._shared_rows(graph)) == 2
    encoder.share_rows = False
    assert encoder._shared_rows(graph) == []


@pytest.mark.parametrize(
    "readout, jk",
    [
        ("mean", "last"),
        ("sum", "last"),
        ("max", "last"),
        ("mean+max", "concat"),
        ("mean", "concat"),
        ("sum+mean", "last"),
    ],
)
@pytest.mark.parametrize("features", ["basic", "full"])
@QUICK
@given(sizes=SIZES, seed=st.integers(0, 99), layers=st.integers(1, 4))
def test_gin_gives_the_same_without_gradients(sizes, seed, layers, features, readout, jk):
    graph = random_graph(seed, sizes, few_kinds=True)
    torch.manual_seed(seed)
    encoder = GIN(features, width=8, n_layers=layers, readout=readout, jk=jk, dropout=0.5).double()
    encoder.train()(random_graph(seed + 1, [9, 7, 8]))  # running statistics of some data
    with_gradients = encoder.eval()(graph)
    assert with_gradients.requires_grad
    with torch.no_grad():
        without = encoder(graph)
    torch.testing.assert_close(without, with_gradients.detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("readout", ["mean", "sum+max"])
def test_gin_gives_zeros_for_a_molecule_without_atoms(readout):
    gin = GIN(width=8, n_layers=2, readout=readout).eval()
    graph = random_graph(0, [3, 0, 2])
    with torch.no_grad():
        found = gin(graph)
    torch.testing.assert_close(found, gin(graph))
    assert (found[1] == 0).all()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_gin_follows_the_statistics_of_atoms_not_of_rows(momentum):
    graph = random_graph(0, [3] * 30, few_kinds=True)
    torch.manual_seed(0)
    sharing, plain = (
        GIN(width=8, n_layers=3, share_rows=share).double() for share in (True, False)
    )
    plain.load_state_dict(sharing.state_dict())
    for encoder in (sharing, plain):
        encoder.eval()  # as when statistics are estimated after pre-training: only the norms learn
        for layer in encoder.gnn_layers:
            layer.bn.momentum = momentum
            layer.bn.train()
        with torch.no_grad():
            encoder(graph)
            encoder(random_graph(1, [9, 7, 8]))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(sharing.state_dict()[name], value, rtol=0, atol=1e-12, msg=name)


def test_gin_takes_statistics_in_single_precision_under_autocast():
    graph = random_graph(0, [3] * 30, few_kinds=True)
    torch.manual_seed(0)
    sharing, plain = (GIN(width=64, n_layers=1, share_rows=share) for share in (True, False))
    plain.load_state_dict(sharing.state_dict())
    for encoder in (sharing, plain):
        encoder.gnn_layers[0].bn.momentum = 1.0
        with torch.autocast("cpu", torch.bfloat16):
            encoder(graph)
    for name in ("running_mean", "running_var"):
        ours, atoms = (getattr(e.gnn_layers[0].bn, name) for e in (sharing, plain))
        torch.testing.assert_close(ours, atoms, rtol=1e-4, atol=1e-4 * float(atoms.abs().max()))


def test_padding_of_rows_changes_neither_values_nor_gradients(monkeypatch):
    graph = random_graph(0, [7] * 30)
    torch.manual_seed(0)
    encoder = GIN(width=16, n_layers=2)
    results = []
    for multiple in (1, 128):
        monkeypatch.setattr("deepchem_mmsa.layers.gin.ROW_MULTIPLE", multiple)
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = encoder(graph)
        out.float().square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in encoder.parameters())])
    for plain, padded in zip(*results):
        scale = float(plain.abs().max())
        torch.testing.assert_close(padded, plain, rtol=0, atol=0.02 * scale + 1e-6)


def test_gin_without_gradients_still_samples_dropout():
    encoder = GIN(width=8, n_layers=2, dropout=0.5).eval()
    encoder.dropout.train()
    graph = random_graph(0, [9, 7, 8])
    with torch.no_grad():
        assert not torch.equal(encoder(graph), encoder(graph))


@QUICK
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_shared_rows_equal_refinement_by_tuples(sizes, seed):
    graph = random_graph(seed, sizes, few_kinds=True)
    kinds = [tuple(row[:2]) for row in graph.atoms.tolist()]
    inputs, *steps = shared_rows(graph, 2, 2, 3)
    for a, b in itertools.combinations(range(len(kinds)), 2):
        assert (kinds[a] == kinds[b]) == bool(inputs.row_of_atom[a] == inputs.row_of_atom[b])
    for step in steps:
        arriving = [[] for _ in kinds]
        for j, i, bond in zip(graph.src.tolist(), graph.dst.tolist(), graph.bonds.tolist()):
            arriving[i].append((kinds[j], tuple(bond[:2])))
        kinds = [(k, tuple(sorted(map(repr, a)))) for k, a in zip(kinds, arriving)]
        number = {kind: n for n, kind in enumerate(dict.fromkeys(kinds))}
        plain = torch.tensor([number[kind] for kind in kinds])
        same_plain = plain[:, None] == plain[None, :]
        same_ours = step.row_of_atom[:, None] == step.row_of_atom[None, :]
        assert torch.equal(same_plain, same_ours)
        assert torch.equal(step.row_of_atom[step.first], torch.arange(len(step.first)))


def test_gin_has_dgllifes_names():
    names = dict(GIN(width=300).named_parameters())
    assert names["node_embeddings.0.weight"].shape == (120, 300)
    assert names["node_embeddings.1.weight"].shape == (3, 300)
    assert names["gnn_layers.4.edge_embeddings.0.weight"].shape == (6, 300)
    assert names["gnn_layers.4.edge_embeddings.1.weight"].shape == (3, 300)
    assert names["gnn_layers.0.mlp.0.weight"].shape == (600, 300)
    assert names["gnn_layers.0.mlp.2.bias"].shape == (300,)
    assert names["gnn_layers.0.bn.weight"].shape == (300,)
    assert "running_mean" in " ".join(GIN(width=8).state_dict())


@QUICK
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_permuting_atoms_permutes_their_embeddings(encoder, sizes, seed):
    graph = random_graph(seed, sizes)
    order = order_within_molecules(graph.n_atoms, seed)
    permuted = permute_graph(graph, order)
    atoms, other = encoder.atom_embeddings(graph), encoder.atom_embeddings(permuted)
    assert atoms.shape == (sum(sizes), encoder.atom_dim)
    torch.testing.assert_close(other, atoms[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(permuted), encoder(graph), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.readout(graph, atoms), encoder(graph))


@QUICK
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_a_molecule_does_not_see_its_neighbours(encoder, sizes, seed):
    graph = random_graph(seed, sizes)
    together = encoder(graph)
    assert together.shape == (len(sizes), encoder.out_dim)
    for molecule, row in enumerate(together):
        alone = encoder(take_graph(graph, molecule))
        torch.testing.assert_close(alone[0], row, rtol=1e-5, atol=1e-5)


def test_features_matter(encoder):
    graph = random_graph(0, [8, 5])
    out = encoder(graph)
    for column in range(9):
        changed = graph.atoms.clone()
        changed[:, column] = (changed[:, column] + 1) % 2
        other = BatchedGraph(
            changed, graph.src, graph.dst, graph.bonds, graph.n_atoms, graph.n_edges
        )
        assert (encoder(other) - out).abs().max() > 1e-4
    for column in range(5):
        changed = graph.bonds.clone()
        changed[:, column] = (changed[:, column] + 1) % 2
        other = BatchedGraph(
            graph.atoms, graph.src, graph.dst, changed, graph.n_atoms, graph.n_edges
        )
        assert (encoder(other) - out).abs().max() > 1e-6


def test_no_molecules_and_single_atoms(encoder):
    assert encoder(random_graph(0, [])).shape == (0, encoder.out_dim)
    assert encoder.atom_embeddings(random_graph(0, [])).shape == (0, encoder.atom_dim)
    out = encoder(random_graph(0, [1]))
    assert out.shape == (1, encoder.out_dim)
    assert out.isfinite().all()
    assert torch.equal(encoder(random_graph(0, [0, 0])), torch.zeros(2, encoder.out_dim))


@pytest.mark.parametrize("name", sorted(ENCODERS["graph"]))
def test_two_equal_trainings_are_equal_bit_for_bit(name):
    graph = random_graph(0, [20] * 8)

    def run():
        encoder = small(name, dropout=0.2)
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            loss = encoder(graph).square().mean()
            loss.backward()
            optimizer.step()
        return [p.detach().clone() for p in encoder.parameters()]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = run(), run()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert all(p.isfinite().all() for p in first)


def test_one_atom_can_be_trained_on():
    encoder = GIN(width=8, n_layers=2)
    encoder(random_graph(0, [1])).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("readout", ["mean", "sum", "max"])
def test_readouts(readout):
    graph = random_graph(0, [4, 6])
    encoder = GIN(width=8, n_layers=2, readout=readout).eval()
    first = encoder.atom_embeddings(graph)[:4]
    expected = first.amax(0) if readout == "max" else getattr(first, readout)(0)
    torch.testing.assert_close(encoder(graph)[0], expected)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_all_layers_side_by_side_end_with_the_last(share, training):
    last, every = small("gin", readout="mean+max"), small("gin", readout="mean+max", jk="concat")
    every.load_state_dict(last.state_dict())
    graph = random_graph(3, [5, 1, 8])
    for encoder in (last, every):
        encoder.train(training)
        encoder.share_rows = share
    atoms, all_atoms = last.atom_embeddings(graph), every.atom_embeddings(graph)
    assert all_atoms.shape == (14, every.atom_dim) == (14, 48)
    torch.testing.assert_close(all_atoms[:, -16:], atoms)
    assert (all_atoms[:, :32] >= 0).all()
    molecules = every(graph)
    assert molecules.shape == (3, every.out_dim) == (3, 96)
    by_hand = [pool(every.atom_embeddings(graph), graph.n_atoms, how) for how in ("mean", "max")]
    if not training:  # running statistics have moved
        torch.testing.assert_close(molecules, torch.cat(by_hand, 1))
    assert small("gcn", readout="sum+mean").out_dim == 32


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("gin", {"jk": "first"}, "jk='first' is unknown; choose one of last, concat"),
        ("gin", {"readout": "mean+mean"}, "each once"),
        ("gat", {"jk": "concat"}, "'gat' does not know jk"),
        ("attentivefp", {"readout": "max"}, "'attentivefp' does not know readout"),
    ],
)
def test_what_an_encoder_does_not_know_is_named(name, options, text):
    with pytest.raises(ValueError, match=text):
        small(name, **options)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"name": "transformer"}, r"'transformer'.*attentivefp, gat, gcn, gin.*nn.Module"),
        ({"name": "gin", "features": "all"}, "'all'.*basic, full"),
        ({"name": "gin", "n_layers": 0}, "n_layers=0"),
        ({"name": "gcn", "n_layers": 0}, "n_layers=0"),
        ({"name": "gin", "width": 0}, "width=0"),
        ({"name": "gat", "width": 30}, "width=30 must be a multiple of 4"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        make_encoder("graph", **options)


def test_bad_readout_is_named():
    with pytest.raises(ValueError, match="'median'"):
        GIN(readout="median")


@pytest.mark.parametrize("name", ["gcn", "gat", "attentivefp"])
def test_dgllife_on_a_device_that_dgl_lacks(name):
    encoder = small(name)
    with pytest.raises(RuntimeError, match=r"no support for device 'meta'.*'gin'"):
        encoder._dgl_graph(random_graph(0, [3]).to("meta"))
