"""One output row per input row: tables computed in resumable chunks, written when complete."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepchem_mmsa._version import __version__
from deepchem_mmsa.cli.ahead import Halves, records_ahead, threads_beside
from deepchem_mmsa.cli.console import Console, ExitCode, Failure, Interrupted
from deepchem_mmsa.cli.kept_rows import KeptRows
from deepchem_mmsa.hub import find_model, members
from deepchem_mmsa.prefetching import prefetched
from deepchem_mmsa.tables import (
    Table,
    TableError,
    check_output,
    count_rows,
    read_chunks,
    write_chunks,
)
from deepchem_mmsa.tables.files import opened
from deepchem_mmsa.words import counted

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
    parts = KeptRows(
        source, output, {"what": what, "format": format, "chunk": chunk, **(identity or {})}
    )
    failed = 0
    first = ""

    with ExitStack() as stack:
        stack.enter_context(parts)
        prepare = stack.enter_context(records_ahead(*ahead))
        beside = ahead[1] if prepare and ahead[1] != 1 else 0  # processes in the background
        halves = Halves()
        all_made, stopping = threading.Event(), threading.Event()

        def chunks() -> Iterator[_Chunk]:
            for index, table in enumerate(read_chunks(source, chunk, smiles_column, format)):
                frame = parts.read(index)
                molecules: Sequence[object] = table.smiles
                tell = shifted(halves.of("made") if beside else progress, table.start)
                if prepare and frame is None:
                    molecules = prepare(table, until(stopping, tell))
                elif beside:
                    tell(len(table))
                yield index, table, frame, molecules
            all_made.set()

        made = chunks()
        if beside:
            made = stack.enter_context(closing(prefetched(chunks(), 4, stopping)))
        compute = load()
        take_all_threads = stack.enter_context(threads_beside(beside))
        progress = stack.enter_context(console.progress(what, total))
        if beside:
            halves.progress, progress = progress, halves.of("computed")
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
    rows = counted(n, "row")
    text = f"{n - failed} of {rows} computed in {seconds:.1f} s, {failed} failed{first}"
    console.result(
        {"input": source, "output": output, "rows": n, "computed": n - failed, "failed": failed,
         "seconds": round(seconds, 3), "version": __version__,
         "models_sha256": np.atleast_1d((identity or {}).get("model", [])).tolist()},
        text if failed else f"{rows} computed in {seconds:.1f} s",
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
