"""The data sets of MoleculeNet, the two split protocols used in the literature, and one more.

``"hu"`` is the protocol of Hu et al. 2020 and of most tables since: a deterministic scaffold
split, 80/10/10, by Bemis-Murcko scaffolds with chirality. ``"deepchem"`` is DeepChem's scaffold
split: the same greedy filling, scaffolds without chirality. ``"random-valid"`` has DeepChem's test
set, and draws as large a validation set as DeepChem's at random from the other molecules, as most
users would. Results under different protocols are not comparable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepchem as dc
import numpy as np
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from deepchem_mmsa.atomic import sha256
from deepchem_mmsa.benchmark.scores import metric_of
from deepchem_mmsa.datasets import connectivities, shared_rows
from deepchem_mmsa.early_stopping import small_is_good
from deepchem_mmsa.featurizer import FEATURE_VERSION
from deepchem_mmsa.rdkit_state import quiet_legacy

PUBLISHED = ("hu", "deepchem")
PROTOCOLS = (*PUBLISHED, "random-valid")


@dataclass(frozen=True)
class Benchmark:
    """A MoleculeNet data set: DeepChem's loader and its file, the kind of task, the metric."""

    loader: str
    file: str
    mode: str
    metric: str


BENCHMARKS = {
    "bbbp": Benchmark("load_bbbp", "BBBP.csv", "classification", "roc_auc"),
    "bace": Benchmark("load_bace_classification", "bace.csv", "classification", "roc_auc"),
    "clintox": Benchmark("load_clintox", "clintox.csv.gz", "classification", "roc_auc"),
    "sider": Benchmark("load_sider", "sider.csv.gz", "classification", "roc_auc"),
    "tox21": Benchmark("load_tox21", "tox21.csv.gz", "classification", "roc_auc"),
    "toxcast": Benchmark("load_toxcast", "toxcast_data.csv.gz", "classification", "roc_auc"),
    "hiv": Benchmark("load_hiv", "HIV.csv", "classification", "roc_auc"),
    "muv": Benchmark("load_muv", "muv.csv.gz", "classification", "roc_auc"),
    "esol": Benchmark("load_delaney", "delaney-processed.csv", "regression", "rmse"),
    "freesolv": Benchmark("load_sampl", "SAMPL.csv", "regression", "rmse"),
    "lipophilicity": Benchmark("load_lipo", "Lipophilicity.csv", "regression", "rmse"),
}


@dataclass(frozen=True)
class Split:
    """A split data set, as given to every model of a run.

    Parameters
    ----------
    name, protocol : str
        Keys of :data:`BENCHMARKS` and :data:`PROTOCOLS`, or custom names.
    mode, metric : str
    tasks : list of str
    train, valid, test : deepchem.data.Dataset
        Records in ``X``, untransformed labels in ``y``, weight 0 for a missing label, SMILES as
        ids.
    """

    name: str
    protocol: str
    mode: str
    metric: str
    tasks: list[str]
    train: Any
    valid: Any
    test: Any

    @property
    def minimize(self) -> bool:
        """Whether lower scores are better."""
        return small_is_good(metric_of(self.metric))

    def parts(self) -> dict[str, Any]:
        """Return the three data sets by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def _loader(name: str) -> Any:
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return getattr(dc.molnet, BENCHMARKS[name].loader)


@contextmanager
def quiet_deepchem() -> Iterator[None]:
    """Silence DeepChem's warnings: several lines for each molecule that a featurizer rejects."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def load_benchmark(
    name: str,
    featurizer: Any,
    data_dir: str | None = None,
    save_dir: str | None = None,
    splitter: str | None = "scaffold",
) -> tuple[list[str], tuple[Any, ...]]:
    """Return task names and (train, valid, test) of a MoleculeNet set, with untransformed labels.

    Parameters
    ----------
    name : str
        A key of :data:`BENCHMARKS`.
    featurizer : deepchem.feat.Featurizer
    data_dir : str, optional
        Folder of the file; DeepChem downloads it if it is missing.
    save_dir : str, optional
        Folder in which DeepChem keeps the featurized set for the next run, in one named after the
        checksum of the file, which DeepChem does not compare; by default nothing is kept.
    splitter : str or None
        DeepChem's splitter; None gives a tuple of one, the whole set.

    Raises
    ------
    ValueError
        For an unknown name.
    OSError
        If the file is missing and cannot be downloaded, or cannot be read; the message names it.
    """
    load = _loader(name)
    file = _file(name, data_dir)
    if save_dir is not None and file.is_file():
        save_dir = str(Path(save_dir) / _checksum(file))
    try:
        tasks, splits, _ = load(
            featurizer=featurizer,
            splitter=splitter,
            transformers=[],
            data_dir=data_dir,
            save_dir=save_dir,
            reload=save_dir is not None,
        )
    except OSError as error:
        raise OSError(
            f"{name} cannot be loaded ({error}): it is read from {file}, and downloaded if it is "
            "missing; put it there, or name its folder (data_dir=, --data-dir)"
        ) from error
    return list(tasks), splits


