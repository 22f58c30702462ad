"""Applicability domain: whether a molecule is out of domain for a model.

The memory holds anchors, representative points among the codes of the molecules that the model
was trained on. A molecule far from every anchor is out of domain. The usual measure is provided
for comparison: the Tanimoto distance to the nearest training molecule, which needs the training
set and does not depend on the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from scipy.stats import rankdata
from torch import Tensor

from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.ensemble import over_batches
from deepchem_mmsa.layers.memory_bank import MOLECULES_PER_ANCHOR, MemoryBank
from deepchem_mmsa.predictor import MMSAPredictor
from deepchem_mmsa.rdkit_state import quiet_legacy
from deepchem_mmsa.views import check_sequence

N_FOLDS = 5
"""Folds of the training molecules, to measure each distance to anchors made without it."""

_AT_A_TIME = 2**20  # numbers of resamples in memory


class ApplicabilityDomain:
    """Distance to the nearest memory anchor, ranked among the training molecules.

    Parameters
    ----------
    predictor : MMSAPredictor
        The model whose domain is assessed.
    anchors : {"memory", "training"}
        ``"memory"`` uses the anchors in the model's memory, from pre-training. ``"training"``
        makes new anchors from the codes of the molecules given to :meth:`fit`: preferable when
        these are the fine-tuning set, and the only choice for a model that was not pre-trained.
    batch_size, n_jobs : int
        As in :meth:`MMSAPredictor.predict`.

    Attributes
    ----------
    training_distance : np.ndarray
        Sorted distances of the molecules of :meth:`fit`; with ``anchors="training"`` each to
        anchors made without it (five folds), as its distance would otherwise be too small.

    Raises
    ------
    ValueError
        If `anchors` is unknown, or is ``"memory"`` and the model's memory holds no anchor.

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> from deepchem_mmsa.network import MMSANetwork
    >>> config = MMSAConfig(mode="regression", modalities=("graph",), graph_width=16)
    >>> domain = ApplicabilityDomain(MMSAPredictor(MMSANetwork(config)), anchors="training")
    >>> _ = domain.fit(["C" * n for n in range(2, 12)] + ["C" * n + "O" for n in range(2, 12)])
    >>> domain.score(["CCCCC", "C1CC"]).shape
    (2,)
    """

    training_distance: np.ndarray

    def __init__(
        self,
        predictor: MMSAPredictor,
        anchors: str = "memory",
        batch_size: int = 256,
        n_jobs: int = 1,
    ) -> None:
        if anchors not in ("memory", "training"):
            raise ValueError(f"anchors={anchors!r}: choose 'memory' or 'training'")
        memory = predictor.network.memory
        if anchors == "memory" and (memory is None or not memory.is_active):
            raise ValueError(
                "the memory of this model holds no anchor, because it was not pre-trained or has "
                "memory=False; use anchors='training' and fit on the training molecules"
            )
        self.predictor = predictor
        self.anchors = anchors
        self.batch_size, self.n_jobs = batch_size, n_jobs
        self._bank: MemoryBank | None = memory if anchors == "memory" else None

    def fit(self, molecules: Iterable[object]) -> Self:
        """Compute the reference distances from the training molecules.

        Parameters
        ----------
        molecules : iterable of str, rdkit.Chem.Mol or MoleculeViews
            Those that the model was trained on; unreadable ones are skipped.

        Raises
        ------
        ValueError
            If fewer than 1 of them (16 with ``anchors="training"``) can be read.
        """
        codes = self._codes(molecules)
        codes = codes[~codes.isnan().any(1)]
        least = 1 if self.anchors == "memory" else 2 * MOLECULES_PER_ANCHOR
        if len(codes) < least:
            raise ValueError(
                f"{len(codes)} molecule(s) can be read, at least {least} are needed: give the "
                "training set"
            )
        if self.anchors == "memory":
            distance = self._distance(codes)
        else:
            self._bank = self._anchored(codes)
            distance, fold = np.empty(len(codes)), np.arange(len(codes)) % N_FOLDS
            for k in range(N_FOLDS):
                others = self._anchored(codes[fold != k])
                distance[fold == k] = _distance(others, codes[fold == k])
        self.training_distance = np.sort(distance)
        return self

    def _anchored(self, codes: Tensor) -> MemoryBank:
        """Return a memory with anchors initialised from codes."""
        config = self.predictor.config
        bank = MemoryBank(config.n_anchors, config.embedding_dim, warmup=len(codes))
        bank.update(codes)
        return bank

    def distance(self, molecules: Iterable[object]) -> np.ndarray:
        """Return ``1 − cos(c, nearest anchor)``, ``[N]`` in 0 to 2; NaN for unreadable molecules.

        Raises
        ------
        RuntimeError
            With ``anchors="training"``, if :meth:`fit` was not called.
        """
        return self._distance(self._codes(molecules))

    def score(self, molecules: Iterable[object]) -> np.ndarray:
        """Return the share of training molecules whose distance is at least as large.

        Parameters
        ----------
        molecules : iterable of str, rdkit.Chem.Mol or MoleculeViews

        Returns
        -------
        np.ndarray
            ``[N]`` in 0 to 1: about 0.5 is typical, below 0.05 farther out than 95 % of the
            training molecules; NaN for unreadable molecules.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called.
        """
        if not hasattr(self, "training_distance"):
            raise RuntimeError("call fit with the training molecules first")
        distance = self.distance(molecules)
        farther = len(self.training_distance) - np.searchsorted(
            self.training_distance, distance, side="left"
        )
        return np.where(np.isnan(distance), np.nan, farther / len(self.training_distance))

    def _distance(self, codes: Tensor) -> np.ndarray:
        if self._bank is None:
            raise RuntimeError("anchors='training': call fit with the training molecules first")
        return _distance(self._bank, codes)

    def _codes(self, molecules: Iterable[object]) -> Tensor:
        """Return the unified codes c, ``[N, d]``, in the space of the anchors."""
        network = self.predictor.network

        def unified(batch: MoleculeBatch) -> Tensor:
            return network.fusion.fuse(network.codes(batch), batch.available)

        records = self.predictor.records(molecules, self.n_jobs)
        if not records:
            return torch.zeros(0, self.predictor.config.embedding_dim)
        values, _ = over_batches(self.predictor, records, unified, self.batch_size)
        return torch.from_numpy(values).float()


def _distance(bank: MemoryBank, codes: Tensor) -> np.ndarray:
    """Return ``1 − cos(c, nearest anchor)``; NaN rows stay NaN."""
    similarity = bank.nearest(codes.to(bank.usage))[1]
    return 1 - similarity.detach().cpu().numpy().astype(float)


def tanimoto_distance(
    molecules: Sequence[object], reference: Sequence[object], radius: int = 2, size: int = 2048
) -> np.ndarray:
    """Return ``1 − Tanimoto`` to the nearest reference molecule by Morgan fingerprints.

    Parameters
    ----------
    molecules, reference : sequence of str or rdkit.Chem.Mol
        For example, the molecules of interest and the training set; unreadable references are
        skipped.
    radius, size : int
        Of the fingerprint; 2 and 2048 are ECFP4.

    Returns
    -------
    np.ndarray
        ``[N]`` in 0 to 1, NaN for unreadable molecules.

    Raises
    ------
    TypeError
        If one of the two is a single string or a table.
    ValueError
        If no reference can be read.

    Examples
    --------
    >>> tanimoto_distance(["OCC", "c1ccccc1", "C1CC"], ["CCO", "CCN"]).round(2).tolist()
    [0.0, 1.0, nan]
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)

    for what in (molecules, reference):
        check_sequence(what)

    def fingerprint(molecule: object) -> DataStructs.ExplicitBitVect | None:
        if not isinstance(molecule, Chem.Mol):
            with quiet_legacy():
                molecule = Chem.MolFromSmiles(molecule) if isinstance(molecule, str) else None
        readable = molecule is not None and molecule.GetNumAtoms() > 0
        return generator.GetFingerprint(molecule) if readable else None

    known = [f for f in map(fingerprint, reference) if f is not None]
    if not known:
        raise ValueError(f"none of the {len(reference)} reference molecules can be read")
    nearest = [
        np.nan if f is None else max(DataStructs.BulkTanimotoSimilarity(f, known))
        for f in map(fingerprint, molecules)
    ]
    return 1 - np.array(nearest, dtype=float)


