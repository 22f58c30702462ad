"""Tables of molecules: every row kept, whatever the file; clear words where it is no table."""

import bz2
import gzip
import io
import lzma
import sys
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from deepchem_mmsa.molecule import MODALITIES, MoleculeViews
from deepchem_mmsa.tables import (
    TableError,
    check_output,
    column_named,
    count_rows,
    label_array,
    numbers,
    read_chunks,
    read_table,
    write_chunks,
    write_table,
)
from deepchem_mmsa.tables.text import unique

cells = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8) | st.sampled_from(
    ["", '"', "a,b", "a;b", "a\tb", "a\nb", "a\rb", "NA", " "]
)
rows = st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=12)
ENDINGS = [".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet"]


def sdf(*records):
    """An SDF of SMILES with properties; text that is no SMILES stands in for the block."""
    parts = []
    for title, smiles, properties in records:
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
        block = f"{title}\nbroken\n\n 99 xx\n" if molecule is None else Chem.MolToMolBlock(molecule)
        lines = block.split("\n")
        lines[0] = title
        data = "".join(f">  <{key}>\n{value}\n\n" for key, value in properties.items())
        parts.append("\n".join(lines).rstrip("\n") + "\n" + data + "$$$$\n")
    return "".join(parts)


class Pipe(io.RawIOBase):
    """Bytes that come a few at a time and cannot be gone back in, as from another process."""

    def __init__(self, content, at_once=4096):
        self.rest, self.at_once = io.BytesIO(content), at_once

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self.rest.read(min(len(buffer), self.at_once))
        buffer[: len(part)] = part
        return len(part)


@pytest.fixture
def stdin(monkeypatch):
    def put(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(content))))

    return put


# ---- laws -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(rows=rows, size=st.integers(1, 5), ending=st.sampled_from(ENDINGS))
def test_what_is_written_is_read_whatever_the_cells_and_the_chunks(
    tmp_path_factory, ending, rows, size
):
    frame = pd.DataFrame(rows, columns=["smiles", "a b", "é,"], dtype=str)
    path = tmp_path_factory.mktemp("t") / f"x{ending}"
    write_table(frame, path)
    parts = list(read_chunks(path, size))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    read = pd.concat([part.frame for part in parts])
    assert read.to_numpy().tolist() == [list(row) for row in rows]
    assert [m for part in parts for m in part.smiles] == [row[0] for row in rows]
    assert count_rows(path) == len(rows)


@settings(deadline=None, max_examples=10)
@given(rows=rows, cut=st.integers(0, 12))
def test_chunks_write_what_the_whole_writes(tmp_path_factory, rows, cut):
    folder = tmp_path_factory.mktemp("t")
    frame = pd.DataFrame(rows, columns=["smiles", "b", "c"], dtype=str)
    frame = frame.replace("\r", " ", regex=True)  # quotes all cells of its chunk
    write_table(frame, folder / "whole.csv")
    n = write_chunks([frame[:cut], frame[cut:]], folder / "parts.csv")
    assert n == len(rows)
    assert (folder / "whole.csv").read_bytes() == (folder / "parts.csv").read_bytes()


def test_parquet_keeps_types_and_gaps(tmp_path):
    frame = pd.DataFrame({"smiles": ["C", None, "N"], "n": pd.array([1, None, 3], dtype="Int64")})
    frame.to_parquet(tmp_path / "in.parquet")
    table = read_table(tmp_path / "in.parquet")
    assert table.smiles == ["C", "", "N"]
    write_chunks((c.frame for c in read_chunks(tmp_path / "in.parquet", 1)), tmp_path / "o.parquet")
    written, given = (pq.read_table(tmp_path / name) for name in ("o.parquet", "in.parquet"))
    assert written.equals(given)


# ---- reading ----------------------------------------------------------------------------


