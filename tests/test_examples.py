"""The examples, run at a small size."""

import ast
import contextlib
import csv
import gzip
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deepchem_mmsa.benchmark.overlap import keys_of
from deepchem_mmsa.benchmark.sets import held_out_molecules
from deepchem_mmsa.config import PRESETS, MMSAConfig
from deepchem_mmsa.layers.memory_bank import MOLECULES_PER_ANCHOR
from deepchem_mmsa.molecule import MODALITIES
from tests.conftest import DRUGS

EXAMPLES = Path(__file__).parents[1] / "examples"


def ended(folder, *command):
    """Exit status, stdout and stderr of an example, run here: its imports alone take 5 s."""
    script = EXAMPLES / command[0]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", [str(script), *command[1:]]),
        mock.patch.object(sys, "path", [str(script.parent), *sys.path]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
            if code and left.code != code:
                print(left.code, file=err)
        except Exception:
            code = 1
            traceback.print_exc(file=err)
    return code, out.getvalue(), err.getvalue()


def run(folder, *command):
    code, out, err = ended(folder, *command)
    assert code == 0, err
    return out


def refused(folder, *command):
    code, _, err = ended(folder, *command)
    assert code == 1
    return err


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda p: p.stem)
def test_deepchem_is_loaded_by_the_package_which_hides_its_notes(path):
    """Imported first, it writes twenty lines of missing packages above --help and the results."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            assert not any(name and name.split(".")[0] == "deepchem" for name in names)


def test_molecules_that_can_be_read_are_explained(make_model, tmp_path):
    pytest.importorskip("captum")
    make_model(mode="regression").save_pretrained(tmp_path / "model")
    printed = run(tmp_path, "explain_molecule.py", "C1CC", "CCO", "--model", "model")
    assert printed.startswith("C1CC: unreadable: SMILES Parse Error: unclosed ring")
    assert "\nCCO: " in printed
    assert (tmp_path / "runs" / "explain" / "molecule_2.html").is_file()


def test_first_run_leaves_table_model_and_pictures(tmp_path):
    """In a process of its own, as users run it."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "first_run.py"), "--dataset", "freesolv", "--max-atoms",
         "9", "--pretrain-epochs", "1", "--epochs", "1"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr  # RDKit's, of the drugs whose atoms are counted
    printed = done.stdout
    assert "share an InChIKey block with the 642 labelled molecules" in printed
    for name in ("MMSA", "random forest, ECFP4", "mean"):
        assert name in printed
    output = tmp_path / "runs" / "first"
    assert len(json.loads((output / "results.json").read_text())) == 3
    for name in ("curves.png", "parity.png", "model/model.safetensors", "model/config.json"):
        assert (output / name).stat().st_size > 1000


def bbbp_of_drugs(folder):
    folder.mkdir()
    with open(folder / "BBBP.csv", "w") as file:
        file.write("num,name,p_np,smiles\n")
        for i, smiles in enumerate(DRUGS + ["C1CC"]):
            file.write(f"{i},m{i},{i % 2},{smiles}\n")
    return folder


def test_moleculenet_writes_csv_and_json(tmp_path):
    data = bbbp_of_drugs(tmp_path / "data")
    printed = run(
        tmp_path, "moleculenet.py", "--dataset", "bbbp", "--data-dir", str(data),
        "--modalities", "graph", "--epochs", "2", "--splitter", "random", "--seeds", "0", "1",
    )  # fmt: skip
    assert "1 unreadable row(s) dropped" in printed
    with open(tmp_path / "runs" / "bbbp" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(row["model"], row["seed"]) for row in rows} == {
        (model, seed) for model in ("MMSA", "random forest, ECFP4", "mean") for seed in ("0", "1")
    }
    results = json.loads((tmp_path / "runs" / "bbbp" / "results.json").read_text())
    assert results["sizes"] == [33, 4, 5]
    assert set(results["test"]) == {"MMSA", "random forest, ECFP4", "mean"}
    told = [float(row["test"]) for row in rows if (row["model"], row["task"]) == ("MMSA", "mean")]
    assert results["test"]["MMSA"]["std"] == pytest.approx(np.std(told))


def test_moleculenet_claims_no_spread_of_one_seed(tmp_path):
    data = bbbp_of_drugs(tmp_path / "data")
    printed = run(
        tmp_path, "moleculenet.py", "--dataset", "bbbp", "--data-dir", str(data),
        "--modalities", "graph", "--epochs", "1", "--splitter", "random",
    )  # fmt: skip
    assert "1 seed(s)" in printed
    assert "±" not in printed
    results = json.loads((tmp_path / "runs" / "bbbp" / "results.json").read_text())
    assert {name: of["std"] for name, of in results["test"].items()} == dict.fromkeys(
        results["test"]
    )


