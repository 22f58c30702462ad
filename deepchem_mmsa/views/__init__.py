"""One molecule → its views: picture, 2D graph, 3D conformer.

Each view is a pure, seeded function of a molecule in its own file. Here they are put together
into the record that a dataset holds, for one molecule and, in parallel, for many. Nothing here
imports DeepChem, so that prediction from the command line does not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rdkit import Chem

from deepchem_mmsa.molecule import MODALITIES, MoleculeViews
from deepchem_mmsa.views.conformer import (
    DEFAULT_TIMEOUT,
    Conformer,
    ConformerError,
    supplied_conformer,
)
from deepchem_mmsa.views.conformer import conformer as make_conformer  # not to hide its module
from deepchem_mmsa.views.depiction import DEFAULT_SIZE, MAX_SIZE, MIN_SIZE, DepictionError, draw
from deepchem_mmsa.views.topology import canonical, canonical_order
from deepchem_mmsa.views.topology import topology as make_topology

__all__ = ["ViewSettings", "many_views", "molecule_views"]

_CHUNK = 32  # molecules that a worker takes at a time: about a second of work


@dataclass(frozen=True)
class ViewSettings:
    """What to make of a molecule.

    Parameters
    ----------
    modalities : sequence of str, optional
        Any of ``"image"``, ``"graph"``, ``"geometry"``, at least one.
    image_size : int, optional
        Pixels per side of the picture.
    seed : int, optional
        Seed of the conformer.
    conformer_timeout : float, optional
        Seconds per molecule before its conformer is given up.
    optimize_conformer : bool, optional
        Relax the conformer by a force field.

    Raises
    ------
    ValueError
        If a value is out of its range; an unknown modality is named with the known ones.

    Examples
    --------
    >>> ViewSettings(modalities=("picture",))
    Traceback (most recent call last):
    ...
    ValueError: unknown modality 'picture': choose from image, graph, geometry
    """

    modalities: tuple[str, ...] = MODALITIES
    image_size: int = DEFAULT_SIZE
    seed: int = 0
    conformer_timeout: float = DEFAULT_TIMEOUT
    optimize_conformer: bool = False

    def __post_init__(self) -> None:
        given = (self.modalities,) if isinstance(self.modalities, str) else tuple(self.modalities)
        for name in given:
            if name not in MODALITIES:
                raise ValueError(f"unknown modality {name!r}: choose from {', '.join(MODALITIES)}")
        if not given:
            raise ValueError(f"no modality given: choose from {', '.join(MODALITIES)}")
        ordered = tuple(name for name in MODALITIES if name in given)
        object.__setattr__(self, "modalities", ordered)
        if not MIN_SIZE <= self.image_size <= MAX_SIZE:
            raise ValueError(
                f"image_size must be {MIN_SIZE} to {MAX_SIZE} pixels, got {self.image_size}"
            )
        if not 0 <= self.seed < 1 << 31:
            raise ValueError(f"seed must be 0 to 2147483647, got {self.seed}")
        if not self.conformer_timeout >= 0:
            raise ValueError(
                f"conformer_timeout must not be negative, got {self.conformer_timeout}"
            )


@dataclass(frozen=True)
class _Task:
    """What a worker needs of one molecule: texts and arrays, never a pickled molecule."""

    smiles: object
    supplied: Conformer | None = None


def molecule_views(molecule: object, settings: ViewSettings | None = None) -> MoleculeViews:
    """Make the record of one molecule.

    Parameters
    ----------
    molecule : str or rdkit.Chem.Mol
        The molecule; anything else gives a flagged record.
    settings : ViewSettings, optional
        What to make; everything by default.

    Returns
    -------
    MoleculeViews
        Never an exception for a bad molecule: what could not be made is in `reasons`.

    Examples
    --------
    >>> molecule_views("CCO").available
    ('image', 'graph', 'geometry')
    >>> molecule_views("CCO") == molecule_views("OCC")
    True
    >>> molecule_views("C1CC", ViewSettings(modalities=("graph",))).reasons["graph"]
    "unreadable: SMILES Parse Error: unclosed ring for input: 'C1CC'"
    """
    settings = settings or ViewSettings()
    task = _prepare(molecule, settings)
    return task if isinstance(task, MoleculeViews) else _make(task, settings)


def many_views(
    molecules: Iterable[object],
    settings: ViewSettings | None = None,
    n_jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[MoleculeViews]:
    """Make the records of many molecules, in their order.

    Parameters
    ----------
    molecules : iterable of str or rdkit.Chem.Mol
        The molecules.
    settings : ViewSettings, optional
        What to make; everything by default.
    n_jobs : int, optional
        Processes, -1 for one per core. With more than one, joblib's backend does the work
        (``joblib.parallel_config`` chooses another one, such as Dask or Ray).
    progress : callable, optional
        Called with the number of molecules finished so far.

    Returns
    -------
    list of MoleculeViews
        The same records whatever `n_jobs` is.

    Examples
    --------
    >>> [record.smiles for record in many_views(["OCC", "N"], ViewSettings(("graph",)))]
    ['CCO', 'N']
    """
    settings = settings or ViewSettings()
    if n_jobs == 1:
        records = []
        for molecule in molecules:
            records.append(molecule_views(molecule, settings))
            if progress is not None:
                progress(len(records))
        return records

    from joblib import Parallel, delayed

    tasks = [_prepare(molecule, settings) for molecule in molecules]
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    parallel = Parallel(n_jobs=n_jobs, return_as="generator")
    records = []
    for part in parallel(delayed(_make_chunk)(chunk, settings) for chunk in chunks):
        records.extend(part)
        if progress is not None:
            progress(len(records))
    return records


def _prepare(molecule: object, settings: ViewSettings) -> _Task | MoleculeViews:
    """Reduce a molecule to what a worker needs; one that cannot be read is a finished record.

    A molecule object is read here, for pickling one loses precision and state; a text is left
    to the worker.
    """
    if not isinstance(molecule, Chem.Mol):
        return _Task(molecule)
    try:
        ordered, _ = canonical_order(molecule)
        supplied = supplied_conformer(molecule) if "geometry" in settings.modalities else None
    except ValueError as error:
        # Writing SMILES works without sanitizing, and names the row for whoever reads the flag.
        return MoleculeViews.unreadable(_raw_smiles(molecule), str(error), settings.modalities)
    return _Task(Chem.MolToSmiles(ordered), supplied)


def _raw_smiles(molecule: Chem.Mol) -> str:
    """SMILES of a molecule that cannot be sanitized, as far as there is one."""
    try:
        return Chem.MolToSmiles(molecule)
    except (RuntimeError, ValueError):
        return ""


def _make(task: _Task, settings: ViewSettings) -> MoleculeViews:
    """Make all views of one molecule that `settings` ask for."""
    try:
        molecule = canonical(task.smiles)
    except ValueError as error:
        return MoleculeViews.unreadable(task.smiles, str(error), settings.modalities)
    image = atoms = bond_atoms = bonds = None
    points: Conformer | None = None
    reasons: dict[str, str] = {}
    if "image" in settings.modalities:
        try:
            image = draw(molecule, settings.image_size)
        except DepictionError as error:
            reasons["image"] = str(error)
    if "graph" in settings.modalities:
        atoms, bond_atoms, bonds = make_topology(molecule)
    if "geometry" in settings.modalities:
        try:
            points = task.supplied or make_conformer(
                molecule, settings.seed, settings.conformer_timeout, settings.optimize_conformer
            )
        except ConformerError as error:
            reasons["geometry"] = str(error)
    smiles = Chem.MolToSmiles(molecule)
    numbers, coordinates = points if points is not None else (None, None)
    return MoleculeViews(smiles, image, atoms, bond_atoms, bonds, numbers, coordinates, reasons)


def _make_chunk(
    chunk: Sequence[_Task | MoleculeViews], settings: ViewSettings
) -> list[MoleculeViews]:
    """Work of one worker."""
    return [task if isinstance(task, MoleculeViews) else _make(task, settings) for task in chunk]