def load_split(
    name: str,
    protocol: str,
    featurizer: Any,
    data_dir: str | None = None,
    save_dir: str | None = None,
    max_molecules: int | None = None,
) -> Split:
    """Load a MoleculeNet set and split it by a protocol.

    Parameters
    ----------
    name, protocol : str
        Keys of :data:`BENCHMARKS` and :data:`PROTOCOLS`.
    featurizer, data_dir, save_dir
        As in :func:`load_benchmark`.
    max_molecules : int, optional
        Keep this many, drawn at random with a fixed seed, for quick tests.

    Raises
    ------
    ValueError
        For an unknown name or protocol.
    """
    _check_protocol(protocol)
    return Whole.load(name, featurizer, data_dir, save_dir, max_molecules).split(protocol)


@dataclass(frozen=True)
class Whole:
    """A data set before it is split.

    Parameters
    ----------
    name : str
    tasks : list of str
    data : deepchem.data.Dataset
    """

    name: str
    tasks: list[str]
    data: Any

    @classmethod
    def load(
        cls,
        name: str,
        featurizer: Any,
        data_dir: str | None = None,
        save_dir: str | None = None,
        max_molecules: int | None = None,
    ) -> Whole:
        """Load a MoleculeNet set; arguments as in :func:`load_split`."""
        tasks, (stored,) = load_benchmark(name, featurizer, data_dir, save_dir, splitter=None)
        data = dc.data.NumpyDataset(stored.X, stored.y, stored.w, stored.ids)
        if max_molecules is not None and max_molecules < len(data):
            rows = np.random.default_rng(0).permutation(len(data))[:max_molecules]
            data = data.select(np.sort(rows))
        return cls(name, tasks, data)

    def split(self, protocol: str) -> Split:
        """Split by a protocol of :data:`PROTOCOLS`.

        Raises
        ------
        ValueError
            If a part is empty, for example of a set that was reduced too much.
        """
        kind = BENCHMARKS[self.name]
        parts = split_rows(self.data.ids, protocol)
        if not all(parts):
            raise ValueError(
                f"{self.name}: {len(self.data)} molecules make parts of "
                f"{', '.join(str(len(part)) for part in parts)}: take more of them"
            )
        train, valid, test = (self.data.select(rows) for rows in parts)
        return Split(self.name, protocol, kind.mode, kind.metric, self.tasks, train, valid, test)


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")


def split_rows(smiles: Sequence[str], protocol: str) -> tuple[list[int], list[int], list[int]]:
    """Return the rows of train, valid and test under a protocol of :data:`PROTOCOLS`.

    Examples
    --------
    >>> split_rows(["c1ccccc1C", "c1ccccc1CC", "C1CC1", "CC"], "deepchem")
    ([0, 1, 3], [], [2])
    """
    _check_protocol(protocol)
    if protocol == "hu":
        return scaffold_split(smiles)
    data = dc.data.NumpyDataset(np.zeros(len(smiles)), ids=np.asarray(smiles, dtype=object))
    with quiet_legacy():  # RDKit warns of each molecule with a bare hydrogen
        train, valid, test = dc.splits.ScaffoldSplitter().split(data)
        if protocol == "random-valid":
            train, valid = _redrawn(smiles, train, valid)
        return train, valid, test


def _redrawn(
    smiles: Sequence[str], train: list[int], valid: list[int]
) -> tuple[list[int], list[int]]:
    """Draw the validation rows at random from both; rows of one molecule stay together."""
    rows = np.sort([*train, *valid]).astype(int)
    names = [Chem.CanonSmiles(str(smiles[row])) for row in rows]
    molecules, molecule_of = np.unique(names, return_inverse=True)
    rank = np.random.default_rng(0).permutation(len(molecules))[molecule_of]
    drawn = rank < len(molecules) * len(valid) / max(len(rows), 1)
    return rows[~drawn].tolist(), rows[drawn].tolist()


@quiet_legacy()
def murcko_scaffold(smiles: str) -> str:
    """Return the Bemis-Murcko scaffold with chirality; "" for a molecule without a ring.

    Raises
    ------
    ValueError
        If the SMILES cannot be read.

    Examples
    --------
    >>> murcko_scaffold("CC(=O)Oc1ccccc1C(=O)O")
    'c1ccccc1'
    """
    molecule = Chem.MolFromSmiles(str(smiles))
    if molecule is None:
        raise ValueError(f"cannot read the SMILES {smiles!r}: drop its row before splitting")
    return MurckoScaffold.MurckoScaffoldSmiles(mol=molecule, includeChirality=True)


