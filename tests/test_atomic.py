"""Files that are whole or not there."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deepchem_mmsa.atomic import remove_leftovers, write_atomically, write_text, write_together


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(name):
        with open(name, "w") as file:
            file.write("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path, umask):
    """It is asked for when the package is imported: in another process."""
    code = (
        "import os, sys; os.umask(int(sys.argv[2])); from pathlib import Path;"
        "from deepchem_mmsa.atomic import write_atomically;"
        "write_atomically(sys.argv[1], lambda name: Path(name).write_text('x') and None)"
    )
    path = tmp_path / "a.txt"
    subprocess.run([sys.executable, "-c", code, str(path), str(umask)], check=True)
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~umask


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_file_is_on_disk_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    """Or a power cut could leave an empty file of that name."""
    done, flush, rename = [], os.fsync, os.replace

    def flushed(handle):
        done.append(("flush", os.fstat(handle).st_ino))
        flush(handle)

    def renamed(source, target):
        done.append(("rename", os.stat(source).st_ino))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(tmp_path / "a.txt", "new")
    file, folder = (os.stat(place).st_ino for place in (tmp_path / "a.txt", tmp_path))
    assert done == [("flush", file), ("rename", file), ("flush", folder)]


def test_files_that_belong_together_are_renamed_when_all_are_whole(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text("old")

    def contents():
        return [path.read_text() for path in paths]

    def write(name):
        assert contents() == ["old"] * 3
        Path(name).write_text("new")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as failed:
        write_together({paths[0]: write, paths[1]: fail, paths[2]: write})
    assert (failed.value.errno, failed.value.filename) == (28, str(paths[1]))
    assert contents() == ["old"] * 3
    write_together(dict.fromkeys(paths, write), lambda: write(tmp_path / "before"))
    assert contents() == ["new"] * 3
    assert set(tmp_path.iterdir()) == {*paths, tmp_path / "before"}


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "a[1].csv"
    code = (
        "import os, sys; from deepchem_mmsa.atomic import write_atomically;"
        "write_atomically(sys.argv[1], lambda name: os._exit(9))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    (leftover,) = tmp_path.iterdir()
    others = [
        path,
        *(
            tmp_path / f".{name}"
            for name in ("a[1].csv.original", "a1.csv.12345678.part", "a[1].csv.gz.12345678.part")
        ),
    ]
    for other in others:
        other.touch()
    remove_leftovers(path)
    assert not leftover.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_where_files_have_no_modes_and_folders_cannot_be_flushed(tmp_path, monkeypatch):
    """FAT refuses the one, SMB the other."""
    flush = os.fsync

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def of_files(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(handle)

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fsync", of_files)
    write_text(tmp_path / "a.txt", "there")
    assert (tmp_path / "a.txt").read_text() == "there"


def test_a_folder_that_fails_to_be_flushed_is_told(tmp_path, monkeypatch):
    def fail(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a.txt", "there")
