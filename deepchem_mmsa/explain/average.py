"""The average atom and bond, of which a blank molecule is made.

Counted in the 2,000 molecules of ChEMBL that ``example_table("chembl_samples")`` returns (58,186
heavy atoms, 63,243 bonds). Embeddings averaged by these counts stand for "some atom" or bond.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deepchem_mmsa.molecule import ATOM_FEATURES, BOND_FEATURES

__all__ = ["ATOM_COUNTS", "BOND_COUNTS", "average_atom", "average_bond", "average_element"]

#: How often each category occurs, by the columns of ``ATOM_FEATURES``.
ATOM_COUNTS: dict[str, dict[int, int]] = {
    "atomic_number": {
        5: 42694, 6: 6898, 7: 6259, 8: 916, 13: 1, 14: 21, 15: 787, 16: 489, 34: 110, 52: 11,
    },
    "chirality": {0: 56592, 1: 788, 2: 806},
    "charge": {4: 115, 5: 57945, 6: 126},
    "hybridization": {2: 256, 3: 39870, 4: 18060},
    "aromatic": {0: 29997, 1: 28189},
    "n_hydrogens": {0: 26325, 1: 20088, 2: 8460, 3: 3313},
    "in_ring": {0: 20595, 1: 37591},
    "cip": {0: 56596, 1: 654, 2: 936},
    "radical": {0: 58185, 1: 1},
}  # fmt: skip
BOND_COUNTS: dict[str, dict[int, int]] = {
    "type": {0: 30074, 1: 3995, 2: 128, 3: 29046},
    "direction": {0: 62712, 1: 437, 2: 94},
    "conjugated": {0: 23147, 1: 40096},
    "in_ring": {0: 23926, 1: 39317},
    "stereo": {0: 62974, 2: 80, 3: 189},
}


def _shares(counts: Mapping[str, Mapping[int, int]], sizes: Mapping[str, int]) -> list[Tensor]:
    columns = []
    for name, size in sizes.items():
        share = torch.zeros(size, dtype=torch.float64)
        for category, count in counts[name].items():
            share[category] = count
        columns.append((share / share.sum()).float())
    return columns


def average_atom() -> list[Tensor]:
    """Return the shares of the categories of each atom column, each summing to 1.

    Examples
    --------
    >>> [len(column) for column in average_atom()][:3]
    [120, 3, 11]
    """
    return _shares(ATOM_COUNTS, ATOM_FEATURES)


def average_bond() -> list[Tensor]:
    """Return the shares of the categories of each bond column, each summing to 1."""
    return _shares(BOND_COUNTS, BOND_FEATURES)


def average_element(n_elements: int, hydrogens: bool) -> Tensor:
    """Return the shares of the elements among the points of conformers.

    Parameters
    ----------
    n_elements : int
        Length of the result, which is indexed by atomic number.
    hydrogens : bool
        Whether hydrogens are points too.

    Returns
    -------
    Tensor
        ``[n_elements]``, summing to 1.

    Examples
    --------
    >>> [round(float(x), 2) for x in average_element(9, hydrogens=True)]
    [0.0, 0.45, 0.0, 0.0, 0.0, 0.0, 0.41, 0.07, 0.06]
    """
    share = torch.zeros(max(n_elements, 120), dtype=torch.float64)
    for category, count in ATOM_COUNTS["atomic_number"].items():
        share[category + 1] = count
    if hydrogens:
        share[1] += sum(n * count for n, count in ATOM_COUNTS["n_hydrogens"].items())
    return (share / share.sum()).float()[:n_elements]
