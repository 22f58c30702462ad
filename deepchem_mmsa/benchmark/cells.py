"""Resumable runs: one small file per finished (data set, model, seed).

A cell is finished when its two files exist: predictions (NumPy) and scores (JSON), which are
renamed into place together. A run that is repeated after it was killed skips the finished cells
and loses at most one. The name of a cell's file contains a digest of the model's settings, so that
other settings never reuse an old result; a result from other data, or of a network whose weights
or preset now say something else, is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from deepchem_mmsa._version import __version__
from deepchem_mmsa.atomic import write_together
from deepchem_mmsa.benchmark.contenders import Contender
from deepchem_mmsa.benchmark.scores import labels_of, score
from deepchem_mmsa.benchmark.sets import Split

logger = logging.getLogger(__name__)

Identity = Callable[[str], Mapping[str, str | None]]


def _no_identity(dataset: str) -> Mapping[str, str | None]:
    return {}


@dataclass(frozen=True)
class Cell:
    """One contender on one split with one seed, and its files.

    Parameters
    ----------
    folder : Path
        Of the whole run.
    protocol, dataset : str
    contender : Contender
    seed : int
    max_molecules : int, optional
        Size to which the data set is reduced; such cells are kept in a separate folder.
    identity : callable, optional
        Maps the name of a set to what identifies its data
        (:func:`~deepchem_mmsa.benchmark.sets.data_identity`).
    """

    folder: Path
    protocol: str
    dataset: str
    contender: Contender
    seed: int
    max_molecules: int | None = None
    identity: Identity = _no_identity

    @property
    def path(self) -> Path:
        """Its JSON file; the predictions are in the ``.npz`` file of the same name."""
        settings = json.dumps(self.contender.settings(), sort_keys=True, default=str)
        key = hashlib.sha256(settings.encode()).hexdigest()[:10]
        plain = re.sub(r"[^\w=+-]+", "-", self.contender.name)
        name = f"{plain}-seed{self.seed}-{key}.json"
        cut = "" if self.max_molecules is None else f"-{self.max_molecules}"
        return self.folder / "cells" / self.protocol / (self.dataset + cut) / name

    @property
    def finished(self) -> bool:
        """Whether there is a result, with its predictions."""
        return self.path.is_file() and self.path.with_suffix(".npz").is_file()

    def result(self) -> dict[str, Any]:
        """Return the stored result; a score that does not exist, null in the file, is NaN.

        Raises
        ------
        ValueError
            If the file is damaged; the message names it.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged ({error}): remove it") from error
        return found | {k: math.nan for k in ("valid", "test") if found[k] is None}

    def check(self) -> None:
        """Check that the result of a finished cell is of the same data and the same network.

        Raises
        ------
        ValueError
            If it is not. Fields that an older result lacks, and files that are not there, are not
            compared.
        """
        result = self.result()
        there = {name: mine for name, mine in self.identity(self.dataset).items() if mine}
        configuration: dict[str, Any] = getattr(self.contender, "configuration", dict)()
        for what, theirs, now in (
            ("data", {k: v for k, v in result.get("data", {}).items() if v}, there),
            ("settings of the network", result["details"].get("config", {}), configuration),
        ):
            for name, mine in now.items():
                if name in theirs and theirs[name] != mine:
                    raise ValueError(
                        f"{self.path} is a result of other {what} ({name} {theirs[name]}, now "
                        f"{mine}): give another output folder"
                    )

    def predictions(self) -> dict[str, np.ndarray]:
        """Return ``valid`` and ``test`` predictions, float32, with labels and weights.

        The keys are ``valid``, ``test``, ``valid_y``, ``valid_w``, ``test_y``, ``test_w``.
        """
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def run(self, split: Split) -> dict[str, Any]:
        """Train, score, write; return the result."""
        started = time.time()
        outcome = self.contender.run(split, self.seed)
        seconds = time.time() - started
        valid, _ = score(split.valid, outcome.valid, split.metric)
        test, per_task = score(split.test, outcome.test, split.metric)
        arrays = {"valid": outcome.valid, "test": outcome.test}
        for name in ("valid", "test"):
            y, w = labels_of(split.parts()[name])
            arrays |= {f"{name}_y": y, f"{name}_w": w}
        result = {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "model": self.contender.name,
            "seed": self.seed,
            "metric": split.metric,
            "mode": split.mode,
            "valid": _number(valid),
            "test": _number(test),
            "per_task": dict(zip(split.tasks, map(_number, per_task))),
            "sizes": [len(part) for part in split.parts().values()],
            "seconds": round(seconds, 1),
            "details": outcome.details,
            "settings": self.contender.settings(),
            "data": dict(self.identity(self.dataset)),
            "versions": {
                "deepchem_mmsa": __version__,
                **{name: version(name) for name in ("torch", "rdkit", "deepchem", "scikit-learn")},
            },
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        small = {name: np.asarray(a, dtype=np.float32) for name, a in arrays.items()}
        text = json.dumps(result, indent=1, default=_plain)
        write_together(
            {
                self.path.with_suffix(".npz"): lambda name: _save_arrays(name, small),
                self.path: lambda name: Path(name).write_text(text, encoding="utf-8"),
            }
        )
        return self.result()


def _save_arrays(name: str, arrays: dict[str, np.ndarray]) -> None:
    with open(name, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _number(score: float) -> float | None:
    """Return a score that JSON can hold: NaN, of a task with one class, is null."""
    return None if math.isnan(score) else score


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def cells_of(
    folder: str | Path,
    protocols: Iterable[str],
    datasets: Sequence[str],
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    max_molecules: int | None = None,
    identity: Identity = _no_identity,
) -> list[Cell]:
    """Return all cells of a run, each once, in the order in which they are run."""
    return [
        Cell(Path(folder), protocol, dataset, contender, seed, max_molecules, identity)
        for dataset in dict.fromkeys(datasets)
        for protocol in dict.fromkeys(protocols)
        for seed in dict.fromkeys(seeds)
        for contender in {contender.name: contender for contender in contenders}.values()
    ]


def run_cells(
    cells: Sequence[Cell],
    load: Callable[[str, str], Split],
    keep_going: bool = False,
    report: Callable[[str], None] = print,
) -> list[Cell]:
    """Run the cells that are not finished.

    Parameters
    ----------
    cells : sequence of Cell
    load : callable
        ``load(dataset, protocol)`` → :class:`~deepchem_mmsa.benchmark.sets.Split`; called only
        for data sets with something left to do, once for each.
    keep_going : bool
        Whether to report a cell that fails, or a set that cannot be loaded, and continue with the
        next one instead of raising.
    report : callable
        Called with a line of text for each cell.

    Returns
    -------
    list of Cell
        The cells that failed.

    Raises
    ------
    ValueError
        If a finished cell is a result of other data, or of another network.
    """
    for cell in cells:
        if cell.finished:
            cell.check()
    failed: list[Cell] = []
    loaded: tuple[str, str] | None = None
    for number, cell in enumerate(cells, 1):
        if cell.finished:
            continue
        place = f"[{number}/{len(cells)}] {cell.protocol} {cell.dataset} {cell.contender.name}"
        try:
            if loaded != (cell.dataset, cell.protocol):
                split = load(cell.dataset, cell.protocol)
                loaded = (cell.dataset, cell.protocol)
            result = cell.run(split)
        except Exception as error:  # any error of one model: reported, its cell left for later
            if not keep_going:
                raise
            logger.exception("%s seed %d failed", place, cell.seed)
            report(f"{place} seed {cell.seed}: FAILED, {type(error).__name__}: {error}")
            failed.append(cell)
            continue
        report(
            f"{place} seed {cell.seed}: valid {result['valid']:.4f}, test {result['test']:.4f}, "
            f"{result['seconds']:.0f} s"
        )
    return failed
