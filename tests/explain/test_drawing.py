"""Drawings and pages of explanations."""

import copy
import re
import xml.etree.ElementTree
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from rdkit import Chem

from deepchem_mmsa.explain import Explanation, explain, page, read_references
from deepchem_mmsa.explain.drawing import (
    LOWERS,
    RAISES,
    colour,
    draw_contributions,
    draw_saliency,
    signed,
)
from deepchem_mmsa.explain.page import _signed_bar
from deepchem_mmsa.predictor import MMSAPredictor
from tests.explain.small import IBUPROFEN, QUICK, network


def test_drawings_are_svg_and_png(net, tmp_path):
    why = explain(net, IBUPROFEN, **QUICK)
    assert why.maps == ("total", "image", "graph", "geometry")
    for view in why.maps:
        root = xml.etree.ElementTree.fromstring(why.to_svg(view))
        titles = [e.text for e in root.iter("{http://www.w3.org/2000/svg}title")]
        assert len(titles) == 15
        assert titles[4].startswith("C5: ")
    assert Image.open(BytesIO(why.to_png("graph"))).size == (840, 680)
    for ending in ("html", "svg", "png"):
        assert why.save(tmp_path / f"why.{ending}").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"\.html, \.svg or \.png"):
        why.save(tmp_path / "why.pdf")
    import json

    assert json.loads(json.dumps(why.to_dict(), allow_nan=False))["smiles"] == why.smiles


def test_nothing_from_outside_becomes_markup(net):
    evil = "<script>alert(1)</script>"
    own = copy.deepcopy(net)
    own.memory.exemplars = [[(evil, 0.5)]] * int(own.memory.n_active)
    molecule = Chem.MolFromSmiles("CCO")
    for atom in molecule.GetAtoms():
        for name in ("atomNote", "atomLabel", "_displayLabel", "_displayLabelW", "molFileAlias"):
            atom.SetProp(name, evil)
    molecule.GetBondWithIdx(0).SetProp("bondNote", evil)
    molecule.SetProp("_Name", evil)
    page = explain(MMSAPredictor(own, {"tasks": [evil]}), molecule, **QUICK).to_html()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    links = page.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999", "")
    links = links.replace("http://www.rdkit.org/xml", "")
    assert "http" not in links.replace("http-equiv", "")


def test_the_atoms_named_beside_the_drawing_are_numbered_in_it():
    molecule = Chem.MolFromSmiles("CCO")
    values = np.array([0.0, -0.5, 1.0])
    plain, numbered = (
        draw_contributions(molecule, values, numbered=some).decode() for some in ((), (1, 2))
    )
    assert "class='note'" not in plain
    assert numbered.count("class='note'") == 2
    assert not molecule.GetAtomWithIdx(1).HasProp("atomNote")


def test_the_page_tells_what_belongs_to_no_atom():
    net = network(modalities=("graph", "fingerprint"))
    why = explain(net, IBUPROFEN, **QUICK)
    page = why.to_html()
    size = max(abs(why.baseline), abs(why.output), *(abs(v.contribution) for v in why.views))
    described = signed(sum(why.descriptors.values()), size)
    assert f"of it descriptors</span><span></span><span class='num soft'>{described}<" in page
    assert "without the descriptors, which belong to no atom" in page
    assert page.count("class='note'") >= 6
    assert "descriptors" not in explain(network(), "CCO", **QUICK).to_html()


def test_a_page_repeats_no_work_per_atom_and_no_drawing_of_an_anchor(net, monkeypatch):
    sums, drawn = [], []
    add_up = Explanation.total.fget
    monkeypatch.setattr(Explanation, "total", property(lambda w: sums.append(w) or add_up(w)))
    monkeypatch.setattr(page, "draw_plain", lambda molecule: drawn.append(molecule) or "")
    page._picture.cache_clear()
    small, large = (explain(net, smiles, **QUICK) for smiles in ("CCO", IBUPROFEN))
    small.to_html()
    assert (before := len(sums)) > 0
    assert len(drawn) == len({s for a in small.anchors for s, _ in a.exemplars[:3]})
    large.to_html()
    assert len(sums) == 2 * before
    assert len(drawn) == len(
        {s for w in (small, large) for a in w.anchors for s, _ in a.exemplars[:3]}
    )
    page._picture.cache_clear()


def test_what_raises_is_orange_and_what_lowers_purple():
    assert colour(0.5, 0.5) == pytest.approx(RAISES)
    assert colour(-0.5, 0.5) == pytest.approx(LOWERS)
    picture, pixels = np.zeros((3, 2, 2), np.uint8), np.array([[1.0, 0.0], [0.0, -1.0]])
    image = np.asarray(Image.open(BytesIO(draw_saliency(picture, pixels, quantile=1, side=2))))
    for place, expected in ((0, RAISES), (1, LOWERS)):
        np.testing.assert_allclose(image[place, place] / 255, expected, atol=0.01)


def test_bars_point_to_their_side_and_references_have_their_rows(net):
    assert "class='minus' style='left:25.0%;width:25.0%'" in _signed_bar(-0.5, 1)
    assert "class='plus' style='left:50.0%;width:25.0%'" in _signed_bar(0.5, 1)
    page = explain(net, "CCO", references=["CCN"], **QUICK).to_html()
    assert " · row 1</span>" in page
    with pytest.raises(ValueError, match="1 labels for 2 molecules"):
        read_references(net, ["CCN", "CCC"], labels=["1"])


def test_the_sum_on_the_page_is_that_of_its_rows(net):
    """What the integral misses, too."""
    why = explain(net, IBUPROFEN, **QUICK)
    why.output, why.residual = why.output + 0.1, why.residual + 0.1
    size = max(abs(why.baseline), abs(why.output), *(abs(v.contribution) for v in why.views))
    page = why.to_html()
    box = page[page.index("How it adds up") : page.index("Atoms that matter most")]
    shown = [float(t.replace("−", "-")) for t in re.findall(r"class='num[^>]*>([+−\d.]+)<", box)]
    assert len(shown) == 2 + len(why.views) + 1
    rounding = 0.5 * 10 ** (np.floor(np.log10(size)) - 2)  # three digits of the largest
    assert abs(sum(shown[:-1]) - shown[-1]) <= len(shown) * rounding
    why.residual = 0.0
    assert "<span class='soft'>integration error" not in why.to_html()


def test_every_drawing_says_in_words_what_it_shows(net):
    why = explain(net, "CCO", references=["CCN"], **QUICK)
    page = why.to_html()
    assert page.count("<svg role='img' aria-label='structure") == page.count("<svg ") > 5
    largest = int(np.abs(why.total).argmax())
    atom = f"{'CCO'[largest]}{largest + 1}: {signed(why.total[largest])}"
    assert f"aria-label='structure with contributions, the largest {atom}" in page


def test_no_colour_but_those_of_the_contributions():
    crowded = Chem.MolFromSequence("W" * 20)  # its drawing overlaps
    values = np.zeros(crowded.GetNumAtoms())
    drawing = draw_contributions(crowded, values).decode()
    assert set(re.findall("#[0-9A-F]{6}", drawing)) <= {"#000000", "#FFFFFF"}
