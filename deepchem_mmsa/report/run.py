"""The data of a page: molecules with labels, predictions and embeddings, and a history."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.ensemble import over_batches
from deepchem_mmsa.hub import members
from deepchem_mmsa.labels import usable
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.predictor import MMSAPredictor
from deepchem_mmsa.shards import ShardSet
from deepchem_mmsa.views import many_views

_CHUNK = 4096  # records in memory at a time
PARTS = ("train", "valid", "test")


class Missing(NamedTuple):
    """A view that could not be made for a row."""

    row: int
    smiles: str
    part: str
    view: str
    reason: str


@dataclass
class Run:
    """A model with the molecules that it was trained and tested on.

    Attributes
    ----------
    title : str
    predictor : MMSAPredictor
    rows : np.ndarray
        int ``[N]``, from 1, in the source of each part.
    smiles : list of str
        ``[N]``.
    names : list of str
        ``[N]``, those of the table; "" where there is none.
    parts : np.ndarray
        ``[N]`` of "train", "valid", "test" or another name; "" for a row that belongs to none.
    y : np.ndarray
        ``[N, T]`` labels, NaN where missing; ``T`` is 0 without labels.
    predicted : np.ndarray
        ``[N, T]`` values or ``[N, T, C]`` probabilities; NaN where there is no prediction.
    embedding : np.ndarray
        ``[N, d]``; NaN where the molecule was not evaluated or has no view.
    anchor, anchor_similarity : np.ndarray
        ``[N]`` nearest memory anchor, -1 where there is none, and its cosine.
    missing : list of Missing
        Missing views, of those that the model reads.
    failed : np.ndarray
        Bool ``[N]``: rows without any view that the model reads.
    history : list of dict
        One row per epoch.
    summary : dict
        Contents of the run's ``metrics.json``, if any.
    """

    title: str
    predictor: MMSAPredictor
    rows: np.ndarray
    smiles: list[str]
    names: list[str]
    parts: np.ndarray
    y: np.ndarray
    predicted: np.ndarray
    embedding: np.ndarray
    anchor: np.ndarray
    anchor_similarity: np.ndarray
    missing: list[Missing]
    failed: np.ndarray
    history: list[dict[str, float]]
    summary: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.smiles)

    @property
    def kind(self) -> str:
        """Return "pretraining", "classification" or "regression"."""
        return self.predictor.config.mode

    @property
    def tasks(self) -> list[str]:
        """Return the names of the labels; none after pre-training."""
        return [] if self.kind == "pretraining" else self.predictor.tasks

    @property
    def part_names(self) -> list[str]:
        """Return the parts that have rows, training first."""
        there = list(dict.fromkeys(self.parts.tolist()))
        known = [part for part in PARTS if part in there]
        return known + [part for part in there if part and part not in PARTS]

    def labelled(self, part: str, task: int) -> np.ndarray:
        """Return the indices of a part's rows with a label and a prediction."""
        if not self.y.shape[1]:
            return np.zeros(0, dtype=int)
        known = ~np.isnan(self.y[:, task]) & ~np.isnan(
            self.predicted[:, task].reshape(len(self), -1)
        ).any(1)
        return np.flatnonzero(known & (self.parts == part))

    def judged(self) -> str:
        """Return the part used for evaluation: test, else valid, else another one with labels."""
        names = self.part_names
        order = [p for p in ("test", "valid") if p in names] + names[::-1]
        for part in order:
            if any(len(self.labelled(part, task)) for task in range(len(self.tasks))):
                return part
        return ""


@dataclass
class _Source:
    """Rows, and a function from ascending row indices to their records."""

    rows: np.ndarray
    smiles: list[str]
    parts: np.ndarray
    y: np.ndarray
    records: Callable[[np.ndarray], Iterator[MoleculeViews]]
    names: list[str] = field(default_factory=list)


# ---- from a run's folder --------------------------------------------------------------------


def from_folder(folder: str | os.PathLike, device: str | None, at_most: int, seed: int) -> Run:
    """Read the folder of ``mmsa pretrain`` or ``mmsa finetune``.

    Raises
    ------
    FileNotFoundError
        If it holds no finished run, or several models.
    """
    folder = Path(folder)
    if several := members(folder):
        raise FileNotFoundError(
            f"{folder} holds {len(several)} models: give one of them, {several[0]}"
        )
    for name in ("config.json", "rows.csv", "history.csv"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}: give a folder that mmsa finetune or mmsa pretrain has "
                "finished writing"
            )
    predictor = MMSAPredictor.from_pretrained(folder, device)
    history = pd.read_csv(folder / "history.csv").to_dict("records")
    metrics = folder / "metrics.json"
    summary = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    source = _rows_of(folder, predictor, summary)
    return _looked_at(
        folder.resolve().name, predictor, source, [dict(row) for row in history], summary, at_most,
        seed,
    )  # fmt: skip


