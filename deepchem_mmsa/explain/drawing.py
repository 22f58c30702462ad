"""Molecules drawn by RDKit, with contributions as colours on their atoms and bonds."""

from __future__ import annotations

import io
from collections.abc import Iterable
from html import escape

import numpy as np
from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from deepchem_mmsa.rdkit_state import quiet_legacy

__all__ = ["LOWERS", "RAISES", "colour", "draw_contributions", "draw_plain", "draw_saliency"]

# Distinct with any colour vision, and black letters are legible on both (ColorBrewer PuOr).
RAISES = (0.945, 0.510, 0.078)
LOWERS = (0.545, 0.490, 0.745)
_FAINT = 0.02  # share of the scale below which nothing is coloured
_SAID = 5  # atoms that the alternative text names
_RADIUS = (0.22, 0.42)  # of an atom's disc, in bond lengths of 1.5: faint to full


def colour(value: float, scale: float) -> tuple[float, float, float]:
    """Return the colour of a contribution: white at 0, full at `scale`.

    Examples
    --------
    >>> colour(0.0, 1.0), colour(2.0, 1.0) == colour(1.0, 1.0)
    ((1.0, 1.0, 1.0), True)
    """
    share = min(abs(value) / scale, 1.0) if scale > 0 else 0.0
    full = RAISES if value > 0 else LOWERS
    red, green, blue = (1 - share * (1 - part) for part in full)
    return red, green, blue


def draw_contributions(
    molecule: Chem.Mol,
    atoms: np.ndarray,
    bonds: np.ndarray | None = None,
    scale: float | None = None,
    width: int = 420,
    height: int = 340,
    form: str = "svg",
    numbered: Iterable[int] = (),
) -> bytes:
    """Draw a molecule whose atoms and bonds are coloured by their contributions.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        Not changed; its notes and labels are not drawn.
    atoms : np.ndarray
        ``[n_atoms]``.
    bonds : np.ndarray, optional
        ``[n_bonds]``; none is coloured by default.
    scale : float, optional
        Size of contribution that gets full colour; by default the largest one.
    width, height : int
        Pixels.
    form : {"svg", "png"}
    numbered : iterable of int
        Atoms, from 0, beside which their number is written, from 1.

    Returns
    -------
    bytes
        In the SVG each coloured atom and bond has a ``<title>``, which browsers show on hovering.

    Raises
    ------
    ValueError
        If there is not one contribution per atom and bond, or `form` is unknown.

    Examples
    --------
    >>> ethanol = Chem.MolFromSmiles("CCO")
    >>> svg = draw_contributions(ethanol, np.array([0.0, -0.5, 1.0])).decode()
    >>> "<title>O3: +1</title>" in svg, "<title>C2: −0.5</title>" in svg
    (True, True)
    """
    bonds = np.zeros(molecule.GetNumBonds()) if bonds is None else bonds
    given, expected = (len(atoms), len(bonds)), (molecule.GetNumAtoms(), molecule.GetNumBonds())
    if given != expected:
        raise ValueError(
            f"{given[0]} and {given[1]} contributions for {expected[0]} atoms and {expected[1]} "
            "bonds: give one per atom and bond, in the molecule's order"
        )
    if scale is None:
        scale = float(np.abs(np.concatenate([atoms, bonds])).max(initial=0.0))
    marked = [i for i, v in enumerate(atoms.tolist()) if abs(v) > _FAINT * scale]
    lined = [i for i, v in enumerate(bonds.tolist()) if abs(v) > _FAINT * scale]
    drawer = _drawer(width, height, form)
    prepared = _prepared(molecule)
    for i in numbered:
        prepared.GetAtomWithIdx(i).SetProp("atomNote", str(i + 1))
    small, large = _RADIUS
    with quiet_legacy():
        drawer.DrawMolecule(
            prepared,
            highlightAtoms=marked,
            highlightAtomColors={i: colour(atoms[i], scale) for i in marked},
            highlightAtomRadii={
                i: small + (large - small) * min(abs(atoms[i]) / scale, 1.0) for i in marked
            },
            highlightBonds=lined,
            highlightBondColors={i: colour(bonds[i], scale) for i in lined},
        )
    spots = [
        (drawer.GetDrawCoords(i), f"{a.GetSymbol()}{i + 1}: {signed(atoms[i])}")
        for i, a in enumerate(molecule.GetAtoms())
    ]
    drawer.FinishDrawing()
    if form == "png":
        return drawer.GetDrawingText()
    # Titles on transparent discs over the drawing: shown on hovering, without a script.
    discs = [
        f"<circle cx='{p.x:.1f}' cy='{p.y:.1f}' r='11' fill='#fff' fill-opacity='0'>"
        f"<title>{text}</title></circle>"
        for p, text in spots
    ]
    largest = np.argsort(-np.abs(atoms), kind="stable")[:_SAID].tolist()
    said = ", ".join(f"{spots[i][1]}" for i in largest)
    svg = _bare(drawer, f"structure with contributions, the largest {said}")
    end = svg.rindex("</svg>")
    return (svg[:end] + "\n".join(discs) + "\n</svg>\n").encode("utf-8")


