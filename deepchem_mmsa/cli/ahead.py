"""Featurization in other processes while this one loads the model and computes.

This module does not import torch when loaded: that takes longer than featurizing 1000 graphs.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.tables import Table
from deepchem_mmsa.views import ViewSettings, record_maker, warm_up

Prepare = Callable[[Table, Callable[[int], None]], Sequence[object]]

_FEW_BYTES = 1 << 16  # of input, about a thousand molecules: starting processes takes longer


def processes(jobs: int, *sources: str) -> int:
    """Return the number of featurization processes, and start them in the background.

    Parameters
    ----------
    jobs : int
        See ``--jobs``; 0 decides by the size of the largest input.
    *sources : str
    """
    from joblib import cpu_count

    if jobs == 0:
        bytes_of = (os.path.getsize(source) for source in sources if os.path.isfile(source))
        jobs = -1 if max(bytes_of, default=0) > _FEW_BYTES else 1
    jobs = max(1, cpu_count() + 1 + jobs) if jobs < 0 else jobs
    warm_up(jobs)
    return jobs


def described(folder: Path) -> tuple[MMSAConfig, ViewSettings] | None:
    """Return an exported model's configuration and the views that it reads, without torch.

    None if its files cannot be read; loading the model then reports what is wrong with them.
    """
    from safetensors import SafetensorError, safe_open

    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = MMSAConfig.from_dict(told["config"])
        with safe_open(folder / "model.safetensors", "numpy") as weights:
            drawn = int(weights.get_tensor("picture_size"))
        return config, ViewSettings.of(config, drawn)
    except (
        OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
        SafetensorError,
    ):  # fmt: skip
        return None


@contextmanager
def records_ahead(settings: ViewSettings | None, jobs: int) -> Iterator[Prepare | None]:
    """Keep processes that featurize a table; a molecule that crashes one fails only its row.

    Yields
    ------
    callable or None
        Maps a table and a progress callback, called with the number of records made, to the
        records; None if the views are not known yet.
    """
    if settings is None:
        yield None
        return
    from deepchem_mmsa.molecule import MoleculeViews

    with record_maker(settings, jobs, contained=True, background=jobs != 1) as make:

        def prepare(table: Table, tell: Callable[[int], None]) -> list[object]:
            records: list[object] = []
            with closing(make(table.smiles)) as made:
                for data in made:
                    records.append(MoleculeViews.from_bytes(data))
                    tell(len(records))
            return records

        yield prepare


class Halves:
    """Progress of two threads: a row counts half when its views are made, half when computed.

    Attributes
    ----------
    progress : callable or None
        Called with the number of rows, which never falls.
    """

    def __init__(self) -> None:
        self.progress: Callable[[int], None] | None = None
        self._done = {"made": 0, "computed": 0}
        self._lock = threading.Lock()

    def of(self, part: str) -> Callable[[int], None]:
        """Return the callback of one thread, for the rows "made" or "computed" so far."""

        def tell(done: int) -> None:
            with self._lock:
                self._done[part] = done
                if self.progress is not None:
                    self.progress(sum(self._done.values()) // 2)

        return tell


@contextmanager
def threads_beside(jobs: int) -> Iterator[Callable[[], None]]:
    """Reduce torch's threads, which wait for each other, to leave cores to busy processes.

    Yields
    ------
    callable
        Restores the number of threads; called once the processes have finished.
    """
    import torch
    from joblib import cpu_count

    threads, cores = torch.get_num_threads(), cpu_count()
    # At least half of the cores: the processes run at a lower priority.
    torch.set_num_threads(max(1, min(threads, max(cores // 2, cores - jobs))))
    try:
        yield lambda: torch.set_num_threads(threads)
    finally:
        torch.set_num_threads(threads)
