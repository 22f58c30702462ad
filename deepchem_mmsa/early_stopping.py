"""Early stopping: a callback of ``fit`` that keeps the best weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from deepchem_mmsa.model import MMSAModel

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Stop when the validation score no longer improves, and keep the best weights.

    A callback for ``fit``. It looks once an epoch.

    Parameters
    ----------
    dataset : deepchem.data.Dataset
        The validation set.
    metric : deepchem.metrics.Metric, optional
        What to watch; the validation loss by default.
    patience : int
        Epochs without improvement before the run stops.
    minimize : bool, optional
        Whether small is good; by default for the loss and for DeepChem's regression errors.
    transformers : sequence of deepchem.trans.Transformer
        Undone before scoring.

    Attributes
    ----------
    best_score : float or None
    best_epoch : int or None

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
    ) -> None:
        self.dataset = dataset
        self.metric = metric
        self.patience = patience
        if minimize is None:
            name = getattr(metric, "name", "loss")
            minimize = metric is None or any(word in name for word in ("error", "rms", "mae"))
        self.minimize = minimize
        self.transformers = list(transformers)
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._best: dict[str, Any] | None = None

    def __call__(self, model: MMSAModel, step: int) -> None:
        """Do nothing at a step; see :meth:`on_epoch_end`."""

    def on_epoch_end(self, model: MMSAModel, epoch: int) -> None:
        """Score the model; remember its weights if it is the best so far."""
        name = "valid_loss"
        if self.metric is None:
            score = model.validation_loss(self.dataset)
        else:
            name = f"valid_{self.metric.name}"
            score = model.evaluate(self.dataset, [self.metric], self.transformers)[self.metric.name]
        model.history[-1][name] = score
        better = self.best_score is None or (
            score < self.best_score if self.minimize else score > self.best_score
        )
        if better and not math.isnan(score):
            self.best_score, self.best_epoch = score, epoch
            self._best = {
                k: v.detach().clone() if isinstance(v, Tensor) else v
                for k, v in model.model.state_dict().items()
            }
        elif self.best_epoch is not None and epoch - self.best_epoch >= self.patience:
            logger.info("no improvement for %d epochs: stopping", self.patience)
            model.stop_training = True

    def on_fit_end(self, model: MMSAModel) -> None:
        """Give the model its best weights back."""
        if self._best is not None:
            model.model.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep for the run to go on as if uninterrupted."""
        return {"score": self.best_score, "epoch": self.best_epoch, "weights": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.best_score, self.best_epoch = state["score"], state["epoch"]
        self._best = state["weights"]
