"""What a run of training works on: the model, as far as it needs to know it, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.network import MMSANetwork


class Trainee(Protocol):
    """What a run needs of the model that it trains, an ``MMSAModel``."""

    model: MMSANetwork
    config: MMSAConfig
    device: torch.device
    batch_size: int
    model_dir: str
    history: list[dict[str, float]]
    stop_training: bool
    progress: bool | None
    log_frequency: int
    regularization_loss: Callable[[], Any] | None
    tensorboard: bool
    wandb_logger: Any
    _global_step: int

    def optimizer_for(
        self, variables: Sequence[Tensor] | None
    ) -> tuple[torch.optim.Optimizer, Any]:
        """Return (optimizer, schedule) for all parameters, or for `variables` only."""

    def save_checkpoint(self, max_checkpoints_to_keep: int) -> None:
        """Write all that the run needs to resume."""

    def _prepare_batch(self, batch: Any) -> tuple[MoleculeBatch, list, list]: ...

    def _log_scalar_to_tensorboard(self, name: str, value: float, step: int) -> None: ...


@dataclass(frozen=True)
class Objective:
    """A loss, and what it is computed from.

    Parameters
    ----------
    loss : callable
        ``f(outputs, labels, weights)`` → scalar.
    outputs : sequence of int
        Which of the network's outputs it gets.
    regularized : bool
        Whether it includes DeepChem's ``regularization_loss`` already.
    """

    loss: Callable[[list, list, list], Tensor]
    outputs: Sequence[int]
    regularized: bool = False

    def chosen(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return those of the network's outputs that the loss gets."""
        return [outputs[i] for i in self.outputs]
