"""What makes outputs of a molecule: an MLP on its embedding, and a sum over its atoms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["AtomSum", "Head"]

ATOMS = 20
"""Atoms of an ordinary molecule: with so many, the sum begins at the size of one atom's term."""


class Head(nn.Sequential):
    """The supervised head: an MLP on the molecule embedding.

    Parameters
    ----------
    in_dim, out_dim : int
    width, n_layers : int
        Hidden width; number of linear layers.
    dropout : float

    Examples
    --------
    >>> import torch
    >>> Head(8, 3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, in_dim: int, out_dim: int, width: int = 256, n_layers: int = 2, dropout: float = 0.2
    ) -> None:
        layers: list[nn.Module] = []
        for _ in range(n_layers - 1):
            layers += [nn.Linear(in_dim, width), nn.ReLU(), nn.Dropout(dropout)]
            in_dim = width
        super().__init__(*layers, nn.Linear(in_dim, out_dim))


class AtomSum(nn.Linear):
    """A linear map of each atom's embedding, added up over the atoms: ``W Σ_a x_a / 20``.

    For labels that grow with the molecule, of which means, maxima and layer norms tell nothing
    (the atom-wise output of SchNet, Schütt et al. 2018, doi 10.1063/1.5019779, with one layer).

    Parameters
    ----------
    atom_dim, out_dim : int

    Examples
    --------
    >>> import torch
    >>> AtomSum(8, 3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(self, atom_dim: int, out_dim: int) -> None:
        super().__init__(atom_dim, out_dim, bias=False)

    @classmethod
    def of(cls, encoder: Any, out_dim: int) -> AtomSum:
        """Make that of a graph encoder's atoms; a ValueError if it does not show them."""
        if not hasattr(encoder, "atom_embeddings"):
            raise ValueError(
                f"atom_sum=True: {type(encoder).__name__} does not show its atoms, by "
                "`atom_dim`, `atom_embeddings(graph)` and `readout(graph, atoms)`"
            )
        return cls(encoder.atom_dim, out_dim)

    def forward(self, sums: Tensor) -> Tensor:
        """Map the sums of the atoms' embeddings, ``[B, atom_dim]``, to ``[B, out_dim]``."""
        return super().forward(sums / ATOMS)
