"""Coordinates: seeded, chemically right, bounded, and used when supplied."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from deepchem_mmsa.views import ViewSettings, molecule_views
from deepchem_mmsa.views import conformer as module
from deepchem_mmsa.views.conformer import (
    FRAGMENT_GAP,
    MAX_EMBEDDED_ATOMS,
    MAX_POINTS_WITH_HYDROGENS,
    RESOLUTION,
    ConformerError,
    conformer,
    supplied_conformer,
)
from deepchem_mmsa.views.topology import canonical
from tests.conftest import DRUGS
from tests.views.test_topology import rewritten


def with_points(points) -> Chem.Mol:
    """Put a conformer's coordinates on the molecule it is of."""
    molecule, (numbers, coordinates) = points
    whole = Chem.AddHs(molecule)
    assert [atom.GetAtomicNum() for atom in whole.GetAtoms()] == numbers.tolist()
    rdkit_conformer = Chem.Conformer(whole.GetNumAtoms())
    rdkit_conformer.Set3D(True)
    for index, position in enumerate(coordinates):
        rdkit_conformer.SetAtomPosition(index, position.tolist())
    whole.AddConformer(rdkit_conformer)
    return whole


def embedded(smiles: str, seed: int = 7) -> Chem.Mol:
    """A molecule with hydrogens and an embedded conformer, as an SDF would hold it."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=seed)
    return molecule


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(DRUGS), st.integers(0, 2**31))
def test_writing_does_not_matter_and_seed_does(smiles, seed):
    one, other = canonical(smiles), canonical(rewritten(smiles, seed))
    first = conformer(one)
    for mine, theirs in zip(first, conformer(other)):
        np.testing.assert_array_equal(mine, theirs)
    if len(first.coordinates) > 20:
        assert not np.array_equal(first.coordinates, conformer(one, seed=1).coordinates)


def test_bonds_have_the_length_of_bonds_and_stereo_is_kept():
    for smiles in DRUGS:
        molecule = canonical(smiles)
        points = conformer(molecule)
        assert points.coordinates.dtype == np.float32
        whole = with_points((molecule, points))
        for bond in whole.GetBonds():
            ends = points.coordinates[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
            assert 0.8 < np.linalg.norm(ends[0] - ends[1]) < 2.4
        Chem.AssignStereochemistryFrom3D(whole)
        specified = Chem.MolToSmiles(molecule)
        if "@" in specified and Chem.FindPotentialStereo(Chem.MolFromSmiles(specified)):
            unspecified = [
                info
                for info in Chem.FindPotentialStereo(Chem.MolFromSmiles(specified))
                if info.specified == Chem.StereoSpecified.Unspecified
            ]
            if not unspecified:
                assert Chem.MolToSmiles(Chem.RemoveHs(whole)) == specified


@pytest.mark.parametrize(
    "smiles, numbers",
    [
        ("[Na+]", [11]),
        ("[H+]", [1]),
        ("[H][H]", [1, 1]),
        ("*", [0]),
        ("[CH3]", [6, 1, 1, 1]),
        ("[2H]O", [1, 8, 1]),  # the isotope is an atom of the graph
        ("N->[Pt](Cl)(Cl)<-N", [7, 78, 7, 17, 17] + [1] * 6),
        ("[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", [26] + [6] * 10 + [1] * 10),
        ("C->[Fe]<-C", [6, 26, 6] + [1] * 8),
        ("F[P-](F)(F)(F)(F)F", [9, 15, 9, 9, 9, 9, 9]),
    ],
)
def test_unusual_species(smiles, numbers):
    points = conformer(canonical(smiles))
    assert points.atomic_numbers.tolist() == numbers
    assert np.isfinite(points.coordinates).all()


def test_fragments_stand_apart_in_the_graphs_order():
    molecule = canonical("CC(=O)[O-].CC(=O)[O-].[Zn+2].O")
    numbers, coordinates = conformer(molecule)
    whole = Chem.AddHs(molecule)
    assert numbers.tolist() == [atom.GetAtomicNum() for atom in whole.GetAtoms()]
    parts = [list(part) for part in Chem.GetMolFrags(whole)]
    assert len(parts) == 4
    for number, part in enumerate(parts):
        for other in parts[number + 1 :]:
            gaps = np.linalg.norm(coordinates[part][:, None] - coordinates[other][None], axis=-1)
            assert gaps.min() >= FRAGMENT_GAP - 1e-3
    for atom in whole.GetAtoms():  # each hydrogen is with its own atom
        for neighbour in atom.GetNeighbors():
            ends = coordinates[[atom.GetIdx(), neighbour.GetIdx()]]
            assert np.linalg.norm(ends[0] - ends[1]) < 1.8


def test_fragments_may_be_interleaved():
    molecule = Chem.RenumberAtoms(Chem.MolFromSmiles("CO.CN"), [0, 2, 1, 3])
    whole = with_points((molecule, conformer(molecule)))
    for bond in whole.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        position = whole.GetConformer().GetAtomPosition
        assert position(ends[0]).Distance(position(ends[1])) < 1.8


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([s for s in DRUGS if "." not in s]), st.integers(0, 2**31))
def test_supplied_coordinates_are_used_in_any_order(smiles, seed):
    molecule = embedded(smiles)
    order = np.random.default_rng(seed).permutation(molecule.GetNumAtoms()).tolist()
    shuffled = Chem.RenumberAtoms(molecule, order)
    numbers, coordinates = supplied_conformer(shuffled)
    given_ = as_kept(molecule.GetConformer().GetPositions())
    elements = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    mine = sorted(zip(numbers.tolist(), *coordinates.T.tolist()))
    theirs = sorted(zip(elements.tolist(), *given_.T.tolist()))
    assert mine == theirs
    # And each atom stands where its bonds say.
    with_points((canonical(smiles), (numbers, coordinates)))
    whole = Chem.AddHs(canonical(smiles))
    for bond in whole.GetBonds():
        ends = coordinates[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
        assert 0.8 < np.linalg.norm(ends[0] - ends[1]) < 2.4


def test_large_conformers_are_kept_without_added_hydrogens():
    smiles = "C" * (MAX_POINTS_WITH_HYDROGENS // 3)
    numbers, coordinates = conformer(canonical(smiles + "C"))
    assert (numbers == 6).all()
    assert len(coordinates) == len(smiles) + 1
    assert (conformer(canonical("C" * 40)).atomic_numbers == 1).sum() == 82


def as_kept(positions):
    """Coordinates at the resolution of a record; each is exact in float32."""
    return (np.round(np.asarray(positions) / RESOLUTION) * RESOLUTION).astype(np.float32)


def test_missing_hydrogens_are_added_to_supplied_coordinates():
    heavy = Chem.RemoveHs(embedded("CCO"))
    numbers, coordinates = supplied_conformer(heavy)
    assert numbers.tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(coordinates[:3], as_kept(heavy.GetConformer().GetPositions()))
    record = molecule_views(heavy, ViewSettings(("geometry",)))
    np.testing.assert_array_equal(record.coordinates, coordinates)


@pytest.mark.parametrize("smiles", ["CCO", "C[C@H](N)C(=O)O", "[Na+].CC(=O)[O-]", "[2H]OCC"])
@pytest.mark.parametrize("raw", [False, True])
def test_hydrogens_without_coordinates_are_placed_by_geometry(smiles, raw):
    heavy = Chem.RemoveHs(embedded(smiles))
    wrong = Chem.AddHs(heavy)  # all at the origin
    if raw:  # as DeepChem's SDFLoader reads
        wrong = Chem.MolFromMolBlock(Chem.MolToMolBlock(wrong), sanitize=False, removeHs=False)
        heavy = Chem.MolFromMolBlock(Chem.MolToMolBlock(heavy))
    record = molecule_views(wrong, ViewSettings(("graph", "geometry")))
    assert record == molecule_views(heavy, ViewSettings(("graph", "geometry")))
    apart = np.linalg.norm(record.coordinates[:, None] - record.coordinates, axis=-1)
    assert apart[~np.eye(len(apart), dtype=bool)].min() > 0.6  # RDKit packs ions closely


def test_flat_or_empty_conformers_are_not_three_dimensional():
    from rdkit.Chem import rdDepictor

    flat = Chem.MolFromSmiles("CCO")
    rdDepictor.Compute2DCoords(flat)
    assert supplied_conformer(flat) is None
    claimed = Chem.MolFromSmiles("CCO")
    empty = Chem.Conformer(3)
    empty.Set3D(True)
    claimed.AddConformer(empty)
    assert supplied_conformer(claimed) is None
    assert len(conformer(claimed).coordinates) == 9


def test_mirror_images_are_mirrored():
    """Signed volume at the stereocentre changes its sign."""

    def volume(smiles):
        molecule = canonical(smiles)
        centre = next(a for a in molecule.GetAtoms() if a.GetChiralTag())
        points = conformer(molecule).coordinates
        by_element = sorted(centre.GetNeighbors(), key=lambda a: (a.GetSymbol(), a.GetDegree()))
        edges = [points[a.GetIdx()] - points[centre.GetIdx()] for a in by_element]
        return np.linalg.det(np.stack(edges[:3]))

    assert volume("C[C@H](N)O") * volume("C[C@@H](N)O") < 0


def test_fallbacks_are_reached_in_order(monkeypatch):
    tried = []

    def fail_until(n_failures):
        real = module._attempt

        def attempt(molecule, stage, *rest):
            tried.append(stage.name)
            return "refused" if len(tried) <= n_failures else real(molecule, stage, *rest)

        return attempt

    names = [stage.name for stage in module._STAGES]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_attempt", fail_until(2))
        assert len(conformer(canonical("CCO")).coordinates) == 9
    assert tried == names[:3]
    tried.clear()
    with monkeypatch.context() as patch:  # the last one adds the hydrogens afterwards
        patch.setattr(module, "_attempt", fail_until(4))
        numbers, coordinates = conformer(canonical("CCO"))
    assert tried == names
    assert numbers.tolist() == [6, 6, 8] + [1] * 6
    assert np.linalg.norm(coordinates[3:] - coordinates[[0, 0, 0, 1, 1, 2]], axis=1).max() < 1.3
    tried.clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_attempt", fail_until(9))
        with pytest.raises(ConformerError, match="3 heavy atoms.*ETKDGv3: refused"):
            conformer(canonical("CCO"))


@pytest.mark.parametrize("residues", [30, 60])
def test_peptides_have_a_conformer(residues):
    """Stopped early, as small molecules are, the embedding of a large one fails."""
    molecule = canonical("N[C@@H](C)C(=O)" * residues + "O")
    numbers, coordinates = conformer(molecule, timeout=60)  # on a busy machine, too
    assert np.isfinite(coordinates).all()
    assert (numbers[: molecule.GetNumAtoms()] > 1).all()


def test_impossible_and_too_large_molecules_say_why():
    with pytest.raises(ConformerError, match="331 heavy atoms; up to 330"):
        conformer(canonical("C" * (MAX_EMBEDDED_ATOMS + 1)))
    start = time.perf_counter()
    with pytest.raises(ConformerError, match="attempts, mostly"):
        # Bridgeheads that point outwards and inwards at once cannot be built.
        conformer(canonical("C[C@]12CC[C@@](C)(CC1)C2"))
    assert time.perf_counter() - start < 5
    with pytest.raises(ConformerError, match="0 s ran out"):
        conformer(canonical("CCO"), timeout=0)
    with pytest.raises(ValueError, match="negative"):
        conformer(canonical("CCO"), seed=-1)


def test_relaxing_changes_the_conformer_and_lacking_parameters_do_not_matter():
    molecule = canonical(DRUGS[0])
    plain, relaxed = conformer(molecule), conformer(molecule, optimize=True)
    assert not np.array_equal(plain.coordinates, relaxed.coordinates)
    np.testing.assert_array_equal(
        relaxed.coordinates, conformer(molecule, optimize=True).coordinates
    )
    assert np.isfinite(conformer(canonical("C[Hg]C"), optimize=True).coordinates).all()


@pytest.mark.slow
def test_the_tail_of_sider_is_bounded(moleculenet):
    import pandas as pd

    # Of whole records, as users pay for them.
    seconds, failures = [], []
    for smiles in pd.read_csv(moleculenet / "sider.csv.gz")["smiles"]:
        start = time.process_time()
        record = molecule_views(smiles)
        seconds.append(time.process_time() - start)
        if "geometry" in record.reasons:
            failures.append(record.reasons["geometry"])
    assert len(failures) <= 0.01 * len(seconds), failures
    assert np.mean(seconds) <= 3 * np.median(seconds)
    assert max(seconds) < 15