def _rows_of(folder: Path, predictor: MMSAPredictor, summary: Mapping[str, Any]) -> _Source:
    table = pd.read_csv(folder / "rows.csv", keep_default_na=False, dtype=str)
    smiles = table["smiles"].tolist()
    names = table["name"].tolist() if "name" in table else []  # older runs have none
    ok = (table["status"] != "failed").to_numpy()
    if "split" in table:
        parts = table["split"].to_numpy(dtype=object)
    else:  # pre-training has no split
        parts = np.where(ok, "train", "").astype(object)
    labels = [f"label {task}" for task in predictor.tasks]
    y = np.full((len(table), 0), np.nan)
    if predictor.config.mode != "pretraining" and all(name in table for name in labels):
        y = table[labels].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    homes = [folder, *([folder.parent] if (folder.parent / "run.json").is_file() else [])]
    data = Path(str(summary.get("data", "")))
    for place in (*(home / "records" for home in homes), data):
        if (place / "manifest.json").is_file():
            shards = ShardSet.open(place)
            if len(shards) == len(table):
                read = partial(_from_shards, shards)
                return _Source(np.arange(1, len(table) + 1), smiles, parts, y, read, names)

    def made(places: np.ndarray) -> Iterator[MoleculeViews]:
        chosen = [smiles[place] for place in places]
        yield from many_views(chosen, predictor.settings, contained=True)

    return _Source(np.arange(1, len(table) + 1), smiles, parts, y, made, names)


def _from_shards(shards: ShardSet, places: np.ndarray) -> Iterator[MoleculeViews]:
    first = 0
    for number, size in enumerate(shards.sizes.tolist()):
        inside = places[(places >= first) & (places < first + size)] - first
        if len(inside):
            shard = shards.shard(number)
            for row in inside.tolist():
                yield shard.record(row)
        first += size


# ---- from a model and data sets ----------------------------------------------------------------


def from_model(
    model: Any,
    datasets: Mapping[str, Any],
    history: Sequence[Mapping[str, float]] | None,
    title: str,
    at_most: int,
    seed: int,
) -> Run:
    """Evaluate a model on data sets; arguments as in :func:`~deepchem_mmsa.report.write_report`.

    Raises
    ------
    ValueError
        If there is no molecule, or labels do not fit the model's tasks.
    """
    network = model.network if isinstance(model, MMSAPredictor) else model.model
    training = network.training
    predictor = (
        model
        if isinstance(model, MMSAPredictor)
        else MMSAPredictor(network, {"tasks": model.tasks, "classes": model.classes})
    )
    network.train(training)  # making a predictor sets evaluation mode; training may go on
    records: list[Any] = []
    parts: list[str] = []
    rows: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for name, data in datasets.items():
        if not name:
            raise ValueError("every data set needs a name, such as 'train', 'valid' or 'test'")
        X, y = _unpacked(data, predictor, name)
        records += X
        parts += [name] * len(X)
        rows.append(np.arange(1, len(X) + 1))
        labels.append(y)
    if not records:
        raise ValueError("there is no molecule to report on: give at least one data set")
    made = predictor.records(records)
    wide = max(y.shape[1] for y in labels)
    y = np.concatenate([y if y.shape[1] else np.full((len(y), wide), np.nan) for y in labels])
    source = _Source(
        np.concatenate(rows), [record.smiles for record in made],
        np.array(parts, dtype=object), y, lambda places: (made[place] for place in places),
    )  # fmt: skip
    given = getattr(model, "history", []) if history is None else history
    return _looked_at(title, predictor, source, [dict(row) for row in given], {}, at_most, seed)


