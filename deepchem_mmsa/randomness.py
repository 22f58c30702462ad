"""Seeded random draws that leave torch's global generators unchanged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TURN = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw as after ``torch.manual_seed(seed)``, and restore torch's generators on exit.

    Only the generators of the CPU and of `device` are affected; that of MPS is not restored.

    All threads share these generators, so only one at a time is inside.

    Parameters
    ----------
    seed : int
    device : torch.device, optional
        Seeded in addition to the CPU.

    Examples
    --------
    >>> with seeded(3):
    ...     first = torch.rand(2)
    >>> with seeded(3):
    ...     bool((torch.rand(2) == first).all())
    True
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with _TURN, torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for one in devices:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        if device is not None and device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
