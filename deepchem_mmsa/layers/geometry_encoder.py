"""Encoders of the 3D conformer: ComENet, written here, and dgllife's SchNet.

ComENet (Wang et al. 2022, NeurIPS, arXiv 2206.08515) is in no library of this stack. The network
below has every term of the paper; two consecutive linear layers without a non-linearity are
merged into one matrix, which is the same function and a third faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepchem_mmsa.layers.atom_encoder import AtomEncoder
from deepchem_mmsa.layers.dgl_backend import import_dgllife, run_dgllife
from deepchem_mmsa.layers.filtered_sum import FilterEdges, by_size, filtered_sum
from deepchem_mmsa.layers.geometry_basis import (
    BesselBasis,
    edge_geometry,
    radius_graph,
    spherical_harmonics,
)
from deepchem_mmsa.layers.gin import padded_rows
from deepchem_mmsa.layers.message_passing import BatchedConformers, EdgeList

__all__ = ["ComENet", "SchNet", "radius_graph"]

N_ELEMENTS = 120  # Z = 0 (dummy atom) to 118, and one spare


class GeometryEncoder(AtomEncoder):
    """Base class of the conformer encoders.

    Parameters
    ----------
    cutoff : float
        Å; atoms farther apart exchange no messages.
    width, n_layers : int
        Sizes.
    readout
        See :class:`~deepchem_mmsa.layers.atom_encoder.AtomEncoder`.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.
    """

    def __init__(self, cutoff: float, width: int, n_layers: int, readout: str) -> None:
        super().__init__(width, readout)
        if not cutoff > 0:
            raise ValueError(f"cutoff={cutoff} must be positive (Å)")
        if n_layers < 1:
            raise ValueError(f"n_layers={n_layers} must be at least 1")
        self.cutoff = cutoff


class EdgeGraphConv(nn.Module):
    """``y_i = A Σ_j (W f_ji) ⊙ x_j + B x_i + b``: one branch of a ComENet block.

    Parameters
    ----------
    n_features : int
        Width of the edge features ``f``.
    width : int
        Width of ``x`` and ``y``.
    """

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.filter = nn.Linear(n_features, width, bias=False)
        self.neighbours = nn.Linear(width, width, bias=False)
        self.itself = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.filter.weight)

    def forward(self, edges: FilterEdges, index: int, x: Tensor) -> Tensor:
        """Map ``x`` ``[N, width]`` to ``[N, width]`` with the edges' ``index``-th features.

        ``x`` may have more rows than there are atoms; these receive no message.
        """
        n_atoms = edges.edges.n_nodes
        messages = filtered_sum(edges, index, x[:n_atoms], self.filter.weight)
        messages = functional.pad(messages, (0, 0, 0, len(x) - n_atoms))
        return self.neighbours(messages) + self.itself(x)


class ComENetBlock(nn.Module):
    """One interaction block: both branches, the atom itself, residual layers, norm.

    ``LayerNorm`` replaces the reference's ``GraphNorm``, which divides by the spread over a
    molecule's atoms: in a symmetric molecule that is zero, and rounding errors are amplified.

    Parameters
    ----------
    width : int
        Width of the atom embeddings.
    n_spherical, n_torsion : int
        Widths of the two sets of edge features.
    n_dense : int
        Residual layers.
    """

    def __init__(self, width: int, n_spherical: int, n_torsion: int, n_dense: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, width)
        self.spherical = EdgeGraphConv(n_spherical, width)
        self.torsional = EdgeGraphConv(n_torsion, width)
        self.join = nn.Linear(2 * width, width)
        self.dense = nn.ModuleList(nn.Linear(width, width) for _ in range(n_dense))
        self.norm = nn.LayerNorm(width)

    def forward(self, edges: FilterEdges, x: Tensor) -> Tensor:
        """Map ``x`` ``[N, width]`` to ``[N, width]``."""
        x = functional.silu(self.enter(x))
        h1 = functional.silu(self.spherical(edges, 0, x))
        h2 = functional.silu(self.torsional(edges, 1, x))
        h = self.join(torch.cat([h1, h2], dim=1)) + x
        for layer in self.dense:
            h = functional.silu(layer(h)) + h
        return self.norm(h)


class ComENet(GeometryEncoder):
    """ComENet: complete and efficient message passing on conformers.

    Edges within ``cutoff`` are described by two vectors: radial × spherical harmonics of the
    neighbour's direction ``(d, θ, φ)`` in the atom's frame, and radial × harmonics of the torsion
    ``(d, τ)``. The output is invariant to rotation and translation, and differs for mirror
    images. Differences from the paper: the torsion enters by cosine and sine (which keeps its
    sign), and atoms are averaged rather than summed by default.

    Parameters
    ----------
    cutoff : float
        Å.
    width : int
        Hidden width.
    n_layers : int
        Interaction blocks.
    n_radial, n_spherical : int
        Radial functions per degree; degrees of the harmonics (at most 4).
    n_dense : int
        Residual layers per block, and layers of the output MLP.
    readout : {"mean", "sum", "max"}
        How atoms are pooled.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.

    Examples
    --------
    >>> water = BatchedConformers(
    ...     torch.tensor([8, 1, 1]),
    ...     torch.tensor([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]]),
    ...     torch.tensor([3]))
    >>> ComENet(width=16, n_layers=1)(water).shape
    torch.Size([1, 16])
    """

    def __init__(
        self,
        cutoff: float = 8.0,
        width: int = 256,
        n_layers: int = 4,
        n_radial: int = 3,
        n_spherical: int = 2,
        n_dense: int = 3,
        readout: str = "mean",
    ) -> None:
        super().__init__(cutoff, width, n_layers, readout)
        self.n_spherical = n_spherical
        self.radial = BesselBasis(cutoff, n_radial, n_spherical)
        self.embedding = nn.Embedding(N_ELEMENTS, width)
        n_features = n_radial * n_spherical**2, n_radial * (2 * n_spherical - 1)
        self.blocks = nn.ModuleList(
            ComENetBlock(width, *n_features, n_dense) for _ in range(n_layers)
        )
        self.output = nn.ModuleList(nn.Linear(width, width) for _ in range(n_dense))
        self.project = nn.Linear(width, width)

    def edge_features(
        self, conformers: BatchedConformers, src: Tensor, dst: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the edge features, once for all blocks.

        Parameters
        ----------
        conformers : BatchedConformers
            The atoms.
        src, dst : Tensor
            int64 ``[E]``.

        Returns
        -------
        spherical : Tensor
            ``[E, n_spherical² · n_radial]``: ``j_l(z_ln d / c) · Y_lm(θ, φ)``.
        torsional : Tensor
            ``[E, (2 n_spherical - 1) · n_radial]``: ``j_l(z_ln d / c)`` times ``cos lτ, sin lτ``.
        """
        geometry = edge_geometry(conformers, src, dst)
        radial = self.radial(geometry.distance)
        harmonics = spherical_harmonics(geometry.direction, self.n_spherical)
        spherical, torsional = [], [radial[:, 0]]
        cosine, sine = geometry.cos_torsion, geometry.sin_torsion
        cos_l, sin_l = torch.ones_like(cosine), torch.zeros_like(cosine)
        for degree in range(self.n_spherical):
            orders = harmonics[:, degree**2 : (degree + 1) ** 2]
            spherical.append((orders.unsqueeze(2) * radial[:, degree].unsqueeze(1)).flatten(1))
            if degree:
                cos_l, sin_l = cos_l * cosine - sin_l * sine, cos_l * sine + sin_l * cosine
                torsional += [radial[:, degree] * wave.unsqueeze(1) for wave in (cos_l, sin_l)]
        return torch.cat(spherical, dim=1), torch.cat(torsional, dim=1)

    def atom_embeddings(self, conformers: BatchedConformers) -> Tensor:
        """Embed every atom in its environment.

        Parameters
        ----------
        conformers : BatchedConformers
            ``N`` atoms.

        Returns
        -------
        Tensor
            ``[N, atom_dim]``.
        """
        if len(conformers.atomic_numbers) == 0:
            return self.no_atoms()
        molecules, order = by_size(conformers.n_atoms)
        batch = BatchedConformers(
            conformers.atomic_numbers[order],
            conformers.coordinates.index_select(0, order),
            conformers.n_atoms[molecules],
        )
        src, dst = radius_graph(batch, self.cutoff)
        features = self.edge_features(batch, src, dst)
        edges = FilterEdges(src, dst, batch.n_atoms, batch.molecule_of_atom, list(features))
        x = padded_rows(functional.silu(self.embedding(batch.atomic_numbers)))
        for block in self.blocks:
            x = block(edges, x)
        for layer in self.output:
            x = functional.silu(layer(x))
        return self.project(x).index_select(0, torch.argsort(order))


