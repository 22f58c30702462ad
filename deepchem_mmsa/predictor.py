"""Prediction without DeepChem: SMILES in, predictions and failure reasons out.

Used by the command line, the scikit-learn estimators and services. It needs torch, RDKit and an
exported model; start-up takes about as long as importing torch and RDKit.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from deepchem_mmsa.batching import Collator, MoleculeBatch
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.config import CUSTOM, MMSAConfig
from deepchem_mmsa.distributed import chosen_device
from deepchem_mmsa.exports import Pretrained, copy_tensors, load_pretrained, tensors_of
from deepchem_mmsa.hub import DEFAULT_MODEL, FILES
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.prefetching import prefetched
from deepchem_mmsa.record_checks import NOT_FINITE, missing_reason, warn_of_oddities
from deepchem_mmsa.user_warning import warn_user
from deepchem_mmsa.views import ViewSettings, check_sequence, stream_views

_BLOCK = 1024  # molecules featurized at a time by several processes


class Predictions(NamedTuple):
    """Model output for each row.

    Attributes
    ----------
    values : np.ndarray
        ``[N, T, C]`` probabilities, ``[N, T]`` values in label units, ``[N, d]`` embeddings, or
        ``[N, D]`` features; NaN rows for molecules without any view that the model reads.
    reasons : list of str
        One per row: why it has no finite output; empty otherwise.
    """

    values: np.ndarray
    reasons: list[str]


def _names(given: Sequence[object] | None, n: int, default: str) -> list[str]:
    """Return the names of `n` outputs; numbered ones if others, or none, are given."""
    names = given if given and len(given) == n else [default.format(i) for i in range(n)]
    return [str(name) for name in names]


class MMSAPredictor:
    """A trained model that predicts from SMILES or RDKit molecules.

    It is thread-safe: nothing in it changes after construction.

    Parameters
    ----------
    network : MMSANetwork
        Set to evaluation mode here.
    metadata : mapping, optional
        Metadata of the export; ``"tasks"`` and ``"classes"`` name the outputs.

    Attributes
    ----------
    config : MMSAConfig
    network : MMSANetwork
    metadata : dict
    tasks : list of str
        Names of the outputs; ``["task 0", ...]`` where the training set had none.
    classes : list of str
        Names of the classes, in the order of the probabilities; ``["0", "1", ...]`` where labels
        were integers from 0.

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> config = MMSAConfig(mode="regression", modalities=("graph",), graph_width=16)
    >>> predictor = MMSAPredictor(MMSANetwork(config))
    >>> values, reasons = predictor.predict(["CCO", "C1CC", "OCC"])
    >>> values.shape, bool(values[0] == values[2]), bool(np.isnan(values[1, 0]))
    ((3, 1), True, True)
    >>> reasons[1]
    "unreadable: SMILES Parse Error: unclosed ring for input: 'C1CC'"
    """

    def __init__(self, network: MMSANetwork, metadata: Mapping[str, Any] | None = None) -> None:
        self.network = network.eval()
        self.config = network.config
        self.metadata = dict(metadata or {})
        self.tasks = _names(self.metadata.get("tasks"), self.config.n_tasks, "task {}")
        self.classes = _names(self.metadata.get("classes"), self.config.n_classes, "{}")
        self._collate = Collator.of(self.config)

    @classmethod
    def from_pretrained(
        cls, folder_or_name: str | os.PathLike, device: torch.device | str | None = None,
        **encoders: nn.Module,
    ) -> Self:  # fmt: skip
        """Read an exported model.

        Parameters
        ----------
        folder_or_name : path-like
            A folder written by ``save_pretrained``, the name of a shipped model, or one on the
            Hugging Face hub (``hf:owner/model``).
        device : torch.device or str, optional
            The GPU, where there is one, by default.
        **encoders : nn.Module
            The custom encoders of the model, by modality.

        Raises
        ------
        FileNotFoundError
            If there is no such folder or model.
        CheckpointError
            If its files are damaged, or a custom encoder is not given.
        """
        source = load_pretrained(folder_or_name)
        try:
            predictor = cls._of(source, str(folder_or_name), encoders)
            _ = predictor.settings  # or its pictures cannot be drawn
        except CheckpointError:
            raise
        except (IndexError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder_or_name} cannot be built: {error}") from error
        predictor.network.to(chosen_device(device))
        return predictor

    @classmethod
    def _of(cls, source: Pretrained, name: str, encoders: Mapping[str, nn.Module] | None) -> Self:
        network = MMSANetwork(source.config, encoders)
        copy_tensors(network, source.tensors, [""], name)
        network.exemplars = source.exemplars
        return cls(network, source.metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as configuration and safetensors; only custom encoders as modules."""
        tensors = {k: v.cpu().contiguous().clone() for k, v in tensors_of(self.network).items()}
        own = {
            m: self.network.encoders[m]
            for m in self.config.modalities
            if getattr(self.config, m) == CUSTOM
        }
        state = (self.config.to_dict(), save(tensors), self.network.exemplars, self.metadata, own)
        return _from_bytes, (type(self), *state)

    @property
    def settings(self) -> ViewSettings:
        """Featurizer settings for the views that the network reads."""
        return ViewSettings.of(self.config, int(self.network.picture_size))

    def records(self, molecules: Iterable[object], n_jobs: int = 1) -> list[MoleculeViews]:
        """Featurize molecules; those that are records already are returned unchanged.

        Parameters
        ----------
        molecules : iterable of str, rdkit.Chem.Mol or MoleculeViews
        n_jobs : int
            Processes, -1 for one per core.

        Raises
        ------
        TypeError
            If `molecules` is a single string or a table.
        """
        check_sequence(molecules)
        return list(self._each_record(list(molecules), n_jobs))

    def _each_record(self, given: Sequence[object], n_jobs: int) -> Iterator[MoleculeViews]:
        bare = (m for m in given if not isinstance(m, MoleculeViews))
        made = stream_views(bare, self.settings, n_jobs)
        for m in given:
            yield m if isinstance(m, MoleculeViews) else next(made)

    def predict(
        self,
        molecules: Sequence[object],
        batch_size: int = 256,
        n_jobs: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Predict labels.

        Parameters
        ----------
        molecules : sequence of str, rdkit.Chem.Mol or MoleculeViews
        batch_size : int
            Molecules per forward pass; the predictions do not depend on it.
        n_jobs : int
            Featurization processes.
        progress : callable, optional
            Called with the number of molecules finished so far.

        Returns
        -------
        Predictions
            Probabilities ``[N, T, C]`` or values ``[N, T]``.

        Raises
        ------
        TypeError
            If `molecules` is a single string or a table.
        ValueError
            If the model was only pre-trained and has no head, or `batch_size` is below 1.
        """
        return self._gather(molecules, "predict", batch_size, n_jobs, progress)

    def embed(
        self,
        molecules: Sequence[object],
        batch_size: int = 256,
        n_jobs: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Return the molecule embeddings e_i, ``[N, d]``; parameters as in :meth:`predict`."""
        return self._gather(molecules, "embed", batch_size, n_jobs, progress)

    def features(
        self,
        molecules: Sequence[object],
        batch_size: int = 256,
        n_jobs: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Return features for a downstream model: each view's h_m, followed by e.

        h_m is the output of a view's encoder and holds more information than e. Shape ``[N, D]``,
        views in the order of ``config.modalities``, 0 where a molecule lacks the view. Parameters
        as in :meth:`predict`.

        Examples
        --------
        >>> predictor = MMSAPredictor.from_pretrained("mmsa-small")
        >>> predictor.features(["CCO"]).values.shape, predictor.embed(["CCO"]).values.shape
        ((1, 2304), (1, 256))
        """
        return self._gather(molecules, "features", batch_size, n_jobs, progress)

    def stream(
        self,
        molecules: Iterable[object],
        what: str = "predict",
        batch_size: int = 256,
        n_jobs: int = 1,
    ) -> Iterator[Predictions]:
        """Yield predictions batch by batch, in constant memory.

        Parameters
        ----------
        molecules : iterable of str, rdkit.Chem.Mol or MoleculeViews
            Consumed lazily.
        what : {"predict", "embed", "features"}
        batch_size, n_jobs : int
            As in :meth:`predict`.
        """
        if what not in ("predict", "embed", "features"):
            raise ValueError(f"what={what!r}: choose 'predict', 'embed' or 'features'")
        if what == "predict" and self.config.mode == "pretraining":
            raise ValueError(
                "this model was pre-trained only and predicts no labels; ask it for embeddings, "
                "or fine-tune it first"
            )
        network = self.network
        computes: dict[str, Callable[[MoleculeBatch], Tensor]] = {
            "predict": lambda batch: network(batch)[0],
            "embed": network.embed,
            "features": network.features,
        }
        yield from self.apply(molecules, computes[what], batch_size, n_jobs)

    def apply(
        self,
        molecules: Iterable[object],
        compute: Callable[[MoleculeBatch], Tensor],
        batch_size: int = 256,
        n_jobs: int = 1,
    ) -> Iterator[Predictions]:
        """Yield the outputs of a function batch by batch, in constant memory.

        Parameters
        ----------
        molecules : iterable of str, rdkit.Chem.Mol or MoleculeViews
            Consumed lazily.
        compute : callable
            Maps a batch to a tensor with one row per molecule.
        batch_size, n_jobs : int
            As in :meth:`predict`.
        """
        check_sequence(molecules)
        check_batch_size(batch_size)
        stopping = threading.Event()

        def blocks() -> Iterator[list[MoleculeViews]]:
            size = batch_size if n_jobs == 1 else max(batch_size, _BLOCK)
            for chunk in _chunks(molecules, size):
                block: list[MoleculeViews] = []
                for record in self._each_record(chunk, n_jobs):
                    block.append(record)
                    if stopping.is_set():  # the consumer has stopped
                        return
                yield block

        def batches() -> Iterator[tuple[list[MoleculeViews], MoleculeBatch]]:
            # Other processes make the next block while this one is computed.
            for block in blocks() if n_jobs == 1 else prefetched(blocks(), depth=1):
                for part in _chunks(block, batch_size):
                    yield part, self._collate(part)

        device = next(self.network.parameters()).device
        warned = False
        for records, batch in prefetched(batches(), stopping=stopping):
            warned = warned or warn_of_oddities(records, self.network)
            with torch.inference_mode():
                told = compute(batch.to(device))
            # numpy has no bf16.
            told = told if told.dtype == torch.float64 else told.float()
            values = told.cpu().numpy().copy()
            reasons = [""] * len(records)
            for row in (~batch.available.any(1)).nonzero()[:, 0].tolist():
                values[row] = np.nan
                reasons[row] = missing_reason(records[row], self.config.modalities)
            finite = np.isfinite(values.reshape(len(values), -1)).all(1)
            for row in np.flatnonzero(~finite).tolist():
                reasons[row] = reasons[row] or NOT_FINITE
            yield Predictions(values, reasons)

    def _gather(
        self,
        molecules: Sequence[object],
        what: str,
        batch_size: int,
        n_jobs: int,
        progress: Callable[[int], None] | None,
    ) -> Predictions:
        values: list[np.ndarray] = []
        reasons: list[str] = []
        for part in self.stream(molecules, what, batch_size, n_jobs):
            values.append(part.values)
            reasons.extend(part.reasons)
            if progress is not None:
                progress(len(reasons))
        if values:
            return Predictions(np.concatenate(values), reasons)
        return Predictions(np.zeros(self._shape(what), dtype=np.float32), reasons)

    def _shape(self, what: str) -> tuple[int, ...]:
        """Return the output shape for an empty input."""
        if what == "embed":
            return (0, self.config.embedding_dim)
        if what == "features":
            return (0, sum(self.network.feature_widths.values()))
        if self.config.mode == "classification":
            return (0, self.config.n_tasks, self.config.n_classes)
        return (0, self.config.n_tasks)


def _from_bytes(
    kind: type[MMSAPredictor],
    config: dict[str, Any],
    weights: bytes,
    exemplars: list[list[tuple[str, float]]],
    metadata: dict[str, Any],
    encoders: Mapping[str, nn.Module] | None = None,
) -> MMSAPredictor:
    """Undo :meth:`MMSAPredictor.__reduce__`; the model is placed on the CPU."""
    source = Pretrained(MMSAConfig.from_dict(config), load(weights), exemplars, metadata)
    return kind._of(source, "the pickled model", encoders)


def check_batch_size(batch_size: int) -> None:
    """Check that batches hold at least one molecule.

    Raises
    ------
    ValueError
        If `batch_size` is below 1.

    Examples
    --------
    >>> check_batch_size(0)
    Traceback (most recent call last):
    ValueError: batch_size=0: give at least 1
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: give at least 1")


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


@lru_cache(maxsize=4)
def _cached(folder_or_name: str, files: tuple[tuple[str, int, int], ...]) -> MMSAPredictor:
    return MMSAPredictor.from_pretrained(folder_or_name)


def _files_of(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and modification time of each file, to detect a replaced model."""
    stats = []
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):
            stats.append((name, os.stat(os.path.join(folder, name))))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def embed(
    molecules: Sequence[object], model: str | os.PathLike = DEFAULT_MODEL, n_jobs: int = 1
) -> np.ndarray:
    """Return embeddings of molecules in one call.

    Parameters
    ----------
    molecules : sequence of str or rdkit.Chem.Mol
    model : path-like
        As in :meth:`MMSAPredictor.from_pretrained`. The model is cached between calls, and read
        again if the folder's files have changed.
    n_jobs : int
        Featurization processes.

    Returns
    -------
    np.ndarray
        float32 ``[N, d]``; NaN rows, with a warning, where a molecule cannot be read
        (:meth:`MMSAPredictor.embed` gives all reasons).
    """
    name = os.fspath(model)
    if is_folder := os.path.isfile(os.path.join(name, "config.json")):
        name = os.path.abspath(name)
    files = _files_of(name) if is_folder else ()
    values, reasons = _cached(name, files).embed(molecules, n_jobs=n_jobs)
    if failed := [f"row {row}: {reason}" for row, reason in enumerate(reasons) if reason]:
        warn_user(
            f"{len(failed)} of {len(reasons)} molecules cannot be embedded and got NaN; the first "
            f"is {failed[0]}"
        )
    return values
