"""Files of shards: what they are told apart by, and what is believed of a stranger's."""

import hashlib
import json
import struct

import pytest
from rdkit import Chem

from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.shards import ShardError, ShardSet, featurize_to_shards, file, writing
from deepchem_mmsa.views import ViewSettings

ROWS = ["CCO", "CCN", "CCC", "CCS", "C1CC"]


def featurize(folder, molecules=ROWS, size=2):
    return featurize_to_shards(molecules, folder, ViewSettings(("graph",)), size, contained=False)


def described(folder, **changes):
    """Change what the manifest of a folder says."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    return manifest


# --- what they were made from -------------------------------------------------------------------


def test_molecules_are_told_apart_by_what_is_read_of_them():
    plain, noted = Chem.MolFromSmiles("CCO"), Chem.MolFromSmiles("CCO")
    noted.SetProp("_Name", "ethanol")
    noted.GetAtomWithIdx(0).SetProp("note", "methyl")
    assert file.digest_of_rows([plain]) == file.digest_of_rows([noted])
    before = Chem.GetDefaultPickleProperties()
    Chem.SetDefaultPickleProperties(Chem.PropertyPickleOptions.AllProps)
    try:
        assert file.digest_of_rows([plain]) == file.digest_of_rows([noted])
    finally:
        Chem.SetDefaultPickleProperties(before)
    assert file.digest_of_rows(["None"]) != file.digest_of_rows([None])
    records = MoleculeViews("CCO"), MoleculeViews("CCO", reasons={"graph": "no"})
    assert file.digest_of_rows(records[:1]) != file.digest_of_rows(records[1:])


def test_finished_shards_are_told_apart_by_all_their_molecules(tmp_path):
    one, same, other = (
        featurize(tmp_path / name, [*ROWS[:-1], last]).inputs
        for name, last in (("one", "N"), ("same", "N"), ("other", "O"))
    )
    assert one == same != other


@pytest.mark.parametrize("version", ["RDKIT_VERSION", "FEATURE_VERSION"])
def test_records_of_another_version_are_not_mixed(tmp_path, monkeypatch, version):
    featurize(tmp_path)
    monkeypatch.setattr(writing, version, "another")
    with pytest.raises(ShardError, match=f"{version.lower()} .* there, 'another' here"):
        featurize(tmp_path)


def test_fewer_molecules_are_others_even_where_a_file_is_gone(tmp_path):
    featurize(tmp_path)
    (tmp_path / "shard-00002.mmsa").unlink()
    with pytest.raises(ShardError, match="shards beyond the last of 2"):
        featurize(tmp_path, ROWS[:4])


def test_fewer_molecules_than_an_unfinished_run_had_are_others(tmp_path):
    featurize(tmp_path)
    described(tmp_path, complete=False)
    with pytest.raises(ShardError, match="shards beyond the last of 1"):
        featurize(tmp_path, ROWS[:2])


def test_failures_are_listed_whatever_the_letters(tmp_path):
    rows = ["C\u00e9", "C\ud800", "C"]
    assert featurize(tmp_path, rows).failures()["smiles"].tolist() == ["C\u00e9", "C\\xd800"]


# --- files of strangers -------------------------------------------------------------------------


@pytest.mark.parametrize("n, lengths", [(10**6, []), (100, []), (1, [2]), (2, [1, 1])])
def test_numbers_that_do_not_fit_are_damage_whatever_the_checksum(n, lengths):
    header = struct.pack("<8s32s32sIQ", b"MMSAset1", bytes(32), bytes(32), n, 1)
    whole = header + b"".join(struct.pack("<I", x) for x in lengths) + bytes(len(lengths)) + b"x"
    with pytest.raises(ShardError, match="is damaged: it"):
        file.unpack(whole + hashlib.sha256(whole).digest(), "shard")


def test_a_shard_is_no_larger_than_is_read(tmp_path, monkeypatch):
    record = MoleculeViews("C").to_bytes()
    (tmp_path / "shard").write_bytes(file.pack([record], bytes(32), bytes(32)))
    monkeypatch.setattr(file, "_MAX_BYTES", 2 * len(record) - 1)
    with pytest.raises(ShardError, match="choose a smaller shard_size"):
        file.pack([record, record], bytes(32), bytes(32))
    with pytest.raises(ShardError, match="not the up to 4 GiB"):
        file.read(tmp_path / "shard")


def test_a_shard_of_other_rows_than_the_manifest_says_is_refused(tmp_path):
    shards = featurize(tmp_path)
    listed = json.loads((tmp_path / "manifest.json").read_text())["shards"]
    described(tmp_path, shards=[listed[0] | {"rows": 1}, *listed[1:]])
    with pytest.raises(ShardError, match=r"is not the file that manifest\.json describes"):
        ShardSet.open(tmp_path).records(0)
    assert len(shards.records(0)) == 2


def test_a_shard_of_other_molecules_of_the_same_size_is_refused(tmp_path):
    featurize(tmp_path / "one", ["CCO", "CCN"])
    featurize(tmp_path / "two", ["CCN", "CCO"])
    one, two = (tmp_path / name / "shard-00000.mmsa" for name in ("one", "two"))
    assert one.stat().st_size == two.stat().st_size
    one.write_bytes(two.read_bytes())
    with pytest.raises(ShardError, match=r"is not the file that manifest\.json describes"):
        ShardSet.open(tmp_path / "one").records(0)


def test_a_manifest_counts_molecules(tmp_path):
    featurize(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["rows"] == len(ROWS)


@pytest.mark.parametrize("changes", [{"complete": None}, {"shards": None}, {"shards": [{}]}])
def test_a_manifest_that_lacks_something_is_refused_and_written_again(tmp_path, changes):
    before = featurize(tmp_path)
    described(tmp_path, **changes)
    with pytest.raises(ShardError, match=r"manifest\.json is damaged"):
        ShardSet.open(tmp_path)
    assert list(featurize(tmp_path)) == list(before)
