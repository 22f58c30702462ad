"""Rarer files of molecules: told apart, read and written as the common ones."""

import datetime
import gzip
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from deepchem_mmsa.tables import (
    TableError,
    check_output,
    count_rows,
    files,
    label_array,
    numbers,
    read_chunks,
    read_table,
    write_chunks,
    write_table,
)
from deepchem_mmsa.tables.files import opened
from tests.tables.test_tables import Pipe


class Kept(io.RawIOBase):
    """A raw stream that writes into a buffer of memory."""

    def __init__(self, buffer):
        self.buffer = buffer

    def writable(self):
        return True

    def write(self, data):
        return self.buffer.write(data)


# ---- reading ------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        b"id,smiles\na,CCO\nb,CCN\n",
        b"CCO a\nCCN b\n",
        "id\tsmiles\na\tCCO\nb\tCCN".encode("utf-16"),
    ],
)
def test_a_slow_pipe_is_told_as_a_quick_one(monkeypatch, content, packed):
    pipe = Pipe(gzip.compress(content) if packed else content, at_once=1)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(pipe)))
    assert read_table("-").smiles == ["CCO", "CCN"]


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("x.csv", b'"Drug","a;b;c;d",y\n"CCO",1,2\n"CCN",1,2\n', "Drug"),
        ("x.smi", "smiles name\nCCO a\nCCN b\n".encode("utf-16"), None),
        ("x.smi", b"CCO a\rCCN b\r", None),
    ],
)
def test_rows_are_counted_as_they_are_read(tmp_path, name, content, column):
    (tmp_path / name).write_bytes(content)
    assert read_table(tmp_path / name, column).smiles == ["CCO", "CCN"]
    assert count_rows(tmp_path / name, column) == 2


def test_true_and_false_are_labels():
    column = pd.Series([True, "false", None, "True", " 0 "], name="active")
    np.testing.assert_array_equal(numbers(column, "x"), [1, 0, np.nan, 1, 0])
    with pytest.raises(TableError, match="'untrue' is not a number"):
        numbers(pd.Series(["true", "untrue"]), "x")


@pytest.mark.parametrize(
    ("content", "column", "name"),
    [
        (b"id\t smiles\na\tCCO\n", None, "data"),
        (b"Drug\ty\nCCO\t1\n", "Drug", "data"),
        (b"Drug\nCCO\n", "Drug", "data"),
        ("\ufeffsmiles,id\nCCO,1\n".encode("utf-16-be"), None, "x.csv"),
        (b"id, mol ,n\n1,CCO,2\n", None, "x.csv"),
        (b'"n, x";"SMILES"\n1;CCO\n', None, "x.csv"),
        (b"SMILES,smiles\nCCO,CCN\n", None, "x.csv"),
        (b"smiles,a\nCCO," + b"a" * 200_000 + b"\n", None, "x.csv"),
    ],
)
def test_the_molecules_are_found(tmp_path, content, column, name):
    (tmp_path / name).write_bytes(content)
    assert read_table(tmp_path / name, column).smiles == ["CCO"]


def test_a_word_of_a_header_is_a_row_further_down(tmp_path):
    (tmp_path / "x.smi").write_text("smiles name\nCCO a\nsmiles b\n")
    assert read_table(tmp_path / "x.smi").smiles == ["CCO", "smiles"]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_chunk_knows_how_many_rows_were_before_it(tmp_path, ending):
    write_table(pd.DataFrame({"smiles": list("CNOFS")}), tmp_path / f"x{ending}")
    assert [c.start for c in read_chunks(tmp_path / f"x{ending}", 2)] == [0, 2, 4]


def test_a_file_is_closed_and_standard_input_is_not(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("smiles\nCCO\n")
    with opened(tmp_path / "x.csv") as raw:
        assert not raw.closed
    assert raw.closed
    given = io.BytesIO(b"smiles\nCCO\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(given)))
    assert read_table("-").smiles == ["CCO"]
    assert not sys.stdin.closed


def test_a_record_of_an_sdf_may_be_broken_and_lack_its_end(tmp_path):
    whole = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    broken = "a\nbroken\n\n 99 xx\n$$$$\n"
    (tmp_path / "data").write_text(broken)
    assert read_table(tmp_path / "data").frame["name"].tolist() == ["a"]
    (tmp_path / "data").write_text(f"{broken}>  <b>{whole}>  <x>\n1\n")
    table = read_table(tmp_path / "data")
    assert table.frame["name"].tolist() == ["a", ">  <b>"]
    assert table.frame["smiles"].tolist() == ["", "CCO"]
    assert table.frame["x"].tolist() == ["", "1"]


# ---- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"id\tsmiles\ra\tCCO\rb\tCCN\r", b"\n\nid,smiles\na,CCO\nb,CCN\n", b"\n smiles\nCCO\nCCN"],
)
def test_the_first_line_that_is_not_blank_tells_the_format(tmp_path, content):
    (tmp_path / "x.txt").write_bytes(content)
    assert read_table(tmp_path / "x.txt").smiles == ["CCO", "CCN"]


def test_a_tab_is_a_separator_that_a_first_line_may_name(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"sep=\t\r\nid\tsmiles\r\na\tCCO\r\n")
    assert read_table(tmp_path / "x.csv").smiles == ["CCO"]


@pytest.mark.parametrize("place", [8, 60])  # the head of a page, and its content
def test_a_damaged_page_of_parquet_is_an_error_of_the_input(tmp_path, place):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"smiles": ["C" * n for n in range(1, 500)]}), path)
    data = bytearray(path.read_bytes())
    data[place : place + 40] = bytes(byte ^ 0x5A for byte in data[place : place + 40])
    path.write_bytes(data)
    with pytest.raises(TableError, match=r"x\.parquet is not a Parquet file, or a damaged one \("):
        read_table(path)