CONTENT = {
    "csv": b"id,SMILES\na,CCO\n\nc,CCN\n",
    "semicolons": b"id;Smiles\na;CCO\n;\nc;CCN\n",
    "tsv": b"id\tsmiles\na\tCCO\n\t\nc\tCCN\n",
    "smi": b"CCO ethanol\n\nCCN ethyl amine\n",
    "smi with a header": b"smiles name\nCCO ethanol\n\nCCN\tethyl amine\n",
    "one column": b"smiles\nCCO\n\nCCN\n",
    "windows": b"\xef\xbb\xbfid,smiles\r\na,CCO\r\n\r\nc,CCN\r\n",
    "excel": "id\tsmiles\na\tCCO\n\t\nc\tCCN\n".encode("utf-16"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", CONTENT)
def test_the_format_is_told_by_the_content(stdin, tmp_path, kind, packed):
    content = gzip.compress(CONTENT[kind]) if packed else CONTENT[kind]
    format = "tsv" if kind == "excel" else None
    stdin(content)
    assert read_table("-", format=format).smiles == ["CCO", "", "CCN"]
    stdin(content)
    assert count_rows("-") is None
    (tmp_path / "data").write_bytes(content)
    assert read_table(tmp_path / "data", format=format).smiles == ["CCO", "", "CCN"]
    assert count_rows(tmp_path / "data", format=format) == 3


@pytest.mark.skipif(not hasattr(pa, "string_view"), reason="pyarrow < 16 has no such types")
def test_view_types_of_parquet_are_read_as_plain_ones(tmp_path):
    given = {"SMILES": pa.array(["CCO", None], pa.string_view()), "id": [7, 8]}
    pq.write_table(
        pa.table({**given, "b": pa.array([b"x", b"y"], pa.binary_view())}), tmp_path / "in.parquet"
    )
    table = read_table(tmp_path / "in.parquet")
    assert table.smiles == ["CCO", ""]
    chosen = table.frame[table.frame["id"] == 8]  # pandas cannot take rows of views
    write_table(chosen, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "SMILES,id,b\n,8,y\n"


def test_a_pipe_of_sdf_or_parquet_is_read(stdin, tmp_path):
    text = sdf(("a", "CCO", {"x": "1"}), ("b", "CCN", {"y": "2\n3"}))
    stdin(gzip.compress(text.encode()))
    table = read_table("-")
    assert table.frame.to_dict("list") == {
        "name": ["a", "b"], "smiles": ["CCO", "CCN"], "x": ["1", ""], "y": ["", "2\n3"],
    }  # fmt: skip
    table.frame.to_parquet(tmp_path / "x.parquet")
    stdin((tmp_path / "x.parquet").read_bytes())
    assert read_table("-").smiles == ["CCO", "CCN"]


def test_every_record_of_an_sdf_stays_with_its_properties(tmp_path):
    bad_valence = Chem.MolToMolBlock(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False))
    text = sdf(("a", "CCO", {"x": "1"}), ("b", "", {"x": "> 2"}))
    text += bad_valence + ">  <x>  (3)\n3\n\n$$$$\n" + sdf(("d", "CCN", {"z": "4"}))
    (tmp_path / "x.sdf").write_text(text)
    table = read_table(tmp_path / "x.sdf")
    assert table.frame["x"].tolist() == ["1", "> 2", "3", ""]
    assert table.frame["z"].tolist() == ["", "", "", "4"]
    assert table.frame["smiles"].tolist()[0] == "CCO"
    assert isinstance(table.smiles[1], MoleculeViews)
    assert not table.smiles[1].readable
    assert [type(m) for m in table.smiles].count(Chem.Mol) == 3
    assert count_rows(tmp_path / "x.sdf") == 4
    chunked = pd.concat([c.frame for c in read_chunks(tmp_path / "x.sdf", 1)], ignore_index=True)
    assert chunked.equals(table.frame)


def test_an_sdf_gives_its_conformer(tmp_path):
    block = "water\n\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n" + "".join(
        f"{x:10.4f}{y:10.4f}{z:10.4f} {s}   0  0\n"
        for x, y, z, s in [(0, 0, 0.1, "O"), (0.8, 0, -0.5, "H"), (-0.8, 0, -0.5, "H")]
    ) + "  1  2  1  0\n  1  3  1  0\nM  END\n$$$$\n"  # fmt: skip
    (tmp_path / "w.sdf").write_text(block)
    table = read_table(tmp_path / "w.sdf")
    assert table.smiles[0].GetConformer().Is3D()
    assert table.smiles[0].GetNumAtoms() == 3
    assert table.frame["smiles"].tolist() == ["O"]


def test_names_that_occur_twice_are_told_apart(tmp_path):
    (tmp_path / "x.csv").write_text("smiles,a,a\nC,1,2\n")
    assert list(read_table(tmp_path / "x.csv").frame.columns) == ["smiles", "a", "a.1"]


def test_short_lines_are_filled_up_and_empty_ends_cut(tmp_path):
    (tmp_path / "x.csv").write_text("smiles,a,b\nC\nN,1,2,,\n")
    assert read_table(tmp_path / "x.csv").frame.to_numpy().tolist() == [["C", "", ""], list("N12")]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ("mol,SMILES", "SMILES"),
        ("id,mol", "mol"),
        ("id,Canonical_Smiles,smiles_of_salt", "Canonical_Smiles"),
        ("id,Drug SMILES", "Drug SMILES"),
    ],
)
def test_the_smiles_column_is_found(tmp_path, columns, found):
    (tmp_path / "x.csv").write_text(f"{columns}\n" + ",".join("CCCC"[: columns.count(",") + 1]))
    assert read_table(tmp_path / "x.csv").smiles_column == found


