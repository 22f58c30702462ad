"""The base class of the classifier and the regressor: fine-tuning and prediction."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    check_is_fitted,
)

from deepchem_mmsa import exports
from deepchem_mmsa.early_stopping import EarlyStopping
from deepchem_mmsa.ensemble import Spread, dropout_spread, ensemble_spread
from deepchem_mmsa.estimators.molecules import MoleculeReader, smiles_of
from deepchem_mmsa.hub import member_folders, starting_model
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.predictor import MMSAPredictor
from deepchem_mmsa.record_checks import missing_reason

ELSEWHERE = {
    "modalities": "modalities= decides",
    "batch_size": "batch_size= decides",
    "learning_rate": "learning_rate= decides",
    "device": "device= decides",
    "seed": "random_state= decides",
    "mode": "the class of the estimator decides",
    "n_tasks": "the labels decide",
    "n_classes": "the labels decide",
}
"""Arguments of the model that do not belong into ``config``, and what decides on them."""


class FineTunedEstimator(MoleculeReader):
    """Fine-tuning and prediction, shared by the classifier and the regressor."""

    predictors_: list[MMSAPredictor]
    history_: list[list[dict[str, float]]]
    _mode: str
    _single: bool

    def __init__(
        self,
        from_model: Any = None,
        *,
        preset: str | None = None,
        modalities: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        nb_epoch: int = 30,
        batch_size: int = 64,
        learning_rate: float = 5e-4,
        validation_fraction: float = 0.1,
        patience: int = 10,
        averaging: float = 0.0,
        n_models: int = 1,
        on_error: str = "raise",
        random_state: Any = None,
        n_jobs: int = 1,
        device: str | None = None,
    ) -> None:
        self.from_model = from_model
        self.preset = preset
        self.modalities = modalities
        self.config = config
        self.nb_epoch = nb_epoch
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.averaging = averaging
        self.n_models = n_models
        self.on_error = on_error
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "predictors_")

    # ---- training -----------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fine-tune on labelled molecules; after an error the estimator is not fitted.

        Parameters
        ----------
        X : sequence of str, rdkit.Chem.Mol or MoleculeViews, Series, or one-column DataFrame
        y : array-like
            ``[N]``, or ``[N, T]`` for several tasks, with NaN for missing labels.
        sample_weight : array-like, optional
            ``[N]``, weight of each molecule in the loss, or ``[N, T]``, of each label.

        Raises
        ------
        ValueError
            If a molecule cannot be read (the message names row, value and remedy) and `on_error`
            is ``"raise"``; if a parameter or the labels are invalid, or fewer than 2 molecules
            are left.
        TypeError
            If `y` is sparse.
        FileNotFoundError, CheckpointError
            If there is no such pre-trained model, or its files are damaged.
        """
        # The names of the classes are those of this fit from here on.
        self.__dict__.pop("predictors_", None)
        self._check_parameters()
        molecules = self._molecules(X, reset=True)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        if issparse(y):
            raise TypeError("y is sparse, but labels must be dense: give y.toarray()")
        labels, n_classes = self._labels(y)
        names = _task_names(y, self._mode)
        check_consistent_length(molecules, labels)
        weights = _weights(sample_weight, labels)
        random = check_random_state(self.random_state)
        seeds = random.randint(np.iinfo(np.int32).max, size=self.n_models)
        self._single = labels.ndim == 1
        labels = labels.reshape(len(labels), -1)
        models = [self._model(labels.shape[1], n_classes, int(seed)) for seed in seeds]

        config = models[0].config
        records = MMSAPredictor(models[0].model).records(molecules, self.n_jobs)
        kept = np.array(self._readable(records, molecules, config.modalities), dtype=int)
        if 2 <= len(kept) < len(records):  # a class may have gone with its molecules
            found, n_left = self._labels(_safe_indexing(y, kept))
            labels[kept] = found.reshape(len(kept), -1)
            if n_left < n_classes:
                models = [self._model(labels.shape[1], n_left, int(seed)) for seed in seeds]
        if len(kept) < 2:
            raise ValueError(
                f"n_samples={len(kept)}: training needs at least 2 molecules, got "
                f"{len(kept)} sample(s)"
            )
        w = weights * ~np.isnan(labels)
        order = random.permutation(kept)
        n_valid = round(self.validation_fraction * len(order))
        train, valid = np.sort(order[n_valid:]), np.sort(order[:n_valid])
        if len(train) < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} leaves {len(train)} of "
                f"{len(kept)} molecules to train on, which needs at least 2"
            )
        predictors: list[MMSAPredictor] = []
        self.history_ = []
        for model in models:
            self._train(model, [_dataset(records, labels, w, part) for part in (train, valid)])
            self.history_.append(model.history)
            notes = {"tasks": names, "classes": self._class_names()}
            predictors.append(MMSAPredictor(model.model, notes))
        self.predictors_ = predictors
        return self

    def _check_parameters(self) -> None:
        if self.on_error not in ("raise", "drop"):
            raise ValueError(f"on_error={self.on_error!r}: choose 'raise' or 'drop'")
        for name in ("nb_epoch", "n_models"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}={value!r}: must be a whole number of at least 1")
        share = self.validation_fraction
        if not isinstance(share, Real) or not 0 <= share < 1:
            raise ValueError(f"validation_fraction={share!r}: must be in [0, 1)")
        EarlyStopping(None, patience=self.patience, averaging=self.averaging)
        if share == 0:
            self._check_validation(0)
        for name in self.config or {}:
            if name in ELSEWHERE:
                raise ValueError(
                    f"config has {name!r}, which would be ignored or hide another parameter: "
                    f"leave it out; {ELSEWHERE[name]}"
                )

    def _model(self, n_tasks: int, n_classes: int, seed: int) -> Any:
        """Return a model to be fitted."""
        # Imported here, because prediction needs no DeepChem, and through the package, which
        # silences DeepChem's warnings about its optional dependencies.
        import deepchem_mmsa

        # A copy: a custom encoder among them would be trained by every model and fit in turn.
        arguments: dict[str, Any] = {
            "batch_size": self.batch_size, "learning_rate": self.learning_rate,
            **copy.deepcopy(dict(self.config or {})),
            "mode": self._mode, "n_tasks": n_tasks, "seed": seed,
            "device": self.device, "progress": False,
        }  # fmt: skip
        if self._mode == "classification":
            arguments["n_classes"] = n_classes
        if self.modalities is not None:
            arguments["modalities"] = self.modalities
        model = starting_model(self.from_model, self.preset)
        if model is None:
            return deepchem_mmsa.MMSAModel(self.preset, **arguments)
        return deepchem_mmsa.MMSAModel.from_pretrained(model, **arguments)

    def _check_validation(self, n_labels: int) -> None:
        if self.averaging and not n_labels:
            raise ValueError(
                f"averaging={self.averaging} needs labelled molecules for validation, on which the "
                "averaged weights are scored; increase validation_fraction, or set averaging=0"
            )

    def _train(self, model: Any, parts: list[Any]) -> None:
        train, valid = parts
        self._check_validation(int(np.count_nonzero(valid.w)))
        stopping = EarlyStopping(valid, patience=self.patience, averaging=self.averaging)
        watched = [stopping] if valid.w.any() else []
        model.fit(train, nb_epoch=self.nb_epoch, checkpoint_interval=0, callbacks=watched)

    def _readable(
        self, records: Sequence[MoleculeViews], molecules: Sequence[object], modalities: Any
    ) -> list[int]:
        """Return the rows to train on; raise or warn about unreadable ones."""
        reasons = [
            "" if set(r.available) & set(modalities) else missing_reason(r, modalities)
            for r in records
        ]
        bad = [row for row, reason in enumerate(reasons) if reason]
        if bad and self.on_error == "raise":
            raise ValueError(
                f"{len(bad)} of {len(records)} molecules cannot be read; the first is row "
                f"{bad[0]}, {smiles_of(molecules[bad[0]])!r}: {reasons[bad[0]]}; correct or remove "
                "them, or set on_error='drop' to train without them"
            )
        self._warn(reasons, molecules, "cannot be read and were left out of the training")
        return [row for row, reason in enumerate(reasons) if not reason]

    def _labels(self, y: Any) -> tuple[np.ndarray, int]:
        """Return labels as float, ``[N]`` or ``[N, T]``, and the number of classes."""
        raise NotImplementedError

    def _class_names(self) -> list[str] | None:
        """Return the names of the classes; None if there are none, or for several tasks."""
        return None

    # ---- prediction ---------------------------------------------------------------------

    def _spread(self, X: Any, with_std: bool) -> Spread:
        check_is_fitted(self)
        molecules = self._molecules(X, reset=False)
        records = self.predictors_[0].records(molecules, self.n_jobs)
        spread = ensemble_spread(self.predictors_, records)
        if with_std and len(records) and len(self.predictors_) == 1:
            spread = spread._replace(std=dropout_spread(self.predictors_[0], records).std)
        self._warn(spread.reasons, molecules, "cannot be predicted and got NaN")
        return spread

    def _frame(self, X: Any, columns: Mapping[str, np.ndarray], reasons: list[str]) -> Any:
        index = X.index if isinstance(X, (pd.Series, pd.DataFrame)) else None
        return pd.DataFrame({**columns, "reason": reasons}, index=index)

    def save_pretrained(self, folder: str | Path) -> None:
        """Export the fitted model for ``MMSAPredictor``, ``MMSAModel`` and the command line.

        Parameters
        ----------
        folder : path-like
            Several models are written to its subfolders ``model0``, ``model1``, ...

        Raises
        ------
        ValueError
            If the folder holds models of another export that this one would not overwrite.
        """
        check_is_fitted(self)
        mine = member_folders(folder, len(self.predictors_))
        found = [path.parent for path in Path(folder).glob("model*/config.json")]
        for old in [Path(folder), *(p for p in found if p.name.removeprefix("model").isdigit())]:
            if old not in mine and (old / "config.json").is_file():
                raise ValueError(
                    f"{old} holds a model of another export, which would be mistaken for part of "
                    "this one: remove it, or choose another folder"
                )
        for place, p in zip(mine, self.predictors_):
            notes = {**p.metadata, "labels_seen": True}
            exports.export(place, p.network, p.config, p.network.exemplars, notes)


