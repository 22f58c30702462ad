"""Shards: resumable to the byte, safe to read, one writer."""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from deepchem_mmsa import views
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.shards import ShardError, ShardSet, featurize_to_shards, file
from deepchem_mmsa.views import ViewSettings, many_views
from tests.fixtures import SMILES

GRAPH = ViewSettings(("graph",))
ROWS = [*SMILES[:17], "C1CC", "", *SMILES[17:30], "C\0", None]


def featurize(folder, molecules=ROWS, settings=GRAPH, **arguments):
    """Make shards in this very process, five molecules each."""
    arguments = {"shard_size": 5, "contained": False, **arguments}
    return featurize_to_shards(molecules, folder, settings, **arguments)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}


def in_child(work):
    """Run `work` in a forked process; return its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return featurize(tmp_path_factory.mktemp("made"))


# --- what they hold ----------------------------------------------------------------------------


def test_every_row_stays_and_equals_what_is_made_in_memory(made):
    expected = many_views(ROWS, GRAPH)
    assert len(made) == len(ROWS)
    assert made.sizes.tolist() == [5, 5, 5, 5, 5, 5, 4]
    assert list(made) == expected
    assert made.records(3) == expected[15:20]
    assert made.settings == GRAPH
    assert list(pickle.loads(pickle.dumps(made))) == expected


def test_what_could_not_be_made_is_listed_with_its_reason(made):
    table = made.failures()
    assert table["row"].tolist() == [17, 18, 32, 33]
    assert table["smiles"].tolist() == ["C1CC", "", "C\\x00", ""]
    assert set(table["view"]) == {"graph"}
    assert "unclosed ring" in table["reason"][0]
    assert "must be text, got NoneType" in table["reason"][3]


def test_folders_that_several_jobs_made_are_one_set(made, tmp_path):
    for name, rows in (("a", ROWS[:12]), ("b", ROWS[12:12]), ("c", ROWS[12:])):
        featurize(tmp_path / name, rows)
    joined = ShardSet.open(tmp_path)
    assert list(joined) == list(made)
    assert joined.sizes.tolist() == [5, 5, 2, 5, 5, 5, 5, 2]
    assert joined.parts == [(tmp_path / name, start) for name, start in zip("abc", (0, 12, 12))]
    assert joined.failures().equals(made.failures())
    assert list(pickle.loads(pickle.dumps(joined))) == list(made)
    other = tmp_path / "other"
    for name in "ac":
        shutil.copytree(tmp_path / name, other / name)
    assert ShardSet.open(other).inputs not in ("", joined.inputs, made.inputs)
    with pytest.raises(ShardError, match=f"{tmp_path / 'c' / 'shard-00001.mmsa'} is missing"):
        (tmp_path / "c" / "shard-00001.mmsa").unlink()
        joined.records(4)


def test_folders_of_other_settings_or_unfinished_are_not_one_set(tmp_path):
    featurize(tmp_path / "a")
    featurize_to_shards(ROWS, tmp_path / "b", ViewSettings(("graph",), image_size=32))
    with pytest.raises(ShardError, match=f"{tmp_path / 'a'} and {tmp_path / 'b'} were made with"):
        ShardSet.open(tmp_path)
    manifest = tmp_path / "b" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(ShardError, match=f"{tmp_path / 'b'} holds the shards of an unfinished run"):
        ShardSet.open(tmp_path)


def test_a_second_run_computes_nothing_and_changes_nothing(made, monkeypatch):
    before = contents(made.folder)
    monkeypatch.setattr(views, "_make", None)
    assert list(featurize(made.folder)) == list(made)
    assert contents(made.folder) == before


def test_progress_counts_molecules_as_they_are_made_and_found(tmp_path, capsys):
    for _ in range(2):
        featurize(tmp_path, progress=True, contained=True)
        assert f"{len(ROWS)}/{len(ROWS)}" in capsys.readouterr().err


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SMILES), st.text(max_size=20), st.none()), max_size=12),
       st.integers(1, 5))  # fmt: skip
def test_rows_in_records_out(tmp_path_factory, rows, size):
    folder = tmp_path_factory.mktemp("any")
    shards = featurize(folder, iter(rows), shard_size=size)
    assert list(shards) == many_views(rows, GRAPH)
    assert sorted(set(shards.failures()["row"])) == [
        row for row, record in enumerate(shards) if record.reasons
    ]


def test_input_is_read_one_shard_at_a_time(tmp_path):
    read = []

    def rows():
        for row, smiles in enumerate(ROWS):
            # All full shards before this row's are on disk already.
            assert len(list(tmp_path.glob("shard-*"))) == row // 5
            read.append(smiles)
            yield smiles

    featurize(tmp_path, rows())
    assert read == ROWS


def test_molecules_with_coordinates_are_told_apart_by_them(tmp_path):
    molecule = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=1)
    other = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMolecule(other, randomSeed=2)
    settings = ViewSettings(("geometry",))
    shards = featurize(tmp_path, [molecule], settings)
    assert list(shards) == many_views([molecule], settings)
    featurize(tmp_path, [Chem.Mol(molecule)], settings)
    with pytest.raises(ShardError, match="shards of other molecules"):
        featurize(tmp_path, [other], settings)


# --- interruption ------------------------------------------------------------------------------


def test_killed_at_random_moments_it_ends_with_the_same_bytes(made, tmp_path, monkeypatch):
    """SIGKILL a run again and again, a little after it made some random molecule."""
    log = tmp_path / "log"
    make = views._make

    def logged(task, settings):
        with open(log, "ab", buffering=0) as out:
            out.write(b"x")
        time.sleep(0.002)
        return make(task, settings)

    monkeypatch.setattr(views, "_make", logged)
    folder = tmp_path / "shards"
    chance = random.Random(7)
    log.touch()
    kills = 0
    for contained in (False, True) * 5:
        pid = in_child(lambda contained=contained: featurize(folder, contained=contained))
        stop = log.stat().st_size + chance.randrange(1, 9)
        while log.stat().st_size < stop and not os.waitid(
            os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.01)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
    assert kills >= 4
    for leftover in (".shard-00001.mmsa.abc", ".manifest.json.x", ".failures.csv.x"):
        (folder / leftover).write_bytes(b"half")
    featurize(folder)
    assert contents(folder) == contents(made.folder)
    assert log.stat().st_size <= len(ROWS) + (kills * (5 + 1))  # the one that was being made


def test_unfinished_shards_are_not_taken_for_whole(tmp_path):
    def rows():
        yield from ROWS[:12]
        raise OSError("the catalogue ends here")

    with pytest.raises(OSError, match="the catalogue ends here"):
        featurize(tmp_path, rows())
    assert len(list(tmp_path.glob("shard-*"))) == 2
    with pytest.raises(ShardError, match="unfinished run: make the same call"):
        ShardSet.open(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "foreign"])
def test_a_damaged_shard_is_found_reported_and_made_again(made, tmp_path, damage, caplog):
    before = contents(made.folder)
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "shard-00002.mmsa"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(
        {"cut": data[:-7], "empty": b"", "foreign": b"P" * len(data)}.get(damage, data)
    )
    if damage == "gone":
        path.unlink()
    shards = ShardSet.open(tmp_path)
    with pytest.raises(ShardError, match="shard-00002.mmsa.*make the same call"):
        list(shards)
    featurize(tmp_path)
    assert "made again" in caplog.text
    assert contents(tmp_path) == before


def test_a_valid_shard_in_anothers_place_is_noticed(made, tmp_path):
    for name, data in contents(made.folder).items():
        (tmp_path / name).write_bytes(data)
    other = tmp_path / "shard-00001.mmsa"
    (tmp_path / "shard-00000.mmsa").write_bytes(other.read_bytes())
    with pytest.raises(ShardError, match=r"shard-00000\.mmsa"):
        ShardSet.open(tmp_path).records(0)


# --- other settings, other molecules -----------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"settings": ViewSettings(("graph",), seed=3)}, "seed 0 there, 3 here"),
        ({"settings": ViewSettings(("geometry",))}, "modalities .*graph.* there"),
        ({"shard_size": 4}, "shard_size 5 there, 4 here"),
        ({"molecules": ["N", *ROWS[1:]]}, r"other molecules \(those of shard-00000"),
        ({"molecules": [*ROWS[:-1], "N"]}, r"those of shard-00006"),
        ({"molecules": [*ROWS, "N"]}, r"those of shard-00006"),
        ({"molecules": ROWS[:15]}, "there are shards beyond the last of 3"),
        ({"molecules": [*ROWS, "N", "O"]}, "other molecules"),
        ({"molecules": []}, "there are shards beyond"),
    ],
)
def test_one_folder_holds_one_thing(made, change, message):
    before = contents(made.folder)
    with pytest.raises(ShardError, match=message) as caught:
        featurize(made.folder, **change)
    remedy = f"choose another folder (another --output), or delete {made.folder}"
    assert str(caught.value).endswith(remedy)
    assert contents(made.folder) == before


def test_one_more_full_shard_is_other_molecules_too(tmp_path):
    featurize(tmp_path, ROWS[:5])
    with pytest.raises(ShardError, match=r"shard-00001\.mmsa would be one more"):
        featurize(tmp_path, ROWS[:10])


def test_settings_are_known_even_without_the_manifest(made, tmp_path):
    for name, data in contents(made.folder).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ShardError, match="made with other settings"):
        featurize(tmp_path, settings=ViewSettings(("graph",), seed=1))
    (tmp_path / "manifest.json").write_text("{")
    featurize(tmp_path)
    assert contents(tmp_path) == contents(made.folder)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"shard_size": 0}, ValueError, "shard_size must be 1 to 100000, got 0"),
        ({"shard_size": 100_001}, ValueError, "shard_size must be 1 to 100000, got 100001"),
        ({"molecules": "CCO"}, TypeError, "not one text"),
    ],
)
def test_bad_arguments(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        featurize(tmp_path, **arguments)


# --- the folder --------------------------------------------------------------------------------


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    started, done = tmp_path / "started", tmp_path / "done"
    folder = tmp_path / "shards"

    def slow():
        started.touch()
        while not done.exists():
            time.sleep(0.01)
        yield from ROWS

    pid = in_child(lambda: featurize(folder, slow()))
    while not started.exists():
        time.sleep(0.01)
    with pytest.raises(ShardError, match="another process is writing shards to"):
        featurize(folder)
    done.touch()
    assert os.waitpid(pid, 0)[1] == 0
    assert len(featurize(folder)) == len(ROWS)


def test_the_lock_ends_with_a_killed_process(tmp_path):
    folder, started = tmp_path / "shards", tmp_path / "started"

    def endless():
        yield from ROWS[:5]
        started.touch()
        time.sleep(60)

    pid = in_child(lambda: featurize(folder, endless(), contained=True))
    while not started.exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(featurize(folder)) == len(ROWS)


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_removed_under_the_job(tmp_path, again):
    folder = tmp_path / "shards"

    def rows():
        yield from ROWS[:12]
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        if again:
            folder.mkdir()
        yield from ROWS[12:]

    with pytest.raises(ShardError, match="was removed or replaced while shards were written"):
        featurize(folder, rows())
    assert not list(folder.glob("*"))


def test_a_full_disk_leaves_nothing_half_written(made, tmp_path):
    """A limit on the size of files stands in for the disk's."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
        with pytest.raises(ShardError, match="the shards before it are kept: make room"):
            featurize(tmp_path, shard_size=5)

    assert os.waitpid(in_child(limited), 0)[1] == 0
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size > 300]
    with pytest.raises(ShardError):
        ShardSet.open(tmp_path)
    featurize(tmp_path)
    assert contents(tmp_path) == contents(made.folder)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match="choose a folder that can be written to"):
        featurize(tmp_path / "file")

    def without_rights():
        os.chmod(tmp_path, 0o555)
        if os.geteuid() == 0:  # whom permissions do not bind
            os.seteuid(65534)
        with pytest.raises(ShardError, match="choose a folder that can be written to"):
            featurize(tmp_path)

    try:
        assert os.waitpid(in_child(without_rights), 0)[1] == 0
    finally:
        os.chmod(tmp_path, 0o755)


