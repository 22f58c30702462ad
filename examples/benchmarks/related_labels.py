r"""Weights that have learnt the labels of one MoleculeNet set, to fine-tune them on others.

    python examples/benchmarks/related_labels.py --data-dir DATA --source toxcast --output runs/toxcast \
        --datasets bbbp bace clintox sider tox21 --weights mmsa-small --modalities graph fingerprint
    python examples/benchmarks/moleculenet.py --data-dir DATA --output runs/related --models mmsa \
        --datasets bbbp bace clintox sider tox21 --modalities graph fingerprint \
        --weights runs/toxcast/model --pretraining-keys runs/toxcast/molecules.txt.gz

Molecules of the source that share their connectivity (InChIKey's first block) with a validation
or test molecule of the other sets are left out; the benchmark checks it again. A twentieth of the
others, drawn at random, chooses the epoch.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json

import numpy as np
from common import add_data_arguments, add_training_arguments, fields, training_of

from deepchem_mmsa import EarlyStopping, MMSAFeaturizer, MMSAModel
from deepchem_mmsa.benchmark import BENCHMARKS, Whole
from deepchem_mmsa.benchmark.overlap import keys_of, write_keys
from deepchem_mmsa.benchmark.scores import metric_of
from deepchem_mmsa.benchmark.sets import held_out_molecules
from deepchem_mmsa.exports import load_pretrained


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser, ["bbbp", "bace", "clintox", "sider", "tox21"])
    parser.add_argument("--source", default="toxcast", choices=BENCHMARKS)
    parser.add_argument("--weights", default="mmsa-small", help="pre-trained model to start from")
    parser.add_argument("--modalities", nargs="+", help="default: those of the weights")
    add_training_arguments(parser, epochs=30, patience=30)
    parser.add_argument("--averaging", type=float, default=0.99)
    a = parser.parse_args()
    if a.source in a.datasets:
        parser.error(f"{a.source} is the source: leave it out of --datasets")
    a.output.mkdir(parents=True, exist_ok=True)

    config = load_pretrained(a.weights).config
    modalities = tuple(a.modalities or config.modalities)
    featurizer = MMSAFeaturizer(modalities, config.image_size, n_jobs=a.jobs, progress=True)
    whole = Whole.load(a.source, featurizer, a.data_dir, a.save_dir, a.max_molecules)
    held_out = frozenset().union(
        *(
            key
            for name in a.datasets
            for key in keys_of(held_out_molecules(name, a.data_dir, a.protocols))
        )
    )
    keys = keys_of([str(smiles) for smiles in whole.data.ids])
    rows = [row for row, own in enumerate(keys) if own.isdisjoint(held_out)]
    print(f"{len(rows)} of {len(keys)} molecules of {a.source} are in no held-out set", flush=True)
    order = np.random.default_rng(0).permutation(rows)
    valid, train = (
        whole.data.select(np.sort(part)) for part in np.split(order, [len(order) // 20])
    )
    kind = BENCHMARKS[a.source]
    chosen = {**training_of(a), **dict(fields(text) for text in a.set), "modalities": modalities}
    model = MMSAModel.from_pretrained(
        a.weights, mode=kind.mode, n_tasks=len(whole.tasks), seed=a.seeds[0], **chosen
    )
    stopping = EarlyStopping(valid, metric_of(kind.metric), a.patience, averaging=a.averaging)
    model.fit(train, a.epochs, checkpoint_interval=0, callbacks=[stopping])
    write_keys([keys[row] for row in rows], a.output / "molecules.txt.gz")
    told = {
        "source": a.source, "molecules": len(rows), "n_tasks": len(whole.tasks),
        "valid": stopping.best_score, "best_epoch": stopping.best_epoch,
    }  # fmt: skip
    model.save_pretrained(a.output / "model", metadata=told)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
