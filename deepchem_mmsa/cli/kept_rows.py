"""Finished rows of a table that is not complete, from which an interrupted command resumes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from deepchem_mmsa._version import __version__
from deepchem_mmsa.atomic import remove_leftovers
from deepchem_mmsa.cli.console import ExitCode, Failure
from deepchem_mmsa.tables import write_table


def read_part(path: Path) -> pd.DataFrame:
    """Read a table written by ``write_table(..., notes=True)``; written again it is the same."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    kinds = {c["name"]: c["numpy_type"] for c in table.schema.pandas_metadata["columns"]}
    frame = table.replace_schema_metadata().to_pandas(types_mapper=pd.ArrowDtype)
    for name, kind in kinds.items():
        if kind == "float32":  # Arrow's are written with the digits of a double
            frame[name] = frame[name].to_numpy(kind, na_value=np.nan)
    return frame


class KeptRows:
    """Finished chunks of an incomplete output file, locked by one process at a time.

    Parameters
    ----------
    source, output : str
        Nothing is kept where one of them is ``"-"``.
    identity : dict
        What determines the rows, JSON-serialisable; chunks of another one are discarded.
    """

    def __init__(self, source: str, output: str, identity: dict[str, Any]) -> None:
        self.folder = None if "-" in (source, output) else Path(f"{output}.partial")
        self.kept = 0  # rows
        self._removed = False
        if self.folder is None:
            return
        self._output = output
        self._lock = FileLock(self.folder / "lock")
        stat = os.stat(source) if os.path.exists(source) else None
        identity = {
            **identity, "version": __version__, "input": os.path.abspath(source),
            "bytes": stat and stat.st_size, "changed": stat and stat.st_mtime_ns,
        }  # fmt: skip
        self._text = json.dumps(identity, sort_keys=True)

    def __enter__(self) -> Self:
        """Lock the folder; discard the chunks of a different run, and half an output."""
        if self.folder is None:
            return self
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout:
            raise Failure(
                f"another process is writing to {self.folder}: wait for it, stop it, or give "
                "another --output",
                ExitCode.OUTPUT,
            ) from None
        except OSError as error:
            told = f"cannot write to {self.folder}: {error.strerror}; give another --output"
            raise Failure(told, ExitCode.OUTPUT) from error
        remove_leftovers(self._output)
        described = self.folder / "run.json"
        if not described.is_file() or described.read_bytes() != self._text.encode():
            for part in self.folder.glob("*.parquet"):
                part.unlink()
            described.write_text(self._text, encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        """Release the lock, and remove the folder if it holds no chunk."""
        if self.folder is None:
            return
        if not self._removed and not any(self.folder.glob("*.parquet")):
            self.remove()
        self._lock.release()

    def read(self, index: int) -> pd.DataFrame | None:
        """Return a chunk that an earlier run finished, or None."""
        if self.folder is None:
            return None
        try:
            frame = read_part(self.folder / f"{index:06d}.parquet")
        except (OSError, ValueError):  # not there, or damaged: compute it
            return None
        self.kept += len(frame)
        return frame

    def keep(self, index: int, frame: pd.DataFrame) -> None:
        """Keep a finished chunk."""
        if self.folder is None:
            return
        write_table(frame, self.folder / f"{index:06d}.parquet", notes=True)
        self.kept += len(frame)

    def remove(self) -> None:
        """Remove the chunks, once: a later folder of that name belongs to another process."""
        self._removed = True
        if self.folder is not None and self.folder.is_dir():
            if os.name == "nt":  # where an open file cannot be removed
                self._lock.release()
            shutil.rmtree(self.folder)

    def hint(self) -> str:
        """Return a message that says how to resume an interrupted run."""
        if self.folder is None:
            return "Nothing is kept; with files for input and output a run can be resumed."
        if self.kept == 0:
            return "Nothing was finished yet; run the same command again."
        return (
            f"{self.kept} finished rows are kept in {self.folder}; run the same command "
            "again to resume from there."
        )
