"""Torch's optimizer and schedule for one of DeepChem's, and the loading of their states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from deepchem.models.optimizers import (
    LearningRateSchedule,
    LinearCosineDecay,
    Optimizer,
    PiecewiseConstantSchedule,
    PolynomialDecay,
)
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

WARMUP_SHARE = 0.05
"""Share of the steps in the linear warm-up of the cosine schedule."""


def new_optimizer(
    optimizer: Optimizer, groups: Sequence[dict[str, Any] | Tensor], device: torch.device
) -> tuple[torch.optim.Optimizer, Any]:
    """Return torch's optimizer for one of DeepChem's, and its schedule.

    Parameters
    ----------
    optimizer : deepchem.models.optimizers.Optimizer
    groups : sequence of dict or Tensor
        The parameters, or groups of them with their own rates.
    device : torch.device
        Of the parameters.

    Returns
    -------
    torch.optim.Optimizer
    torch.optim.lr_scheduler.LRScheduler or None
        None where the rate is constant.
    """
    made = optimizer._create_pytorch_optimizer(list(groups))
    for group in made.param_groups:
        group.setdefault("initial_lr", group["lr"])
        # One pass over each tensor instead of ten. It reads gradients in the memory layout of
        # the weights, which autograd uses as well.
        if device.type == "cpu" and "fused" in group:
            group["fused"] = True
    rate = optimizer.learning_rate
    return made, new_schedule(rate, made) if isinstance(rate, LearningRateSchedule) else None


def new_schedule(rate: LearningRateSchedule, optimizer: torch.optim.Optimizer) -> Any:
    """Return torch's schedule for one of DeepChem's.

    DeepChem 2.8 multiplies the polynomial and the linear-cosine decay by the initial rate twice
    (1e-3 becomes 1e-6), and has the piecewise constant one for Jax only.
    """
    if type(rate) in (PolynomialDecay, LinearCosineDecay, PiecewiseConstantSchedule):
        return LambdaLR(optimizer, partial(rate_factor, rate))
    return rate._create_pytorch_schedule(optimizer)


def rate_factor(rate: LearningRateSchedule, step: int) -> float:
    """Return the learning rate after so many steps, as a multiple of the initial rate.

    Parameters
    ----------
    rate : PolynomialDecay, LinearCosineDecay or PiecewiseConstantSchedule
        DeepChem's docstrings define them.
    step : int
        Steps taken.

    Examples
    --------
    >>> [round(rate_factor(PolynomialDecay(1e-3, 1e-4, 10), step), 2) for step in (0, 5, 20)]
    [1.0, 0.55, 0.1]
    >>> [rate_factor(PiecewiseConstantSchedule(1e-3, {2: 0.5}), step) for step in (2, 3)]
    [1.0, 0.5]
    """
    if isinstance(rate, PiecewiseConstantSchedule):
        scales = rate.boundaries_and_scales or {}
        return math.prod((s for border, s in scales.items() if border < step), start=1.0)
    share = min(step, rate.decay_steps) / rate.decay_steps
    if isinstance(rate, PolynomialDecay):
        final = rate.final_rate / rate.initial_rate
        return (1 - final) * (1 - share) ** rate.power + final
    cosine = 0.5 * (1 + math.cos(2 * math.pi * rate.num_periods * share))
    return (rate.alpha + 1 - share) * cosine + rate.beta


def cosine_factor(step: int, total: int) -> float:
    """Return the learning-rate factor: linear warm-up, then cosine decay to 1 %.

    Examples
    --------
    >>> [round(cosine_factor(s, 100), 2) for s in (0, 4, 52, 99)]
    [0.2, 1.0, 0.5, 0.01]
    """
    rise = max(1, round(WARMUP_SHARE * total))
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise + 1) / max(1, total - rise)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def load_optimizer(optimizer: Any, schedule: Any, of_optimizer: Any, of_schedule: Any) -> None:
    """Load the states of an optimizer and its schedule, keeping current rates and weight decay."""
    mine = [(group["initial_lr"], group.get("weight_decay")) for group in optimizer.param_groups]
    optimizer.load_state_dict(of_optimizer)
    if schedule is not None and of_schedule is not None:
        schedule.load_state_dict(of_schedule)
    for number, (group, (rate, decay)) in enumerate(zip(optimizer.param_groups, mine)):
        if group.get("initial_lr", rate) != rate:
            group["lr"] *= rate / group["initial_lr"]
            group["initial_lr"] = rate
            if schedule is not None:
                schedule.base_lrs[number] = rate
        if decay is not None:
            group["weight_decay"] = decay
