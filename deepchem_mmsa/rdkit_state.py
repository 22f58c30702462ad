"""Thread-safe control of RDKit's process-wide state: its log, and how it perceives stereo."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rdkit import Chem, rdBase

_lock = threading.RLock()
_users = 0
_block: Any = None
_legacy = True  # how the program around this package perceives stereochemistry


def _forked() -> None:
    """Give a forked child a new lock: a thread that holds the old one does not exist there.

    If another thread was silencing the log at that moment, the child's log stays silent.
    """
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def quiet_legacy() -> Iterator[None]:
    """Silence RDKit's log and perceive stereo as records do; the last thread to leave restores it.

    ``rdBase.BlockLogs`` alone depends on the order of release, which several threads do not keep:
    the log could then stay off permanently.

    Records hold what RDKit's older perception of stereochemistry (its default) finds. The newer
    one, ``Chem.SetUseLegacyStereoPerception(False)``, calls Z and E cis and trans, counts other
    centres and turns drawings; networks were not trained on that, and worker processes would not
    know of it.

    Examples
    --------
    >>> from rdkit import Chem
    >>> with quiet_legacy():
    ...     Chem.MolFromSmiles("C1CC") is None
    True
    """
    global _users, _block, _legacy
    with _lock:
        _users += 1
        if _users == 1:
            _block = rdBase.BlockLogs()
            _legacy = Chem.GetUseLegacyStereoPerception()
            if not _legacy:
                Chem.SetUseLegacyStereoPerception(True)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _block.__exit__(None, None, None)
                _block = None
                if not _legacy:
                    Chem.SetUseLegacyStereoPerception(False)


@contextmanager
def errors() -> Iterator[list[str]]:
    """Capture what RDKit writes to its error log, one thread at a time.

    Yields
    ------
    list of str
        Filled on exit; may include other threads' errors. Empty with an RDKit before 2026, which
        cannot capture its log.

    Examples
    --------
    >>> from rdkit import Chem
    >>> with errors() as lines:
    ...     _ = Chem.MolFromSmiles("C1CC")
    >>> len(lines) > 0 if hasattr(rdBase, "CaptureErrorLog") else lines == []
    True
    """
    lines: list[str] = []
    capture = getattr(rdBase, "CaptureErrorLog", None)
    if capture is None:
        with quiet_legacy():
            yield lines
        return
    with _lock, capture() as log:  # which turns the log on, where it is off, and off again
        try:
            yield lines
        finally:
            lines += log.messages.splitlines()
