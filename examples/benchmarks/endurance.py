r"""Endurance test: memory and speed stay constant, and every file is closed.

    python examples/benchmarks/endurance.py --data-dir DATA --output runs/endurance.json

* ``stream``: one process predicts 200,000 molecules from their SMILES. Speed of the last tenth ÷
  the first (goal: at least 0.95), growth of resident memory and of open files after the first.
* ``soak``: an hour of fit, predict, save, load, over and over in one process; growth of resident
  memory and of open files between the first and the last quarter.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from deepchem_mmsa import MMSAFeaturizer, MMSAModel, MMSAPredictor
from deepchem_mmsa.datasets import dataset_from_smiles

PARTS = ("stream", "soak")


def resident() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """Return the number of this process's open files."""
    return len(os.listdir("/proc/self/fd"))


def endless(table: Path) -> Iterator[str]:
    """Yield the SMILES of a table, over and over."""
    for _ in itertools.count():
        for chunk in pd.read_csv(table, usecols=["smiles"], chunksize=1000):
            yield from chunk["smiles"].str.strip()


def untrained(modalities: list[str]) -> MMSAModel:
    """Make an untrained small classifier: training affects neither speed nor memory."""
    return MMSAModel("small", mode="classification", modalities=tuple(modalities), batch_size=64)


def stream(a: argparse.Namespace, table: Path) -> dict[str, Any]:
    """Predict many molecules in one process."""
    with tempfile.TemporaryDirectory() as folder:
        untrained(a.modalities).save_pretrained(folder)
        predictor = MMSAPredictor.from_pretrained(folder)
    molecules = itertools.islice(endless(table), a.molecules)
    tenth, done = a.molecules // 10, 0
    rates, memory, files = [], [], []
    began = time.perf_counter()
    for part in predictor.stream(molecules):
        before, done = done, done + len(part.values)
        if done // tenth > before // tenth:
            now = time.perf_counter()
            rates.append(tenth / (now - began))
            memory.append(resident())
            files.append(open_files())
            began = now
    assert done == a.molecules
    return {
        "molecules": done,
        "molecules_per_second": [round(rate, 1) for rate in rates],
        "last_tenth_over_first": rates[-1] / rates[0],
        "resident_mb": [round(m, 1) for m in memory],
        "growth_mb_after_the_first_tenth": memory[-1] - memory[0],
        "growth_of_open_files": files[-1] - files[0],
    }


def soak(a: argparse.Namespace, table: Path) -> dict[str, Any]:
    """Fit, predict, save and load until the time is over."""
    smiles = list(itertools.islice(endless(table), 256))
    data = dataset_from_smiles(
        smiles, MMSAFeaturizer(tuple(a.modalities), image_size=96),
        np.array([len(s) % 2 for s in smiles], float),
    )  # fmt: skip
    memory, files, rounds = [], [], 0
    end = time.monotonic() + 60 * a.minutes
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < end:
            model = untrained(a.modalities)
            model.fit(data, nb_epoch=1, checkpoint_interval=0)
            expected = model.predict(data)
            model.save_pretrained(Path(name) / "model")
            found = MMSAPredictor.from_pretrained(Path(name) / "model").predict(list(data.X)).values
            np.testing.assert_allclose(found, expected, atol=1e-5)
            rounds += 1
            gc.collect()
            memory.append(resident())
            files.append(open_files())
    quarter = max(1, rounds // 4)
    first, last = memory[:quarter], memory[-quarter:]
    return {
        "minutes": a.minutes,
        "rounds": rounds,
        "resident_mb_first_and_last": [round(memory[0], 1), round(memory[-1], 1)],
        "growth_mb_of_the_median_first_to_last_quarter": statistics.median(last)
        - statistics.median(first),
        "growth_of_open_files": files[-1] - files[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--modalities", nargs="+", default=["graph"])
    parser.add_argument("--molecules", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--output", type=Path, default=Path("runs/endurance.json"))
    a = parser.parse_args()
    table = a.data_dir / "pretrain" / "zinc250k.csv.gz"
    found: dict[str, Any] = {}
    for part in a.parts:
        found[part] = {"stream": stream, "soak": soak}[part](a, table)
        print(json.dumps(found[part], indent=1), flush=True)
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
