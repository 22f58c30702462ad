"""The message of continuous-filter networks: ``y_i = Σ_j (W f_ji) ⊙ x_j``.

``aggregate`` computes it with one vector of the full width per edge, which suits a GPU. On a CPU
those vectors cost more than the rest of the network. The graph of an ordinary molecule is nearly
complete at a cutoff of 8 Å, so there the same sum is computed as one small dense product per
molecule, ``[n, n K] @ [n K, d]``, whose operands stay in the cache; tests compare the two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepchem_mmsa.layers.message_passing import EdgeList, aggregate

__all__ = ["FilterEdges", "filtered_sum"]

CHUNK_ELEMENTS = 2**19  # floats of a product's larger operand: 2 MB, what a core's cache holds
MAX_PAIRS_PER_EDGE = 6  # above it (very large molecules) dense blocks hold mostly zeros


class FilterEdges:
    """Edges with their features, laid out for :func:`filtered_sum` once per batch.

    Parameters
    ----------
    src, dst : Tensor
        int64 ``[E]``; edges within molecules.
    n_atoms : Tensor
        int64 ``[G]``; atoms per molecule. Dense blocks are largest where molecules of one size
        are adjacent in the batch, see :func:`by_size`.
    molecule_of_atom : Tensor
        int64 ``[N]``.
    features : list of Tensor
        Sets of edge features, each ``[E, K]``.
    dense : bool, optional
        Use dense blocks; by default on a CPU unless molecules are very large.
    """

    def __init__(
        self,
        src: Tensor,
        dst: Tensor,
        n_atoms: Tensor,
        molecule_of_atom: Tensor,
        features: list[Tensor],
        dense: bool | None = None,
    ) -> None:
        squares = n_atoms.square()
        if dense is None:
            few = MAX_PAIRS_PER_EDGE * len(src)
            dense = src.device.type == "cpu" and int(squares.sum()) <= few
        self.edges = EdgeList(src, dst, len(molecule_of_atom))
        self.sizes: list[int] | None = None
        self.features = features
        if dense:
            n_pairs = int(squares.sum())
            first_atom = (n_atoms.cumsum(0) - n_atoms).index_select(0, molecule_of_atom)
            first_pair = (squares.cumsum(0) - squares).index_select(0, molecule_of_atom)
            size = n_atoms.index_select(0, molecule_of_atom)
            row = torch.arange(len(first_atom), device=dst.device) - first_atom
            start = (first_pair + row * size - first_atom).index_select(0, dst)
            slot = start + src
            self.sizes = n_atoms.tolist()
            self.features = [
                f.new_zeros((n_pairs, f.shape[1])).index_copy(0, slot, f) for f in features
            ]


def by_size(n_atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return an order of atoms in which molecules of one size are adjacent.

    Parameters
    ----------
    n_atoms : Tensor
        int64 ``[G]``; atoms per molecule.

    Returns
    -------
    molecules : Tensor
        int64 ``[G]``, the molecules by size.
    atoms : Tensor
        int64 ``[N]``, their atoms, each molecule's in the old order.

    Examples
    --------
    >>> by_size(torch.tensor([3, 1]))
    (tensor([1, 0]), tensor([3, 0, 1, 2]))
    """
    molecules = torch.argsort(n_atoms, stable=True)
    sizes = n_atoms[molecules]
    offset = (n_atoms.cumsum(0) - n_atoms)[molecules] - (sizes.cumsum(0) - sizes)
    shift = torch.repeat_interleave(offset, sizes)
    return molecules, torch.arange(len(shift), device=n_atoms.device) + shift


def filtered_sum(edges: FilterEdges, index: int, x: Tensor, weight: Tensor) -> Tensor:
    """Compute ``y_i = Σ_j (W f_ji) ⊙ x_j`` over the edges ``j → i``.

    Parameters
    ----------
    edges : FilterEdges
        The edges and their features ``f``.
    index : int
        Which set of features.
    x : Tensor
        ``[N, d]``.
    weight : Tensor
        ``W``, ``[d, K]``.

    Returns
    -------
    Tensor
        ``[N, d]``, in the data type of ``x``.

    Examples
    --------
    >>> edges = FilterEdges(
    ...     torch.tensor([1]), torch.tensor([0]), torch.tensor([2]), torch.tensor([0, 0]),
    ...     [torch.tensor([[2.0]])])
    >>> filtered_sum(edges, 0, torch.tensor([[1.0], [10.0]]), torch.tensor([[3.0]]))
    tensor([[60.],
            [ 0.]])
    """
    features = edges.features[index]
    if edges.sizes is None:
        filters = torch.nn.functional.linear(features, weight)
        return aggregate(edges.edges, x, filters, message="mul", reduce="sum")
    y = _DenseFilteredSum.apply(x.to(features.dtype), features, weight.t(), edges.sizes)
    return y.to(x.dtype)


def _chunks(sizes: list[int], row_elements: int) -> list[tuple[int, int, int, int]]:
    """List runs of molecules of one size: (first atom, first pair, atoms, molecules)."""
    chunks: list[tuple[int, int, int, int]] = []
    atom = pair = start = 0
    while start < len(sizes):
        n = sizes[start]
        limit = max(1, CHUNK_ELEMENTS // max(1, n * row_elements))
        count = 1
        while count < limit and start + count < len(sizes) and sizes[start + count] == n:
            count += 1
        # Powers of two, for few shapes: in bf16 oneDNN compiles, and keeps, a product for each.
        count = 1 << (count.bit_length() - 1)
        if n:
            chunks.append((atom, pair, n, count))
        atom, pair, start = atom + n * count, pair + n * n * count, start + count
    return chunks


class _DenseFilteredSum(torch.autograd.Function):
    """The sum by dense blocks. The products with ``W`` are recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, features: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        """Map x [N, d], features [Σ n², K] and weight [K, d] to [N, d]."""
        k, d = weight.shape
        x, weight = x.contiguous(), weight.to(x.dtype).contiguous()
        y = torch.empty_like(x)
        chunks = _chunks(sizes, k * d)
        with torch.autocast(x.device.type, enabled=False):
            for atom, pair, n, g in chunks:
                block = features[pair : pair + g * n * n].view(g, n, n * k)
                weighted = x[atom : atom + g * n].unsqueeze(1) * weight
                out = y[atom : atom + g * n].view(g, n, d)
                torch.bmm(block, weighted.view(g, n * k, d), out=out)
        ctx.save_for_backward(x, features, weight)
        ctx.chunks = chunks
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        """Return the gradients of x, features (if required) and weight."""
        x, features, weight = ctx.saved_tensors
        k, d = weight.shape
        grad_y = grad_y.contiguous()
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        grad_features = torch.empty_like(features) if ctx.needs_input_grad[1] else None
        with torch.autocast(x.device.type, enabled=False):
            for atom, pair, n, g in ctx.chunks:
                atoms, pairs = slice(atom, atom + g * n), slice(pair, pair + g * n * n)
                block = features[pairs].view(g, n, n * k)
                gradient = grad_y[atoms].view(g, n, d)
                grad_weighted = torch.bmm(block.transpose(1, 2), gradient).view(g * n, k, d)
                torch.sum(grad_weighted * weight, dim=1, out=grad_x[atoms])
                grad_weight += (grad_weighted * x[atoms].unsqueeze(1)).sum(0)
                if grad_features is not None:
                    weighted = (x[atoms].unsqueeze(1) * weight).view(g, n * k, d)
                    grad_block = torch.bmm(gradient, weighted.transpose(1, 2))
                    grad_features[pairs] = grad_block.view(g * n * n, k)
        return grad_x, grad_features, grad_weight, None
