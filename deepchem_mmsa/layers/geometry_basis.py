"""The radius graph of a conformer, and the geometric features of its edges.

The features of an edge follow ComENet (Wang et al. 2022, NeurIPS, arXiv 2206.08515): distance
``d``, the spherical angles ``θ, φ`` of the neighbour in the atom's local frame, and the torsion
``τ`` about the edge. The frame's axes point to the atom's two nearest neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepchem_mmsa.layers.message_passing import BatchedConformers

__all__ = ["BesselBasis", "EdgeGeometry", "edge_geometry", "radius_graph", "spherical_harmonics"]

TIE_TOLERANCE = 1e-3  # Å; converged conformers repeat equal bonds to about 1e-4
SOFTENING = 0.05  # Å; below this height three atoms count as collinear, smoothly


def radius_graph(conformers: BatchedConformers, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return the pairs of atoms of one molecule that are closer than a cutoff.

    Pairs are listed molecule by molecule without padding, so that a large molecule costs only
    the square of its own size.

    Parameters
    ----------
    conformers : BatchedConformers
        ``N`` atoms, Å.
    cutoff : float
        Å.

    Returns
    -------
    src, dst : Tensor
        int64 ``[E]``; both directions, sorted by ``dst`` then ``src``, no self-loops.

    Raises
    ------
    ValueError
        When the cutoff is not positive.

    Examples
    --------
    >>> line = BatchedConformers(
    ...     torch.ones(3, dtype=torch.int64), torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]),
    ...     torch.tensor([3]))
    >>> radius_graph(line, cutoff=2.5)
    (tensor([1, 0, 2, 1]), tensor([0, 1, 1, 2]))
    """
    if not cutoff > 0:
        raise ValueError(f"cutoff={cutoff} must be positive (Å)")
    with torch.no_grad():
        positions, n_atoms = conformers.coordinates, conformers.n_atoms
        molecule = conformers.molecule_of_atom
        first_atom = (n_atoms.cumsum(0) - n_atoms).index_select(0, molecule)
        n_partners = n_atoms.index_select(0, molecule)
        atoms = torch.arange(len(positions), device=positions.device)
        dst = torch.repeat_interleave(atoms, n_partners)
        first_pair = n_partners.cumsum(0) - n_partners
        within = torch.arange(len(dst), device=dst.device) - first_pair.index_select(0, dst)
        src = first_atom.index_select(0, dst) + within
        vectors = positions.index_select(0, src) - positions.index_select(0, dst)
        squared = vectors.square().sum(1)
        keep = (squared < cutoff * cutoff) & (src != dst)
        return src[keep], dst[keep]


def _nearest_edge(
    distances: Tensor, atomic_numbers: Tensor, src: Tensor, dst: Tensor, n_atoms: int
) -> Tensor:
    """Edge to the nearest neighbour of each atom, int64 ``[N]``; ``E`` where there is none.

    Among neighbours that tie within ``TIE_TOLERANCE`` the heaviest element wins, then the lowest
    index, so that rounding (a rotation, another machine) cannot swap reference atoms.
    """
    n_edges = len(src)
    shortest = distances.new_full((n_atoms,), math.inf).scatter_reduce(0, dst, distances, "amin")
    ties = (distances <= shortest.index_select(0, dst) + TIE_TOLERANCE) & distances.isfinite()
    position = torch.arange(n_edges, device=src.device)
    rank = (255 - atomic_numbers.index_select(0, src)) * n_edges + position
    rank = torch.where(ties, rank, 256 * n_edges)
    best = rank.new_full((n_atoms,), 256 * n_edges).scatter_reduce(0, dst, rank, "amin")
    return torch.where(best < 256 * n_edges, best % max(n_edges, 1), n_edges)


@dataclass
class EdgeGeometry:
    """ComENet's features of an edge ``j → i``, invariant to rotation and translation.

    Parameters
    ----------
    distance : Tensor
        ``[E]``, Å.
    direction : Tensor
        ``[E, 3]``: the unit vector from ``i`` to ``j`` in the frame of ``i``, that is
        ``(sin θ cos φ, sin θ sin φ, cos θ)``. A reflection changes the sign of the second.
    cos_torsion, sin_torsion : Tensor
        ``[E]``: of τ; both zero where a reference atom is missing or collinear.
    """

    distance: Tensor
    direction: Tensor
    cos_torsion: Tensor
    sin_torsion: Tensor


def _soft_unit(vectors: Tensor, softening: float = SOFTENING) -> Tensor:
    """Normalise vectors so that they vanish smoothly with their length, gradients too."""
    return vectors / (vectors.square().sum(-1, keepdim=True) + softening**2).sqrt()


