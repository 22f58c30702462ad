"""Encoders by modality and name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from deepchem_mmsa.layers.fingerprint_encoder import FingerprintMLP
from deepchem_mmsa.layers.geometry_encoder import ComENet, SchNet
from deepchem_mmsa.layers.graph_encoder import GAT, GCN, GIN, AttentiveFP
from deepchem_mmsa.layers.image_encoder import ResNet18

ENCODERS: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "image": {"resnet18": ResNet18},
    "graph": {"gin": GIN, "gcn": GCN, "gat": GAT, "attentivefp": AttentiveFP},
    "geometry": {"comenet": ComENet, "schnet": SchNet},
    "fingerprint": {"mlp": FingerprintMLP},
}
"""Class of each encoder, by modality and name."""


def make_encoder(modality: str, name: str, **options: Any) -> nn.Module:
    """Build an encoder by name.

    Parameters
    ----------
    modality : {"image", "graph", "geometry", "fingerprint"}
    name : str
        A key of ``ENCODERS[modality]``.
    **options
        Options of its class, such as ``width``.

    Returns
    -------
    torch.nn.Module
        Module with ``out_dim`` that maps the modality's part of a batch to ``[n, out_dim]``.

    Raises
    ------
    ValueError
        When the name or an option is unknown, or a value is out of range.
    ImportError
        When the encoder needs DGL or dgllife and it is missing.

    Examples
    --------
    >>> make_encoder("graph", "gin", width=64).out_dim
    64
    """
    named = ENCODERS[modality]
    if name not in named:
        raise ValueError(
            f"{modality} encoder {name!r} is unknown; known are {', '.join(sorted(named))}. "
            "An nn.Module object with out_dim can be passed instead of a name."
        )
    if unknown := set(options) - set(inspect.signature(named[name]).parameters):
        raise ValueError(f"{modality} encoder {name!r} does not know {', '.join(sorted(unknown))}")
    return named[name](**options)
