"""Make the views of a molecule: image, 2D graph, 3D conformer, fingerprint.

Each view is a pure, seeded function of a molecule in its own module. Here they are combined into
the record that a dataset holds, for one molecule or, in parallel, for many. Nothing here imports
DeepChem, so that prediction from the command line does not either.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rdkit import Chem
from rdkit import __version__ as RDKIT_VERSION

from deepchem_mmsa.molecule import UNREADABLE, MoleculeViews
from deepchem_mmsa.rdkit_state import quiet_legacy
from deepchem_mmsa.user_warning import warn_user
from deepchem_mmsa.views.conformer import Conformer, ConformerError, supplied_conformer
from deepchem_mmsa.views.conformer import conformer as make_conformer  # not to shadow its module
from deepchem_mmsa.views.depiction import DepictionError, draw
from deepchem_mmsa.views.fingerprint import Fingerprint, FingerprintError
from deepchem_mmsa.views.fingerprint import fingerprint as make_fingerprint
from deepchem_mmsa.views.isolation import AVAILABLE, Lost, isolated, no_other_fork
from deepchem_mmsa.views.settings import ViewSettings
from deepchem_mmsa.views.topology import canonical_order, canonical_with_smiles, written
from deepchem_mmsa.views.topology import topology as make_topology

__all__ = [
    "FEATURE_VERSION",
    "RDKIT_VERSION",
    "ViewSettings",
    "check_sequence",
    "many_views",
    "molecule_views",
    "record_maker",
    "stream_views",
    "warm_up",
]

#: Increased whenever the same molecule gives a different record; caches and shards depend on it.
FEATURE_VERSION = 3

# Minimum and maximum number of molecules in a worker's chunk. Each chunk costs a fork, about as
# much as twenty graphs.
_CHUNKS = 4, 32
_CHUNKS_OF_GRAPHS = 64, 256
_BLOCK = 1024  # molecules read ahead by several workers
# Niceness of workers in the background: two weigh as much as this process. At 10, any other
# program's process got ten times as much of a shared core as a worker.
_NICE = 3
_SECONDS = 60.0  # processor time per molecule, in addition to that for its conformer
_warming: list[threading.Thread] = []  # threads that start processes
_MAX_REASON = 500  # characters; RDKit's messages repeat the whole input


def compare_features(version: Any, model: object) -> None:
    """Warn if a model was trained on features of another version than those made here.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as told:
    ...     compare_features(2, "runs/old")
    >>> str(told[0].message)[:57]
    'runs/old was trained on features of version 2, and those '
    """
    if version != FEATURE_VERSION:
        warn_user(
            f"{model} was trained on features of version {version}, and those made here are of "
            f"version {FEATURE_VERSION}: its predictions may be wrong; train it again, or use the "
            "version of this package that made it"
        )


@dataclass(frozen=True)
class _Task:
    """Input of a worker for one molecule: text and arrays, never a pickled molecule."""

    smiles: str
    supplied: Conformer | None = None
    reason: str = ""  # why it is known to be unreadable
    record: MoleculeViews | None = None  # a record that exists already


def molecule_views(molecule: object, settings: ViewSettings | None = None) -> MoleculeViews:
    """Make the record of one molecule.

    Parameters
    ----------
    molecule : str, rdkit.Chem.Mol or MoleculeViews
        A readable record is returned unchanged; another type gives a flagged record.
    settings : ViewSettings, optional
        Which views to make; by default image, graph and geometry, without the fingerprint.

    Returns
    -------
    MoleculeViews
        A bad molecule raises no exception: `reasons` holds what could not be made, and why.

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
    return _make(_prepare(molecule, settings), settings)


def check_sequence(molecules: object) -> None:
    """Reject a text or a table, which would be read as a list of letters or of column names.

    Raises
    ------
    TypeError
        If `molecules` is a single text or a table.

    Examples
    --------
    >>> check_sequence("CCO")
    Traceback (most recent call last):
    TypeError: give a sequence of molecules, not one text: ['CCO']
    """
    if isinstance(molecules, (str, bytes)):
        raise TypeError(f"give a sequence of molecules, not one text: [{molecules!r}]")
    if hasattr(molecules, "columns"):
        raise TypeError("give the column of molecules, not the table: table['smiles']")


