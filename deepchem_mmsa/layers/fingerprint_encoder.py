"""Encoder of fingerprint and descriptors: a multilayer perceptron.

Descriptors range over twenty orders of magnitude with heavy tails. Each is mapped to the normal
score of its rank among reference molecules: 15,000 of ChEMBL, PubChem and ZINC, none of them in
a benchmark's validation or test set (examples/descriptor_quantiles.py). Their quantiles are kept
in ``descriptor_quantiles.csv`` and in the encoder's state, so that an exported model is
self-contained.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepchem_mmsa.molecule import FINGERPRINT_SIZE, N_DESCRIPTORS

__all__ = [
    "BatchedFingerprints",
    "FingerprintMLP",
    "normal_scores",
    "reference_quantiles",
]

_TABLE = Path(__file__).parent / "descriptor_quantiles.csv"


@dataclass
class BatchedFingerprints:
    """Fingerprints of n molecules.

    Parameters
    ----------
    counts : Tensor
        uint8 ``[n, 2048]``, how often each position of the folded ECFP4 occurs.
    descriptors : Tensor
        float32 ``[n, 217]``; NaN where one is not defined.
    """

    counts: Tensor
    descriptors: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def to(self, device: torch.device | str) -> BatchedFingerprints:
        """Return the batch on another device."""
        return BatchedFingerprints(self.counts.to(device), self.descriptors.to(device))


@lru_cache(maxsize=1)
def _table() -> tuple[list[str], np.ndarray, np.ndarray]:
    with open(_TABLE, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    values = np.array([[float(v) for v in row[1:]] for row in rows], dtype=np.float32)
    return [row[0] for row in rows], np.array(header[1:], dtype=np.float32), values


def reference_quantiles() -> tuple[list[str], Tensor, Tensor]:
    """Return the quantiles of the descriptors among reference molecules.

    Returns
    -------
    names : list of str
        Names of the descriptors, in the order of the columns.
    levels : Tensor, [Q]
        Normal scores of the quantiles, ascending.
    quantiles : Tensor, [217, Q]

    Examples
    --------
    >>> names, levels, quantiles = reference_quantiles()
    >>> len(names), quantiles.shape == (len(names), len(levels))
    (217, True)
    """
    names, levels, quantiles = _table()
    return list(names), torch.from_numpy(levels.copy()), torch.from_numpy(quantiles.copy())


def normal_scores(values: Tensor, levels: Tensor, quantiles: Tensor) -> Tensor:
    """Return the normal score of each value's rank, a monotone function of the value.

    Between two quantiles the rank is interpolated; a value that many reference molecules share
    gets the middle of their ranks (the quantile transform of scikit-learn); beyond the outermost
    quantiles the score is the outermost level.

    Parameters
    ----------
    values : Tensor, [n, D]
        NaN, where a descriptor is not defined, gets the score of the median.
    levels : Tensor, [Q]
        Symmetric about 0, the level of the median.
    quantiles : Tensor, [D, Q]

    Returns
    -------
    Tensor, [n, D]

    Examples
    --------
    >>> levels, quantiles = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([[0.0, 0.0, 8.0]])
    >>> normal_scores(torch.tensor([[-5.0], [0.0], [8.0], [99.0]]), levels, quantiles)[:, 0]
    tensor([-1.0000, -0.4418,  1.0000,  1.0000])
    """
    ranks = torch.special.ndtr(levels)
    last = len(levels) - 1
    medians = quantiles[:, len(levels) // 2]
    x = torch.where(values.isnan(), medians.to(values.dtype), values).T.contiguous()  # [D, n]
    total = torch.zeros_like(x)
    for right in (False, True):
        above = torch.searchsorted(quantiles, x, right=right)  # quantiles below x, or up to it
        low, high = (above - 1).clamp(0, last), above.clamp(0, last)
        start, end = quantiles.gather(1, low), quantiles.gather(1, high)
        width = torch.where(end > start, end - start, torch.ones_like(start))
        share = ((x - start) / width).clamp(0, 1)
        total = total + torch.lerp(ranks[low], ranks[high], share)
    return torch.special.ndtri((total / 2).clamp(ranks[0], ranks[-1])).T


class FingerprintMLP(nn.Module):
    """Encode fingerprint counts and descriptors as one vector.

    Counts enter as ``log(1 + count)``, descriptors by :func:`normal_scores`. There is no
    batch norm: the output for a molecule does not depend on others, even in training.

    Parameters
    ----------
    width : int
        Width of the hidden layers and of the output.
    n_layers : int
        Number of linear layers.
    dropout : float
        Dropout probability after each layer.

    Attributes
    ----------
    out_dim : int
        ``width``.

    Raises
    ------
    ValueError
        When ``width`` or ``n_layers`` is not positive.

    Examples
    --------
    >>> encoder = FingerprintMLP(width=8).eval()
    >>> empty = BatchedFingerprints(torch.zeros(2, 2048, dtype=torch.uint8), torch.zeros(2, 217))
    >>> encoder(empty).shape
    torch.Size([2, 8])
    """

    levels: Tensor
    quantiles: Tensor

    def __init__(self, width: int = 512, n_layers: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        if width < 1 or n_layers < 1:
            raise ValueError(f"width={width} and n_layers={n_layers} must be at least 1")
        self.out_dim = width
        _, levels, quantiles = reference_quantiles()
        self.register_buffer("levels", levels)
        self.register_buffer("quantiles", quantiles)
        layers: list[nn.Module] = []
        in_dim = FINGERPRINT_SIZE + N_DESCRIPTORS
        for _layer in range(n_layers):
            layers += [nn.Linear(in_dim, width), nn.ReLU(), nn.Dropout(dropout)]
            in_dim = width
        self.layers = nn.Sequential(*layers)

    def scaled_descriptors(self, inputs: BatchedFingerprints) -> Tensor:
        """Return the descriptors as the network sees them, ``[n, 217]``."""
        return normal_scores(inputs.descriptors, self.levels, self.quantiles)

    def forward(self, inputs: BatchedFingerprints) -> Tensor:
        """Encode fingerprints.

        Parameters
        ----------
        inputs : BatchedFingerprints
            ``n`` molecules; ``n`` may be 0.

        Returns
        -------
        Tensor
            ``[n, out_dim]``.
        """
        counts = inputs.counts.to(self.quantiles.dtype).log1p()
        return self.layers(torch.cat([counts, self.scaled_descriptors(inputs)], dim=1))