def draw_plain(molecule: Chem.Mol, width: int = 170, height: int = 120) -> str:
    """Draw a molecule without contributions, as SVG."""
    drawer = _drawer(width, height, "svg")
    with quiet_legacy():
        drawer.DrawMolecule(_prepared(molecule))
    drawer.FinishDrawing()
    return _bare(drawer, f"structure of {Chem.MolToSmiles(molecule)}")


def draw_saliency(
    picture: np.ndarray, pixels: np.ndarray, quantile: float = 0.995, side: int = 336
) -> bytes:
    """Overlay the contributions of pixels on the image that the network saw.

    Parameters
    ----------
    picture : np.ndarray
        uint8 ``[3, S, S]``.
    pixels : np.ndarray
        ``[S, S]``.
    quantile : float
        Quantile of the non-zero sizes that gets full colour, so that a few extreme pixels do
        not set the scale.
    side : int
        Minimum pixels per side; the image is enlarged by an integer factor.

    Returns
    -------
    bytes
        PNG.
    """
    light = picture.astype(np.float64).mean(axis=0) / 255
    ground = np.repeat((0.78 + 0.22 * light)[..., None], 3, axis=2)
    sizes = np.abs(pixels)
    scale = float(np.quantile(sizes[sizes > 0], quantile)) if (sizes > 0).any() else 1.0
    share = np.clip(sizes / scale, 0, 1)[..., None] ** 0.6
    full = np.where((pixels > 0)[..., None], np.array(RAISES), np.array(LOWERS))
    blended = (1 - share) * ground + share * full
    image = Image.fromarray((255 * blended).round().astype(np.uint8))
    factor = max(1, -(-side // len(pixels)))
    image = image.resize((factor * len(pixels),) * 2, Image.Resampling.NEAREST)
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return out.getvalue()


def signed(value: float, scale: float | None = None) -> str:
    """Format a contribution with its sign.

    Parameters
    ----------
    value : float
    scale : float, optional
        Largest of the numbers shown together: all get the decimals that show three digits of
        that one. By default, three significant digits of `value`.

    Examples
    --------
    >>> signed(0.12345), signed(-2.0), signed(0.0), signed(0.00123, scale=0.5)
    ('+0.123', '−2', '0', '+0.001')
    """
    if scale is None:
        text = f"{value:+.3g}"
    else:
        digits = int(np.floor(np.log10(scale))) if scale > 0 else 0
        text = f"{value:+.{min(max(2 - digits, 0), 9)}f}"
    return text.replace("-", "−") if float(text) else "0"


def _bare(drawer: rdMolDraw2D.MolDraw2DSVG, label: str) -> str:
    """Return the drawing as an element of a page; screen readers say `label`."""
    svg = drawer.GetDrawingText()
    named = f"<svg role='img' aria-label='{escape(label)}'"
    return svg[svg.index("<svg") :].replace("<svg", named, 1)


def _drawer(width: int, height: int, form: str) -> rdMolDraw2D.MolDraw2D:
    if form not in ("svg", "png"):
        raise ValueError(f"form={form!r}: choose 'svg' or 'png'")
    make = rdMolDraw2D.MolDraw2DSVG if form == "svg" else rdMolDraw2D.MolDraw2DCairo
    drawer = make(width, height)
    options = drawer.drawOptions()
    options.useBWAtomPalette()  # colour is reserved for contributions
    options.prepareMolsBeforeDrawing = False
    options.bondLineWidth = 2 if form == "svg" else 3
    options.highlightBondWidthMultiplier = 9
    options.fixedBondLength = width / 8.5
    options.padding = 0.06
    options.annotationFontScale = 0.65  # numbers of atoms stay legible in large molecules
    options.flagCloseContactsDist = -1  # its red boxes would look like contributions
    options.clearBackground = form == "png"
    return drawer


def _prepared(molecule: Chem.Mol) -> Chem.Mol:
    """Copy without notes, labels and old coordinates, laid out and ready for drawing."""
    copy = Chem.Mol(molecule)
    for part in (copy, *copy.GetAtoms(), *copy.GetBonds()):
        for name in part.GetPropNames(includePrivate=True, includeComputed=False):
            part.ClearProp(name)
    for atom in copy.GetAtoms():
        atom.SetAtomMapNum(0)
    with quiet_legacy():
        if copy.NeedsUpdatePropertyCache():
            Chem.SanitizeMol(copy)
        copy.RemoveAllConformers()
        rdDepictor.Compute2DCoords(copy, canonOrient=True, forceRDKit=True)
        return rdMolDraw2D.PrepareMolForDrawing(copy, addChiralHs=False)