class SchNet(GeometryEncoder):
    """SchNet (Schütt et al. 2017, arXiv 1706.08566), in dgllife's implementation.

    It uses distances only, so it cannot distinguish mirror images.

    Parameters
    ----------
    cutoff : float
        Å.
    width : int
        Width of atoms and filters.
    n_layers : int
        Interactions.
    gap : float
        Å between the centres of the radial functions.
    readout : {"mean", "sum", "max"}
        How atoms are pooled.

    Raises
    ------
    ValueError
        When an option is unknown or out of range.
    ImportError
        When DGL or dgllife is missing.
    """

    def __init__(
        self,
        cutoff: float = 8.0,
        width: int = 256,
        n_layers: int = 4,
        gap: float = 0.2,
        readout: str = "mean",
    ) -> None:
        super().__init__(cutoff, width, n_layers, readout)
        self.gnn = import_dgllife().model.SchNetGNN(
            node_feats=width,
            hidden_feats=[width] * n_layers,
            num_node_types=N_ELEMENTS,
            cutoff=cutoff,
            gap=gap,
        )

    def atom_embeddings(self, conformers: BatchedConformers) -> Tensor:
        """Embed every atom in its environment: ``[N, atom_dim]``.

        Raises
        ------
        RuntimeError
            When the installed DGL does not support the batch's device.
        """
        if len(conformers.atomic_numbers) == 0:
            return self.no_atoms()
        src, dst = radius_graph(conformers, self.cutoff)
        positions = conformers.coordinates
        vectors = positions.index_select(0, src) - positions.index_select(0, dst)
        distances = (vectors.square().sum(1, keepdim=True) + 1e-12).sqrt()
        graph = EdgeList(src, dst, len(conformers.atomic_numbers)).dgl()
        return run_dgllife(self.gnn, graph, conformers.atomic_numbers, distances)