@pytest.mark.parametrize("read", [read_table, count_rows])
@pytest.mark.parametrize("at", [(os, "stat"), (Path, "open")])  # its folder, the file itself
def test_a_file_that_may_not_be_read_is_an_error_of_the_input(tmp_path, monkeypatch, read, at):
    (tmp_path / "x.csv").write_text("smiles\nCCO\n")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(TableError, match=r"x\.csv cannot be read"):
        patch.setattr(*at, refused)
        read(tmp_path / "x.csv")


def test_two_columns_that_may_hold_the_smiles_are_not_guessed_between(tmp_path):
    (tmp_path / "x.csv").write_text("smiles of salt,smiles of parent\nC.Cl,C\n")
    with pytest.raises(TableError, match="cannot tell which column"):
        read_table(tmp_path / "x.csv")


@pytest.mark.parametrize("read", [lambda *a, **k: len(read_table(*a, **k)), count_rows])
def test_a_format_that_is_asked_for_wins_over_the_ending(tmp_path, read):
    (tmp_path / "x.csv").write_text("CCO ethanol, neat\nCCN a\n")
    assert read(tmp_path / "x.csv", format="smi") == 2
    (tmp_path / "x.smi").write_text("id,smiles\na,CCO\n")
    assert read(tmp_path / "x.smi", format="csv") == 1
    with pytest.raises(TableError, match="format 'jsonl' cannot be read"):
        read_table(tmp_path / "x.csv", format="jsonl")


@pytest.mark.parametrize("name", ["x.csv", "x.smi"])
def test_parquet_under_another_name_is_told(tmp_path, name):
    write_table(pd.DataFrame({"smiles": ["C"]}), tmp_path / name, "parquet")
    with pytest.raises(TableError, match="is Parquet, not .*: use --format parquet"):
        read_table(tmp_path / name)


def test_a_smiles_file_has_no_columns_to_choose_from(tmp_path):
    (tmp_path / "x.smi").write_text("CCO ethanol\n")
    with pytest.raises(TableError, match="has no column 'name'"):
        read_table(tmp_path / "x.smi", "name")
    assert read_table(tmp_path / "x.smi", "smiles").smiles == ["CCO"]


def test_a_gzip_file_that_is_damaged_inside_is_told(tmp_path):
    packed = bytearray(gzip.compress(b"smiles\n" + b"CCO\nCCN\n" * 99, mtime=0))
    packed[10:20] = b"\xff" * 10
    (tmp_path / "x.csv.gz").write_bytes(packed)
    with pytest.raises(TableError, match="damaged or incomplete gzip"):
        read_table(tmp_path / "x.csv.gz")


def test_the_line_of_an_open_quote_counts_those_inside_of_cells(tmp_path):
    (tmp_path / "x.csv").write_text('smiles,name\nC,"a\nb"\nN,"open\n')
    with pytest.raises(TableError, match="line 4: a quote"):
        read_table(tmp_path / "x.csv")


# ---- labels -------------------------------------------------------------------------------


def test_cells_hold_no_value_in_any_case_and_between_blanks():
    column = pd.Series(["NaN", "na", "N/A", "NULL", "None", " NA ", ""])
    assert np.isnan(numbers(column, "x.csv")).all()
    assert numbers(pd.Series([" 1.5 "]), "x.csv") == [1.5]


def test_a_label_without_a_limit_is_no_label():
    with pytest.raises(TableError, match="row 2, column None: 'inf' is not a finite number"):
        numbers(pd.Series(["1", "inf"]), "x.csv")


def test_lists_are_no_labels(tmp_path):
    pq.write_table(
        pa.table({"smiles": ["CCO", "C"], "bits": [[1.0, 0.5], None]}), tmp_path / "x.pq"
    )
    with pytest.raises(TableError, match=r"row 1, column 'bits': '\[1\.  0\.5\]' is not a number"):
        numbers(read_table(tmp_path / "x.pq").frame["bits"], "x.pq")


