"""The folder of a run: one process writes there, and says who it is."""

import os
import shutil

import pytest

from deepchem_mmsa.atomic import write_atomically
from deepchem_mmsa.run_folder import LOCK, OWNER, FolderInUseError, RunFolder


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    child = os.fork()
    if child == 0:
        write_atomically(tmp_path / "checkpoint1.pt", lambda name: os._exit(9))
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    kept = {"checkpoint1.pt", "checkpoint1.pt.old", ".notes", "a.pt.b"}
    for name in kept:
        (tmp_path / name).touch()
    with RunFolder(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {*kept, LOCK, OWNER}
    assert {path.name for path in tmp_path.iterdir()} == {*kept, LOCK}


@pytest.mark.parametrize("owner", [None, "", "process 7 on node3"])
def test_who_holds_a_folder_is_named_until_it_is_released(tmp_path, owner):
    first = RunFolder(tmp_path)
    with first:
        if owner is None:
            (tmp_path / OWNER).unlink()
        else:
            (tmp_path / OWNER).write_text(owner)
        with pytest.raises(FolderInUseError, match=f"^{owner or 'another process'} is training"):
            RunFolder(tmp_path).__enter__()
    with RunFolder(tmp_path):
        assert str(os.getpid()) in (tmp_path / OWNER).read_text()


def test_a_folder_that_was_replaced_belongs_to_its_new_run(tmp_path):
    folder = tmp_path / "run"
    with RunFolder(folder) as first:
        shutil.rmtree(folder)
        with pytest.raises(FileNotFoundError, match="was removed or replaced"):
            first.check()
        second = RunFolder(folder).__enter__()
        with pytest.raises(FileNotFoundError, match="was removed or replaced"):
            first.check()
    assert (folder / OWNER).exists()
    with pytest.raises(FolderInUseError, match=f"process {os.getpid()} "):
        RunFolder(folder).__enter__()
    second.check()
    second.__exit__()
