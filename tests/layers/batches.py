"""Random batches for the tests of the layers."""

from __future__ import annotations

import torch

from deepchem_mmsa.layers.message_passing import BatchedConformers, BatchedGraph
from deepchem_mmsa.molecule import ATOM_FEATURES, BOND_FEATURES


def _integers(generator, vocabularies, n):
    columns = [torch.randint(0, size, (n,), generator=generator) for size in vocabularies]
    return torch.stack(columns, dim=1)


def random_graph(seed: int, sizes: list[int], few_kinds: bool = False) -> BatchedGraph:
    """Molecule-like graphs: a tree with a few rings each; size 1 is an isolated atom."""
    generator = torch.Generator().manual_seed(seed)
    src, dst, n_edges, offset = [], [], [], 0
    for n in sizes:
        bonds = set()
        for atom in range(1, n):
            bonds.add((int(torch.randint(max(0, atom - 3), atom, (1,), generator=generator)), atom))
        for _ in range(n // 6):
            a, b = sorted(torch.randint(0, n, (2,), generator=generator).tolist())
            if a != b:
                bonds.add((a, b))
        for a, b in sorted(bonds):
            src += [offset + a, offset + b]
            dst += [offset + b, offset + a]
        n_edges.append(2 * len(bonds))
        offset += n
    atoms = _integers(generator, ATOM_FEATURES.values(), offset)
    bonds = _integers(generator, BOND_FEATURES.values(), len(src) // 2)
    if few_kinds:
        atoms, bonds = atoms * 0 + (torch.arange(offset) % 2).unsqueeze(1), bonds * 0
    return BatchedGraph(
        atoms=atoms,
        src=torch.tensor(src, dtype=torch.int64),
        dst=torch.tensor(dst, dtype=torch.int64),
        bonds=bonds.repeat_interleave(2, dim=0),
        n_atoms=torch.tensor(sizes, dtype=torch.int64),
        n_edges=torch.tensor(n_edges, dtype=torch.int64),
    )


def take_graph(graph: BatchedGraph, molecule: int) -> BatchedGraph:
    """Take one molecule out of a batch."""
    first = int(graph.n_atoms[:molecule].sum())
    edge = int(graph.n_edges[:molecule].sum())
    n, e = int(graph.n_atoms[molecule]), int(graph.n_edges[molecule])
    return BatchedGraph(
        graph.atoms[first : first + n],
        graph.src[edge : edge + e] - first,
        graph.dst[edge : edge + e] - first,
        graph.bonds[edge : edge + e],
        graph.n_atoms[molecule : molecule + 1],
        graph.n_edges[molecule : molecule + 1],
    )


def permute_graph(graph: BatchedGraph, order: torch.Tensor) -> BatchedGraph:
    """Renumber the atoms of a batch: new atom ``i`` is old atom ``order[i]``."""
    new = torch.argsort(order)
    shuffled = torch.randperm(len(graph.src), generator=torch.Generator().manual_seed(1))
    return BatchedGraph(
        graph.atoms[order], new[graph.src][shuffled], new[graph.dst][shuffled],
        graph.bonds[shuffled], graph.n_atoms, graph.n_edges,
    )  # fmt: skip


def order_within_molecules(n_atoms: torch.Tensor, seed: int) -> torch.Tensor:
    """Random order of atoms that leaves every atom in its molecule's block."""
    generator = torch.Generator().manual_seed(seed)
    parts, offset = [], 0
    for n in n_atoms.tolist():
        parts.append(offset + torch.randperm(n, generator=generator))
        offset += n
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def random_conformers(seed: int, sizes: list[int]) -> BatchedConformers:
    """Point clouds with atoms at least 0.9 Å apart and no two distances within 0.005 Å.

    Distances that nearly tie are excluded because reference atoms are then chosen by a rule.
    """
    generator = torch.Generator().manual_seed(seed)
    coordinates = []
    for n in sizes:
        points: list[torch.Tensor] = []
        box = 1.3 * max(n, 2) ** (1 / 3)
        while len(points) < n:
            point = (torch.rand(3, generator=generator) * 2 - 1) * box
            if points:
                distances = (torch.stack(points) - point).norm(dim=1)
                if distances.min() < 0.9 or _ties([*points, point]):
                    box *= 1.01
                    continue
            points.append(point)
        coordinates += points
    total = sum(sizes)
    return BatchedConformers(
        torch.tensor([1, 6, 7, 8, 16])[torch.randint(0, 5, (total,), generator=generator)],
        torch.stack(coordinates) if coordinates else torch.zeros(0, 3),
        torch.tensor(sizes, dtype=torch.int64),
    )


def _ties(points: list[torch.Tensor]) -> bool:
    """Whether the three nearest neighbours of any point tie."""
    cloud = torch.stack(points)
    nearest = torch.cdist(cloud, cloud).fill_diagonal_(99.0).sort(dim=1).values[:, :3]
    return bool((nearest.diff(dim=1) < 0.005).any()) if nearest.shape[1] > 1 else False


def random_rotation(seed: int) -> torch.Tensor:
    """Random proper rotation, ``[3, 3]``."""
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, _ = torch.linalg.qr(matrix)
    return (q * torch.sign(torch.linalg.det(q))).float()
