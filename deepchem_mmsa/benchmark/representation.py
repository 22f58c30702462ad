"""Quality of a pre-trained representation without labels, on held-out molecules."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def _directions(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean squared distance between the directions of corresponding rows.

    ``mean_i ‖a_i − b_i‖²`` on the unit sphere (Wang and Isola, ICML 2020), lower is better: 0 if
    the views of a molecule agree, 2 if they are unrelated.

    Examples
    --------
    >>> alignment(np.eye(2), 3 * np.eye(2)), alignment(np.eye(2), np.eye(2)[::-1])
    (0.0, 2.0)
    """
    return float(((_directions(a) - _directions(b)) ** 2).sum(-1).mean())


def uniformity(x: np.ndarray) -> float:
    """Return ``log mean_{i≠j} exp(−2 ‖x_i − x_j‖²)`` of the directions (Wang and Isola 2020).

    Lower is better: 0 if all collapsed into one point, near −4 if evenly spread over the sphere.

    Examples
    --------
    >>> uniformity(np.ones((3, 2)))
    0.0
    """
    unit = _directions(x)
    squared = 2 - 2 * np.clip(unit @ unit.T, -1, 1)
    pairs = squared[np.triu_indices(len(unit), 1)]
    return float(np.log(np.exp(-2 * pairs).mean()))


def retrieval(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of rows of `a` whose nearest row of `b`, by cosine, has the same index.

    Examples
    --------
    >>> retrieval(np.eye(3), np.eye(3)[[0, 2, 1]])
    0.333
    """
    nearest = (_directions(a) @ _directions(b).T).argmax(1)
    return float((nearest == np.arange(len(a))).mean())


def describe(codes: np.ndarray, embeddings: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Return retrieval and alignment between views, and uniformity of the embedding.

    Parameters
    ----------
    codes : np.ndarray
        ``[N, M, d]``; NaN where a molecule lacks a view.
    embeddings : np.ndarray
        ``[N, d]``.
    names : tuple of str
        The M modalities.

    Returns
    -------
    dict of str to float
        ``held_out_retrieval`` and ``held_out_alignment`` are means over pairs of views;
        ``graph>image`` and the like the retrieval of each; ``held_out_uniformity``.
    """
    there = ~np.isnan(codes).any(-1)
    found: dict[str, float] = {}
    agreeing = []
    for a, b in itertools.permutations(range(len(names)), 2):
        both = there[:, a] & there[:, b]
        if both.sum() > 1:
            found[f"{names[a]}>{names[b]}"] = retrieval(codes[both, a], codes[both, b])
            agreeing.append(alignment(codes[both, a], codes[both, b]))
    whole = embeddings[~np.isnan(embeddings).any(1)]
    figures = {"held_out_uniformity": uniformity(whole)}
    if found:
        figures["held_out_retrieval"] = float(np.mean(list(found.values())))
        figures["held_out_alignment"] = float(np.mean(agreeing))
    return {**figures, **found}


class HeldOut:
    """Pre-training callback that evaluates the representation of held-out molecules.

    The metrics are added to ``model.history``. They use batch norm's running statistics, which
    follow augmented images and masked graphs: compute :func:`describe` after ``fit``, which
    estimates the statistics anew, for those of the final weights (they are better).

    Parameters
    ----------
    dataset : deepchem.data.Dataset
        The held-out molecules, some hundred.
    every : int
        Epochs between two evaluations.
    """

    def __init__(self, dataset: Any, every: int = 1) -> None:
        self.dataset = dataset
        self.every = every

    def __call__(self, model: Any, step: int) -> None:
        """Do nothing at a step."""

    def on_epoch_end(self, model: Any, epoch: int) -> None:
        """Evaluate codes and embeddings, and add the metrics to the history."""
        if epoch % self.every:
            return
        codes, _ = model.predict_codes(self.dataset)
        embeddings = model.predict_embedding(self.dataset)
        figures = describe(codes, embeddings, model.config.modalities)
        if model.model.memory is not None:
            figures["anchors_active"] = float(model.model.memory.n_active)
        model.history[-1].update(figures)
        logger.info("epoch %d: %s", epoch, {k: round(v, 4) for k, v in figures.items()})
