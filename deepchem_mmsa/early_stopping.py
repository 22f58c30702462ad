"""Early stopping: a callback of ``fit`` that keeps the best weights."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deepchem_mmsa.epochs import check_dataset

if TYPE_CHECKING:
    from deepchem_mmsa.model import MMSAModel

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Stop when the validation score no longer improves, and keep the best weights.

    A callback for ``fit``, evaluated once per epoch. In a further ``fit`` of the same model it
    continues; with another model it is reset. The first stage of ``schedule="staged"`` is scored,
    but neither kept nor stopped: its weights have no memory yet. In pre-training, up to 2,048
    training molecules are read before each scoring, for the statistics of batch norm.

    Parameters
    ----------
    dataset : deepchem.data.Dataset
        The validation set.
    metric : deepchem.metrics.Metric, optional
        Metric to monitor; the validation loss by default.
    patience : int
        Epochs without improvement before the run stops.
    minimize : bool, optional
        Whether lower is better; by default inferred from the names of the metric and its function.
    transformers : sequence of deepchem.trans.Transformer
        Undone before scoring.
    averaging : float
        Below 1: decay of an exponential moving average (EMA) of the weights over steps (Polyak
        and Juditsky 1992), the memory excepted. The average is then scored and kept; training
        continues from the weights themselves. 0 disables averaging; 0.99 averages over about a
        hundred steps, and over fewer at the beginning: the decay of step n is at most
        (1 + n) / (10 + n).

    Attributes
    ----------
    best_score : float or None
    best_epoch : int or None

    Raises
    ------
    TypeError
        If `dataset` is not a DeepChem dataset, or `metric` not one DeepChem metric.
    ValueError
        If `averaging` is negative or not below 1, `patience` no number of epochs, or it cannot be
        inferred from the metric's name whether lower is better.

    Examples
    --------
    >>> stopping = EarlyStopping(dataset=None, patience=5)
    >>> stopping.best_score is None
    True
    """

    def __init__(
        self,
        dataset: Any,
        metric: Any = None,
        patience: int = 10,
        minimize: bool | None = None,
        transformers: Sequence[Any] = (),
        averaging: float = 0.0,
    ) -> None:
        if not isinstance(averaging, (int, Real)) or not 0 <= averaging < 1:
            raise ValueError(f"averaging must be at least 0 and below 1, got {averaging!r}")
        if not isinstance(patience, (int, Real)) or not patience >= 0:
            raise ValueError(f"patience={patience!r}: must be a number of epochs, inf to go on")
        if dataset is not None:
            check_dataset(dataset, "the validation set")
        if not (metric is None or hasattr(metric, "compute_metric")):
            raise TypeError(
                f"metric is a {type(metric).__name__}; give one DeepChem metric, as in "
                "dc.metrics.Metric(dc.metrics.roc_auc_score)"
            )
        self.dataset = dataset
        self.metric = metric
        self.patience = patience
        self.minimize = small_is_good(metric) if minimize is None else minimize
        self.transformers = list(transformers)
        self.averaging = averaging
        self._model: weakref.ref[MMSAModel] | None = None
        self._looked = False
        self._forget()

    def _forget(self) -> None:
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._best: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None  # of a run that has ended with its best
        self._average: dict[str, Any] | None = None
        self._averaged = 0  # steps
        self._unscored = 0  # epochs in a row

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model out: a weak reference cannot be pickled."""
        return {**self.__dict__, "_model": None}

    def on_fit_start(self, model: MMSAModel) -> None:
        """Forget the best weights of another model, and the average of another run."""
        if self._model is not None and self._model() is not model:
            self._forget()
        self._average, self._averaged = None, 0
        self._model, self._looked = weakref.ref(model), False

    def __call__(self, model: MMSAModel, step: int) -> None:
        """Update the moving average with the weights of a step.

        The memory is not averaged: its anchors start, and are re-seeded, all at once, and the
        average would be of other lengths than any anchor.
        """
        if not self.averaging:
            return
        if self._average is None:
            self._average = _copy(model)
        weight = 1 - min(self.averaging, (1 + self._averaged) / (10 + self._averaged))
        for name, value in model.model.state_dict().items():
            if not isinstance(value, Tensor):
                self._average[name] = value
                continue
            average = self._average[name].to(value.device)  # from a checkpoint it is on the CPU
            if value.is_floating_point() and not name.startswith("memory."):
                average.lerp_(value, weight)
            else:
                average.copy_(value)
            self._average[name] = average
        self._averaged += 1

    def on_epoch_end(self, model: MMSAModel, epoch: int) -> None:
        """Score the model; keep a copy of its weights if it is the best so far."""
        self._looked = True
        if self._average is None:
            self._look(model, epoch)
            return
        now = _copy(model)
        model.model.load_state_dict(self._average)
        try:
            self._look(model, epoch)
        finally:
            model.model.load_state_dict(now)

    def _look(self, model: MMSAModel, epoch: int) -> None:
        name = "valid_loss"
        if self.metric is None:
            score = model.validation_loss(self.dataset)
        else:
            name = f"valid_{self.metric.name}"
            score = model.evaluate(self.dataset, [self.metric], self.transformers)[self.metric.name]
        model.history[-1][name] = score
        if not model.model.structure_on:
            return
        better = self.best_score is None or (
            score < self.best_score if self.minimize else score > self.best_score
        )
        if math.isnan(score):
            self._unscored += 1
            if self._unscored == 1:
                logger.warning(
                    "%s is NaN after epoch %d: the validation set may be too small to score, or "
                    "have no labels",
                    name, epoch,
                )  # fmt: skip
        if better and not math.isnan(score):
            self.best_score, self.best_epoch = score, epoch
            self._best, self._unscored = _copy(model), 0
        elif max(self._unscored, epoch - (self.best_epoch or epoch)) >= self.patience:
            logger.info("no improvement for %d epochs: stopping", self.patience)
            model.stop_training = True

    def on_fit_end(self, model: MMSAModel) -> None:
        """Restore the best weights."""
        if not self._looked and self.best_epoch is None:
            logger.warning("early stopping scores at the end of epochs, and this run had none")
        if self._best is not None:
            self._last = _copy(model)
            model.model.load_state_dict(self._best)

    def on_fit_continue(self, model: MMSAModel) -> None:
        """Restore the last weights of a finished run that is given more epochs."""
        if self._last is not None:
            model.model.load_state_dict(self._last)
            self._last = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs for the run to resume exactly."""
        return {"score": self.best_score, "epoch": self.best_epoch, "weights": self._best,
                "last": self._last, "average": self._average, "averaged": self._averaged,
                "unscored": self._unscored}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.best_score, self.best_epoch = state["score"], state["epoch"]
        self._best, self._last = state["weights"], state.get("last")
        self._average = state.get("average")
        self._averaged, self._unscored = state.get("averaged", 0), state.get("unscored", 0)


