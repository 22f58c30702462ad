"""Files that are whole or not there."""

import os
import subprocess
import sys

import pytest

from deepchem_mmsa.atomic import remove_leftovers, write_atomically, write_text


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
        *(tmp_path / f".{name}" for name in ("a[1].csv.original", "a1.csv.12345678.part")),
    ]
    for other in others:
        other.touch()
    remove_leftovers(path)
    assert not leftover.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)
