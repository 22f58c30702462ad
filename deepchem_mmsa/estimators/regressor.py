"""The fine-tuned regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array, check_is_fitted

from deepchem_mmsa.estimators.finetuning import FineTunedEstimator
from deepchem_mmsa.mc_dropout import has_dropout
from deepchem_mmsa.tables import label_array, refuse_dates


class MMSARegressor(RegressorMixin, FineTunedEstimator):
    """Regressor that fine-tunes an MMSA model.

    Parameters
    ----------
    from_model : str or path-like, optional
        The pre-trained model to start from: the name of a shipped one or a folder written by
        ``save_pretrained``. By default ``mmsa-small``, unless `preset` is given.
    preset : {"small", "base"}, optional
        Train a network of this size from scratch, without pre-trained weights.
    modalities : sequence of {"image", "graph", "geometry", "fingerprint"}, optional
        The views to read; by default all views of the model.
    config : mapping, optional
        Further fields of :class:`~deepchem_mmsa.config.MMSAConfig`, and custom encoders; each fit
        trains a copy of these.
    nb_epoch, batch_size, learning_rate
        Maximum number of epochs, molecules per batch, and learning rate of the training.
    validation_fraction : float
        Share of the molecules held out for early stopping; the weights with the best validation
        loss are kept. 0 trains on all molecules for `nb_epoch` epochs.
    patience : int
        Epochs without a better validation loss before the training stops.
    averaging : float
        Decay of an exponential moving average of the weights, which is scored and kept instead of
        the weights themselves (:class:`~deepchem_mmsa.EarlyStopping`); 0.99 is usual, 0 disables
        it.
    n_models : int
        Number of models, which differ in their seed and whose predictions are averaged.
    on_error : {"raise", "drop"}
        What ``fit`` does with molecules that cannot be read: raise an error that names the first,
        or train without them, and without a class that only they have. Prediction always returns
        NaN for them.
    random_state : int, RandomState instance or None
        Determines the weights, the order of the molecules and the validation set.
    n_jobs : int
        Processes for featurization, -1 for one per core.
    device : str, optional
        By default the GPU if there is one.

    Attributes
    ----------
    predictors_ : list of MMSAPredictor
        The fitted models; pickled as configuration and safetensors.
    history_ : list of list of dict
        One row per epoch for each model.
    failures_ : list of tuple
        ``(row, smiles, reason)`` of the last ``fit`` or ``predict``.

    Examples
    --------
    >>> smiles, y = ["C" * n + "O" for n in range(1, 13)], np.arange(12.0)
    >>> regressor = MMSARegressor(modalities=["graph"], nb_epoch=1, random_state=0)
    >>> regressor.fit(smiles, y).predict(["CCO", "CCN"]).shape
    (2,)
    """

    _mode = "regression"

    def _labels(self, y: Any) -> tuple[np.ndarray, int]:
        y = y if isinstance(y, (pd.Series, pd.DataFrame)) else np.asarray(y)
        refuse_dates(y)
        try:
            labels = check_array(
                y, ensure_2d=False, dtype=np.float64, input_name="y",
                ensure_all_finite="allow-nan" if y.ndim > 1 else True,
            )  # fmt: skip
        except ValueError as error:
            if "convert string" in str(error):
                label_array(y)  # names row and value
            if "contains NaN" not in str(error):
                raise
            raise ValueError(
                "Input y contains NaN: leave the molecules without a label out, as in "
                "known = y.notna(); fit(X[known], y[known])"
            ) from None
        return labels, 2

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return values in label units.

        Parameters
        ----------
        X : sequence of str, rdkit.Chem.Mol or MoleculeViews, Series, or one-column DataFrame
        return_std : bool
            Whether to return the standard deviation too: over the models, or over MC dropout
            masks of a single model.

        Returns
        -------
        np.ndarray or tuple of np.ndarray
            ``[N]``, or ``[N, T]`` if `y` had columns; NaN for unreadable molecules.
        """
        spread = self._spread(X, return_std)
        take = (slice(None), 0) if self._single else (slice(None),)
        return (spread.values[take], spread.std[take]) if return_std else spread.values[take]

    def predict_frame(self, X: Any) -> pd.DataFrame:
        """Return values, standard deviations and reasons as a table with the index of `X`.

        Standard deviations are NaN for a single model without dropout.
        """
        check_is_fitted(self)
        several = len(self.predictors_) > 1
        known = several or has_dropout(self.predictors_[0].network)
        spread = self._spread(X, known)
        if not known:
            spread = spread._replace(std=np.full_like(spread.values, np.nan))
        columns: dict[str, np.ndarray] = {}
        for i, task in enumerate(self.predictors_[0].tasks):
            columns[task] = spread.values[:, i]
            columns[f"{task} std"] = spread.std[:, i]
        return self._frame(X, columns, spread.reasons)
