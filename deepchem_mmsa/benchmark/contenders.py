"""The models of a benchmark run: each trains on a split and predicts its held-out parts.

A contender sees the labels of ``split.train`` to learn, those of ``split.valid`` to choose its
epoch, and never those of ``split.test``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from deepchem_mmsa.atomic import sha256
from deepchem_mmsa.benchmark.baselines import (
    chemical_features,
    every_row,
    forest_predictions,
    gaussian_process_predictions,
    mean_predictions,
)
from deepchem_mmsa.benchmark.scores import metric_of
from deepchem_mmsa.benchmark.sets import LeakError, Split, check_apart
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.early_stopping import EarlyStopping
from deepchem_mmsa.exports import load_pretrained
from deepchem_mmsa.hub import find_model
from deepchem_mmsa.model import MMSAModel
from deepchem_mmsa.molecule import FINGERPRINT_SIZE
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.predictor import MMSAPredictor


@dataclass
class Outcome:
    """The predictions of a contender for the held-out molecules.

    Parameters
    ----------
    valid, test : np.ndarray
        ``[N, T, 2]`` probabilities or ``[N, T]`` values in label units.
    details : dict
        JSON-serialisable details of the run.
    """

    valid: np.ndarray
    test: np.ndarray
    details: dict[str, Any] = field(default_factory=dict)


class Contender(Protocol):
    """A model that takes part in a benchmark."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    def settings(self) -> dict[str, Any]:
        """Return all that determines its result except split and seed, JSON-serialisable."""

    def run(self, split: Split, seed: int) -> Outcome:
        """Train on ``split.train``, choose on ``split.valid``, predict both held-out parts."""


