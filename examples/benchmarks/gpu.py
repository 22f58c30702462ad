r"""The cost of training on a GPU: images, whole steps, and utilisation when reading from disk.

    python examples/benchmarks/gpu.py --input zinc250k.csv.gz --shards runs/zinc \
        --output runs/gpu.json

Any device can be used (``--device``). Each row is printed at once as JSON and written to
``OUTPUT``, and as tables to the file of that name with ``.md``; an interrupted run loses nothing.

* ``image``: ResNet-18's training step in the precision of ``fit``: images per second by batch
  size, floating-point operations per second (two for each multiplication), their share of those
  of one large matrix product of the same run, and peak memory.
* ``step``: a pre-training step of four views with batches ready on the device: molecules per
  second and peak memory by preset and batch size, and the share of each part in a step.
* ``pipeline``: ``fit`` from shards on disk by processes that read ahead, past the first epoch and
  what they had ready by then, ÷ a bare loop over the same batches, ready on the device: the
  utilisation.

The shards of ``--shards`` are made if they are missing, with images of 96 pixels (which the
preset "base" enlarges). ``--quick`` runs everything with tiny sizes, as a test on a CPU.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import training  # beside this file; it also sets the number of threads

# isort: split
import numpy as np
import torch
from structure import structure_step
from timing import in_turns, ratio, seconds, stepper

from deepchem_mmsa import MMSAConfig, MMSAModel
from deepchem_mmsa.datasets import dataset_from_shards, example_table
from deepchem_mmsa.epochs import epoch_batches
from deepchem_mmsa.layers.image_encoder import ResNet18
from deepchem_mmsa.molecule import MODALITIES
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.tables import read_table
from deepchem_mmsa.training import training_precision
from deepchem_mmsa.views import ViewSettings

PICTURE = 96  # pixels, of the shards
Tell = Callable[..., None]


def repeats(work: Callable[[], Any], budget: float) -> int:
    """Return how often to repeat work, 3 to 20 times, to take about `budget` seconds."""
    work()
    return min(20, max(3, int(budget / max(seconds(work), 1e-6))))


def median(work: Callable[[], Any], budget: float) -> float:
    """Return the median seconds of one call."""
    return float(np.median(in_turns(repeats(work, budget), work=work)["work"]))


def peak_gigabytes(work: Callable[[], Any], device: torch.device, before: int) -> float | None:
    """Return the peak GPU memory of work, without what was allocated `before`."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    seconds(work)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e9


def held(device: torch.device) -> int:
    """Return the bytes that are currently allocated on a GPU."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)


def if_it_fits(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a part's figures, or the error if it runs out of memory."""
    try:
        return part()
    except torch.OutOfMemoryError as error:
        return {"failed": str(error).partition("\n")[0][:120]}


# ---- parts ----------------------------------------------------------------------------------


def image(a: argparse.Namespace, tell: Tell) -> None:
    """Report the throughput of the image encoder against one large matrix product."""
    device = torch.device(a.device)
    native = training.native_bf16(device)
    side = 8192 if device.type == "cuda" else 1024
    count = 10 if device.type == "cuda" else 1
    factor = torch.randn(side, side, device=device).to(torch.bfloat16 if native else torch.float32)

    def product() -> None:
        for _ in range(count):
            torch.mm(factor, factor)

    def one(width: int, pixels: int, n: int) -> dict[str, Any]:
        before = held(device)
        net = ResNet18(width=width).to(device)
        pictures = torch.randint(0, 256, (n, 3, pixels, pixels), dtype=torch.uint8, device=device)
        run: Callable[[], torch.Tensor] = lambda: net(pictures)  # noqa: E731
        step = stepper(net, training.in_bf16(run, a.device) if native else run)
        step()  # creates the optimizer's state
        peak = peak_gigabytes(step, device, before)
        times = in_turns(repeats(step, a.seconds), step=step, product=product)
        each = training.multiplications(net, pictures[:2]) / 2
        taken = float(np.median(times["step"]))
        return {
            "pictures_per_second": n / taken,
            "teraflops": 2 * each * n / taken / 1e12,
            "product_teraflops": 2 * count * side**3 / float(np.median(times["product"])) / 1e12,
            "share_of_product": each * n / (count * side**3) * ratio(times, "product", "step"),
            "peak_gigabytes": peak,
        }

    sizes = (4, 8) if a.quick else (32, 128, 512, 1024)
    encoders = ("base", 64, 224), ("small", 32, 96)
    for (name, width, pixels), n in itertools.product(encoders, sizes):
        row = if_it_fits(functools.partial(one, width, pixels, n))
        tell("image", preset=name, batch=n, bf16=native, **row)


@functools.lru_cache(maxsize=1)
def shards_in(folder: str, table: str | None, molecules: int, jobs: int) -> Any:
    """Return the data set of the shards, which are made if they are missing."""
    smiles = read_table(table).smiles if table else example_table("freesolv").smiles
    settings = ViewSettings(MODALITIES, PICTURE)
    chosen = list(smiles)[:molecules]
    return dataset_from_shards(featurize_to_shards(chosen, folder, settings, 256, jobs))


def data_of(a: argparse.Namespace) -> Any:
    """Return the data set that the arguments name."""
    return shards_in(str(a.shards), a.input, a.molecules, a.jobs)


def bare(model: MMSAModel, ready: list) -> Callable[[], None]:
    """Return the loop of ``fit`` reduced to its steps, with an active memory."""
    network = model.model.train()
    structure_step(network, model.config)
    network.training_dtype = training_precision(model.config, model.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def loop() -> None:
        for inputs, labels, weights in ready:
            optimizer.zero_grad(set_to_none=True)
            outputs = network(inputs)
            model._loss_fn([outputs[i] for i in model._loss_outputs], labels, weights).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), model.config.clip_norm or math.inf)
            optimizer.step()

    return loop


