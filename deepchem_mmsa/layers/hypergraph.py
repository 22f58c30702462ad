"""The hypergraph over molecules and memory anchors, and its convolution.

With incidence ``H`` [N, E] (membership weights), hyperedge weights ``W``, node degrees
``D_v = diag(H w)`` and hyperedge degrees ``D_e = diag(Hᵀ 1)``, one layer is::

    z = x + G · dropout(act(LayerNorm(Θ x)))
    G = D_v^-1 H W D_e^-1 Hᵀ                    norm="row"
    G = D_v^-1/2 H W D_e^-1 Hᵀ D_v^-1/2         norm="sym"

(Feng et al., AAAI 2019, the symmetric form; Gao et al., TPAMI 2023, the row form; the residual,
the norm and the fading membership are added here.) This operator has two scopes:

* *batch* - nodes are the molecules of the batch and the anchors: `nearest_nodes_hypergraph`, then
  `HypergraphConv.forward`;
* *memory* - nodes are one molecule and the anchors, for each molecule separately:
  `HypergraphConv.forward_memory`, in closed form. Other molecules of the batch have no influence.

Membership weights are detached from the gradient graph: the neighbourhoods are the structure on
which the codes are learned, and gradients do not flow through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepchem_mmsa.layers.message_passing import EdgeList, aggregate

# A molecule's minimum weight in its own hyperedge: where its k nearest others have a cosine of 1 to
# it, every weight would be zero, and the hyperedge empty.
OWN_WEIGHT = 0.01


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of ``a`` with every row of ``b``; 0 for a row of zeros.

    Parameters
    ----------
    a : Tensor, [A, d]
    b : Tensor, [B, d]

    Returns
    -------
    Tensor, [A, B]
        At least fp32, even under autocast: bf16 is too coarse to rank neighbours.
    """
    with torch.autocast(a.device.type, enabled=False):
        if a.dtype in (torch.float16, torch.bfloat16):
            a = a.float()
        b = b.to(a.dtype)
        return F.normalize(a, dim=-1, eps=1e-6) @ F.normalize(b, dim=-1, eps=1e-6).T


@dataclass(eq=False)
class Hypergraph:
    """A weighted hypergraph as a list of memberships.

    Parameters
    ----------
    node : Tensor
        int64 ``[nnz]``, the node of each membership.
    hyperedge : Tensor
        int64 ``[nnz]``, its hyperedge.
    membership : Tensor
        Floating ``[nnz]``, its weight ``H[node, hyperedge]`` ≥ 0.
    weight : Tensor
        Floating ``[E]``, the weights ``W`` of the hyperedges, ≥ 0.
    n_nodes, n_hyperedges : int
        ``N`` and ``E``, isolated nodes and empty hyperedges included.

    Raises
    ------
    ValueError
        When the lengths contradict each other.

    Examples
    --------
    >>> triangle = Hypergraph(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0]),
    ...                       torch.ones(3), torch.ones(1), n_nodes=4, n_hyperedges=1)
    >>> triangle.incidence().T
    tensor([[1., 1., 1., 0.]])
    >>> triangle.node_degree
    tensor([1., 1., 1., 0.])
    """

    node: Tensor
    hyperedge: Tensor
    membership: Tensor
    weight: Tensor
    n_nodes: int
    n_hyperedges: int

    def __post_init__(self) -> None:
        n_node, n_hyperedge, n_weight = len(self.node), len(self.hyperedge), len(self.membership)
        if not n_node == n_hyperedge == n_weight:
            raise ValueError(
                "node, hyperedge and membership must have one entry per membership, got "
                f"{n_node}, {n_hyperedge} and {n_weight}"
            )
        if len(self.weight) != self.n_hyperedges:
            raise ValueError(
                f"weight must hold one number per hyperedge, got {len(self.weight)} for "
                f"{self.n_hyperedges} hyperedges"
            )

    @property
    def node_degree(self) -> Tensor:
        """``D_v``: the sum of membership times hyperedge weight for each node, ``[N]``."""
        carried = self.membership * self.weight.index_select(0, self.hyperedge)
        return carried.new_zeros(self.n_nodes).index_add(0, self.node, carried)

    @property
    def hyperedge_degree(self) -> Tensor:
        """``D_e``: the memberships of each hyperedge, summed, ``[E]``."""
        zeros = self.membership.new_zeros(self.n_hyperedges)
        return zeros.index_add(0, self.hyperedge, self.membership)

    @cached_property
    def gather_edges(self) -> EdgeList:
        """Edges from nodes to their hyperedges, numbered ``N, N + 1, ...`` after the nodes."""
        total = self.n_nodes + self.n_hyperedges
        return EdgeList(self.node, self.hyperedge + self.n_nodes, total)

    @property
    def scatter_edges(self) -> EdgeList:
        """The reversed edges, from hyperedges to their nodes."""
        return self.gather_edges.reverse

    def incidence(self) -> Tensor:
        """Return the dense ``H``, [N, E], for inspection and tests."""
        dense = self.membership.new_zeros(self.n_nodes, self.n_hyperedges)
        return dense.index_put((self.node, self.hyperedge), self.membership, accumulate=True)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k={k}: a hyperedge has at least one member, give k ≥ 1")


