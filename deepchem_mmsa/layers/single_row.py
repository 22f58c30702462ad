"""Batch norm over a single row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """Make batch norm use its running statistics, even in training mode.

    The variance of one value is undefined; its running estimate is used instead.

    Examples
    --------
    >>> import torch
    >>> norm = nn.BatchNorm1d(4)
    >>> with running_statistics(norm):
    ...     norm(torch.ones(1, 4)).shape
    torch.Size([1, 4])
    >>> norm.training
    True
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
