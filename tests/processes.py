"""What tests/test_distributed.py runs in each of several processes; results go to files.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m tests.processes SCENARIO FOLDER
"""

import functools
import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import deepchem as dc
import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from deepchem_mmsa import EarlyStopping, MMSAFeaturizer, MMSAModel, distributed
from deepchem_mmsa.molecule import MoleculeViews
from tests.fixtures import SMILES

VIEWS = ("image", "graph", "geometry")
SMALL = {
    "image_size": 32, "image_width": 8, "graph_width": 16, "graph_layers": 2, "geometry_width": 16,
    "geometry_layers": 1, "embedding_dim": 16, "n_anchors": 8, "n_neighbors": 4, "head_width": 16,
    "batch_size": 16, "progress": False,
}  # fmt: skip
# Nothing random before the codes and no rounding to three digits (which "auto" takes where the
# processor does), so that one process with all molecules computes the same.
CALM = {
    "precision": "fp32",
    "graph_dropout": 0.0, "head_dropout": 0.0, "w_mask": 0.0, "image_augmentation": False,
    "memory_warmup": 32,
}  # fmt: skip


@functools.lru_cache
def data(n=40):
    """The molecules, some of them without a view or two; the second half without pictures."""
    records = list(MMSAFeaturizer(image_size=32, modalities=VIEWS).featurize(SMILES[:n]))
    for i in range(0, n, 7):
        r = records[i]
        records[i] = MoleculeViews(r.smiles, atoms=r.atoms, bond_atoms=r.bond_atoms, bonds=r.bonds)
    records[5] = MoleculeViews.unreadable("C1CC", "unclosed ring", VIEWS)
    X = np.empty(n, dtype=object)
    X[:] = records
    rng = np.random.default_rng(0)
    y = np.array([[len(r.smiles) * 0.1, rng.normal()] for r in X])
    return dc.data.NumpyDataset(X, y, (rng.random(y.shape) < 0.7).astype(float))


def without_pictures(dataset):
    """No molecule of the last process's shares has a picture or a conformer."""
    X = dataset.X.copy()
    for i in range(len(X)):
        if i % 16 >= 8:
            r = X[i]
            X[i] = MoleculeViews(
                r.smiles, atoms=r.atoms, bond_atoms=r.bond_atoms, bonds=r.bonds, reasons=r.reasons
            )
    return dc.data.NumpyDataset(X, dataset.y, dataset.w)


def told_apart(n=40):
    """Molecules with graph, fingerprint or both: more targets in some processes than in others."""
    records = list(MMSAFeaturizer(modalities=("graph", "fingerprint")).featurize(SMILES[:n]))
    for i, r in enumerate(records):
        if i % 16 < 5:
            records[i] = MoleculeViews(
                r.smiles, fingerprint_bits=r.fingerprint_bits,
                fingerprint_counts=r.fingerprint_counts, descriptors=r.descriptors,
            )  # fmt: skip
    X = np.empty(n, dtype=object)
    X[:] = records
    return dc.data.NumpyDataset(X)


def rest(model):
    """Hold batch norm in evaluation mode: its statistics are each process's own."""
    for module in model.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module
    return model


def state(model):
    found = {k: v for k, v in model.model.state_dict().items() if torch.is_tensor(v)}
    memory = model.model.memory
    if memory is not None:
        found["recent_codes"] = memory.recent_codes
    return {k: v.clone() for k, v in found.items()}


def keep(folder, name, model, losses=()):
    number = os.environ.get("RANK", "alone")
    torch.save(
        {
            "state": state(model),
            "losses": list(losses),
            "history": model.history,
            "exemplars": None if model.model.memory is None else model.model.memory.exemplars,
            "step": model.get_global_step(),
        },
        folder / f"{name}-{number}.pt",
    )


def same_as_one(folder):
    """Every law that compares several processes with one."""
    dataset = data()
    for name, arguments, dataset_ in (
        ("pretraining", {"mode": "pretraining", "modalities": VIEWS}, dataset),
        ("attention", {"mode": "pretraining", "modalities": VIEWS, "fusion": "attention",
                       "memory_update": "gradient"}, dataset),
        ("uneven", {"mode": "pretraining", "modalities": VIEWS}, without_pictures(dataset)),
        # Every atom is masked, and the only other view is told from: nothing is drawn.
        ("targets", {"mode": "pretraining", "modalities": ("graph", "fingerprint"), "w_mask": 0.5,
                     "mask_rate": 0.9999, "w_align": 0.0, "hypergraph_dropout": 0.0,
                     "fingerprint_dropout": 0.0}, told_apart()),
        ("regression", {"mode": "regression", "modalities": ("graph", "geometry"), "n_tasks": 2},
         dataset),
    ):  # fmt: skip
        # Plain descent: Adam makes a step of a gradient that is nothing but rounding.
        descent = dc.models.optimizers.GradientDescent(learning_rate=0.05)
        model = MMSAModel(
            **{**CALM, **SMALL, **arguments},
            optimizer=descent,
            model_dir=str(folder / f"{name}-{os.environ.get('WORLD_SIZE', 1)}"),
        )
        rest(model)
        losses = []
        model.log_frequency = 1
        model.fit(dataset_, nb_epoch=1, deterministic=True, all_losses=losses,
                  checkpoint_interval=2)  # fmt: skip
        keep(folder, name, model, losses)