def _members(similarity: Tensor, n_others: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the members of one hyperedge per row: the row's own node and its nearest others.

    ``similarity`` [R, C] holds ``n_others`` candidates a row, and −inf for the row's own node if
    that is a column. Returns the others' columns and weights, [R, k'], and the own weights, [R].
    """
    if n_others + 1 <= k:
        nearest, others = similarity.topk(max(n_others, 0), dim=1)  # −1 without nodes
        border = similarity.new_full((len(similarity), 1), -1.0)
    else:
        # The own node is one of the k nearest; the k-th other is the first left out: the border.
        nearest, others = similarity.topk(k, dim=1)
        border = nearest[:, -1:]
        nearest, others = nearest[:, :-1], others[:, :-1]
    own = F.relu(1 - border.squeeze(1)) + OWN_WEIGHT
    return others, F.relu(nearest - border), own


def _neighbourhoods(queries: Tensor, nodes: Tensor, own_node: Tensor, k: int) -> Hypergraph:
    """Make one hyperedge per query over ``nodes``; the query itself is node ``own_node``."""
    similarity = cosine_similarity(queries, nodes)
    similarity = similarity.scatter(1, own_node.unsqueeze(1), -torch.inf)
    others, weight, own = _members(similarity, len(nodes) - 1, k)
    hyperedge = torch.arange(len(queries), device=nodes.device)
    return Hypergraph(
        node=torch.cat([own_node.unsqueeze(1), others], 1).reshape(-1),
        hyperedge=hyperedge.repeat_interleave(1 + others.shape[1]),
        membership=torch.cat([own.unsqueeze(1), weight], 1).reshape(-1),
        weight=own.new_ones(len(queries)),
        n_nodes=len(nodes),
        n_hyperedges=len(queries),
    )


@torch.no_grad()
def anchor_hypergraph(anchors: Tensor, k: int) -> Hypergraph:
    """Make the hypergraph of the anchors: one hyperedge each, its k nearest including itself.

    Parameters
    ----------
    anchors : Tensor, [K, d]
    k : int
        Members, as in `nearest_nodes_hypergraph`.

    Returns
    -------
    Hypergraph
        ``K`` nodes, ``K`` hyperedges.

    Raises
    ------
    ValueError
        If ``k`` < 1.
    """
    _check_k(k)
    own = torch.arange(len(anchors), device=anchors.device)
    return _neighbourhoods(anchors, anchors, own, k)


@torch.no_grad()
def nearest_nodes_hypergraph(
    codes: Tensor, anchors: Tensor, k: int, between: Hypergraph | None = None
) -> Hypergraph:
    """Make one hypergraph of the molecules of a batch and the anchors (scope "batch").

    Each molecule has a hyperedge of its k nearest nodes by cosine, always including itself; each
    anchor has one of its k nearest anchors. The weight of member j is ``relu(sim_j − border)``, the
    border being the similarity of the nearest node that is left out (−1 if there is none), so
    weights reach zero where the members change, and the layer is continuous. The node itself has
    ``relu(1 − border) + 0.01``: no hyperedge is empty, even with ties and duplicates.

    Parameters
    ----------
    codes : Tensor, [B, d]
        Nodes ``0 .. B-1``, and hyperedges ``0 .. B-1``.
    anchors : Tensor, [K_active, d]
        Nodes and hyperedges ``B .. B+K_active-1``.
    k : int
        Members of a hyperedge; all nodes, where there are fewer.
    between : Hypergraph, optional
        `anchor_hypergraph` of the anchors, if already computed.

    Returns
    -------
    Hypergraph
        Weights are detached.

    Raises
    ------
    ValueError
        If ``k`` < 1.

    Examples
    --------
    >>> hypergraph = nearest_nodes_hypergraph(torch.randn(5, 4), torch.randn(3, 4), k=2)
    >>> hypergraph.n_nodes, hypergraph.n_hyperedges, len(hypergraph.node)
    (8, 8, 16)
    """
    _check_k(k)
    nodes = torch.cat([codes, anchors.to(codes.dtype)])
    n_molecules = len(codes)
    own = torch.arange(n_molecules, device=codes.device)
    molecules = _neighbourhoods(codes, nodes, own, k)
    between_anchors = anchor_hypergraph(nodes[n_molecules:], k) if between is None else between
    return Hypergraph(
        node=torch.cat([molecules.node, between_anchors.node + n_molecules]),
        hyperedge=torch.cat([molecules.hyperedge, between_anchors.hyperedge + n_molecules]),
        membership=torch.cat([molecules.membership, between_anchors.membership]),
        weight=torch.cat([molecules.weight, between_anchors.weight]),
        n_nodes=len(nodes),
        n_hyperedges=len(nodes),
    )


def _inverse(degree: Tensor, power: float = 1.0) -> Tensor:
    # The pseudo-inverse: an isolated node and an empty hyperedge contribute nothing.
    return torch.where(degree > 0, degree, torch.inf) ** -power


class HypergraphConv(nn.Module):
    """One hypergraph convolution with a residual, in both scopes.

    Parameters
    ----------
    dim : int
        Width ``d``.
    norm : {"row", "sym"}, default "row"
        Normalisation of ``G``.
    dropout : float, default 0.0
        Dropout probability on the transformed nodes.
    backend : {"auto", "dgl", "torch"}, default "auto"
        Backend that sums the messages, see `aggregate`.

    Attributes
    ----------
    detach_memberships : bool
        Whether `forward_memory` detaches memberships from gradients; True by default. Set it to
        False for the gradient of the whole function, as explanations need it.

    Raises
    ------
    ValueError
        If ``norm`` is unknown.

    Examples
    --------
    >>> conv = HypergraphConv(4)
    >>> codes, anchors = torch.randn(6, 4), torch.randn(3, 4)
    >>> conv.forward_memory(codes, anchors, k=2).shape
    torch.Size([6, 4])
    """

    def __init__(
        self, dim: int, norm: str = "row", dropout: float = 0.0, backend: str = "auto"
    ) -> None:
        super().__init__()
        if norm not in ("row", "sym"):
            raise ValueError(f"norm={norm!r}: choose 'row' or 'sym'")
        self.norm = norm
        self.backend = backend
        self.detach_memberships = True
        self.transform = nn.Sequential(
            nn.Linear(dim, dim), nn.LayerNorm(dim), nn.GELU(), nn.Dropout(dropout)
        )

    def extra_repr(self) -> str:
        """Show the normalisation in the module's representation."""
        return f"norm={self.norm!r}"

    def _sum(self, edges: EdgeList, nodes: Tensor, weight: Tensor) -> Tensor:
        return aggregate(
            edges, nodes, weight.unsqueeze(-1), message="mul", reduce="sum", backend=self.backend
        )

    def forward(self, x: Tensor, hypergraph: Hypergraph) -> Tensor:
        """Convolve nodes over a given hypergraph.

        Parameters
        ----------
        x : Tensor, [N, d]
        hypergraph : Hypergraph
            Of ``N`` nodes.

        Returns
        -------
        Tensor, [N, d]
            ``z``; equal to ``x`` for a node in no hyperedge.

        Raises
        ------
        ValueError
            If the numbers of nodes differ.
        """
        if len(x) != hypergraph.n_nodes:
            raise ValueError(f"x has {len(x)} rows, the hypergraph {hypergraph.n_nodes} nodes")
        y = self.transform(x)
        node, hyperedge, membership = hypergraph.node, hypergraph.hyperedge, hypergraph.membership
        node_degree = hypergraph.node_degree
        # Degrees scale the memberships, which are scalars, not the messages, which are rows.
        share = hypergraph.weight * _inverse(hypergraph.hyperedge_degree)
        into = membership * share.index_select(0, hyperedge)
        if self.norm == "row":
            out = membership * _inverse(node_degree).index_select(0, node)
        else:
            root = _inverse(node_degree, 0.5).index_select(0, node)
            into, out = into * root, membership * root
        # `aggregate` works on one set of nodes: the hyperedges are appended to the nodes.
        padded = F.pad(y, (0, 0, 0, hypergraph.n_hyperedges))
        of_hyperedges = self._sum(hypergraph.gather_edges, padded, into)
        return x + self._sum(hypergraph.scatter_edges, of_hyperedges, out)[: len(x)]

    def forward_memory(self, codes: Tensor, anchors: Tensor, k: int) -> Tensor:
        """Convolve each molecule in its own hypergraph of itself and the anchors.

        Molecule i is only in its own hyperedge (members j, weights h_j), hence a closed form, with
        ``D_j`` the degree of anchor j in the hyperedges of the anchors::

            row:  z = c + Σ_j h_j y_j / Σ_j h_j
            sym:  z = c + √h_i / Σ_j h_j · (√h_i y_i + Σ_{j≠i} h_j (D_j + h_j)^-½ y_j)

        Parameters
        ----------
        codes : Tensor, [B, d]
        anchors : Tensor, [K_active, d]
            Without any, the codes are returned unchanged.
        k : int
            Members of a hyperedge; all nodes, where there are fewer.

        Returns
        -------
        Tensor, [B, d]
            ``z``. No row depends on another one.

        Raises
        ------
        ValueError
            If ``k`` < 1.
        """
        _check_k(k)
        n_molecules, n_anchors = len(codes), len(anchors)
        if n_anchors == 0:
            return codes
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_memberships):
            others, weight, own = _members(cosine_similarity(codes, anchors), n_anchors, k)
            total = own + weight.sum(1)
            if self.norm == "row":
                scale_own, scale = own / total, weight / total.unsqueeze(1)
            else:
                degree = anchor_hypergraph(anchors, k).node_degree.to(weight.dtype)[others]
                scale_own = own / total
                scale = weight * (degree + weight).rsqrt() * (own.sqrt() / total).unsqueeze(1)
            molecules = torch.arange(n_molecules, device=codes.device) + n_anchors
            edges = EdgeList(
                others.reshape(-1),
                molecules.repeat_interleave(others.shape[1]),
                n_anchors + n_molecules,
            )
        # Two calls: the rows of a product may round differently with the number of rows, and the
        # anchors' must not change with the batch.
        y_own, y_anchors = self.transform(codes), self.transform(anchors.to(codes.dtype))
        y_anchors = F.pad(y_anchors, (0, 0, 0, n_molecules))
        from_anchors = self._sum(edges, y_anchors, scale.reshape(-1))[n_anchors:]
        return codes + scale_own.unsqueeze(1) * y_own + from_anchors

    def convolve_anchors(
        self, anchors: Tensor, k: int, between: Hypergraph | None = None
    ) -> Tensor:
        """Convolve the anchors over their own hyperedges: ``A``, independent of the molecules.

        Parameters
        ----------
        anchors : Tensor, [K_active, d]
        k : int
            Members of a hyperedge; all anchors, where there are fewer.
        between : Hypergraph, optional
            `anchor_hypergraph` of the anchors, if already computed.

        Returns
        -------
        Tensor, [K_active, d]
        """
        if len(anchors) == 0:
            return anchors
        return self(anchors, anchor_hypergraph(anchors, k) if between is None else between)
