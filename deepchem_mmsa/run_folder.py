"""Locking the folder of a run, so that one process at a time writes to it."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

LOCK, OWNER = ".run.lock", ".run.owner"


class FolderInUseError(RuntimeError):
    """Raised if another process, or another model of this one, trains into a folder."""


class RunFolder:
    """Context manager that locks a folder for the duration of a run.

    The lock is the operating system's (``flock``), so that it ends with the process that holds
    it, however that ends: nothing has to be removed by hand after a crash.

    Parameters
    ----------
    path : path-like
        Created if missing.

    Raises
    ------
    FolderInUseError
        On entering, if another process, or another model of this one, writes there.
    OSError
        On entering, if the folder cannot be written to; from :meth:`check`, if it was removed.

    Examples
    --------
    >>> import tempfile
    >>> with RunFolder(tempfile.mkdtemp()) as folder:
    ...     folder.check()
    ...     with RunFolder(folder.path):
    ...         pass
    Traceback (most recent call last):
        ...
    deepchem_mmsa.run_folder.FolderInUseError: process ... is training into ...
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / LOCK)
        self._identity: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        """Lock the folder, and remove partial files that killed runs left in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout:
            raise FolderInUseError(
                f"{self._owner()} is training into {self.path}: wait for it, stop it, or give "
                "this model a model_dir of its own"
            ) from None
        except OSError as error:
            raise OSError(
                error.errno,
                f"the run cannot write its checkpoints ({error.strerror}): give the model a "
                "model_dir that can be written to, or fit with checkpoint_interval=0",
                str(self.path),
            ) from error
        self._identity = self._current()
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        (self.path / OWNER).write_text(owner, encoding="utf-8")
        for leftover in self.path.glob(".*.pt.*"):
            logger.info("removed %s, which a killed run had not finished", leftover)
            leftover.unlink(missing_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        """Release the folder."""
        if self._current() == self._identity:
            (self.path / OWNER).unlink(missing_ok=True)
        self._lock.release()

    def check(self) -> None:
        """Check that the folder is still the one that was locked.

        Raises
        ------
        FileNotFoundError
            If it was removed or replaced: a recreated folder would hold only part of the run, and
            would not be locked.
        """
        if self._current() != self._identity:
            raise FileNotFoundError(
                f"{self.path} was removed or replaced while a run was writing to it, and its "
                "checkpoints with it; the model still holds its weights: "
                "model.save_checkpoint(model_dir=...) writes them elsewhere"
            )

    def _current(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path / LOCK)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _owner(self) -> str:
        try:
            owner = (self.path / OWNER).read_text(encoding="utf-8", errors="replace")
        except OSError:
            owner = ""
        return owner[:200] or "another process"
