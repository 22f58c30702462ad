"""The supervised head: an MLP on the molecule embedding, and a sum over the atoms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Head", "atom_width", "check_raw", "shows_atoms"]

ATOMS = 20
"""Atoms of an ordinary molecule; scales their sum to the initial size of one atom's term."""


def shows_atoms(encoder: Any) -> bool:
    """Return whether an encoder exposes the embeddings of its atoms, and their readout."""
    return all(hasattr(encoder, name) for name in ("atom_dim", "atom_embeddings", "readout"))


def atom_width(encoder: Any) -> int:
    """Return the width of a graph encoder's atoms; raise ValueError if it does not expose them."""
    if not shows_atoms(encoder):
        raise ValueError(
            f"atom_sum=True: {type(encoder).__name__} does not expose its atoms by `atom_dim`, "
            "`atom_embeddings(graph)` and `readout(graph, atoms)`"
        )
    return encoder.atom_dim


def check_raw(head: nn.Module, raw: Tensor, n: int, config: Any) -> None:
    """Raise ValueError unless a head, perhaps a custom one, has given ``[n, n_tasks]``."""
    classes = config.n_classes if config.mode == "classification" else 1
    given = list(raw.shape) if isinstance(raw, Tensor) else f"a {type(raw).__name__}"
    if given != [n, config.n_tasks * classes]:
        wanted = "[n, n_tasks * n_classes]" if config.mode == "classification" else "[n, n_tasks]"
        raise ValueError(
            f"the head {type(head).__name__} has given {given} for {n} embeddings; it must return "
            f"{wanted}, here {[n, config.n_tasks * classes]}"
        )


class Head(nn.Sequential):
    """The supervised head: an MLP on the molecule embedding.

    With `atom_dim` a second term is summed over the atoms, ``MLP(e) + W Σ_a x_a / 20``: for labels
    that grow with the molecule, which means, maxima and layer norms do not capture (the atom-wise
    output of SchNet, Schütt et al. 2018, doi 10.1063/1.5019779, with one layer).

    Parameters
    ----------
    in_dim, out_dim : int
    width, n_layers : int
        Hidden width; number of linear layers.
    dropout : float
    atom_dim : int
        Width of an atom's embedding; 0 for no second term.

    Examples
    --------
    >>> import torch
    >>> Head(8, 3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        width: int = 256,
        n_layers: int = 2,
        dropout: float = 0.2,
        atom_dim: int = 0,
    ) -> None:
        layers: list[nn.Module] = []
        for _ in range(n_layers - 1):
            layers += [nn.Linear(in_dim, width), nn.ReLU(), nn.Dropout(dropout)]
            in_dim = width
        super().__init__(*layers, nn.Linear(in_dim, out_dim))
        self.atom_weight: nn.Parameter | None = None
        if atom_dim:
            self.atom_weight = nn.Parameter(torch.empty(out_dim, atom_dim))
            nn.init.kaiming_uniform_(self.atom_weight, a=math.sqrt(5))  # as nn.Linear does

    def forward(self, embedding: Tensor, atom_sums: Tensor | None = None) -> Tensor:
        """Return outputs ``[B, out_dim]``.

        Parameters
        ----------
        embedding : torch.Tensor
            ``[B, in_dim]``.
        atom_sums : torch.Tensor, optional
            ``Σ_a x_a``, ``[B, atom_dim]``, 0 for a molecule whose atoms are not known; without
            it the output is that of the MLP alone.
        """
        outputs = super().forward(embedding)
        if self.atom_weight is None or atom_sums is None:
            return outputs
        return outputs + nn.functional.linear(atom_sums / ATOMS, self.atom_weight)
