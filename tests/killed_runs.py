"""Kill a training run at random moments, start it again, and compare its end with that of a run
that nobody killed. A program of its own: the runs are forked from it, which saves their imports.

    python -m tests.killed_runs FOLDER KILLS SEED

It prints one JSON object for each mode: how runs were killed, and what differs in the end.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import deepchem as dc
import numpy as np
import torch

from deepchem_mmsa import EarlyStopping, MMSAFeaturizer, MMSAModel
from tests.fixtures import SMILES

SMALL = {
    "image_size": 32, "image_width": 8, "graph_width": 16, "graph_layers": 2, "graph_dropout": 0.2,
    "embedding_dim": 16, "n_anchors": 8, "n_neighbors": 4, "head_width": 16, "batch_size": 8,
    "progress": False, "log_frequency": 3,
}  # fmt: skip


def data(modalities):
    records = MMSAFeaturizer(image_size=32, modalities=modalities).featurize(SMILES[:24])
    X = np.empty(len(records), dtype=object)
    X[:] = list(records)
    return dc.data.NumpyDataset(X, np.array([[len(r.smiles) * 0.1] for r in X]))


class Draws:
    """A callback that notes torch's random state after every step, as a checkpoint carries it."""

    def __init__(self):
        self.seen = []

    def __call__(self, model, step):
        self.seen.append(float(torch.rand(())))

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def train(mode, dataset, folder, epochs, entered=lambda: None):
    """Train, or go on training: the same command every time. Return the model and its losses."""
    if mode == "pretraining":
        special = {"modalities": ("image", "graph"), "lr_schedule": "cosine", "memory_warmup": 40}
    else:
        decay = dc.models.optimizers.ExponentialDecay(0.003, 0.9, 10)
        special = {"modalities": ("graph",), "learning_rate": decay, "head_dropout": 0.2}
    model = MMSAModel(mode=mode, model_dir=str(folder), **special, **SMALL)
    losses, draws = [], Draws()
    entered()
    model.fit(
        dataset, nb_epoch=epochs, checkpoint_interval=1, restore=True, all_losses=losses,
        callbacks=[EarlyStopping(dataset, patience=1000), draws], max_checkpoints_to_keep=3,
    )  # fmt: skip
    return model, losses, draws.seen


def digest(model, losses, draws):
    """Name everything that a run leaves, with a hash or the value itself."""
    found = {"losses": losses, "draws": draws, "history": model.history}
    found["step"] = model.get_global_step()
    found["random state"] = hash_of(torch.get_rng_state())
    for name, value in flat("weights", model.model.state_dict()):
        found[name] = value
    for name, value in flat("optimizer", model._pytorch_optimizer.state_dict()):
        found[name] = value
    if model._lr_schedule is not None:
        found["schedule"] = {
            k: v for k, v in model._lr_schedule.state_dict().items() if isinstance(v, (int, float))
        }
    newest = torch.load(model.get_checkpoints()[0], weights_only=True)
    for name, value in flat("checkpoint", newest):
        found[name] = value
    return found


def flat(name, value):
    if isinstance(value, torch.Tensor):
        yield name, hash_of(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(f"{name}/{key}", inner)
    else:
        yield name, repr(value)


def hash_of(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def doom(rng):
    """Arrange for this process to be killed inside the writing of a checkpoint."""
    if rng.random() < 0.3:  # with the file half-written
        whole_save, nth = torch.save, rng.randrange(3)
        count = iter(range(100))

        def half_save(value, file):
            whole_save(value, file)
            if next(count) == nth:
                file.flush()
                file.truncate(rng.randrange(file.tell()))
                die()

        torch.save = half_save
        return "half-written file"
    nth, count = rng.randrange(24), iter(range(1000))

    def counted(function):
        def call(*arguments):
            reached, after = next(count) == nth, rng.random() < 0.5
            if reached and not after:
                die()
            function(*arguments)
            if reached:
                die()

        return call

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    return "flush or rename"


def fork(work):
    """Run `work` in a copy of this process; return its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(mode, dataset, folder, epochs, out):
    out.write_text(json.dumps(digest(*train(mode, dataset, folder, epochs))))


def main(mode, folder, kills, seed):
    folder.mkdir()
    rng = random.Random(seed)
    dataset = data(("image", "graph"))
    epochs = (4 * kills + 20) // 3
    start = time.time()
    child = fork(lambda: finish(mode, dataset, folder / "whole", epochs, folder / "whole.json"))
    assert os.waitpid(child, 0)[1] == 0
    step = (time.time() - start) / (3 * epochs)
    how = {}
    while sum(how.values()) < kills:
        from_inside = rng.random() < 0.5
        attempt = random.Random(rng.random())
        reader, writer = os.pipe()

        def work(attempt=attempt, from_inside=from_inside, writer=writer):
            kind = doom(attempt) if from_inside else "any moment"
            train(mode, dataset, folder / "killed", epochs,
                  entered=lambda: os.write(writer, kind.encode()))  # fmt: skip

        child = fork(work)
        os.close(writer)
        kind = os.read(reader, 100).decode()
        os.close(reader)
        if not from_inside:
            time.sleep(rng.uniform(0, 5 * step))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            how[kind] = how.get(kind, 0) + 1
        elif status == 0:
            break  # it reached its end first
        else:
            raise SystemExit("a run failed before it was killed")
    child = fork(lambda: finish(mode, dataset, folder / "killed", epochs, folder / "killed.json"))
    assert os.waitpid(child, 0)[1] == 0
    whole, killed = (json.loads((folder / f"{n}.json").read_text()) for n in ("whole", "killed"))
    print(
        json.dumps(
            {
                "mode": mode,
                "killed": how,
                "steps": whole["step"],
                "compared": len(whole),
                "differs": [
                    k for k in whole.keys() | killed.keys() if whole.get(k) != killed.get(k)
                ],
                "left": sorted(p.name for p in (folder / "killed").iterdir()),
            }
        )
    )


if __name__ == "__main__":
    for mode in ("pretraining", "regression"):
        main(mode, Path(sys.argv[1]) / mode, int(sys.argv[2]), int(sys.argv[3]))
