"""scikit-learn estimators: molecules in, embeddings or predictions out.

They take SMILES, RDKit molecules or finished :class:`~deepchem_mmsa.molecule.MoleculeViews`, as
a list, an array, a pandas Series or a table of one column, and work in ``Pipeline``,
``GridSearchCV`` and ``cross_val_score``. Every row in gives one row out: NaN, with a warning and
a reason in ``failures_``, for a molecule that cannot be read.
"""

from deepchem_mmsa.estimators.classifier import MMSAClassifier
from deepchem_mmsa.estimators.regressor import MMSARegressor
from deepchem_mmsa.estimators.transformer import MMSATransformer

__all__ = ["MMSAClassifier", "MMSARegressor", "MMSATransformer"]
