"""Encoders of the 2D graph: GIN, GCN, GAT and AttentiveFP.

GIN, the default, is implemented in :mod:`deepchem_mmsa.layers.gin`; the others are dgllife's. All
of them read categorical features, which are embedded and summed.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from deepchem_mmsa.layers.dgl_backend import import_dgl, import_dgllife, run_dgllife
from deepchem_mmsa.layers.gin import GIN
from deepchem_mmsa.layers.graph_embedding import (
    GraphEncoder,
    bond_counts_of,
    embed_sum,
    embedding_tables,
    joined_tables,
)
from deepchem_mmsa.layers.message_passing import BatchedGraph
from deepchem_mmsa.layers.single_row import running_statistics

__all__ = [
    "GAT",
    "GCN",
    "GIN",
    "AttentiveFP",
    "GraphEncoder",
]


class _DGLLifeEncoder(GraphEncoder):
    """Base class of the three encoders below: a network of dgllife on embedded categories."""

    def __init__(self, features: str, width: int, n_layers: int, readout: str) -> None:
        super().__init__(features, width, readout)
        if n_layers < 1:
            raise ValueError(f"n_layers={n_layers} must be at least 1")
        self.node_embeddings = embedding_tables(self.atom_vocabularies, width)

    def _dgl_graph(self, graph: BatchedGraph) -> Any:
        return graph.dgl()

    def _atom_inputs(self, graph: BatchedGraph) -> Tensor:
        return embed_sum(self.node_embeddings, graph.atoms)


class GCN(_DGLLifeEncoder):
    """Graph convolutional network (Kipf and Welling 2017), dgllife's, with residual connections.

    It has no bond features by definition, so the embeddings of an atom's bonds are added to the
    atom's own before the first layer.

    Parameters
    ----------
    features, width, n_layers, dropout, readout
        See :class:`GIN`.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.
    ImportError
        When DGL or dgllife is missing.
    """

    def __init__(
        self,
        features: str = "basic",
        width: int = 300,
        n_layers: int = 5,
        dropout: float = 0.0,
        readout: str = "mean",
    ) -> None:
        super().__init__(features, width, n_layers, readout)
        self.edge_embeddings = embedding_tables(self.bond_vocabularies, width)
        self.gnn = self._network(import_dgllife().model, width, n_layers, dropout)

    def _network(self, models: Any, width: int, n_layers: int, dropout: float) -> nn.Module:
        return models.GCN(
            width,
            hidden_feats=[width] * n_layers,
            gnn_norm=["both"] * n_layers,
            dropout=[dropout] * n_layers,
            allow_zero_in_degree=True,  # a single atom has no bond
        )

    def atom_embeddings(self, graph: BatchedGraph) -> Tensor:
        """Embed every atom in its molecule: ``[N, atom_dim]``.

        Raises
        ------
        RuntimeError
            When the installed DGL does not support the batch's device.
        """
        if len(graph.atoms) == 0:
            return self.no_atoms()
        counts = bond_counts_of(graph, self.bond_vocabularies, self_loop=False)
        atoms = self._atom_inputs(graph)
        atoms = atoms + counts.to(atoms.dtype) @ joined_tables(self.edge_embeddings)
        one = running_statistics(self) if len(atoms) == 1 else nullcontext()
        with one:
            return run_dgllife(self.gnn, self._dgl_graph(graph), atoms)


class GAT(GCN):
    """Graph attention network (Veličković et al. 2018), dgllife's; four heads, averaged at the end.

    Every atom attends to itself too. Bonds enter as in :class:`GCN`.

    Parameters
    ----------
    features, width, n_layers, dropout, readout
        See :class:`GIN`; ``width`` must be a multiple of 4 if there are several layers.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.
    ImportError
        When DGL or dgllife is missing.
    """

    n_heads = 4

    def _network(self, models: Any, width: int, n_layers: int, dropout: float) -> nn.Module:
        if width % self.n_heads and n_layers > 1:
            raise ValueError(f"width={width} must be a multiple of {self.n_heads} for 'gat'")
        return models.GAT(
            width,
            hidden_feats=[width // self.n_heads] * (n_layers - 1) + [width],
            num_heads=[self.n_heads] * n_layers,
            feat_drops=[dropout] * n_layers,
            attn_drops=[dropout] * n_layers,
        )

    def _dgl_graph(self, graph: BatchedGraph) -> Any:
        return import_dgl().add_self_loop(graph.dgl())


class AttentiveFP(_DGLLifeEncoder):
    """AttentiveFP (Xiong et al. 2020, doi 10.1021/acs.jmedchem.9b00959), dgllife's.

    The readout is its own attention with GRU steps.

    Parameters
    ----------
    features, width, n_layers, dropout
        See :class:`GIN`.
    bond_width : int
        Width of the embedding of a bond.
    readout_steps : int
        Steps of the attentive readout.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.
    ImportError
        When DGL or dgllife is missing.
    """

    def __init__(
        self,
        features: str = "basic",
        width: int = 300,
        n_layers: int = 2,
        dropout: float = 0.0,
        bond_width: int = 64,
        readout_steps: int = 2,
    ) -> None:
        super().__init__(features, width, n_layers, "sum")
        self.edge_embeddings = embedding_tables(self.bond_vocabularies, bond_width)
        models = import_dgllife().model
        self.gnn = models.AttentiveFPGNN(
            width, bond_width, num_layers=n_layers, graph_feat_size=width, dropout=dropout
        )
        self.attentive_readout = models.AttentiveFPReadout(
            width, num_timesteps=readout_steps, dropout=dropout
        )

    def atom_embeddings(self, graph: BatchedGraph) -> Tensor:
        """Embed every atom in its molecule: ``[N, atom_dim]``.

        Raises
        ------
        RuntimeError
            When the installed DGL does not support the batch's device.
        """
        if len(graph.atoms) == 0:
            return self.no_atoms()
        bonds = embed_sum(self.edge_embeddings, graph.bonds)
        return run_dgllife(self.gnn, self._dgl_graph(graph), self._atom_inputs(graph), bonds)

    def readout(self, graph: BatchedGraph, atoms: Tensor) -> Tensor:
        """Pool the atoms of each molecule by attention: ``[G, out_dim]``."""
        if len(atoms) == 0:
            return atoms.new_zeros((graph.n_molecules, self.out_dim))
        return run_dgllife(self.attentive_readout, graph.dgl(), atoms)
