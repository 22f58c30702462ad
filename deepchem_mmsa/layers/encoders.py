"""Encoders by modality and name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

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

ENCODER_OPTIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "image": lambda c: {"width": c.image_width},
    "graph": lambda c: {
        "features": c.features, "width": c.graph_width, "n_layers": c.graph_layers,
        "dropout": c.graph_dropout,
        # Options that an encoder does not have must be at their defaults.
        **({} if c.graph_readout == "mean" else {"readout": c.graph_readout}),
        **({} if c.graph_jk == "last" else {"jk": c.graph_jk}),
    },
    "geometry": lambda c: {
        "cutoff": c.cutoff, "width": c.geometry_width, "n_layers": c.geometry_layers
    },
    "fingerprint": lambda c: {
        "width": c.fingerprint_width, "n_layers": c.fingerprint_layers,
        "dropout": c.fingerprint_dropout,
    },
}  # fmt: skip
"""Options of a modality's encoders, from an ``MMSAConfig``; their classes take them all."""


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
    known = inspect.signature(named[name]).parameters
    if unknown := set(options) - set(known):
        raise ValueError(
            f"{modality} encoder {name!r} does not know {', '.join(sorted(unknown))}; its options "
            f"are {', '.join(known) or 'none'}"
        )
    return named[name](**options)


def check_output(
    modality: str, encoder: nn.Module, output: Tensor, n_molecules: int, with_sum: bool = False
) -> None:
    """Check that an encoder has given a row for each molecule, of its width.

    Parameters
    ----------
    modality : str
    encoder : torch.nn.Module
    output : Tensor
    n_molecules : int
        Molecules that have the modality.
    with_sum : bool
        Whether the sum of the atom embeddings follows.

    Raises
    ------
    ValueError
        If not: a single row, for one, would be taken for every molecule's.
    """
    width: Any = encoder.out_dim
    if with_sum:
        width = width + encoder.atom_dim
    given = list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    if given != [n_molecules, width]:
        raise ValueError(
            f"the {modality} encoder {type(encoder).__name__} has given {given} for "
            f"{n_molecules} molecules; it must return [n, out_dim], here {[n_molecules, width]}"
        )
