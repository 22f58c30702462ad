"""One output row per input row: tables computed in resumable chunks, written when complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from deepchem_mmsa._version import __version__
from deepchem_mmsa.atomic import remove_leftovers
from deepchem_mmsa.cli.ahead import records_ahead, threads_beside
from deepchem_mmsa.cli.console import Console, ExitCode, Failure, Interrupted
from deepchem_mmsa.hub import find_model, members
from deepchem_mmsa.prefetching import prefetched
from deepchem_mmsa.tables import (
    Table,
    TableError,
    check_output,
    count_rows,
    read_chunks,
    write_chunks,
    write_table,
)
from deepchem_mmsa.tables.files import opened

if TYPE_CHECKING:
    from deepchem_mmsa.predictor import MMSAPredictor
    from deepchem_mmsa.views import ViewSettings

CHUNK = 1000
"""Rows computed and kept at a time."""

_Chunk = tuple[int, Table, pd.DataFrame | None, Sequence[object]]
Compute = Callable[
    [Table, Sequence[object], Callable[[int], None]], tuple[pd.DataFrame, Sequence[str]]
]


def load_model(folder_or_name: str, device: str) -> MMSAPredictor:
    """Load a model for prediction; raise a Failure if there is no model of that name."""
    from deepchem_mmsa.predictor import MMSAPredictor

    return MMSAPredictor.from_pretrained(folder_or_name, checked_device(device))


def checked_device(device: str) -> str:
    """Return the full name of a device; raise a Failure if it is unknown or not available."""
    import torch

    from deepchem_mmsa.distributed import chosen_device

    try:
        found = chosen_device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        told = str(error).partition("\n")[0] or type(error).__name__
        raise Failure(f"--device {device}: {told}", ExitCode.USAGE) from error
    return str(found)


def column_of_other(path: str, column: str | None, of_input: str | None) -> str | None:
    """Return the SMILES column of a second table: `column`, or the input's if it exists there.

    None if there is neither: the column is then found by its name.
    """
    if column is None and of_input is not None:
        try:
            next(read_chunks(path, 1, of_input))
            return of_input
        except TableError:
            pass
    return column


def other_records(
    path: str,
    column: str | None,
    option: str,
    settings: ViewSettings,
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Table, Sequence[object]]]:
    """Yield rows and records of a second table, such as a reference or a training set.

    A molecule that crashes RDKit fails only its own row.

    Parameters
    ----------
    path : str
    column : str or None
        Of the SMILES; see :func:`column_of_other`.
    option : str
        The command-line option that names the column, for errors.
    settings : ViewSettings
    jobs : int
        Processes for featurization; with several, the next chunks are prepared in advance.
    progress : callable, optional
        Called with the number of records made.
    """
    stopping = threading.Event()

    def chunks() -> Generator[tuple[Table, Sequence[object]], None, None]:
        with records_ahead(settings, jobs) as prepare:
            assert prepare is not None  # the settings are known
            for table in _other_table(path, column, option):
                tell = until(stopping, shifted(progress or silent, table.start))
                yield table, prepare(table, tell)

    made = chunks() if jobs == 1 else prefetched(chunks(), stopping=stopping)
    with closing(made):
        yield from made


def _other_table(path: str, column: str | None, option: str) -> Iterator[Table]:
    try:
        yield from read_chunks(path, CHUNK, column)
    except TableError as error:
        told = str(error).replace("--smiles-column (smiles_column= in Python)", option)
        raise Failure(told, ExitCode.INPUT) from error


def each_model(names: Sequence[str]) -> list[str]:
    """Return the named models; a folder of several models is expanded to all of them."""
    inside = {name: [str(one) for one in members(find_model(name))] for name in names}
    return [one for name in names for one in inside[name] or [name]]


def model_identity(folder_or_name: str) -> str:
    """Return the checksum of a model's ``config.json``, which changes when its weights do."""
    path = find_model(folder_or_name) / "config.json"  # it holds the checksum of the weights
    if not path.is_file():
        from deepchem_mmsa.exports import load_pretrained

        load_pretrained(folder_or_name)  # raises an error that says what is wrong
    return file_identity(path)


