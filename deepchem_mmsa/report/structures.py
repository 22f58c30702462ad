"""Structures for a page: RDKit's drawings as a few paths and letters, about 1 KB a molecule.

RDKit writes each bond with its full style. Here lines of one colour become one path, and colours
become classes of the page's style sheet, so that structures follow light and dark themes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import NamedTuple
from xml.etree import ElementTree

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from deepchem_mmsa.rdkit_state import quiet_legacy

WIDTH, HEIGHT = 200, 140
# Colours that stand for classes: a0 is ink, a1 nitrogen, a2 oxygen, a3 sulfur, a4 halogens,
# a5 phosphorus and boron. The page replaces them.
_CLASS_OF_ELEMENT = {
    7: 1, 8: 2, 16: 3, 34: 3, 9: 4, 17: 4, 35: 4, 53: 4, 15: 5, 5: 5
}  # fmt: skip
_STAND_INS = [(0.0, 0.0, 0.0), *((0.0, round(i / 5, 1), 1.0) for i in range(1, 6))]
_CLASS_OF_COLOUR = {
    "#" + "".join(f"{round(255 * part):02X}" for part in rgb): index
    for index, rgb in enumerate(_STAND_INS)
}


class Drawing(NamedTuple):
    """The lines and letters of a structure.

    Attributes
    ----------
    lines : list of (int, int, str)
        Class of the colour, 1 where the path is filled, SVG path data.
    letters : list of (float, float, int, int, str)
        x, y, class of the colour, size in pixels, text.
    """

    lines: list[tuple[int, int, str]]
    letters: list[tuple[float, float, int, int, str]]


@lru_cache(maxsize=8192)
def draw(smiles: str) -> Drawing | None:
    """Draw a molecule on a canvas of 200 × 140; None if the SMILES cannot be read.

    Examples
    --------
    >>> drawing = draw("CCO")
    >>> [text for *_, text in drawing.letters], draw("C1CC") is None
    (['O', 'H'], True)
    """
    with quiet_legacy():
        parameters = Chem.SmilesParserParams()
        parameters.allowCXSMILES = False  # labels are not drawn
        molecule = Chem.MolFromSmiles(smiles.strip().split(" ")[0], parameters)
        if molecule is None or molecule.GetNumAtoms() == 0:
            return None
        for atom in molecule.GetAtoms():
            atom.SetAtomMapNum(0)
        rdDepictor.Compute2DCoords(molecule, canonOrient=True)
        # Without Freetype letters stay text: outlines are ten times as long.
        drawer = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT, -1, -1, True)
        options = drawer.drawOptions()
        options.setAtomPalette(
            {-1: _STAND_INS[0], **{z: _STAND_INS[c] for z, c in _CLASS_OF_ELEMENT.items()}}
        )
        options.clearBackground = False
        options.fixedBondLength = 22
        options.minFontSize, options.maxFontSize = 6, 13
        options.padding = 0.04
        options.flagCloseContactsDist = -1  # no boxes around atoms that overlap
        drawer.DrawMolecule(rdMolDraw2D.PrepareMolForDrawing(molecule))
        drawer.FinishDrawing()
    return _compact(drawer.GetDrawingText())


def _compact(svg: str) -> Drawing:
    paths: dict[tuple[int, int], list[str]] = {}
    letters = []
    for element in ElementTree.fromstring(svg):  # noqa: S314  # nosec B314
        tag = element.tag.rpartition("}")[2]
        style = dict(
            part.split(":", 1) for part in element.get("style", "").split(";") if ":" in part
        )
        filled = style.get("fill", element.get("fill", "none")) != "none"
        colour = style["fill"] if filled and "fill" in style else style.get("stroke", "#000000")
        kind = _CLASS_OF_COLOUR.get(colour.upper(), 0)
        if tag == "path":
            paths.setdefault((kind, int(filled)), []).append(_shortened(element.get("d", "")))
        elif tag == "ellipse":  # the dots of a radical
            x, y, rx, ry = (float(element.get(name, 0)) for name in ("cx", "cy", "rx", "ry"))
            dot = f"M{x - rx:.1f} {y:.1f}a{rx:.1f} {ry:.1f} 0 1 0 {2 * rx:.1f} 0"
            paths.setdefault((kind, 1), []).append(f"{dot}a{rx:.1f} {ry:.1f} 0 1 0 {-2 * rx:.1f} 0")
        elif tag == "text":
            size = int(float(style["font-size"].removesuffix("px")))
            x, y = float(element.get("x", 0)), float(element.get("y", 0))
            letters.append((x, y, kind, size, element.text or ""))
    return Drawing([(kind, fill, "".join(d)) for (kind, fill), d in paths.items()], letters)


def _shortened(path: str) -> str:
    return (
        path.replace(" L ", "L").replace("M ", "M").replace(" Z", "Z").replace(".0", "")
        .replace(",", " ").strip()
    )  # fmt: skip


def as_svg(smiles: str) -> str:
    """Return a structure as an SVG element; a note where there is none to draw.

    Examples
    --------
    >>> as_svg("CCO")[:60]
    '<svg class="mol" viewBox="0 0 200 140" role="img" aria-label'
    """
    drawing = draw(smiles)
    if drawing is None:
        return '<p class="nomol soft">no structure</p>'
    lines = "".join(
        f'<path class="a{kind}{" f" if filled else ""}" d="{escape(d)}"/>'
        for kind, filled, d in drawing.lines
    )
    letters = "".join(
        f'<text class="a{kind}" x="{x:g}" y="{y:g}" font-size="{size}">{escape(text)}</text>'
        for x, y, kind, size, text in drawing.letters
    )
    return (
        f'<svg class="mol" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="structure of {escape(smiles)}">{lines}{letters}</svg>'
    )


def as_json(smiles: str) -> Sequence[object] | None:
    """Return a structure as lists for the page's script."""
    drawing = draw(smiles)
    return None if drawing is None else [drawing.lines, drawing.letters]
