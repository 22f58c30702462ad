"""Interleaved timing: contenders take turns, and the result is the median of their ratios.

All of them thus see the same state of the machine, and any change of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def seconds(work: Callable[[], Any]) -> float:
    """Return the time of one call, including the work it sent to a GPU."""
    start = time.perf_counter()
    work()
    _wait_for_gpu()
    return time.perf_counter() - start


def _wait_for_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(repeats: int, **contenders: Callable[[], Any]) -> dict[str, list[float]]:
    """Return the seconds of contenders that take turns, after one warm-up call each."""
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
            times[name].append(seconds(contenders[name]))
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """Return the median over the turns of one contender's time ÷ another's of the same turn."""
    return statistics.median(a / b for a, b in zip(times[above], times[below]))


def stepper(module: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a training step: forward, a loss, backward, AdamW."""
    import torch

    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().float().square().mean().backward()
        optimizer.step()

    return step
