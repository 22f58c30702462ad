"""Draw the figures of docs/concepts.md: ``python docs/figures/draw.py``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from PIL import Image

from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.views import ViewSettings, molecule_views
from deepchem_mmsa.views.depiction import atom_positions
from deepchem_mmsa.views.topology import read_smiles

FOLDER = Path(__file__).parent
CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"
INK, GREY = "#2d3142", "#8a90a0"
BLUE, GREEN, ORANGE, RED = "#0b5ea8", "#2e7d4f", "#a66300", "#cf4257"
ELEMENTS = {1: "#c9ced8", 6: INK, 7: BLUE, 8: RED}
SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O"}


def panel(ax: Any, title: str, text: str, colour: str) -> None:
    """Name a panel, above and below."""
    ax.set_title(title, color=colour, fontsize=13, fontweight="bold")
    ax.text(0.5, -0.02, text, transform=ax.transAxes, ha="center", va="top", color=INK, fontsize=9)
    ax.set_aspect("equal")
    ax.axis("off")


def graph(ax: Any, record: MoleculeViews) -> None:
    """Draw atoms and bonds as nodes and edges."""
    molecule = read_smiles(record.smiles)
    positions = atom_positions(molecule, 224) * (1, -1)
    elements = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    for a, b in record.bond_atoms:
        ax.plot(*positions[[a, b]].T, color=GREY, linewidth=2, zorder=1)
    for (x, y), number in zip(positions, elements):
        ax.scatter(x, y, s=190, color=ELEMENTS[int(number)], zorder=2)
        ax.text(x, y - 0.5, SYMBOLS[int(number)], color="white", ha="center", va="center",
                fontsize=8, fontweight="bold")  # fmt: skip
    ax.margins(0.12)


def conformer(ax: Any, record: MoleculeViews) -> None:
    """Draw the conformer, tilted, near atoms above far ones."""
    points = record.coordinates - record.coordinates.mean(0)
    axes = np.linalg.svd(points, full_matrices=False)[2]
    x, y, z = (points @ axes.T).T
    tilt = np.deg2rad(50)
    x, y, z = x, y * np.cos(tilt) - z * np.sin(tilt), y * np.sin(tilt) + z * np.cos(tilt)
    for a in range(len(x)):
        for b in range(a):
            light = min(record.atomic_numbers[a], record.atomic_numbers[b]) == 1
            if np.linalg.norm(points[a] - points[b]) < (1.25 if light else 1.65):
                ax.plot(x[[a, b]], y[[a, b]], color=GREY, linewidth=2.5, zorder=z[[a, b]].mean())
    for i in np.argsort(z):
        number = int(record.atomic_numbers[i])
        size = (70 if number == 1 else 210) * (1 + 0.08 * z[i])
        ax.scatter(x[i], y[i], s=size, color=ELEMENTS[number], edgecolor="white", linewidth=0.8,
                   zorder=z[i] + 0.01)  # fmt: skip
    ax.margins(0.1)


def draw_views(path: Path) -> None:
    """Draw one molecule in three views, as the network gets them."""
    record = molecule_views(CAFFEINE, ViewSettings(image_size=224))
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    image, nodes, space = figure.subplots(1, 3)
    image.imshow(np.asarray(Image.open(io.BytesIO(record.image)).convert("RGB")))
    panel(image, "image", "224 × 224 pixels", BLUE)
    graph(nodes, record)
    panel(nodes, "graph", f"{len(record.atoms)} atoms, {len(record.bond_atoms)} bonds", GREEN)
    conformer(space, record)
    panel(space, "geometry", f"{len(record.atomic_numbers)} points in space", ORANGE)
    figure.savefig(path, metadata={"Date": None})


def scope(ax: Any, title: str, molecules: np.ndarray, anchors: np.ndarray, edges: list) -> None:
    """Draw nodes, and hyperedges as coloured areas around them."""
    for (x, y), width, height, angle, colour in edges:
        area = {"width": width, "height": height, "angle": angle}
        ax.add_patch(Ellipse((x, y), **area, facecolor=colour, alpha=0.13))
        ax.add_patch(Ellipse((x, y), **area, fill=False, edgecolor=colour, linestyle="--"))
    ax.scatter(*anchors.T, marker="D", s=85, color=RED, zorder=3)
    ax.scatter(*molecules.T, s=85, color=INK, zorder=3)
    ax.set_title(title, color=INK, fontsize=12, fontweight="bold")
    ax.set(xlim=(0, 10), ylim=(0, 6.4), aspect="equal")
    ax.axis("off")


def draw_scopes(path: Path) -> None:
    """Draw who is whose neighbour in pre-training and in prediction."""
    anchors = np.array([[1.6, 4.9], [4.9, 5.3], [8.3, 4.6], [2.0, 1.3], [5.3, 2.0], [8.4, 1.5]])
    molecules = np.array([[2.9, 4.2], [3.6, 2.2], [6.5, 4.2], [7.1, 2.4]])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    scope(
        left, "pre-training: the batch and the memory", molecules, anchors,
        [
            ((3.2, 4.55), 5.0, 2.0, 4, BLUE),
            ((3.9, 2.1), 5.2, 1.9, 12, GREEN),
            ((7.0, 3.4), 4.6, 3.1, -50, ORANGE),
        ],
    )  # fmt: skip
    scope(
        right, "prediction: one molecule and the memory", molecules[1:2], anchors,
        [((3.7, 1.85), 4.9, 1.9, 8, GREEN)],
    )  # fmt: skip
    right.annotate("always among\nits own neighbours", molecules[1], (3.9, 3.5), color=INK,
                   fontsize=9, arrowprops={"arrowstyle": "->", "color": GREY})  # fmt: skip
    left.scatter([], [], s=60, color=INK, label="molecule")
    left.scatter([], [], s=60, marker="D", color=RED, label="memory anchor")
    left.plot([], [], "--", color=GREEN, label="hyperedge")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    # Text as text: it can be searched and read aloud; a fixed salt keeps the file the same.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "mmsa", "font.family": "sans-serif"}
    ):
        draw_views(FOLDER / "views.svg")
        draw_scopes(FOLDER / "scopes.svg")
