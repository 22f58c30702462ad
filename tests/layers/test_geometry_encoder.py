"""Encoders of the conformer: symmetries of space, degenerate molecules, the paper's basis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.encoders import ENCODERS, make_encoder
from deepchem_mmsa.layers.filtered_sum import FilterEdges
from deepchem_mmsa.layers.geometry_basis import edge_geometry, radius_graph
from deepchem_mmsa.layers.geometry_encoder import ComENet, ComENetBlock
from deepchem_mmsa.layers.message_passing import BatchedConformers

from .batches import order_within_molecules, random_conformers, random_rotation

QUICK = settings(max_examples=20, deadline=None)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)
SEEDS = st.integers(0, 999)


def small(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_encoder("geometry", name, width=32, n_layers=2, **options)


@pytest.fixture(scope="module", params=sorted(ENCODERS["geometry"]))
def encoder(request):
    return small(request.param).eval()


@pytest.fixture(scope="module")
def comenet():
    return small("comenet").eval()


def moved(conformers: BatchedConformers, matrix: torch.Tensor, shift=0.0) -> BatchedConformers:
    return BatchedConformers(
        conformers.atomic_numbers, conformers.coordinates @ matrix.T + shift, conformers.n_atoms
    )


def molecule(numbers: list[int], coordinates: list[list[float]]) -> BatchedConformers:
    return BatchedConformers(
        torch.tensor(numbers), torch.tensor(coordinates).float(), torch.tensor([len(numbers)])
    )


# ---------------------------------------------------------------- symmetries


@QUICK
@given(sizes=SIZES, seed=SEEDS)
def test_rotation_and_translation_change_nothing(encoder, sizes, seed):
    conformers = random_conformers(seed, sizes)
    other = moved(conformers, random_rotation(seed), torch.tensor([3.0, -2.0, 1.0]))
    torch.testing.assert_close(encoder(other), encoder(conformers), rtol=1e-4, atol=1e-4)


@QUICK
@given(sizes=SIZES, seed=SEEDS)
def test_permuting_atoms_permutes_their_embeddings(encoder, sizes, seed):
    conformers = random_conformers(seed, sizes)
    order = order_within_molecules(conformers.n_atoms, seed)
    other = BatchedConformers(
        conformers.atomic_numbers[order], conformers.coordinates[order], conformers.n_atoms
    )
    atoms = encoder.atom_embeddings(conformers)
    torch.testing.assert_close(encoder.atom_embeddings(other), atoms[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder(other), encoder(conformers), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder.readout(conformers, atoms), encoder(conformers))


@QUICK
@given(sizes=SIZES, seed=SEEDS)
def test_a_molecule_does_not_see_its_neighbours(encoder, sizes, seed):
    conformers = random_conformers(seed, sizes)
    together = encoder(conformers)
    parts = zip(conformers.atomic_numbers.split(sizes), conformers.coordinates.split(sizes), sizes)
    for row, (numbers, coordinates, n) in zip(together, parts):
        alone = encoder(BatchedConformers(numbers, coordinates, torch.tensor([n])))
        torch.testing.assert_close(alone[0], row, rtol=1e-5, atol=1e-5)


@QUICK
@given(seed=SEEDS, n=st.integers(4, 9))
def test_comenet_tells_mirror_images_apart(comenet, seed, n):
    conformers = random_conformers(seed, [n])
    points = conformers.coordinates - conformers.coordinates.mean(0)
    assume(torch.linalg.svdvals(points).min() > 0.5)  # Å: a plane has no handedness
    mirrored = moved(conformers, torch.diag(torch.tensor([1.0, 1.0, -1.0])))
    rotated = moved(conformers, random_rotation(seed))
    mirror = (comenet(mirrored) - comenet(conformers)).abs().max()
    turn = (comenet(rotated) - comenet(conformers)).abs().max()
    assert mirror > 1e-4
    assert mirror > 100 * turn


@QUICK
@given(seed=SEEDS)
def test_comenet_sees_no_handedness_where_there_is_none(comenet, seed):
    flat = random_conformers(seed, [6])
    flat.coordinates[:, 2] = 0  # a plane equals its mirror image
    if torch.pdist(flat.coordinates).sort().values.diff().min() < 1e-2:
        return
    mirrored = moved(flat, torch.diag(torch.tensor([-1.0, 1.0, 1.0])))
    torch.testing.assert_close(comenet(mirrored), comenet(flat), rtol=1e-4, atol=1e-4)


def test_real_enantiomers():
    from rdkit import Chem as chem
    from rdkit.Chem.rdDistGeom import EmbedMolecule as embed

    encoder = small("comenet", cutoff=8.0).eval()

    def conformers(smiles: str) -> BatchedConformers:
        heavy = chem.AddHs(chem.MolFromSmiles(smiles))
        assert embed(heavy, randomSeed=7) == 0
        positions = torch.tensor(heavy.GetConformer().GetPositions(), dtype=torch.float32)
        numbers = torch.tensor([a.GetAtomicNum() for a in heavy.GetAtoms()])
        return BatchedConformers(numbers, positions, torch.tensor([len(numbers)]))

    alanine = conformers("C[C@H](N)C(=O)O")
    mirrored = moved(alanine, torch.diag(torch.tensor([1.0, 1.0, -1.0])))
    rotated = moved(alanine, random_rotation(3), 5.0)
    turn = (encoder(rotated) - encoder(alanine)).abs().max()
    mirror = (encoder(mirrored) - encoder(alanine)).abs().max()
    assert turn < 1e-4
    assert mirror > 20 * turn
    assert mirror > 1e-3


def test_every_term_of_the_description_matters(comenet):
    conformers = random_conformers(5, [9])
    src, dst = radius_graph(conformers, comenet.cutoff)
    spherical, torsional = comenet.edge_features(conformers, src, dst)
    assert spherical.shape == (len(src), 3 * 2**2)
    assert torsional.shape == (len(src), 3 * 3)
    # all columns vary, none repeats another
    for block in (spherical, torsional):
        assert (block.std(0) > 1e-3).all()
        assert torch.linalg.matrix_rank(block) == block.shape[1]


def test_a_block_is_the_sum_over_neighbours_atom_by_atom():
    """Both branches read the entering atom, are joined, and are added to it."""
    torch.manual_seed(0)
    block = ComENetBlock(6, 4, 3, n_dense=2).double()
    src, dst = torch.tensor([1, 2, 0, 2, 0]), torch.tensor([0, 0, 1, 1, 2])
    features = [torch.randn(5, width).double() for width in (4, 3)]
    molecule_of_atom = torch.zeros(3, dtype=torch.int64)
    edges = FilterEdges(src, dst, torch.tensor([3]), molecule_of_atom, features)
    given_, silu = torch.randn(3, 6).double(), torch.nn.functional.silu
    x = silu(block.enter(given_))
    branches = []
    for conv, feature in zip((block.spherical, block.torsional), features):
        sums = [
            sum(conv.filter.weight @ f * x[j] for f, j, i in zip(feature, src, dst) if i == atom)
            for atom in range(3)
        ]
        branches.append(silu(conv.neighbours(torch.stack(sums)) + conv.itself(x)))
    h = block.join(torch.cat(branches, dim=1)) + x
    for layer in block.dense:
        h = h + silu(layer(h))
    torch.testing.assert_close(block(edges, given_), torch.nn.functional.layer_norm(h, (6,)))


def test_torsions_enter_by_their_multiples():
    encoder, conformers = ComENet(width=8, n_layers=1, n_spherical=3), random_conformers(3, [8])
    src, dst = radius_graph(conformers, encoder.cutoff)
    geometry = edge_geometry(conformers, src, dst)
    length = torch.hypot(geometry.cos_torsion, geometry.sin_torsion)
    tau = torch.atan2(geometry.sin_torsion, geometry.cos_torsion)
    radial = encoder.radial(geometry.distance)
    waves = [radial[:, 0]]
    for degree in (1, 2):
        for wave in (torch.cos, torch.sin):
            size = length**degree * wave(degree * tau)
            waves.append(radial[:, degree] * size.unsqueeze(1))
    torsional = encoder.edge_features(conformers, src, dst)[1]
    torch.testing.assert_close(torsional, torch.cat(waves, dim=1), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- degenerate input

DEGENERATE = {
    "one atom": molecule([6], [[0, 0, 0]]),
    "two atoms": molecule([1, 1], [[0, 0, 0], [0.74, 0, 0]]),
    "water": molecule([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]),
    "carbon dioxide": molecule([8, 6, 8], [[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]]),
    "straight line": molecule(
        [1, 6, 6, 1], [[0, 0, -1.66], [0, 0, -0.6], [0, 0, 0.6], [0, 0, 1.66]]
    ),
    "square": molecule([6] * 4, [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]),
    "far apart": molecule([6, 6, 6], [[0, 0, 0], [100, 0, 0], [0, 100, 0]]),
    "coinciding": molecule([6, 6, 6], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
    "dummy atom": molecule([0, 6], [[0, 0, 0], [1.5, 0, 0]]),
}  # fmt: skip


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_molecules_have_finite_outputs_and_gradients(encoder, kind, dense, monkeypatch):
    if not dense:
        monkeypatch.setattr("deepchem_mmsa.layers.filtered_sum.MAX_PAIRS_PER_EDGE", 0)
    given_ = DEGENERATE[kind]
    points = given_.coordinates.clone().requires_grad_()
    out = encoder(BatchedConformers(given_.atomic_numbers, points, given_.n_atoms))
    assert out.shape == (1, encoder.out_dim)
    assert out.isfinite().all()
    if out.requires_grad:
        out.square().sum().backward()
        assert points.grad is None or points.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    encoder.zero_grad()
    turned = encoder(moved(given_, random_rotation(1), 1.0))
    torch.testing.assert_close(turned, out.detach(), rtol=1e-3, atol=1e-3)


def test_no_molecules(encoder):
    none = random_conformers(0, [])
    assert encoder(none).shape == (0, encoder.out_dim)


def test_coordinates_have_true_gradients():
    torch.manual_seed(0)
    encoder = ComENet(width=4, n_layers=1, cutoff=6.0).double()
    conformers = random_conformers(0, [5, 3])
    points = conformers.coordinates.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: encoder(BatchedConformers(conformers.atomic_numbers, p, conformers.n_atoms)),
        (points,),
        eps=1e-6,
        atol=1e-5,
    )


def test_an_atom_that_crosses_the_cutoff_changes_nothing_suddenly(comenet):
    def at(distance):
        return comenet(
            molecule([6, 8, 1, 7], [[0, 0, 0], [1.2, 0, 0], [0.3, 1.0, 0.2], [distance, 0.1, 0.1]])
        )

    step = (at(8.001) - at(7.999)).abs().max()
    assert step < 2e-2 * (at(8.0) - at(6.0)).abs().max()


# ---------------------------------------------------------------- training, options


@pytest.mark.parametrize("name", sorted(ENCODERS["geometry"]))
def test_two_equal_trainings_are_equal_bit_for_bit(name):
    conformers = random_conformers(0, [12, 9, 9, 12, 3, 1] * 2)

    def run():
        encoder = small(name)
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            encoder(conformers).square().mean().backward()
            optimizer.step()
        return [p.detach().clone() for p in encoder.parameters()]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = run(), run()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_every_parameter_is_trained():
    encoder = small("comenet")
    encoder(random_conformers(0, [8, 5])).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_autocast_runs_and_stays_near():
    encoder = small("comenet").eval()
    conformers = random_conformers(0, [8, 5])
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(conformers)
        half.float().square().sum().backward()
    full = encoder(conformers)
    assert (half.float() - full).abs().max() < 0.1 * full.abs().max()


def test_padding_of_rows_changes_neither_values_nor_gradients(monkeypatch):
    conformers = random_conformers(0, [7, 5, 5, 1, 30])
    encoder = small("comenet")
    results = []
    for multiple in (1, 128):
        monkeypatch.setattr("deepchem_mmsa.layers.gin.ROW_MULTIPLE", multiple)
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = encoder(conformers)
        out.float().square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in encoder.parameters())])
    for plain, padded in zip(*results):
        scale = float(plain.abs().max())
        torch.testing.assert_close(padded, plain, rtol=0, atol=0.05 * scale + 1e-6)


@pytest.mark.parametrize("readout", ["mean", "sum", "max", "mean+max"])
def test_readouts(readout):
    conformers = random_conformers(0, [4, 6])
    encoder = ComENet(width=16, n_layers=1, readout=readout).eval()
    first = encoder.atom_embeddings(conformers)[:4]
    assert first.shape == (4, 16)
    pooled = {"mean": first.mean(0), "sum": first.sum(0), "max": first.amax(0)}
    expected = torch.cat([pooled[how] for how in readout.split("+")])
    torch.testing.assert_close(encoder(conformers)[0], expected)
    assert encoder.out_dim == len(expected)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"name": "egnn"}, r"'egnn'.*comenet, schnet.*nn.Module"),
        ({"name": "comenet", "cutoff": 0.0}, "cutoff=0.0"),
        ({"name": "comenet", "width": 0}, "width=0"),
        ({"name": "schnet", "n_layers": 0}, "n_layers=0"),
        ({"name": "comenet", "readout": "median"}, "'median'.*sum, mean, max"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        make_encoder("geometry", **options)


def test_bad_basis_and_graph_options_are_named():
    with pytest.raises(ValueError, match="n_spherical=7"):
        ComENet(n_spherical=7)
    with pytest.raises(ValueError, match="n_radial=0"):
        ComENet(n_radial=0)
    with pytest.raises(ValueError, match="cutoff=-1"):
        radius_graph(random_conformers(0, [2]), -1)
