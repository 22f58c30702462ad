"""Pictures: deterministic, small, coloured by element, safe to decode."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdDepictor

from deepchem_mmsa.views.depiction import (
    _COLOURS,
    MAX_DRAWN_ATOMS,
    DepictionError,
    augment,
    decode,
    draw,
)
from deepchem_mmsa.views.topology import canonical
from tests.conftest import DRUGS
from tests.views.test_topology import rewritten


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(DRUGS), st.integers(0, 2**31))
def test_writing_does_not_matter(smiles, seed):
    assert draw(canonical(smiles)) == draw(canonical(rewritten(smiles, seed)))


def test_global_drawing_state_does_not_matter():
    molecule = canonical(DRUGS[4])
    expected = draw(molecule)
    before = rdDepictor.GetPreferCoordGen()
    rdDepictor.SetPreferCoordGen(True)
    try:
        assert draw(molecule) == expected
    finally:
        rdDepictor.SetPreferCoordGen(before)
    with_conformer = Chem.Mol(molecule)
    rdDepictor.Compute2DCoords(with_conformer, canonOrient=False)
    assert draw(with_conformer) == expected
    assert with_conformer.GetNumConformers() == 1  # and is not changed


def test_pictures_are_small_white_and_palette():
    for smiles in DRUGS:
        picture = draw(canonical(smiles))
        assert len(picture) < 4000
        image = Image.open(io.BytesIO(picture))
        assert image.mode == "P"
        assert image.size == (224, 224)
        pixels = decode(picture)
        assert pixels.dtype == np.uint8
        assert (pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
        assert 0.001 < (pixels.min(axis=0) < 128).mean() < 0.3


@pytest.mark.parametrize("number", [n for numbers in _COLOURS for n in numbers])
def test_each_element_keeps_its_colour(number):
    symbol = Chem.GetPeriodicTable().GetElementSymbol(number)
    # One such atom in a molecule of forty carbons: a palette by frequency would lose it.
    pixels = decode(draw(canonical("C" * 20 + f"C([{symbol}])" + "C" * 20)))
    colour = next(np.array(c) for numbers, c in _COLOURS.items() if number in numbers)
    distance = np.abs(pixels.transpose(1, 2, 0) - np.round(colour * 255)).max(axis=-1)
    assert (distance <= 2).sum() >= 1


def test_stereo_is_drawn():
    assert draw(canonical("C[C@H](N)C(=O)O")) != draw(canonical("C[C@@H](N)C(=O)O"))
    assert draw(canonical("F/C=C/Cl")) != draw(canonical("F/C=C\\Cl"))


@pytest.mark.parametrize("smiles", ["[Na+].[Cl-]", "[Fe]", "*", "[H][H]", "[CH3]", "C->[Fe]<-C"])
def test_unusual_species(smiles):
    assert (decode(draw(canonical(smiles), 64)) < 255).any()


def test_a_ring_without_a_kekule_form_is_drawn_as_aromatic():
    ring = Chem.MolFromSmiles("c1cccc1", sanitize=False)
    ring.UpdatePropertyCache(strict=False)
    assert (decode(draw(ring, 64)) < 255).any()


def test_five_hundred_atoms_are_drawn_and_too_many_are_refused():
    peptide = canonical("NCC(=O)" * 125 + "O")
    assert peptide.GetNumAtoms() == 501
    assert len(draw(peptide)) < 6000
    with pytest.raises(DepictionError, match="up to 1000 are drawn"):
        draw(canonical("C" * (MAX_DRAWN_ATOMS + 1)))


def test_decode_resamples_by_area():
    picture = draw(canonical(DRUGS[0]))
    full, half = decode(picture).astype(float), decode(picture, 112)
    assert half.shape == (3, 112, 112)
    blocks = full.reshape(3, 112, 2, 112, 2).mean(axis=(2, 4))
    assert np.abs(blocks - half).max() <= 1
    assert decode(picture, 300).shape == (3, 300, 300)
    assert decode(draw(canonical("CC"), 96)).shape == (3, 96, 96)


def _png(width, height, body):
    """A PNG whose header claims a size."""

    def chunk(name, data):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_bombs_and_damage_are_refused():
    bomb = zlib.compress(b"\0" * 10_000_000, 9)
    for width, height in [(100_000, 100_000), (60_000, 60_000), (5000, 5000)]:
        with pytest.raises(ValueError, match=r"square, up to 4096|not a PNG"):
            decode(_png(width, height, bomb))
    with pytest.raises(ValueError, match="square"):
        decode(_png(10, 20, bomb))
    good = draw(canonical(DRUGS[0]))
    for bad in (b"", b"GIF89a", good[:40], good[: len(good) // 2]):
        with pytest.raises(ValueError, match="PNG"):
            decode(bad)
    with pytest.raises(ValueError, match="size must be"):
        draw(canonical("C"), 5000)
    with pytest.raises(ValueError, match="size must be"):
        decode(good, 0)


def _batch(n=6, size=64):
    return torch.from_numpy(np.stack([decode(draw(canonical(s)), size) for s in DRUGS[:n]]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_is_a_function_of_its_seed(dtype):
    images = _batch().to(dtype)
    kept = images.clone()
    first = augment(images, torch.Generator().manual_seed(3))
    again = augment(images, torch.Generator().manual_seed(3))
    other = augment(images, torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, kept)
    assert first.dtype == dtype
    assert first.shape == images.shape
    assert float(first.float().min()) >= 0
    assert float(first.float().max()) <= 255


def test_augmentation_keeps_the_ink_and_sometimes_drops_colour():
    images = _batch(6).repeat(20, 1, 1, 1)
    changed = augment(images, torch.Generator().manual_seed(0)).float()
    before = (255 - images.float()).mean(dim=(1, 2, 3))
    after = (255 - changed).mean(dim=(1, 2, 3))
    # A picture may lose what a turn moves out of the frame, and colours weigh differently.
    assert ((after / before - 1).abs() < 0.5).all()
    grey = (changed[:, 0] - changed[:, 1]).abs().amax(dim=(1, 2)) < 1.5
    coloured = (images[:, 0].float() - images[:, 1].float()).abs().amax(dim=(1, 2)) > 30
    assert 0.05 < grey[coloured].float().mean() < 0.45


def test_augmentation_of_nothing():
    empty = torch.zeros((0, 3, 8, 8), dtype=torch.uint8)
    assert augment(empty, torch.Generator()).shape == (0, 3, 8, 8)


def test_augmentation_never_mirrors():
    """The mirror image of a drawing is another enantiomer: what is in a corner stays in it."""
    images = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    images[:, :, 4:12, 4:12] = 0
    ink = 255 - augment(images, torch.Generator().manual_seed(0)).float().sum(1) / 3
    assert (ink[:, :16, :16].sum((1, 2)) > 0.9 * ink.sum((1, 2))).all()
