"""The interface of the encoders that embed atoms: those of the 2D graph and of the conformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deepchem_mmsa.layers.message_passing import REDUCTIONS, pool

__all__ = ["AtomEncoder"]


class AtomEncoder(nn.Module):
    """Base class of the graph and conformer encoders: atom embeddings, then their readout.

    A subclass implements :meth:`atom_embeddings`, and may override :meth:`readout`.

    Parameters
    ----------
    width : int
        Width of the atoms' embeddings.
    readout : {"mean", "sum", "max"}
        How atoms are pooled; several joined by ``+``, such as ``"mean+max"``, are concatenated.

    Attributes
    ----------
    atom_dim, out_dim : int
        Widths of the embeddings of atoms and of molecules.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.
    """

    def __init__(self, width: int, readout: str) -> None:
        super().__init__()
        parts = readout.split("+")
        if not set(parts) <= set(REDUCTIONS) or len(set(parts)) < len(parts):
            raise ValueError(
                f"readout={readout!r} is unknown; choose of {', '.join(REDUCTIONS)}, each once, "
                "joined by '+'"
            )
        if width < 1:
            raise ValueError(f"width={width} must be at least 1")
        self.atom_dim = width
        self.out_dim = width * len(parts)
        self.pooling = readout

    def atom_embeddings(self, molecules: Any) -> Tensor:
        """Embed every atom in its molecule: ``[N, atom_dim]``."""
        raise NotImplementedError

    def readout(self, molecules: Any, atoms: Tensor) -> Tensor:
        """Pool the atoms of each molecule: ``[N, atom_dim]`` to ``[G, out_dim]``."""
        n_atoms, molecule = molecules.n_atoms, molecules.molecule_of_atom
        pooled = [pool(atoms, n_atoms, how, molecule) for how in self.pooling.split("+")]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)

    def forward(self, molecules: Any) -> Tensor:
        """Encode molecules.

        Parameters
        ----------
        molecules : BatchedGraph or BatchedConformers
            ``G`` molecules; ``G`` may be 0.

        Returns
        -------
        Tensor
            ``[G, out_dim]``.
        """
        return self.readout(molecules, self.atom_embeddings(molecules))

    def no_atoms(self) -> Tensor:
        """Return the embeddings of a batch without atoms, ``[0, atom_dim]``."""
        return next(self.parameters()).new_zeros((0, self.atom_dim))