_ERRORS = ("error", "loss", "rms", "mae", "mse", "mape", "brier", "deviance", "divergence")
_SCORES = (
    "auc", "roc", "score", "accuracy", "precision", "recall", "sensitivity", "specificity", "f1",
    "kappa", "mcc", "corrcoef", "r2", "pearson", "spearman", "jaccard", "bedroc", "enrichment",
    "concordance",
)  # fmt: skip


def small_is_good(metric: Any) -> bool:
    """Infer from the names of a metric and of its function whether lower is better.

    Parameters
    ----------
    metric : deepchem.metrics.Metric or None
        None stands for the loss.

    Raises
    ------
    ValueError
        If neither name is recognised.

    Examples
    --------
    >>> import deepchem as dc
    >>> small_is_good(dc.metrics.Metric(dc.metrics.rms_score, name="RMSE"))
    True
    >>> small_is_good(dc.metrics.Metric(dc.metrics.roc_auc_score))
    False
    """
    if metric is None:
        return True
    function = getattr(metric, "metric", None)
    names = f"{getattr(metric, 'name', '')} {getattr(function, '__name__', '')}".lower()
    if "d2_" in names:  # explained shares, named after an error
        return False
    if any(word in names for word in _ERRORS):
        return True
    if any(word in names for word in _SCORES):
        return False
    raise ValueError(
        f"cannot infer from the metric's name {getattr(metric, 'name', metric)!r} whether lower is "
        "better: give minimize=True or minimize=False"
    )


def _copy(model: MMSAModel) -> dict[str, Any]:
    """Return the weights and buffers as they are now."""
    return {
        k: v.detach().clone() if isinstance(v, Tensor) else v
        for k, v in model.model.state_dict().items()
    }