# --- folders of strangers ----------------------------------------------------------------------


class Malice:
    def __reduce__(self):
        return os.mkdir, ("/tmp/executed-by-a-shard",)


def stranger(made, folder, **changes):
    for name, data in contents(made.folder).items():
        (folder / name).write_bytes(data)
    described = json.loads((folder / "manifest.json").read_text())
    described.update(changes)
    (folder / "manifest.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize("name", ["../shard-00000.mmsa", "/etc/passwd", "..", "a/b", "", 3, None])
def test_names_cannot_leave_the_folder(made, tmp_path, name):
    shards = json.loads((made.folder / "manifest.json").read_text())["shards"]
    shards[0]["name"] = name
    with pytest.raises(ShardError, match="manifest.json is damaged"):
        ShardSet.open(stranger(made, tmp_path, shards=shards))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"settings": {"modalities": ["graph"], "command": "rm"}},
        {"settings": {"modalities": ["graph"], "image_size": 1e9}},
        {"settings": []},
        {"shards": "all"},
        {"shards": [{"name": "shard-00000.mmsa", "rows": 10**9, "bytes": 1, "sha256": ""}]},
        {"shards": [{"name": "shard-00000.mmsa", "rows": -1, "bytes": 1, "sha256": ""}]},
        {"shards": [{"name": "shard-00000.mmsa", "rows": 0, "bytes": 1, "sha256": ""}]},
        {"shards": [{"name": "shard-00000.mmsa", "rows": 1, "bytes": "1", "sha256": ""}]},
        {"shards": [{"name": "shard-00000.mmsa"}]},
        {"shards": [["shard-00000.mmsa", 1, 1, ""]]},
    ],
)
def test_a_manifest_is_believed_only_where_it_makes_sense(made, tmp_path, changes):
    with pytest.raises(ShardError, match=r"manifest\.json"):
        ShardSet.open(stranger(made, tmp_path, **changes))


