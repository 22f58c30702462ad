"""From pixels and bits to the atoms behind them."""

import numpy as np
import pytest
from rdkit import Chem

from deepchem_mmsa.explain import explain
from deepchem_mmsa.explain.mapping import bits_to_atoms, pixels_to_atoms, points_to_atoms
from deepchem_mmsa.views import ViewSettings, molecule_views
from deepchem_mmsa.views.depiction import atom_positions, decode, draw
from deepchem_mmsa.views.topology import canonical
from tests.explain.small import IBUPROFEN, QUICK, network


def test_pixels_are_given_to_the_atoms_drawn_there(net):
    why = explain(net, "O=C(O)c1ccccc1Br", **QUICK)
    assert why.pixels.shape == (32, 32)
    assert why.pixels.sum() == pytest.approx(why.atoms["image"].sum(), abs=1e-5)
    white = (why.picture == 255).all(axis=0)
    assert (why.pixels[white] == 0).all()
    assert (why.pixels[~white] != 0).mean() > 0.9


@pytest.mark.parametrize("smiles", ["O=C(O)c1ccccc1Br", IBUPROFEN, "CCO.Cl", "C[N+](C)(C)C"])
@pytest.mark.parametrize("size", [112, 224])
def test_atoms_are_where_the_picture_shows_them(smiles, size):
    molecule = canonical(smiles)
    ink = (decode(draw(molecule, size)) < 200).any(axis=0)
    rows, columns = np.nonzero(ink)
    positions = atom_positions(molecule, size)
    assert positions.shape == (molecule.GetNumAtoms(), 2)
    for x, y in positions:
        assert np.hypot(columns + 0.5 - x, rows + 0.5 - y).min() < 11 * size / 224


def test_bits_are_shared_between_the_atoms_of_their_environments():
    smiles = Chem.CanonSmiles("OCCBr")
    record = molecule_views(smiles, ViewSettings(("fingerprint",)))
    bits = np.zeros(2048)
    n = len(record.fingerprint_bits)
    bits[record.fingerprint_bits] = np.random.default_rng(0).normal(size=n)
    atoms = bits_to_atoms(bits, smiles)
    assert atoms.shape == (4,)
    assert atoms.sum() == pytest.approx(bits.sum())
    why = explain(network(modalities=("fingerprint",), fingerprint_width=16), smiles)
    assert len(why.descriptors) == 217
    assert "Descriptors, " in why.to_html()


def test_a_pixel_belongs_to_the_atom_drawn_there_whatever_the_sizes():
    record = molecule_views("OC(=O)c1ccccc1Br", ViewSettings(("image",), image_size=64))
    positions = atom_positions(canonical(record.smiles), 64)
    for atom, (x, y) in enumerate(positions):
        pixels = np.zeros((32, 32))
        pixels[int(y / 2), int(x / 2)] = 1
        assert pixels_to_atoms(pixels, record)[atom] == 1


def test_the_place_of_a_pixel_is_its_centre():
    record = molecule_views("FC", ViewSettings(("image",), image_size=64))
    middle = atom_positions(canonical(record.smiles), 64)[:, 0].mean()
    assert 29 < middle < 29.5  # so that the centre of the column 29 lies to the right
    atoms = pixels_to_atoms(np.ones((64, 64)), record)
    assert sorted(atoms.tolist()) == [29 * 64, 35 * 64]


def test_a_hydrogen_counts_for_the_atom_that_it_sits_on():
    record = molecule_views("CCO", ViewSettings(("geometry",)))
    assert points_to_atoms(np.ones(9), record, 3, hydrogens=True).tolist() == [4, 3, 2]
    assert points_to_atoms(np.arange(3.0), record, 3, hydrogens=False).tolist() == [0, 1, 2]


def test_atoms_of_hydrogen_alone_count_for_themselves():
    record = molecule_views("[H][H]", ViewSettings(("graph", "geometry")))
    assert points_to_atoms(np.array([1.0, 2.0]), record, 2, hydrogens=False).tolist() == [1, 2]


def test_a_bit_is_shared_between_all_atoms_around_its_centre():
    """Ethanol has six: each of its three atoms alone, and with the neighbours."""
    record = molecule_views("CCO", ViewSettings(("fingerprint",)))
    bits = np.zeros(2048)
    bits[record.fingerprint_bits] = 1
    pair, three = 1 / 2, 1 / 3
    shares = [1 + pair + three, 1 + pair + three + pair, 1 + three + pair]
    assert bits_to_atoms(bits, "CCO").tolist() == pytest.approx(shares)


def test_hydrogens_that_are_atoms_of_the_graph_are_part_of_environments():
    record = molecule_views("[2H]Cl", ViewSettings(("fingerprint",)))
    bits = np.zeros(2048)
    bits[record.fingerprint_bits] = 1
    assert bits_to_atoms(bits, record.smiles).tolist() == pytest.approx([1.5, 1.5])
    assert bits_to_atoms(np.ones(2048), "[H][H]").tolist() == pytest.approx([1, 1])
