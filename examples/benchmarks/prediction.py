r"""The cost of prediction as a whole process, start-up included, compared with chemprop.

    python examples/benchmarks/prediction.py --data-dir DATA --chemprop PATH/TO/chemprop

Programs take turns on the same ZINC molecules and the same cores; the median over the turns of
the ratios is printed.

* ``chemprop``: ``chemprop predict`` ÷ ``mmsa predict`` with the graph view, from a table of SMILES
  to a table of probabilities, for GIN 5 × 300 (preset base, 1.9 million parameters) and GIN 4 × 192
  (preset small, 0.6 million; chemprop's default has 0.3). All models are made here and hardly
  trained, which does not affect the time.
* ``cold``: one molecule in a fresh process ÷ importing torch and dgl in one.
* ``views``: predicting from all views ÷ making their records, in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import pandas as pd
from timing import in_turns, ratio

from deepchem_mmsa import MMSAModel, MMSAPredictor
from deepchem_mmsa.molecule import DEFAULT_MODALITIES
from deepchem_mmsa.views import many_views

PARTS = ("cold", "chemprop", "views")
MMSA = (sys.executable, "-m", "deepchem_mmsa")


def program(*words: object) -> Callable[[], None]:
    """Return a call of a program that must succeed."""

    def call() -> None:
        done = subprocess.run([*map(str, words)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{words[0]} failed: {done.stderr[-2000:]}")

    return call


def exported(folder: Path, *modalities: str, preset: str = "base") -> Path:
    """Export an untrained classifier of the given views."""
    model = MMSAModel(preset, mode="classification", modalities=modalities, image_size=96,
                      image_width=32)  # fmt: skip
    model.save_pretrained(folder)
    return folder


def beside_chemprop(
    smiles: list[str], sizes: list[int], chemprop: str, repeats: int, work: Path
) -> dict[str, float]:
    """Compare whole processes."""
    labelled = pd.DataFrame({"smiles": smiles[:200], "y": [i % 2 for i in range(200)]})
    labelled.to_csv(work / "labelled.csv", index=False)
    program(
        chemprop, "train", "--data-path", work / "labelled.csv", "--task-type", "classification",
        "--smiles-columns", "smiles", "--target-columns", "y", "--epochs", 2,
        "--warmup-epochs", 1, "--num-workers", 0, "--output-dir", work / "chemprop",
    )()  # fmt: skip
    models = {p: exported(work / p, "graph", preset=p) for p in ("base", "small")}
    found = {}
    for size in sizes:
        given = work / f"{size}.csv"
        pd.DataFrame({"smiles": smiles[:size]}).to_csv(given, index=False)
        times = in_turns(repeats, **{
            "chemprop": program(
                chemprop, "predict", "--test-path", given, "--smiles-columns", "smiles",
                "--model-paths", work / "chemprop" / "model_0" / "best.pt",
                "--preds-path", work / "told.csv", "--num-workers", 0, "--accelerator", "cpu",
            ),
            **{
                preset: program(*MMSA, "predict", given, "--model", model, "--output",
                                work / "ours.csv", "--quiet")
                for preset, model in models.items()
            },
        })  # fmt: skip
        for name, each in times.items():
            found[f"seconds of {name}, {size}"] = sorted(each)[len(each) // 2]
        for preset in models:
            found[f"chemprop ÷ {preset}, {size}"] = ratio(times, "chemprop", preset)
    return found


def cold_start(repeats: int, work: Path) -> dict[str, float]:
    """Compare one prediction in a fresh process with two imports."""
    model = exported(work / "cold", "graph")
    imports = "from deepchem_mmsa.layers.dgl_backend import import_dgl; import torch; import_dgl()"
    (work / "one.smi").write_text("CC(=O)Oc1ccccc1C(=O)O\n", encoding="utf-8")
    python = (
        "from deepchem_mmsa import MMSAPredictor\n"
        f"MMSAPredictor.from_pretrained({str(model)!r}).predict(['CC(=O)Oc1ccccc1C(=O)O'])"
    )
    times = in_turns(repeats, **{
        "imports": program(sys.executable, "-c", imports),
        "torch": program(sys.executable, "-c", "import torch"),
        "Python": program(sys.executable, "-c", python),
        "command": program(*MMSA, "predict", work / "one.smi", "--model", model, "--output",
                           work / "one.csv"),
    })  # fmt: skip
    return {
        "seconds of importing torch and dgl": sorted(times["imports"])[repeats // 2],
        "a prediction in Python ÷ importing torch and dgl": ratio(times, "Python", "imports"),
        "mmsa predict ÷ importing torch and dgl": ratio(times, "command", "imports"),
        "mmsa predict ÷ importing torch": ratio(times, "command", "torch"),
    }


def all_views(smiles: list[str], repeats: int, work: Path) -> dict[str, float]:
    """Compare prediction with making the records, its first step."""
    predictor = MMSAPredictor.from_pretrained(exported(work / "all", *DEFAULT_MODALITIES))
    times = in_turns(repeats, **{
        "records": lambda: sum(1 for _ in many_views(smiles, predictor.settings)),
        "predict": lambda: predictor.predict(smiles),
    })  # fmt: skip
    return {"throughput of predict ÷ featurization, all views": ratio(times, "records", "predict")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--chemprop", help="path of the chemprop program, in its own environment")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/prediction.json"))
    a = parser.parse_args()
    if "chemprop" in a.parts and a.chemprop is None:
        parser.error("the part 'chemprop' needs --chemprop PATH")
    table = pd.read_csv(a.data_dir / "pretrain" / "zinc250k.csv.gz", nrows=max(a.sizes))
    smiles = table["smiles"].str.strip().tolist()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if "cold" in a.parts:
            found |= cold_start(a.repeats, work)
        if "views" in a.parts:
            found |= all_views(smiles[:1000], a.repeats, work)
        if "chemprop" in a.parts:
            found |= beside_chemprop(smiles, a.sizes, a.chemprop, a.repeats, work)
    for key, value in found.items():
        print(f"{key:60} {value:8.3f}")
    a.output.parent.mkdir(parents=True, exist_ok=True)
    a.output.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