def scaffold_split(
    smiles: Sequence[str], train: float = 0.8, valid: float = 0.1
) -> tuple[list[int], list[int], list[int]]:
    """Split as Hu et al. 2020 (arXiv 1905.12265): molecules of one scaffold stay together.

    Groups of molecules fill the training set, the largest first and among equal ones that with
    the later first molecule, then the validation set, then the test set. It is deterministic.

    Parameters
    ----------
    smiles : sequence of str
    train, valid : float
        Shares.

    Returns
    -------
    train, valid, test : list of int
        Rows.

    Examples
    --------
    >>> scaffold_split(["c1ccccc1C", "C1CC1", "c1ccccc1CC", "CCC", "C1CCC1"], 0.5, 0.25)
    ([0, 2], [4], [3, 1])
    """
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(smiles):
        groups.setdefault(murcko_scaffold(text), []).append(row)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    limits = (train * len(smiles), (train + valid) * len(smiles))
    for rows in sorted(groups.values(), key=lambda rows: (len(rows), rows[0]), reverse=True):
        if len(parts[0]) + len(rows) <= limits[0]:
            parts[0].extend(rows)
        elif len(parts[0]) + len(parts[1]) + len(rows) <= limits[1]:
            parts[1].extend(rows)
        else:
            parts[2].extend(rows)
    return parts


def _file(name: str, data_dir: str | None) -> Path:
    return Path(data_dir or dc.utils.data_utils.get_data_dir()) / BENCHMARKS[name].file


def _checksum(file: Path) -> str:
    return sha256(file)[:16]


def data_identity(
    name: str, data_dir: str | None = None, optimize_conformer: bool = False
) -> dict[str, str | None]:
    """Return what identifies the data of a set, as opposed to other data of the same name.

    Parameters
    ----------
    name : str
    data_dir : str, optional
        Folder of the data files; by default DeepChem's.
    optimize_conformer : bool

    Returns
    -------
    dict
        ``file``: the checksum of the file, None if it is not downloaded yet;
        ``features``: version and kind of the records.
    """
    file = _file(name, data_dir)
    return {
        "file": _checksum(file) if file.is_file() else None,
        "features": f"{FEATURE_VERSION}{' relaxed' if optimize_conformer else ''}",
    }


def held_out_molecules(
    name: str, data_dir: str | None = None, protocols: Iterable[str] = PUBLISHED
) -> list[str]:
    """Return the SMILES of a set's validation and test molecules under the published protocols.

    Pre-training must not see them; see :func:`deepchem_mmsa.datasets.without_shared`. (Its
    validation molecules under ``"random-valid"`` may be seen without their labels; the test
    molecules are DeepChem's.)
    """
    with quiet_deepchem():  # rows without a molecule do not matter: pre-training lacks them too
        _, (whole,) = load_benchmark(name, dc.feat.RawFeaturizer(smiles=True), data_dir, None, None)
    smiles = [str(s) for s in whole.ids]
    rows: set[int] = set()
    for protocol in protocols:
        _, valid, test = split_rows(smiles, protocol)
        rows.update(valid, test)
    return [smiles[row] for row in sorted(rows)]


class LeakError(ValueError):
    """Raised if a model could have learnt from a test molecule."""


def check_apart(
    split: Split, remembered: Iterable[str] = (), pretrained_on: frozenset[str] = frozenset()
) -> None:
    """Check that no test molecule is in the training data, a memory or the pre-training data.

    Parameters
    ----------
    split : Split
    remembered : iterable of str
        SMILES of a memory's exemplars.
    pretrained_on : frozenset of str
        InChIKey first blocks of the pre-training molecules, and of their larger components.

    Raises
    ------
    LeakError
        If one is; the message names the first ones.
    """
    smiles = np.concatenate([split.train.ids, split.valid.ids, split.test.ids])
    test = np.arange(len(smiles)) >= len(smiles) - len(split.test)
    again = smiles[shared_rows(smiles, ~test, test)]
    exemplars = frozenset().union(*map(connectivities, remembered))
    tested = {s: connectivities(str(s)) for s in split.test.ids}
    shared = {
        "the training or validation set": list(dict.fromkeys(again)),
        "the memory's exemplars": [s for s, keys in tested.items() if keys & exemplars],
        "the pre-training set": [s for s, keys in tested.items() if keys & pretrained_on],
    }
    for place, found in shared.items():
        if found:
            raise LeakError(
                f"{len(found)} test molecules of {split.name} are in {place}, for example "
                f"{', '.join(map(str, found[:3]))}; a score on them would mean nothing"
            )