def test_durations_are_no_labels():
    with pytest.raises(ValueError, match="dates or durations"):
        label_array(pd.Series(pd.to_timedelta([1, 2], "D")))


def test_labels_of_several_tasks_keep_their_places():
    frame = pd.DataFrame({"a": ["1", "NA", "3"], "b": ["4", "5", ""]})
    np.testing.assert_array_equal(label_array(frame), [[1, 4], [np.nan, 5], [3, np.nan]])


# ---- writing ------------------------------------------------------------------------------


def test_endings_may_be_capital_letters(tmp_path):
    path = tmp_path / "X.CSV.GZ"
    write_table(pd.DataFrame({"smiles": ["CCO"]}), path)
    assert gzip.decompress(path.read_bytes()) == b"smiles\nCCO\n"
    assert read_table(path).smiles == ["CCO"]
    frames = [pd.DataFrame({"smiles": [smiles]}) for smiles in ("CCO", "C")]
    write_chunks(frames, tmp_path / "X.JSONL.GZ")
    packed = (tmp_path / "X.JSONL.GZ").read_bytes()
    assert gzip.decompress(packed) == b'{"smiles":"CCO"}\n{"smiles":"C"}\n'


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_rows_reach_standard_output_chunk_by_chunk_and_after_what_was_printed(monkeypatch, format):
    """A pipe is read while the next rows are computed."""
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Kept(out))))

    def frames():
        yield pd.DataFrame({"smiles": ["CCO"]})
        assert b"CCO" in out.getvalue()
        yield pd.DataFrame({"smiles": ["CCN"]})

    print("before")
    assert write_chunks(frames(), "-", format) == 2
    assert out.getvalue().startswith(b"before\n")
    assert b"CCN" in out.getvalue()


def test_what_is_packed_does_not_depend_on_the_time(tmp_path, monkeypatch):
    written = []
    for seconds in (1e9, 2e9):
        monkeypatch.setattr("time.time", lambda seconds=seconds: seconds)
        write_table(pd.DataFrame({"smiles": ["CCO"]}), tmp_path / "x.csv.gz")
        written.append((tmp_path / "x.csv.gz").read_bytes())
    assert written[0] == written[1]


def test_json_keeps_the_digits_of_a_number(tmp_path):
    write_table(pd.DataFrame({"x": [0.123456789012345]}), tmp_path / "x.jsonl")
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {"x": 0.123456789012345}


def test_parquet_has_the_columns_and_types_of_its_first_chunk(tmp_path):
    frames = [pd.DataFrame({"x": x}, index=[7, 9]) for x in ([0.5, 1.5], [2, 3])]
    assert write_chunks(frames, tmp_path / "x.parquet") == 4
    assert pq.read_table(tmp_path / "x.parquet").to_pydict() == {"x": [0.5, 1.5, 2.0, 3.0]}


@pytest.mark.parametrize("name", ["x.smi", "x.sdf"])
def test_formats_that_are_only_read_are_not_written(tmp_path, name):
    with pytest.raises(TableError, match="end the name in"):
        check_output(tmp_path / name)


def test_a_folder_is_no_output(tmp_path):
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(PermissionError, match="it is a folder"):
        check_output(tmp_path / "x.csv")


def test_names_are_found_also_in_quotes(tmp_path):
    """As R writes them."""
    path = tmp_path / "x"
    path.write_text('"smiles"\n"CCO"\n')
    assert read_table(path).smiles == ["CCO"]


