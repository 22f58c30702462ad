"""mmsa benchmark: thin over deepchem_mmsa.benchmark."""

import pandas as pd
import pytest

from deepchem_mmsa.benchmark import Whole


def test_an_unknown_set_is_refused(mmsa, tmp_path):
    done = mmsa("benchmark", "bbpb", "-o", tmp_path / "run")
    assert done.exit_code == 2
    assert "choose from bbbp" in done.stderr


@pytest.mark.slow
def test_models_stand_side_by_side_and_finished_cells_stay(mmsa_json, moleculenet, tmp_path):
    command = [
        "benchmark", "esol", "-o", tmp_path / "run", "--data-dir", moleculenet,
        "--max-molecules", 60, "--epochs", 1, "--preset", "small", "--set", "modalities=[graph]",
        "--set", "graph_width=16", "--set", "embedding_dim=16",
    ]  # fmt: skip
    first = mmsa_json(*command)["results"]
    assert [row["model"] for row in first] == ["mmsa-scratch", "forest", "mean"]
    assert len(pd.read_csv(tmp_path / "run" / "results.csv")) == 3
    cells = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.npz")}
    assert mmsa_json(*command)["results"] == first
    assert cells
    assert {p: p.stat().st_mtime_ns for p in cells} == cells


@pytest.mark.slow
def test_a_set_is_featurized_once_for_both_protocols(mmsa_json, moleculenet, tmp_path, monkeypatch):
    loaded, load = [], Whole.load
    monkeypatch.setattr(Whole, "load", lambda *a: loaded.append(a[0]) or load(*a))
    found = mmsa_json(
        "benchmark", "esol", "freesolv", "-o", tmp_path / "run", "--data-dir", moleculenet,
        "--max-molecules", 60, "--epochs", 1, "--protocol", "deepchem", "--protocol", "hu",
    )["results"]  # fmt: skip
    assert loaded == ["esol", "freesolv"]
    assert {(row["protocol"], row["dataset"]) for row in found} == {
        (protocol, name) for protocol in ("deepchem", "hu") for name in loaded
    }
