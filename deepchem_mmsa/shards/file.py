"""One shard: the records of about a thousand molecules in one file with a checksum.

The file is a header, the length of each record, whether each lacks a view, the records in the
compact form of :class:`~deepchem_mmsa.molecule.MoleculeViews`, and the SHA-256 of all that. The
header holds two digests: of the settings and of the molecules that the shard was made from. All
numbers are little-endian. Nothing in it can execute code.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepchem_mmsa.molecule import MoleculeViews

MAX_RECORDS = 100_000
"""Maximum number of records in a file, which is held in memory as a whole."""

_MAGIC = b"MMSAset1"
_HEADER = struct.Struct("<8s32s32sIQ")  # magic, origin, inputs, records, bytes of the records
_DIGEST = hashlib.sha256().digest_size
_MAX_BYTES = 1 << 32


class ShardError(RuntimeError):
    """Raised if shards cannot be written or read; the message names the cause and the remedy."""


class Shard(NamedTuple):
    """A shard as read from its file.

    Attributes
    ----------
    origin, inputs : bytes
        Digests of the settings and of the molecules that it was made from.
    ends : np.ndarray
        int64 ``[n]``, where each record ends in `body`.
    flagged : np.ndarray
        bool ``[n]``, whether a record lacks a requested view.
    body : memoryview
        The records, one after the other.
    size : int
        Bytes of the file.
    sha256 : str
        Of the file.
    """

    origin: bytes
    inputs: bytes
    ends: np.ndarray
    flagged: np.ndarray
    body: memoryview
    size: int
    sha256: str

    def record(self, row: int) -> MoleculeViews:
        """Return one record."""
        start = self.ends[row - 1] if row else 0
        return MoleculeViews.from_bytes(bytes(self.body[start : self.ends[row]]))

    def records(self) -> Iterator[MoleculeViews]:
        """Yield all records."""
        return map(self.record, range(len(self.ends)))

    def failures(self) -> Iterator[tuple[int, str, str, str]]:
        """Yield row of the shard, SMILES, view and reason of each view that is missing."""
        for row in np.flatnonzero(self.flagged).tolist():
            record = self.record(row)
            for view, reason in record.reasons.items():
                yield row, record.smiles, view, reason


def pack(records: Sequence[bytes], origin: bytes, inputs: bytes) -> bytes:
    """Serialise records to the content of a shard file.

    Parameters
    ----------
    records : sequence of bytes
        As returned by :meth:`~deepchem_mmsa.molecule.MoleculeViews.to_bytes`.
    origin, inputs : bytes
        SHA-256 of the settings and of the molecules.

    Raises
    ------
    ShardError
        If the records are larger than 4 GiB.

    Examples
    --------
    >>> record = MoleculeViews("C1CC", reasons={"graph": "no"})
    >>> shard = unpack(pack([record.to_bytes()], bytes(32), bytes(32)), "here")
    >>> list(shard.records()) == [record], list(shard.failures())
    (True, [(0, 'C1CC', 'graph', 'no')])
    """
    lengths = np.array([len(record) for record in records], dtype="<u4")
    size = int(lengths.sum(dtype=np.int64))
    if size > _MAX_BYTES:
        raise ShardError(
            f"a shard of {size} bytes is too large, the limit is {_MAX_BYTES}: choose a smaller "
            "shard_size"
        )
    flagged = np.array([MoleculeViews.lacks_a_view(record) for record in records], dtype=np.uint8)
    header = _HEADER.pack(_MAGIC, origin, inputs, len(records), size)
    whole = b"".join((header, lengths.tobytes(), flagged.tobytes(), *records))
    return whole + hashlib.sha256(whole).digest()


def unpack(data: bytes, name: object) -> Shard:
    """Parse the content of a shard file after verifying its checksum.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : object
        Name of the file in errors.

    Raises
    ------
    ShardError
        If it is damaged, truncated, or not a shard.
    """
    if len(data) < _HEADER.size + _DIGEST or not data.startswith(_MAGIC):
        raise ShardError(f"{name} is not a shard, or truncated")
    digest = hashlib.sha256(memoryview(data)[:-_DIGEST])
    if digest.digest() != data[-_DIGEST:]:
        raise ShardError(f"{name} is damaged: its checksum does not match")
    digest.update(data[-_DIGEST:])
    _, origin, inputs, n, size = _HEADER.unpack_from(data)
    start = _HEADER.size + 5 * n
    if n > MAX_RECORDS or start + size + _DIGEST != len(data):
        raise ShardError(f"{name} is damaged: it claims {n} records in {size} bytes")
    lengths = np.frombuffer(data, "<u4", n, _HEADER.size)
    flagged = np.frombuffer(data, np.uint8, n, _HEADER.size + 4 * n).astype(bool)
    ends = np.cumsum(lengths, dtype=np.int64)
    if n and ends[-1] != size:
        raise ShardError(f"{name} is damaged: its records do not fill it")
    body = memoryview(data)[start:-_DIGEST]
    return Shard(origin, inputs, ends, flagged, body, len(data), digest.hexdigest())


def read(path: str | os.PathLike, size: int | None = None) -> Shard:
    """Read a shard file, after checking its size.

    Parameters
    ----------
    path : path-like
    size : int, optional
        Expected number of bytes.

    Raises
    ------
    FileNotFoundError
    ShardError
        If it has another size or more than 4 GiB, or :func:`unpack` rejects it.
    """
    with open(path, "rb") as file:
        found = os.fstat(file.fileno()).st_size
        if found > _MAX_BYTES or (size is not None and found != size):
            raise ShardError(f"{path} has {found} bytes, not the {size or 'up to 4 GiB'} it should")
        return unpack(file.read(found), Path(path))


def digest_of_rows(molecules: Sequence[object]) -> bytes:
    """Return the digest that identifies the molecules a shard was made from.

    Parameters
    ----------
    molecules : sequence of str, rdkit.Chem.Mol or MoleculeViews

    Returns
    -------
    bytes
        SHA-256 of texts, of the binary form of molecules with their coordinates, of the bytes of
        records, or of the ``repr`` of anything else.

    Examples
    --------
    >>> digest_of_rows(["CC", "O"]) == digest_of_rows(["C", "CO"])
    False
    """
    digest = hashlib.sha256()
    for molecule in molecules:
        if isinstance(molecule, str):
            kind, data = b"t", molecule.encode("utf-8", "surrogatepass")
        elif isinstance(molecule, MoleculeViews):
            kind, data = b"r", molecule.to_bytes()
        elif hasattr(molecule, "ToBinary"):
            kind, data = b"m", molecule.ToBinary(0)  # atoms, bonds, conformers; no properties
        else:
            kind, data = b"o", repr(molecule)[:1000].encode("utf-8", "surrogatepass")
        digest.update(kind + struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.digest()
