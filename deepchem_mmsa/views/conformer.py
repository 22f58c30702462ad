"""The 3D conformer of a molecule: seeded embedding, fallbacks, reasons, and a budget.

Most molecules embed in milliseconds, a few (large peptides, cages, crowded macrocycles) never
do. Each stage is therefore limited first by numbers of atoms and of attempts, so that the result
does not depend on the speed of the machine, and only then by time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from deepchem_mmsa.rdkit_state import quiet_legacy
from deepchem_mmsa.views.topology import canonical_order, conformer_3d, sanitized_heavy

#: Seconds of processor time per molecule before embedding is abandoned.
DEFAULT_TIMEOUT = 5.0
#: Most atoms, without added hydrogens, of a molecule that is embedded. RDKit checks the time only
#: between attempts, one of which takes 2 s for 360 atoms and 9 s for 480; and the record of a
#: larger molecule would exceed 8 KB.
MAX_EMBEDDED_ATOMS = 330
#: Distance between the nearest faces of neighbouring fragments' bounding boxes, Å.
FRAGMENT_GAP = 3.5
#: Coordinates are multiples of this many Å (exactly, in float32): records are a third smaller,
#: and conformers are not accurate to a thousandth of an Ångström anyway.
RESOLUTION = 1 / 1024
#: Conformers of more points are stored without added hydrogens, to keep records small.
MAX_POINTS_WITH_HYDROGENS = 400
#: Gradient at which the first stage stops refining; RDKit's default is 0.001. It saves an eighth
#: of the time and moves bond lengths by a hundredth of an Ångström (measured by
#: examples/benchmarks/featurization.py). Large molecules, which reach later stages, need RDKit's
#: default: stopped early, they fail its energy check.
FORCE_TOLERANCE = 0.0135
_FORCE_FIELD_STEPS = 200
_WALL_TIME = 10  # RDKit's timeout is in wall time: this multiple of the budget


class Conformer(NamedTuple):
    """Atomic numbers and coordinates.

    Attributes
    ----------
    atomic_numbers : np.ndarray
        uint8 ``[n_points]``: the graph's atoms in its order, then the added hydrogens;
        0 is the dummy atom.
    coordinates : np.ndarray
        float32 ``[n_points, 3]``, Å, multiples of 1/1024 Å.
    """

    atomic_numbers: np.ndarray
    coordinates: np.ndarray


class ConformerError(ValueError):
    """No conformer could be made; the message is the reason."""


class _Stage(NamedTuple):
    """One way of embedding: its name, options, largest molecule and number of attempts."""

    name: str
    torsions: bool  # ETKDGv3's knowledge of torsions and rings; plain distance geometry if not
    random: bool  # start from random coordinates
    hydrogens: bool  # embed with hydrogens; if not they are added afterwards
    max_points: int  # atoms of the embedded molecule
    attempts: int
    tolerance: float = 0.001  # gradient at which refining stops; RDKit's default


_STAGES = (
    _Stage("ETKDGv3", True, False, True, 130, 20, FORCE_TOLERANCE),
    _Stage("ETKDGv3 from random coordinates", True, True, True, 120, 4),
    _Stage("distance geometry", False, True, True, 120, 4),
    _Stage("ETKDGv3 without hydrogens", True, True, False, 90, 2),
    _Stage("distance geometry without hydrogens", False, True, False, MAX_EMBEDDED_ATOMS, 2),
)


def conformer(
    molecule: Chem.Mol,
    seed: int = 0,
    timeout: float = DEFAULT_TIMEOUT,
    optimize: bool = False,
) -> Conformer:
    """Return coordinates of a molecule's atoms and hydrogens.

    Each fragment is embedded by ETKDGv3 (Wang et al., J. Chem. Inf. Model. 2020), failing that from
    random coordinates, then by plain distance geometry, and finally without hydrogens, which are
    added by geometry afterwards; large molecules start at a later stage, because the first ones
    would only cost time. Fragments of a salt are placed side by side along x. Coordinates that a
    molecule was read with are those of :func:`supplied_conformer`.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        A sanitized molecule, in the order of :func:`deepchem_mmsa.views.topology.canonical`
        for coordinates that do not depend on how the molecule was written.
    seed : int, optional
        Non-negative seed; the same molecule and seed give the same coordinates.
    timeout : float, optional
        Seconds of processor time before embedding is abandoned, checked between attempts.
    optimize : bool, optional
        Relax an embedded conformer by MMFF94, or UFF where MMFF94 lacks parameters. This about
        doubles the cost.

    Returns
    -------
    Conformer
        Atomic numbers and coordinates in Å.

    Raises
    ------
    ConformerError
        With the reason: too many atoms, or attempts or time exhausted.
    ValueError
        If `seed` or `timeout` is negative.

    Examples
    --------
    >>> from deepchem_mmsa.views.topology import canonical
    >>> numbers, coordinates = conformer(canonical("CO"))
    >>> numbers.tolist(), coordinates.shape
    ([6, 8, 1, 1, 1, 1], (6, 3))
    """
    if seed < 0 or timeout < 0:
        raise ValueError(f"seed and timeout must not be negative, got {seed} and {timeout}")
    if molecule.GetNumAtoms() > MAX_EMBEDDED_ATOMS:
        raise ConformerError(
            f"{molecule.GetNumAtoms()} heavy atoms; up to {MAX_EMBEDDED_ATOMS} are embedded"
        )
    # Thread time, not wall time: records must not depend on the load of the machine.
    deadline = time.thread_time() + timeout
    with quiet_legacy():
        indices: list[tuple[int, ...]] = []
        fragments = Chem.GetMolFrags(
            molecule, asMols=True, sanitizeFrags=False, fragsMolAtomMapping=indices
        )
        embedded = [_embed(part, seed, deadline, timeout, optimize) for part in fragments]
    return _finished(_side_by_side(fragments, embedded, indices), molecule.GetNumAtoms())


def supplied_conformer(molecule: Chem.Mol) -> Conformer | None:
    """Return the coordinates that a molecule was read with, in canonical order.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        A molecule as it was read, in any order, with or without its hydrogens.

    Returns
    -------
    Conformer or None
        ``None`` if the molecule has no three-dimensional conformer, or its atoms cannot be
        matched. Hydrogens that were not given are placed by geometry, and so are all of them if
        some lie on another atom: ``Chem.AddHs`` without ``addCoords=True`` puts them at the origin.

    Raises
    ------
    ValueError
        If the molecule cannot be sanitized, or has no atom or too many.

    Examples
    --------
    >>> from rdkit import Chem
    >>> supplied_conformer(Chem.MolFromSmiles("CCO")) is None
    True
    """
    given = conformer_3d(molecule)
    if given is None:
        return None
    if _hydrogens_coincide(molecule, given):
        molecule, _ = sanitized_heavy(molecule)
    ordered, order = canonical_order(molecule)
    if order is None:
        return None
    whole = Chem.Mol(molecule)
    with quiet_legacy():
        Chem.SanitizeMol(whole)
        whole = Chem.AddHs(whole, addCoords=True)
        added = Chem.AddHs(ordered)
    source = conformer_3d(whole)
    if source is None:
        return None
    positions = np.asarray(source.GetPositions())
    # A hydrogen that the graph does not hold belongs to its one heavy neighbour; which of a
    # neighbour's hydrogens comes first does not matter, as long as each comes once.
    kept = set(order)
    spare = {
        index: [
            neighbour.GetIdx()
            for neighbour in whole.GetAtomWithIdx(index).GetNeighbors()
            if neighbour.GetAtomicNum() == 1 and neighbour.GetIdx() not in kept
        ]
        for index in order
    }
    points = list(order)
    for atom in list(added.GetAtoms())[len(order) :]:
        owner = order[atom.GetNeighbors()[0].GetIdx()]
        if not spare[owner]:
            return None
        points.append(spare[owner].pop(0))
    supplied = Conformer(_numbers(added), positions[points].astype(np.float32))
    return _finished(supplied, len(order))


def _hydrogens_coincide(molecule: Chem.Mol, conformer: Chem.Conformer) -> bool:
    """Return whether a hydrogen lies where another atom does, within a thousandth of an Å."""
    positions = np.round(conformer.GetPositions(), 3)
    _, place, count = np.unique(positions, axis=0, return_inverse=True, return_counts=True)
    shared = count[place.ravel()] > 1
    return bool(shared.any() and shared[_numbers(molecule) == 1].any())


def _finished(points: Conformer, n_atoms: int) -> Conformer:
    """Return the points as records store them: rounded, large ones without added hydrogens."""
    numbers, coordinates = points
    if len(numbers) > MAX_POINTS_WITH_HYDROGENS:
        numbers, coordinates = numbers[:n_atoms], coordinates[:n_atoms]
    return Conformer(numbers, np.round(coordinates / RESOLUTION).astype(np.float32) * RESOLUTION)


def _numbers(molecule: Chem.Mol) -> np.ndarray:
    """Atomic numbers, uint8 ``[n_points]``."""
    return np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.uint8)


def _embed(
    fragment: Chem.Mol, seed: int, deadline: float, timeout: float, optimize: bool
) -> Conformer:
    """Conformer of one fragment: its atoms in its order, then its hydrogens."""
    n_atoms = fragment.GetNumAtoms()
    with_hydrogens = Chem.AddHs(fragment)
    tried: list[str] = []
    for stage in _STAGES:
        # A fresh copy each time: a failed embedding may leave traces in the molecule.
        molecule = Chem.Mol(with_hydrogens if stage.hydrogens else fragment)
        if molecule.GetNumAtoms() > stage.max_points:
            continue
        remaining = deadline - time.thread_time()
        if remaining <= 0:
            tried.append(f"the {timeout:g} s ran out")
            break
        failure = _attempt(molecule, stage, seed, remaining)
        if failure:
            tried.append(f"{stage.name}: {failure}")
            continue
        if not stage.hydrogens:
            molecule = Chem.AddHs(molecule, addCoords=True)
        if optimize:
            _relax(molecule)
        positions = np.asarray(molecule.GetConformer().GetPositions())
        if np.isfinite(positions).all():
            return Conformer(_numbers(molecule), positions.astype(np.float32))
        tried.append(f"{stage.name}: coordinates are not finite")
    raise ConformerError(f"no conformer of {n_atoms} heavy atoms ({'; '.join(tried)})")


def _attempt(molecule: Chem.Mol, stage: _Stage, seed: int, remaining: float) -> str:
    """Embed `molecule` in place; return why that failed, or an empty string."""
    parameters = rdDistGeom.ETKDGv3() if stage.torsions else rdDistGeom.EmbedParameters()
    parameters.optimizerForceTol = stage.tolerance
    parameters.useRandomCoords = stage.random
    parameters.maxIterations = stage.attempts
    # RDKit treats seed 0 as 1, and a negative seed as none.
    parameters.randomSeed = seed % ((1 << 31) - 1) + 1
    parameters.numThreads = 1
    parameters.trackFailures = True
    parameters.timeout = max(1, math.ceil(_WALL_TIME * remaining))
    try:
        if rdDistGeom.EmbedMolecule(molecule, parameters) >= 0:
            return ""
    except (RuntimeError, ValueError) as error:
        return str(error).strip().partition("\n")[0] or "RDKit error"
    counts = list(parameters.GetFailureCounts())
    if not any(counts):
        return "no attempt was finished"
    cause = rdDistGeom.EmbedFailureCauses.values.get(int(np.argmax(counts)))
    return f"{stage.attempts} attempts, mostly {str(cause).replace('_', ' ').lower()}"


def _relax(molecule: Chem.Mol) -> None:
    """Relax the conformer in place; one without force-field parameters stays as it is."""
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=_FORCE_FIELD_STEPS)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=_FORCE_FIELD_STEPS)


def _side_by_side(
    fragments: Sequence[Chem.Mol], embedded: Sequence[Conformer], indices: Sequence[Sequence[int]]
) -> Conformer:
    """One conformer of all fragments: graph atoms in the graph's order, then hydrogens."""
    if len(embedded) == 1:
        return embedded[0]
    total = sum(fragment.GetNumAtoms() for fragment in fragments)
    numbers = np.zeros(total, dtype=np.uint8)
    coordinates = np.zeros((total, 3), dtype=np.float32)
    owners: list[int] = []  # of each hydrogen, the atom of the whole graph
    hydrogens = [np.zeros((0, 3), dtype=np.float32)]
    edge = 0.0
    for fragment, part, where in zip(fragments, embedded, indices):
        n_atoms = fragment.GetNumAtoms()
        placed = part.coordinates - part.coordinates.mean(axis=0)
        placed[:, 0] += edge - placed[:, 0].min()
        edge = float(placed[:, 0].max()) + FRAGMENT_GAP
        numbers[list(where)] = part.atomic_numbers[:n_atoms]
        coordinates[list(where)] = placed[:n_atoms]
        hydrogens.append(placed[n_atoms:])
        for atom in fragment.GetAtoms():
            owners += [where[atom.GetIdx()]] * atom.GetTotalNumHs()
    # Chem.AddHs adds hydrogens in the order of the atoms that own them.
    order = np.argsort(owners, kind="stable").astype(np.int64)
    return Conformer(
        np.concatenate([numbers, np.ones(len(order), dtype=np.uint8)]),
        np.concatenate([coordinates, np.concatenate(hydrogens)[order]]),
    )
