r"""How cost and memory grow with the number of molecules: featurize, train an epoch, predict.

    python examples/benchmarks/scaling.py --data-dir DATA --output runs/scaling

Each figure comes from a separate process: the seconds of the work without imports, the peak
resident memory (of it and its largest child), and the bytes of the shards. From several sizes
follow the exponent of growth (1 is linear), the ratio of the peaks, and the extrapolated cost of
10 million and a billion molecules. Writes ``scaling.json``, ``scaling.md`` and ``scaling.png``.

With all views 100,000 molecules take hours of a core; ``--modalities graph`` takes minutes. The
shards stay in ``OUTPUT``, but each run makes them again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

STEPS = ("featurize", "train", "predict")
BILLED = (10_000_000, 1_000_000_000)
Figures = dict[str, dict[int, dict[str, float]]]


def peak_megabytes() -> float:
    """Return the peak resident memory of this process plus that of its largest child."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024


def smiles_of(path: Path, n: int) -> Iterator[str]:
    """Yield the first `n` SMILES of a table, which is repeated if it is shorter."""
    import pandas as pd

    def once() -> Iterator[str]:
        for chunk in pd.read_csv(path, usecols=["smiles"], chunksize=1000):
            yield from chunk["smiles"]

    yield from itertools.islice(itertools.chain.from_iterable(once() for _ in itertools.count()), n)


def featurize(a: argparse.Namespace) -> float:
    """Make the shards, and return the time of one core."""
    from deepchem_mmsa.shards import featurize_to_shards
    from deepchem_mmsa.views import ViewSettings, molecule_views

    settings = ViewSettings(tuple(a.modalities), image_size=96)
    molecule_views("CCO", settings)  # what is set up once in a process
    shutil.rmtree(a.folder, ignore_errors=True)
    began = time.perf_counter()
    featurize_to_shards(smiles_of(a.table, a.molecules), a.folder, settings, n_jobs=1)
    return time.perf_counter() - began


def train(a: argparse.Namespace) -> float:
    """Pre-train for an epoch over the shards."""
    from deepchem_mmsa import MMSAModel
    from deepchem_mmsa.datasets import dataset_from_shards

    model = MMSAModel(
        "small", mode="pretraining", modalities=tuple(a.modalities), memory_warmup=512,
        model_dir=str(a.folder.with_suffix(".model")),
    )  # fmt: skip
    dataset = dataset_from_shards(a.folder)
    began = time.perf_counter()
    model.fit(dataset, nb_epoch=1, checkpoint_interval=0)
    seconds = time.perf_counter() - began
    model.save_pretrained(str(a.folder.with_suffix(".pretrained")))
    return seconds


def predict(a: argparse.Namespace) -> float:
    """Embed the molecules of the shards, a batch at a time."""
    from deepchem_mmsa.predictor import MMSAPredictor
    from deepchem_mmsa.shards import ShardSet

    predictor = MMSAPredictor.from_pretrained(a.folder.with_suffix(".pretrained"))
    began, rows = time.perf_counter(), 0
    for part in predictor.stream(ShardSet.open(a.folder), "embed"):
        rows += len(part.values)
    assert rows == a.molecules
    return time.perf_counter() - began


def growth(sizes: list[int], seconds: list[float]) -> float:
    """Return the exponent of the power law through the times, by least squares of the logs."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def table(views: str, figures: Figures) -> list[str]:
    """Return the measured and the extrapolated costs as lines of Markdown."""
    sizes = sorted(figures["featurize"])
    large = sizes[-1]
    lines = [
        f"| {views} | " + " | ".join(f"ms a molecule at {n:,}" for n in sizes)
        + " | exponent | peak MB | largest ÷ second | core-hours for "
        + " | core-hours for ".join(f"{n:,}" for n in BILLED) + " |",
        "| --- " * (len(sizes) + 4 + len(BILLED)) + "|",
    ]  # fmt: skip
    for step, at in figures.items():
        each = [1000 * at[n]["seconds"] / n for n in sizes]
        peaks = [at[n]["megabytes"] for n in sizes]
        hours = [at[large]["seconds"] / large * n / 3600 for n in BILLED]
        row = [
            step, *(f"{ms:.3g}" for ms in each),
            f"{growth(sizes, [at[n]['seconds'] for n in sizes]):.3f}", f"{peaks[-1]:.0f}",
            f"{peaks[-1] / peaks[-2]:.3f}", *(f"{h:,.0f}" for h in hours),
        ]  # fmt: skip
        lines.append("| " + " | ".join(row) + " |")
    each_bytes = figures["featurize"][large]["bytes"] / large
    disk = ", ".join(f"{each_bytes * n / 1e12:.3g} TB for {n:,}" for n in BILLED)
    return [*lines, "", f"{each_bytes:.0f} bytes a molecule on disk: {disk}.", ""]


def plot(results: dict[str, Figures], path: Path) -> None:
    """Draw seconds against molecules on logarithmic axes, a line a step, a panel for each views."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(results), 4), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for panel, (views, figures) in zip(panels, results.items()):
        for step, at in figures.items():
            sizes = sorted(at)
            seconds = [at[n]["seconds"] for n in sizes]
            panel.loglog(sizes, seconds, "o-", label=f"{step}: n^{growth(sizes, seconds):.2f}")
        panel.set(title=views, xlabel="molecules")
        panel.grid(alpha=0.3)
        panel.legend()
    panels[0].set_ylabel("seconds")
    figure.savefig(path, dpi=150)


def measure(a: argparse.Namespace, step: str, size: int) -> dict[str, float]:
    """Run one step in a separate process."""
    folder = a.output / f"{'-'.join(a.modalities)}-{size}"
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, "--folder", str(folder),
         "--molecules", str(size), "--table", str(a.table), "--modalities", *a.modalities],
        check=True, stdout=subprocess.PIPE, text=True, env={"OMP_NUM_THREADS": "1", **os.environ},
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    found["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{step:10} {size:8,} molecules {found['seconds']:8.1f} s {found['megabytes']:6.0f} MB",
          flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="folder of the MoleculeNet files")
    parser.add_argument("--table", type=Path, help="molecules; ZINC of DATA if left out")
    parser.add_argument("--output", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--modalities", nargs="+", default=["image", "graph", "geometry"])
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--molecules", type=int, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.step:
        seconds = {"featurize": featurize, "train": train, "predict": predict}[a.step](a)
        print(json.dumps({"seconds": seconds, "megabytes": peak_megabytes()}))
        return
    if a.table is None:
        if a.data_dir is None:
            parser.error("give --data-dir, the folder of the MoleculeNet files, or --table")
        a.table = a.data_dir / "pretrain" / "zinc250k.csv.gz"
    if len(a.sizes) < 2:
        parser.error("growth needs two sizes or more")
    a.output.mkdir(parents=True, exist_ok=True)
    # Results of earlier runs with other views are kept.
    kept = a.output / "scaling.json"
    results: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    views = ", ".join(a.modalities)
    results[views] = {step: {str(n): measure(a, step, n) for n in a.sizes} for step in STEPS}
    kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
    read = {
        views: {step: {int(n): found for n, found in at.items()} for step, at in figures.items()}
        for views, figures in results.items()
    }
    lines = [line for views, figures in read.items() for line in table(views, figures)]
    (a.output / "scaling.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    plot(read, a.output / "scaling.png")


if __name__ == "__main__":
    main()
