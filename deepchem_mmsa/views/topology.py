"""The 2D graph of a molecule: canonical atom order, and atoms and bonds as vocabulary indices.

The vocabularies are those of :mod:`deepchem_mmsa.molecule`. The first two columns of each table are
the features of Hu et al., *Strategies for Pre-training Graph Neural Networks* (ICLR 2020).
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdCIPLabeler

from deepchem_mmsa.molecule import ATOM_FEATURES, BOND_FEATURES
from deepchem_mmsa.rdkit_state import errors, quiet_legacy

DUMMY_ATOM = 118
#: Most atoms of one molecule. RDKit's canonical ordering takes quadratic time (some seconds here),
#: and from about 15,000 atoms in a chain it overflows the stack, which ends the process.
MAX_ATOMS = 5000
#: Most atoms of a molecule object with its hydrogens, most of which are removed.
MAX_GIVEN = 4 * MAX_ATOMS
#: Most characters of a SMILES: 5,000 atoms with their stereochemistry need no more. Parsing
#: hundreds of thousands of nested branches does not end.
MAX_CHARACTERS = 20_000
#: Å; coordinates beyond it are not those of a molecule, and single precision is too coarse.
MAX_COORDINATE = 1e5
# RDKit's labeller needs about a second for 1,250,000 steps; drug-like molecules need hundreds.
_CIP_STEPS = 125_000
_CANONICAL_ROUNDS = 6

_CHIRALITY = {Chem.CHI_TETRAHEDRAL_CW: 1, Chem.CHI_TETRAHEDRAL_CCW: 2}
_HYBRIDIZATION = {
    Chem.HybridizationType.S: 1,
    Chem.HybridizationType.SP: 2,
    Chem.HybridizationType.SP2: 3,
    Chem.HybridizationType.SP3: 4,
    Chem.HybridizationType.SP3D: 5,
    Chem.HybridizationType.SP3D2: 6,
}
_CIP = {"R": 1, "r": 1, "S": 2, "s": 2}
_BOND_TYPE = {
    Chem.BondType.SINGLE: 0,
    Chem.BondType.DOUBLE: 1,
    Chem.BondType.TRIPLE: 2,
    Chem.BondType.AROMATIC: 3,
}
_OTHER_BOND = 5  # 4 is the self-loop, which encoders add
_DIRECTION = {Chem.BondDir.ENDUPRIGHT: 1, Chem.BondDir.ENDDOWNRIGHT: 2}
_STEREO = {
    Chem.BondStereo.STEREOANY: 1,
    Chem.BondStereo.STEREOZ: 2,
    Chem.BondStereo.STEREOE: 3,
    Chem.BondStereo.STEREOCIS: 4,
    Chem.BondStereo.STEREOTRANS: 5,
}


def read_smiles(smiles: object) -> Chem.Mol:
    """Parse and sanitize a SMILES.

    Parameters
    ----------
    smiles : object
        The text; another type is an error that names it.

    Returns
    -------
    rdkit.Chem.Mol
        The molecule as RDKit reads it.

    Raises
    ------
    ValueError
        If it cannot be read, with RDKit's reason (its log stays quiet); if it is not text, is
        empty, too long, or holds a character that SMILES lacks.

    Examples
    --------
    >>> read_smiles("C(C)(C)(C)(C)C")
    Traceback (most recent call last):
    ...
    ValueError: Explicit valence for atom # 0 C, 5, is greater than permitted
    """
    if not isinstance(smiles, str):
        raise ValueError(f"a SMILES must be text, got {type(smiles).__name__}: {smiles!r:.60}")
    text = smiles.strip()
    if not text:
        raise ValueError("the SMILES is empty")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a SMILES of {len(text)} characters; up to {MAX_CHARACTERS} are read")
    if "\0" in text:  # RDKit would silently ignore it and what follows
        raise ValueError(f"a SMILES cannot hold a NUL character: {text!r:.60}")
    word = text.split(None, 1)[0]  # a name may follow, in any script
    if not word.isascii() or not word.isprintable():  # at its ends RDKit would skip them
        strange = next(c for c in word if not c.isascii() or not c.isprintable())
        raise ValueError(f"a SMILES cannot hold the character {strange!a}: {text!a:.60}")
    with quiet_legacy():
        molecule = Chem.MolFromSmiles(text)
    if molecule is None:
        raise ValueError(_why_unreadable(text))
    return molecule


def canonical(molecule: object) -> Chem.Mol:
    """Return a molecule in canonical atom order, independent of how it was written.

    It is written as canonical isomeric SMILES, without atom-map numbers and without explicit
    hydrogens that SMILES does not need, and read again, until nothing changes.

    Parameters
    ----------
    molecule : str or rdkit.Chem.Mol
        SMILES or molecule; a molecule need not be sanitized (those of DeepChem's ``SDFLoader``
        are not) and is not changed.

    Returns
    -------
    rdkit.Chem.Mol
        The same molecule in canonical order, without conformers (see
        :func:`deepchem_mmsa.views.conformer.supplied_conformer`).

    Raises
    ------
    ValueError
        If it cannot be read or sanitized, has no atom, or more than :data:`MAX_ATOMS`.

    Examples
    --------
    >>> from rdkit import Chem
    >>> Chem.MolToSmiles(canonical("OC[CH3:7]"))
    'CCO'
    >>> [atom.GetSymbol() for atom in canonical("OCC").GetAtoms()]
    ['C', 'C', 'O']
    """
    if isinstance(molecule, Chem.Mol):
        return canonical_order(molecule)[0]
    return canonical_with_smiles(molecule)[0]


def canonical_order(molecule: object) -> tuple[Chem.Mol, list[int] | None]:
    """Return a molecule in canonical order, and the original index of each atom.

    Parameters
    ----------
    molecule : str or rdkit.Chem.Mol
        SMILES or molecule.

    Returns
    -------
    tuple of (rdkit.Chem.Mol, list of int or None)
        The molecule in canonical order without conformers, and for each of its atoms its index
        in `molecule`; ``None`` in the rare case that reading drops an atom that was written.

    Raises
    ------
    ValueError
        As :func:`canonical`.
    """
    if isinstance(molecule, Chem.Mol):
        current, start = sanitized_heavy(molecule)
    else:
        current = _read_unmapped(molecule)
        start = list(range(current.GetNumAtoms()))
    ordered, _, order = _settled(current, start)
    return ordered, order


def canonical_with_smiles(smiles: object) -> tuple[Chem.Mol, str]:
    """Return the molecule of a SMILES in canonical order, and its canonical SMILES.

    Parameters
    ----------
    smiles : object
        See :func:`read_smiles`.

    Returns
    -------
    tuple of (rdkit.Chem.Mol, str)
        The molecule in canonical order, and its canonical SMILES.

    Raises
    ------
    ValueError
        As :func:`canonical`.

    Examples
    --------
    >>> canonical_with_smiles("OCC")[1]
    'CCO'
    """
    molecule = _read_unmapped(smiles)
    ordered, written, _ = _settled(molecule, None, str(smiles))
    return ordered, written


def _read_unmapped(smiles: object) -> Chem.Mol:
    """Parse a SMILES and drop its atom-map numbers."""
    molecule = read_smiles(smiles)
    if ":" in str(smiles):  # without one there is no such number
        for index in range(molecule.GetNumAtoms()):
            molecule.GetAtomWithIdx(index).SetAtomMapNum(0)
    return molecule


@quiet_legacy()
def _settled(
    current: Chem.Mol, order: list[int] | None, text: str = ""
) -> tuple[Chem.Mol, str, list[int] | None]:
    """Write and read a molecule, read from `text`, until nothing changes.

    The order of its atoms is tracked if given.
    """
    if not 0 < current.GetNumAtoms() <= MAX_ATOMS:
        raise ValueError(f"a molecule of {current.GetNumAtoms()} atoms; 1 to {MAX_ATOMS} are read")
    seen: dict[str, tuple[Chem.Mol, list[int] | None]] = {}
    smiles = Chem.MolToSmiles(current)
    if smiles == text:
        return current, smiles, order
    for _ in range(_CANONICAL_ROUNDS):
        if order is not None:
            written = list(current.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
        current = read_smiles(smiles)
        if order is not None:
            fits = len(written) == current.GetNumAtoms()
            order = [order[index] for index in written] if fits else None
        seen[smiles] = (current, order)
        again = Chem.MolToSmiles(current)
        if again == smiles:
            return current, smiles, order
        smiles = again
        if smiles in seen:
            break
    # The SMILES repeat in a cycle: any fixed choice among them is canonical.
    current, order = seen[min(seen)]
    return current, Chem.MolToSmiles(current), order


def conformer_3d(molecule: Chem.Mol) -> Chem.Conformer | None:
    """Return the first conformer that is really three-dimensional.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        Any molecule.

    Returns
    -------
    rdkit.Chem.Conformer or None
        ``None`` if there is none. A conformer does not count if a coordinate is not below
        :data:`MAX_COORDINATE`, or if several atoms all lie at one point, as in files with a 3D
        flag but no coordinates.
    """
    for conformer in molecule.GetConformers():
        if conformer.Is3D():
            positions = np.asarray(conformer.GetPositions())
            spread = np.ptp(positions, axis=0).max() if len(positions) else 0.0
            inside = (np.abs(positions) < MAX_COORDINATE).all()  # False for NaN
            if inside and (len(positions) == 1 or spread > 0.1):
                return conformer
    return None


def topology(molecule: Chem.Mol) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return atoms and bonds of a molecule as vocabulary indices, in the molecule's order.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        A sanitized molecule, preferably in the order of :func:`canonical`.

    Returns
    -------
    atoms : np.ndarray
        uint8 ``[n_atoms, 9]``, columns of :data:`deepchem_mmsa.molecule.ATOM_FEATURES`.
    bond_atoms : np.ndarray
        uint16 ``[n_bonds, 2]``, each bond once, from its begin atom to its end atom, the
        order to which its direction refers.
    bonds : np.ndarray
        uint8 ``[n_bonds, 5]``, columns of :data:`deepchem_mmsa.molecule.BOND_FEATURES`.

    Examples
    --------
    >>> atoms, bond_atoms, bonds = topology(canonical("C=O"))
    >>> atoms[:, 0].tolist(), bond_atoms.tolist(), bonds[:, 0].tolist()
    ([5, 7], [[0, 1]], [1])
    """
    # Column by column through unbound methods: a third faster than an atom at a time.
    atoms = [molecule.GetAtomWithIdx(i) for i in range(molecule.GetNumAtoms())]
    bonds = [molecule.GetBondWithIdx(i) for i in range(molecule.GetNumBonds())]
    tags = list(map(Chem.Atom.GetChiralTag, atoms))
    cip = _cip_labels(molecule, [i for i, tag in enumerate(tags) if tag in _CHIRALITY])
    atom_columns = (
        [number - 1 if number else DUMMY_ATOM for number in map(Chem.Atom.GetAtomicNum, atoms)],
        [_CHIRALITY.get(tag, 0) for tag in tags],
        [min(max(charge, -5), 5) + 5 for charge in map(Chem.Atom.GetFormalCharge, atoms)],
        [_HYBRIDIZATION.get(kind, 0) for kind in map(Chem.Atom.GetHybridization, atoms)],
        list(map(Chem.Atom.GetIsAromatic, atoms)),
        [min(atom.GetTotalNumHs(True), 8) for atom in atoms],
        list(map(Chem.Atom.IsInRing, atoms)),
        [cip.get(index, 0) for index in range(len(atoms))],
        [min(number, 3) for number in map(Chem.Atom.GetNumRadicalElectrons, atoms)],
    )
    ends = (
        list(map(Chem.Bond.GetBeginAtomIdx, bonds)),
        list(map(Chem.Bond.GetEndAtomIdx, bonds)),
    )
    bond_columns = (
        [_BOND_TYPE.get(kind, _OTHER_BOND) for kind in map(Chem.Bond.GetBondType, bonds)],
        [_DIRECTION.get(direction, 0) for direction in map(Chem.Bond.GetBondDir, bonds)],
        list(map(Chem.Bond.GetIsConjugated, bonds)),
        list(map(Chem.Bond.IsInRing, bonds)),
        [_STEREO.get(stereo, 0) for stereo in map(Chem.Bond.GetStereo, bonds)],
    )
    assert len(atom_columns) == len(ATOM_FEATURES)
    assert len(bond_columns) == len(BOND_FEATURES)
    return (
        np.array(atom_columns, dtype=np.uint8).T.copy(),
        np.array(ends, dtype=np.uint16).T.copy(),
        np.array(bond_columns, dtype=np.uint8).T.copy(),
    )