def _across(vectors: Tensor, axis: Tensor) -> Tensor:
    """Part of the vectors that is perpendicular to a unit axis."""
    return vectors - (vectors * axis).sum(-1, keepdim=True) * axis


def edge_geometry(conformers: BatchedConformers, src: Tensor, dst: Tensor) -> EdgeGeometry:
    """Compute distances, angles and torsions of the edges of a radius graph.

    With ``f`` the nearest and ``s`` the second nearest neighbour of an atom: θ is the angle
    between ``i→f_i`` and ``i→j``, φ the azimuth of ``j`` about ``i→f_i`` counted from ``s_i``,
    τ the torsion ``ref_i – i – j – ref_j`` with ``ref_i = f_i``, or ``s_i`` where ``f_i`` is
    ``j``. Components of unit vectors represent the angles, because their gradients are finite
    everywhere; a missing reference atom (one or two atoms) gives zeros.

    Parameters
    ----------
    conformers : BatchedConformers
        ``N`` atoms.
    src, dst : Tensor
        int64 ``[E]`` from :func:`radius_graph`.

    Returns
    -------
    EdgeGeometry
        Of all ``E`` edges.
    """
    positions = conformers.coordinates
    n_atoms = len(positions)
    vectors = positions.index_select(0, src) - positions.index_select(0, dst)
    distance = (vectors.square().sum(1) + 1e-12).sqrt()
    unit = vectors / distance.unsqueeze(1)

    with torch.no_grad():
        numbers = conformers.atomic_numbers
        first = _nearest_edge(distance, numbers, src, dst, n_atoms)
        others = torch.cat([distance, distance.new_zeros(1)]).index_fill(0, first, math.inf)
        second = _nearest_edge(others[:-1], numbers, src, dst, n_atoms)
        reverse = torch.cat([src, src.new_full((1,), -1)])  # the atom at an edge's other end
        first_of_i, first_of_j = first.index_select(0, dst), first.index_select(0, src)
        back = reverse.index_select(0, first_of_j) == dst
        reference_i = torch.where(
            reverse.index_select(0, first_of_i) == src, second.index_select(0, dst), first_of_i
        )
        reference_j = torch.where(back, second.index_select(0, src), first_of_j)

    # A zero row at the end stands for "no such neighbour".
    padded = torch.cat([vectors, vectors.new_zeros((1, 3))])
    z_axis = _soft_unit(padded.index_select(0, first), softening=1e-6)
    x_axis = _soft_unit(_across(padded.index_select(0, second), z_axis))
    y_axis = torch.linalg.cross(z_axis, x_axis)
    frames = torch.stack([x_axis, y_axis, z_axis], dim=1)
    direction = (frames.index_select(0, dst) * unit.unsqueeze(1)).sum(-1)

    side_i = _soft_unit(_across(padded.index_select(0, reference_i), unit))
    side_j = _soft_unit(_across(padded.index_select(0, reference_j), unit))
    cos_torsion = (side_i * side_j).sum(-1)
    sin_torsion = (torch.linalg.cross(side_i, side_j) * unit).sum(-1)
    return EdgeGeometry(distance, direction, cos_torsion, sin_torsion)


def spherical_harmonics(direction: Tensor, n_degrees: int) -> Tensor:
    """Real spherical harmonics of unit vectors, as polynomials of their components.

    Parameters
    ----------
    direction : Tensor
        ``[E, 3]``, unit vectors.
    n_degrees : int
        Degrees 0 to ``n_degrees - 1``.

    Returns
    -------
    Tensor
        ``[E, n_degrees²]``; degree by degree, orders ``0, 1, -1, 2, -2, ...``, orthonormal on
        the sphere, without the Condon–Shortley sign.

    Examples
    --------
    >>> spherical_harmonics(torch.tensor([[0.0, 0.0, 1.0]]), 2)
    tensor([[0.2821, 0.4886, 0.0000, 0.0000]])
    """
    x, y, z = direction.unbind(-1)
    cosine, sine = [torch.ones_like(x)], [torch.zeros_like(x)]  # Re, Im of (x + iy)^m
    for _ in range(1, n_degrees):
        cosine, sine = (
            [*cosine, x * cosine[-1] - y * sine[-1]],
            [*sine, x * sine[-1] + y * cosine[-1]],
        )
    legendre: dict[tuple[int, int], Tensor] = {}  # P_l^m(z) / sin^m θ
    for m in range(n_degrees):
        legendre[m, m] = torch.full_like(z, math.prod(range(1, 2 * m, 2)))
        for degree in range(m + 1, n_degrees):
            value = (2 * degree - 1) * z * legendre[degree - 1, m]
            if degree > m + 1:
                value = value - (degree + m - 1) * legendre[degree - 2, m]
            legendre[degree, m] = value / (degree - m)
    rows = []
    for degree in range(n_degrees):
        for m in range(degree + 1):
            norm = (2 * degree + 1) / (4 * math.pi)
            norm *= math.factorial(degree - m) / math.factorial(degree + m)
            scaled = math.sqrt(norm) * legendre[degree, m]
            if m == 0:
                rows.append(scaled)
            else:
                rows.append(math.sqrt(2) * scaled * cosine[m])
                rows.append(math.sqrt(2) * scaled * sine[m])
    return torch.stack(rows, dim=-1)