# ---- errors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"smiles,a\n", "has no row"),
        ("x.sdf", b"\n", "has no row"),
        ("x.csv", b"smiles,name\nC,a\nCC,2,4-dinitrophenol\n", "line 3 has 3 cells.*quotes"),
        ("x.csv", b"id,name\n1,2\n", "--smiles-column.*Its columns are: id, name"),
        ("x.csv", b'id,"logD, pH 7"\n1,2\n', "Its columns are: id, 'logD, pH 7'"),
        ("x.csv", b"CCO,1\nCCN,2\n", "add a header line"),
        ("x.csv", b"Project X,\n,\nname,smiles\na,C\n", "delete what stands above the header"),
        ("x.csv", b"PK\x03\x04rest", "Excel workbook .*save the sheet as CSV UTF-8"),
        ("x.xls", b"\xd0\xcf\x11\xe0rest", "Excel workbook"),
        ("x.csv", b"smiles,name\nC,\xb5\n", "Excel: CSV UTF-8.*iconv"),
        (
            "x.csv.gz",
            gzip.compress(b"smiles\nC\n" * 999, mtime=0)[:-20],
            "damaged or incomplete gzip",
        ),
        ("x.parquet", b"nothing", "is not a Parquet file"),
        ("x.jsonl", b"{}", "can only be written"),
    ],
)
def test_what_is_no_table_is_said_with_the_remedy(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=words):
        read_table(tmp_path / name)


def test_a_typo_in_a_column_or_file_gets_a_hint(tmp_path):
    (tmp_path / "data.csv").write_text("smiles,logS\nC,1\n")
    with pytest.raises(TableError, match="did you mean 'smiles'"):
        read_table(tmp_path / "data.csv", "smile")
    with pytest.raises(TableError, match=r"did you mean 'pIC50 \(nM\)'"):
        column_named(["IC", "pIC50 (nM)"], "pic50", "data.csv")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*data\.csv"):
        read_table(tmp_path / "date.csv")
    with pytest.raises(TableError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(TableError, match="choose csv"):
        read_table(tmp_path / "data.csv", format="xlsx")


@pytest.mark.parametrize(
    ("cell", "remedy"),
    [
        ("high", "write classes as 0 and 1"),
        ("Yes", "write classes as 0 and 1"),
        ("infected", "write classes as 0 and 1"),
        ("<10", "a limit is no value"),
        ("≥ 5.5", "a limit is no value"),
        ("-11,01", "write the decimals after a point"),
        ("1.2.3", "correct it, or leave the cell empty"),
        ("10 uM", "correct it, or leave the cell empty"),
    ],
)
def test_a_label_that_is_no_number_is_named_with_its_remedy(cell, remedy):
    with pytest.raises(TableError) as error:
        numbers(pd.Series(["1", cell], name="y"), "data.csv")
    told = f"data.csv, row 2, column 'y': {cell!r} is not a number; {remedy}"
    assert str(error.value).startswith(told)
    with pytest.raises(TableError, match="row 1, column"):
        numbers(pd.Series(["1", cell], name="y"), "data.csv", 0)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["3,5", "", "-11,01", "2"], [3.5, np.nan, -11.01, 2]),
        (["0,125", "1e3", "NA"], [0.125, 1000, np.nan]),
        (["1,234", "5,5E2"], [1.234, 550]),
        (["1.5", "2"], [1.5, 2]),
        (["1,234", "12,500"], None),  # or one thousand, and twelve
        (["3,5", "2.5"], None),
        (["3,5", "high"], None),
        (["1,234,567", "3,5"], None),
    ],
)
def test_decimal_commas_are_read_between_semicolons_where_they_are_nothing_else(
    tmp_path, cells, values
):
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["smiles;y", *(f"C;{cell}" for cell in cells)]))
    table = read_table(path)
    assert table.semicolons
    with pytest.raises(TableError, match="is not a number"):
        numbers(pd.Series([*cells, "3,5"], name="y"), "x.csv")  # of cells between commas
    if values is None:
        with pytest.raises(TableError, match="'y': '.*' is not a number; "):
            numbers(table.frame["y"], "x.csv", semicolons=True)
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = numbers(table.frame["y"], "x.csv", semicolons=True)
    np.testing.assert_array_equal(found, values)
    first = next((cell for cell in cells if "," in cell), None)
    said = (
        [f"x.csv, column 'y': commas are read as those of decimals, {first} as "] if first else []
    )
    assert [str(t.message)[: len(s)] for t, s in zip(told, said)] == said
    assert len(told) == len(said)


