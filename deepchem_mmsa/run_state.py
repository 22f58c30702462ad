"""Progress of a run, which its checkpoints hold beside the states of network and optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from deepchem_mmsa.epochs import batch_bounds


class Averages:
    """Running means of named figures since they were last read.

    Parameters
    ----------
    sums, counts : dict, optional
        Earlier sums and counts, when resuming from a checkpoint.

    Examples
    --------
    >>> averages = Averages()
    >>> averages.add({"loss": 1.0})
    >>> averages.add({"loss": 3.0, "mask": math.nan})
    >>> averages.read()
    {'loss': 2.0}
    """

    def __init__(
        self, sums: dict[str, float] | None = None, counts: dict[str, int] | None = None
    ) -> None:
        self.sums, self.counts = dict(sums or {}), dict(counts or {})

    def add(self, values: dict[str, float]) -> None:
        """Add figures; NaN ones are skipped."""
        for name, value in values.items():
            if not math.isnan(value):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the means so far."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def read(self) -> dict[str, float]:
        """Return the means, and reset."""
        means = self.means()
        self.sums, self.counts = {}, {}
        return means


@dataclass
class RunState:
    """Progress of a run in epochs and batches, with its running averages.

    Parameters
    ----------
    epoch, batch : int
        Epochs completed since the model was made, and batches completed in the current one.
    first_epoch, first_step : int
        Epoch and step at which the call of ``fit`` began.
    sizes : list, optional
        Number of molecules, batch size, and seed of the order (None: the dataset's own).
    since_log, of_epoch : Averages
        Figures since the last row of the log, and of the epoch.
    logged : list of float
        The mean loss of each interval that was logged.
    skipped : int
        Batches of the epoch that were skipped.
    ended : bool
        Whether the run is complete.

    Examples
    --------
    >>> state = RunState(epoch=2, batch=5)
    >>> RunState.from_dict(state.to_dict()).batch
    5
    """

    epoch: int = 0
    batch: int = 0
    first_epoch: int = 0
    first_step: int = 0
    sizes: list[int | None] | None = None
    since_log: Averages = field(default_factory=Averages)
    of_epoch: Averages = field(default_factory=Averages)
    logged: list[float] = field(default_factory=list)
    skipped: int = 0
    ended: bool = False

    def begin(self, step: int) -> None:
        """Start a run at this epoch and step."""
        self.first_epoch, self.first_step, self.batch = self.epoch, step, 0
        self.since_log, self.of_epoch = Averages(), Averages()
        self.ended = False

    @property
    def is_epoch_over(self) -> bool:
        """Whether the current epoch has had all its batches, and is not closed yet."""
        n_molecules, batch_size = (int(size or 0) for size in (self.sizes or [0, 1])[:2])
        return 0 < self.batch == len(batch_bounds(n_molecules, batch_size))

    @property
    def last_logged(self) -> float:
        """The mean loss of the most recent interval, which ``fit`` returns; 0 before the first."""
        return self.logged[-1] if self.logged else 0.0

    def check_sizes(self, sizes: list[int | None], folder: str) -> None:
        """Check that a run resumed within an epoch has the same data, batch size and order.

        Raises
        ------
        ValueError
            If it is within an epoch, and one of them differs.
        """
        before, self.sizes = self.sizes, sizes
        if before is not None:  # older checkpoints lack the seed
            before = [*before, *sizes[len(before) :]]
        if self.batch and before is not None and before != sizes:
            raise ValueError(
                f"the run in {folder} is at batch {self.batch} of an epoch of "
                f"{before[0]} molecules in batches of {before[1]}{_order(before)}, and cannot "
                f"resume with {sizes[0]} in batches of {sizes[1]}{_order(sizes)}: give it the same "
                f"data, batch_size={before[1]} and order, or start a new run with restore=False"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` reads, as plain values."""
        return {
            "place": [self.epoch, self.batch, self.first_epoch, self.first_step],
            "sizes": self.sizes,
            "averages": [[a.sums, a.counts] for a in (self.since_log, self.of_epoch)],
            "logged": self.logged,
            "skipped": self.skipped,
            "ended": self.ended,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Build from the result of :meth:`to_dict`; older ones lack its last entries."""
        epoch, batch, first_epoch, first_step = state["place"]
        since_log, of_epoch = (Averages(*sums) for sums in state["averages"])
        return cls(
            epoch, batch, first_epoch, first_step, state.get("sizes"), since_log, of_epoch,
            state.get("logged", []), state.get("skipped", 0), state.get("ended", False),
        )  # fmt: skip


def _order(sizes: list[int | None]) -> str:
    return " in the dataset's order" if sizes[2] is None else f" in the order of seed {sizes[2]}"