class BesselBasis(nn.Module):
    """Normalised spherical Bessel functions ``j_l(z_ln d / cutoff)``, zero at the cutoff.

    Radial part of Gasteiger et al. 2020 (DimeNet, arXiv 2003.03123, eq. 6 without the envelope):
    ``sqrt(2) / |j_{l+1}(z_ln)| · j_l(z_ln d / cutoff)`` with ``z_ln`` the n-th zero of ``j_l``.

    Parameters
    ----------
    cutoff : float
        Å.
    n_radial : int
        Functions per degree.
    n_degrees : int
        Degrees ``l`` from 0 to ``n_degrees - 1``, at most 4.

    Raises
    ------
    ValueError
        When a size is out of range.

    Examples
    --------
    >>> basis = BesselBasis(cutoff=8.0, n_radial=3, n_degrees=2)
    >>> basis(torch.tensor([1.0, 8.0])).shape
    torch.Size([2, 2, 3])
    """

    zeros: Tensor
    norms: Tensor

    def __init__(self, cutoff: float, n_radial: int, n_degrees: int) -> None:
        super().__init__()
        if n_radial < 1:
            raise ValueError(f"n_radial={n_radial} must be at least 1")
        if not 1 <= n_degrees <= 4:
            raise ValueError(f"n_spherical={n_degrees} (the degrees) must be between 1 and 4")
        self.cutoff = cutoff
        zeros = _bessel_zeros(n_degrees, n_radial)
        norms = [
            (math.sqrt(2) / _spherical_bessel(degree + 1, row).abs()).tolist()
            for degree, row in enumerate(zeros)
        ]
        # They are in no state: torch's default type, if it is half precision, would change them.
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer("zeros", torch.tensor(zeros.tolist(), dtype=dtype), persistent=False)
        self.register_buffer("norms", torch.tensor(norms, dtype=dtype), persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at distances ``[E]``, Å: ``[E, n_degrees, n_radial]``."""
        scaled = distance.view(-1, 1, 1) / self.cutoff * self.zeros
        rows = [_spherical_bessel(degree, scaled[:, degree]) for degree in range(len(self.zeros))]
        return torch.stack(rows, dim=1) * self.norms


def _spherical_bessel(degree: int, x: Tensor) -> Tensor:
    """``j_degree(x)`` for ``x ≥ 0``: a series below 1, where the recurrence loses precision."""
    small = x.clamp(max=1.0)
    square = 0.5 * small.square()
    term = small**degree / math.prod(range(1, 2 * degree + 2, 2))
    series = term
    for k in range(1, 7):
        term = -term * square / (k * (2 * degree + 2 * k + 1))
        series = series + term
    large = x.clamp(min=1.0)
    previous, current = torch.cos(large) / large, torch.sin(large) / large
    for k in range(degree):
        previous, current = current, (2 * k + 1) / large * current - previous
    return torch.where(x < 1.0, series, current)


def _bessel_zeros(n_degrees: int, n_zeros: int) -> Tensor:
    """First positive zeros of ``j_0 ... j_{n_degrees-1}``; those of adjacent degrees interlace."""
    # On the CPU, also where networks are made on another device, or on none (exports).
    ends = torch.arange(1, n_zeros + n_degrees + 1, dtype=torch.float64, device="cpu") * math.pi
    rows = [ends[:n_zeros]]
    for degree in range(1, n_degrees):
        low, high = ends[:-1], ends[1:]
        sign = _spherical_bessel(degree, low).sign()
        for _ in range(54):  # from an interval of about π to the precision of its ends
            middle = (low + high) / 2
            before = _spherical_bessel(degree, middle).sign() == sign
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        ends = (low + high) / 2
        rows.append(ends[:n_zeros])
    return torch.stack(rows)
