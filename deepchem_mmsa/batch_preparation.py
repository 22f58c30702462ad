"""Converting DeepChem's batches to tensors, in this process or in workers that run ahead.

A GPU consumes molecules faster than one process can decode and collate them; the workers of
torch's ``DataLoader`` take turns, and the order of the batches is the same for any number.
"""

from __future__ import annotations

import gc
import math
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from deepchem_mmsa import distributed
from deepchem_mmsa.batching import Collator, MoleculeBatch
from deepchem_mmsa.epochs import EpochBatch
from deepchem_mmsa.record_checks import drawn_size, oddities, unasked_views


class PreparedBatch(NamedTuple):
    """A batch as the network takes it.

    Attributes
    ----------
    molecules : MoleculeBatch
    labels, weights : list of torch.Tensor
        float32 ``[B, T]`` each; empty in pre-training, and where there are no labels.
    drawn : int
        Side in pixels at which the first image was drawn; 0 if there is none.
    unasked : tuple of str
        Views that the network reads but the featurizer was not asked for.
    """

    molecules: MoleculeBatch
    labels: list[Tensor]
    weights: list[Tensor]
    drawn: int
    unasked: tuple[str, ...] = ()

    def oddities(self, drawn: int) -> list[str]:
        """Return warnings for the user; `drawn` is the size of the model's training images."""
        return oddities(self.molecules.modalities, self.unasked, self.drawn, drawn)

    def to(self, device: torch.device | str) -> PreparedBatch:
        """Return the batch on another device."""
        labels, weights = ([x.to(device) for x in part] for part in (self.labels, self.weights))
        return self._replace(molecules=self.molecules.to(device), labels=labels, weights=weights)


@dataclass(frozen=True)
class Preparation:
    """Turns a triple of DeepChem's generators into tensors.

    Parameters
    ----------
    collate : Collator
    labelled : bool
        Whether labels are read.

    Examples
    --------
    >>> from deepchem_mmsa.views import ViewSettings, many_views
    >>> X = np.array(many_views(["CCO", "CC"], ViewSettings(("graph",))), dtype=object)
    >>> y, w = np.array([[0.5], [np.nan]]), np.ones((2, 1))
    >>> batch = Preparation(Collator(("graph",)), labelled=True)(([X], [y], [w]))
    >>> batch.labels[0].flatten(), batch.weights[0].flatten()
    (tensor([0.5000, 0.0000]), tensor([1., 0.]))
    """

    collate: Collator
    labelled: bool

    def __call__(self, batch: tuple[Any, Any, Any]) -> PreparedBatch:
        """Return the batch, on the CPU.

        A missing label, or one of a molecule without any view, gets weight 0.
        """
        inputs, labels, weights = batch
        records = inputs[0]
        molecules = self.collate(records)
        read = self.collate.modalities
        drawn, unasked = drawn_size(records, read), unasked_views(records, read)
        if not labels or labels[0] is None or not self.labelled:
            return PreparedBatch(molecules, [], [], drawn, unasked)
        y = _columns(labels[0])
        w = weights[0] if weights else None
        w = np.ones_like(y) if w is None else _columns(w)
        there = ~np.isnan(y) & molecules.available.any(1).numpy()[:, None]
        label, weight = (torch.from_numpy(np.where(there, part, 0)) for part in (y, w))
        return PreparedBatch(molecules, [label], [weight], drawn, unasked)


def _columns(rows: Any) -> np.ndarray:
    """Return labels or weights as float32, ``[N, T]``, also of no rows."""
    rows = np.asarray(rows, dtype=np.float32)
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


def prepared(
    batches: Iterable[Any], prepare: Preparation
) -> Generator[tuple[Any, PreparedBatch], None, None]:
    """Prepare this process's share of each batch, one after the other."""
    for batch in batches:
        check_batch(batch, prepare.labelled)
        yield batch, prepare(distributed.share(batch))


def check_batch(batch: Any, labelled: bool = False) -> None:
    """Check a batch of a generator: ``([X], [y], [w])``, with one row for each molecule.

    Parameters
    ----------
    batch : sequence
    labelled : bool
        Whether labels are needed.

    Raises
    ------
    ValueError
        If it has another form, or rows are missing or left over.

    Examples
    --------
    >>> check_batch(([["CCO", "CC"]], [np.zeros((3, 1))], [None]))
    Traceback (most recent call last):
    ValueError: a batch of the generator has 2 molecules, but 3 rows of labels
    """
    parts = list(batch)
    if len(parts) != 3 or not all(p is None or isinstance(p, (list, tuple)) for p in parts):
        raise ValueError(
            f"a generator must yield ([X], [y], [w]), as default_generator does, not "
            f"({', '.join(type(p).__name__ for p in parts)})"
        )
    inputs, labels, weights = parts
    n = len(inputs[0])
    if labelled and (not labels or labels[0] is None):
        raise ValueError("a batch of the generator has no labels: yield ([X], [y], [w])")
    for what, arrays, allowed in (("labels", labels, (n,)), ("weights", weights, (n, 1))):
        for array in arrays or ():
            if array is not None and len(array) not in allowed:
                raise ValueError(
                    f"a batch of the generator has {n} molecules, but {len(array)} rows of {what}"
                )


def prepared_by_workers(
    batches: Callable[[tuple[int, int]], Iterator[EpochBatch]],
    prepare: Preparation,
    n_workers: int,
) -> Generator[tuple[EpochBatch, PreparedBatch], None, None]:
    """Prepare this process's share of each batch in worker processes, which take turns.

    Parameters
    ----------
    batches : callable
        Maps a taker (see :func:`~deepchem_mmsa.epochs.epoch_batches`) to its batches.
    prepare : Preparation
    n_workers : int

    Returns
    -------
    generator
        The same batches, in the same order, as :func:`prepared` yields, but the first item of
        each pair holds only its position in the epoch. Workers are started already; closing the
        generator ends them.
    """
    dealt = _Dealt(batches, prepare, (distributed.rank(), distributed.size()))
    loader = DataLoader(
        dealt, batch_size=None, num_workers=n_workers, worker_init_fn=_begin_work,
        generator=torch.Generator(), collate_fn=_unchanged,
    )  # fmt: skip
    return _released(iter(loader))


def _released(batches: Any) -> Generator[Any, None, None]:
    """Yield a loader's batches; closing this generator ends the loader's workers."""
    try:
        yield from batches
    finally:  # also if a stored exception keeps the loader alive
        batches._shutdown_workers()


class _Dealt(IterableDataset):
    """The batches that one worker prepares."""

    def __init__(
        self,
        batches: Callable[[tuple[int, int]], Iterator[EpochBatch]],
        prepare: Preparation,
        place: tuple[int, int],
    ) -> None:
        self._batches, self._prepare, self._place = batches, prepare, place

    def __iter__(self) -> Iterator[tuple[EpochBatch, PreparedBatch]]:
        worker = get_worker_info()
        assert worker is not None
        for batch in self._batches((worker.id, worker.num_workers)):
            ready = self._prepare(distributed.share(batch, self._place))
            yield batch.without_data(), ready


def _unchanged(batch: Any) -> Any:
    """Return a worker's batch unchanged."""
    return batch


def _begin_work(worker: int) -> None:
    """Initialise a worker: leave signals to the training process, and free none of its objects."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):  # a launcher ends the training's process group
        os.setpgrp()
    gc.freeze()  # a garbage-collected model would delete its folder, in each worker
