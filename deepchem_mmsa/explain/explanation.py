"""The result of :func:`deepchem_mmsa.explain.explain`: numbers, drawings and a page."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from deepchem_mmsa.atomic import write_bytes
from deepchem_mmsa.explain.drawing import draw_contributions
from deepchem_mmsa.explain.structure import Anchor, Reference

__all__ = ["Explanation", "ViewShare"]

TOTAL = "total"
"""Map name of the sum over the views."""


@dataclass(frozen=True)
class ViewShare:
    """Importance of one view, by two measures.

    Parameters
    ----------
    name : str
    contribution : float
        Sum of its contributions, in the output's unit; those of all views sum to
        ``output − baseline``. NaN if the view is missing or was held fixed.
    share : float
        ``|contribution|`` divided by its sum over all views, 0 to 1.
    removal : float
        The output minus that of the same model without this view; NaN if it is missing, or the
        only one.
    reason : str
        Why a number is NaN; empty otherwise.
    """

    name: str
    contribution: float
    share: float
    removal: float
    reason: str = ""


@dataclass(repr=False)
class Explanation:
    """Explanation of a model's prediction for one molecule.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        As it was given; contributions follow its order of atoms and bonds.
    smiles : str
        Canonical SMILES.
    task : str
    target : int or None
        The class; None for regression.
    prediction : float
        Probability of the class, or the value in label units.
    output, baseline : float
        The explained output, log-odds ``log p / (1 − p)`` of the class or the value, for this
        molecule and for the blank one.
    atoms : dict of str to np.ndarray
        Per view with contributions, ``[n_atoms]``: contributions in the output's unit, positive
        where an atom raises it. ``"image"`` is the sum over the pixels nearest to an atom;
        ``"geometry"`` adds each added hydrogen to its nearest atom; ``"fingerprint"`` splits
        each bit between the atoms of its environments.
    bonds : np.ndarray or None
        ``[n_bonds]``, contributions of the graph's bonds.
    descriptors : dict of str to float
        Contributions of the fingerprint view's descriptors, which belong to no atom; empty
        without that view.
    pixels : np.ndarray or None
        ``[S, S]``, contributions of the pixels.
    picture : np.ndarray or None
        uint8 ``[3, S, S]``, the image that the network saw.
    views : list of ViewShare
    anchors : list of Anchor
        Memory anchors that the molecule addresses most, and all in its hyperedge.
    own_share : float
        The molecule's own share of its hyperedge, 0 to 1.
    references : list of Reference
        The nearest of the molecules given for comparison.
    steps : int
        Integration points.
    residual : float
        ``output − baseline`` minus all contributions: the integral's error.
    reasons : dict of str to str
        Missing views and contributions, and why.
    class_name : str
        Name of the class; empty for regression.
    source : str
        Where the molecule came from, such as its name, row and file; shown on the page. Empty
        until it is set.
    """

    molecule: Chem.Mol
    smiles: str
    task: str
    target: int | None
    prediction: float
    output: float
    baseline: float
    atoms: dict[str, np.ndarray]
    bonds: np.ndarray | None
    descriptors: dict[str, float]
    pixels: np.ndarray | None
    picture: np.ndarray | None
    views: list[ViewShare]
    anchors: list[Anchor]
    own_share: float
    references: list[Reference]
    steps: int
    residual: float
    reasons: dict[str, str] = field(default_factory=dict)
    class_name: str = ""
    source: str = ""

    def __repr__(self) -> str:
        """Return one line: molecule, task, prediction, and the contributions of the views."""
        of_class = f" (class {self.class_name})" if self.class_name else ""
        views = ", ".join(
            f"{v.name} {v.contribution:+.3g}" for v in self.views if np.isfinite(v.contribution)
        )
        return (
            f"<Explanation of {self.task}{of_class} {self.prediction:.3g} for {self.smiles}: "
            f"{views} {self.unit}>"
        )

    @property
    def unit(self) -> str:
        """Unit of the contributions."""
        return "label units" if self.target is None else f"log-odds of class {self.class_name}"

    @property
    def total(self) -> np.ndarray:
        """Sum over the views, each bond halved between its atoms: ``[n_atoms]``.

        Its sum, with that of the descriptors, is ``output − baseline − residual``.
        """
        total = np.zeros(self.molecule.GetNumAtoms())
        for values in self.atoms.values():
            total += values
        if self.bonds is not None:
            for bond, value in zip(self.molecule.GetBonds(), self.bonds):
                total[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]] += value / 2
        return total

    @property
    def scale(self) -> float:
        """The largest absolute contribution of any atom or bond: the colour scale of all maps."""
        parts = [self.total, *self.atoms.values()]
        if self.bonds is not None:
            parts.append(self.bonds)
        return max((float(np.abs(p).max()) for p in parts if p.size), default=0.0)

    @property
    def maps(self) -> tuple[str, ...]:
        """The names that :meth:`to_svg` takes: ``"total"`` and the views."""
        return (TOTAL, *self.atoms)

    def _map(self, view: str) -> tuple[np.ndarray, np.ndarray | None]:
        if view not in self.maps:
            reason = self.reasons.get(view)
            raise ValueError(
                f"no map of {view!r}: {reason}"
                if reason
                else f"no map of {view!r}: there are {', '.join(self.maps)}"
            )
        if view == TOTAL:
            return self.total, None
        return self.atoms[view], self.bonds if view == "graph" else None

    def to_svg(self, view: str = TOTAL, width: int = 420, height: int = 340) -> str:
        """Draw the molecule with its contributions.

        Parameters
        ----------
        view : str
            One of :attr:`maps`. The graph's map shows its bonds as well; in the total they are
            halved between their atoms.
        width, height : int
            Pixels.

        Returns
        -------
        str
            SVG: orange raises the output, purple lowers it.

        Raises
        ------
        ValueError
            If there is no such map; the message says why.
        """
        atoms, bonds = self._map(view)
        svg = draw_contributions(self.molecule, atoms, bonds, self.scale, width, height, form="svg")
        return svg.decode("utf-8")

    def to_png(self, view: str = TOTAL, width: int = 840, height: int = 680) -> bytes:
        """Draw as :meth:`to_svg` does, as a PNG."""
        atoms, bonds = self._map(view)
        return draw_contributions(self.molecule, atoms, bonds, self.scale, width, height, "png")

    def to_html(self) -> str:
        """Return one self-contained page: maps, views, memory, neighbours, tables."""
        from deepchem_mmsa.explain.page import html_page

        return html_page(self)

    def save(self, path: str | os.PathLike, view: str = TOTAL) -> Path:
        """Write the HTML page, or one map as an image.

        Parameters
        ----------
        path : path-like
            The suffix selects the format: ``.html``, ``.svg`` or ``.png``.
        view : str
            The map of an SVG or PNG.

        Raises
        ------
        ValueError
            For another suffix, or if there is no such map.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending == ".html":
            data = self.to_html().encode("utf-8")
        elif ending == ".svg":
            data = self.to_svg(view).encode("utf-8")
        elif ending == ".png":
            data = self.to_png(view)
        else:
            raise ValueError(f"{path.name}: give a name that ends in .html, .svg or .png")
        write_bytes(path, data)
        return path

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain Python values, NaN as None; pixels are left out."""
        views = [
            {"name": v.name, "contribution": _plain(v.contribution), "share": _plain(v.share),
             "removal": _plain(v.removal), "reason": v.reason}
            for v in self.views
        ]  # fmt: skip
        return {
            "smiles": self.smiles,
            "source": self.source,
            "task": self.task,
            "target": self.target,
            "class_name": self.class_name,
            "prediction": self.prediction,
            "unit": self.unit,
            "output": self.output,
            "baseline": self.baseline,
            "elements": [atom.GetSymbol() for atom in self.molecule.GetAtoms()],
            "total": self.total.tolist(),
            "atoms": {view: values.tolist() for view, values in self.atoms.items()},
            "bonds": None if self.bonds is None else self.bonds.tolist(),
            "descriptors": dict(self.descriptors),
            "views": views,
            "anchors": [
                {**vars(a), "exemplars": [list(e) for e in a.exemplars]} for a in self.anchors
            ],
            "own_share": self.own_share,
            "references": [vars(r) for r in self.references],
            "steps": self.steps,
            "residual": self.residual,
            "reasons": dict(self.reasons),
        }


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