def test_sizes_are_bounded_before_anything_is_read(made, tmp_path):
    folder = stranger(made, tmp_path)
    with open(folder / "shard-00000.mmsa", "r+b") as out:
        out.truncate(1 << 40)  # takes no space
    with pytest.raises(ShardError, match="has 1099511627776 bytes"):
        ShardSet.open(folder).records(0)
    with open(folder / "manifest.json", "r+b") as out:
        out.truncate(1 << 40)
    with pytest.raises(ShardError, match="larger than any manifest"):
        ShardSet.open(folder)


def test_a_pickle_is_refused_everywhere(made, tmp_path):
    evil = pickle.dumps(Malice())
    stranger(made, tmp_path)
    for name in ("shard-00000.mmsa", "manifest.json"):
        (tmp_path / name).write_bytes(evil)
        with pytest.raises(ShardError):
            ShardSet.open(tmp_path).records(0)
        stranger(made, tmp_path)
    whole = file.pack([MoleculeViews("C").to_bytes()[:4] + evil], bytes(32), bytes(32))
    with pytest.raises(ValueError, match="MoleculeViews"):
        list(file.unpack(whole, "shard").records())
    assert not os.path.exists("/tmp/executed-by-a-shard")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_of_a_byte_is_noticed(made, data):
    whole = bytearray((made.folder / "shard-00003.mmsa").read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ShardError):
        file.unpack(bytes(whole), "shard")


def test_a_table_is_no_column_of_molecules(tmp_path):
    with pytest.raises(TypeError, match="not the table"):
        featurize_to_shards(pd.DataFrame({"smiles": ["C"]}), tmp_path, ViewSettings(("graph",)))