def preset(a: argparse.Namespace, name: str, views: tuple[str, ...], batch: int) -> MMSAConfig:
    """Return a preset for pre-training; a tiny one with ``--quick``."""
    tiny = {"image_size": 32, "image_width": 8, "graph_layers": 2, "geometry_layers": 1,
            "n_anchors": 16, "memory_warmup": 32}  # fmt: skip
    return MMSAConfig.preset(
        name, mode="pretraining", modalities=views, batch_size=batch, **(tiny if a.quick else {})
    )


def step(a: argparse.Namespace, tell: Tell) -> None:
    """Whole pre-training steps, and their parts."""
    data, device = data_of(a), torch.device(a.device)
    X = data.X
    X = X[[bool(r.available) for r in X]]

    def one(config: MMSAConfig) -> dict[str, Any]:
        before, n = held(device), config.batch_size
        model = MMSAModel(config, device=a.device, progress=False)
        some = np.resize(X, n)  # repeated if there are too few
        loop = bare(model, [model._prepare_batch(([some], None, None))])
        loop()
        peak = peak_gigabytes(loop, device, before)
        taken = median(loop, a.seconds)
        del model, loop
        from deepchem.data import NumpyDataset  # here: the package has loaded it quietly

        parts = training.shares(NumpyDataset(some), config, 3, a.device)
        return {
            "molecules_per_second": n / taken,
            "ms_a_step": 1000 * taken,
            "peak_gigabytes": peak,
            **{f"share_{name}": share for name, share in parts.items()},
        }

    for name, n in itertools.product(("base", "small"), (8, 16) if a.quick else (64, 256, 1024)):
        row = if_it_fits(functools.partial(one, preset(a, name, MODALITIES, n)))
        tell("step", preset=name, batch=n, **row)


class StepTimes:
    """Callback that records when steps end, and ends the run after enough of them.

    Parameters
    ----------
    unsettled : int
        Number of first steps, which do not count.
    least : int
        Minimum number of steps that count.
    limit : float
        Minimum number of seconds that these take.
    """

    def __init__(self, unsettled: int, least: int, limit: float) -> None:
        self.unsettled, self.least, self.limit = unsettled, least, limit
        self.ends: list[float] = []

    def __call__(self, model: MMSAModel, step: int) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())
        counted = self.ends[self.unsettled - 1 :]
        if len(counted) > self.least and counted[-1] - counted[0] > self.limit:
            model.stop_training = True

    def seconds(self) -> float:
        """Return the mean of a step."""
        counted = self.ends[self.unsettled - 1 :]
        return (counted[-1] - counted[0]) / (len(counted) - 1)


def pipeline(a: argparse.Namespace, tell: Tell) -> None:
    """``fit`` from shards with processes that read ahead, and the bare loop."""
    data = data_of(a)
    for views, size in ((("graph", "fingerprint"), 512), (MODALITIES, 256)):
        config = preset(a, "small", views, 16 if a.quick else size)
        model = MMSAModel(config, device=a.device, progress=False)
        batches = epoch_batches(data, config.batch_size, [0], config.seed)
        ready = [model._prepare_batch(batch) for batch in batches]
        n, each = len(ready), len(data) / len(ready)
        alone = len(data) / median(bare(model, ready), a.seconds)
        which = {"views": "+".join(views), "batch": config.batch_size}
        tell("pipeline", **which, workers="bare loop", molecules_per_second=alone)
        del model, ready
        for workers in a.workers:
            if workers > (os.cpu_count() or 1) - 1:
                continue
            model = MMSAModel(config, device=a.device, progress=False)
            # Each process has two batches ready when the first step ends: they do not count.
            times = StepTimes(n + 2 + 4 * workers, max(n, 2 * workers), a.seconds)
            more = {"n_workers": workers} if workers else {}
            start = time.perf_counter()
            model.fit(data, nb_epoch=1000, checkpoint_interval=0, callbacks=times, **more)
            found = each / times.seconds()
            tell("pipeline", **which, workers=workers, molecules_per_second=found,
                 over_bare_loop=found / alone, steps=len(times.ends),
                 seconds_to_first_step=times.ends[0] - start)  # fmt: skip


PARTS = {"image": image, "step": step, "pipeline": pipeline}


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table of Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = [[_shown(row.get(name)) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(r) + " |" for r in [names, ["---"] * len(names), *shown])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", help="table of molecules; by default 642 of FreeSolv")
    parser.add_argument("--molecules", type=int, default=2048)
    parser.add_argument("--shards", type=Path, help="folder of the shards; temporary by default")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4, 8, 12])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="approximate time per figure")
    parser.add_argument("--jobs", type=int, default=-1, help="processes for featurization")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a test")
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()
    cuda = torch.device(a.device).type == "cuda"
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(a.device) if cuda else "cpu",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "molecules": a.molecules,
    }
    print(json.dumps(found), flush=True)

    def tell(part: str, **row: Any) -> None:
        print(json.dumps({"part": part, **row}), flush=True)
        found.setdefault(part, []).append(row)
        if a.output:
            a.output.parent.mkdir(parents=True, exist_ok=True)
            a.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
            texts = [f"## {name}\n\n{table(found[name])}\n" for name in PARTS if name in found]
            a.output.with_suffix(".md").write_text("\n".join(texts), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        a.shards = a.shards or Path(folder)
        for part in a.parts:
            start = time.perf_counter()
            PARTS[part](a, tell)
            print(f"{part}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