def _task_names(y: Any, mode: str) -> list[str] | None:
    """Return the task names of a pandas `y`; None for other types."""
    names = None
    if isinstance(y, pd.DataFrame):
        names = [str(c) for c in y.columns]
    elif isinstance(y, pd.Series) and y.name is not None:
        names = [str(y.name)]
    columns = ["reason", *(names or [])]
    if mode == "regression":
        columns += [f"{name} std" for name in names or []]
    for name in names or []:
        if columns.count(name) > 1:
            raise ValueError(
                f"the target name {name!r} clashes with another column of predict_frame: rename "
                "it, y.rename(...)"
            )
    return names


def _weights(given: Any, labels: np.ndarray) -> np.ndarray:
    """Return the weights of the molecules ``[N, 1]``, or of the labels ``[N, T]``."""
    if labels.ndim == 2 and np.shape(given) == labels.shape:  # DeepChem's SklearnModel
        return check_array(given, dtype=np.float64, ensure_non_negative=True)
    return _check_sample_weight(given, np.empty((len(labels), 1)), ensure_non_negative=True)[
        :, None
    ]


def _dataset(
    records: Sequence[MoleculeViews], y: np.ndarray, w: np.ndarray, rows: np.ndarray
) -> Any:
    from deepchem.data import NumpyDataset

    X = np.array([records[row] for row in rows], dtype=object)
    ids = np.array([record.smiles for record in X], dtype=object)
    return NumpyDataset(X, np.nan_to_num(y[rows]), w[rows], ids)
