"""The fine-tuned classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

from deepchem_mmsa.estimators.finetuning import FineTunedEstimator
from deepchem_mmsa.tables import label_array


class MMSAClassifier(ClassifierMixin, FineTunedEstimator):
    """Classifier that fine-tunes an MMSA model.

    `y` holds class labels of any type, or, for several tasks, 0 and 1 in the shape ``[N, T]``,
    with NaN for missing labels. The parameters are those of :class:`MMSARegressor`; set
    ``config={"class_weights": "balanced"}`` to weight the classes.

    Attributes
    ----------
    classes_ : np.ndarray
        The class labels ``[C]``; for several tasks 0 and 1 for each, ``[T, 2]``.
    predictors_, history_, failures_
        See :class:`MMSARegressor`.

    Examples
    --------
    >>> smiles = ["C" * n + end for n in range(1, 7) for end in "ON"]
    >>> classifier = MMSAClassifier(modalities=["graph"], nb_epoch=1, random_state=0)
    >>> classifier.fit(smiles, ["alcohol", "amine"] * 6).predict_proba(["CCO"]).shape
    (1, 2)
    """

    _mode = "classification"
    classes_: np.ndarray

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _labels(self, y: Any) -> tuple[np.ndarray, int]:
        y = y if isinstance(y, (pd.Series, pd.DataFrame)) else np.asarray(y)
        if y.ndim > 1 and y.shape[1] > 1:
            try:
                labels = check_array(
                    y, dtype=np.float64, ensure_all_finite="allow-nan", input_name="y"
                )
            except ValueError as error:
                if "convert string" in str(error):
                    label_array(y)  # names row and value
                raise
            wrong = np.argwhere(~np.isnan(labels) & ~np.isin(labels, (0, 1)))
            if len(wrong):
                row, task = wrong[0]
                raise ValueError(
                    f"row {row}, task {task}: label {labels[row, task]:g}; labels of several tasks "
                    "must be 0, 1 or NaN; for other classes use one classifier per task"
                )
            # scikit-learn would take the numbers of two tasks for the classes of a single one.
            self.classes_ = np.tile([0, 1], (labels.shape[1], 1))
            return labels, 2
        column = column_or_1d(y, warn=True)
        if column.dtype.kind == "f":
            column = check_array(column, ensure_2d=False, input_name="y")
        missing = np.flatnonzero(pd.isna(column))
        if len(missing):
            raise ValueError(
                f"row {missing[0]}: y is {column[missing[0]]}, a missing class; leave such "
                f"molecules out ({len(missing)} in all)"
            )
        if column.dtype == object:  # numbers of pandas' nullable types
            column = pd.Series(column).infer_objects().to_numpy()
        check_classification_targets(column)
        self.classes_, numbers = np.unique(column, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y holds one class only, {self.classes_.tolist()}; a classifier needs at least two"
            )
        return numbers.astype(float), len(self.classes_)

    def _class_names(self) -> list[str] | None:
        if not self._single:
            return None
        if self.classes_.dtype.kind not in "biuf":
            return [str(c) for c in self.classes_]
        if np.array_equal(self.classes_, np.arange(len(self.classes_))):  # of any number type
            return None
        return [f"{c:g}" for c in self.classes_]

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """Return class probabilities.

        Parameters
        ----------
        X : sequence of str, rdkit.Chem.Mol or MoleculeViews, Series, or one-column DataFrame
        return_std : bool
            See :meth:`MMSARegressor.predict`.

        Returns
        -------
        np.ndarray or tuple of np.ndarray
            ``[N, C]`` in the order of ``classes_``, or for several tasks the probability of class
            1, ``[N, T]``; NaN rows for unreadable molecules.
        """
        spread = self._spread(X, return_std)
        take = (slice(None), 0) if self._single else (slice(None), slice(None), 1)
        return (spread.values[take], spread.std[take]) if return_std else spread.values[take]

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class.

        The row of a molecule that cannot be read is NaN rather than a guess. As in pandas, numeric
        classes are then returned as float, and others as object. scikit-learn's metrics raise an
        error for such rows.

        Returns
        -------
        np.ndarray
            ``[N]`` of ``classes_``, or 0 and 1 ``[N, T]``.
        """
        p = self.predict_proba(X)
        unknown = np.isnan(p).any(1)
        if self._single:
            labels = self.classes_[np.nan_to_num(p).argmax(1)]
        else:
            labels = (np.nan_to_num(p) > 0.5).astype(int)
        if unknown.any():
            labels = labels.astype(float if labels.dtype.kind in "biuf" else object)
            labels[unknown] = np.nan
        return labels

    def predict_frame(self, X: Any) -> pd.DataFrame:
        """Return classes, probabilities and reasons as a table with the index of `X`."""
        p = self.predict_proba(X)
        reasons = [""] * len(p)
        for row, _, reason in self.failures_:
            reasons[row] = reason
        if not self._single:
            columns = {f"p({t})": p[:, i] for i, t in enumerate(self.predictors_[0].tasks)}
            return self._frame(X, columns, reasons)
        columns = {f"p({c})": p[:, i] for i, c in enumerate(self.classes_)}
        best = self.classes_[np.nan_to_num(p).argmax(1)].astype(object)
        best[np.isnan(p).any(1)] = None
        return self._frame(X, {"class": best, **columns}, reasons)
