"""The transformer that computes embeddings, as a step of a scikit-learn pipeline."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from deepchem_mmsa.estimators.molecules import MoleculeReader
from deepchem_mmsa.hub import DEFAULT_MODEL
from deepchem_mmsa.predictor import MMSAPredictor


class MMSATransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, MoleculeReader):
    """Transformer of molecules into embeddings of a pre-trained or fine-tuned model.

    ``fit`` only loads the model and learns nothing. Use ``set_output(transform="pandas")`` to
    get a DataFrame with the index of the input.

    Parameters
    ----------
    model : str or path-like
        The name of a shipped model, or a folder written by ``save_pretrained``.
    features : bool
        Whether to return the outputs of the views' encoders as well as the embedding
        (:meth:`MMSAPredictor.features`): more features, from which a tree model can choose.
    batch_size : int
        Molecules per batch; the result does not depend on it.
    n_jobs : int
        Processes for featurization, -1 for one per core.
    device : str, optional
        The GPU, where there is one, by default.

    Attributes
    ----------
    predictor_ : MMSAPredictor
    failures_ : list of tuple
        ``(row, smiles, reason)`` of the last ``transform``.

    Raises
    ------
    FileNotFoundError, CheckpointError
        In ``fit``, if there is no such model or its files are damaged.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from deepchem_mmsa import MMSAModel
    >>> folder = tempfile.mkdtemp()
    >>> MMSAModel("small", modalities="graph", embedding_dim=8).save_pretrained(folder)
    >>> table = pd.DataFrame({"smiles": ["CCO", "c1ccccc1"]}, index=["ethanol", "benzene"])
    >>> transformer = MMSATransformer(folder).set_output(transform="pandas")
    >>> transformer.fit_transform(table).iloc[:, :3].columns.tolist()
    ['mmsatransformer0', 'mmsatransformer1', 'mmsatransformer2']
    """

    predictor_: MMSAPredictor

    def __init__(
        self,
        model: Any = DEFAULT_MODEL,
        *,
        features: bool = False,
        batch_size: int = 256,
        n_jobs: int = 1,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.features = features
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the model; `y` is ignored."""
        self._molecules(X, reset=True)
        self.predictor_ = MMSAPredictor.from_pretrained(self.model, self.device)
        self.failures_ = []
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return embeddings.

        Parameters
        ----------
        X : sequence of str, rdkit.Chem.Mol or MoleculeViews, Series, or one-column DataFrame

        Returns
        -------
        np.ndarray
            float32 ``[N, d]``, or ``[N, D]`` with `features`; NaN rows, with a warning, for
            unreadable molecules.
        """
        check_is_fitted(self)
        molecules = self._molecules(X, reset=False)
        read = self.predictor_.features if self.features else self.predictor_.embed
        values, reasons = read(molecules, self.batch_size, self.n_jobs)
        self._warn(reasons, molecules, "cannot be embedded and got NaN")
        return values

    @property
    def _n_features_out(self) -> int:
        widths = self.predictor_.network.feature_widths
        return sum(widths.values()) if self.features else widths["embedding"]