def _cip_labels(molecule: Chem.Mol, centres: list[int]) -> dict[int, int]:
    """Vocabulary index of each tetrahedral centre's R or S, by the accurate algorithm.

    Only the given centres are labelled, and the number of steps is bounded, because highly
    symmetric cages can take hours; those get no label rather than RDKit's older, wrong one.
    """
    if not centres:
        return {}
    labelled = Chem.Mol(molecule)
    for index in centres:
        labelled.GetAtomWithIdx(index).ClearProp("_CIPCode")
    try:
        with quiet_legacy():
            rdCIPLabeler.AssignCIPLabels(labelled, centres, [], maxRecursiveIterations=_CIP_STEPS)
    except RuntimeError:  # the steps ran out
        return {}
    atoms = [(index, labelled.GetAtomWithIdx(index)) for index in centres]
    return {
        index: _CIP.get(atom.GetProp("_CIPCode"), 0)
        for index, atom in atoms
        if atom.HasProp("_CIPCode")
    }


def written(molecule: object) -> str:
    """Return the SMILES of a molecule, sanitized or not; empty if RDKit cannot write one.

    Of what is not a molecule it is the text, for reports; empty for None.

    RDKit recurses from neighbour to neighbour, and a molecule of too many atoms would overflow
    the stack (see :data:`MAX_ATOMS`); terminal atoms do not add to the depth.

    Examples
    --------
    >>> written(Chem.MolFromSmiles("OCC"))
    'CCO'
    """
    if not isinstance(molecule, Chem.Mol):
        return "" if molecule is None else str(molecule)
    if sum(atom.GetDegree() > 1 for atom in molecule.GetAtoms()) > 2 * MAX_ATOMS:
        return ""
    try:
        return Chem.MolToSmiles(molecule)
    except (RuntimeError, ValueError):  # an unsanitized molecule may have none
        return ""


