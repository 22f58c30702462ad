"""Overlap: what a benchmark holds out is not pre-trained on, in any of its forms."""

import gzip

import pytest
from joblib import parallel_config

from deepchem_mmsa.benchmark import overlap
from deepchem_mmsa.benchmark.overlap import held_out_keys, keys_of, leave_out, write_keys
from deepchem_mmsa.benchmark.sets import held_out_molecules
from tests.conftest import DRUGS
from tests.fixtures import SMILES


@pytest.mark.parametrize(
    "backend",
    ["sequential", pytest.param("loky", marks=pytest.mark.slow)],  # its workers import deepchem
)
def test_keys_do_not_depend_on_processes(monkeypatch, backend):
    monkeypatch.setattr(overlap, "_CHUNK", 20)
    many = DRUGS + SMILES
    with parallel_config(backend):
        assert keys_of(many, n_jobs=2) == keys_of(many)


def test_what_is_held_out_is_left_out(tmp_path):
    with open(tmp_path / "BBBP.csv", "w") as file:
        file.write("num,name,p_np,smiles\n")
        for i, smiles in enumerate(DRUGS):
            file.write(f"{i},m{i},{i % 2},{smiles}\n")
    held = held_out_molecules("bbbp", str(tmp_path))
    keys = held_out_keys(["bbbp"], str(tmp_path))
    offered = [*held, "Cl." + held[0], "CCCCCCCCCCC", "C1CC"]
    selection = leave_out(offered, keys)
    assert selection.smiles == ["CCCCCCCCCCC"]
    assert selection.dropped == {"bbbp": len(held) + 1}
    assert (selection.n_dropped, selection.n_unreadable) == (len(held) + 1, 1)
    assert selection.keys[0].isdisjoint(keys["bbbp"])


def test_written_keys_are_what_the_check_reads(tmp_path):
    from deepchem_mmsa.benchmark.contenders import _keys_in

    keys = keys_of(["CCO", "Cl.CCCCN"])
    write_keys(keys, tmp_path / "molecules.txt.gz")
    assert _keys_in(str(tmp_path / "molecules.txt.gz")) == keys[0] | keys[1]
    first = (tmp_path / "molecules.txt.gz").read_bytes()
    write_keys(reversed(keys), tmp_path / "molecules.txt.gz")
    assert (tmp_path / "molecules.txt.gz").read_bytes() == first
    assert len(gzip.decompress(first).split()) == 3


def test_a_molecule_that_two_benchmarks_hold_out_is_dropped_once_and_counted_for_both():
    taken = dict.fromkeys(["a", "b"], frozenset(keys_of(["CCO"])[0]))
    selection = leave_out(["CCO", "CCC"], taken)
    assert (selection.dropped, selection.n_dropped) == ({"a": 1, "b": 1}, 1)