def many_views(
    molecules: Iterable[object],
    settings: ViewSettings | None = None,
    n_jobs: int = 1,
    progress: Callable[[int], None] | None = None,
    contained: bool | None = None,
) -> list[MoleculeViews]:
    """Make the records of many molecules, in their order.

    Parameters
    ----------
    molecules : iterable of str or rdkit.Chem.Mol
        The molecules.
    settings : ViewSettings, optional
        Which views to make; by default image, graph and geometry, without the fingerprint.
    n_jobs : int, optional
        Processes, -1 for one per core. With more than one, joblib does the work
        (``joblib.parallel_config`` selects another backend, such as Dask or Ray).
    progress : callable, optional
        Called with the number of molecules finished so far.
    contained : bool, optional
        Whether to work in a child process, so that a molecule that crashes RDKit, or takes more
        than a minute of processor time, is flagged and the others are unaffected. By default
        True with more than one process and False with one; without effect on Windows.

    Returns
    -------
    list of MoleculeViews
        The records do not depend on `n_jobs`.

    Examples
    --------
    >>> [record.smiles for record in many_views(["OCC", "N"], ViewSettings(("graph",)))]
    ['CCO', 'N']
    """
    records = []
    for record in stream_views(molecules, settings, n_jobs, contained):
        records.append(record)
        if progress is not None:
            progress(len(records))
    return records


def stream_views(
    molecules: Iterable[object],
    settings: ViewSettings | None = None,
    n_jobs: int = 1,
    contained: bool | None = None,
) -> Iterator[MoleculeViews]:
    """Yield records one by one, on demand and in constant memory.

    Parameters
    ----------
    molecules : iterable of str or rdkit.Chem.Mol
        Read lazily, at most 1,024 ahead.
    settings, n_jobs, contained
        See :func:`many_views`.

    Yields
    ------
    MoleculeViews
        In the order of `molecules`.

    Examples
    --------
    >>> import itertools
    >>> endless = stream_views(itertools.repeat("OCC"), ViewSettings(("graph",)))
    >>> next(endless).smiles
    'CCO'
    """
    settings = settings or ViewSettings()
    if n_jobs == 1 and not contained:
        for molecule in molecules:
            yield molecule_views(molecule, settings)
        return
    with record_maker(settings, n_jobs, contained) as make:
        remaining = iter(molecules)
        while block := list(itertools.islice(remaining, _BLOCK)):
            with closing(make(block)) as made:
                yield from map(MoleculeViews.from_bytes, made)


@contextmanager
def record_maker(
    settings: ViewSettings,
    n_jobs: int = 1,
    contained: bool | None = None,
    background: bool = False,
) -> Iterator[Callable[[Sequence[object]], Generator[bytes, None, None]]]:
    """Keep workers ready to make the records of successive blocks of molecules.

    Parameters
    ----------
    settings, n_jobs, contained
        See :func:`many_views`.
    background : bool, optional
        Whether workers run at low priority, so as not to slow down this process.

    Yields
    ------
    callable
        Block of molecules → an iterator over their records, in the compact form of
        :meth:`~deepchem_mmsa.molecule.MoleculeViews.to_bytes`, in order, as they are finished.
        (On Ray, whose backend lacks generators, the whole block is finished first.)

    Examples
    --------
    >>> with record_maker(ViewSettings(("graph",))) as make:
    ...     [MoleculeViews.from_bytes(data).smiles for data in make(["OCC", "N"])]
    ['CCO', 'N']
    """
    # Imported here: it takes a tenth of a second, for which one molecule need not wait.
    from joblib.parallel import Parallel, delayed, get_active_backend

    contain = AVAILABLE and (n_jobs != 1 if contained is None else contained)
    with ExitStack() as stack:
        workers = None
        if n_jobs != 1:
            _await_warm_up()
            streams = getattr(get_active_backend()[0], "supports_return_generator", False)
            way = "generator" if streams else "list"
            workers = stack.enter_context(Parallel(n_jobs=n_jobs, batch_size=1, return_as=way))
        sizes = _CHUNKS_OF_GRAPHS if settings.modalities == ("graph",) else _CHUNKS

        def make(block: Sequence[object]) -> Generator[bytes, None, None]:
            tasks = [_prepare(molecule, settings) for molecule in block]
            if workers is None:
                yield from _make_chunk(tasks, settings, contain)
                return
            calls = (
                delayed(_made_chunk)(chunk, settings, contain, background, os.getpid())
                for chunk in _chunks(tasks, workers._effective_n_jobs(), sizes)
            )
            made = workers(calls)
            try:
                yield from itertools.chain.from_iterable(made)
            finally:  # it may be left early; if it were closed, joblib would warn
                with suppress(InterruptedError, AttributeError):  # on Ray it is a list
                    made.throw(InterruptedError)

        yield make


def warm_up(n_jobs: int) -> None:
    """Start joblib's processes, and their imports, in the background.

    Parameters
    ----------
    n_jobs : int
        As it will be given to :func:`record_maker`.
    """

    def start() -> None:
        with record_maker(ViewSettings(("graph",)), n_jobs, contained=False) as make:
            list(make(["C"] * 1000))

    if n_jobs != 1:
        _await_warm_up()
        _warming[:] = [threading.Thread(target=start, daemon=True)]
        _warming[0].start()


