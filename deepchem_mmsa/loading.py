"""Converting DeepChem's batches to tensors, in this process or in workers that run ahead.

A GPU consumes molecules faster than one process can decode and collate them; the workers of
torch's ``DataLoader`` take turns, and the order of the batches is the same for any number.
"""

from __future__ import annotations

import gc
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
from deepchem_mmsa.views.depiction import picture_size


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
        """Return warnings for the user; `drawn` is the size of the model's training images.

        Examples
        --------
        >>> from deepchem_mmsa.views import ViewSettings, many_views
        >>> X = np.array(many_views(["CCO"], ViewSettings(("graph",))), dtype=object)
        >>> ready = Preparation(Collator(("graph", "fingerprint")), False)(([X], None, None))
        >>> ready.oddities(0)[0].partition(":")[0]
        'the molecules have no fingerprint, which this model reads as well'
        """
        told = []
        if self.drawn and self.drawn != drawn:
            told.append(
                f"images of {self.drawn} pixels, but the model was trained on images drawn at "
                f"{drawn}: lines and letters do not scale, so featurize with "
                f"MMSAFeaturizer(image_size={drawn}), or mmsa featurize --image-size {drawn}"
            )
        if self.unasked:
            told.append(
                f"the molecules have no {' and no '.join(self.unasked)}, which this model reads as "
                f"well: featurize with MMSAFeaturizer({list(self.molecules.modalities)}), or give "
                "the model fewer modalities"
            )
        return told

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
        picture = next((r.image for r in records if r.image is not None), None)
        drawn = picture_size(picture) if picture and "image" in self.collate.modalities else 0
        some = [record for record in records if record.available]
        unasked = tuple(
            m for m in self.collate.modalities
            if some and not any(m in r.available or m in r.reasons for r in some)
        )  # fmt: skip
        if labels is None or labels[0] is None or not self.labelled:
            return PreparedBatch(molecules, [], [], drawn, unasked)
        y = np.asarray(labels[0], dtype=np.float32)
        y = y if y.ndim == 2 else y.reshape(len(molecules), -1)
        w = None if weights is None else weights[0]
        w = np.ones_like(y) if w is None else np.asarray(w, dtype=np.float32)
        w = np.broadcast_to(w if w.ndim == 2 else w.reshape(len(y), -1), y.shape)
        there = ~np.isnan(y) & molecules.available.any(1).numpy()[:, None]
        y, w = np.where(there, y, 0), np.where(there, w, 0)
        label, weight = torch.from_numpy(y), torch.from_numpy(w.astype(np.float32))
        return PreparedBatch(molecules, [label], [weight], drawn, unasked)


def prepared(
    batches: Iterable[Any], prepare: Preparation
) -> Generator[tuple[Any, PreparedBatch], None, None]:
    """Prepare this process's share of each batch, one after the other."""
    for batch in batches:
        yield batch, prepare(distributed.share(batch))


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
