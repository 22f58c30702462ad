"""Pre-training molecules that are in a benchmark's held-out sets: find, count, leave out."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepchem_mmsa.atomic import write_bytes
from deepchem_mmsa.benchmark.sets import held_out_molecules
from deepchem_mmsa.datasets import connectivities

_CHUNK = 2000


def keys_of(smiles: Sequence[str], n_jobs: int = 1) -> list[frozenset[str]]:
    """Return the InChIKey first blocks of molecules and of their larger components.

    Parameters
    ----------
    smiles : sequence of str
    n_jobs : int
        Processes; an InChI takes about a millisecond.

    Returns
    -------
    list of frozenset
        Empty for a SMILES that cannot be read.

    Examples
    --------
    >>> keys_of(["CCO", "OCC", "no molecule"])[1:]
    [frozenset({'LFQSCWFLJHTTHZ'}), frozenset()]
    """
    if n_jobs == 1 or len(smiles) <= _CHUNK:
        return [connectivities(s) for s in smiles]
    from joblib import Parallel, delayed

    chunks = [smiles[i : i + _CHUNK] for i in range(0, len(smiles), _CHUNK)]
    parts = Parallel(n_jobs=n_jobs)(delayed(keys_of)(chunk) for chunk in chunks)
    return [keys for part in parts for keys in part]


def held_out_keys(
    names: Iterable[str], data_dir: str | None = None, n_jobs: int = 1
) -> dict[str, frozenset[str]]:
    """Return the keys of each benchmark's held-out molecules (:func:`held_out_molecules`)."""
    return {
        name: frozenset().union(*keys_of(held_out_molecules(name, data_dir), n_jobs))
        for name in names
    }


@dataclass
class Selection:
    """Molecules that may be used for pre-training.

    Parameters
    ----------
    smiles : list of str
        Those kept.
    keys : list of frozenset
        Their InChIKey first blocks.
    dropped : dict of str to int
        Number of molecules left out for each benchmark; one may count for several.
    n_dropped, n_unreadable : int
        Number of molecules left out for any benchmark, and because they cannot be read.
    """

    smiles: list[str]
    keys: list[frozenset[str]]
    dropped: dict[str, int]
    n_dropped: int
    n_unreadable: int


def leave_out(
    smiles: Sequence[str], held_out: Mapping[str, frozenset[str]], n_jobs: int = 1
) -> Selection:
    """Leave out the molecules that share a key with a benchmark's held-out molecules.

    Parameters
    ----------
    smiles : sequence of str
    held_out : mapping of str to frozenset
        From :func:`held_out_keys`.
    n_jobs : int

    Examples
    --------
    >>> taken = {"toy": frozenset(keys_of(["CCO"])[0])}
    >>> selection = leave_out(["OCC", "CCCC", "C("], taken)
    >>> selection.smiles, selection.dropped, selection.n_unreadable
    (['CCCC'], {'toy': 1}, 1)
    """
    selection = Selection([], [], dict.fromkeys(held_out, 0), 0, 0)
    for text, keys in zip(smiles, keys_of(smiles, n_jobs)):
        costly = [name for name, taken in held_out.items() if not taken.isdisjoint(keys)]
        for name in costly:
            selection.dropped[name] += 1
        if costly:
            selection.n_dropped += 1
        elif not keys:
            selection.n_unreadable += 1
        else:
            selection.smiles.append(text)
            selection.keys.append(keys)
    return selection


def write_keys(keys: Iterable[frozenset[str]], path: str | Path) -> None:
    """Write all keys, one per line, gzipped: the file ``pretrained_on`` of a contender."""
    text = "".join(f"{key}\n" for key in sorted(frozenset().union(*keys)))
    write_bytes(path, gzip.compress(text.encode(), mtime=0))