def test_another_separator_than_the_ending_says_is_named(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("smiles,expt\nCCO,1\n")
    with pytest.raises(TableError, match="'smiles,expt'.*another separator"):
        read_table(path)


def test_a_name_without_a_molecule_is_no_molecule(tmp_path):
    path = tmp_path / "x.smi"
    path.write_text("CCO ethanol\n\tCCN\n")
    table = read_table(path)
    assert table.smiles == ["CCO", ""]
    assert table.frame["name"].tolist() == ["ethanol", "CCN"]


def test_a_name_may_have_several_words(tmp_path):
    (tmp_path / "x.smi").write_text("CCO  ethyl alcohol \nCCN\n")
    assert read_table(tmp_path / "x.smi").frame["name"].tolist() == ["ethyl alcohol", ""]


@pytest.mark.parametrize("before", ["", "\n", "\n\n", "sep=,\n", "\nsep=,\n"])
def test_a_line_is_counted_from_the_first_of_the_file(tmp_path, before):
    (tmp_path / "x.csv").write_text(f"{before}smiles,name\nCCO,a\nCCN,b,c\n")
    with pytest.raises(TableError, match=rf"x\.csv, line {before.count(chr(10)) + 3} has 3 cells"):
        read_table(tmp_path / "x.csv")


def test_a_line_of_a_value_is_no_property(tmp_path):
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    (tmp_path / "x.sdf").write_text(f"{block}> <note>\nsee\n> <b>\nhere\n\n> <c>\n1\n\n$$$$\n")
    frame = read_table(tmp_path / "x.sdf").frame
    assert (list(frame)[2:], frame["note"][0]) == (["note", "c"], "see\n> <b>\nhere")


def test_an_sdf_of_windows_is_that_of_unix(tmp_path):
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    text = f"ethanol {block}> <note>\ntwo\nlines\n\n> <y>\n1\n\n$$$$\n"
    for name, written in (("unix", text), ("windows", text.replace("\n", "\r\n"))):
        (tmp_path / f"{name}.sdf").write_bytes(written.encode())
    unix, windows = (read_table(tmp_path / f"{name}.sdf") for name in ("unix", "windows"))
    assert windows.frame.equals(unix.frame)
    assert unix.frame.to_numpy().tolist() == [["ethanol", "CCO", "two\nlines", "1"]]
    assert windows.smiles[0].ToBinary() == unix.smiles[0].ToBinary()


def test_a_property_that_a_record_has_twice_keeps_both_values(tmp_path):
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    (tmp_path / "x.sdf").write_text(f"{block}> <id>\na\n\n> <y>\n1\n\n> <id>\nb\n\n$$$$\n")
    frame = read_table(tmp_path / "x.sdf").frame
    assert frame["id"][0].split() == ["a", "b"]
    assert frame["y"][0] == "1"


def test_json_holds_dates_bytes_and_lists_of_parquet(tmp_path):
    day = datetime.date(2020, 1, 2)
    given = pa.table(
        {"smiles": ["CCO", "C"], "day": pa.array([day, None]), "raw": pa.array([b"\xffa", b"b"]),
         "list": pa.array([[1, 2], None])}
    )  # fmt: skip
    pq.write_table(given, tmp_path / "x.parquet")
    write_table(read_table(tmp_path / "x.parquet").frame, tmp_path / "x.jsonl")
    first, second = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert first == {"smiles": "CCO", "day": "2020-01-02", "raw": "\\xffa", "list": [1, 2]}
    assert second == {"smiles": "C", "day": None, "raw": "b", "list": None}


def test_a_time_of_parquet_is_the_same_text_in_every_format(tmp_path):
    """To its last digit: not the milliseconds since 1970."""
    when = datetime.datetime(2020, 1, 2, 3, 4, 5, 678901)
    given = pa.table({"smiles": ["CCO", "C"], "when": pa.array([when, None], pa.timestamp("us"))})
    pq.write_table(given, tmp_path / "x.parquet")
    for ending in ("csv", "tsv", "jsonl"):
        write_table(read_table(tmp_path / "x.parquet").frame, tmp_path / f"x.{ending}")
    for ending in ("csv", "tsv"):
        assert read_table(tmp_path / f"x.{ending}").frame["when"].tolist() == [str(when), ""]
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line)["when"] for line in lines] == [str(when), None]


def test_a_list_of_parquet_is_whole_in_text(tmp_path):
    long = [number / 3 for number in range(1500)]
    pq.write_table(pa.table({"smiles": ["CCO", "C"], "list": [long, None]}), tmp_path / "x.parquet")
    write_table(read_table(tmp_path / "x.parquet").frame, tmp_path / "x.csv")
    first, second = read_table(tmp_path / "x.csv").frame["list"]
    assert (json.loads(first), second) == (long, "")


def test_the_extension_of_cxsmiles_belongs_to_the_molecule_not_to_its_name(tmp_path):
    lines = ["CCO |$;;_R1$| ethan ol", "CCN |$;;_R1$|", "CCC\t|^1:0|\tpropyl", "CC |odd", "C a|b|"]
    (tmp_path / "x.smi").write_text("\n".join(lines))
    table = read_table(tmp_path / "x.smi")
    extended = ["CCO |$;;_R1$|", "CCN |$;;_R1$|", "CCC |^1:0|", "CC", "C"]
    assert table.smiles == table.frame["smiles"].tolist() == extended
    assert table.frame["name"].tolist() == ["ethan ol", "", "propyl", "|odd", "a|b|"]


@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.smi.gz", "bomb.sdf.gz"])
def test_a_line_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, name):
    """3 MB of gzip can be a line of 3 GB."""
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    with gzip.open(tmp_path / name, "wt") as file:
        file.write("smiles,name\nCCO,a\n" + "C" * 100_000)
    for read in (read_table, count_rows):
        with pytest.raises(TableError, match=f"{name}, line 3 is longer than the 1,000 characters"):
            read(tmp_path / name)