@dataclass(frozen=True)
class MMSA:
    """An MMSA network, pre-trained or from scratch.

    Parameters
    ----------
    name : str
    config : mapping
        Fields of :class:`~deepchem_mmsa.config.MMSAConfig` that differ from the preset's, or
        from the pre-trained model's.
    weights : str, optional
        A pre-trained model: folder, or name of a shipped one.
    preset : str
        Size of the network if there are no weights.
    epochs, patience : int
        Maximum number of epochs; epochs without a better validation score before training stops.
    pretrained_on : str, optional
        File of the InChIKey first blocks of the pre-training molecules, one per line, gzipped or
        not; if given, a leaked test molecule is an error. Weights that have learnt labels need
        it, of the labelled molecules.
    components : tuple of str, optional
        Parts of the weights to load, named as in ``load_from_pretrained``; by default all but the
        head.
    averaging : float
        Decay of the moving average of the weights; 0 is none.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    preset: str = "small"
    epochs: int = 100
    patience: int = 30
    pretrained_on: str | None = None
    components: tuple[str, ...] | None = None
    averaging: float = 0.0

    def settings(self) -> dict[str, Any]:
        """Return the arguments, with the checksum of the weights instead of their path."""
        values = asdict(self)
        values["config"] = dict(self.config)
        if self.pretrained_on is None:
            del values["pretrained_on"]
        else:  # a checked and an unchecked cell are different cells
            values["pretrained_on"] = sha256(self.pretrained_on)[:16]
        if self.components is None:  # cells from before this option existed stay valid
            del values["components"]
        if not self.averaging:
            del values["averaging"]
        if self.weights is not None:
            values["weights"] = _checksum(self.weights)
            del values["preset"]
        return values

    def configuration(self) -> dict[str, Any]:
        """Return the fields of the network, except those that split and seed determine."""
        own = _config_of(self.weights) if self.weights else MMSAConfig.preset(self.preset)
        return _apart_from_the_run(own.replace(**self.config))

    def run(self, split: Split, seed: int) -> Outcome:
        """Fine-tune; see :class:`Contender`."""
        arguments = {
            "mode": split.mode,
            "n_tasks": len(split.tasks),
            "progress": False,
            **self.config,
            "seed": seed,
        }
        if self.weights is None:
            model = MMSAModel(self.preset, **arguments)
        elif self.components is None:
            model = MMSAModel.from_pretrained(self.weights, **arguments)
        else:
            model = MMSAModel("base", **from_scratch(self.weights, arguments))
            model.load_from_pretrained(self.weights, components=list(self.components))
        _check_weights(self.weights, self.pretrained_on, model.model, split)
        stopping = EarlyStopping(
            split.valid, metric_of(split.metric), self.patience, split.minimize,
            averaging=self.averaging,
        )  # fmt: skip
        model.fit(split.train, self.epochs, checkpoint_interval=0, callbacks=[stopping])
        details = {
            "best_epoch": stopping.best_epoch,
            "epochs": len(model.history),
            "parameters": sum(p.numel() for p in model.model.parameters()),
            "config": model.config.to_dict(),
        }
        valid, test = (
            every_row(split.train, part, model.predict(part), split.mode)
            for part in (split.valid, split.test)
        )
        return Outcome(valid[0], test[0], {**details, "refused": test[1]})


def _check_weights(
    weights: str | None, pretrained_on: str | None, network: MMSANetwork, split: Split
) -> None:
    """Raise a LeakError if pre-trained weights have seen labels or held-out molecules."""
    if weights is not None and not pretrained_on and load_pretrained(weights).from_labels:
        raise LeakError(
            f"{weights} was fine-tuned on labels, or started from a model that was; they "
            f"may be those of {split.name}'s test set: give one that was pre-trained only, or the "
            "keys of the labelled molecules (pretrained_on=, --pretraining-keys)"
        )
    keys = _keys_in(pretrained_on) if pretrained_on else frozenset()
    check_apart(split, [smiles for row in network.exemplars for smiles, _ in row], keys)


@functools.lru_cache(maxsize=8)
def _checksum(weights: str) -> str:
    return sha256(find_model(weights) / "model.safetensors")


@functools.lru_cache(maxsize=8)
def _config_of(weights: str) -> MMSAConfig:
    return load_pretrained(weights).config


_OF_THE_RUN = ("mode", "n_tasks", "seed")


def _apart_from_the_run(config: MMSAConfig) -> dict[str, Any]:
    return {k: v for k, v in config.to_dict().items() if k not in _OF_THE_RUN}


@functools.lru_cache(maxsize=2)
def _keys_in(path: str) -> frozenset[str]:
    import pandas as pd

    return frozenset(pd.read_csv(path, header=None, dtype=str)[0])


class _OfFeatures:
    """What a model on molecular features, among them those of a pre-trained one, has in common."""

    weights: str | None
    pretrained_on: str | None

    def configuration(self) -> dict[str, Any]:
        """Return the fields of the network whose features it reads; none without weights."""
        return {} if self.weights is None else _apart_from_the_run(_config_of(self.weights))

    def _origin(self) -> dict[str, str]:
        values = {}
        if self.weights is not None:
            values["weights"] = _checksum(self.weights)
        if self.pretrained_on is not None:
            values["pretrained_on"] = sha256(self.pretrained_on)[:16]
        return values

    def _learnt(self, split: Split, records: np.ndarray) -> np.ndarray:
        """Return pre-trained features of records; zeros for a record that cannot be read."""
        assert self.weights is not None
        predictor = MMSAPredictor.from_pretrained(self.weights, "auto")
        _check_weights(self.weights, self.pretrained_on, predictor.network, split)
        return np.nan_to_num(predictor.features(list(records)).values)

    def _outcome(self, split: Split, features: Sequence[np.ndarray], values: np.ndarray) -> Outcome:
        n = len(split.valid)
        details = {"features": features[0].shape[1], "config": self.configuration()}
        return Outcome(values[:n], values[n:], details)


#: Of standardised features: some are nearly constant in training, and not elsewhere.
_BOUNDS = {"a_min": -8, "a_max": 8}


@dataclass(frozen=True)
class Forest(_OfFeatures):
    """A random forest on ECFP4 bits, RDKit's descriptors and, if given, pre-trained features.

    Parameters
    ----------
    n_trees, n_jobs : int
    name : str
        In tables.
    weights : str, optional
        A pre-trained model, whose :meth:`~deepchem_mmsa.MMSAPredictor.features` are appended.
    pretrained_on : str, optional
        See :class:`MMSA`.
    """

    n_trees: int = 500
    n_jobs: int = -1
    name: str = "forest"
    weights: str | None = None
    pretrained_on: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return name and number of trees, and checksums of the weights and their molecules."""
        return {"name": self.name, "n_trees": self.n_trees, **self._origin()}

    def run(self, split: Split, seed: int) -> Outcome:
        """Fit one forest per task; see :class:`Contender`."""
        train, held_out = split.train.X, np.concatenate([split.valid.X, split.test.X])
        features = chemical_features(train), chemical_features(held_out)
        if self.weights is not None:
            learnt = self._learnt(split, train), self._learnt(split, held_out)
            features = np.hstack([features[0], learnt[0]]), np.hstack([features[1], learnt[1]])
        values = forest_predictions(
            split.train, held_out, split.mode, seed, self.n_trees, features, self.n_jobs
        )
        return self._outcome(split, features, values)


