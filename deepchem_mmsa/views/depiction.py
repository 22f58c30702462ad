"""The image of a molecule: drawing, decoding, and augmentation for training.

An image is stored as a PNG with a fixed palette: white, greys, and a few shades of each colour in
which elements are drawn. That is a quarter of the size of the same drawing in true colour, and
no element loses its colour, as could happen with a palette chosen by frequency.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from deepchem_mmsa.molecule import MAX_IMAGE_SIZE
from deepchem_mmsa.rdkit_state import quiet_legacy

if TYPE_CHECKING:
    import torch

DEFAULT_SIZE = 224
MIN_SIZE, MAX_SIZE = 16, MAX_IMAGE_SIZE
#: The layout of this many takes 4 s, and more atoms give one black spot.
MAX_DRAWN_ATOMS = 1000

# Drawn colours in 0..1; every other element is black.
_BLACK = (0.0, 0.0, 0.0)
_COLOURS: dict[tuple[int, ...], tuple[float, float, float]] = {
    (7,): (0.2, 0.2, 1.0),  # N
    (8,): (1.0, 0.2, 0.2),  # O
    (9, 17): (0.0, 0.8, 0.0),  # F, Cl
    (16, 34): (0.8, 0.8, 0.0),  # S, Se
    (15, 5): (1.0, 0.5, 0.0),  # P, B
    (35,): (0.5, 0.3, 0.1),  # Br
    (53,): (0.63, 0.12, 0.94),  # I
}
# Levels from white to full colour, for black and for each other colour: 19 entries. Where
# hundreds of atoms crowd, every pixel is an edge; without levels in between images stay small.
_LEVELS, _COARSE_LEVELS = (4, 2), (1, 1)
_CROWDED_ATOMS = 150
_GREY = 0.2  # probability of conversion to grey
_TILT, _ZOOM, _SHIFT = 15.0, 0.1, 0.05  # degrees, shares of the side


class DepictionError(ValueError):
    """A molecule could not be drawn; the message is the reason."""


def draw(molecule: Chem.Mol, size: int = DEFAULT_SIZE) -> bytes:
    """Draw a molecule.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        A sanitized molecule; the drawing depends on its atom order. It is not changed.
    size : int, optional
        Pixels per side, 16 to 4096.

    Returns
    -------
    bytes
        PNG of `size` × `size` pixels with a palette, white background.

    Raises
    ------
    DepictionError
        If the molecule is too large, or RDKit cannot lay it out.
    ValueError
        If `size` is out of its range.

    Examples
    --------
    >>> from deepchem_mmsa.views.topology import canonical
    >>> picture = draw(canonical("CC(=O)Oc1ccccc1C(=O)O"))
    >>> decode(picture).shape, len(picture) < 3000
    ((3, 224, 224), True)
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, got {size}")
    text = _drawn(molecule, size).GetDrawingText()
    true_colour = Image.open(io.BytesIO(text), formats=("PNG",)).convert("RGB")
    crowded = molecule.GetNumAtoms() > _CROWDED_ATOMS
    levels = _COARSE_LEVELS if crowded else _LEVELS
    picture = true_colour.quantize(palette=_palette_image(*levels), dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=crowded)
    return out.getvalue()


