"""What is drawn by chance, and by nobody else's leave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TURN = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw as after ``torch.manual_seed(seed)``, and leave torch's generators as they were.

    Those of devices that are not named are not touched; that of MPS is not given back.

    All threads draw from the same generators, so they take turns.

    Parameters
    ----------
    seed : int
    device : torch.device, optional
        Beside the CPU.

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
