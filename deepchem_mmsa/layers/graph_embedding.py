"""The base class of the 2D graph encoders, and the embedding of categorical features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepchem_mmsa.layers.atom_encoder import AtomEncoder
from deepchem_mmsa.layers.message_passing import BatchedGraph
from deepchem_mmsa.molecule import (
    ATOM_FEATURE_SETS,
    ATOM_FEATURES,
    BOND_FEATURE_SETS,
    BOND_FEATURES,
)

__all__ = ["GraphEncoder", "bond_counts_of", "embed_sum", "embedding_tables", "joined_tables"]

SELF_LOOP_TYPE = 4  # of BOND_FEATURES["type"]


class GraphEncoder(AtomEncoder):
    """Base class of the 2D graph encoders.

    Parameters
    ----------
    features : {"basic", "full"}
        Atom and bond columns that are read: number and chirality, type and direction; or all.
    width, readout
        See :class:`~deepchem_mmsa.layers.atom_encoder.AtomEncoder`.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.
    """

    def __init__(self, features: str, width: int, readout: str) -> None:
        super().__init__(width, readout)
        if features not in ATOM_FEATURE_SETS:
            raise ValueError(
                f"features={features!r} is unknown; choose one of {', '.join(ATOM_FEATURE_SETS)}"
            )
        self.features = features

    @property
    def atom_vocabularies(self) -> list[int]:
        """Vocabulary size of each atom column that is read."""
        return list(ATOM_FEATURES.values())[: ATOM_FEATURE_SETS[self.features]]

    @property
    def bond_vocabularies(self) -> list[int]:
        """Vocabulary size of each bond column that is read."""
        return list(BOND_FEATURES.values())[: BOND_FEATURE_SETS[self.features]]


def embedding_tables(vocabularies: list[int], width: int) -> nn.ModuleList:
    """Make one embedding table per category, initialised as Hu et al. 2020 do."""
    tables = [nn.Embedding(size, width) for size in vocabularies]
    for table in tables:
        nn.init.xavier_uniform_(table.weight)
    return nn.ModuleList(tables)


def embed_sum(tables: nn.ModuleList, categories: Tensor) -> Tensor:
    """Sum one embedding per column: ``[R, >= len(tables)]`` to ``[R, width]``."""
    embedded = [table(column) for table, column in zip(tables, categories.unbind(1))]
    return torch.stack(embedded).sum(0)


def joined_tables(tables: nn.ModuleList) -> Tensor:
    """Concatenate all tables, ``[sum of vocabularies, width]``."""
    weights: list[Tensor] = [table.get_parameter("weight") for table in tables]
    return torch.cat(weights)


def bond_counts_of(graph: BatchedGraph, vocabularies: list[int], self_loop: bool) -> Tensor:
    """Count the bonds of each category at each atom, float ``[N, sum of vocabularies]``.

    The sum of the embeddings of an atom's bonds is this matrix times the joined tables.
    """
    n_atoms, total = len(graph.atoms), sum(vocabularies)
    starts = torch.tensor([0, *vocabularies[:-1]], device=graph.bonds.device).cumsum(0)
    columns = graph.bonds[:, : len(vocabularies)] + starts
    cells = (graph.dst.unsqueeze(1) * total + columns).flatten()
    counts = torch.bincount(cells, minlength=n_atoms * total).view(n_atoms, total)
    if self_loop:
        loop = starts.clone()
        loop[0] += SELF_LOOP_TYPE  # the other features of a self-loop are their first category
        counts[:, loop] += 1
    return counts.to(torch.get_default_dtype())
