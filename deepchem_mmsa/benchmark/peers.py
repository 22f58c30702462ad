"""Published networks in the same run: DeepChem's AttentiveFP, and chemprop as a command."""

from __future__ import annotations

import copy
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepchem as dc
import numpy as np
import pandas as pd
import torch

from deepchem_mmsa.benchmark.baselines import mean_predictions
from deepchem_mmsa.benchmark.contenders import Outcome
from deepchem_mmsa.benchmark.scores import as_classes, labels_of, score
from deepchem_mmsa.benchmark.sets import Split, quiet_deepchem
from deepchem_mmsa.labels import label_scaling
from deepchem_mmsa.layers.dgl_backend import import_dgl, import_dgllife


@dataclass(frozen=True)
class AttentiveFP:
    """DeepChem's AttentiveFP (Xiong et al. 2020) with its default network.

    DeepChem's training loop is used unchanged, an epoch at a time, and the weights of the best
    validation score are kept. Its featurizer rejects molecules of one atom: they are predicted by
    the mean of the training labels, and counted.

    Parameters
    ----------
    epochs, patience, batch_size : int
    learning_rate : float
    """

    epochs: int = 100
    patience: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    name: str = "attentivefp"

    def settings(self) -> dict[str, Any]:
        """Return all arguments."""
        return asdict(self)

    def run(self, split: Split, seed: int) -> Outcome:
        """Train with DeepChem; see :class:`~deepchem_mmsa.benchmark.contenders.Contender`."""
        import_dgl()  # before DeepChem does, which cannot import every build of it
        import_dgllife()
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - DeepChem's data sets shuffle with it
        (train, _), valid, test = (_graphs(part) for part in split.parts().values())
        y, w = labels_of(train)
        mean, scale = np.zeros(y.shape[1]), np.ones(y.shape[1])
        if split.mode == "regression":
            mean, scale = label_scaling(y, w)
        known = np.where(w != 0, (y - mean) / scale, 0.0)
        train = dc.data.NumpyDataset(train.X, known, w, train.ids)
        model = dc.models.AttentiveFPModel(
            n_tasks=len(split.tasks), mode=split.mode, batch_size=self.batch_size,
            learning_rate=self.learning_rate, log_frequency=10**9,
        )  # fmt: skip

        def predict(graphs: tuple[Any, np.ndarray], part: Any) -> np.ndarray:
            values = mean_predictions(split.train, part, split.mode)
            data, rows = graphs
            made = np.asarray(model.predict(data)).reshape(len(rows), *values.shape[1:])
            values[rows] = made if split.mode == "classification" else made * scale + mean
            return values

        best, best_epoch, state = float("nan"), 0, None
        for epoch in range(1, self.epochs + 1):
            model.fit(train, nb_epoch=1, checkpoint_interval=0)
            value, _ = score(split.valid, predict(valid, split.valid), split.metric)
            better = value < best if split.minimize else value > best
            if state is None or better or (np.isnan(best) and not np.isnan(value)):
                best, best_epoch = value, epoch
                state = copy.deepcopy(model.model.state_dict())
            elif epoch - best_epoch >= self.patience:
                break
        assert state is not None
        model.model.load_state_dict(state)
        refused = {"refused": len(split.test) - len(test[1]), "best_epoch": best_epoch}
        return Outcome(predict(valid, split.valid), predict(test, split.test), refused)


def _graphs(part: Any) -> tuple[Any, np.ndarray]:
    """Return DeepChem's graphs of the molecules that it accepts, and their rows."""
    with quiet_deepchem():
        made = dc.feat.MolGraphConvFeaturizer(use_edges=True).featurize(list(part.ids))
    rows = [i for i, graph in enumerate(made) if isinstance(graph, dc.feat.GraphData)]
    X = np.empty(len(rows), dtype=object)
    X[:] = [made[i] for i in rows]
    y, w = labels_of(part)
    return dc.data.NumpyDataset(X, y[rows], w[rows], np.asarray(part.ids)[rows]), np.array(rows)


@dataclass(frozen=True)
class Chemprop:
    """chemprop 2 (Heid et al. 2024) from a separate installation, by its command line.

    Parameters
    ----------
    command : str
        Path of the program ``chemprop``.
    epochs, batch_size : int
        By default those of chemprop.
    """

    command: str
    epochs: int = 50
    batch_size: int = 64
    name: str = "chemprop"

    def settings(self) -> dict[str, Any]:
        """Return epochs and batch size."""
        return {"name": self.name, "epochs": self.epochs, "batch_size": self.batch_size}

    def run(self, split: Split, seed: int) -> Outcome:
        """Train and predict; see :class:`~deepchem_mmsa.benchmark.contenders.Contender`.

        Raises
        ------
        RuntimeError
            If the program fails; the message ends with its error output.
        """
        tasks = [f"task{i}" for i in range(len(split.tasks))]
        metric = "roc" if split.metric == "roc_auc" else split.metric  # as chemprop calls it
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            frames = []
            for part, data in zip(("train", "val", "test"), split.parts().values()):
                y, w = labels_of(data)
                frame = pd.DataFrame(np.where(w != 0, y, np.nan), columns=tasks)
                if split.mode == "classification":
                    frame = frame.astype("Int64")
                if part == "test":  # chemprop does not see the test labels
                    frame[:] = 0 if split.mode == "classification" else 0.0
                frame.insert(0, "smiles", list(data.ids))
                frames.append(frame.assign(split=part))
            pd.concat(frames).to_csv(folder / "data.csv", index=False)
            self._call(
                "train", "--data-path", folder / "data.csv", "--smiles-columns", "smiles",
                "--target-columns", *tasks, "--splits-column", "split",
                "--task-type", split.mode, "--epochs", self.epochs,
                "--warmup-epochs", min(2, self.epochs - 1),
                "--batch-size", self.batch_size, "--pytorch-seed", seed, "--num-workers", 0,
                "--metrics", metric,
                "--tracking-metric", metric,
                "--output-dir", folder / "model",
            )  # fmt: skip
            values = []
            for frame in frames[1:]:
                frame[["smiles"]].to_csv(folder / "asked.csv", index=False)
                self._call(
                    "predict", "--test-path", folder / "asked.csv", "--smiles-columns", "smiles",
                    "--model-paths", folder / "model" / "model_0" / "best.pt",
                    "--preds-path", folder / "told.csv", "--num-workers", 0,
                )  # fmt: skip
                told = pd.read_csv(folder / "told.csv")[tasks].to_numpy(dtype=float)
                values.append(as_classes(told) if split.mode == "classification" else told)
        return Outcome(values[0], values[1], {"version": self._call("--version").split()[-1]})

    def _call(self, *words: object) -> str:
        command = [self.command, *map(str, words)]
        done = subprocess.run(  # noqa: S603 - the user's
            command, capture_output=True, encoding="utf-8", errors="replace"
        )
        if done.returncode:
            raise RuntimeError(f"{self.command} {words[0]} failed: {done.stderr[-2000:]}")
        return done.stdout
