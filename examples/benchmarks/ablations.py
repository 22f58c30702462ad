r"""Ablations: the contribution of each part of the method, measured by leaving it out.

    python examples/benchmarks/ablations.py --input chembl78k.csv.gz --molecules 20000 \
        --data-dir DATA --output runs/ablations --preset small --pretrain-epochs 10

Each variant is pre-trained on the same molecules (by ``examples/pretrain.py``, which leaves out
every benchmark's held-out molecules) and fine-tuned on each data set with each seed. Everything
can be resumed: pre-training from its last checkpoint, and each finished fine-tuning is kept in a
file. Views are made once, for all variants. Writes ``results.csv``, ``results.md`` and
``results.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import (
    add_data_arguments,
    add_training_arguments,
    cells_asked_for,
    fields,
    loader,
    training_of,
    write_results,
)

from deepchem_mmsa import MMSAConfig
from deepchem_mmsa.benchmark.cells import run_cells
from deepchem_mmsa.benchmark.contenders import MMSA, NO_STRUCTURE
from deepchem_mmsa.molecule import DEFAULT_MODALITIES, MODALITIES

DATASETS = ("bbbp", "bace", "clintox", "sider", "esol")
PRETRAIN = Path(__file__).parents[1] / "pretrain.py"


def variants(modalities: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return each variant's changes to the whole method, by name."""
    found: dict[str, dict[str, Any]] = {"all": {}}
    for size in range(1, len(modalities)):
        for subset in itertools.combinations(modalities, size):
            if size <= 2 or size == len(modalities) - 1:
                found["+".join(subset)] = {"modalities": list(subset)}
    found |= {
        "without hypergraph": {"hypergraph": False},
        "without memory": {"memory": False},
        "without both": dict(NO_STRUCTURE),
        "without reconstruction": {"w_rec": 0.0},
        "without contrastive": {"w_con": 0.0},
        "without masked atoms": {"w_mask": 0.0},
        "without alignment": {"w_align": 0.0},
    }
    if "fingerprint" in modalities and len(modalities) > 1:
        found["without descriptors"] = {"w_desc": 0.0}
    found |= {f"k={k}": {"n_neighbors": k} for k in (2, 4, 16, 32)}
    found |= {f"K={K}": {"n_anchors": K} for K in (64, 128)}
    # More anchors than the presets have take a longer warm-up.
    found |= {f"K={K}": {"n_anchors": K, "memory_warmup": 8 * K} for K in (512, 1024)}
    return found | {
        "memory by gradient": {"memory_update": "gradient"},
        "scope memory": {"hypergraph_scope": "memory"},
        "staged": {"schedule": "staged"},
    }


def pretrained(a: argparse.Namespace, name: str, changes: dict[str, Any]) -> Path:
    """Pre-train a variant, resume it, or find it finished; return the model's folder."""
    output = a.output / "pretraining" / name.replace(" ", "-")
    command = pretrain_command(a, {**dict(map(fields, a.set)), **changes})
    command += ["--output", str(output), "--epochs", str(a.pretrain_epochs)]
    told, asked = output / "asked.json", {
        "settings": {**dict(map(fields, a.set)), **changes}, "epochs": a.pretrain_epochs,
        "batch size": a.pretrain_batch_size, "preset": a.preset, "modalities": list(a.modalities),
    }  # fmt: skip
    if (output / "model" / "config.json").is_file():
        began = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
        differing = [name for name, value in asked.items() if began.get(name) != value]
        if not differing:
            return output / "model"
        raise SystemExit(
            f"{output} holds a model that was trained with other {', '.join(differing)}: give "
            "another --output"
        )
    output.mkdir(parents=True, exist_ok=True)
    told.write_text(json.dumps(asked), encoding="utf-8")
    # All variants share one selection and one set of shards, whose records hold every view.
    for shared in ("shards", "selection.json", "molecules.txt.gz"):
        place = output / shared
        if not place.is_symlink():
            place.symlink_to(Path("..") / shared)
    subprocess.run(command, check=True)
    return output / "model"


def pretrain_command(a: argparse.Namespace, settings: dict[str, Any]) -> list[str]:
    """Return the command that makes the shards, or pre-trains a variant with these settings."""
    command = [sys.executable, str(PRETRAIN), "--input", *a.input, "--preset", a.preset,
               "--modalities", *a.modalities, "--jobs", str(a.jobs), "--views", *a.modalities,
               "--batch-size", str(a.pretrain_batch_size)]  # fmt: skip
    if a.data_dir:
        command += ["--data-dir", a.data_dir]
    if a.exclude:
        command += ["--exclude", *a.exclude]
    if a.molecules:
        command += ["--molecules", str(a.molecules)]
    return [*command, "--set", *(f"{k}={json.dumps(v)}" for k, v in settings.items())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser, DATASETS)
    parser.add_argument("--input", nargs="+", required=True, help="molecules to pre-train on")
    parser.add_argument("--molecules", type=int, help="use this many, drawn at random")
    parser.add_argument("--exclude", nargs="+",
                        help="exclude held-out molecules of these; all by default")  # fmt: skip
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES,
                        default=list(DEFAULT_MODALITIES))  # fmt: skip
    parser.add_argument("--variants", nargs="+", help="names of variants; default: all")
    parser.add_argument("--pretrain-epochs", type=int, default=10)
    parser.add_argument("--pretrain-batch-size", type=int, default=256)
    add_training_arguments(parser, epochs=50, patience=15)
    a = parser.parse_args()
    modalities = tuple(m for m in MODALITIES if m in a.modalities)
    known = variants(modalities)
    chosen = a.variants or [*known, "from scratch"]
    unknown = sorted({*chosen} - {*known, "from scratch"})
    if unknown:
        parser.error(f"no variant {unknown}; there are {[*known, 'from scratch']}")
    common = dict(map(fields, a.set))
    (a.output / "pretraining").mkdir(parents=True, exist_ok=True)
    # Made once; a selection that was made with other arguments is refused.
    command = pretrain_command(a, common)
    subprocess.run(
        [*command, "--output", str(a.output / "pretraining"), "--epochs", "0"], check=True
    )

    limits = {"epochs": a.epochs, "patience": a.patience}
    keys = str(a.output / "pretraining" / "molecules.txt.gz")
    contenders = []
    for name in chosen:
        if name == "from scratch":
            tuning = training_of(a, "cosine")  # as the others, by pretrain.py
            config = {"modalities": modalities, **common, **tuning}
            contenders.append(MMSA(name, config, preset=a.preset, **limits))
        else:
            weights = pretrained(a, name, known[name])
            contenders.append(
                MMSA(name, training_of(a), weights=str(weights), pretrained_on=keys, **limits)
            )
    cells = cells_asked_for(a, contenders)
    load = loader(a, modalities, MMSAConfig.preset(a.preset, **common).image_size)
    failed = run_cells(cells, load, a.keep_going)
    write_results(cells, a.output)
    if failed:
        sys.exit(f"{len(failed)} cells failed; run the same command again to try them once more")


if __name__ == "__main__":
    main()
