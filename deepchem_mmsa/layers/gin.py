"""GIN with edge embeddings (Hu et al. 2020, arXiv 1905.12265), equal to dgllife's but faster.

dgllife makes one vector per edge, self-loops included, and computes every atom. Here the bonds are
one small matrix product, the self-loop is a term, and atoms that the network cannot tell apart
are computed once; without gradients nothing is done twice for them, and the last matrix product
comes after the mean over atoms, with which it can change places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepchem_mmsa.layers.graph_embedding import (
    GraphEncoder,
    bond_counts_of,
    embed_sum,
    embedding_tables,
    joined_tables,
)
from deepchem_mmsa.layers.message_passing import BatchedGraph, EdgeList, aggregate

__all__ = ["GIN"]

MAX_SHARED_FRACTION = 0.85  # with more distinct rows than this, gathering them costs what it saves


@dataclass
class SharedRows:
    """Atoms with equal surroundings, whose rows are equal.

    Parameters
    ----------
    first : Tensor
        int64 ``[U]``; one atom of each kind.
    row_of_atom : Tensor
        int64 ``[N]``; each atom's kind.
    """

    first: Tensor
    row_of_atom: Tensor


@torch.no_grad()
def shared_rows(
    graph: BatchedGraph,
    n_atom: int,
    n_bond: int,
    depth: int,
    max_fraction: float = MAX_SHARED_FRACTION,
) -> list[SharedRows]:
    """Find the atoms that a message-passing network cannot tell apart, for every depth.

    An atom's kind after ``t`` steps is a 64-bit hash of its kind and those of its neighbours and
    bonds after ``t - 1`` steps (colour refinement, Weisfeiler and Leman 1968).

    Parameters
    ----------
    graph : BatchedGraph
        ``N`` atoms.
    n_atom, n_bond : int
        Columns that the network reads.
    depth : int
        Steps.
    max_fraction : float
        Of distinct rows, up to which they are shared.

    Returns
    -------
    list of SharedRows
        Of the inputs, then one per step; the list ends where sharing no longer pays.
    """
    kind = _hash_rows(graph.atoms[:, :n_atom])
    bonds = torch.zeros_like(kind).index_add(0, graph.dst, _hash_rows(graph.bonds[:, :n_bond]))
    steps = [_rows_of(kind)]
    for _ in range(depth):
        neighbours = torch.zeros_like(kind).index_add(0, graph.dst, kind.index_select(0, graph.src))
        kind = _mix(kind + 3 * neighbours + 5 * bonds)
        rows = _rows_of(kind)
        if len(rows.first) > max_fraction * len(kind):
            break
        steps.append(rows)
    return steps


def _rows_of(kind: Tensor) -> SharedRows:
    """Group atoms of one kind; an atom stands for its kind."""
    kinds, row_of_atom = torch.unique(kind, return_inverse=True)
    atoms = torch.arange(len(kind), device=kind.device)
    first = torch.full_like(kinds, len(kind)).scatter_reduce(0, row_of_atom, atoms, "amin")
    return SharedRows(first, row_of_atom)


def _hash_rows(categories: Tensor) -> Tensor:
    """Hash of each row of categories, int64 ``[R]``; overflow wraps, as a hash wants it."""
    code = torch.zeros(len(categories), dtype=torch.int64, device=categories.device)
    for column in categories.unbind(1):
        code = _mix(code * 1000003 + column + 1)
    return code


def _mix(code: Tensor) -> Tensor:
    """Scramble 64 bits, one to one (the finaliser of splitmix64)."""
    code = (code ^ (code >> 30)) * -4658895280553007687
    code = (code ^ (code >> 27)) * -7723592293110705685
    return code ^ (code >> 31)


class GINLayer(nn.Module):
    """One step of message passing: ``h_i ← BN(MLP(Σ_{j ∈ N(i) ∪ i} h_j + e_ij))``.

    ``Σ_j e_ij`` is linear in the embedding tables and independent of ``h``: it is a count matrix,
    made once per batch, times a small table. What remains is the sum over neighbours.

    Parameters
    ----------
    bond_vocabularies : list of int
        Sizes of the embedding tables.
    width : int
        Of ``h``.
    """

    def __init__(self, bond_vocabularies: list[int], width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width)
        )
        self.edge_embeddings = embedding_tables(bond_vocabularies, width)
        self.bn = nn.BatchNorm1d(width)

    def forward(
        self, graph: BatchedGraph, h: Tensor, bond_counts: Tensor, shared: SharedRows | None = None
    ) -> Tensor:
        """Map ``h`` ``[N, width]`` to ``[N, width]``; equal rows are computed once if known."""
        neighbours = aggregate(graph.edges, h, message="nodes", reduce="sum")
        bonds = bond_counts @ joined_tables(self.edge_embeddings)
        h = h + neighbours + bonds
        if shared is None:
            h = self.mlp(h)
        else:
            h = self.mlp(h.index_select(0, shared.first)).index_select(0, shared.row_of_atom)
        if self.training and len(h) == 1:
            # The variance of one atom is undefined; its running estimate is the best there is.
            return functional.batch_norm(
                h,
                self.bn.running_mean,
                self.bn.running_var,
                self.bn.weight,
                self.bn.bias,
                eps=self.bn.eps,
            )
        return self.bn(h)


class GIN(GraphEncoder):
    """Graph isomorphism network with edge embeddings (Hu et al. 2020).

    Equal to ``dgllife.model.GIN`` (``JK="last"``) with mean pooling, under the same parameter
    names, so that dgllife's pre-trained weights load where ``features="basic"``, ``width=300``
    and ``n_layers=5``. Self-loops are added here, as bond type 4.

    Parameters
    ----------
    features : {"basic", "full"}
        Atom and bond columns that are read; each has an embedding table of its own.
    width : int
        Width of all layers.
    n_layers : int
        Steps of message passing.
    dropout : float
        After each layer.
    readout : {"mean", "sum", "max"}
        How atoms are pooled.
    share_rows : bool
        Compute atoms with equal surroundings once per batch, as far as dropout leaves them equal.
        Outputs and gradients of parameters are the same, only a third of the work is saved.
        Gradients with respect to one atom's *input* then land on an equal atom: switch it off
        (it is a plain attribute) to attribute a prediction to atoms by gradients.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.

    Examples
    --------
    >>> graph = BatchedGraph(
    ...     atoms=torch.zeros(2, 9, dtype=torch.int64), src=torch.tensor([0, 1]),
    ...     dst=torch.tensor([1, 0]), bonds=torch.zeros(2, 5, dtype=torch.int64),
    ...     n_atoms=torch.tensor([2]), n_edges=torch.tensor([2]))
    >>> GIN(width=16, n_layers=2).eval()(graph).shape
    torch.Size([1, 16])
    """

    def __init__(
        self,
        features: str = "basic",
        width: int = 300,
        n_layers: int = 5,
        dropout: float = 0.0,
        readout: str = "mean",
        share_rows: bool = True,
    ) -> None:
        super().__init__(features, width, readout)
        if n_layers < 1:
            raise ValueError(f"n_layers={n_layers} must be at least 1")
        self.share_rows = share_rows
        self.node_embeddings = embedding_tables(self.atom_vocabularies, width)
        self.gnn_layers = nn.ModuleList(
            GINLayer(self.bond_vocabularies, width) for _ in range(n_layers)
        )
        self.dropout = nn.Dropout(dropout)

    def atom_embeddings(self, graph: BatchedGraph) -> Tensor:
        """Embed every atom in its molecule.

        Parameters
        ----------
        graph : BatchedGraph
            ``N`` atoms.

        Returns
        -------
        Tensor
            ``[N, atom_dim]``.
        """
        if len(graph.atoms) == 0:
            return self.no_atoms()
        shared = self._shared_rows(graph)
        h = self._embedded(graph, shared.pop(0) if shared else None)
        bond_counts = bond_counts_of(graph, self.bond_vocabularies, self_loop=True).to(h.dtype)
        last = len(self.gnn_layers) - 1
        for index, layer in enumerate(self.gnn_layers):
            h = layer(graph, h, bond_counts, shared[index] if index < len(shared) else None)
            if index < last:
                h = functional.relu(h, inplace=True)
            h = self.dropout(h)
        return h

    def forward(self, graph: BatchedGraph) -> Tensor:
        """Encode molecules: ``G`` of them, maybe none, to ``[G, out_dim]``."""
        random = self.dropout.training and self.dropout.p > 0
        if self.training or random or torch.is_grad_enabled() or not self.share_rows:
            return super().forward(graph)
        return self._infer(graph)

    def _infer(self, graph: BatchedGraph) -> Tensor:
        """Do what :meth:`forward` does, on rows that stand for all atoms of a kind."""
        if len(graph.atoms) == 0:
            return self.readout(graph, self.no_atoms())
        shared = self._shared_rows(graph, max_fraction=1.0)
        atoms = graph.atoms.index_select(0, shared[0].first)
        h = embed_sum(self.node_embeddings, atoms)
        bond_counts = bond_counts_of(graph, self.bond_vocabularies, self_loop=True).to(h.dtype)
        last = len(self.gnn_layers) - 1
        for index, layer in enumerate(cast(Iterable[GINLayer], self.gnn_layers)):
            before, rows = shared[index], shared[index + 1]
            neighbours = aggregate(_edges_between(graph, before, rows), _padded(h, len(rows.first)))
            own = h.index_select(0, before.row_of_atom.index_select(0, rows.first))
            counts = bond_counts.index_select(0, rows.first)
            h = own + neighbours + counts @ joined_tables(layer.edge_embeddings)
            if index < last:
                h = functional.relu(layer.bn(layer.mlp(h)), inplace=True)
        widen, activate, narrow = layer.mlp
        h = activate(widen(h))
        if self.pooling != "mean":
            h = layer.bn(narrow(h)).index_select(0, rows.row_of_atom)
            return self.readout(graph, h)
        starts = graph.n_atoms.cumsum(0) - graph.n_atoms
        h = h if h.dtype == torch.float64 else h.float()
        mean = functional.embedding_bag(rows.row_of_atom, h, starts, mode="mean")
        return layer.bn(narrow(mean)) * (graph.n_atoms > 0).unsqueeze(1)

    def _embedded(self, graph: BatchedGraph, shared: SharedRows | None) -> Tensor:
        """Embed the features of atoms, ``[N, width]``; equal ones once."""
        if shared is None:
            return embed_sum(self.node_embeddings, graph.atoms)
        kinds = embed_sum(self.node_embeddings, graph.atoms.index_select(0, shared.first))
        return kinds.index_select(0, shared.row_of_atom)

    def _shared_rows(
        self, graph: BatchedGraph, max_fraction: float = MAX_SHARED_FRACTION
    ) -> list[SharedRows]:
        if not self.share_rows:
            return []
        # After the first dropout no two atoms are equal any more.
        depth = 1 if self.dropout.training and self.dropout.p > 0 else len(self.gnn_layers)
        n_atom, n_bond = len(self.atom_vocabularies), len(self.bond_vocabularies)
        return shared_rows(graph, n_atom, n_bond, depth, max_fraction)


def _edges_between(graph: BatchedGraph, before: SharedRows, rows: SharedRows) -> EdgeList:
    """Edges from the rows of one step to those of the next, through the atoms that stand for them.

    Colour refinement only splits kinds, so there are at least as many rows as before.
    """
    place = torch.full((len(graph.atoms),), -1, device=graph.dst.device)
    place[rows.first] = torch.arange(len(rows.first), device=place.device)
    target = place.index_select(0, graph.dst)
    kept = (target >= 0).nonzero()[:, 0]
    source = before.row_of_atom.index_select(0, graph.src.index_select(0, kept))
    return EdgeList(source, target.index_select(0, kept), len(rows.first))


def _padded(rows: Tensor, n: int) -> Tensor:
    return functional.pad(rows, (0, 0, 0, n - len(rows)))