@pytest.mark.parametrize(
    ("name", "text", "semicolons"),
    [
        ("x.csv", "smiles,y\nC,1\n", False),
        ("x.csv", "sep=;\nsmiles;y\nC;1\n", True),
        ("x.csv", "\n\nsmiles;y\nC;1\n", True),
        ("x.tsv", "smiles\ty;z\nC\t1\n", False),
        ("x.smi", "C a;b;c\n", False),
    ],
)
def test_a_table_tells_whether_semicolons_part_its_cells(tmp_path, name, text, semicolons):
    (tmp_path / name).write_text(text)
    assert read_table(tmp_path / name).semicolons is semicolons


def test_it_is_told_how_many_labels_are_no_numbers():
    cells = ["1", ">10", "", "<2", "NA", "n.d."]
    for n, told in ((3, ""), (4, " (2 cells of the column are no numbers)"),
                    (6, " (3 cells of the column are no numbers)")):  # fmt: skip
        with pytest.raises(TableError) as error:
            numbers(pd.Series(cells[:n], name="y"), "data.csv")
        assert str(error.value).endswith(f"or make classes of the column{told}")


@given(st.lists(st.one_of(st.floats(allow_infinity=False), st.none(), st.booleans()), min_size=1))
def test_labels_of_any_container_are_the_same_numbers(values):
    wanted = np.array([np.nan if value is None else float(value) for value in values])
    for given_ in (values, np.array(values, dtype=object), pd.Series(values, dtype=object)):
        np.testing.assert_array_equal(label_array(given_), wanted)


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(TableError, match=r"\.parquet or \.jsonl"):
        check_output(tmp_path / "x.xlsx")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check_output(tmp_path / "none" / "x.csv")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    path.write_bytes(b"old")

    def frames():
        yield pd.DataFrame({"a": [1]})
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_chunks(frames(), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


# ---- what spreadsheets write --------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\nsmiles;n\nCCO;1,5\nCCN;2\n",
        "SMILES;n, exp\nCCO;1,5\nCCN;2\n",
        "\ufeffsmiles;n\r\nCCO;1,5\r\nCCN;2\r\n",
        "smiles\tn\nCCO\t1,5\nCCN\t2\n".encode("utf-16"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.txt"])
def test_european_and_excel_files_are_read(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = read_table(path)
    assert table.smiles == ["CCO", "CCN"]
    assert table.frame.iloc[:, 1].tolist() == ["1,5", "2"]
    assert count_rows(path) == 2


@pytest.mark.parametrize(
    "body", ['CCO,"open\nCCN,2\nCCC,3\n', 'CCO,"5-prime\nCCN,2\nCCC,"3\n', 'CCO,"5"-prime\nCCN,2\n']
)
def test_a_quote_that_is_not_closed_swallows_no_row(tmp_path, body):
    path = tmp_path / "x.csv"
    path.write_text("smiles,name\nCCCC,fine\n" + body)
    for use in (read_table, count_rows):
        with pytest.raises(TableError, match="line 3: a quote that opens a cell is not closed"):
            use(path)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text('a",;\n\t 5', max_size=8), min_size=1, max_size=5))
def test_what_is_quoted_well_is_read_back(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("quoted") / "x.csv"
    frame = pd.DataFrame({"smiles": ["C"] * len(names), "name": names})
    frame.to_csv(path, index=False)
    assert read_table(path).frame["name"].tolist() == names


def test_an_index_of_pandas_is_a_column(tmp_path):
    frame = pd.DataFrame({"smiles": ["CCO", "CCN"], "y": [1, 2]}, index=["CMPD-0", "CMPD-1"])
    frame.to_parquet(tmp_path / "a.parquet")
    frame.set_index("smiles").to_parquet(tmp_path / "b.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.frame["__index_level_0__"].tolist() == ["CMPD-0", "CMPD-1"]
    assert read_table(tmp_path / "b.parquet").smiles == ["CCO", "CCN"]


@pytest.mark.parametrize("values", [[None, None], [1.5, None], ["CCO", None]])
def test_a_column_of_nothing_or_numbers_is_read(tmp_path, values):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"smiles": values}).to_parquet(path)
    assert [bool(x) for x in read_table(path).smiles] == [value is not None for value in values]


@pytest.mark.parametrize(
    "columns, expected",
    [(["a", "a", "a.1"], ["a", "a.2", "a.1"]), (["a", "a", "a"], ["a", "a.1", "a.2"])],
)
def test_every_column_has_a_name_of_its_own(columns, expected):
    assert unique(columns) == expected


def test_a_parquet_file_names_its_columns_as_csv_does(tmp_path):
    table = pa.table([["CCO"], [1.0], [2.0]], names=["smiles", "y", "y"])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("smiles,y,y\nCCO,1.0,2.0\n")
    parquet, csv = (read_table(tmp_path / name).frame for name in ("a.parquet", "a.csv"))
    assert list(parquet) == list(csv) == ["smiles", "y", "y.1"]
    assert [float(parquet[name][0]) for name in ("y", "y.1")] == [1.0, 2.0]


def test_properties_called_like_the_title_or_the_smiles_stand_beside_them(tmp_path):
    """The SMILES is that of the block that is computed, whatever a property says."""
    text = sdf(("a", "CCO", {"name": "PROP", "smiles": "WRONG"}), ("b", "CCN", {"x": "1"}))
    (tmp_path / "x.sdf").write_text(text + sdf(("c", "", {})))
    table = read_table(tmp_path / "x.sdf")
    assert table.frame["name"].tolist() == ["a", "b", "c"]
    assert table.frame["smiles"].tolist() == ["CCO", "CCN", ""]
    assert table.frame["name.1"].tolist() == ["PROP", "", ""]
    assert table.frame["smiles.1"].tolist() == ["WRONG", "", ""]
    reasons = dict.fromkeys(MODALITIES, "unreadable: the mol block cannot be parsed")
    assert table.smiles[2].reasons == reasons


def test_lines_before_the_header_may_be_blank(tmp_path):
    (tmp_path / "x.csv").write_text("\n \nsmiles,y\nCCO,1\nCCN,2,3\n")
    with pytest.raises(TableError, match="line 5 has 3 cells"):
        read_table(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("\n \nsmiles,y\nCCO,1\n")
    assert read_table(tmp_path / "x.csv").frame["y"].tolist() == ["1"]
    assert count_rows(tmp_path / "x.csv") == 1


def test_json_lines_are_not_counted(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": "b, c}')
    assert count_rows(tmp_path / "x.jsonl") is None


def test_values_of_an_sdf_may_begin_like_a_header(tmp_path):
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    record = f"{block}>  <ic50>  (1)\n>10 (<50 % at 1 uM)\n\n> 25 <note>\nfine\n\n$$$$\n"
    (tmp_path / "a.sdf").write_text(record + "$$$$\n" + record)
    table = read_table(tmp_path / "a.sdf")
    assert table.frame["ic50"].tolist() == [">10 (<50 % at 1 uM)", "", ">10 (<50 % at 1 uM)"]
    assert table.frame["note"].tolist() == ["fine", "", "fine"]


@pytest.mark.parametrize(
    "data, said",
    [
        (bz2.compress(b"smiles\nCCO\n"), "compressed with bzip2"),
        (lzma.compress(b"smiles\nCCO\n"), "compressed with xz"),
        (b"PK\x03\x04\x14\0a.csv", "zip archive.*unpack it"),
    ],
)
def test_archives_are_named(tmp_path, data, said):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(TableError, match=said):
        read_table(tmp_path / "a.csv")


def test_a_column_that_is_asked_for_tells_the_separator(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('Drug,"a;b;c;d",y\nCCO,1,2\n')
    table = read_table(path, "Drug")
    assert table.smiles == ["CCO"]
    assert list(table.frame) == ["Drug", "a;b;c;d", "y"]
