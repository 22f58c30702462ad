"""Encoders of the conformer: symmetries of space, degenerate molecules, the paper's basis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.filtered_sum import FilterEdges, by_size, filtered_sum
from deepchem_mmsa.layers.geometry_basis import (
    BesselBasis,
    edge_geometry,
    radius_graph,
    spherical_harmonics,
)
from deepchem_mmsa.layers.geometry_encoder import (
    GEOMETRY_ENCODERS,
    ComENet,
    make_geometry_encoder,
)
from deepchem_mmsa.layers.message_passing import BatchedConformers

from .batches import order_within_molecules, random_conformers, random_rotation

QUICK = settings(max_examples=20, deadline=None)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)
SEEDS = st.integers(0, 999)


def small(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_geometry_encoder(name, width=32, n_layers=2, **options)


@pytest.fixture(scope="module", params=sorted(GEOMETRY_ENCODERS))
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


# ---------------------------------------------------------------- radius graph


@QUICK
@given(sizes=st.lists(st.integers(0, 9), max_size=5), seed=SEEDS, cutoff=st.floats(0.5, 5.0))
def test_radius_graph_equals_a_loop(sizes, seed, cutoff):
    conformers = random_conformers(seed, sizes)
    src, dst = radius_graph(conformers, cutoff)
    expected, positions = [], conformers.coordinates
    for i in range(sum(sizes)):
        for j in range(sum(sizes)):
            same = conformers.molecule_of_atom[i] == conformers.molecule_of_atom[j]
            if i != j and same and (positions[i] - positions[j]).square().sum() < cutoff**2:
                expected.append((j, i))
    assert list(zip(src.tolist(), dst.tolist())) == expected


@QUICK
@given(sizes=SIZES, seed=SEEDS, k=st.integers(1, 4))
def test_max_neighbors_keeps_the_nearest(sizes, seed, k):
    conformers = random_conformers(seed, sizes)
    src, dst = radius_graph(conformers, 4.0)
    near_src, near_dst = radius_graph(conformers, 4.0, max_neighbors=k)
    length = (conformers.coordinates[src] - conformers.coordinates[dst]).norm(dim=1)
    for atom in range(sum(sizes)):
        mine = dst == atom
        nearest = src[mine][length[mine].argsort()[:k]].sort().values
        assert torch.equal(nearest, near_src[near_dst == atom])


def test_max_neighbors_keeps_ties():
    square = molecule([6] * 4, [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert len(radius_graph(square, 5.0, max_neighbors=1)[0]) == 8


def test_a_large_molecule_costs_its_own_square_only():
    conformers = random_conformers(0, [1] * 200 + [30])
    big = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 20
    batch = BatchedConformers(
        torch.cat([conformers.atomic_numbers, torch.full((500,), 6)]),
        torch.cat([conformers.coordinates, big]),
        torch.cat([conformers.n_atoms, torch.tensor([500])]),
    )
    src, _ = radius_graph(batch, 4.0)
    assert len(src) == int((torch.cdist(big, big) < 4.0).sum() - 500) + len(
        radius_graph(conformers, 4.0)[0]
    )
    assert ComENet(cutoff=4.0, width=8, n_layers=1)(batch).isfinite().all()


# ---------------------------------------------------------------- basis


def test_bessel_basis_equals_scipy():
    basis = BesselBasis(cutoff=5.0, n_radial=4, n_degrees=4)
    distance = torch.linspace(0.05, 5.0, 300)
    values = basis(distance).numpy()
    for degree in range(4):
        for n in range(4):
            zero = float(basis.zeros[degree, n])
            assert abs(scipy.special.spherical_jn(degree, zero)) < 1e-6
            expected = scipy.special.spherical_jn(degree, zero * distance.numpy() / 5.0)
            expected *= math.sqrt(2) / abs(scipy.special.spherical_jn(degree + 1, zero))
            np.testing.assert_allclose(values[:, degree, n], expected, atol=2e-5)
    assert (basis.zeros.diff(dim=1) > 3).all()  # none is skipped or doubled
    assert torch.allclose(basis.zeros[1], torch.tensor([4.4934, 7.7253, 10.9041, 14.0662]))
    np.testing.assert_allclose(values[-1], 0, atol=1e-5)  # nothing jumps at the cutoff


def test_spherical_harmonics_are_orthonormal_and_complete():
    # Gauss-Legendre in cos θ, equidistant in φ: exact for these polynomials
    z, w = np.polynomial.legendre.leggauss(12)
    phi = np.arange(24) * 2 * np.pi / 24
    z, phi = np.meshgrid(z, phi, indexing="ij")
    weight = torch.tensor(np.repeat(w[:, None], 24, 1).ravel() * 2 * np.pi / 24)
    radius = np.sqrt(1 - z**2)
    points = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], -1).reshape(-1, 3)
    values = spherical_harmonics(torch.tensor(points), 4)
    gram = values.T @ (values * weight[:, None])
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-10, rtol=0)
    expected = math.sqrt(3 / (4 * math.pi)) * torch.tensor(points)
    torch.testing.assert_close(values[:, 1:4], expected[:, [2, 0, 1]])


def test_edge_geometry_measures_angles_and_torsion():
    tau = 0.7  # a chain 0-1-2-3 with torsion τ; 1 and 2 are each other's nearest
    chain = molecule(
        [6, 7, 8, 9],
        [[1.5, 0, 0], [0, 0, 0], [0, 0, 1.2], [1.6 * math.cos(tau), 1.6 * math.sin(tau), 1.2]],
    )
    src, dst = torch.tensor([2, 0, 3]), torch.tensor([1, 1, 1])
    all_src, all_dst = radius_graph(chain, 10.0)
    geometry = edge_geometry(chain, all_src, all_dst)

    def edge(j, i):
        return int(((all_src == j) & (all_dst == i)).nonzero())

    middle = edge(2, 1)
    assert geometry.distance[middle].item() == pytest.approx(1.2, abs=1e-5)
    assert geometry.cos_torsion[middle].item() == pytest.approx(math.cos(tau), abs=5e-3)
    assert abs(geometry.sin_torsion[middle].item()) == pytest.approx(math.sin(tau), abs=5e-3)
    # frame of atom 1: z to atom 2, x to atom 0
    frame = {j: geometry.direction[edge(j, 1)].tolist() for j in src.tolist()}
    assert dst.tolist() == [1, 1, 1]
    assert frame[2] == pytest.approx([0, 0, 1], abs=5e-3)
    assert frame[0] == pytest.approx([1, 0, 0], abs=5e-3)
    unit = chain.coordinates[3] / chain.coordinates[3].norm()
    assert frame[3] == pytest.approx(unit.tolist(), abs=5e-3)


def test_reference_atoms_tie_by_a_rule():
    # Water: both hydrogens are nearest to the oxygen; noise must not swap them.
    water = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]
    results = []
    for noise in (0.0, 2e-5, -2e-5):
        points = [list(p) for p in water]
        points[1][0] += noise
        conformers = molecule([8, 1, 1], points)
        src, dst = radius_graph(conformers, 8.0)
        results.append(edge_geometry(conformers, src, dst).direction)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-3, rtol=0)


# ---------------------------------------------------------------- filtered sum


@QUICK
@given(sizes=st.lists(st.integers(0, 7), max_size=6), seed=SEEDS)
def test_dense_blocks_equal_messages(sizes, seed):
    conformers = random_conformers(seed, sizes)
    src, dst = radius_graph(conformers, 3.0)
    generator = torch.Generator().manual_seed(seed)
    shapes = [(sum(sizes), 6), (len(src), 4), (6, 4)]
    x, f, w = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    results = []
    for dense in (True, False):
        tensors = [t.clone().requires_grad_() for t in (x, f, w)]
        edges = FilterEdges(
            src, dst, conformers.n_atoms, conformers.molecule_of_atom, [tensors[1]], dense=dense
        )
        y = filtered_sum(edges, 0, tensors[0], tensors[2])
        y.square().sum().backward()
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
        results.append([y.detach(), *grads])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_dense_blocks_agree_with_finite_differences():
    conformers = random_conformers(0, [2, 4, 4, 1])
    src, dst = radius_graph(conformers, 9.0)
    x, f, w = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in [(11, 3), (len(src), 2), (3, 2)]
    )

    def function(x, f, w):
        sizes = conformers.n_atoms, conformers.molecule_of_atom
        return filtered_sum(FilterEdges(src, dst, *sizes, [f], dense=True), 0, x, w)

    assert torch.autograd.gradcheck(function, (x, f, w))


def test_very_large_molecules_take_the_sparse_path():
    line = torch.zeros(300, 3)
    line[:, 0] = torch.arange(300)
    conformers = BatchedConformers(torch.full((300,), 6), line, torch.tensor([300]))
    src, dst = radius_graph(conformers, 2.5)
    sizes = conformers.n_atoms, conformers.molecule_of_atom
    assert FilterEdges(src, dst, *sizes, [torch.ones(len(src), 1)]).sizes is None


@QUICK
@given(sizes=st.lists(st.integers(0, 5), max_size=8))
def test_by_size_sorts_whole_molecules(sizes):
    n_atoms = torch.tensor(sizes, dtype=torch.int64)
    molecules, atoms = by_size(n_atoms)
    assert n_atoms[molecules].tolist() == sorted(sizes)
    starts = (n_atoms.cumsum(0) - n_atoms).tolist()
    expected = [starts[m] + a for m in molecules.tolist() for a in range(sizes[m])]
    assert atoms.tolist() == expected


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


@pytest.mark.parametrize("name", sorted(GEOMETRY_ENCODERS))
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


@pytest.mark.parametrize("readout", ["mean", "sum", "max"])
def test_readouts_and_out_dim(readout):
    conformers = random_conformers(0, [4, 6])
    encoder = ComENet(width=16, n_layers=1, out_dim=5, readout=readout).eval()
    first = encoder.atom_embeddings(conformers)[:4]
    assert first.shape == (4, 5)
    expected = first.amax(0) if readout == "max" else getattr(first, readout)(0)
    torch.testing.assert_close(encoder(conformers)[0], expected)


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
        make_geometry_encoder(**options)


def test_bad_basis_and_graph_options_are_named():
    with pytest.raises(ValueError, match="n_spherical=7"):
        ComENet(n_spherical=7)
    with pytest.raises(ValueError, match="n_radial=0"):
        ComENet(n_radial=0)
    with pytest.raises(ValueError, match="out_dim=5"):
        GEOMETRY_ENCODERS["schnet"](width=16, out_dim=5)
    with pytest.raises(ValueError, match="max_neighbors=0"):
        radius_graph(random_conformers(0, [2]), 8.0, max_neighbors=0)
    with pytest.raises(ValueError, match="cutoff=-1"):
        radius_graph(random_conformers(0, [2]), -1)
