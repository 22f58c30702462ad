"""Reading shards: the manifest, which is validated first, and the records."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.shards import file
from deepchem_mmsa.shards.file import MAX_RECORDS, Shard, ShardError
from deepchem_mmsa.views import ViewSettings

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
MANIFEST, FAILURES = "manifest.json", "failures.csv"
_MAX_MANIFEST = 1 << 28  # bytes: two million shards
_REMAKE = "make the same call of featurize_to_shards again, which makes what is missing"


class ShardSet:
    """Finished shards of a folder, or of several, read one at a time.

    Created by :meth:`open`.

    Attributes
    ----------
    folder : pathlib.Path
    parts : list of (pathlib.Path, int)
        The folders that hold the shards, and the row at which each begins.
    settings : ViewSettings
        What the records hold.
    sizes : np.ndarray
        int64 ``[n_shards]``, records in each shard.
    inputs : str
        SHA-256 of the input molecules.

    Examples
    --------
    >>> import tempfile
    >>> from deepchem_mmsa.shards import featurize_to_shards
    >>> folder = tempfile.mkdtemp()
    >>> _ = featurize_to_shards(list("CNOFS"), folder, ViewSettings(("graph",)), shard_size=2)
    >>> shards = ShardSet.open(folder)
    >>> len(shards), shards.sizes, shards.records(1)
    (5, array([2, 2, 1]), [MoleculeViews('O', ...), MoleculeViews('F', ...)])
    """

    def __init__(
        self,
        folder: Path,
        settings: ViewSettings,
        shards: list[tuple[int, int, str]],
        inputs: str = "",
    ) -> None:
        self.folder = folder
        self.parts = [(folder, 0)]
        self.settings = settings
        self.inputs = inputs
        self.sizes = np.array([rows for rows, _, _ in shards], dtype=np.int64)
        self._files = [
            (folder / shard_name(number), size, sha256)
            for number, (_, size, sha256) in enumerate(shards)
        ]

    @classmethod
    def open(cls, folder: str | os.PathLike) -> ShardSet:
        """Open a folder written by :func:`featurize_to_shards`, without reading the records.

        A folder of such folders, one for each job of a cluster, is opened as one set, in the
        order of their names.

        Raises
        ------
        ShardError
            If it holds no shards, or unfinished ones, or its manifest is damaged or names files
            outside of it, or if folders in it were made with different settings.
        """
        folder = Path(folder)
        described = read_manifest(folder)
        if described is None:
            if inside := sorted(folder.glob(f"*/{MANIFEST}")):
                return cls._of_parts(folder, [cls.open(place.parent) for place in inside])
            raise ShardError(f"{folder} holds no {MANIFEST}: featurize molecules into it first")
        if described["complete"] is not True:
            raise ShardError(
                f"{folder} holds the shards of an unfinished run: make the same call of "
                "featurize_to_shards again, which resumes it"
            )
        try:
            settings = ViewSettings(**described["settings"])
        except (TypeError, ValueError) as error:
            raise ShardError(f"the settings in {folder / MANIFEST} are invalid: {error}") from None
        inputs = str(described.get("inputs_sha256", ""))
        return cls(folder, settings, _checked_shards(described, folder), inputs)

    @classmethod
    def _of_parts(cls, folder: Path, parts: list[ShardSet]) -> ShardSet:
        first = parts[0]
        for part in parts:
            if part.settings != first.settings:
                raise ShardError(
                    f"{first.folder} and {part.folder} were made with different settings "
                    f"({first.settings} and {part.settings}): featurize one of them again"
                )
        joined = cls(folder, first.settings, [])
        joined.inputs = hashlib.sha256("".join(part.inputs for part in parts).encode()).hexdigest()
        joined.sizes = np.concatenate([part.sizes for part in parts])
        joined._files = [each for part in parts for each in part._files]
        starts = itertools.accumulate(map(len, parts), initial=0)
        joined.parts = [(part.folder, start) for part, start in zip(parts, starts)]
        return joined

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return len(self.sizes)

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def __repr__(self) -> str:
        return f"ShardSet({str(self.folder)!r}, {len(self)} molecules in {self.n_shards} shards)"

    def shard(self, number: int) -> Shard:
        """Read a shard, from which single records can be decoded.

        Raises
        ------
        ShardError
            If its file is missing, damaged, or not the one that the manifest describes.
        """
        path, size, sha256 = self._files[number]
        try:
            shard = file.read(path, size)
        except FileNotFoundError:
            raise ShardError(f"{path} is missing: {_REMAKE}") from None
        except ShardError as error:
            raise ShardError(f"{error}: {_REMAKE}") from None
        if shard.sha256 != sha256 or len(shard.ends) != self.sizes[number]:
            raise ShardError(f"{path} is not the file that {MANIFEST} describes: {_REMAKE}")
        return shard

    def records(self, number: int) -> list[MoleculeViews]:
        """Return the records of a shard."""
        return list(self.shard(number).records())

    def __iter__(self) -> Iterator[MoleculeViews]:
        """Yield all records; one shard is in memory at a time."""
        for number in range(self.n_shards):
            yield from self.shard(number).records()

    def failures(self) -> pd.DataFrame:
        """Return the views that could not be made: a table of row, smiles, view and reason."""
        import pandas as pd

        kinds = {"row": "int64", "smiles": str, "view": str, "reason": str}
        tables = []
        for folder, start in self.parts:
            path = folder / FAILURES
            table = pd.read_csv(path, dtype=kinds, keep_default_na=False, encoding="utf-8")
            tables.append(table.assign(row=table["row"] + start))
        return pd.concat(tables, ignore_index=True)


def shard_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{number:05d}.mmsa"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a finished or unfinished run; None if there is none.

    Raises
    ------
    ShardError
        If it is damaged, not a manifest of shards, or of another format version.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MAX_MANIFEST:
            raise ShardError(f"{path} is larger than any manifest")
        described = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ShardError(f"{path} is damaged ({error}): {_REMAKE}") from None
    if not isinstance(described, dict) or not isinstance(described.get("settings"), dict):
        raise ShardError(f"{path} is no manifest of shards")
    if described.get("format") != FORMAT:
        raise ShardError(
            f"{path} has format {described.get('format')!r}, this package reads {FORMAT}: "
            "featurize again, or install the version that wrote it"
        )
    if "complete" not in described:
        raise ShardError(f"{path} is damaged (it does not say whether it is complete): {_REMAKE}")
    if described["complete"] is True:
        _checked_shards(described, folder)
    return described


def _checked_shards(described: dict[str, Any], folder: Path) -> list[tuple[int, int, str]]:
    """Return rows, bytes and SHA-256 of each shard, after validating the manifest."""
    checked = []
    listed = described.get("shards")
    for number, shard in enumerate(listed if isinstance(listed, list) else [None]):
        try:
            name, rows, size, sha256 = (shard[key] for key in ("name", "rows", "bytes", "sha256"))
            if name != shard_name(number):  # any other name could lead outside of the folder
                raise ValueError(
                    f"shard {number} is called {name!r:.80}, not {shard_name(number)!r}"
                )
            if type(rows) is not int or not 0 < rows <= MAX_RECORDS or type(size) is not int:
                raise ValueError(
                    f"{name} is said to hold {rows!r:.80} records in {size!r:.80} bytes"
                )
            checked.append((rows, size, str(sha256)))
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{folder / MANIFEST} is damaged ({error!r})") from None
    return checked
