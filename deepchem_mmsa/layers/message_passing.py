"""Batches of molecules as plain tensors, and the aggregation of messages.

The networks of this package send messages through :func:`aggregate` (along edges) and
:func:`pool` (from the atoms to their molecule). On a device that DGL supports, its fused kernels
are used; elsewhere, and for plain sums on a CPU, where it is faster still, torch is used. Tests
compare their values and gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deepchem_mmsa.layers.dgl_backend import dgl_supports, import_dgl

__all__ = ["BatchedConformers", "BatchedGraph", "EdgeList", "aggregate", "pool"]

MESSAGES = ("nodes", "edges", "add", "mul")
REDUCTIONS = ("sum", "mean", "max")
BACKENDS = ("auto", "dgl", "torch")


@dataclass(eq=False)
class EdgeList:
    """Directed edges between ``n_nodes`` nodes.

    Parameters
    ----------
    src, dst : Tensor
        int64 ``[E]``; edge ``e`` carries a message from node ``src[e]`` to node ``dst[e]``.
    n_nodes : int
        Number of nodes, isolated ones included.

    Examples
    --------
    >>> edges = EdgeList(torch.tensor([0, 1]), torch.tensor([1, 0]), n_nodes=3)
    >>> edges.in_degree
    tensor([1, 1, 0])
    """

    src: Tensor
    dst: Tensor
    n_nodes: int
    _dgl: Any = field(default=None, init=False, repr=False)

    @cached_property
    def in_degree(self) -> Tensor:
        """Number of edges that end in each node, int64 ``[n_nodes]``."""
        return torch.bincount(self.dst, minlength=self.n_nodes)

    @cached_property
    def bags(self) -> tuple[Tensor, Tensor, Tensor]:
        """The edges sorted by target.

        Returns
        -------
        tuple of Tensor
            int64 ``[E]``, the order; int64 ``[E]``, the sources in it; int64 ``[n_nodes]``, where
            the edges of each target begin.
        """
        order = torch.argsort(self.dst, stable=True)
        starts = self.in_degree.cumsum(0) - self.in_degree
        return order, self.src.index_select(0, order), starts

    @cached_property
    def reverse(self) -> EdgeList:
        """The reversed edges, along which gradients flow."""
        return EdgeList(self.dst, self.src, self.n_nodes)

    def dgl(self) -> Any:
        """Return the same edges as a ``DGLGraph``, built once.

        Raises
        ------
        ImportError
            When DGL cannot be imported.
        RuntimeError
            When the installed DGL cannot keep a graph on the device of the edges.
        """
        if self._dgl is None:
            dgl = import_dgl()
            if not dgl_supports(self.src.device):
                raise RuntimeError(
                    f"The installed DGL {dgl.__version__} has no support for device "
                    f"{str(self.src.device)!r}; move the batch to 'cpu', or use an encoder that "
                    "needs no DGL there ('gin', 'comenet'), or install a CUDA build of DGL."
                )
            self._dgl = dgl.graph((self.src, self.dst), num_nodes=self.n_nodes)
        return self._dgl


@dataclass(eq=False)
class BatchedGraph:
    """Many molecular graphs as one, in plain tensors that move to any device.

    Parameters
    ----------
    atoms : Tensor
        int64 ``[N, 9]``, vocabulary indices, columns as in ``molecule.ATOM_FEATURES``.
    src, dst : Tensor
        int64 ``[E]``; both directions of each bond, no self-loops, numbered over the whole batch.
    bonds : Tensor
        int64 ``[E, 5]``, vocabulary indices, columns as in ``molecule.BOND_FEATURES``.
    n_atoms, n_edges : Tensor
        int64 ``[G]``; atoms and directed edges per molecule.

    Raises
    ------
    ValueError
        When the lengths contradict each other.

    Examples
    --------
    >>> methane = BatchedGraph(
    ...     atoms=torch.tensor([[5, 0, 5, 4, 0, 4, 0, 0, 0]]),
    ...     src=torch.zeros(0, dtype=torch.int64), dst=torch.zeros(0, dtype=torch.int64),
    ...     bonds=torch.zeros(0, 5, dtype=torch.int64),
    ...     n_atoms=torch.tensor([1]), n_edges=torch.tensor([0]))
    >>> methane.n_molecules, methane.molecule_of_atom
    (1, tensor([0]))
    """

    atoms: Tensor
    src: Tensor
    dst: Tensor
    bonds: Tensor
    n_atoms: Tensor
    n_edges: Tensor
    _dgl: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        n_src, n_dst, n_bonds = len(self.src), len(self.dst), len(self.bonds)
        if not n_src == n_dst == n_bonds:
            raise ValueError(
                f"src, dst and bonds must name the same edges, got {n_src}, {n_dst} and {n_bonds}"
            )
        if len(self.n_atoms) != len(self.n_edges):
            raise ValueError(
                f"n_atoms and n_edges must hold one count per molecule, got {len(self.n_atoms)} "
                f"and {len(self.n_edges)}"
            )

    @property
    def n_molecules(self) -> int:
        """Number of molecules ``G``."""
        return len(self.n_atoms)

    @cached_property
    def molecule_of_atom(self) -> Tensor:
        """Index of each atom's molecule, int64 ``[N]``."""
        return _molecule_of_atom(self.n_atoms, len(self.atoms))

    @cached_property
    def edges(self) -> EdgeList:
        """The bonds as an :class:`EdgeList`."""
        return EdgeList(self.src, self.dst, len(self.atoms))

    def to(self, device: torch.device | str) -> BatchedGraph:
        """Return this batch on another device."""
        tensors = (self.atoms, self.src, self.dst, self.bonds, self.n_atoms, self.n_edges)
        return BatchedGraph(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def dgl(self) -> Any:
        """Return a batched ``DGLGraph`` of the molecules, built once, without self-loops.

        Raises
        ------
        ImportError, RuntimeError
            As :meth:`EdgeList.dgl`.
        """
        if self._dgl is None:
            graph = self.edges.dgl()
            graph.set_batch_num_nodes(self.n_atoms)
            graph.set_batch_num_edges(self.n_edges)
            self._dgl = graph
        return self._dgl


@dataclass(eq=False)
class BatchedConformers:
    """Many conformers as one point set.

    Parameters
    ----------
    atomic_numbers : Tensor
        int64 ``[N]``.
    coordinates : Tensor
        float32 ``[N, 3]``, Å.
    n_atoms : Tensor
        int64 ``[G]``; atoms per molecule.

    Raises
    ------
    ValueError
        When the lengths contradict each other.

    Examples
    --------
    >>> hydrogen = BatchedConformers(
    ...     torch.tensor([1, 1]), torch.tensor([[0.0, 0, 0], [0.74, 0, 0]]), torch.tensor([2]))
    >>> hydrogen.molecule_of_atom
    tensor([0, 0])
    """

    atomic_numbers: Tensor
    coordinates: Tensor
    n_atoms: Tensor

    def __post_init__(self) -> None:
        if self.coordinates.shape != (len(self.atomic_numbers), 3):
            raise ValueError(
                f"coordinates must be [{len(self.atomic_numbers)}, 3] for "
                f"{len(self.atomic_numbers)} atoms, got {list(self.coordinates.shape)}"
            )

    @property
    def n_molecules(self) -> int:
        """Number of molecules ``G``."""
        return len(self.n_atoms)

    @cached_property
    def molecule_of_atom(self) -> Tensor:
        """Index of each atom's molecule, int64 ``[N]``."""
        return _molecule_of_atom(self.n_atoms, len(self.atomic_numbers))

    def to(self, device: torch.device | str) -> BatchedConformers:
        """Return this batch on another device."""
        tensors = (self.atomic_numbers, self.coordinates, self.n_atoms)
        return BatchedConformers(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def _molecule_of_atom(n_atoms: Tensor, total: int) -> Tensor:
    molecules = torch.arange(len(n_atoms), device=n_atoms.device)
    return torch.repeat_interleave(molecules, n_atoms, output_size=total)


def aggregate(
    edges: EdgeList,
    nodes: Tensor | None = None,
    edge_values: Tensor | None = None,
    *,
    message: str = "nodes",
    reduce: str = "sum",
    backend: str = "auto",
) -> Tensor:
    """Send a message along every edge and reduce what arrives in each node.

    With ``x`` the nodes and ``w`` the edge values, the message of edge ``j → i`` is ``x_j``
    (``"nodes"``), ``w_ji`` (``"edges"``), ``x_j + w_ji`` (``"add"``) or ``x_j ⊙ w_ji`` (``"mul"``).
    A node that no edge reaches gets zeros, whatever the reduction.

    Parameters
    ----------
    edges : EdgeList
        Edges that carry the messages.
    nodes : Tensor, optional
        Floating ``[n_nodes, d]``; not needed by ``"edges"``.
    edge_values : Tensor, optional
        Floating ``[E, d]`` or ``[E, 1]``; not needed by ``"nodes"``.
    message : {"nodes", "edges", "add", "mul"}
        Message of an edge, as above.
    reduce : {"sum", "mean", "max"}
        How messages are reduced. Where two messages tie for a maximum, backends may send the
        gradient to different ones.
    backend : {"auto", "dgl", "torch"}
        ``"auto"`` uses DGL where it supports the device, which is faster on a CPU, except for
        sums on a CPU whose edge values, if any, are scalars without gradient: torch sums these
        in the same order in half the time, without building a graph or loading DGL.

    Returns
    -------
    Tensor
        ``[n_nodes, d]``, in the data type of the input. Half precision is summed in float32.

    Raises
    ------
    ValueError
        When an option is unknown or an operand is missing.
    ImportError, RuntimeError
        When ``backend="dgl"`` and DGL is missing or does not support the device.

    Examples
    --------
    >>> edges = EdgeList(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 1]), n_nodes=3)
    >>> aggregate(edges, torch.tensor([[1.0], [2.0], [3.0]]))
    tensor([[0.], [4.], [2.]])
    """
    _check_option("message", message, MESSAGES)
    _check_option("reduce", reduce, REDUCTIONS)
    _check_option("backend", backend, BACKENDS)
    if message != "edges" and nodes is None:
        raise ValueError(f"message={message!r} needs nodes")
    if message != "nodes" and edge_values is None:
        raise ValueError(f"message={message!r} needs edge_values")
    nodes = None if message == "edges" else nodes
    edge_values = None if message == "nodes" else edge_values

    first = nodes if nodes is not None else edge_values
    assert first is not None  # for the type checker: the two checks above leave no other case
    out_dtype = first.dtype
    if out_dtype in (torch.float16, torch.bfloat16):
        nodes = None if nodes is None else nodes.float()
        edge_values = None if edge_values is None else edge_values.float()
    elif nodes is not None and edge_values is not None:
        # Under autocast a matrix product (half) often meets a norm's output (single).
        edge_values = edge_values.to(nodes.dtype)

    summed = message != "add" and reduce == "sum" and _sums_bags(nodes, edge_values)
    if summed and backend != "dgl":
        return _BagSum.apply(nodes, edges, edge_values).to(out_dtype)
    dgl = dgl_supports(edges.src.device) if backend == "auto" else backend == "dgl"
    # Without edges the gradient of DGL's maximum indexes an empty tensor.
    kernel = _aggregate_dgl if dgl and len(edges.src) else _aggregate_torch
    return kernel(edges, nodes, edge_values, message, reduce).to(out_dtype)


def _sums_bags(nodes: Tensor | None, edge_values: Tensor | None) -> bool:
    """Whether :class:`_BagSum` can sum these messages."""
    scalar = edge_values is None or edge_values.shape[1:] == (1,)
    learnt = edge_values is not None and edge_values.requires_grad and torch.is_grad_enabled()
    return nodes is not None and nodes.device.type == "cpu" and scalar and not learnt


class _BagSum(torch.autograd.Function):
    """The sum of the rows that each node receives, in the order of the edges."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, edges: EdgeList, values: Tensor | None) -> Tensor:
        """Map nodes [n_nodes, d], with edge values [E, 1], to [n_nodes, d]."""
        ctx.edges, ctx.values = edges, values
        order, sources, starts = edges.bags
        weights = None if values is None else values.detach().index_select(0, order)[:, 0]
        return functional.embedding_bag(
            sources, nodes.detach().contiguous(), starts, mode="sum", per_sample_weights=weights
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Send the gradient back along the edges."""
        return _BagSum.apply(gradient, ctx.edges.reverse, ctx.values), None, None


def _aggregate_torch(
    edges: EdgeList, nodes: Tensor | None, edge_values: Tensor | None, message: str, reduce: str
) -> Tensor:
    # index_select, not nodes[src], whose backward has a race condition on two CPU threads.
    sent = edge_values if nodes is None else nodes.index_select(0, edges.src)
    assert sent is not None
    if message == "add" and edge_values is not None:
        sent = sent + edge_values
    elif message == "mul" and edge_values is not None:
        sent = sent * edge_values
    counts = edges.in_degree if reduce == "mean" else None
    return _reduce_rows(sent, edges.dst, edges.n_nodes, counts, reduce)


def _reduce_rows(rows: Tensor, to: Tensor, n: int, counts: Tensor | None, reduce: str) -> Tensor:
    """Reduce ``rows`` [R, d] into ``n`` targets, ``counts`` in each for a mean."""
    out = rows.new_zeros((n, *rows.shape[1:]))
    if reduce == "max":
        index = to.view(-1, *[1] * (rows.dim() - 1)).expand_as(rows)
        return out.scatter_reduce(0, index, rows, "amax", include_self=False)
    out = out.index_add(0, to, rows)
    return out if counts is None else out / counts.clamp(min=1).to(out.dtype).unsqueeze(-1)


def _aggregate_dgl(
    edges: EdgeList, nodes: Tensor | None, edge_values: Tensor | None, message: str, reduce: str
) -> Tensor:
    graph = edges.dgl()
    operator = {"nodes": "copy_lhs", "edges": "copy_rhs"}.get(message, message)
    kernel_reduce = "max" if reduce == "max" else "sum"
    out = import_dgl().ops.gspmm(graph, operator, kernel_reduce, nodes, edge_values)
    if reduce == "mean":
        out = out / edges.in_degree.clamp(min=1).to(out.dtype).unsqueeze(-1)
    elif reduce == "max":  # DGL leaves infinities in nodes that no edge reaches
        out = out.masked_fill((edges.in_degree == 0).unsqueeze(-1), 0.0)
    return out


def pool(
    atoms: Tensor,
    n_atoms: Tensor,
    reduce: str = "mean",
    molecule_of_atom: Tensor | None = None,
) -> Tensor:
    """Reduce the rows of each molecule's atoms to one row per molecule.

    Parameters
    ----------
    atoms : Tensor
        Floating ``[N, d]``, the molecules one after another.
    n_atoms : Tensor
        int64 ``[G]``; atoms per molecule, with sum ``N``.
    reduce : {"sum", "mean", "max"}
        Kind of pooling.
    molecule_of_atom : Tensor, optional
        int64 ``[N]``, if already computed.

    Returns
    -------
    Tensor
        ``[G, d]``; zeros for a molecule without atoms.

    Raises
    ------
    ValueError
        When ``reduce`` is unknown.

    Examples
    --------
    >>> pool(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([2, 1, 0]))
    tensor([[2.], [5.], [0.]])
    """
    _check_option("reduce", reduce, REDUCTIONS)
    if molecule_of_atom is None:
        molecule_of_atom = _molecule_of_atom(n_atoms, len(atoms))
    dtype = atoms.dtype
    rows = atoms.float() if dtype in (torch.float16, torch.bfloat16) else atoms
    counts = n_atoms if reduce == "mean" else None
    return _reduce_rows(rows, molecule_of_atom, len(n_atoms), counts, reduce).to(dtype)


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
