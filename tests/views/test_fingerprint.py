"""Fingerprint and descriptors: the molecule's, however written, and defined where they can be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from deepchem_mmsa.molecule import FINGERPRINT_SIZE, N_DESCRIPTORS
from deepchem_mmsa.views import ViewSettings, molecule_views
from deepchem_mmsa.views.fingerprint import (
    _FUNCTIONS,
    DESCRIPTORS,
    MAX_ATOMS,
    FingerprintError,
    descriptors,
    ecfp_counts,
    fingerprint,
)
from deepchem_mmsa.views.topology import canonical
from tests.conftest import DRUGS

ODD = [
    "[Na+].[Cl-]",
    "[Fe]",
    "[U]",
    "*CC",
    "[H][H]",
    "[H+]",
    "O=[Os](=O)(=O)=O",
    "C~C",
    "[2H]O[2H]",
]
VIEW = ViewSettings(("fingerprint",))


def dense(view):
    counts = np.zeros(FINGERPRINT_SIZE)
    counts[view.bits] = view.counts
    return counts


@settings(max_examples=15, deadline=None)
@given(smiles=st.sampled_from(DRUGS), seed=st.integers(0, 2**31 - 1))
def test_the_same_molecule_in_other_words(smiles, seed):
    molecule = Chem.MolFromSmiles(smiles)
    order = np.random.default_rng(seed).permutation(molecule.GetNumAtoms()).tolist()
    other = Chem.MolToSmiles(Chem.RenumberAtoms(molecule, order), canonical=False)
    assert molecule_views(other, VIEW).to_bytes() == molecule_views(smiles, VIEW).to_bytes()


def test_counts_are_rdkits():
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=FINGERPRINT_SIZE)
    for smiles in DRUGS[:12]:
        molecule = canonical(smiles)
        bits, counts = ecfp_counts(molecule)
        assert (bits.dtype, counts.dtype) == (np.uint16, np.uint8)
        expected = np.zeros(FINGERPRINT_SIZE)
        DataStructs.ConvertToNumpyArray(generator.GetCountFingerprint(molecule), expected)
        np.testing.assert_array_equal(dense(fingerprint(molecule)), expected)


def test_many_repeats_stay_in_a_byte():
    _, counts = ecfp_counts(Chem.MolFromSmiles("C" * 400))
    assert counts.max() == 255


def test_descriptors_are_rdkits_under_their_names():
    assert len(set(DESCRIPTORS)) == len(DESCRIPTORS) == N_DESCRIPTORS
    for smiles in DRUGS[:4]:
        values = dict(zip(DESCRIPTORS, descriptors(canonical(smiles))))
        for name, function in Descriptors.descList:
            if name in values:
                assert values[name] == pytest.approx(function(canonical(smiles)), rel=1e-6), name


def test_a_pure_function(drugs):
    molecule = canonical(drugs[3])
    first = fingerprint(molecule)
    assert not any(
        a.GetPropsAsDict(True, True).get("_GasteigerCharge") for a in molecule.GetAtoms()
    )
    for mine, again in zip(first, fingerprint(molecule)):
        np.testing.assert_array_equal(mine, again)


@pytest.mark.parametrize("smiles", ODD)
def test_odd_molecules_have_a_view(smiles):
    record = molecule_views(smiles, VIEW)
    assert record.available == ("fingerprint",)
    assert not np.isinf(record.descriptors).any()
    assert np.isfinite(record.descriptors[DESCRIPTORS.index("MolWt")])


def test_values_beyond_the_type_and_undefined_ones(monkeypatch):
    values = {"Ipc": 5e181, "AvgIpc": -5e181, "qed": float("inf"), "SPS": 1 / 3}
    for name, value in values.items():
        monkeypatch.setitem(_FUNCTIONS, name, lambda molecule, value=value: value)

    def undefined(molecule):
        raise ZeroDivisionError

    monkeypatch.setitem(_FUNCTIONS, "BertzCT", undefined)
    monkeypatch.delitem(_FUNCTIONS, "Phi")  # as in another version of RDKit
    made = dict(zip(DESCRIPTORS, descriptors(Chem.MolFromSmiles("C"))))
    largest = np.finfo(np.float32).max
    assert (made["Ipc"], made["AvgIpc"], made["SPS"]) == (largest, -largest, np.float32(1 / 3))
    assert all(np.isnan(made[name]) for name in ("qed", "BertzCT", "Phi"))


def test_what_would_take_too_long_is_left_out():
    made = dict(zip(DESCRIPTORS, descriptors(Chem.MolFromSmiles("C" * 151))))
    assert np.isnan(made["Ipc"])
    assert made["HeavyAtomCount"] == 151


def test_a_giant_is_refused_with_its_size():
    giant = "C" * (MAX_ATOMS + 1)
    with pytest.raises(FingerprintError, match="1001 atoms"):
        fingerprint(Chem.MolFromSmiles(giant))
    record = molecule_views(giant, ViewSettings(("graph", "fingerprint")))
    assert record.available == ("graph",)
    assert "1001 atoms" in record.reasons["fingerprint"]
    assert record.readable


def test_unreadable_rows_and_the_default(drugs):
    assert not molecule_views("C(", VIEW).readable
    assert "fingerprint" not in ViewSettings().modalities
    assert molecule_views(drugs[0], ViewSettings(("graph",))).descriptors is None


def test_it_adds_little_to_a_record(drugs):
    added = [
        len(molecule_views(s, ViewSettings(("graph", "fingerprint"))).to_bytes())
        - len(molecule_views(s, ViewSettings(("graph",))).to_bytes())
        for s in drugs
    ]
    assert max(added) <= 1024


@pytest.mark.parametrize("smiles", ["*" * 2000, ".".join(["[2H][2H]"] * 600)])
def test_atoms_that_are_not_heavy_count_too(smiles):
    """Descriptors of some thousand dummies take hours."""
    with pytest.raises(FingerprintError, match="00 atoms, more than the 1000"):
        fingerprint(Chem.MolFromSmiles(smiles))
    values = descriptors(Chem.MolFromSmiles("*" * 160))
    assert np.isnan(values[DESCRIPTORS.index("Ipc")])
