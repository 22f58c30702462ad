"""Import DGL and dgllife, whichever build of them is installed.

DGL 2.1.0, the newest release of the package index, fails to import with torch newer than 2.2:
its sub-package ``graphbolt`` (disk-based sampling, which molecules do not need) lacks a compiled
library for that torch. With an empty module in its place the rest of DGL works. DGL 1.1.3 has no
such sub-package and works as it is. Import DGL only through this module.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import logging
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["dgl_supports", "import_dgl", "import_dgllife", "run_dgllife"]

logger = logging.getLogger(__name__)

_GRAPHBOLT = "dgl.graphbolt"
_DGL_REMEDY = "install a working one with: pip install 'dgl>=1.1.3' packaging"
_DGLLIFE_REMEDY = "install it with: pip install 'dgllife>=0.3.2'"


def _graphbolt_folder() -> Path | None:
    """Folder of DGL's graphbolt, or None where DGL or its graphbolt is absent."""
    # sys.modules may hold a half-imported "dgl" without a spec; ask the path finders instead.
    spec = importlib.machinery.PathFinder.find_spec("dgl")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "graphbolt"
    return folder if folder.is_dir() else None


def _graphbolt_is_usable(folder: Path) -> bool:
    """Whether graphbolt ships a library for the installed torch."""
    version = torch.__version__.split("+", maxsplit=1)[0]
    return any(folder.glob(f"*graphbolt_pytorch_{version}.*"))


def _put_empty_graphbolt() -> None:
    """Replace graphbolt by an empty module."""
    empty = types.ModuleType(_GRAPHBOLT)
    empty.__doc__ = "Empty: this DGL has no graphbolt library for the installed torch."
    sys.modules[_GRAPHBOLT] = empty


def _bind_submodules() -> None:
    """Make every loaded ``dgl.a.b`` an attribute of ``dgl.a``.

    After a failed ``import dgl`` Python drops the package but keeps its loaded submodules; a second
    import finds them in ``sys.modules`` and no longer binds them to the new package object.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("dgl."):
            parent_name, _, child = name.rpartition(".")
            parent = sys.modules.get(parent_name)
            if parent is not None and not hasattr(parent, child):
                setattr(parent, child, module)


def import_dgl() -> Any:
    """Import DGL and return the module.

    Works with DGL 1.1.3 and 2.1.0 and any torch, also if another ``import dgl`` has failed before
    in this process. ``DGLBACKEND`` is set to ``pytorch`` unless the user has chosen
    a value, because DGL writes a file into the user's home directory otherwise.

    Returns
    -------
    module
        The package ``dgl``.

    Raises
    ------
    ImportError
        When DGL is missing or broken; the message holds the cause and the remedy.

    Examples
    --------
    >>> dgl = import_dgl()
    >>> dgl.graph(([0, 1], [1, 0])).num_nodes()
    2
    """
    loaded = sys.modules.get("dgl")
    if loaded is not None and hasattr(loaded, "DGLGraph") and hasattr(loaded, "graph"):
        return loaded

    os.environ.setdefault("DGLBACKEND", "pytorch")
    folder = _graphbolt_folder()
    if folder is not None and _GRAPHBOLT not in sys.modules and not _graphbolt_is_usable(folder):
        _put_empty_graphbolt()
    with warnings.catch_warnings(action="ignore"):
        try:
            try:
                dgl = importlib.import_module("dgl")
            except Exception:
                # graphbolt also fails on a missing torchdata: try again without it.
                if folder is None or _GRAPHBOLT in sys.modules:
                    raise
                _put_empty_graphbolt()
                dgl = importlib.import_module("dgl")
        except Exception as error:  # a broken binary raises OSError, AttributeError and others
            raise ImportError(
                f"DGL cannot be imported ({type(error).__name__}: {_first_line(error)}); "
                f"{_DGL_REMEDY}."
            ) from error
    _bind_submodules()
    # DGL warns at every batch of single atoms; they are legitimate molecules.
    warnings.filterwarnings("ignore", message="The input graph for the user-defined edge function")
    return dgl


def import_dgllife() -> Any:
    """Import dgllife after DGL and return the module.

    The import costs one to three seconds, so call it only where a network of dgllife is built.

    Returns
    -------
    module
        The package ``dgllife``, with ``dgllife.model`` loaded.

    Raises
    ------
    ImportError
        When DGL or dgllife is missing or broken; the message holds the cause and the remedy.

    Examples
    --------
    >>> import_dgllife().__name__
    'dgllife'
    """
    import_dgl()
    with warnings.catch_warnings(action="ignore"):
        try:
            importlib.import_module("dgllife.model")
        except Exception as error:
            raise ImportError(
                f"dgllife cannot be imported ({type(error).__name__}: {_first_line(error)}); "
                f"{_DGLLIFE_REMEDY}."
            ) from error
    return sys.modules["dgllife"]


def dgl_supports(device: torch.device | str) -> bool:
    """Whether the installed DGL can keep a graph on this device.

    Parameters
    ----------
    device : torch.device or str
        For example ``"cpu"`` or ``"cuda:0"``.

    Returns
    -------
    bool
        False as well when DGL cannot be imported; the reason is logged once.

    Examples
    --------
    >>> dgl_supports("cpu"), dgl_supports("meta")
    (True, False)
    """
    return _dgl_supports(torch.device(device).type)


@functools.cache
def _dgl_supports(device_type: str) -> bool:
    try:
        dgl = import_dgl()
    except ImportError as error:
        logger.warning("%s Messages are aggregated by torch instead.", error)
        return False
    if device_type != "cuda":
        return device_type == "cpu"
    try:
        dgl.graph(([0], [0])).to(torch.device("cuda"))
    except (dgl.DGLError, RuntimeError, AssertionError):  # a DGL, or a torch, built for CPU only
        return False
    return True


def _first_line(error: BaseException) -> str:
    """First line of an error message, so that the report stays one sentence."""
    return str(error).strip().partition("\n")[0].rstrip(".") or "no message"


def run_dgllife(network: nn.Module, graph: Any, *inputs: Tensor) -> Any:
    """Run a network of dgllife, at least in single precision.

    Under autocast nodes would be half and edges single precision, which DGL's kernels reject.

    Parameters
    ----------
    network : nn.Module
    graph : dgl.DGLGraph
    *inputs : Tensor
        Further inputs of the network.

    Returns
    -------
    Tensor
        The network's output.
    """
    whole = [x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in inputs]
    with torch.autocast(inputs[0].device.type, enabled=False):
        return network(graph, *whole)
