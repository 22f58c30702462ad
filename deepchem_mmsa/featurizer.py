"""DeepChem featurizer that makes the views of a molecule."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from deepchem.feat import Featurizer
from rdkit import Chem

from deepchem_mmsa.molecule import DEFAULT_MODALITIES, MoleculeViews
from deepchem_mmsa.progress import progress_bar
from deepchem_mmsa.user_warning import warn_user
from deepchem_mmsa.views import (
    FEATURE_VERSION,
    ViewSettings,
    check_sequence,
    many_views,
    molecule_views,
)

logger = logging.getLogger(__name__)

_NAMED_IN_WARNING = 10


class Failure(NamedTuple):
    """A row that cannot be read as a molecule.

    Attributes
    ----------
    row : int or None
        Row of the input: the label of a pandas Series (so that it counts through all shards of
        a CSV file), the position otherwise; ``None`` for a single molecule.
    smiles : str
        The input as text.
    reason : str
        Why it cannot be read.
    """

    row: int | None
    smiles: str
    reason: str


class MMSAFeaturizer(Featurizer):
    """Molecules → records of image, 2D graph, 3D conformer and, if requested, fingerprint.

    Works in DeepChem's ``CSVLoader``, ``SDFLoader`` (whose three-dimensional conformers are
    used), ``InMemoryLoader`` and the loaders of ``dc.molnet``. The same molecule gives the same
    record however its SMILES is written.

    In those loaders an unreadable row is dropped, as DeepChem expects: one warning per call names
    row, SMILES and reason, and all are listed in :attr:`failures`. ``InMemoryLoader`` cannot drop
    a row (it raises, because labels and identifiers would no longer match); it passes one
    molecule at a time, and a single molecule is kept as a flagged record. A molecule without a
    conformer is always kept, flagged.

    Parameters
    ----------
    modalities : sequence of str, optional
        Any of ``"image"``, ``"graph"``, ``"geometry"``, ``"fingerprint"``, by default the first
        three; a single name may be given as text.
    image_size : int, optional
        Pixels per side of the image.
    seed : int, optional
        Seed of the conformer.
    conformer_timeout : float, optional
        Time limit for the conformer, in seconds per molecule.
    optimize_conformer : bool, optional
        Relax conformers by a force field (about 14 ms more per molecule).
    n_jobs : int, optional
        Processes, -1 for one per core. The records do not depend on it.
    progress : bool, optional
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        If a modality is unknown or a number is out of its range.

    Examples
    --------
    >>> featurizer = MMSAFeaturizer(modalities=("image", "graph"))
    >>> records = featurizer.featurize(["CCO", "c1ccccc1"])
    >>> records.shape, records[0].available
    ((2,), ('image', 'graph'))
    >>> str(featurizer)
    'MMSAFeaturizer_v3_image-graph'
    """

    def __init__(
        self,
        modalities: Sequence[str] | str = DEFAULT_MODALITIES,
        image_size: int = ViewSettings.image_size,
        seed: int = ViewSettings.seed,
        conformer_timeout: float = ViewSettings.conformer_timeout,
        optimize_conformer: bool = False,
        n_jobs: int = 1,
        progress: bool = False,
    ) -> None:
        given = (modalities,) if isinstance(modalities, str) else tuple(modalities)
        self._settings = ViewSettings(
            given, image_size, seed, conformer_timeout, optimize_conformer
        )
        self.modalities = self._settings.modalities
        self.image_size = image_size
        self.seed = seed
        self.conformer_timeout = conformer_timeout
        self.optimize_conformer = optimize_conformer
        self.n_jobs = n_jobs
        self.progress = progress
        self.failures: list[Failure] = []

    def featurize(
        self, datapoints: Iterable[Any], log_every_n: int = 1000, **kwargs: Any
    ) -> np.ndarray:
        """Featurize molecules in the form that DeepChem's loaders expect.

        Parameters
        ----------
        datapoints : iterable of str or rdkit.Chem.Mol
            Molecules. A single string or molecule, or a tuple of one (as ``InMemoryLoader``
            passes), is one row.
        log_every_n : int, optional
            Log progress every so many molecules.
        **kwargs : Any
            Accepted for compatibility, and ignored.

        Returns
        -------
        np.ndarray
            Object array ``[n]`` of :class:`~deepchem_mmsa.molecule.MoleculeViews`. An unreadable
            row among several is an empty array, which tells DeepChem to drop it; a single
            unreadable molecule is a flagged record.

        Examples
        --------
        >>> featurizer = MMSAFeaturizer("graph")
        >>> featurizer.featurize("C(C")[0].available
        ()
        >>> featurizer.failures[0].smiles
        'C(C'
        """
        alone = isinstance(datapoints, (str, Chem.Mol)) or (
            isinstance(datapoints, tuple) and len(datapoints) == 1
        )
        records = self.featurize_all(datapoints, log_every_n)
        if not alone:
            for index, record in enumerate(records):
                if not record.readable:
                    records[index] = np.array([])
        return records

    def featurize_all(self, datapoints: Iterable[Any], log_every_n: int = 1000) -> np.ndarray:
        """Featurize molecules, keeping every row in its place.

        Parameters
        ----------
        datapoints : iterable of str or rdkit.Chem.Mol
            Molecules.
        log_every_n : int, optional
            Log progress every so many molecules.

        Returns
        -------
        np.ndarray
            Object array ``[n]`` of :class:`~deepchem_mmsa.molecule.MoleculeViews`; unreadable
            rows are flagged records, and listed in :attr:`failures` too.

        Examples
        --------
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     records = MMSAFeaturizer("graph").featurize_all(["CCO", "", "N"])
        >>> [record.available for record in records]
        [('graph',), (), ('graph',)]
        """
        if isinstance(datapoints, (str, Chem.Mol)):
            datapoints = (datapoints,)
        check_sequence(datapoints)
        molecules = list(datapoints)
        rows = _row_labels(datapoints, len(molecules))

        logged = 0
        bar = progress_bar(self.progress, total=len(molecules), desc="featurize", unit="mol")
        with bar:

            def show(n_done: int) -> None:
                nonlocal logged
                bar.update(n_done - bar.n)
                if 0 < log_every_n <= n_done - logged:
                    logged = n_done
                    logger.info("Featurized %d of %d molecules", n_done, len(molecules))

            made = many_views(molecules, self._settings, self.n_jobs, show)
        failures = [
            Failure(row, record.smiles, record.reasons[self.modalities[0]])
            for row, record in zip(rows, made)
            if not record.readable
        ]
        self.failures.extend(failures)
        if failures:
            warn_user(_describe(failures, len(made)))
        return np.array(made, dtype=object)

    def views(self, molecule: str | Chem.Mol) -> MoleculeViews:
        """Featurize one molecule; an unreadable one is flagged instead of raising an error.

        Parameters
        ----------
        molecule : str or rdkit.Chem.Mol
            The molecule.

        Returns
        -------
        MoleculeViews
            Its record.

        Examples
        --------
        >>> MMSAFeaturizer("graph").views("OCC")
        MoleculeViews('CCO', available=('graph',))
        """
        return molecule_views(molecule, self._settings)

    def _featurize(self, datapoint: Any, **kwargs: Any) -> MoleculeViews:
        """Featurize one data point, as DeepChem's base class requires."""
        return self.views(datapoint)

    def __repr__(self) -> str:
        return (
            f"MMSAFeaturizer[modalities={self.modalities}, image_size={self.image_size}, "
            f"seed={self.seed}, conformer_timeout={self.conformer_timeout}, "
            f"optimize_conformer={self.optimize_conformer}, n_jobs={self.n_jobs}, "
            f"version={FEATURE_VERSION}]"
        )

    def __str__(self) -> str:
        """Return a name for cache folders: only settings that change a record, safe in file names.

        MoleculeNet's loaders cache featurized data under this name and do not check the code, so
        the feature version is part of it.
        """
        parts = [f"MMSAFeaturizer_v{FEATURE_VERSION}"]
        if self.modalities != DEFAULT_MODALITIES:
            parts.append("-".join(self.modalities))
        if self.image_size != ViewSettings.image_size:
            parts.append(f"size{self.image_size}")
        if self.seed != ViewSettings.seed:
            parts.append(f"seed{self.seed}")
        if self.conformer_timeout != ViewSettings.conformer_timeout:
            parts.append(f"timeout{self.conformer_timeout:g}".replace(".", "p").replace("+", ""))
        if self.optimize_conformer:
            parts.append("relaxed")
        return "_".join(parts)


def _row_labels(datapoints: Iterable[Any], n_rows: int) -> list[int | None]:
    """Return the labels of a pandas Series, or positions; None for a tuple of one molecule."""
    if isinstance(datapoints, tuple) and n_rows == 1:
        return [None]
    index = getattr(datapoints, "index", None)
    if index is not None and not callable(index):
        labels = list(index)
        if all(isinstance(label, (int, np.integer)) for label in labels):
            return [int(label) for label in labels]
    return list(range(n_rows))


def _describe(failures: Sequence[Failure], n_rows: int) -> str:
    """Return the text of the warning about all unreadable rows of a call."""
    lines = [
        f"{'' if failure.row is None else f'row {failure.row}: '}"
        f"{failure.smiles[:80]!r}: {failure.reason}"
        for failure in failures[:_NAMED_IN_WARNING]
    ]
    if len(failures) > _NAMED_IN_WARNING:
        lines.append(f"and {len(failures) - _NAMED_IN_WARNING} more, see featurizer.failures")
    return f"{len(failures)} of {n_rows} rows cannot be read: " + "; ".join(lines)
