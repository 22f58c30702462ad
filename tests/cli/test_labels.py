"""Labels of a table: which column they are, what they mean, and which part a row goes to."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from deepchem_mmsa.cli.console import ExitCode, Failure
from deepchem_mmsa.cli.labels import (
    check_split,
    guessed_label,
    label_kind,
    read_labels,
    split_rows,
)
from deepchem_mmsa.cli.scores import average_precision
from deepchem_mmsa.tables import Table, TableError
from tests.fixtures import SMILES


def tabled(**columns):
    frame = pd.DataFrame(columns)
    return Table(frame, frame["smiles"].tolist(), "data.csv", "smiles")


def test_labels_may_be_truth_values_and_missing():
    table = tabled(smiles=["C"] * 4, y=["True", "false", "", "1"], z=["0.5", "NA", "2", "3"])
    y, classes = read_labels(table, ["y", "z"])
    assert classes is None
    assert np.array_equal(y, [[1, 0.5], [0, np.nan], [np.nan, 2], [1, 3]], equal_nan=True)
    with pytest.raises(TableError, match="has no column 'q'"):
        read_labels(table, ["q"])


@pytest.mark.parametrize(
    ("labels", "mode", "kind"),
    [
        ([0, 1, 1], "auto", ("classification", 2)),
        ([0, 1, 2], "auto", ("regression", 2)),
        ([0, 1, 2], "classification", ("classification", 3)),
        ([0, 1, np.nan], "regression", ("regression", 2)),
    ],
)
def test_the_kind_of_labels_is_guessed_unless_said(labels, mode, kind):
    assert label_kind(np.array(labels, dtype=float)[:, None], mode) == kind


@pytest.mark.parametrize(
    ("labels", "absent"), [([1, 2, 2], "0"), ([0, 2, 2], "1"), ([0, 1, 3, 3], "2")]
)
def test_classes_that_nothing_belongs_to_are_refused(labels, absent):
    with pytest.raises(Failure, match=f"no label is {absent}, .* from 0 without gaps"):
        label_kind(np.array(labels, dtype=float)[:, None], "classification")


@pytest.mark.parametrize("split", ["random", "scaffold"])
def test_a_split_places_each_usable_row_once(split):
    table = tabled(smiles=SMILES)
    usable = np.arange(len(SMILES)) % 10 != 0
    ids = np.array(SMILES, dtype=object)
    parts = split_rows(table, ids, usable, split, 0.2, 0.2, 0)
    assert ((parts != "") == usable).all()
    shares = [(parts == p).sum() / usable.sum() for p in ("train", "valid", "test")]
    assert np.allclose(shares, [0.6, 0.2, 0.2], atol=0.05)
    assert (split_rows(table, ids, usable, split, 0.2, 0.2, 0) == parts).all()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": [1, 2, 3, 4], "pIC50": ["5.1", ">5", "6", "7.5"]}, "row 2, column 'pIC50': '>5'"),
        (
            {"id": [1, 2, 3, 4], "active": ["yes", "no", "no", "yes"]},
            "different whole number in ev",
        ),
        ({"a": [1, 2, 2, 4], "b": [0, 1, 0, 1]}, "2 columns hold numbers"),
        ({"logS": ["0,5", "1,5", "2,5", ""]}, "no column does: data.csv, row 1, column 'logS'"),
        ({"name": ["a", "b", "c", "d"]}, "Its columns are: smiles, name"),
        ({"a, b": ["a", "b", "c", "d"]}, "Its columns are: smiles, 'a, b'"),
    ],
)
def test_a_label_is_guessed_only_where_nothing_else_can_be_meant(columns, words):
    """One cell that is no number must not make a label of the column beside it."""
    with pytest.raises(Failure) as caught:
        guessed_label(tabled(smiles=["C", "CC", "CCC", "CCCC"], **columns), "scaffold")
    assert words in str(caught.value)
    assert "--label" in str(caught.value)


def test_the_only_column_of_numbers_is_the_label():
    lists = [np.zeros(2), None, np.ones(2)]  # of Parquet
    table = tabled(
        smiles=["C", "CC", "CCC"], name=["a", "b", "1"], bits=lists, y=["0.5", "", "2"]
    )  # fmt: skip
    assert guessed_label(table, "scaffold") == "y"


def test_only_whole_numbers_are_taken_for_those_of_rows():
    for cells, label in ((["7", "2.5", "3"], True), (["7", "2"], True), (["7", "2", "3"], False)):
        table = tabled(smiles=["C"] * len(cells), y=cells)
        if label:
            assert guessed_label(table, "scaffold") == "y"
        else:
            with pytest.raises(Failure, match="like a row number"):
                guessed_label(table, "scaffold")


def test_the_column_of_the_split_is_not_blamed_for_a_label_that_cannot_be_read():
    table = tabled(smiles=["C", "CC"], part=["train", "test"], logS=["0,5", "1,5"])
    with pytest.raises(Failure, match="no column does: data.csv, row 1, column 'logS'"):
        guessed_label(table, "part")


def test_a_label_given_twice_is_refused():
    with pytest.raises(Failure, match="--label y is given twice"):
        read_labels(tabled(smiles=["C"], y=["1"]), ["y", "y"])


def test_more_classes_than_labels_are_a_slip():
    with pytest.raises(Failure, match="row 3: the label 1e\\+07 means 10000001 classes"):
        label_kind(np.array([[0.0], [1.0], [1e7]]), "classification")


@pytest.mark.parametrize("n_classes", [2, 3])
def test_average_precision_is_that_of_scikit_learn(n_classes):
    rng = np.random.default_rng(n_classes)
    y, p = rng.integers(0, n_classes, 40), rng.dirichlet(np.ones(n_classes), 40)
    by_class = [average_precision_score(y == c, p[:, c]) for c in range(n_classes)]
    expected = by_class[1] if n_classes == 2 else np.mean(by_class)
    assert average_precision(np.eye(n_classes)[y], p) == pytest.approx(expected)


def test_a_column_says_each_rows_part_whatever_is_unusable_before_it():
    given = ["train", "test", "Train ", "valid", "VAL", "train", "test"]
    table = tabled(smiles=["C"] * 7, part=given)
    usable = np.array([False, True, True, True, False, True, True])
    parts = split_rows(table, np.array(["C"] * 7, dtype=object), usable, "part", 0.1, 0.1, 0)
    assert parts.tolist() == ["", "test", "train", "valid", "", "train", "test"]
    table.frame.loc[5, "part"] = "training"
    with pytest.raises(Failure, match="row 6, column 'part': 'training' is no part"):
        split_rows(table, np.array(["C"] * 7, dtype=object), usable, "part", 0.1, 0.1, 0)


def test_a_split_that_cannot_be_is_found_before_the_views_are_made():
    table = tabled(smiles=["C"] * 5, part=["", "train", "train", "valid", "left out"])
    every = np.ones(5, dtype=bool)
    check_split(table, every, "part", 0.1, 0.1)  # rows 1 and 5 may hold no molecule
    with pytest.raises(Failure, match="leaves 1 of 2 usable rows for train"):
        check_split(table, np.arange(5) % 2 == 1, "part", 0.1, 0.1)
    with pytest.raises(Failure, match="row 1, column 'smiles': 'C' is no part"):
        check_split(table, every, "smiles", 0.1, 0.1)
    with pytest.raises(TableError, match="has no column 'parts'; did you mean 'part'"):
        check_split(table, every, "parts", 0.1, 0.1)
    with pytest.raises(Failure, match="leave nothing to train on"):
        check_split(table, every, "random", 0.5, 0.5)


def test_a_random_split_is_another_for_another_seed_and_keeps_its_shares():
    table, ids = tabled(smiles=SMILES), np.array(SMILES, dtype=object)
    usable = np.ones(len(SMILES), dtype=bool)
    one, same, other = (split_rows(table, ids, usable, "random", 0.3, 0.1, s) for s in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()
    assert [(one == part).sum() for part in ("train", "valid", "test")] == [24, 12, 4]


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["a", "a", ""], False),
        (["b", "a", ""], True),
        (list("abcdefghijklmnopqrst"), True),
        (list("abcdefghijklmnopqrstu"), False),
    ],
)
def test_two_to_twenty_words_are_classes(words, read):
    table = tabled(smiles=["C"] * len(words), y=words)
    if read:
        y, classes = read_labels(table, ["y"], "classification")
        assert classes == sorted({*words} - {""})
        assert [classes[int(c)] for c in y[:, 0] if c == c] == [word for word in words if word]
        assert np.array_equal(np.isnan(y[:, 0]), [not word for word in words])
    else:
        with pytest.raises(TableError, match="row 1, column 'y': 'a' is not a number"):
            read_labels(table, ["y"], "classification")


def test_only_words_are_offered_to_be_learnt():
    with pytest.raises(TableError, match="to learn its words"):
        read_labels(tabled(smiles=["C"] * 3, y=["toxic", "safe", "1"]), ["y"])
    with pytest.raises(TableError) as error:
        read_labels(tabled(smiles=["C"] * 3, y=["4.1", ">5", "3"]), ["y"])
    assert "learn" not in str(error.value)


def test_classes_that_differ_in_case_only_are_told():
    table = tabled(smiles=["C"] * 3, y=["Active", "active", "inactive"])
    with pytest.raises(TableError, match="'Active' and 'active' differ in upper and lower case"):
        read_labels(table, ["y"], "classification")


def test_a_mode_that_there_is_not_and_labels_that_are_all_missing_are_refused():
    with pytest.raises(Failure, match="--mode ranking: choose") as refused:
        label_kind(np.zeros((3, 1)), "ranking")
    assert refused.value.code == ExitCode.USAGE
    for mode in ("auto", "classification", "regression"):
        with pytest.raises(Failure, match="every label is missing"):
            label_kind(np.full((3, 1), np.nan), mode)


@pytest.mark.parametrize("label", [-1.0, 0.5])
def test_a_label_that_is_no_class_is_named_by_its_row(label):
    with pytest.raises(Failure, match=f"data, row 2: the label {label:g} is no class"):
        label_kind(np.array([[0.0], [label], [1.0]]), "classification", "data")


def test_a_split_leaves_enough_to_train_and_to_validate_on():
    ids = np.array(["C", "CC", "CCC"], dtype=object)

    def parts(*column):
        table = tabled(smiles=ids, part=column)
        return split_rows(table, ids, np.full(3, True), "part", 0.1, 0.1, 0).tolist()

    assert parts("train", "Train", " valid") == ["train", "train", "valid"]
    with pytest.raises(Failure, match="leaves 1 of 3 usable rows for train"):
        parts("train", "valid", "test")
    with pytest.raises(Failure, match="leaves 0 of 3 usable rows for valid"):
        parts("train", "train", "test")
    with pytest.raises(Failure, match="leave nothing to train on"):
        split_rows(tabled(smiles=ids), ids, np.full(3, True), "random", 0.5, 0.5, 0)