def _unpacked(data: Any, predictor: MMSAPredictor, name: str) -> tuple[list[Any], np.ndarray]:
    """Return molecules and labels ``[N, T]`` (or ``[N, 0]``) of a dataset or a pair."""
    if hasattr(data, "X"):
        X, y, w = list(data.X), data.y, data.w
    else:
        X, y, w = list(data[0]), data[1], None
    if predictor.config.mode == "pretraining" or y is None:
        return X, np.zeros((len(X), 0))
    y = np.array(y, dtype=float)
    y = y.reshape(len(X), -1 if len(X) else len(predictor.tasks))
    if w is not None and len(X):
        y[np.broadcast_to(np.asarray(w, float).reshape(len(X), -1), y.shape) == 0] = np.nan
    if y.shape[1] != len(predictor.tasks):
        raise ValueError(
            f"the data set {name!r} has {y.shape[1]} label(s) per molecule, the model "
            f"{len(predictor.tasks)} task(s): {', '.join(predictor.tasks)}"
        )
    allowed, remedy = usable(y, predictor.config)
    wrong = np.argwhere(~np.isnan(y) & ~allowed)
    if len(wrong):
        row, task = wrong[0]
        raise ValueError(
            f"{len(wrong)} label(s) of the data set {name!r} cannot be used; the first is "
            f"{y[row, task]:g} in row {row}, {predictor.tasks[task]}: {remedy}"
        )
    return X, y


# ---- evaluation -----------------------------------------------------------------------------


def _looked_at(
    title: str,
    predictor: MMSAPredictor,
    source: _Source,
    history: list[dict[str, float]],
    summary: dict[str, Any],
    at_most: int,
    seed: int,
) -> Run:
    """Run the network over the rows: all of a supervised run, a sample after pre-training."""
    network, config, n = predictor.network, predictor.config, len(source.smiles)
    supervised = config.mode != "pretraining"
    places = np.flatnonzero(source.parts != "")
    if not supervised and len(places) > at_most:
        chosen = np.random.default_rng(seed).choice(places, at_most, replace=False)
        places = np.sort(chosen)
    unused = np.flatnonzero(source.parts == "")
    memory = network.memory if network.memory is not None and network.memory.is_active else None
    width = config.embedding_dim
    outputs = 0
    if supervised:
        outputs = config.n_tasks * (config.n_classes if config.mode == "classification" else 1)
    values = np.full((n, width + outputs + 2), np.nan)
    missing: list[Missing] = []
    smiles = list(source.smiles)
    failed = np.zeros(n, dtype=bool)

    def compute(batch: MoleculeBatch) -> Tensor:
        h = network.modality_embeddings(batch)
        code = network.fusion.fuse(network.project(h), batch.available)
        embedding = network.structure_aware(code)
        found = [embedding]
        if supervised:
            outputs = network.supervised_outputs(embedding, h, batch.available)
            found.append(outputs[0].flatten(1))
        if memory is not None:
            index, similarity = memory.nearest(code)
            found.append(torch.stack([index.to(similarity), similarity], 1))
        else:
            found.append(embedding.new_full((len(batch), 2), torch.nan))
        return torch.cat([part.float() for part in found], 1)

    for chunk in _chunks(np.sort(np.concatenate([places, unused]))):
        records = list(source.records(chunk))
        for place, record in zip(chunk.tolist(), records):
            smiles[place] = record.smiles or smiles[place]
            absent = [m for m in config.modalities if m not in record.available]
            failed[place] = len(absent) == len(config.modalities)
            missing += [
                Missing(
                    int(source.rows[place]), smiles[place], str(source.parts[place]), view,
                    record.reasons.get(view, "the featurizer was not asked for this view"),
                )
                for view in absent
            ]  # fmt: skip
        wanted = source.parts[chunk] != ""
        if wanted.any():
            kept = [record for record, use in zip(records, wanted) if use]
            values[chunk[wanted]] = over_batches(predictor, kept, compute)[0]
    predicted = values[:, width : width + outputs]
    if config.mode == "classification":
        predicted = predicted.reshape(n, config.n_tasks, config.n_classes)
    anchor = values[:, -2]
    return Run(
        title=title, predictor=predictor, rows=source.rows, smiles=smiles,
        names=source.names or [""] * n, parts=source.parts,
        y=source.y, predicted=predicted, embedding=values[:, :width],
        anchor=np.where(np.isnan(anchor), -1, np.nan_to_num(anchor)).astype(int),
        anchor_similarity=values[:, -1], missing=missing, failed=failed, history=history,
        summary=summary,
    )  # fmt: skip


def _chunks(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), _CHUNK):
        yield places[start : start + _CHUNK]
