"""Structures: all of RDKit's marks arrive, in the page's own classes, and small."""

import json
from xml.etree import ElementTree

from rdkit import Chem

from deepchem_mmsa.report.structures import as_json, as_svg, draw
from tests.report.conftest import EVIL


def test_drugs_are_drawn_small_and_in_classes_only(drugs):
    sizes = []
    for smiles in drugs:
        svg = as_svg(smiles)
        root = ElementTree.fromstring(svg)
        assert {e.tag for e in root} <= {"path", "text"}
        assert all(e.get("class").split()[0] in {f"a{i}" for i in range(6)} for e in root)
        assert "#" not in svg.replace(smiles, "").replace("&#", "")
        sizes.append(len(json.dumps(as_json(smiles))))
        molecule = Chem.MolFromSmiles(smiles)
        bonds = sum(d.count("M") for _, _, d in draw(smiles).lines)
        assert bonds >= molecule.GetNumBonds()
    assert sorted(sizes)[len(sizes) // 2] < 2500


def test_heteroatoms_have_their_colours():
    letters = {text: kind for *_, kind, _, text in draw("NCCS(=O)c1ccc(Cl)cc1").letters}
    assert (letters["N"], letters["O"], letters["S"], letters["C"], letters["l"]) == (1, 2, 3, 4, 4)


def test_radicals_and_charges_are_drawn():
    assert any(filled for _, filled, _ in draw("C[CH2]").lines)
    assert {"+", "-"} <= {text for *_, text in draw("C[N+](C)(C)CC(=O)[O-]").letters}


def test_what_is_no_molecule_is_no_structure():
    for text in ("C1CC", "", EVIL, f"CC |${EVIL}$|"[3:]):
        assert draw(text) is None
        assert "<script" not in as_svg(text)
    # Labels that travel with a SMILES are not drawn.
    assert draw(f"CC* |$;;{EVIL}$|") == draw("CC*")
