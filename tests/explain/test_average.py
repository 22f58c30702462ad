"""The average atom is counted in real molecules."""

import numpy as np
import pytest

from deepchem_mmsa.datasets import example_table
from deepchem_mmsa.explain.average import ATOM_COUNTS, BOND_COUNTS
from deepchem_mmsa.molecule import ATOM_FEATURES, BOND_FEATURES
from deepchem_mmsa.views.topology import canonical, topology


@pytest.mark.slow
def test_the_average_atom_is_counted_in_real_molecules():
    tables = [topology(canonical(s)) for s in example_table("chembl_samples")["smiles"]]
    known = ((ATOM_COUNTS, ATOM_FEATURES, 0), (BOND_COUNTS, BOND_FEATURES, 2))
    for counts, columns, position in known:
        rows = np.concatenate([table[position] for table in tables])
        for column, name in enumerate(columns):
            found = np.unique_counts(rows[:, column])
            assert dict(zip(found.values.tolist(), found.counts.tolist())) == counts[name]
