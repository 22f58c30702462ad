"""MMSA for DeepChem: molecules as image, graph and conformer, related by a hypergraph.

Importing this package is fast and prints nothing: heavy dependencies are loaded on first use. It
registers ``dc.models.MMSAModel``, ``dc.models.MMSAConfig`` and ``dc.feat.MMSAFeaturizer``,
immediately if deepchem is already imported, otherwise when it is.

Examples
--------
>>> import deepchem as dc
>>> import deepchem_mmsa
>>> dc.models.MMSAModel is deepchem_mmsa.MMSAModel
True
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deepchem_mmsa._version import __version__

if TYPE_CHECKING:  # what editors and type checkers read; the import itself is lazy
    from deepchem_mmsa.config import MMSAConfig
    from deepchem_mmsa.early_stopping import EarlyStopping
    from deepchem_mmsa.estimators import MMSAClassifier, MMSARegressor, MMSATransformer
    from deepchem_mmsa.featurizer import MMSAFeaturizer
    from deepchem_mmsa.model import MMSAModel
    from deepchem_mmsa.molecule import MoleculeViews
    from deepchem_mmsa.predictor import MMSAPredictor, embed

_HOME = {
    "EarlyStopping": "early_stopping",
    "MMSAClassifier": "estimators",
    "MMSAConfig": "config",
    "MMSAFeaturizer": "featurizer",
    "MMSAModel": "model",
    "MMSAPredictor": "predictor",
    "MMSARegressor": "estimators",
    "MMSATransformer": "estimators",
    "MoleculeViews": "molecule",
    "embed": "predictor",
}
_REGISTERED = {"models": ("MMSAModel", "MMSAConfig"), "feat": ("MMSAFeaturizer",)}

__all__ = [
    "EarlyStopping",
    "MMSAClassifier",
    "MMSAConfig",
    "MMSAFeaturizer",
    "MMSAModel",
    "MMSAPredictor",
    "MMSARegressor",
    "MMSATransformer",
    "MoleculeViews",
    "__version__",
    "embed",
]


def _imported(name: str) -> Any:
    """Import a public name on first access."""
    if name not in _HOME:
        raise AttributeError(f"module 'deepchem_mmsa' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"deepchem_mmsa.{_HOME[name]}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would take any name for a public one
    __getattr__ = _imported


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


def _quieted(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Execute deepchem's import; if made by this package, hide its notes on missing packages."""
    frame, ours = sys._getframe(), False
    while frame is not None and not ours:
        ours = str(frame.f_globals.get("__name__")).startswith("deepchem_mmsa.")
        frame = frame.f_back  # type: ignore[assignment]
    before = logging.root.manager.disable
    if ours:
        logging.disable(max(before, logging.WARNING))
    try:
        execute(module)
    finally:
        logging.disable(before)


def _register(deepchem: ModuleType) -> None:
    """Add the public names to deepchem's modules, without importing them yet."""
    for place, names in _REGISTERED.items():
        module = getattr(deepchem, place)
        before = getattr(module, "__getattr__", None)
        if getattr(before, "_of_mmsa", False):
            continue

        def lookup(
            name: str, names: Sequence[str] = names, module: Any = module, before: Any = before
        ) -> Any:
            if name in names:
                return _imported(name)
            if before is not None:
                return before(name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        def listed(names: Sequence[str] = names, module: Any = module) -> list[str]:
            return sorted({*module.__dict__, *names})

        lookup._of_mmsa = True  # type: ignore[attr-defined]
        module.__getattr__, module.__dir__ = lookup, listed


class _DeepChemHook(importlib.abc.MetaPathFinder):
    """Import hook that registers the public names when deepchem is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return deepchem's own spec, extended to register the public names after execution."""
        if fullname != "deepchem":
            return None
        specs = (f.find_spec(fullname, path, target) for f in sys.meta_path if f is not self)
        spec = next((s for s in specs if s is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            _quieted(execute, module)
            _register(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if hasattr(sys.modules.get("deepchem"), "feat"):
    _register(sys.modules["deepchem"])
elif not any(isinstance(finder, _DeepChemHook) for finder in sys.meta_path):
    sys.meta_path.insert(0, _DeepChemHook())
