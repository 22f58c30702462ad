"""Batch order in training: which molecules are in which step, as a function of seed and epoch.

Nothing here holds state, so that a run resumed in the middle of an epoch, or on another number of
processes, gets exactly the batches of the uninterrupted run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np


class EpochBatch(tuple):
    """``(inputs, labels, weights)`` with its position in the epoch.

    Parameters
    ----------
    inputs, labels, weights : list of np.ndarray
        As DeepChem's generators yield them.
    epoch, position : int
        Number of the epoch since the model was made; number of the batch in it.
    last : bool
        Whether it is the last of the epoch.
    """

    epoch: int
    position: int
    last: bool

    def __new__(
        cls, inputs: list, labels: list, weights: list, epoch: int, position: int, last: bool
    ) -> EpochBatch:
        """Make the triple and attach its position."""
        batch = super().__new__(cls, (inputs, labels, weights))
        batch.epoch, batch.position, batch.last = epoch, position, last
        return batch

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Return the constructor's arguments, for pickle."""
        return (*self, self.epoch, self.position, self.last)

    def without_data(self) -> EpochBatch:
        """Return a copy with its position alone."""
        return EpochBatch([], [], [], self.epoch, self.position, self.last)


def batch_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Return the (start, end) of each training batch; no molecule is left over.

    A last batch of a single molecule would have no negatives and no batch statistics: it is
    merged into the one before.

    Examples
    --------
    >>> batch_bounds(7, 3)
    [(0, 3), (3, 7)]
    """
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, starts[1:] + [n]))


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
Reader = tuple[int, Callable[[np.ndarray], Rows]]

MIXED = 8192
"""Minimum number of rows that are shuffled together, unless fewer remain."""


def epoch_batches(
    dataset: Any,
    batch_size: int,
    epochs: Iterable[int],
    seed: int | None,
    skip: int = 0,
    taker: tuple[int, int] = (0, 1),
) -> Iterator[EpochBatch]:
    """Yield a dataset's training batches, epoch by epoch.

    Parameters
    ----------
    dataset : deepchem.data.Dataset
    batch_size : int
    epochs : iterable of int
        Epoch numbers, which determine the order.
    seed : int or None
        None keeps the dataset's order.
    skip : int
        Batches of the first epoch that were already trained on.
    taker : (int, int)
        Index of this worker, and number of workers: batches are dealt out in turn, and only this
        worker's are yielded. Of shards it decodes no other records.
    """
    keep_no_records(dataset)
    bounds = batch_bounds(len(dataset), batch_size)
    number, n_takers = taker
    dealt = 0
    for epoch in epochs:
        pieces = _pieces_in_order(
            dataset, None if seed is None else np.random.default_rng([seed, epoch])
        )
        pending: list[tuple[Callable[[np.ndarray], Rows], np.ndarray]] = []
        held = 0
        for index, (start, end) in enumerate(bounds):
            while held < end - start:
                pending.append(next(pieces))
                held += len(pending[-1][1])
            held -= end - start
            take, rows = pending[-1]
            border = len(rows) - held
            chosen, pending = [*pending[:-1], (take, rows[:border])], [(take, rows[border:])]
            if index < skip:
                continue
            if dealt % n_takers == number:
                parts = [take(rows) for take, rows in chosen if len(rows)]
                X, y, w = (np.concatenate(part) for part in zip(*parts))
                yield EpochBatch([X], [y], [w], epoch, index, index == len(bounds) - 1)
            dealt += 1
        skip = 0


def _pieces_in_order(
    dataset: Any, generator: np.random.Generator | None
) -> Iterator[tuple[Callable[[np.ndarray], Rows], np.ndarray]]:
    """Yield, shard by shard (or group by group), a reader of (X, y, w) and its rows in order.

    Shards are visited in random order and shuffled together in groups: a table is often sorted by
    its label, which would drift within an epoch if each shard were shuffled alone. A disk dataset
    is never held in memory as a whole.
    """
    readers: Iterable[Reader]
    if hasattr(dataset, "get_number_shards"):
        order = np.arange(dataset.get_number_shards())
        if generator is not None:
            generator.shuffle(order)
        if hasattr(dataset, "shard_reader"):
            readers = (dataset.shard_reader(int(i)) for i in order)
        else:
            readers = (reader_of(*dataset.get_shard(int(i))[:3]) for i in order)
    else:
        readers = [reader_of(dataset.X, dataset.y, dataset.w)]
    if generator is None:
        for n, take in readers:
            yield take, np.arange(n)
        return
    group: list[Reader] = []
    for reader in itertools.chain(readers, [None]):
        if reader is not None:
            group.append(reader)
        if group and (reader is None or sum(n for n, _ in group) >= MIXED):
            n, take = _joined(group)
            yield take, generator.permutation(n)
            group = []


def _joined(group: list[Reader]) -> Reader:
    """Read the rows of several shards as those of one."""
    if len(group) == 1:
        return group[0]
    takers = [take for _, take in group]
    ends = np.cumsum([n for n, _ in group])
    starts = ends - [n for n, _ in group]

    def take(rows: np.ndarray) -> Rows:
        of_shard = np.searchsorted(ends, rows, side="right")
        by_shard = np.argsort(of_shard, kind="stable")
        parts = [
            takers[shard](rows[of_shard == shard] - starts[shard]) for shard in np.unique(of_shard)
        ]
        place = np.empty(len(rows), dtype=int)
        place[by_shard] = np.arange(len(rows))
        X, y, w = (np.concatenate(part)[place] for part in zip(*parts))
        return X, y, w

    return int(ends[-1]), take


def reader_of(X: Any, y: Any, w: Any) -> Reader:
    """Return the number of rows, and a function that takes some of them."""
    n = len(X)
    X = np.asarray(X)
    y = np.zeros((n, 1)) if y is None else np.asarray(y)
    w = np.ones((n, 1)) if w is None else np.asarray(w)
    return n, lambda rows: (X[rows], y[rows], w[rows])


def check_dataset(dataset: Any, what: str = "the dataset") -> None:
    """Check that a dataset is one of DeepChem's.

    Raises
    ------
    TypeError
        If it is anything else, such as a list of SMILES.

    Examples
    --------
    >>> check_dataset(["CCO"])
    Traceback (most recent call last):
    TypeError: the dataset is a list; give a DeepChem dataset, for example from
    deepchem_mmsa.datasets.dataset_from_smiles
    """
    if not hasattr(dataset, "iterbatches"):
        raise TypeError(
            f"{what} is a {type(dataset).__name__}; give a DeepChem dataset, for example from "
            "deepchem_mmsa.datasets.dataset_from_smiles"
        )


def keep_no_records(dataset: Any) -> None:
    """Disable DeepChem's 20 MB cache, which counts 8 bytes per record and so keeps all of them."""
    if hasattr(dataset, "memory_cache_size"):
        dataset.memory_cache_size = 0


def step_seed(seed: int, step: int, *further: int) -> int:
    """Return the seed of everything random in one training step (and one process)."""
    sequence = np.random.SeedSequence([seed, step, *further])
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1