def test_moleculenet_scores_the_same_molecules_for_all_models(tmp_path):
    """The one active of the test set has no conformer, as peptides: it counts for all three."""
    rows = [(s, i % 2) for i, s in enumerate(DRUGS[:36])] + [(s, 0) for s in DRUGS[36:39]]
    with open(tmp_path / "BBBP.csv", "w") as file:
        file.write("num,name,p_np,smiles\n")
        for i, (smiles, label) in enumerate([*rows, ("C" * 400, 1)]):
            file.write(f"{i},m{i},{label},{smiles}\n")
    printed = run(
        tmp_path, "moleculenet.py", "--dataset", "bbbp", "--data-dir", ".", "--preset", "small",
        "--modalities", "geometry", "--epochs", "1", "--splitter", "index", "--jobs", "1",
    )  # fmt: skip
    assert "1 test molecule(s) without these views are scored with the mean" in printed
    results = json.loads((tmp_path / "runs" / "bbbp" / "results.json").read_text())
    assert results["sizes"] == [32, 4, 4]
    assert all(np.isfinite(of_model["mean"]) for of_model in results["test"].values())


def test_no_ablation_has_fewer_anchors_than_it_says(monkeypatch):
    """At most one per 8 molecules of the warm-up: K=1024 was K=256 in the small preset."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    variants = runpy.run_path(str(EXAMPLES / "benchmarks" / "ablations.py"))["variants"]
    for preset in PRESETS:
        for name, changes in variants(MODALITIES).items():
            config = MMSAConfig.preset(preset, **changes)
            assert config.memory_warmup // MOLECULES_PER_ANCHOR >= config.n_anchors, (preset, name)


def test_ablations_share_views_and_resume(tmp_path):
    data = bbbp_of_drugs(tmp_path / "data")
    molecules = tmp_path / "molecules.csv"
    molecules.write_text("smiles\n" + "".join(f"{'C' * n}O\n{'C' * n}N\n" for n in range(1, 21)))
    command = [
        "benchmarks/ablations.py", "--input", str(molecules), "--data-dir", str(data),
        "--exclude", "bbbp", "--datasets", "bbbp", "--seeds", "0", "--output", "runs",
        "--modalities", "image", "graph", "--variants", "graph", "k=2", "from scratch",
        "--pretrain-epochs", "1", "--pretrain-batch-size", "16", "--epochs", "1", "--jobs", "1",
        "--set", "image_size=64", "image_width=8", "n_anchors=8",
    ]  # fmt: skip
    run(tmp_path, *command)
    with open(tmp_path / "runs" / "results.csv") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"graph", "k=2", "from scratch"}
    made = tmp_path / "runs" / "pretraining" / "k=2" / "model" / "config.json"
    config = json.loads(made.read_text())["config"]
    assert (config["image_size"], config["n_neighbors"]) == (64, 2)
    before = made.stat().st_mtime_ns
    run(tmp_path, *command)
    assert made.stat().st_mtime_ns == before
    said = refused(tmp_path, *command[:-2], "n_anchors=16", "image_width=8")
    assert "was trained with other settings: give another --output" in said


def test_related_labels_are_of_no_held_out_molecule(tmp_path):
    data = bbbp_of_drugs(tmp_path / "data")
    chains = ["C" * n + end for n in range(1, 16) for end in "ON"]
    with open(data / "SAMPL.csv", "w") as file:
        file.write("smiles,expt\n" + "".join(f"{s},{len(s)}\n" for s in [*DRUGS, *chains]))
    common = ["--data-dir", str(data), "--datasets", "bbbp", "--jobs", "1", "--epochs", "1"]
    printed = run(
        tmp_path, "benchmarks/related_labels.py", *common, "--source", "freesolv", "--output",
        "learnt", "--modalities", "graph",
    )  # fmt: skip
    held_out = frozenset().union(*keys_of(held_out_molecules("bbbp", str(data), ["deepchem"])))
    learnt = set(gzip.decompress((tmp_path / "learnt" / "molecules.txt.gz").read_bytes()).split())
    kept = json.loads(printed.splitlines()[-1])["molecules"]
    assert len(chains) < kept < len(DRUGS) + len(chains)
    assert held_out
    assert not held_out & {key.decode() for key in learnt}
    score = ["benchmarks/moleculenet.py", *common, "--models", "mmsa", "--seeds", "0",
             "--modalities", "graph", "--weights", "learnt/model", "--output", "runs"]  # fmt: skip
    assert "was fine-tuned on labels" in refused(tmp_path, *score)
    assert "bbbp" in run(tmp_path, *score, "--pretraining-keys", "learnt/molecules.txt.gz")


def test_a_pretraining_goes_on_with_what_it_began_with(tmp_path):
    data = bbbp_of_drugs(tmp_path / "data")
    molecules = tmp_path / "molecules.csv"
    molecules.write_text("smiles\n" + "".join(f"{'C' * n}O\n{'C' * n}N\n" for n in range(1, 21)))
    command = [
        "pretrain.py", "--input", str(molecules), "--data-dir", str(data), "--exclude", "bbbp",
        "--modalities", "graph", "--batch-size", "16", "--jobs", "1", "--output", "pre",
        "--epochs", "1", "--set", "graph_width=16", "n_anchors=8",
    ]  # fmt: skip
    run(tmp_path, *command)
    run(tmp_path, *command)
    assert "was started with other settings (w_mask: " in refused(tmp_path, *command, "w_mask=0.25")
    other = [*command[:1], "--smiles-column", "smiles", *command[1:]]
    assert "belongs to other arguments (smiles_column)" in refused(tmp_path, *other)
    with open(data / "BBBP.csv", "a") as file:
        file.write("99,m99,1,CCCCO\n")  # a benchmark that has another test set now
    assert "belongs to other arguments (file of bbbp)" in refused(tmp_path, *command)


def test_a_pretraining_that_is_killed_leaves_no_half_written_choice(tmp_path, monkeypatch):
    """It would end every later start in an error of JSON."""
    molecules = tmp_path / "molecules.csv"
    molecules.write_text("smiles\n" + "".join(f"{'C' * n}O\n" for n in range(1, 21)))
    asked = [
        "pretrain.py", "--input", str(molecules), "--output", str(tmp_path / "pre"), "--exclude",
        "--modalities", "graph", "--jobs", "1", "--epochs", "0",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", asked)

    replace = os.replace

    def killed(written, place):
        if Path(place).name == "selection.json":
            raise OSError("killed")
        replace(written, place)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="could not write this file"):
        runpy.run_path(str(EXAMPLES / "pretrain.py"), run_name="__main__")
    assert not (tmp_path / "pre" / "selection.json").exists()


def test_trust_counts_the_molecules_of_both_halves():
    repeated = runpy.run_path(str(EXAMPLES / "trust.py"))["repeated"]
    train, held = np.array(["CCO", "C1CC", "CCN"]), np.array(["OCC", "C1CC", "CCS", "NCC", "CCO"])
    assert repeated(held, train) == 3  # what cannot be read is no molecule


def test_one_conformer_is_the_benchmark_and_several_are_another_answer(tmp_path):
    data = bbbp_of_drugs(tmp_path / "data")
    common = ["--data-dir", str(data), "--datasets", "bbbp", "--seeds", "0", "--epochs", "2",
              "--jobs", "1", "--set", "geometry_width=16"]  # fmt: skip
    run(tmp_path, "benchmarks/conformers.py", *common, "--choices", "1,1", "2,2", "--output", "a")
    run(
        tmp_path, "benchmarks/moleculenet.py", *common, "--models", "mmsa-scratch",
        "--modalities", "geometry", "--output", "b",
    )  # fmt: skip
    one, two, plain = (
        row for folder in "ab" for row in csv.DictReader((tmp_path / folder / "results.csv").open())
    )
    assert [one["model"], two["model"]] == ["1 → 1", "2 → 2"]
    assert (one["valid"], one["test"]) == (plain["valid"], plain["test"])
    predicted = [
        np.load(next((tmp_path / "a").glob(f"cells/deepchem/bbbp/{name}-*.npz")))["test"]
        for name in ("1-1", "2-2")
    ]
    assert predicted[0].shape == predicted[1].shape
    assert not np.array_equal(*predicted)

    every = ["--models", "1 → 1", "2 → 2", "mmsa-scratch"]
    printed = run(tmp_path, "benchmarks/together.py", "a", "b", *every).splitlines()
    cells = [np.load(path) for path in tmp_path.glob("*/cells/deepchem/bbbp/*.npz")]
    scores = [
        roc_auc_score(
            cells[0][f"{part}_y"], np.mean([cell[part] for cell in cells], axis=0)[..., 1]
        )
        for part in ("valid", "test")
    ]
    told = "{:.3f} / {:.3f}".format(*scores)
    assert printed[-2] == f"| together | 3 | {told} | {told} |"

    for path in list(tmp_path.glob("a/cells/deepchem/bbbp/1-1-*")):
        shutil.copy(path, path.with_stem(f"{path.stem}-otherwise"))
    said = refused(tmp_path, "benchmarks/together.py", "a", "b", *every)
    assert "are one model with two settings: remove one of them" in said