def whole(folder):
    """Training as users run it, with everything random switched on; interrupted and resumed."""
    dataset = data(35)  # the last batch holds three molecules: none for the last process

    def fit(name, epochs, callbacks=(), restore=False):
        model = MMSAModel(
            mode="pretraining", modalities=VIEWS, memory_warmup=32, model_dir=str(folder / name),
            graph_dropout=0.1, **SMALL,
        )  # fmt: skip
        model.fit(dataset, nb_epoch=epochs, restore=restore, checkpoint_interval=2,
                  callbacks=[EarlyStopping(dataset, patience=9), *callbacks])  # fmt: skip
        return model

    keep(folder, "random", fit("random", 4))

    def signal_one(model, step):
        if step == 5 and distributed.rank() == 1:
            for _ in range(2):  # Slurm's, and that which torchrun passes on
                os.kill(os.getpid(), signal.SIGTERM)

    try:
        fit("stopped", 4, [signal_one])
    except SystemExit as stopped:
        (folder / f"stopped-{os.environ['RANK']}.txt").write_text(str(stopped.code))
    keep(folder, "resumed", fit("stopped", 4, restore=True))
    try:
        bad = dc.data.NumpyDataset(dataset.X, np.where(np.arange(35) == 20, 1e30, 0.0)[:, None])
        model = MMSAModel(mode="regression", modalities=("graph",), scale_labels=False, **SMALL)
        model.fit(bad, nb_epoch=1, checkpoint_interval=0)
    except FloatingPointError as error:
        (folder / f"bad-{os.environ['RANK']}.txt").write_text(str(error))
    model.fit(bad, nb_epoch=2, skip_bad_batches=True, checkpoint_interval=0)
    keep(folder, "skipped", model)
    (folder / "file").write_text("")
    model = MMSAModel(mode="regression", modalities=("graph",), n_tasks=2,
                      model_dir=str(folder / "fails"), **SMALL)  # fmt: skip
    if os.environ["RANK"] == "0":
        model.model_dir = str(folder / "file")
    try:  # of the first process alone
        model.fit(dataset, nb_epoch=1)
    except (OSError, RuntimeError) as error:
        (folder / f"failed-{os.environ['RANK']}.txt").write_text(str(error))


def lost(folder, how):
    """The last process dies, or falls silent, in the middle of the run."""
    number = os.environ["RANK"]

    def vanish(model, step):
        if step == 3 and number == "1":
            os.kill(os.getpid(), signal.SIGKILL if how == "dead" else signal.SIGSTOP)

    model = MMSAModel(mode="regression", modalities=("graph",), n_tasks=2, **SMALL)
    start = time.time()
    try:
        model.fit(data(), nb_epoch=50, callbacks=vanish)
    except distributed.ProcessLost as error:
        told = {"error": str(error), "seconds": time.time() - start}
        (folder / f"{how}-{number}.json").write_text(json.dumps(told))
        os._exit(0)  # leaving the group would wait for the lost one


def silent(folder):
    """As lost, with a time-out that a test can wait for."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=8))
    lost(folder, "silent")


def leaving(folder):
    """Thirty groups that are left as soon as their last tensor has been gathered."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for i in range(30):
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/group-{i}", rank=rank, world_size=size,
            timeout=timedelta(seconds=60),
        )  # fmt: skip
        one, all_of_them = torch.ones(1000), [torch.empty(1000) for _ in range(size)]
        for _ in range(3):
            dist.all_gather(all_of_them, one)
        del one, all_of_them
        distributed._leave()


def everything(folder):
    """All but that, in the one start that the quick tests can afford."""
    if os.environ["RANK"] == "0":  # alone first, while the others wait for the group
        group = {k: os.environ.pop(k) for k in ("RANK", "WORLD_SIZE")}
        same_as_one(folder)
        os.environ.update(group)
    same_as_one(folder)
    whole(folder)
    lost(folder, "dead")


if __name__ == "__main__":
    {"everything": everything, "silent": silent, "leaving": leaving}[sys.argv[1]](Path(sys.argv[2]))
