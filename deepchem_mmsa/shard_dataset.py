"""Shards as a DeepChem dataset: a few shards in memory, however many molecules there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from deepchem.data import Dataset
from deepchem.data.datasets import pad_batch

from deepchem_mmsa.epochs import Reader, Rows, reader_of
from deepchem_mmsa.shards import ShardSet
from deepchem_mmsa.shards.file import Shard

Batch = tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray]


class ShardDataset(Dataset):
    """Records of a :class:`~deepchem_mmsa.shards.ShardSet` with labels that are held in memory.

    Unlike DeepChem's ``DiskDataset``, which pickles objects and caches what it has read, this
    reads a safe format and caches no records. Training mixes the rows of several shards at a time,
    in random order (:data:`deepchem_mmsa.epochs.MIXED`).

    Parameters
    ----------
    shards : ShardSet
        The records.
    y, w : np.ndarray, optional
        Labels and weights ``[n, n_tasks]`` of the chosen rows.
    tasks : sequence of str, optional
        Names of the labels.
    rows : np.ndarray, optional
        int ``[n]``, ascending: which molecules belong to the dataset; all by default.

    Raises
    ------
    ValueError
        If labels, weights, rows and task names do not match, or rows do not ascend.
    """

    def __init__(
        self,
        shards: ShardSet,
        y: np.ndarray | None = None,
        w: np.ndarray | None = None,
        tasks: Sequence[str] | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.shards = shards
        self._rows = np.arange(len(shards)) if rows is None else np.asarray(rows, dtype=np.int64)
        n = len(self._rows)
        if n and (
            self._rows[0] < 0 or self._rows[-1] >= len(shards) or (np.diff(self._rows) < 0).any()
        ):
            raise ValueError(f"rows must ascend from 0 to {len(shards) - 1} at most")
        for name, part in (("y", y), ("w", w)):
            if part is not None and len(part) != n:
                raise ValueError(
                    f"{name} has {len(part)} rows, the shards hold {n} molecules: give a row for "
                    "each, including the unreadable ones"
                )
        self._y, self._w = y, w
        n_tasks = 0 if y is None else y.shape[1]
        self._tasks = [str(i) for i in range(n_tasks)] if tasks is None else list(tasks)
        if len(self._tasks) != n_tasks:
            raise ValueError(f"{len(self._tasks)} task names for {n_tasks} labels")
        self._ids: np.ndarray | None = None
        # Where each shard's rows begin; shards without any are skipped.
        borders = np.searchsorted(self._rows, np.concatenate([[0], np.cumsum(shards.sizes)]))
        self._numbers = np.flatnonzero(np.diff(borders))
        self._borders = np.append(borders[:-1][self._numbers], n)
        self._firsts = (np.cumsum(shards.sizes) - shards.sizes)[self._numbers]

    def __len__(self) -> int:
        return len(self._rows)

    def get_number_shards(self) -> int:
        """Return the number of shards that hold any of its molecules."""
        return len(self._numbers)

    def get_shard(self, i: int) -> Batch:
        """Read a shard: X, y, w, ids of its molecules that belong to the dataset."""
        chosen = slice(self._borders[i], self._borders[i + 1])
        X = self._records(i, self.shards.shard(int(self._numbers[i])), self._rows[chosen])
        ids = np.array([record.smiles for record in X], dtype=object)
        return X, _part(self._y, chosen), _part(self._w, chosen), ids

    def shard_reader(self, i: int) -> Reader:
        """Return the number of molecules in a shard, and a function from row numbers to X, y, w.

        The file is read on the first call, and only the requested records are decoded. If the
        dataset has no labels, y is zeros; if it has no weights, w is ones. A subclass that
        overrides :meth:`get_shard` is read through its override.
        """
        if type(self).get_shard is not ShardDataset.get_shard:
            return reader_of(*self.get_shard(i)[:3])
        first = self._borders[i]
        opened: list[Shard] = []

        def take(rows: np.ndarray) -> Rows:
            if not opened:
                opened.append(self.shards.shard(int(self._numbers[i])))
            chosen = first + rows
            y = np.zeros((len(rows), 1)) if self._y is None else self._y[chosen]
            w = np.ones((len(rows), 1)) if self._w is None else self._w[chosen]
            return self._records(i, opened[0], self._rows[chosen]), y, w

        return int(self._borders[i + 1] - first), take

    def _records(self, i: int, shard: Shard, rows: np.ndarray) -> np.ndarray:
        records = [shard.record(row) for row in (rows - self._firsts[i]).tolist()]
        return np.array(records, dtype=object)

    def itershards(self) -> Iterator[Batch]:
        """Yield (X, y, w, ids) shard by shard."""
        return map(self.get_shard, range(self.get_number_shards()))

    @property
    def X(self) -> np.ndarray:
        """All records, in memory at once: object array ``[n]``."""
        return np.concatenate([np.empty(0, dtype=object), *(X for X, *_ in self.itershards())])

    @property
    def y(self) -> np.ndarray | None:
        """Labels ``[n, n_tasks]``."""
        return self._y

    @property
    def w(self) -> np.ndarray | None:
        """Weights ``[n, n_tasks]``."""
        return self._w

    @property
    def ids(self) -> np.ndarray:
        """SMILES ``[n]``; read from all shards when first asked for, then kept."""
        if self._ids is None:
            parts = [np.empty(0, dtype=object), *(ids for *_, ids in self.itershards())]
            self._ids = np.concatenate(parts)
        return self._ids

    def get_shape(self) -> tuple[Any, Any, Any, Any]:
        """Return the shapes of X, y, w and ids, without reading records."""
        n = len(self)
        empty = (n, 0)
        y = empty if self._y is None else self._y.shape
        w = empty if self._w is None else self._w.shape
        return (n,), y, w, (n,)

    def get_task_names(self) -> np.ndarray:
        """Return the names of the labels."""
        return np.array(self._tasks)

    def get_statistics(self, X_stats: bool = True, y_stats: bool = True) -> tuple[np.ndarray, ...]:
        """Return mean and standard deviation of the labels.

        Raises
        ------
        ValueError
            If `X_stats` is set: records have no mean.
        """
        if X_stats:
            raise ValueError("molecules have no mean: give X_stats=False")
        if not y_stats or self._y is None:
            return ()
        return self._y.mean(axis=0), self._y.std(axis=0)

    def iterbatches(
        self,
        batch_size: int | None = None,
        epochs: int = 1,
        deterministic: bool = False,
        pad_batches: bool = False,
    ) -> Iterator[Batch]:
        """Yield (X, y, w, ids) as DeepChem's datasets do; by default one shard per batch."""
        for _ in range(epochs):
            order = np.arange(self.get_number_shards())
            if not deterministic:
                np.random.shuffle(order)  # noqa: NPY002 -- seeded as DeepChem's are
            held: Batch | None = None
            for place, number in enumerate(order):
                part = self.get_shard(int(number))
                if not deterministic:
                    rows = np.random.permutation(len(part[0]))  # noqa: NPY002
                    part = _rows_of(part, rows)
                held = part if held is None else _joined(held, part)
                size = batch_size or len(held[0])
                closing = place == len(order) - 1
                while len(held[0]) >= size or (closing and len(held[0])):
                    batch, held = _rows_of(held, slice(size)), _rows_of(held, slice(size, None))
                    yield pad_batch(size, *batch) if pad_batches else batch

    def itersamples(self) -> Iterator[Batch]:
        """Yield (x, y, w, id) molecule by molecule."""
        for X, y, w, ids in self.itershards():
            for row in range(len(X)):
                yield X[row], _part(y, row), _part(w, row), ids[row]

    def select(
        self, indices: Sequence[int] | np.ndarray, select_dir: str | None = None
    ) -> ShardDataset:
        """Return a dataset of the selected rows, in ascending order, without copying records.

        Parameters
        ----------
        indices : sequence of int or of bool
            Row numbers, negative ones counted from the end; or a boolean mask of all rows.
        select_dir : str, optional
            Ignored: the records stay where they are.

        Raises
        ------
        IndexError
            If there is no such row, or a mask has another length.
        """
        # NumPy's indexing resolves masks and negative numbers.
        asked = np.asarray(indices)
        asked = asked if asked.dtype == bool else asked.astype(np.int64)
        chosen = np.sort(np.arange(len(self))[asked])
        return ShardDataset(
            self.shards,
            _part(self._y, chosen),
            _part(self._w, chosen),
            self._tasks,
            self._rows[chosen],
        )

    def transform(self, transformer: Any, **args: Any) -> ShardDataset:
        """Return the dataset with transformed labels or weights.

        Raises
        ------
        ValueError
            If the transformer changes X.
        """
        if transformer.transform_X:
            raise ValueError(
                f"{type(transformer).__name__} changes X, but molecules stay as they are: use one "
                "of labels or weights, such as NormalizationTransformer or BalancingTransformer"
            )
        nothing = np.zeros(len(self))
        _, y, w, _ = transformer.transform_array(nothing, self._y, self._w, nothing)
        return ShardDataset(self.shards, y, w, self._tasks, self._rows)

    def make_pytorch_dataset(
        self, epochs: int = 1, deterministic: bool = False, batch_size: int | None = None
    ) -> torch.utils.data.IterableDataset:
        """Return a torch dataset of (X, y, w, ids); shards are split between a loader's workers."""
        return _TorchShards(self, epochs, deterministic, batch_size)


