"""Map contributions of a view's inputs (pixels, points, bits) to atoms and bonds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from deepchem_mmsa.batching import seen_points
from deepchem_mmsa.molecule import FINGERPRINT_SIZE, MoleculeViews
from deepchem_mmsa.views.depiction import atom_positions, picture_size
from deepchem_mmsa.views.fingerprint import RADIUS
from deepchem_mmsa.views.topology import canonical

__all__ = ["bits_to_atoms", "pixels_to_atoms", "points_to_atoms", "to_atoms", "to_bonds"]


def to_atoms(
    parts: Mapping[str, Mapping[str, np.ndarray]],
    record: MoleculeViews,
    molecule: Chem.Mol,
    order: list[int],
    hydrogens: bool,
) -> dict[str, np.ndarray]:
    """Map every view's contributions to the atoms of the molecule as it was given.

    Parameters
    ----------
    parts : mapping
        As in :class:`~deepchem_mmsa.explain.attribution.Attribution`.
    record : MoleculeViews
    molecule : rdkit.Chem.Mol
        As it was given.
    order : list of int
        Index in `molecule` of each atom of the record.
    hydrogens : bool
        Whether the model sees the conformer's hydrogens.

    Returns
    -------
    dict of str to np.ndarray
        Per view ``[molecule.GetNumAtoms()]``; 0 for hydrogens that are not atoms of the record.
    """
    n = len(order)
    atoms = {}
    for view, inputs in parts.items():
        if view == "image":
            values = pixels_to_atoms(inputs["pixels"].sum(0), record)
        elif view == "geometry":
            values = points_to_atoms(inputs["atoms"], record, n, hydrogens)
        elif view == "fingerprint":
            values = bits_to_atoms(inputs["bits"], record.smiles)
        else:
            values = inputs["atoms"]
        atoms[view] = np.zeros(molecule.GetNumAtoms())
        atoms[view][order] = values
    return atoms


def to_bonds(
    parts: Mapping[str, Mapping[str, np.ndarray]],
    record: MoleculeViews,
    molecule: Chem.Mol,
    order: list[int],
) -> np.ndarray | None:
    """Map the graph's contributions to the molecule's bonds; parameters as in `to_atoms`."""
    values = parts.get("graph", {}).get("bonds")
    if values is None or record.bond_atoms is None:
        return None
    bonds = np.zeros(molecule.GetNumBonds())
    for (a, b), value in zip(record.bond_atoms.tolist(), values.tolist()):
        bonds[molecule.GetBondBetweenAtoms(order[a], order[b]).GetIdx()] = value
    return bonds


def pixels_to_atoms(pixels: np.ndarray, record: MoleculeViews) -> np.ndarray:
    """Assign each pixel's contribution to the atom that is drawn nearest to it.

    Parameters
    ----------
    pixels : np.ndarray
        ``[S, S]``, as the network sees the image.
    record : MoleculeViews
        With an image of any size made by :func:`deepchem_mmsa.views.depiction.draw`.

    Returns
    -------
    np.ndarray
        ``[n_atoms]`` in the record's order; its sum is that of the pixels.
    """
    assert record.image is not None
    size, drawn = len(pixels), picture_size(record.image)
    positions = atom_positions(canonical(record.smiles), drawn) * (size / drawn)
    centres = np.arange(size) + 0.5
    atoms = np.zeros(len(positions))
    for row, y in enumerate(centres):
        distance = (centres[:, None] - positions[:, 0]) ** 2 + (y - positions[:, 1]) ** 2
        np.add.at(atoms, distance.argmin(axis=1), pixels[row].astype(np.float64))
    return atoms


def points_to_atoms(
    points: np.ndarray, record: MoleculeViews, n_atoms: int, hydrogens: bool
) -> np.ndarray:
    """Assign the contribution of each added hydrogen of a conformer to its nearest atom.

    Parameters
    ----------
    points : np.ndarray
        ``[n_points]``, as the network sees the conformer.
    record : MoleculeViews
    n_atoms : int
    hydrogens : bool
        Whether hydrogens are among the points.

    Returns
    -------
    np.ndarray
        ``[n_atoms]`` in the record's order.
    """
    assert record.atomic_numbers is not None
    assert record.coordinates is not None
    coordinates = record.coordinates
    chosen = np.flatnonzero(seen_points(record.atomic_numbers, hydrogens))
    atoms = np.zeros(n_atoms)
    for index, value in zip(chosen.tolist(), points.tolist()):
        if index >= n_atoms:
            distance = np.linalg.norm(coordinates[:n_atoms] - coordinates[index], axis=1)
            index = int(distance.argmin())
        atoms[index] += value
    return atoms


def bits_to_atoms(bits: np.ndarray, smiles: str) -> np.ndarray:
    """Split each bit of the fingerprint between the atoms of its environments.

    Parameters
    ----------
    bits : np.ndarray
        ``[2048]``.
    smiles : str
        Canonical SMILES.

    Returns
    -------
    np.ndarray
        ``[n_atoms]`` in the order of the SMILES: equal parts for a bit's environments, and for
        the atoms of each.

    Examples
    --------
    >>> bits = np.zeros(2048)
    >>> bits[807] = 1.0  # the hydroxyl oxygen
    >>> bits_to_atoms(bits, "CCO")
    array([0., 0., 1.])
    """
    molecule = canonical(smiles)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=FINGERPRINT_SIZE)
    found = rdFingerprintGenerator.AdditionalOutput()
    found.AllocateBitInfoMap()
    generator.GetCountFingerprint(molecule, additionalOutput=found)
    atoms = np.zeros(molecule.GetNumAtoms())
    for bit, environments in found.GetBitInfoMap().items():
        for centre, radius in environments:
            members = {centre}
            if radius:
                # With hydrogens, which are atoms of the graph if they are isotopes.
                for bond in Chem.FindAtomEnvironmentOfRadiusN(molecule, radius, centre, True):
                    ends = molecule.GetBondWithIdx(bond)
                    members |= {ends.GetBeginAtomIdx(), ends.GetEndAtomIdx()}
            atoms[list(members)] += bits[bit] / len(environments) / len(members)
    return atoms
