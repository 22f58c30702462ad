"""Notes on labelled molecules before training."""

import numpy as np
import pytest

from deepchem_mmsa.cli.notes import notes_on, outlier

PART = np.array(["train", "train", "train", "valid", "test", ""])
SMILES = np.array(["CCO", "CCN", "c1ccccc1", "CO", "CCC", "CCO"], dtype=object)


def notes(values, smiles=SMILES, kind="regression", split="random", tested=True, guessed=True):
    labels = {"y": np.asarray(values, dtype=float)}
    return list(notes_on(labels, PART, smiles, kind, split, guessed, tested))


def test_ordinary_data_have_a_summary_only():
    assert notes([1, 2, 3, 4, 5, 1e9]) == [  # the last row takes no part
        "regression of y: 3 train, 1 valid, 1 test molecules (random split)"
    ]


@pytest.mark.parametrize("written", ["OCC", "C(O)C", "[CH3][CH2][OH]"])
def test_a_molecule_of_two_parts_is_named_however_it_is_written(written):
    told = notes([1, 2, 3, 4, 5, 6], np.where(PART == "test", written, SMILES))
    assert len(told) == 2
    assert told[1].startswith("1 of 1 test molecules are in train too (the first is row 5)")


@pytest.mark.parametrize(
    ("trained", "tested"),
    [
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"),
        ("CCCCCCCN", "CCCCCCCN.OC(=O)C(F)(F)F"),
        ("c1ccccc1C(=O)[O-].[Na+]", "c1ccccc1C(=O)O"),
        ("Oc1ccccn1", "O=c1cccc[nH]1"),
    ],
)
def test_another_form_of_a_training_molecule_is_named(trained, tested):
    written = np.where(PART == "test", tested, np.where(SMILES == "CCN", trained, SMILES))
    told = notes([1, 2, 3, 4, 5, 6], written)
    assert len(told) == 2
    assert told[1].startswith("1 of 1 test molecules are in train as another salt, stereoisomer")
    assert "the first is row 5" in told[1]


def test_salts_of_different_molecules_are_different_molecules():
    acid = "CS(=O)(=O)O"  # larger than many counterions
    written = [f"CCOCCCN.{acid}", *SMILES[1:4], f"{acid}.CCCCCCN", SMILES[5]]
    assert len(notes([1, 2, 3, 4, 5, 6], np.array(written, dtype=object))) == 1


def test_contradicting_labels_of_one_molecule_are_named():
    written = np.array(["CCO", "OCC", "CCN", "CO", "CCC", "CCN"], dtype=object)
    told = notes([0, 1, 1, 0, 1, 0], written, kind="classification")  # the last takes no part
    assert len(told) == 2
    assert told[1].startswith("1 label(s) of molecules with several training rows differ; the ")
    assert "first is y, 0 in row 1 and 1 in row 2: correct it" in told[1]
    assert len(notes([0, 0, 1, 0, 1, 0], written, kind="classification")) == 1
    assert len(notes([0, np.nan, 1, 0, 1, 0], written, kind="classification")) == 1


def test_measurements_of_one_molecule_may_scatter():
    written = np.array(["CCO", "OCC", "CCN", "CO", "CCC", "CCN"], dtype=object)
    assert len(notes([1.0, 1.5, 3, 4, 5, 6], written)) == 1
    told = notes([1.0, 4.5, 3, 4, 5, 6], written)
    assert "differ by more than a standard deviation; the first is y, 1 in row 1" in told[1]


def test_a_remote_label_is_named_by_its_row_in_regression_only():
    values = [1, 2, 1e6, 4, 5, 6]
    told = notes(values)
    assert len(told) == 2
    assert "y, row 3: the label 1e+06 is" in told[1]
    assert len(notes(values, kind="classification")) == 1


def test_remoteness_does_not_depend_on_unit_and_origin():
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=200), 100.0)
    row, deviations = outlier(values)
    assert row == 200
    assert 85 < deviations < 120  # robust: the remote label hardly widens the scale
    assert outlier(values * -1e-3 + 7)[0] == 200
    assert outlier(values * -1e-3 + 7)[1] == pytest.approx(deviations)
    assert outlier(values[:200]) is None
    assert outlier(np.full(3, np.nan)) is None
    assert outlier(np.array([1.0, 1.0, 1.0, 5.0])) is None  # no spread to compare with


def test_words_of_classes_are_told_with_their_numbers():
    arguments = ({"y": np.array([0, 1, 0, 1, 0, 1.0])}, PART, SMILES, "classification", "random")
    _, told = notes_on(*arguments, False, True, classes=["active", "inactive"])
    assert told.startswith("class 0 is active, class 1 is inactive (alphabetical;")
    assert told.endswith("pr_auc is that of inactive")
    _, told = notes_on(*arguments, False, True, classes=["high", "low", "medium"])
    assert "class 2 is medium" in told
    assert "pr_auc" not in told


def test_labels_that_are_the_same_in_training_are_told_whatever_the_others_are():
    told = notes([1, 1, 1, 0, 1, 0], kind="classification")
    assert told[1:] == ["the labels of y are all the same in training: there is nothing to learn"]


@pytest.mark.parametrize("tested", [True, False])
def test_a_test_set_is_missed_only_where_it_was_asked_for(tested):
    part = np.where(PART == "test", "train", PART)
    labels = {"y": np.arange(6.0)}
    told = list(notes_on(labels, part, SMILES, "regression", "scaffold", True, tested))
    missed = ["the scaffold split left no row for test: there is no test score"]
    assert told[1:] == (missed if tested else [])
