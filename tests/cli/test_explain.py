"""Pages of mmsa explain: whose they are, and what is known of the nearest molecules."""

import re
from html import unescape

import pandas as pd
import pytest

from deepchem_mmsa.cli.explain import names_and_labels
from deepchem_mmsa.tables import Table


def _text(page):
    """What a reader sees, with a space for each tag."""
    return " ".join(unescape(re.sub("<[^>]+>", " ", page.read_text("utf-8"))).split())


def test_a_page_names_its_row_and_the_measured_labels_of_the_nearest(mmsa, models, tmp_path):
    pytest.importorskip("captum")
    (tmp_path / "hits.csv").write_text(
        "Compound,smiles,logS\nAspirin,CC(=O)Oc1ccccc1C(=O)O,-1.72\n<b>,CCO,\nAspirin,CCN,NA\n"
    )
    (tmp_path / "train.csv").write_text("logS,smiles,ID\n-0.77,CCCO,T-1\n,CCCCO,T-2\n")
    why, model = tmp_path / "why", models["regression"]
    command = ["explain", tmp_path / "hits.csv", "-m", model, "-o", why]
    done = mmsa(*command, "-r", tmp_path / "train.csv")
    assert done.exit_code == 0, done.output
    first, second, third = (_text(why / f"0000{row}.html") for row in (1, 2, 3))
    assert f"Compound: Aspirin · row 1 of hits.csv · logS measured: -1.72 · model {model}" in first
    assert f"Compound: <b> · row 2 of hits.csv · model {model}" in second
    assert f"Compound: Aspirin · row 3 of hits.csv · model {model}" in third
    assert re.search(r"measured -0\.77 predicted \S+ cosine \S+ · row 1 ID: T-1 CCCO", second)
    assert re.search(r"predicted \S+ cosine \S+ · row 2 ID: T-2 CCCCO", second)
    assert second.count("measured ") == 2  # the sentence, and one of the two references


@pytest.mark.parametrize("mode", ["regression", "classification"])
def test_an_index_leads_to_the_pages(mmsa, models, tmp_path, mode):
    pytest.importorskip("captum")
    (tmp_path / "hits.csv").write_text(
        "ID,smiles,logS,status,prediction\n<1>,CCO,-0.5,new,7\nH-2,C1CC,,,\n,CCN,,,\n"
    )
    (tmp_path / "plain.smi").write_text("CCN\n")
    for source in ("hits.csv", "plain.smi", "hits.csv"):
        done = mmsa("explain", tmp_path / source, "-m", models[mode], "-o", tmp_path / source[:4])
        assert done.exit_code == 0, done.output
    page = tmp_path / "hits" / "index.html"
    links = re.findall('href="([^"]+)"', page.read_text("utf-8"))
    assert links == ["00001.html", "00003.html"]
    assert all((tmp_path / "hits" / link).is_file() for link in links)
    of_class = r" \(class 1\)" if mode == "classification" else ""
    measured = "" if of_class else "-0.5 "
    number = r"-?\d\S*"
    assert re.search(
        "2 of 3 rows explained: a prediction leads to its page. row ID measured predicted SMILES "
        f"1 <1> {measured}{number}{of_class} CCO 2 H-2 unreadable: .* C1CC 3 {number}{of_class} "
        "CCN",
        _text(page),
    ), _text(page)
    assert re.search(
        f"name measured predicted SMILES 1 {number}{of_class} CCN deepchem",
        _text(tmp_path / "plai/index.html"),
    )


def test_a_molecule_is_named_by_the_first_text_of_its_row_else_by_a_number():
    cells = {
        "tox": ["1", "0", ""], "smiles": ["C", "CC", "CCC"], "batch": ["7", "8", "9"],
        "id": ["A-1", "NA", "x" * 99],
    }  # fmt: skip
    table = Table(pd.DataFrame(cells), ["C", "CC", "CCC"], "my.csv", "smiles")
    expected = [("id: A-1", "1"), ("batch: 8", "0"), ("id: " + "x" * 80, "")]
    assert names_and_labels(table, "tox") == expected
    typed = pd.DataFrame({"smiles": ["C"], "pIC50": [5.537602001], "id": [None]})
    assert names_and_labels(Table(typed, ["C"], "my.parquet", "smiles"), "pIC50") == [
        ("", "5.5376")
    ]


def test_a_name_is_shown_as_it_is_written_also_a_number():
    cells = {"CID": ["2519123", "0000702", "12_01"], "smiles": ["C"] * 3, "y": ["1.10", "", "1_0"]}
    table = Table(pd.DataFrame(cells), ["C"] * 3, "my.csv", "smiles")
    expected = [("CID: 2519123", "1.1"), ("CID: 0000702", ""), ("CID: 12_01", "1_0")]
    assert names_and_labels(table, "y") == expected
