"""The base class of all estimators: reads X, and reports the rows that fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.user_warning import warn_user

Failure = tuple[int, str, str]
"""Row, SMILES and reason of a molecule that failed."""


class MoleculeReader(BaseEstimator):
    """Base class of all estimators, which reads X and reports the rows that fail."""

    failures_: list[Failure]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False  # a column of molecules, not a matrix of numbers
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True  # a missing molecule fails its row only
        return tags

    def _molecules(self, X: Any, reset: bool) -> list[object]:
        """Return the molecules of X as a list; `reset`, for subclasses, is True in fit."""
        unordered = isinstance(X, (str, bytes, Mapping, Set)) or getattr(X, "ndim", 1) == 0
        if unordered or not (hasattr(X, "__len__") and hasattr(X, "__iter__")):
            raise ValueError(
                f"X={X!r} is not a sequence of molecules; give a list, an array, a Series or a "
                "table of one column"
            )
        shape = getattr(X, "shape", ())  # of pandas' and Polars' tables, too
        if len(shape) > 1:
            if shape[1:] != (1,):
                columns = f" {list(X.columns)}" if hasattr(X, "columns") else ""
                raise ValueError(
                    f"X has the shape {shape}{columns}, but must be one column of molecules; "
                    "choose it, X['smiles'], or use a ColumnTransformer"
                )
            X = X.iloc[:, 0] if isinstance(X, pd.DataFrame) else np.asarray(X)[:, 0]
        return list(X)

    def _warn(self, reasons: Sequence[str], molecules: Sequence[object], what: str) -> None:
        """Set ``failures_``, and warn once if there are any."""
        self.failures_ = [
            (row, smiles_of(molecules[row]), reason) for row, reason in enumerate(reasons) if reason
        ]
        if self.failures_:
            row, smiles, reason = self.failures_[0]
            warn_user(
                f"{len(self.failures_)} of {len(reasons)} molecules {what}; the first is row "
                f"{row}, {smiles!r}: {reason} (all are in failures_)"
            )


def smiles_of(molecule: object) -> str:
    """Return the name of a molecule in messages: a record's SMILES, else its string."""
    return molecule.smiles if isinstance(molecule, MoleculeViews) else str(molecule)
