r"""Several conformers per molecule: for training, for averaging predictions, or both.

    python examples/benchmarks/conformers.py --data-dir DATA --datasets freesolv esol \
        --output runs/conformers

The geometry view alone, from scratch. ``3 → 5`` trains on three conformers of each molecule
(seeds 0, 1, 2: three times the steps of an epoch) and predicts the mean over five.
Each finished (data set, choice, seed) is kept in a file, as in the benchmark. Writes
``results.csv``, ``results.md`` and ``results.png``.
"""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from common import (
    add_data_arguments,
    add_training_arguments,
    cells_asked_for,
    fields,
    loader,
    training_of,
    write_results,
)

from deepchem_mmsa import MMSAFeaturizer
from deepchem_mmsa.benchmark import Split
from deepchem_mmsa.benchmark.cells import run_cells
from deepchem_mmsa.benchmark.contenders import MMSA, Outcome


@functools.lru_cache(maxsize=32)
def records(smiles: tuple[str, ...], seed: int, optimize: bool, jobs: int) -> np.ndarray:
    """Return the molecules with the conformers of a seed."""
    featurizer = MMSAFeaturizer("geometry", seed=seed, optimize_conformer=optimize, n_jobs=jobs)
    return featurizer.featurize(list(smiles))


@dataclass(frozen=True)
class SeveralConformers:
    """A network that reads the geometry view, with several conformers of each molecule.

    Parameters
    ----------
    network : MMSA
    n_train, n_predict : int
        Conformers to train on, and to average the predictions over.
    optimize : bool
        Relax them with a force field.
    jobs : int
    """

    network: MMSA
    n_train: int
    n_predict: int
    optimize: bool = False
    jobs: int = -1

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.n_train} → {self.n_predict}"

    def settings(self) -> dict[str, Any]:
        """Return the settings of the network, and the numbers of conformers."""
        return {**self.network.settings(), "conformers": [self.n_train, self.n_predict]}

    def run(self, split: Split, seed: int) -> Outcome:
        """Train, choose the epoch by all validation conformers, predict the means."""
        found = self.network.run(
            replace(
                split,
                train=self._repeated(split.train, self.n_train),
                valid=self._repeated(split.valid, self.n_predict),
                test=self._repeated(split.test, self.n_predict),
            ),
            seed,
        )

        def mean(values: np.ndarray) -> np.ndarray:
            return values.reshape(self.n_predict, -1, *values.shape[1:]).mean(0)

        return Outcome(mean(found.valid), mean(found.test), found.details)

    def _repeated(self, part: Any, n: int) -> Any:
        each = (records(tuple(part.ids), seed, self.optimize, self.jobs) for seed in range(n))
        X = np.concatenate(list(each))
        from deepchem.data import NumpyDataset  # here: the package has loaded it quietly

        return NumpyDataset(
            X, np.tile(part.y, (n, 1)), np.tile(part.w, (n, 1)), np.tile(part.ids, n)
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser, ["freesolv", "esol"])
    parser.add_argument("--choices", nargs="+", default=["1,1", "1,5", "3,5"],
                        metavar="TRAIN,PREDICT")  # fmt: skip
    add_training_arguments(parser, epochs=40, patience=10)
    a = parser.parse_args()
    config = {"modalities": ("geometry",), **training_of(a), **dict(map(fields, a.set))}
    network = MMSA("geometry", config, preset=a.preset, epochs=a.epochs, patience=a.patience)
    a.output.mkdir(parents=True, exist_ok=True)
    cells = cells_asked_for(
        a,
        [
            SeveralConformers(
                network, *map(int, c.split(",")), optimize=a.optimize_conformer, jobs=a.jobs
            )
            for c in a.choices
        ],
    )
    failed = run_cells(cells, loader(a, ("geometry",), MMSAFeaturizer().image_size), a.keep_going)
    write_results(cells, a.output)
    if failed:
        sys.exit(f"{len(failed)} cells failed; run the same command again to try them once more")


if __name__ == "__main__":
    main()