def _await_warm_up() -> None:
    """Wait for processes that are starting: joblib must not start others at the same time."""
    for thread in list(_warming):
        if thread is not threading.current_thread():
            thread.join()


def _chunks(
    tasks: Sequence[_Task], n_workers: int, sizes: tuple[int, int]
) -> Iterator[Sequence[_Task]]:
    """Split tasks into chunks, smaller towards the end, so that all workers finish together."""
    start = 0
    while start < len(tasks):
        size = (len(tasks) - start) // (4 * max(1, n_workers))
        end = start + min(max(size, sizes[0]), sizes[1])
        yield tasks[start:end]
        start = end


def _prepare(molecule: object, settings: ViewSettings) -> _Task:
    """Reduce a molecule to what a worker needs.

    A molecule object is read here, because pickling it loses precision and state; a text is
    left to the worker.
    """
    if isinstance(molecule, str):
        return _Task(molecule)
    if isinstance(molecule, MoleculeViews):
        if molecule.readable:
            return _Task(molecule.smiles, record=molecule)
        # A row whose file gave neither text nor molecule: its reason is known.
        reason = next(iter(molecule.reasons.values()), "no molecule")
        return _Task(molecule.smiles, reason=reason.removeprefix(UNREADABLE))
    try:
        ordered, _ = canonical_order(molecule)
        assert isinstance(molecule, Chem.Mol)
        supplied = supplied_conformer(molecule) if "geometry" in settings.modalities else None
    except ValueError as error:
        return _Task(written(molecule), reason=str(error))
    with quiet_legacy():
        return _Task(Chem.MolToSmiles(ordered), supplied)


def _make(task: _Task, settings: ViewSettings) -> MoleculeViews:
    """Make all views of one molecule that `settings` ask for."""
    if task.record is not None:
        return task.record
    if task.reason:
        return _flagged(task.smiles, task.reason, settings)
    try:
        molecule, smiles = canonical_with_smiles(task.smiles)
    except ValueError as error:
        return _flagged(task.smiles, error, settings)
    image = atoms = bond_atoms = bonds = None
    points: Conformer | None = None
    chemical: Fingerprint | None = None
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
    if "fingerprint" in settings.modalities:
        try:
            chemical = make_fingerprint(molecule)
        except FingerprintError as error:
            reasons["fingerprint"] = str(error)
    numbers, coordinates = points if points is not None else (None, None)
    return MoleculeViews(
        smiles, image, atoms, bond_atoms, bonds, numbers, coordinates, reasons,
        *(chemical or (None, None, None)),
    )  # fmt: skip


def _make_chunk(tasks: Sequence[_Task], settings: ViewSettings, contain: bool) -> Iterator[bytes]:
    """Make records in their compact form, here or in a child process."""

    def work(task: _Task) -> bytes:
        return _pack(_make(task, settings), settings)

    if not contain:
        yield from map(work, tasks)
        return
    with no_other_fork():
        _load_tables(settings)
    seconds = _SECONDS + settings.conformer_timeout
    for task, data in zip(tasks, isolated(tasks, work, seconds)):
        if isinstance(data, Lost):
            data = _pack(_flagged(task.smiles, data, settings), settings)
        yield data


@lru_cache
def _load_tables(settings: ViewSettings) -> None:
    """Load RDKit's tables once for all child processes, each of which would need 20 ms for it."""
    _make(_Task("CC(=O)Nc1ccc(O)cc1"), settings)


def _made_chunk(
    tasks: Sequence[_Task], settings: ViewSettings, contain: bool, background: bool, owner: int
) -> list[bytes]:
    """Make one chunk in a worker of the process `owner`."""
    if background and hasattr(os, "nice"):
        os.nice(max(0, _NICE - os.nice(0)))
    # In a worker of the caller's own, joblib starts threads: these are not to end with anyone.
    of_loky = multiprocessing.current_process().name.startswith("LokyProcess")
    if of_loky and owner != os.getpid():
        _end_with(owner)
    return list(_make_chunk(tasks, settings, contain))


@lru_cache
def _end_with(owner: int) -> None:
    """End this worker when its owner is gone, which a killed owner could not announce."""

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pack(record: MoleculeViews, settings: ViewSettings) -> bytes:
    """Return the compact form of a record; of a flagged one if it is too large."""
    try:
        return record.to_bytes()
    except ValueError as error:
        return _flagged(record.smiles, error, settings).to_bytes()


def _flagged(smiles: str, reason: object, settings: ViewSettings) -> MoleculeViews:
    """Return the flagged record of a row without views."""
    return MoleculeViews.unreadable(smiles, str(reason)[:_MAX_REASON], settings.modalities)