def decode(picture: bytes, size: int | None = None) -> np.ndarray:
    """Decode a PNG to pixels.

    Parameters
    ----------
    picture : bytes
        A square PNG, of :func:`draw` or any other.
    size : int, optional
        Pixels per side of the result, resampled by area where they differ; by default those of
        the image.

    Returns
    -------
    np.ndarray
        uint8 ``[3, size, size]``, RGB.

    Raises
    ------
    ValueError
        If it is not a PNG, is damaged, not square, or larger than 4096 × 4096 pixels (checked
        before anything is decompressed), or `size` is out of its range.

    Examples
    --------
    >>> decode(b"GIF89a")
    Traceback (most recent call last):
    ...
    ValueError: not a PNG picture
    """
    try:
        image = Image.open(io.BytesIO(picture), formats=("PNG",))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError("not a PNG picture") from None
    width, height = image.size
    if width != height or not 0 < width <= MAX_SIZE:
        raise ValueError(
            f"a picture must be square, up to {MAX_SIZE} pixels, got {width} × {height}"
        )
    try:
        rgb = image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"damaged PNG picture: {error}") from None
    if size is not None and size != width:
        if not 0 < size <= MAX_SIZE:
            raise ValueError(f"size must be 1 to {MAX_SIZE} pixels, got {size}")
        rgb = rgb.resize((size, size), Image.Resampling.BOX)
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def picture_size(picture: bytes) -> int:
    """Return the pixels per side from a PNG's header, without decoding.

    Examples
    --------
    >>> from deepchem_mmsa.views.topology import canonical
    >>> picture_size(draw(canonical("CCO"), 96))
    96
    """
    return int.from_bytes(picture[16:20], "big")


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augment images in ways that do not change the molecule.

    Each image is rotated by up to 15°, scaled by up to 10 %, shifted by up to 5 % of its side,
    and converted to grey (p = 0.2): mild changes, because at prediction every drawing has
    RDKit's canonical orientation. It is never mirrored: with unchanged wedges, the mirror image
    of a drawing depicts the other enantiomer.

    Parameters
    ----------
    images : torch.Tensor
        ``[B, 3, S, S]``, uint8 or floating point, 0..255, white background.
    generator : torch.Generator
        On the CPU. The result depends on the images and on its state only.

    Returns
    -------
    torch.Tensor
        New images, of the shape, type and device of `images`.

    Examples
    --------
    >>> import torch
    >>> white = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    >>> bool((augment(white, torch.Generator().manual_seed(0)) == 255).all())
    True
    """
    import torch
    from torch.nn import functional

    n_images = images.shape[0]
    if n_images == 0:
        return images.clone()
    tilt, zoom, right, down, grey = torch.rand(
        (5, n_images), generator=generator, dtype=torch.float32
    )
    angle = (2 * tilt - 1) * math.radians(_TILT)
    scale = 1 + (2 * zoom - 1) * _ZOOM
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    # affine_grid's coordinates run from -1 to 1 over the side.
    x, y = ((2 * move - 1) * 2 * _SHIFT for move in (right, down))
    rows = [torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)]
    theta = torch.stack(rows, 1).to(images.device)
    # Ink instead of light: the zeros that grid_sample pads with are then white.
    ink = 255.0 - images.float()
    grid = functional.affine_grid(theta, list(ink.shape), align_corners=False)
    ink = functional.grid_sample(ink, grid, padding_mode="zeros", align_corners=False)
    weights = ink.new_tensor([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
    luma = torch.einsum("bchw,c->bhw", ink, weights)[:, None]
    colourless = (grey < _GREY).to(ink.device)[:, None, None, None]
    light = 255.0 - torch.where(colourless, luma.expand_as(ink), ink)
    if images.dtype == torch.uint8:
        return light.round().clamp(0, 255).to(torch.uint8)
    return light.to(images.dtype)


def _drawn(molecule: Chem.Mol, size: int) -> rdMolDraw2D.MolDraw2DCairo:
    """Draw with RDKit, independently of options that were set globally."""
    if molecule.GetNumAtoms() > MAX_DRAWN_ATOMS:
        raise DepictionError(f"{molecule.GetNumAtoms()} atoms; up to {MAX_DRAWN_ATOMS} are drawn")
    copy = Chem.Mol(molecule)
    drawer = rdMolDraw2D.MolDraw2DCairo(size, size)
    options = drawer.drawOptions()
    options.prepareMolsBeforeDrawing = False
    options.setAtomPalette(_atom_palette())
    options.setBackgroundColour((1.0, 1.0, 1.0))
    options.bondLineWidth = 2
    options.padding = 0.05
    with quiet_legacy():
        try:
            # Not the generator that rdDepictor.SetPreferCoordGen may have chosen.
            rdDepictor.Compute2DCoords(copy, canonOrient=True, forceRDKit=True)
            drawer.DrawMolecule(rdMolDraw2D.PrepareMolForDrawing(copy))
            drawer.FinishDrawing()
        except (RuntimeError, ValueError) as error:
            raise DepictionError(f"RDKit cannot draw it: {str(error).strip()[:200]}") from None
    return drawer


@lru_cache(maxsize=1)
def _atom_palette() -> dict[int, tuple[float, float, float]]:
    """Colour of each element; -1 is every other one."""
    palette = {-1: _BLACK, 0: _BLACK, 1: _BLACK, 6: _BLACK}
    for numbers, colour in _COLOURS.items():
        palette.update(dict.fromkeys(numbers, colour))
    return palette


@lru_cache(maxsize=2)
def _palette_image(greys: int, shades: int) -> Image.Image:
    """Palette of every drawn colour and its blends with white, which antialiasing makes."""
    entries = [(255, 255, 255)]
    for colour, levels in [(_BLACK, greys), *((c, shades) for c in _COLOURS.values())]:
        for level in range(1, levels + 1):
            share = level / levels
            red, green, blue = (round(255 * (1 - share * (1 - part))) for part in colour)
            entries.append((red, green, blue))
    image = Image.new("P", (1, 1))
    image.putpalette([part for entry in entries for part in entry])
    return image


def atom_positions(molecule: Chem.Mol, size: int = DEFAULT_SIZE) -> np.ndarray:
    """Return the positions at which :func:`draw` puts the atoms of a molecule.

    Parameters
    ----------
    molecule : rdkit.Chem.Mol
        The molecule as it is given to :func:`draw`.
    size : int, optional
        Pixels per side.

    Returns
    -------
    np.ndarray
        float64 ``[n_atoms, 2]``: x to the right and y downwards, in pixels from the upper left
        corner of the image; the centre of its first pixel is (0.5, 0.5).

    Raises
    ------
    DepictionError
        As :func:`draw`.

    Examples
    --------
    >>> from deepchem_mmsa.views.topology import canonical
    >>> left, right = atom_positions(canonical("CC"), 100)
    >>> bool(left[0] < 50 < right[0]), left[1].round().item()
    (True, 50.0)
    """
    drawer = _drawn(molecule, size)
    points = [drawer.GetDrawCoords(index) for index in range(molecule.GetNumAtoms())]
    return np.array([(point.x, point.y) for point in points]).reshape(-1, 2)