class Ordering(NamedTuple):
    """How well a distance ranks molecules by their error.

    Parameters
    ----------
    correlation : float
        Spearman's rank correlation of distance and error; 0 is chance.
    low, high : float
        Its 95 % bootstrap interval over the molecules.
    p_value : float
        Share of random permutations that do as well (one-sided permutation test).
    """

    correlation: float
    low: float
    high: float
    p_value: float


def error_ordering(
    distance: ArrayLike, error: ArrayLike, n_resamples: int = 1000, seed: int = 0
) -> Ordering:
    """Test whether molecules at a larger distance are predicted worse.

    Parameters
    ----------
    distance, error : array-like
        ``[N]``; rows with NaN are left out. The error is that of held-out molecules, such as
        ``|y − ŷ|`` or ``−log p(true class)``.
    n_resamples : int
        Bootstrap samples, and permutations.
    seed : int

    Raises
    ------
    ValueError
        If fewer than 3 rows are left, or one of the two does not vary.

    Examples
    --------
    >>> result = error_ordering(range(50), range(50))
    >>> result.correlation, result.p_value < 0.01
    (1.0, True)
    """
    x, y = np.asarray(distance, dtype=float), np.asarray(error, dtype=float)
    known = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[known], y[known]
    if len(x) < 3 or len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        raise ValueError(
            f"{len(x)} rows with both values; at least 3 are needed, with differing distances "
            "and errors"
        )
    random = np.random.default_rng(seed)
    ranks = rankdata(np.stack([x, y]), axis=1)
    found = float(_correlation(*ranks))
    most = max(1, _AT_A_TIME // len(x))
    sizes = [min(most, n_resamples - start) for start in range(0, n_resamples, most)]
    chance = np.concatenate(
        [_correlation(ranks[0], random.permuted(np.tile(ranks[1], (n, 1)), axis=1)) for n in sizes]
    )
    again = np.concatenate(
        [
            _correlation(rankdata(x[rows], axis=1), rankdata(y[rows], axis=1))
            for rows in (random.integers(len(x), size=(n, len(x))) for n in sizes)
        ]
    )
    low, high = np.percentile(again, [2.5, 97.5])
    # The observed order counts as one of the permutations, so that p is never 0.
    p_value = (1 + int((chance >= found).sum())) / (1 + n_resamples)
    return Ordering(found, float(low), float(high), p_value)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation along the last axis, 0 where one of the two does not vary."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    norm = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    product = (x * y).sum(-1)
    return np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)
