"""scikit-learn estimators that map molecules to embeddings or predictions.

They take SMILES, RDKit molecules or computed :class:`~deepchem_mmsa.molecule.MoleculeViews`, as
a list, an array, a pandas Series or a one-column DataFrame, and work in ``Pipeline``,
``GridSearchCV`` and ``cross_val_score``. Every input row gives one output row: NaN, with a warning
and a reason in ``failures_``, for a molecule that cannot be read.
"""

from deepchem_mmsa.estimators.classifier import MMSAClassifier
from deepchem_mmsa.estimators.regressor import MMSARegressor
from deepchem_mmsa.estimators.transformer import MMSATransformer

__all__ = ["MMSAClassifier", "MMSARegressor", "MMSATransformer"]
