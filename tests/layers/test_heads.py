"""Heads: shapes, and a sum over atoms that adds up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.heads import Head


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_head_has_its_layers(layers):
    linear = [m for m in Head(8, 3, width=5, n_layers=layers) if isinstance(m, torch.nn.Linear)]
    assert [m.in_features for m in linear] == [8, 5, 5][:layers]
    assert [m.out_features for m in linear] == [5, 5, 5][: layers - 1] + [3]


@settings(deadline=None, max_examples=20)
@given(n=st.integers(0, 30), seed=st.integers(0, 99))
def test_the_sum_over_atoms_is_that_of_what_each_atom_gives(n, seed):
    generator = torch.Generator().manual_seed(seed)
    atoms, head = torch.randn(n, 8, generator=generator), Head(4, 3, atom_dim=8).eval()
    e = torch.randn(4, generator=generator)
    each = [head(e, atom) - head(e) for atom in atoms]
    expected = head(e) + (torch.stack(each).sum(0) if n else 0)
    torch.testing.assert_close(head(e, atoms.sum(0)), expected, rtol=1e-4, atol=1e-5)


def test_the_sum_over_twenty_atoms_counts_as_the_term_of_one():
    head = Head(4, 3, atom_dim=8).eval()
    e, sums = torch.randn(4), torch.randn(8)
    expected = head(e) + head.atom_weight @ sums / 20
    torch.testing.assert_close(head(e, sums), expected)
