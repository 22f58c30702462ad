"""Opening and unpacking files of molecules, and inferring their format by ending or content."""

from __future__ import annotations

import difflib
import errno
import gzip
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMATS = {
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "smi": (".smi", ".smiles"),
    "sdf": (".sdf", ".sd"),
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson"),
}
"""Formats and their files' endings; ``smi`` and ``sdf`` are only read, ``jsonl`` only written."""

SMILES_COLUMNS = (
    "smiles", "canonical_smiles", "isomeric_smiles", "smi", "structure", "molecule", "mol",
)  # fmt: skip
"""Names by which the SMILES column is found automatically, in this order and in any case."""

MISSING = ("", "nan", "na", "n/a", "null", "none")
"""Cells that count as missing, in lower or upper case."""

MAX_LINE = 1 << 27
"""Characters of a line or cell; longer ones fill the memory (3 MB of gzip can hold 3 GB)."""

_SNIFFED = 1 << 16
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_SHEET = "save the sheet as CSV UTF-8, or give pandas.read_excel to the Python functions"
_FOREIGN = {
    b"PK\x03\x04": f"an Excel workbook (xlsx), or another zip archive: {_SHEET}, or unpack it",
    b"\xd0\xcf\x11\xe0": f"an Excel workbook (xls): {_SHEET}",
    b"BZh": "compressed with bzip2: unpack it (bunzip2), or use gzip instead",
    b"\xfd7zXZ": "compressed with xz: unpack it (unxz), or use gzip instead",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it (unzstd), or use gzip instead",
}


class TableError(ValueError):
    """Raised if a file cannot be read or written as a table; the message names the remedy."""


def name_of(path: str | os.PathLike) -> str:
    """Return the name of a file in messages."""
    return "standard input" if str(path) == "-" else str(path)


def format_of(path: str | os.PathLike) -> str | None:
    """Return the format of a file by its ending, ignoring ``.gz``; None if it is unknown."""
    ending = Path(str(path).lower().removesuffix(".gz")).suffix
    return next((name for name, endings in FORMATS.items() if ending in endings), None)


def is_pipe(path: str | os.PathLike) -> bool:
    """Tell whether it can be read only once: standard input, a fifo, the shell's ``<(...)``."""
    place = Path(path)
    there = os.path.exists(place)  # False also where a folder may not be looked into
    return str(path) == "-" or (there and not place.is_file() and not place.is_dir())


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[io.BufferedReader]:
    """Open a file or standard input for reading bytes, unpacked."""
    pipe = is_pipe(path)
    if str(path) == "-":
        source: Any = _standard_input()
    else:
        source = _file(Path(path))
    try:
        raw = _with_head(source) if pipe else source
        if raw.peek(2)[:2] == b"\x1f\x8b":
            unpacked = gzip.GzipFile(fileobj=raw)
            raw = io.BufferedReader(unpacked) if raw is source else _with_head(unpacked)
        yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TableError(
            f"{name_of(path)} is a damaged or incomplete gzip file ({error}); copy it again"
        ) from error
    finally:
        if str(path) != "-":
            source.close()


def _file(path: Path) -> io.BufferedReader:
    """Open a file for reading bytes; raise an error that says what is there instead."""
    try:
        if not path.exists():
            near = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
            close = difflib.get_close_matches(path.name, near, n=1)
            hint = f"; did you mean {path.parent / close[0]}?" if close else ""
            raise FileNotFoundError(f"there is no file {path}{hint}")
        if path.is_dir():
            raise TableError(f"{path} is a folder, not a table of molecules")
        return path.open("rb")
    except PermissionError as error:
        raise TableError(f"{path} cannot be read: {error.strerror}") from error


def _standard_input() -> Any:
    """Return a reader of its own: one that waits in a thread would hold the lock of Python's."""
    try:
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    except OSError:  # no file, in tests
        return sys.stdin.buffer


class _Rejoined(io.RawIOBase):
    """A stream whose head was already read: the head, followed by the rest."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the head while it lasts, then from the rest."""
        part = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _with_head(stream: Any) -> io.BufferedReader:
    """Return a reader that can peek at the whole head, even of a slow pipe."""
    return io.BufferedReader(_Rejoined(stream.read(_SNIFFED), stream), _SNIFFED)


def spooled(raw: io.BufferedReader) -> io.BufferedReader:
    """Copy a pipe to a temporary file, which can be read twice."""
    with copying_a_pipe():
        file: Any = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as its reader)
        shutil.copyfileobj(raw, file)
        file.seek(0)
    return io.BufferedReader(file)


@contextmanager
def copying_a_pipe() -> Iterator[None]:
    """Name the folder of temporary files, and the remedy, if there is no room for a copy."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"{error.strerror}: the input is a pipe, of which a copy was to be written there; make "
            "room, set TMPDIR to another folder, or give a file",
            tempfile.gettempdir(),
        ) from error


def first_line(raw: io.BufferedReader) -> str:
    """Return the first line that is not blank, without consuming it."""
    head = raw.peek(_SNIFFED)
    encoding = "utf-16" if head[:2] in _WIDE else "utf-8-sig"
    lines = head.decode(encoding, "replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in lines if line.strip()), "")


def is_header(line: str) -> bool:
    """Return whether the first line of a SMILES file names its columns."""
    words = line.lower().split()
    return bool(words) and words[0] in SMILES_COLUMNS


def sniff(raw: io.BufferedReader, smiles_column: str | None) -> str:
    """Return the format inferred from the first bytes."""
    head = raw.peek(_SNIFFED)
    if head[:4] == b"PAR1":
        return "parquet"
    if b"M  END" in head or b"$$$$" in head or b"V2000" in head or b"V3000" in head:
        return "sdf"
    line = first_line(raw)
    known = {*SMILES_COLUMNS, (smiles_column or "smiles").lower()}
    if "\t" in line and known.intersection(cell.strip().lower() for cell in line.split("\t")):
        return "tsv"
    alone = line.strip('"').lower() in known  # R quotes names
    return "csv" if "," in line or ";" in line or alone else "smi"


def refuse_foreign(raw: io.BufferedReader, name: str) -> None:
    """Raise an error with the remedy for Excel workbooks, and for compression other than gzip."""
    head = raw.peek(8)
    for mark, told in _FOREIGN.items():
        if head.startswith(mark):
            raise TableError(f"{name} is {told}")


@contextmanager
def as_lines(raw: io.BufferedReader, name: str) -> Iterator[Iterator[str]]:
    """Read bytes as lines of text: UTF-8, or UTF-16 if there is a byte order mark."""
    wide = raw.peek(2)[:2] in _WIDE
    text = io.TextIOWrapper(raw, encoding="utf-16" if wide else "utf-8-sig", newline="")
    try:
        yield _lines(text, name)
    except UnicodeDecodeError as error:
        raise TableError(
            f"{name} is not UTF-8 text ({error.reason}, byte 0x{error.object[error.start]:02x}); "
            "save it as UTF-8 (Excel: CSV UTF-8), or iconv -f latin1 -t utf-8 OLD > NEW"
        ) from error
    finally:
        if not raw.closed:
            text.detach()  # or the wrapper would close standard input when it is deleted


def _lines(text: io.TextIOWrapper, name: str) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise TableError(
                f"{name}, line {number} is longer than the {MAX_LINE:,} characters that are read "
                "at most: the file is damaged, or no table with a line for each molecule"
            )
        yield line
