"""Atomic file writes: to a temporary file in the same folder, then renamed into place."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

_UMASK = os.umask(0o077)  # there is no other way to ask for it
os.umask(_UMASK)
_ENDING = ".part"


def write_atomically(path: str | os.PathLike, write: Callable[[str], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it, and rename it into place.

    Parameters
    ----------
    path : path-like
    write : callable
        Gets the temporary file's name.

    Raises
    ------
    OSError
        If it cannot be written (a full disk, a read-only folder); an existing file at `path` is
        unchanged, and no partial file is left.

    Examples
    --------
    >>> folder = tempfile.mkdtemp()
    >>> write_atomically(f"{folder}/a.txt", lambda name: Path(name).write_text("whole"))
    >>> os.listdir(folder)
    ['a.txt']
    """
    write_together({Path(os.path.realpath(path)): write})


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write bytes as :func:`write_atomically` does."""
    write_atomically(path, lambda name: Path(name).write_bytes(data))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write text, in UTF-8, as :func:`write_atomically` does.

    Examples
    --------
    >>> folder = tempfile.mkdtemp()
    >>> write_text(f"{folder}/a.txt", "ångström")
    >>> Path(folder, "a.txt").read_text(encoding="utf-8")
    'ångström'
    """
    write_bytes(path, text.encode("utf-8"))


def write_together(
    writes: Mapping[Path, Callable[[str], object]], before: Callable[[], None] | None = None
) -> None:
    """Write several files as :func:`write_atomically`; none is renamed before all are complete.

    ``before`` is called when all are complete and none has been renamed.
    """
    ready: dict[Path, str] = {}
    path = Path()
    try:
        for path, write in writes.items():
            handle, ready[path] = tempfile.mkstemp(_ENDING, f".{path.name}.", path.parent)
            os.close(handle)
            write(ready[path])
            with open(ready[path], "rb+") as file:
                os.fsync(file.fileno())
            with suppress(PermissionError):  # FAT, shared folders and some ACLs have no modes
                os.chmod(ready[path], 0o666 & ~_UMASK)
        if before is not None:
            before()
        for path, temporary in ready.items():
            os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror or error}: could not write this file; what stood there before is "
            "unharmed. Make room, or choose another folder",
            str(path),
        ) from error
    finally:
        for temporary in ready.values():
            Path(temporary).unlink(missing_ok=True)
    for folder in {path.parent for path in writes}:
        sync_folder(folder)


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove what killed processes left of `path`; call it where no other process writes there.

    Examples
    --------
    >>> folder = tempfile.mkdtemp()
    >>> Path(folder, ".a.csv.0123abcd.part").touch()
    >>> remove_leftovers(f"{folder}/a.csv")
    >>> os.listdir(folder)
    []
    """
    place = Path(os.path.realpath(path))
    for leftover in place.parent.glob(f".{glob.escape(place.name)}.????????{_ENDING}"):
        leftover.unlink(missing_ok=True)


def sync_folder(folder: str | os.PathLike) -> None:
    """Flush a folder's entries to disk: only then does a rename survive a power cut."""
    if os.name == "nt":  # Windows cannot open folders, and orders renames itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no such thing, as on SMB
            raise
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
