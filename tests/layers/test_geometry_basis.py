"""Radius graph and basis of the conformer's edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.geometry_basis import (
    BesselBasis,
    edge_geometry,
    radius_graph,
    spherical_harmonics,
)
from deepchem_mmsa.layers.geometry_encoder import ComENet
from deepchem_mmsa.layers.message_passing import BatchedConformers

from .batches import random_conformers

QUICK = settings(max_examples=20, deadline=None)
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)
SEEDS = st.integers(0, 999)


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


def test_of_tied_reference_atoms_the_heavier_is_first_in_any_order():
    points = [[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [-0.4, 1.13137085, 0.0], [0.0, 0.0, 2.0]]
    numbers, results = [6, 9, 8, 1], []
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        conformers = molecule([numbers[i] for i in order], [points[i] for i in order])
        src, dst = radius_graph(conformers, 1.5)
        to_first = edge_geometry(conformers, src, dst).direction[dst == 0]
        results.append(to_first[conformers.atomic_numbers[src[dst == 0]] == 9][0])
    for direction in results:  # the z axis points to fluorine
        torch.testing.assert_close(direction, torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0)
