"""Sums of filtered messages: dense blocks equal edge by edge."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.filtered_sum import FilterEdges, _chunks, by_size, filtered_sum
from deepchem_mmsa.layers.geometry_basis import radius_graph
from deepchem_mmsa.layers.message_passing import BatchedConformers

from .batches import random_conformers

QUICK = settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 999)


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
@given(sizes=st.lists(st.integers(0, 6), max_size=40).map(sorted))
def test_dense_blocks_hold_each_molecule_once_and_have_few_shapes(sizes):
    chunks = _chunks(sizes, 4)
    assert [n for _, _, n, count in chunks for _ in range(count)] == [n for n in sizes if n]
    atoms = pairs = 0
    for atom, pair, n, count in chunks:
        assert (atom, pair) == (atoms, pairs)
        assert count.bit_count() == 1  # else a product for each number would be compiled in bf16
        atoms, pairs = atoms + n * count, pairs + n * n * count


@QUICK
@given(sizes=st.lists(st.integers(0, 5), max_size=8))
def test_by_size_sorts_whole_molecules(sizes):
    n_atoms = torch.tensor(sizes, dtype=torch.int64)
    molecules, atoms = by_size(n_atoms)
    assert n_atoms[molecules].tolist() == sorted(sizes)
    starts = (n_atoms.cumsum(0) - n_atoms).tolist()
    expected = [starts[m] + a for m in molecules.tolist() for a in range(sizes[m])]
    assert atoms.tolist() == expected