@dataclass(frozen=True)
class GaussianProcess(_OfFeatures):
    """A Gaussian process on RDKit's descriptors or, with weights, on pre-trained features.

    Descriptors are mapped to normal distributions by their quantiles in the training set, learnt
    features standardised and clipped at 8 standard deviations.

    Parameters
    ----------
    name : str
        In tables.
    weights, pretrained_on : str, optional
        See :class:`Forest`.
    """

    name: str = "gp"
    weights: str | None = None
    pretrained_on: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return the name, and checksums of the weights and their molecules."""
        return {"name": self.name, **self._origin()}

    def run(self, split: Split, seed: int) -> Outcome:
        """Fit one process per task; see :class:`Contender`."""
        from sklearn.feature_selection import VarianceThreshold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, QuantileTransformer, StandardScaler

        train, held_out = split.train.X, np.concatenate([split.valid.X, split.test.X])
        if self.weights is None:
            n = min(1000, len(train))
            scaling = [QuantileTransformer(
                n_quantiles=n, output_distribution="normal", random_state=seed
            )]  # fmt: skip
            read = [chemical_features(part)[:, FINGERPRINT_SIZE:] for part in (train, held_out)]
        else:
            scaling = [StandardScaler(), FunctionTransformer(np.clip, kw_args=_BOUNDS)]
            read = [self._learnt(split, part) for part in (train, held_out)]
        scaled = make_pipeline(VarianceThreshold(), *scaling)
        features = scaled.fit_transform(read[0].astype(float)), scaled.transform(read[1])
        values = gaussian_process_predictions(split.train, held_out, split.mode, features, seed)
        return self._outcome(split, features, values)


@dataclass(frozen=True)
class Mean:
    """The mean of the training labels: what any model must beat."""

    name: str = "mean"

    def settings(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": self.name}

    def run(self, split: Split, seed: int) -> Outcome:
        """See :class:`Contender`."""
        valid, test = (
            mean_predictions(split.train, part, split.mode) for part in (split.valid, split.test)
        )
        return Outcome(valid, test)


#: No relations between molecules: only encoders and heads remain.
NO_STRUCTURE = {"hypergraph": False, "memory": False}
#: GIN as in Hu et al. 2020, five layers of 300.
GIN = {
    "modalities": ("graph",), "graph": "gin", "graph_width": 300, "graph_layers": 5,
    "features": "basic", **NO_STRUCTURE,
}  # fmt: skip
#: A perceptron on ECFP4 counts and scaled descriptors.
MLP = {"modalities": ("fingerprint",), **NO_STRUCTURE}


def from_scratch(weights: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that build the network of pre-trained weights from scratch.

    Parameters
    ----------
    weights : str
        Folder or name of the pre-trained model.
    config : mapping
        Further fields to change.
    """
    theirs, plain = _apart_from_the_run(_config_of(weights)), MMSAConfig().to_dict()
    return {**{k: v for k, v in theirs.items() if v != plain[k]}, **config}