def sanitized_heavy(molecule: Chem.Mol) -> tuple[Chem.Mol, list[int]]:
    """Sanitized copy without spare hydrogens, and the index in `molecule` of each of its atoms."""
    n = molecule.GetNumAtoms()
    if n > MAX_GIVEN:
        raise ValueError(f"a molecule of {n} atoms with its hydrogens; 1 to {MAX_GIVEN} are read")
    if n > 1 and molecule.GetNumBonds() == 0 and _overlapping(molecule):
        raise ValueError(
            "coordinates of a molecule, but no bonds, as read from XYZ: perceive them by "
            "rdkit.Chem.rdDetermineBonds.DetermineBonds(molecule, charge=0)"
        )
    copy = Chem.Mol(molecule)
    raw = copy.NeedsUpdatePropertyCache()
    with quiet_legacy():
        try:
            Chem.SanitizeMol(copy)
        except ValueError as error:  # every sanitization error is one
            raise ValueError(str(error).strip()) from None
        if raw:
            _perceive_stereo(copy)
        for atom in copy.GetAtoms():
            atom.SetAtomMapNum(0)
            atom.SetIntProp("_mmsa_index", atom.GetIdx())
        heavy = Chem.RemoveHs(copy)
    start = [atom.GetIntProp("_mmsa_index") for atom in heavy.GetAtoms()]
    return heavy, start