class _TorchShards(torch.utils.data.IterableDataset):
    """The dataset that :meth:`ShardDataset.make_pytorch_dataset` returns."""

    def __init__(
        self, dataset: ShardDataset, epochs: int, deterministic: bool, batch_size: int | None
    ) -> None:
        self._arguments = dataset, epochs, deterministic, batch_size

    def __iter__(self) -> Iterator[Batch]:
        dataset, epochs, deterministic, batch_size = self._arguments
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            borders = dataset._borders
            mine = range(worker.id, dataset.get_number_shards(), worker.num_workers)
            rows = [np.arange(borders[i], borders[i + 1]) for i in mine]
            dataset = dataset.select(np.concatenate([np.empty(0, dtype=np.int64), *rows]))
        for batch in dataset.iterbatches(batch_size or 1, epochs, deterministic):
            yield batch if batch_size else tuple(_part(part, 0) for part in batch)


def _part(array: np.ndarray | None, chosen: Any) -> Any:
    return None if array is None else array[chosen]


def _rows_of(batch: Batch, chosen: Any) -> Batch:
    X, y, w, ids = batch
    return X[chosen], _part(y, chosen), _part(w, chosen), ids[chosen]


def _joined(one: Batch, other: Batch) -> Batch:
    parts: Any = (None if a is None else np.concatenate([a, b]) for a, b in zip(one, other))
    return tuple(parts)