def file_identity(path: str | os.PathLike) -> str:
    """Return a checksum of a file's unpacked content; a missing file is an input error."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_output(output: str) -> str:
    """Return the format of an output table; raise a Failure if it cannot be written."""
    try:
        return check_output(output)
    except (TableError, OSError) as error:
        raise Failure(str(error), ExitCode.OUTPUT) from error


def compute_table(
    console: Console,
    what: str,
    source: str,
    output: str,
    load: Callable[[], Compute],
    smiles_column: str | None = None,
    format: str | None = None,
    identity: dict[str, Any] | None = None,
    ahead: tuple[ViewSettings | None, int] = (None, 1),
    chunk: int = CHUNK,
) -> None:
    """Compute new columns for every row of a table, and append them to the existing ones.

    Finished chunks are kept in ``OUTPUT.partial`` until the table is complete, so that an
    interrupted run can be resumed; memory holds a few chunks.

    Parameters
    ----------
    console : Console
    what : str
        Label of the progress bar.
    source, output : str
    load : callable
        Returns ``compute``, which is ``(table, molecules, progress)`` → new columns ``[n, c]`` and
        a reason per row, empty where the row was computed. Called once, while the processes of
        `ahead` are already featurizing.
    smiles_column, format : str, optional
    identity : dict, optional
        What determines the result besides the input (model, options); kept chunks with another
        identity are discarded.
    ahead : tuple of (ViewSettings or None, int)
        Views, and the number of processes that make them for the next chunks while one is
        computed. ``compute`` gets these records, or the table's own molecules without views.
    chunk : int
        Rows computed and kept at a time.

    Raises
    ------
    Failure
        If the output cannot be written or is in use by another process, or if no row could be
        computed (the output is written nevertheless).
    Interrupted
        On Ctrl-C or SIGTERM; the message says how to resume.
    """
    kind = checked_output(output)
    if output == "-" and console.as_json:
        kind = "jsonl"
    total = count_rows(source, smiles_column, format)
    began = time.monotonic()
    parts = _Parts(
        source, output, {"what": what, "format": format, "chunk": chunk, **(identity or {})}
    )
    failed = 0
    first = ""

    with ExitStack() as stack:
        stack.enter_context(parts)
        prepare = stack.enter_context(records_ahead(*ahead))
        beside = ahead[1] if prepare and ahead[1] != 1 else 0  # processes in the background
        all_made, stopping = threading.Event(), threading.Event()

        def chunks() -> Iterator[_Chunk]:
            for index, table in enumerate(read_chunks(source, chunk, smiles_column, format)):
                frame = parts.read(index)
                molecules: Sequence[object] = table.smiles
                if prepare and frame is None:
                    tell = silent if beside else shifted(progress, table.start)
                    molecules = prepare(table, until(stopping, tell))
                yield index, table, frame, molecules
            all_made.set()

        made = chunks()
        if beside:
            made = stack.enter_context(closing(prefetched(chunks(), 4, stopping)))
        compute = load()
        take_all_threads = stack.enter_context(threads_beside(beside))
        progress = stack.enter_context(console.progress(what, total))
        # Without background processes featurization takes most time: it drives the progress bar.
        show = silent if prepare and not beside else progress

        def frames() -> Iterator[pd.DataFrame]:
            nonlocal failed, first
            done = 0
            for index, table, frame, molecules in made:
                if all_made.is_set():
                    take_all_threads()
                if frame is None:
                    columns, reasons = compute(table, molecules, shifted(show, done))
                    frame = with_columns(table.frame, columns, reasons)
                    parts.keep(index, frame)
                names = new_names(table.frame, ["status", "reason"])
                bad = frame[frame[names[0]] == "failed"]
                if len(bad) and not first:
                    place = done + int(bad.index[0]) + 1
                    first = f"; the first is row {place}: {bad[names[1]].iloc[0]}"
                failed += len(bad)
                done += len(table)
                progress(done)
                yield frame

        try:
            n = write_chunks(frames(), output, kind)
        except (KeyboardInterrupt, SystemExit) as error:
            raise Interrupted(parts.hint()) from error
        parts.remove()
    seconds = time.monotonic() - began
    text = f"{n - failed} of {n} rows computed in {seconds:.1f} s, {failed} failed{first}"
    console.result(
        {"input": source, "output": output, "rows": n, "computed": n - failed, "failed": failed,
         "seconds": round(seconds, 3), "version": __version__,
         "models_sha256": np.atleast_1d((identity or {}).get("model", [])).tolist()},
        text if failed else f"{n} rows computed in {seconds:.1f} s",
        to_stderr=output == "-",
    )  # fmt: skip
    if failed == n:
        raise Failure(
            f"no row of {source} could be computed{first}. Is the SMILES column the right one "
            "(--smiles-column)?",
            ExitCode.INPUT,
        )


def silent(done: int) -> None:
    """Show no progress."""


def until(stopping: threading.Event, progress: Callable[[int], None]) -> Callable[[int], None]:
    """Return a progress function that ends the work in the middle of a chunk."""

    def tell(done: int) -> None:
        if stopping.is_set():
            raise InterruptedError("the records are no longer wanted")
        progress(done)

    return tell


def shifted(progress: Callable[[int], None], start: int) -> Callable[[int], None]:
    """Return a progress function that adds `start` to the count."""
    return lambda done: progress(start + done)


def new_names(frame: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """Return names for new columns that do not clash with existing ones.

    Examples
    --------
    >>> new_names(pd.DataFrame({"status": ["sold"]}), ["status", "reason"])
    ['mmsa_status', 'reason']
    """
    taken = set(frame.columns)
    names = []
    for name in wanted:
        free = name if name not in taken else f"mmsa_{name}"
        number = 2
        while free in taken:
            free, number = f"mmsa_{name}_{number}", number + 1
        taken.add(free)
        names.append(free)
    return names


def with_columns(
    frame: pd.DataFrame,
    columns: pd.DataFrame,
    reasons: Sequence[str],
    status: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the rows with the new columns, ``status`` ("ok" or "failed") and ``reason`` appended.

    By default a row with a reason counts as failed.
    """
    if status is None:
        status = ["failed" if reason else "ok" for reason in reasons]
    added = columns.assign(status=list(status), reason=list(reasons))
    added.columns = pd.Index(new_names(frame, list(added.columns)))
    return pd.concat([frame.reset_index(drop=True), added.reset_index(drop=True)], axis=1)


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


class _Parts:
    """Finished chunks of an incomplete output file, locked by one process at a time."""

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
