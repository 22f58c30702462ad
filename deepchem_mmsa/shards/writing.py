"""Making shards: finished ones are reused, damaged ones are made again."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepchem_mmsa._version import __version__
from deepchem_mmsa.atomic import write_atomically
from deepchem_mmsa.progress import progress_bar
from deepchem_mmsa.shards import file
from deepchem_mmsa.shards.file import MAX_RECORDS, Shard, ShardError
from deepchem_mmsa.shards.reading import (
    FAILURES,
    FORMAT,
    MANIFEST,
    ShardSet,
    read_manifest,
    shard_name,
)
from deepchem_mmsa.views import (
    FEATURE_VERSION,
    RDKIT_VERSION,
    ViewSettings,
    check_sequence,
    record_maker,
)

logger = logging.getLogger(__name__)

LOCK = ".lock"
_COLUMNS = ("row", "smiles", "view", "reason")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def featurize_to_shards(
    molecules: Iterable[object],
    folder: str | os.PathLike,
    settings: ViewSettings | None = None,
    shard_size: int = 1000,
    n_jobs: int = 1,
    progress: bool = False,
    contained: bool = True,
) -> ShardSet:
    """Featurize molecules into shards in a folder.

    If it is killed at any point, a call with the same arguments resumes it: at most one shard is
    repeated, and the result has the same bytes as that of an uninterrupted run. If all shards are
    finished, it only reads the input and checks the shards; damaged ones are made again.

    Parameters
    ----------
    molecules : iterable of str or rdkit.Chem.Mol
        Read lazily: memory holds one shard at a time. A molecule that cannot be read keeps its
        row and is flagged.
    folder : path-like
        Created if it does not exist. Only one process at a time can write to it.
    settings : ViewSettings, optional
        What to make; by default image, graph and geometry, without the fingerprint.
    shard_size : int, optional
        Molecules per shard. Workers wait for each other at the end of a shard, so that it should
        hold some hundred molecules for each.
    n_jobs : int, optional
        Processes; -1 for one per core, or for all workers of the backend set by
        ``joblib.parallel_config``.
    progress : bool, optional
        Whether to show a progress bar, outside a terminal a line every half minute.
    contained : bool, optional
        Whether a molecule that crashes RDKit fails only its own row; see
        :func:`~deepchem_mmsa.views.many_views`.

    Returns
    -------
    ShardSet
        The finished shards.

    Raises
    ------
    ShardError
        If the folder is in use, cannot be written to, was removed meanwhile, or holds shards of
        other molecules or other settings.
    TypeError
        If `molecules` is a single text or a table.
    ValueError
        If `shard_size` is out of range.

    Examples
    --------
    >>> folder = tempfile.mkdtemp()
    >>> shards = featurize_to_shards(["CCO", "C1CC", "N"], folder, ViewSettings(("graph",)), 2)
    >>> [record.readable for record in shards]
    [True, False, True]
    >>> shards.failures()[["row", "smiles", "view"]].values.tolist()
    [[1, 'C1CC', 'graph']]
    """
    check_sequence(molecules)
    if not 1 <= shard_size <= MAX_RECORDS:
        raise ValueError(f"shard_size must be 1 to {MAX_RECORDS}, got {shard_size}")
    settings = settings or ViewSettings()
    folder = Path(folder)
    made_by = _made_by(settings, shard_size)
    origin = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).digest()
    shards: list[dict[str, Any]] = []
    all_inputs = hashlib.sha256()
    total = len(molecules) if isinstance(molecules, Sized) else None
    with (
        _writer(folder) as write,
        record_maker(settings, n_jobs, contained) as make,
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as failures,
        progress_bar(progress, total=total, desc="featurize", unit="mol") as bar,
    ):
        finished = _begin(folder, made_by, write)
        table = csv.writer(failures, lineterminator="\n")
        table.writerow(_COLUMNS)
        remaining = iter(molecules)
        while block := list(itertools.islice(remaining, shard_size)):
            inputs = file.digest_of_rows(block)
            path = folder / shard_name(len(shards))
            shard = _found(path, origin, inputs, finished)
            if shard is not None:
                bar.update(len(block))
            else:
                records = []
                for record in make(block):
                    records.append(record)
                    bar.update()
                data = file.pack(records, origin, inputs)
                write(path, data)
                shard = file.unpack(data, path)
            first = len(shards) * shard_size
            for row, *named in shard.failures():
                table.writerow([first + row, *(_CONTROL.sub(_escape, text) for text in named)])
            all_inputs.update(inputs)
            shards.append(
                {
                    "name": path.name,
                    "rows": len(block),
                    "bytes": shard.size,
                    "sha256": shard.sha256,
                }
            )
        if (folder / shard_name(len(shards))).exists() or len(shards) < finished:
            raise _other_molecules(folder, f"there are shards beyond the last of {len(shards)}")
        failures.seek(0)
        write(folder / FAILURES, failures)
        described = {
            **made_by,
            "package_version": __version__,
            "complete": True,
            "rows": sum(shard["rows"] for shard in shards),
            "inputs_sha256": all_inputs.hexdigest(),
            "shards": shards,
        }
        write(folder / MANIFEST, json.dumps(described, indent=1).encode())
    return ShardSet.open(folder)


def _made_by(settings: ViewSettings, shard_size: int) -> dict[str, Any]:
    """Return the settings that two runs must share to make the same shards."""
    chosen = dataclasses.asdict(settings)
    return {
        "format": FORMAT,
        "feature_version": FEATURE_VERSION,
        "rdkit_version": RDKIT_VERSION,
        "shard_size": shard_size,
        "settings": {**chosen, "modalities": list(settings.modalities)},
    }


@contextmanager
def _writer(folder: Path) -> Iterator[Callable[[Path, Any], None]]:
    """Lock the folder for this process, and yield a function that writes a file into it."""
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise ShardError(
            f"another process is writing shards to {folder}: wait for it, stop it, or choose "
            "another folder"
        ) from None
    except OSError as error:
        raise ShardError(
            f"shards cannot be written to {folder} ({error.strerror}): choose a folder that can "
            "be written to"
        ) from error
    held = os.stat(folder / LOCK)

    def write(path: Path, data: Any) -> None:
        def fill(name: str) -> None:
            if isinstance(data, bytes):
                Path(name).write_bytes(data)
            else:
                with open(name, "w", encoding="utf-8", newline="") as out:
                    shutil.copyfileobj(data, out)

        try:
            if not os.path.samestat(held, os.stat(folder / LOCK)):
                raise FileNotFoundError(2, "it was replaced")
            write_atomically(path, fill)
        except FileNotFoundError as error:
            raise ShardError(
                f"{folder} was removed or replaced while shards were written to it "
                f"({error.strerror}): start again"
            ) from error
        except OSError as error:
            raise ShardError(
                f"{error}; the shards before it are kept: make room, then make the same call again"
            ) from error

    try:
        yield write
    finally:
        lock.release()


def _begin(folder: Path, made_by: dict[str, Any], write: Callable[[Path, Any], None]) -> int:
    """Check that the folder was made with these settings; return the number of finished shards."""
    for leftover in folder.glob(".*"):  # of a run that was killed while it wrote
        if leftover.name.startswith((f".{MANIFEST}.", f".{FAILURES}.", ".shard-")):
            leftover.unlink()
    try:
        described = read_manifest(folder)
    except ShardError as error:
        logger.warning("%s; it is written again", error)
        described = None
    if described is None:
        begun = {**made_by, "package_version": __version__, "complete": False}
        write(folder / MANIFEST, json.dumps(begun, indent=1).encode())
        return 0
    differences = [
        f"{name} {theirs!r} there, {mine!r} here"
        for name, mine, theirs in _pairs(made_by, described)
        if mine != theirs
    ]
    if differences:
        raise ShardError(
            f"{folder} holds shards made with other settings ({'; '.join(differences)}): "
            f"{_remedy(folder)}"
        )
    return len(described["shards"]) if described["complete"] is True else 0


def _pairs(mine: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name, value in mine.items():
        if isinstance(value, dict):
            yield from _pairs(value, theirs.get(name) or {})
        else:
            yield name, value, theirs.get(name)


def _found(path: Path, origin: bytes, inputs: bytes, finished: int) -> Shard | None:
    """Return the shard made by an earlier run, or None if it has to be made."""
    try:
        shard = file.read(path)
    except FileNotFoundError:
        number = int(path.stem.removeprefix("shard-"))
        if number < finished:
            logger.warning("%s is missing; it is made again", path)
        elif finished:
            raise _other_molecules(path.parent, f"{path.name} would be one more") from None
        return None
    except ShardError as error:
        logger.warning("%s; it is made again", error)
        return None
    if shard.origin != origin:
        raise ShardError(f"{path} was made with other settings: {_remedy(path.parent)}")
    if shard.inputs != inputs:
        raise _other_molecules(path.parent, f"those of {path.name} differ")
    return shard


def _other_molecules(folder: Path, where: str) -> ShardError:
    return ShardError(f"{folder} holds shards of other molecules ({where}): {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"choose another folder (another --output), or delete {folder}"


def _escape(match: re.Match[str]) -> str:
    """Escape a control character, which could break a line of the table, or a terminal."""
    return f"\\x{ord(match[0]):02x}"
