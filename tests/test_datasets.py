"""Data sets: example molecules, and molecules kept apart."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa import MMSAFeaturizer
from deepchem_mmsa.datasets import (
    connectivity,
    dataset_from_csv,
    dataset_from_shards,
    dataset_from_smiles,
    example_table,
    shared_rows,
    without_shared,
)
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.views import ViewSettings
from tests.conftest import DRUGS
from tests.fixtures import SMILES


@pytest.mark.parametrize(
    "name, rows, column",
    [
        ("freesolv", 642, "expt"),
        ("solubility", 1282, "log_solubility"),
        ("chembl_samples", 2000, None),
        ("chembl_drugs", 3064, None),
    ],
)
def test_example_tables_are_whole(name, rows, column):
    table = example_table(name)
    assert len(table) == rows
    assert table["smiles"].notna().all()
    if column:
        assert np.isfinite(table[column]).all()


def test_unknown_example():
    with pytest.raises(ValueError, match="no example data 'tox'.*freesolv"):
        example_table("tox")


@settings(max_examples=30, deadline=None)
@given(reference=st.sets(st.sampled_from(DRUGS)), others=st.sets(st.sampled_from(SMILES)))
def test_nothing_shared_is_kept_and_nothing_else_is_dropped(reference, others):
    kept, dropped = without_shared(others, reference)
    assert sorted(kept + dropped) == sorted(others)
    taken = {connectivity(s) for s in reference}
    assert not taken & {connectivity(s) for s in kept}
    again, lost = without_shared(kept, reference)
    assert (again, lost) == (kept, [])


def test_stereoisomers_and_salts_are_the_same_molecule():
    kept, dropped = without_shared(
        ["C[C@H](N)C(=O)O", "Cl.CCN(CC)CCOC", "Cl.CCCCCCO", "not a molecule"],
        ["C[C@@H](N)C(=O)O", "CCN(CC)CCOC"],
    )
    assert dropped == ["C[C@H](N)C(=O)O", "Cl.CCN(CC)CCOC"]
    assert kept == ["Cl.CCCCCCO", "not a molecule"]


def test_every_row_stays():
    with pytest.warns(UserWarning, match="row 1"):
        data = dataset_from_smiles(
            ["CCO", "C1CC", "CCN"], MMSAFeaturizer("graph"), [1.0, 2.0, np.nan]
        )
    assert [r.available for r in data.X] == [("graph",), (), ("graph",)]
    assert data.w[:, 0].tolist() == [1, 1, 0]
    assert data.ids.tolist() == ["CCO", "C1CC", "CCN"]


@pytest.mark.parametrize(
    "text, tasks, message",
    [
        ("", [], "is empty; it needs a row per molecule"),
        ("smiles,y\n", [], "has no row; it needs a row per molecule"),
        ("SMILES,y\nCCO,1\n", [], "no column 'smiles'; did you mean 'SMILES'.*are: SMILES, y"),
        ("smiles,y\nCCO,1\nCCN,inf\n", ["y"], "row 1, column 'y': 'inf' is not a finite number"),
        ("smiles,y\nCCO,1\nCCN,2,3\n", ["y"], "line 3 has 3 cells, its header 2"),
        ("smiles,y\nCCO,1\n", ["z"], "no column 'z'"),
        (
            "smiles,y\nCCO,1\nCCN,high\n",
            ["y"],
            "row 1, column 'y': 'high' is not a number; write classes as 0 and 1",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, text, tasks, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        dataset_from_csv(path, MMSAFeaturizer("graph"), tasks=tasks)


def test_parquet_under_another_name_is_told(tmp_path):
    pd.DataFrame({"smiles": ["CCO"]}).to_parquet(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"a\.csv is Parquet, not csv: use"):
        dataset_from_csv(tmp_path / "a.csv", MMSAFeaturizer("graph"))


@pytest.mark.parametrize("made", [dataset_from_smiles, dataset_from_shards])
def test_labels_that_are_no_numbers_are_refused_alike(made, tmp_path):
    smiles = ["CCO", "CCN"]

    def dataset(y):
        if made is dataset_from_smiles:
            return dataset_from_smiles(smiles, MMSAFeaturizer("graph"), y)
        return dataset_from_shards(shards, y)

    shards = featurize_to_shards(smiles, tmp_path / "shards", ViewSettings(("graph",)), 2)
    with pytest.raises(ValueError, match="dates or durations"):
        dataset(pd.Series(["2020-01-01", "2021-01-01"], dtype="datetime64[ns]"))
    with pytest.raises(ValueError, match="row 1, column 0: '<10' is not a number; a limit"):
        dataset([1.5, "<10"])
    assert dataset(pd.Series([3, None], dtype="Int64")).w[:, 0].tolist() == [1, 0]


def test_one_task_needs_no_list(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,logS,l\nCCO,1,2\n")
    data = dataset_from_csv(path, MMSAFeaturizer("graph"), tasks="logS")
    assert data.y.tolist() == [[1.0]]


def test_an_empty_cell_is_no_molecule_to_compare():
    assert without_shared(["CCO", np.nan, None], ["OCC", None]) == ([np.nan, None], ["CCO"])


def test_blank_and_broken_rows_keep_their_place(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,y\nCCO,1\n\nC1CC,2\nCCN,\n")
    with pytest.warns(UserWarning, match="2 of 4 rows cannot be read"):
        data = dataset_from_csv(path, MMSAFeaturizer("graph"), tasks=["y"])
    assert [bool(r.available) for r in data.X] == [True, False, False, True]
    assert data.w[:, 0].tolist() == [1, 0, 1, 0]


def test_an_infinite_label_stays_what_it_is_and_is_refused_in_training(make_model):
    data = dataset_from_smiles(SMILES[:3], MMSAFeaturizer(("graph",)), [1.0, np.inf, np.nan])
    assert data.y[:, 0].tolist() == [1.0, np.inf, 0.0]
    assert data.w[:, 0].tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match=r"inf in row 1 .*labels must be finite"):
        make_model(mode="regression").fit(data)


def test_molecules_may_come_from_an_iterator_but_not_from_one_text():
    for y in (None, [1, 2]):
        data = dataset_from_smiles(iter(["OCC", "CCN"]), MMSAFeaturizer("graph"), y)
        assert [r.smiles for r in data.X] == ["CCO", "CCN"]
        assert data.ids.tolist() == ["OCC", "CCN"]
        with pytest.raises(TypeError, match=r"not one text: \['CCO'\]"):
            dataset_from_smiles("CCO", MMSAFeaturizer("graph"), y)


@pytest.mark.parametrize("y", [[1, 2, 3, 4], [[1, 2, 3]], 1.0])
def test_labels_that_do_not_fit_are_refused(y):
    with pytest.raises(ValueError, match=r"rows of labels for 2 molecules: give y as \[N\]"):
        dataset_from_smiles(["CCO", "CCN"], MMSAFeaturizer("graph"), y)


@pytest.mark.parametrize("encoding, end", [("utf-8", ""), ("utf-8", ","), ("utf-16", "")])
def test_columns_stay_where_they_are_whatever_ends_a_line(tmp_path, encoding, end):
    path = tmp_path / "a.csv"
    text = f"id,smiles,raw,y,note\nA,CCO,C,1,7{end}\nB,CCN,N,2,8{end}\n"
    path.write_text(text, encoding=encoding)
    data = dataset_from_csv(path, MMSAFeaturizer("graph"), tasks=["y"])
    assert data.ids.tolist() == ["CCO", "CCN"]
    assert data.y[:, 0].tolist() == [1, 2]


def test_molecules_without_an_inchi_are_known_too():
    assert without_shared(["*CCO", "*CCN"], ["OCC*"]) == (["*CCN"], ["*CCO"])
    assert without_shared(["*[C@H](N)C"], ["*[C@@H](N)C"]) == ([], ["*[C@H](N)C"])


@settings(max_examples=30, deadline=None)
@given(st.permutations(["CCCO", "C[C@H](N)F", "*CCN", "[Na+]"]), st.booleans())
def test_the_order_of_components_does_not_matter(parts, mirrored):
    """Where several are the largest, and one is a mirror image, too."""
    written = ".".join(parts)
    smiles = np.array(["[Na+].C[C@H](N)F.CCCO.*CCN", written.replace("@", "@" * (1 + mirrored))])
    train = np.array([True, False])
    assert shared_rows(smiles, train, ~train, forms=True) == [1]
    assert shared_rows(smiles, train, ~train) == ([] if mirrored else [1])


def test_mirror_images_are_two_molecules():
    smiles = np.array(["C[C@H](N)O", "C[C@@H](N)O"])
    train = np.array([True, False])
    assert shared_rows(smiles, train, ~train) == []