def _overlapping(molecule: Chem.Mol) -> bool:
    """Return whether two neutral atoms are as close as only bonded ones can be (of the first)."""
    conformer = conformer_3d(molecule)
    if conformer is None:
        return False
    neutral = [atom.GetFormalCharge() == 0 for atom in molecule.GetAtoms()]
    positions = conformer.GetPositions()[neutral]
    distance = np.linalg.norm(positions[:100, None] - positions, axis=-1)
    return bool(((distance < 1.3) & (distance > 0.3)).any())


def _perceive_stereo(molecule: Chem.Mol) -> None:
    """Perceive the stereochemistry of a molecule that was read without sanitizing."""
    if conformer_3d(molecule) is not None:
        Chem.AssignStereochemistryFrom3D(molecule)
        return
    if molecule.GetNumConformers():
        Chem.AssignChiralTypesFromBondDirs(molecule)
        Chem.DetectBondStereochemistry(molecule)
    Chem.AssignStereochemistry(molecule, cleanIt=True, force=True)


def _why_unreadable(text: str) -> str:
    """Return RDKit's reason for not reading `text`, which is only in its log or exceptions."""
    with quiet_legacy():
        raw = Chem.MolFromSmiles(text, sanitize=False)
        if raw is not None:
            try:
                Chem.SanitizeMol(raw)
            except ValueError as error:
                return str(error).strip()
        with errors() as log:
            Chem.MolFromSmiles(text)
        lines = [line.partition("] ")[2] or line for line in log]
        told: list[str] = []
        word = text.split(None, 1)[0]
        for line in lines:
            if line.startswith("SMILES Parse Error"):
                told.append(line)
                if " for input: '" in line:  # the last line about a SMILES
                    if f"'{word}'" in line:
                        return told[0]
                    told.clear()  # from another thread
    return "SMILES Parse Error: not a SMILES that RDKit can read"
