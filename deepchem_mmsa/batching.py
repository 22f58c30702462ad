"""Collating molecules' records into tensors: ``list[MoleculeViews]`` → ``MoleculeBatch``.

Each modality's inputs hold only the molecules that have it; ``rows`` gives their positions in
the batch. Adding a modality means adding one function here (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.layers.fingerprint_encoder import BatchedFingerprints
from deepchem_mmsa.layers.message_passing import BatchedConformers, BatchedGraph
from deepchem_mmsa.molecule import (
    ATOM_FEATURES,
    BOND_FEATURES,
    FINGERPRINT_SIZE,
    N_DESCRIPTORS,
    MoleculeViews,
)
from deepchem_mmsa.views.depiction import decode


@dataclass
class MoleculeBatch:
    """Molecules as tensors.

    Parameters
    ----------
    smiles : list of str
        One per molecule (B of them).
    modalities : tuple of str
        The M requested modalities, in the order of the columns of `available`.
    available : torch.Tensor
        Bool [B, M].
    rows : dict of str to torch.Tensor
        Per modality, int64 [n_m]: the molecules that have it.
    inputs : dict
        Per modality, its encoder's input for those molecules: uint8 [n_m, 3, S, S] for
        ``"image"``, :class:`BatchedGraph` for ``"graph"``, :class:`BatchedConformers` for
        ``"geometry"``, :class:`BatchedFingerprints` for ``"fingerprint"``.
    """

    smiles: list[str]
    modalities: tuple[str, ...]
    available: Tensor
    rows: dict[str, Tensor]
    inputs: dict[str, Any]

    def __len__(self) -> int:
        return len(self.smiles)

    def to(self, device: torch.device | str) -> MoleculeBatch:
        """Return the batch on another device."""
        rows = {m: r.to(device) for m, r in self.rows.items()}
        inputs = {m: x.to(device) for m, x in self.inputs.items()}
        return replace(self, available=self.available.to(device), rows=rows, inputs=inputs)


@dataclass(frozen=True)
class Collator:
    """Builds :class:`MoleculeBatch` from records.

    Parameters
    ----------
    modalities : tuple of str
        Which views to read.
    image_size : int
        Side of the images in pixels; stored ones of another size are resampled.
    hydrogens : bool
        Whether conformers keep their hydrogens.

    Examples
    --------
    >>> from deepchem_mmsa.views.topology import canonical, topology
    >>> atoms, bond_atoms, bonds = topology(canonical("CCO"))
    >>> views = MoleculeViews("CCO", atoms=atoms, bond_atoms=bond_atoms, bonds=bonds)
    >>> batch = Collator(("image", "graph"))([views, views])
    >>> batch.available
    tensor([[False,  True],
            [False,  True]])
    >>> batch.inputs["graph"].n_atoms
    tensor([3, 3])
    """

    modalities: tuple[str, ...]
    image_size: int = 224
    hydrogens: bool = False

    @classmethod
    def of(cls, config: MMSAConfig) -> Self:
        """Return the collator for a network with this configuration."""
        return cls(config.modalities, config.image_size, config.hydrogens)

    def __call__(self, records: Sequence[MoleculeViews]) -> MoleculeBatch:
        """Return the batch of the records, in their order.

        Raises
        ------
        TypeError
            If one of them is not a :class:`MoleculeViews`.
        """
        for row, record in enumerate(records):
            if not isinstance(record, MoleculeViews) and np.size(record) == 0:
                raise TypeError(
                    f"row {row} of the batch is empty: MMSAFeaturizer.featurize could not read "
                    "this molecule (featurizer.failures says why); leave such rows out, or keep "
                    "them, flagged, by featurize_all"
                )
            if not isinstance(record, MoleculeViews):
                remedy = "featurize the data with dc.feat.MMSAFeaturizer()"
                if isinstance(record, np.ndarray) and isinstance(record.flat[0], MoleculeViews):
                    remedy = f"X has {record.ndim + 1} dimensions: give the records as [N], X[:, 0]"
                raise TypeError(
                    f"row {row} of the batch holds {type(record).__name__}, not MoleculeViews; "
                    f"{remedy}"
                )
        available = np.array(
            [[m in record.available for m in self.modalities] for record in records], dtype=bool
        ).reshape(len(records), len(self.modalities))
        rows, inputs = {}, {}
        for column, modality in enumerate(self.modalities):
            chosen = np.flatnonzero(available[:, column]).tolist()
            rows[modality] = torch.tensor(chosen, dtype=torch.int64)
            inputs[modality] = COLLATE[modality](self, [records[i] for i in chosen])
        return MoleculeBatch(
            [record.smiles for record in records],
            self.modalities,
            torch.from_numpy(available),
            rows,
            inputs,
        )


def collate_images(options: Collator, records: Sequence[MoleculeViews]) -> Tensor:
    """Return images, uint8 [n, 3, S, S]."""
    size = options.image_size
    pictures = np.empty((len(records), 3, size, size), dtype=np.uint8)
    for picture, record in zip(pictures, records):
        assert record.image is not None
        picture[:] = decode(record.image, size)
    return torch.from_numpy(pictures)


def _joined(arrays: list[np.ndarray], *width: int, dtype: type = np.int64) -> Tensor:
    """Return [n, *width]; stays well-formed for an empty list."""
    return torch.from_numpy(np.concatenate([np.zeros((0, *width), dtype), *arrays]))


def collate_graphs(options: Collator, records: Sequence[MoleculeViews]) -> BatchedGraph:
    """Return the molecular graphs as one; each bond becomes an edge in both directions."""
    atoms = [r.atoms for r in records if r.atoms is not None]
    bonds = [r.bonds for r in records if r.bonds is not None]
    pairs = [r.bond_atoms.astype(np.int64) for r in records if r.bond_atoms is not None]
    n_atoms = np.array([len(a) for a in atoms], dtype=np.int64)
    n_bonds = np.array([len(b) for b in bonds], dtype=np.int64)
    starts = np.cumsum(n_atoms) - n_atoms
    ends = [p + start for p, start in zip(pairs, starts)]
    # Both directions of a molecule's bonds are kept together, as DGL's batches require.
    both = [np.concatenate([e, e[:, ::-1]]) for e in ends]
    edges = _joined(both, 2)
    features = _joined([np.concatenate([b, b]) for b in bonds], len(BOND_FEATURES))
    return BatchedGraph(
        atoms=_joined(atoms, len(ATOM_FEATURES)),
        src=edges[:, 0].contiguous(),
        dst=edges[:, 1].contiguous(),
        bonds=features,
        n_atoms=torch.from_numpy(n_atoms),
        n_edges=torch.from_numpy(2 * n_bonds),
    )


def seen_points(numbers: np.ndarray, hydrogens: bool) -> np.ndarray:
    """Return which points of a conformer the network sees, bool [n_points].

    Parameters
    ----------
    numbers : np.ndarray
        Atomic numbers [n_points].
    hydrogens : bool
        Whether it sees hydrogens; a molecule that is all hydrogen (H2, a proton) keeps its atoms.
    """
    heavy = numbers != 1
    return heavy if heavy.any() and not hydrogens else np.ones(len(numbers), dtype=bool)


def collate_conformers(options: Collator, records: Sequence[MoleculeViews]) -> BatchedConformers:
    """Return the conformers as one point cloud, with or without hydrogens."""
    numbers, points = [], []
    for record in records:
        assert record.atomic_numbers is not None
        assert record.coordinates is not None
        keep = seen_points(record.atomic_numbers, options.hydrogens)
        numbers.append(record.atomic_numbers[keep])
        points.append(record.coordinates[keep])
    n_atoms = np.array([len(n) for n in numbers], dtype=np.int64)
    coordinates = _joined(points, 3, dtype=np.float32)
    return BatchedConformers(_joined(numbers), coordinates, torch.from_numpy(n_atoms))


def collate_fingerprints(
    options: Collator, records: Sequence[MoleculeViews]
) -> BatchedFingerprints:
    """Return dense fingerprints, from their set positions and counts, and descriptors."""
    counts = np.zeros((len(records), FINGERPRINT_SIZE), dtype=np.uint8)
    descriptors = np.zeros((len(records), N_DESCRIPTORS), dtype=np.float32)
    for row, record in enumerate(records):
        assert record.fingerprint_bits is not None
        assert record.fingerprint_counts is not None
        assert record.descriptors is not None
        counts[row, record.fingerprint_bits] = record.fingerprint_counts
        descriptors[row] = record.descriptors
    return BatchedFingerprints(torch.from_numpy(counts), torch.from_numpy(descriptors))


COLLATE: dict[str, Callable[[Collator, Sequence[MoleculeViews]], Any]] = {
    "image": collate_images,
    "graph": collate_graphs,
    "geometry": collate_conformers,
    "fingerprint": collate_fingerprints,
}
"""How each modality's records become its encoder's input."""
