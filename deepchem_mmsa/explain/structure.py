"""Memory anchors, hyperedge and nearest reference molecules of a molecule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepchem_mmsa.layers.hypergraph import cosine_similarity, nearest_nodes_hypergraph
from deepchem_mmsa.network import MMSANetwork

__all__ = ["Anchor", "Reference", "References", "memory_anchors", "nearest_references"]


@dataclass(frozen=True)
class Anchor:
    """A memory anchor that the molecule addresses, or that is in its hyperedge.

    Parameters
    ----------
    index : int
        Row of the memory.
    address : float
        ``p``: its weight in the molecule's memory readout, 0 to 1.
    similarity : float
        Cosine of the molecule's code and the anchor.
    membership : float
        Its share of the molecule's hyperedge, 0 to 1; 0 outside of it. All shares and the
        molecule's own sum to 1.
    exemplars : tuple of (str, float)
        Training molecules nearest to the anchor with their cosine; empty where the export left
        them out.
    """

    index: int
    address: float
    similarity: float
    membership: float
    exemplars: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Reference:
    """A molecule given for comparison.

    Parameters
    ----------
    row : int
        Its index among those given.
    smiles : str
    similarity : float
        Cosine of the two molecule embeddings.
    prediction : float
        Predicted probability or value.
    name, label : str
        Its name and its measured label; empty where they were not given.
    """

    row: int
    smiles: str
    similarity: float
    prediction: float
    name: str = ""
    label: str = ""


@dataclass(frozen=True)
class References:
    """Embedded molecules for comparison, reusable for many explanations.

    Parameters
    ----------
    smiles : list of str
        ``[N]``.
    embeddings : np.ndarray
        ``[N, d]``; NaN rows where the molecule has no view that the model reads.
    predictions : np.ndarray
        ``[N, T]`` values or ``[N, T, C]`` probabilities.
    names, labels : sequence of str
        ``[N]``, or empty.
    """

    smiles: list[str]
    embeddings: np.ndarray
    predictions: np.ndarray
    names: Sequence[str] = ()
    labels: Sequence[str] = ()


@torch.no_grad()
def memory_anchors(network: MMSANetwork, code: Tensor, n: int = 5) -> tuple[list[Anchor], float]:
    """Find the anchors that a molecule reads most, and those of its hyperedge.

    Parameters
    ----------
    network : MMSANetwork
    code : Tensor
        The unified code c, ``[1, d]``.
    n : int
        Number of most-addressed anchors; those of the hyperedge are always included.

    Returns
    -------
    anchors : list of Anchor
        Sorted by address, largest first; empty where the memory is off or not active yet.
    own : float
        The molecule's own share of its hyperedge: 1 if there is no anchor in it.

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> network = MMSANetwork(MMSAConfig(modalities=("graph",), embedding_dim=8, memory_warmup=64))
    >>> network.memory.update(torch.randn(64, 8), [f"molecule {i}" for i in range(64)])
    >>> anchors, own = memory_anchors(network, torch.randn(1, 8))
    >>> round(own + sum(anchor.membership for anchor in anchors), 6)
    1.0
    """
    memory, anchors = network.memory, network.active_anchors()
    if memory is None or not len(anchors):
        return [], 1.0
    address = memory.address(code)[0]
    similarity = cosine_similarity(code, anchors)[0]
    membership = torch.zeros(1 + len(anchors), device=code.device)
    membership[0] = 1.0
    if network.hypergraph is not None:
        edges = nearest_nodes_hypergraph(code, anchors, network.config.n_neighbors)
        mine = edges.hyperedge == 0
        weights = edges.membership[mine] / edges.membership[mine].sum()
        membership = torch.zeros_like(membership).index_add(
            0, edges.node[mine], weights.to(membership)
        )
    own, membership = float(membership[0]), membership[1:]
    chosen = set(address.topk(min(n, len(anchors))).indices.tolist())
    chosen |= set(membership.nonzero()[:, 0].tolist())
    exemplars = memory.exemplars
    found = [
        Anchor(j, float(address[j]), float(similarity[j]), float(membership[j]),
               tuple((s, float(x)) for s, x in exemplars[j]))
        for j in chosen
    ]  # fmt: skip
    return sorted(found, key=lambda anchor: -anchor.address), own


def nearest_references(
    embedding: np.ndarray,
    embeddings: np.ndarray,
    predictions: np.ndarray,
    smiles: Sequence[str],
    n: int = 5,
) -> list[Reference]:
    """Find the nearest reference molecules by the cosine of their embeddings e.

    Parameters
    ----------
    embedding : np.ndarray
        ``[d]``.
    embeddings : np.ndarray
        ``[N, d]``; rows of NaN (molecules without a view) are skipped.
    predictions : np.ndarray
        ``[N]``.
    smiles : sequence of str
        ``[N]``.
    n : int

    Returns
    -------
    list of Reference
        The nearest first.

    Examples
    --------
    >>> axes = np.eye(2)
    >>> nearest_references(axes[0], axes, np.array([0.1, 0.9]), ["C", "N"], n=1)
    [Reference(row=0, smiles='C', similarity=1.0, prediction=0.1, name='', label='')]
    """
    usable = np.flatnonzero(np.isfinite(embeddings).all(axis=1))
    rows = embeddings[usable]
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(embedding)
    cosine = rows @ embedding / np.maximum(norms, 1e-12)
    order = np.argsort(-cosine, kind="stable")[:n]
    return [
        Reference(
            int(usable[i]), smiles[usable[i]], float(cosine[i]), float(predictions[usable[i]])
        )
        for i in order
    ]
