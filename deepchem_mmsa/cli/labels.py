"""Labels of a table: their columns, their kind (classes or values), and the split of the rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepchem_mmsa.cli.console import ExitCode, Failure

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from deepchem_mmsa.tables import Table

#: Most words that are read as classes; a column of names has more.
_WORDS = 20
_PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}


def guessed_label(table: Table, split: str) -> str:
    """Return the only column that can hold labels.

    Raises
    ------
    Failure
        If no column or several hold numbers, if one holds numbers in most but not all of its
        cells, or if the only one looks like a row number. The message asks for ``--label``.
    """
    import numpy as np

    from deepchem_mmsa.tables import TableError
    from deepchem_mmsa.tables.reading import listed

    fitting: dict[str, np.ndarray] = {}
    faults: list[TableError] = []
    spoilt: list[TableError] = []
    for column in table.frame.columns:
        if column in (table.smiles_column, split):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # of columns that are no labels
                values, _ = read_labels(table, [column])
        except TableError as error:
            (spoilt if _mostly_numbers(table, column) else faults).append(error)
            continue
        values = values[~np.isnan(values)]
        if len(values):
            fitting[str(column)] = values
    ask = f"name the column of the labels by --label. Its columns are: {listed(list(table.frame))}"
    if spoilt:
        raise Failure(f"{spoilt[0]}. If that is no label, {ask}", ExitCode.INPUT)
    if len(fitting) != 1:
        told = f": {faults[0]}" if faults else ""
        found = f"{len(fitting)} columns hold numbers" if fitting else f"no column does{told}"
        raise Failure(
            f"cannot tell which column of {table.name} holds the labels ({found}); {ask}",
            ExitCode.INPUT,
        )
    (column, values), *_ = fitting.items()
    if len(values) > 2 and len(set(values)) == len(values) and (values == values.round()).all():
        raise Failure(
            f"the only column of numbers in {table.name}, {column}, holds a different whole number "
            f"in every row, like a row number; {ask}",
            ExitCode.INPUT,
        )
    return column


def _mostly_numbers(table: Table, column: str) -> bool:
    """Return whether most of the non-empty cells hold numbers."""
    import pandas as pd

    filled = _words(table.frame[column]).dropna()
    return bool(pd.to_numeric(filled, errors="coerce").notna().mean() > 0.5)


def read_labels(
    table: Table, tasks: Sequence[str], mode: str = "auto"
) -> tuple[np.ndarray, list[str] | None]:
    """Return label columns as numbers ``[N, T]``, and the names of the classes if these are words.

    Words are read where ``mode`` is "classification" and there is one task; sorted, they are the
    classes 0, 1, ...

    Raises
    ------
    TableError
        If a cell is no number, or two words differ in upper and lower case only.
    Failure
        If a task is named twice.
    """
    import numpy as np

    from deepchem_mmsa.tables import TableError, column_named, numbers

    if len(set(tasks)) < len(tasks):
        twice = next(task for task in tasks if list(tasks).count(task) > 1)
        raise Failure(f"--label {twice} is given twice", ExitCode.USAGE)
    columns = []
    for task in tasks:
        column = table.frame[column_named(list(table.frame.columns), task, table.name)]
        try:
            columns.append(numbers(column, table.name, semicolons=table.semicolons))
        except TableError as error:
            words = _words(column)
            if not 2 <= len(set(words.dropna())) <= _WORDS or len(tasks) > 1:
                raise
            if mode != "classification":
                words_meant = mode != "regression" and not _mostly_numbers(table, column.name)
                hint = "; to learn its words, --mode classification" * words_meant
                raise TableError(f"{error}{hint}") from error
            classes = sorted(set(words.dropna()))
            _tell_alike(classes, table.name, task)
            numbered = words.map({word: i for i, word in enumerate(classes)})
            return numbered.to_numpy(dtype=float)[:, None], classes
    return np.stack(columns, axis=1), None


def _tell_alike(classes: Sequence[str], name: str, task: str) -> None:
    """Raise a TableError if two classes differ in upper and lower case only."""
    from deepchem_mmsa.tables import TableError

    known: dict[str, str] = {}
    for word in classes:
        other = known.setdefault(word.casefold(), word)
        if other != word:
            raise TableError(
                f"{name}, column {task!r}: the classes {other!r} and {word!r} differ in upper and "
                "lower case only; write them alike, or by different words if both are meant"
            )


def _words(column: pd.Series) -> pd.Series:
    """Return the cells of a column as text, missing where they hold no value."""
    from deepchem_mmsa.tables.files import MISSING

    text = column.astype("object").map(lambda cell: "" if cell is None else str(cell).strip())
    return text.mask(text.str.lower().isin((*MISSING, "<na>")))


def label_kind(y: np.ndarray, mode: str, name: str = "the table") -> tuple[str, int]:
    """Return the kind of the labels, classification or regression, and the number of classes.

    Examples
    --------
    >>> import numpy as np
    >>> label_kind(np.array([[0.0], [1.0], [np.nan]]), "auto")
    ('classification', 2)
    >>> label_kind(np.array([[0.5], [1.0]]), "auto")
    ('regression', 2)
    """
    import numpy as np

    values = np.unique(y[~np.isnan(y)])
    if mode not in ("auto", "classification", "regression"):
        raise Failure(f"--mode {mode}: choose classification, regression or auto", ExitCode.USAGE)
    if len(values) == 0:
        raise Failure("every label is missing; is --label the right column?", ExitCode.INPUT)
    if mode == "auto":
        mode = "classification" if np.isin(values, [0, 1]).all() else "regression"
    if mode == "classification":
        wrong = np.argwhere(~np.isnan(y) & ((y < 0) | (y != np.floor(y))))
        if len(wrong):
            row, task = wrong[0]
            raise Failure(
                f"{name}, row {row + 1}: the label {y[row, task]:g} is no class; classes are whole "
                "numbers from 0: number them so, or say --mode regression",
                ExitCode.INPUT,
            )
    classes = int(values.max()) + 1 if mode == "classification" else 2
    if classes > 2 and len(values) < classes <= len(y):
        absent = min(set(range(classes)) - set(values))
        raise Failure(
            f"{name}: no label is {absent}, and the largest is {classes - 1}; number the classes "
            "from 0 without gaps, or say --mode regression",
            ExitCode.INPUT,
        )
    if classes > max(2, (~np.isnan(y)).sum()):
        row, task = np.unravel_index(int(np.nanargmax(y)), y.shape)
        raise Failure(
            f"{name}, row {row + 1}: the label {y[row, task]:g} means {classes} classes, more than "
            "there are labels; number the classes from 0, or say --mode regression",
            ExitCode.INPUT,
        )
    return mode, max(2, classes)


def check_split(table: Table, labelled: np.ndarray, split: str, valid: float, test: float) -> None:
    """Raise before the views are made what :func:`split_rows` is sure to raise after it.

    Parameters
    ----------
    table : Table
    labelled : np.ndarray
        Bool ``[N]``: rows with a label, whether or not they hold a molecule.
    split : str
    valid, test : float
    """
    from deepchem_mmsa.tables import column_named

    if split in ("scaffold", "random"):
        if valid + test >= 1:
            raise Failure("--valid and --test leave nothing to train on", ExitCode.USAGE)
        return
    cells = table.frame[column_named(list(table.frame.columns), split, table.name)][labelled]
    found = [_PARTS.get(str(cell).strip().lower()) for cell in cells]
    if found.count("train") < 2 or "valid" not in found:
        _check_enough(_named_parts(table, labelled, split), labelled, split, table.name)


def split_rows(
    table: Table, ids: np.ndarray, usable: np.ndarray, split: str, valid: float, test: float,
    seed: int,
) -> np.ndarray:  # fmt: skip
    """Return the part of each row: "train", "valid", "test", or "" where it has none.

    Parameters
    ----------
    table : Table
    ids : np.ndarray
        ``[N]`` SMILES.
    usable : np.ndarray
        Bool ``[N]``: rows with a molecule and a label.
    split : str
        "scaffold" (DeepChem's Bemis-Murcko split), "random", or a column of the table.
    valid, test : float
        Shares of the rows.
    seed : int
    """
    import deepchem as dc
    import numpy as np

    from deepchem_mmsa.rdkit_state import quiet_legacy

    check_split(table, usable, split, valid, test)
    if split in ("scaffold", "random"):
        parts = np.full(len(ids), "", dtype=object)
        places = np.flatnonzero(usable)
        data = dc.data.NumpyDataset(np.zeros((len(places), 1)), ids=ids[places])
        splitter = (
            dc.splits.ScaffoldSplitter() if split == "scaffold" else dc.splits.RandomSplitter()
        )
        with quiet_legacy():  # RDKit's messages were already reported when the molecules were read
            chosen = splitter.split(data, 1 - valid - test, valid, test, seed=seed)
        for part, indices in zip(("train", "valid", "test"), chosen):
            parts[places[np.asarray(indices, dtype=int)]] = part
    else:
        parts = _named_parts(table, usable, split)
    _check_enough(parts, usable, split, table.name)
    return parts


def _named_parts(table: Table, usable: np.ndarray, split: str) -> np.ndarray:
    """Return the part that a column names for each usable row."""
    import numpy as np

    parts = np.full(len(usable), "", dtype=object)
    for row in np.flatnonzero(usable):
        cell = table.frame[split].iloc[row]
        part = _PARTS.get(str(cell).strip().lower())
        if part is None:
            raise Failure(
                f"{table.name}, row {row + 1}, column {split!r}: {cell!r} is no part; write "
                "train, valid or test",
                ExitCode.INPUT,
            )
        parts[row] = part
    return parts


def _check_enough(parts: np.ndarray, usable: np.ndarray, split: str, name: str) -> None:
    """Raise a Failure where too few rows are left to train or to validate."""
    for part, least in (("train", 2), ("valid", 1)):
        if (parts == part).sum() < least:
            raise Failure(
                f"{name}: the {split} split leaves {(parts == part).sum()} of {usable.sum()} "
                f"usable rows for {part}; give more molecules, or another --split",
                ExitCode.INPUT,
            )
