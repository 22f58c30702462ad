"""GIN with edge embeddings (Hu et al. 2020, arXiv 1905.12265), equal to dgllife's but faster.

dgllife makes one vector per edge, self-loops included, and computes every atom. Here the bonds are
one small matrix product, the self-loop is a term, and atoms that the network cannot distinguish
are computed once: there is one row for each kind of atom, weighted in batch norm by its number of
atoms. Without gradients these rows are pooled directly, and with mean pooling the last matrix
product follows the mean over atoms, with which it commutes.
"""

from __future__ import annotations

import itertools
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

JUMPS = ("last", "concat")
ROW_MULTIPLE = 128  # see padded_rows


@dataclass
class SharedRows:
    """Atoms with equal environments, which share a row.

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
def shared_rows(graph: BatchedGraph, n_atom: int, n_bond: int, depth: int) -> list[SharedRows]:
    """Find the atoms that a message-passing network cannot distinguish, at every depth.

    An atom's kind after ``t`` steps is a 64-bit hash of its kind and those of its neighbours and
    bonds after ``t - 1`` steps (colour refinement, Weisfeiler and Leman 1968).

    Parameters
    ----------
    graph : BatchedGraph
        ``N`` atoms.
    n_atom, n_bond : int
        Columns that the network reads.
    depth : int
        Number of steps.

    Returns
    -------
    list of SharedRows
        For the inputs, then for each step.
    """
    kind = _hash_rows(graph.atoms[:, :n_atom])
    bonds = torch.zeros_like(kind).index_add(0, graph.dst, _hash_rows(graph.bonds[:, :n_bond]))
    steps = [_rows_of(kind)]
    for _ in range(depth):
        neighbours = torch.zeros_like(kind).index_add(0, graph.dst, kind.index_select(0, graph.src))
        kind = _mix(kind + 3 * neighbours + 5 * bonds)
        steps.append(_rows_of(kind))
    return steps


def _rows_of(kind: Tensor) -> SharedRows:
    """Group atoms by kind; the first of each kind represents it."""
    kinds, row_of_atom = torch.unique(kind, return_inverse=True)
    atoms = torch.arange(len(kind), device=kind.device)
    first = torch.full_like(kinds, len(kind)).scatter_reduce(0, row_of_atom, atoms, "amin")
    return SharedRows(first, row_of_atom)


def _hash_rows(categories: Tensor) -> Tensor:
    """Hash of each row of categories, int64 ``[R]``; overflow wraps, as intended."""
    code = torch.zeros(len(categories), dtype=torch.int64, device=categories.device)
    for column in categories.unbind(1):
        code = _mix(code * 1000003 + column + 1)
    return code


def _mix(code: Tensor) -> Tensor:
    """Scramble 64 bits bijectively (the finaliser of splitmix64)."""
    code = (code ^ (code >> 30)) * -4658895280553007687
    code = (code ^ (code >> 27)) * -7723592293110705685
    return code ^ (code >> 31)


@dataclass
class Step:
    """What one step of message passing needs of the graph.

    Parameters
    ----------
    edges : EdgeList
        Between the rows before and the ``R`` rows after the step.
    bond_counts : Tensor
        ``[R, categories]``; bonds that end in each row, self-loop included.
    total : int
        Atoms ``N``.
    own : Tensor, optional
        int64 ``[R]``; for each row, its row before the step. None where rows are atoms throughout.
    rows : SharedRows, optional
        The rows after the step; None where they are atoms.
    """

    edges: EdgeList
    bond_counts: Tensor
    total: int
    own: Tensor | None = None
    rows: SharedRows | None = None


class GINLayer(nn.Module):
    """One step of message passing: ``h_i ← BN(MLP(Σ_{j ∈ N(i) ∪ i} h_j + e_ij))``.

    ``Σ_j e_ij`` is linear in the embedding tables and independent of ``h``: it is a count matrix,
    made once per batch, times a small table. What remains is the sum over neighbours.

    Parameters
    ----------
    bond_vocabularies : list of int
        Sizes of the embedding tables.
    width : int
        Width of ``h``.
    """

    def __init__(self, bond_vocabularies: list[int], width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width)
        )
        self.edge_embeddings = embedding_tables(bond_vocabularies, width)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, h: Tensor, step: Step) -> Tensor:
        """Map the rows before the step, ``[R', width]``, to those after it, ``[R, width]``."""
        rows = self.gathered(h, step)
        return self.normalized(self.mlp(padded_rows(rows))[: len(rows)], step)

    def gathered(self, h: Tensor, step: Step) -> Tensor:
        """Return the sum of messages at each row, ``[R, width]``."""
        # Refinement only splits kinds: there are no fewer rows than before.
        padded = functional.pad(h, (0, 0, 0, step.edges.n_nodes - len(h)))
        neighbours = aggregate(step.edges, padded, message="nodes", reduce="sum")
        own = h if step.own is None else h.index_select(0, step.own)
        with torch.autocast(h.device.type, enabled=False):  # the product is too small to gain
            bonds = step.bond_counts @ joined_tables(self.edge_embeddings)
        return own + neighbours + bonds.to(h.dtype)

    def normalized(self, h: Tensor, step: Step) -> Tensor:
        """Apply batch norm over the atoms that the rows represent."""
        bn = self.bn
        if not bn.training or (step.rows is None and step.total > 1):
            return bn(h)
        if step.total == 1:
            # The variance of one atom is undefined: use the running estimate.
            return functional.batch_norm(
                h, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps
            )
        assert step.rows is not None
        rows = h if h.dtype == torch.float64 else h.float()
        share = torch.bincount(step.rows.row_of_atom, minlength=len(h)).to(rows.dtype) / step.total
        with torch.autocast(h.device.type, enabled=False):  # half precision is too coarse
            mean = share @ rows
            centred = rows - mean
            variance = share @ centred.square()
        _follow(bn, mean.detach(), variance.detach() * (step.total / (step.total - 1)))
        scale = bn.weight * torch.rsqrt(variance + bn.eps)
        return torch.addcmul(bn.bias, centred, scale).to(h.dtype)


def padded_rows(rows: Tensor) -> Tensor:
    """Append rows of zeros up to a multiple of ``ROW_MULTIPLE``, under autocast on a CPU.

    There oneDNN computes half precision and compiles each product for its number of rows: in
    training, where that differs from batch to batch, this took a fifth of a step, and memory.
    """
    if rows.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return rows
    return functional.pad(rows, (0, 0, 0, -len(rows) % ROW_MULTIPLE))


def _follow(bn: nn.BatchNorm1d, mean: Tensor, variance: Tensor) -> None:
    """Update running statistics as torch's batch norm does."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    bn.num_batches_tracked += 1
    momentum = bn.momentum if bn.momentum is not None else 1 / float(bn.num_batches_tracked)
    bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), momentum)
    bn.running_var.lerp_(variance.to(bn.running_var.dtype), momentum)


class GIN(GraphEncoder):
    """Graph isomorphism network with edge embeddings (Hu et al. 2020).

    Equal to ``dgllife.model.GIN`` (``JK="last"``) with mean pooling, under the same parameter
    names, so that dgllife's pre-trained weights load where ``features="basic"``, ``width=300``
    and ``n_layers=5``. Self-loops are added here, as bond type 4.

    Parameters
    ----------
    features : {"basic", "full"}
        Atom and bond columns that are read; each has its own embedding table.
    width : int
        Width of all layers.
    n_layers : int
        Steps of message passing.
    dropout : float
        Dropout probability after each layer.
    readout : {"mean", "sum", "max"}
        How atoms are pooled; several joined by ``+``, such as ``"mean+max"``, are concatenated.
    jk : {"last", "concat"}
        An atom's embedding: that of the last layer, or of all layers concatenated (jumping
        knowledge, Xu et al. 2018, arXiv 1806.03536).
    share_rows : bool
        Compute atoms with equal environments once per batch (on a CPU, and as far as dropout
        leaves them equal). Outputs and gradients of parameters are the same, and a third of the
        work is saved. The gradient of one atom's *input* may then go to an equal atom: set this
        attribute to False to attribute a prediction to atoms by gradients.

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
        jk: str = "last",
        share_rows: bool = True,
    ) -> None:
        super().__init__(features, width, readout)
        if n_layers < 1:
            raise ValueError(f"n_layers={n_layers} must be at least 1")
        if jk not in JUMPS:
            raise ValueError(f"jk={jk!r} is unknown; choose one of {', '.join(JUMPS)}")
        self.jk = jk
        if jk == "concat":
            self.atom_dim, self.out_dim = width * n_layers, self.out_dim * n_layers
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
        h, rows = self._embedded(graph, shared)
        every = []
        last = len(self.gnn_layers) - 1
        for index, (layer, step) in enumerate(zip(self._layers, self._steps(graph, shared))):
            if step.rows is None:
                h, rows = _spread(h, rows), None
            h, rows = layer(h, step), step.rows
            if index < last:
                h = functional.relu(h, inplace=True)
            if self._drops:
                h, rows = self.dropout(_spread(h, rows)), None
            if self.jk == "concat":
                every.append(_spread(h, rows))
        return torch.cat(every, dim=1) if every else _spread(h, rows)

    def forward(self, graph: BatchedGraph) -> Tensor:
        """Encode ``G`` molecules (``G`` may be 0) to ``[G, out_dim]``."""
        learns = self._drops or torch.is_grad_enabled() or self._layers[0].bn.training
        if learns or not self._shares(graph) or len(graph.atoms) == 0:
            return super().forward(graph)
        # Shared rows are pooled directly, without a copy for each atom.
        shared = self._shared_rows(graph)
        h, _ = self._embedded(graph, shared)
        *steps, last_step = self._steps(graph, shared)
        *layers, last = self._layers
        pooled = []
        for layer, step in zip(layers, steps):
            h = functional.relu(layer(h, step), inplace=True)
            if self.jk == "concat":
                pooled.append(self._pooled(graph, h, step))
        if self.pooling == "mean":
            widen, activate, narrow = last.mlp
            wide = activate(widen(last.gathered(h, last_step)))
            pooled.append([last.bn(narrow(*self._pooled(graph, wide, last_step)))])
        else:
            pooled.append(self._pooled(graph, last(h, last_step), last_step))
        every = [layer for kind in zip(*pooled) for layer in kind]
        return torch.cat(every, dim=1) * (graph.n_atoms > 0).unsqueeze(1)

    def _pooled(self, graph: BatchedGraph, h: Tensor, step: Step) -> list[Tensor]:
        """Pool the rows after a step over the atoms they represent, once per kind of pooling."""
        assert step.rows is not None
        h = h if h.dtype == torch.float64 else h.float()
        starts = graph.n_atoms.cumsum(0) - graph.n_atoms
        kinds = self.pooling.split("+")
        return [functional.embedding_bag(step.rows.row_of_atom, h, starts, mode=k) for k in kinds]

    @property
    def _layers(self) -> list[GINLayer]:
        return [cast(GINLayer, layer) for layer in self.gnn_layers]

    def _shares(self, graph: BatchedGraph) -> bool:
        # Finding equal rows takes many small steps, for each of which a GPU would be waited for.
        return self.share_rows and graph.atoms.device.type == "cpu"

    @property
    def _drops(self) -> bool:
        return self.dropout.training and self.dropout.p > 0

    def _shared_rows(self, graph: BatchedGraph) -> list[SharedRows]:
        """Rows of the inputs and of each step in which rows can be shared."""
        if not self._shares(graph):
            return []
        # After the first dropout no two atoms are equal.
        depth = 1 if self._drops else len(self.gnn_layers)
        return shared_rows(graph, len(self.atom_vocabularies), len(self.bond_vocabularies), depth)

    def _embedded(
        self, graph: BatchedGraph, shared: list[SharedRows]
    ) -> tuple[Tensor, SharedRows | None]:
        """Embed the features of atoms, equal ones once if rows are shared."""
        rows = shared[0] if shared else None
        atoms = graph.atoms if rows is None else graph.atoms.index_select(0, rows.first)
        return embed_sum(self.node_embeddings, atoms), rows

    def _steps(self, graph: BatchedGraph, shared: list[SharedRows]) -> list[Step]:
        counts = bond_counts_of(graph, self.bond_vocabularies, self_loop=True)
        counts = counts.to(next(self.parameters()).dtype)
        total = len(graph.atoms)
        steps = []
        for before, rows in itertools.pairwise(shared):
            edges = _edges_between(graph, before, rows)
            own = before.row_of_atom.index_select(0, rows.first)
            steps.append(Step(edges, counts.index_select(0, rows.first), total, own, rows))
        plain = Step(graph.edges, counts, total)
        return steps + [plain] * (len(self.gnn_layers) - len(steps))


def _spread(h: Tensor, rows: SharedRows | None) -> Tensor:
    """Return the row of each atom."""
    return h if rows is None else h.index_select(0, rows.row_of_atom)


def _edges_between(graph: BatchedGraph, before: SharedRows, rows: SharedRows) -> EdgeList:
    """Return edges from the rows before to those after, through the atoms that represent these."""
    place = torch.full((len(graph.atoms),), -1, device=graph.dst.device)
    place[rows.first] = torch.arange(len(rows.first), device=place.device)
    target = place.index_select(0, graph.dst)
    kept = (target >= 0).nonzero()[:, 0]
    source = before.row_of_atom.index_select(0, graph.src.index_select(0, kept))
    return EdgeList(source, target.index_select(0, kept), len(rows.first))
