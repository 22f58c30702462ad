"""predict, embed, neighbors, explain: one row out per row in, whatever happens on the way."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepchem_mmsa import MMSAPredictor, progress
from deepchem_mmsa.applicability import ApplicabilityDomain
from deepchem_mmsa.cli import rows
from deepchem_mmsa.cli.records import as_file
from deepchem_mmsa.cli.rows import column_of_other
from deepchem_mmsa.ensemble import dropout_spread, ensemble_spread
from deepchem_mmsa.explain import explain
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.tables import count_rows
from deepchem_mmsa.views import ViewSettings
from tests.conftest import DRUGS

SMILES = ["CCO", "C1CC", "", "c1ccccc1", "CCN"]


def test_predict_gives_what_python_gives_row_by_row(mmsa_json, models, table, tmp_path):
    out = tmp_path / "out.csv"
    said = mmsa_json("predict", table, "--model", models["classification"], "--output", out)
    assert (said["rows"], said["computed"], said["failed"]) == (5, 3, 2)
    frame = pd.read_csv(out, keep_default_na=False)
    assert list(frame.columns) == [
        "id", "SMILES", "status", "probability_a", "probability_b", "mmsa_status", "reason",
    ]  # fmt: skip
    assert frame["id"].tolist() == ["a", "b", "", "d", "e"]
    assert frame["status"].tolist() == ["x", "y", "", "z", "w"]
    assert frame["mmsa_status"].tolist() == ["ok", "failed", "failed", "ok", "ok"]
    assert "unclosed ring" in frame["reason"][1]
    assert "empty" in frame["reason"][2]
    values = MMSAPredictor.from_pretrained(models["classification"]).predict(SMILES).values
    got = frame[["probability_a", "probability_b"]].replace("", np.nan).astype(float)
    assert np.allclose(got, values[:, :, 1], atol=1e-6, equal_nan=True)


def test_a_regression_speaks_in_the_units_of_its_label(mmsa, models, table):
    done = mmsa("predict", table, "--model", models["regression"], "--quiet")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "id,SMILES,status,predicted_logS,mmsa_status,reason"
    assert done.stderr == ""


@pytest.mark.parametrize("mode", ["classification", "regression"])
def test_predictions_say_how_far_to_trust_them(mmsa_json, models, table, tmp_path, mode):
    training = tmp_path / "training.smi"
    training.write_text("\n".join("C" * n + end for n in range(2, 14) for end in "CON"))
    out = tmp_path / "out.csv"
    mmsa_json("predict", table, "--model", models[mode], "--output", out,
              "--uncertainty", "7", "--domain", training)  # fmt: skip
    frame = pd.read_csv(out, skip_blank_lines=False)
    predictor = MMSAPredictor.from_pretrained(models[mode])
    expected = dropout_spread(predictor, SMILES, masks=7)
    names = ["std_a", "std_b"] if mode == "classification" else ["std_logS"]
    std = expected.std[:, :, 1] if mode == "classification" else expected.std
    assert np.allclose(frame[names], std, atol=1e-6, equal_nan=True)
    domain = ApplicabilityDomain(predictor, anchors="training").fit(
        training.read_text().splitlines()
    )
    assert np.allclose(frame["domain"], domain.score(SMILES), equal_nan=True)
    assert frame["domain"].isna().tolist() == [False, True, True, False, False]
    # No digits beyond those of a network's answer.
    lines = csv.DictReader(io.StringIO(out.read_text()))
    assert max(len(row[name]) for row in lines for name in (*names, "domain")) <= 14


@pytest.mark.parametrize("mode", ["classification", "regression"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_several_models_are_averaged(mmsa_json, models, table, tmp_path, make_model, mode, jobs):
    tasks = {"classification": ["a", "b"], "regression": ["logS"]}[mode]
    make_model(mode=mode, tasks=tasks, n_tasks=len(tasks), seed=1).save_pretrained(tmp_path / "2")
    folders = [models[mode], tmp_path / "2"]
    out = tmp_path / "out.csv"
    mmsa_json("predict", table, "-m", folders[0], "-m", folders[1], "-o", out, "-j", jobs)
    frame = pd.read_csv(out, skip_blank_lines=False)
    members = [MMSAPredictor.from_pretrained(folder) for folder in folders]
    expected = ensemble_spread(members, SMILES)
    assert (expected.std[0] > 0).all()
    for name, values in (("probability", expected.values), ("std", expected.std)):
        if mode == "regression":
            name = name.replace("probability", "predicted")
        else:
            values = values[:, :, 1]
        columns = [f"{name}_{task}" for task in tasks]
        assert np.allclose(frame[columns], values, atol=1e-6, equal_nan=True)
    assert frame["mmsa_status"].tolist() == ["ok", "failed", "failed", "ok", "ok"]


@pytest.mark.parametrize(
    "others, said, code",
    [
        (["classification"], "model 2 has the mode classification of 2 classes, model 1", 4),
        (["pretraining"], "was pre-trained only", 4),
        (["regression", "--uncertainty", "5"], "of one model", 2),
        (["nowhere"], "nowhere", 4),
    ],
)
def test_models_that_cannot_be_averaged_are_refused(mmsa, models, table, others, said, code):
    other = models.get(others[0], others[0])
    done = mmsa("predict", table, "-m", models["regression"], "-m", other, *others[1:])
    assert done.exit_code == code
    assert said in " ".join(done.stderr.replace("│", " ").split())
    if said.startswith("model 2"):
        assert f"(1: {models['regression']}, 2: {other})" in done.stderr


def test_each_of_several_classes_has_its_column(mmsa_json, table, tmp_path, make_model):
    model = make_model(mode="classification", n_classes=3, tasks=["kind"])
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "out.csv"
    mmsa_json("predict", table, "-m", tmp_path / "model", "-o", out, "--uncertainty", 3)
    frame = pd.read_csv(out, skip_blank_lines=False)
    predictor = MMSAPredictor.from_pretrained(tmp_path / "model")
    spread = dropout_spread(predictor, SMILES, masks=3)
    values = predictor.predict(SMILES).values
    assert len(np.unique(values[0])) == 3
    for name, wanted in (("probability", values), ("std", spread.std)):
        columns = [f"{name}_kind_{c}" for c in range(3)]
        assert np.allclose(frame[columns], wanted[:, 0], atol=1e-6, equal_nan=True)


def test_a_model_without_dropout_has_no_masks(mmsa, table, tmp_path, make_model):
    still = dict.fromkeys(("graph_dropout", "hypergraph_dropout", "head_dropout"), 0)
    make_model(mode="regression", **still).save_pretrained(tmp_path / "model")
    done = mmsa("predict", table, "-m", tmp_path / "model", "--uncertainty", 5)
    assert done.exit_code == 4
    assert "has no dropout, so --uncertainty has nothing to sample" in done.stderr


@pytest.mark.parametrize(
    "domain, said, code",
    [
        ("-", "must be a file", 2),
        ("few.smi", "at least 16 are needed", 3),
        ("fewer.smi", "few.smi?", 3),
    ],
)
def test_a_domain_of_too_little_is_refused(mmsa, models, table, tmp_path, domain, said, code):
    (tmp_path / "few.smi").write_text("CCO\nCCN\n")
    given = domain if domain == "-" else tmp_path / domain
    done = mmsa("predict", table, "--model", models["regression"], "--domain", given)
    assert done.exit_code == code
    assert said in done.stderr


def test_embeddings_do_not_depend_on_format_chunk_or_batch(
    mmsa_json, models, table, tmp_path, monkeypatch
):
    model = ["--model", models["pretraining"]]
    mmsa_json("embed", table, *model, "-o", tmp_path / "whole.parquet")
    monkeypatch.setattr(rows, "CHUNK", 2)
    mmsa_json("embed", table, *model, "-o", tmp_path / "parts.csv.gz", "--batch-size", "1")
    whole = pd.read_parquet(tmp_path / "whole.parquet").filter(like="embedding")
    parts = pd.read_csv(tmp_path / "parts.csv.gz", skip_blank_lines=False).filter(like="embedding")
    assert whole.shape == (5, 16)
    assert np.allclose(whole, parts, atol=1e-5, equal_nan=True)
    assert np.isnan(whole.to_numpy()).all(axis=1).tolist() == [False, True, True, False, False]


def test_the_encoders_outputs_have_columns_of_their_own(mmsa_json, models, table, tmp_path):
    out = tmp_path / "out.csv"
    mmsa_json("embed", table, "--model", models["pretraining"], "--features", "-o", out)
    found = pd.read_csv(out, skip_blank_lines=False).filter(regex="^(graph|embedding)_[0-9]+$")
    assert list(found) == [f"{n}_{i}" for n in ("graph", "embedding") for i in range(16)]
    values, _ = MMSAPredictor.from_pretrained(models["pretraining"]).features(SMILES)
    np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_becomes_lines_of_json(mmsa, models, table, packed):
    given = gzip.compress(table.read_bytes()) if packed else table.read_bytes()
    done = mmsa("predict", "-", "--model", models["regression"], "--json", input=given)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "", "d", "e"]
    assert lines[1]["predicted_logS"] is None
    assert json.loads(done.stderr)["failed"] == 2


def test_the_nearest_molecule_of_a_molecule_is_itself(mmsa, models, table, tmp_path):
    out = tmp_path / "near.csv"
    done = mmsa(
        "neighbors", table, "-r", table, "-k", 2, "-m", models["pretraining"], "-o", out
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "2 rows" in done.stderr
    near = pd.read_csv(out, keep_default_na=False)
    assert near["neighbor_1"].tolist() == ["CCO", "", "", "c1ccccc1", "CCN"]
    assert near["row_1"].tolist() == ["1", "", "", "4", "5"]
    known = near[near["mmsa_status"] == "ok"]
    assert np.allclose(known["similarity_1"].astype(float), 1, atol=1e-5)
    assert (known["similarity_2"].astype(float) <= known["similarity_1"].astype(float)).all()
    assert (known["neighbor_2"] != known["neighbor_1"]).all()


def test_neighbours_are_named_where_the_reference_has_names(mmsa, models, tmp_path, monkeypatch):
    (tmp_path / "in.smi").write_text("CCO\nC1CC\nCCN\n")
    (tmp_path / "known.csv").write_text(
        "pIC50,smiles,active,Compound,note\n>5,CCN,true,Amine,x\n6,CCO,false,,\n7,C,,Methane,y\n"
    )
    (tmp_path / "bare.csv").write_text("pIC50,smiles\n5,CCN\n6,CCO\n")
    command = ["neighbors", tmp_path / "in.smi", "-m", models["pretraining"], "-k", 1]
    done = mmsa(*command, "-r", tmp_path / "known.csv", "--quiet")
    near = pd.read_csv(io.StringIO(done.stdout), keep_default_na=False)
    assert near["name_1"].tolist() == ["", "", "Amine"]
    assert near["row_1"].tolist() == ["2", "", "1"]
    assert "name_1" not in mmsa(*command, "-r", tmp_path / "bare.csv").stdout
    # One column for all of a reference that is read in parts.
    (tmp_path / "known.csv").write_text("smiles,Compound,note\nCCN,Amine,x\nCCO,,\nC,,y\n")
    monkeypatch.setattr(rows, "CHUNK", 2)
    done = mmsa(*command[:-1], 3, "-r", tmp_path / "known.csv", "--quiet")
    near = pd.read_csv(io.StringIO(done.stdout), keep_default_na=False)
    assert set(near.filter(like="name_").to_numpy().ravel()) == {"", "Amine"}


def test_neighbours_are_those_of_the_largest_cosine(
    mmsa_json, models, table, tmp_path, monkeypatch
):
    """All of the reference that can be read, where more are asked for; without a matrix of all."""
    monkeypatch.delattr("sklearn.neighbors._base.pairwise_distances_chunked")
    known = [*DRUGS[:4], "C1CC", *DRUGS[4:12]]
    (tmp_path / "known.csv").write_text("\n".join(["smiles", *known]))
    out, model = tmp_path / "near.parquet", models["pretraining"]
    command = ["neighbors", table, "-r", tmp_path / "known.csv", "-k", 20, "-m", model]
    mmsa_json(*command, "-o", out)
    near = pd.read_parquet(out)
    predictor = MMSAPredictor.from_pretrained(model)
    queries, found = (predictor.embed(given).values.astype(float) for given in (SMILES, known))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    readable = np.arange(len(known)) != 4
    for row in (0, 3, 4):
        cosine = found @ queries[row] / np.linalg.norm(queries[row])
        order = near.loc[row, [f"row_{rank}" for rank in range(1, 13)]].to_numpy(int) - 1
        told = near.loc[row, [f"similarity_{rank}" for rank in range(1, 13)]].to_numpy(float)
        assert sorted(order) == np.flatnonzero(readable).tolist()
        np.testing.assert_allclose(told, np.sort(cosine[readable])[::-1], atol=1e-5)
        np.testing.assert_allclose(told, cosine[order], atol=1e-5)
        assert near.loc[row, "neighbor_7"] == known[order[6]]
        assert told[-1] < told[0]
    assert "row_13" not in near


@pytest.mark.parametrize("command", ["neighbors", "explain"])
def test_a_reference_that_cannot_serve_is_refused(mmsa, models, table, tmp_path, command):
    model = models["regression"]
    done = mmsa(command, table, "-r", "-", "-m", model, "-o", tmp_path / "out.csv")
    assert (done.exit_code, "must be a file" in done.stderr) == (2, True)
    if command == "neighbors":
        (tmp_path / "none.smi").write_text("C1CC\n(\n")
        done = mmsa(command, table, "-r", tmp_path / "none.smi", "-m", model)
        assert done.exit_code == 3
        assert "none.smi can be embedded" in done.stderr


def test_explain_writes_a_page_per_row(mmsa, models, table, tmp_path):
    pytest.importorskip("captum")
    done = mmsa("explain", table, "-m", models["regression"], "-o", tmp_path / "why", "--svg")
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(tmp_path / "why" / "explanations.csv", keep_default_na=False)
    assert frame["page"].tolist() == ["00001.html", "", "", "00004.html", "00005.html"]
    assert "<svg" in (tmp_path / "why" / "00004.html").read_text()
    assert (tmp_path / "why" / "00004.svg").is_file()
    values = MMSAPredictor.from_pretrained(models["regression"]).predict(SMILES).values[:, 0]
    got = pd.to_numeric(frame["prediction"], errors="coerce")
    assert np.allclose(got, values, atol=1e-5, equal_nan=True)
    assert frame["mmsa_status"].tolist() == ["ok", "failed", "failed", "ok", "ok"]


def test_explain_explains_the_asked_class_of_the_asked_task_of_each_row(mmsa, models, tmp_path):
    """As Python does, of more rows than are kept at a time; each page is that of its row."""
    pytest.importorskip("captum")
    given = ["C" * n + "O" for n in range(1, 12)] + ["C1CC", "CCN"]
    (tmp_path / "in.csv").write_text("\n".join(["smiles", *given]))
    (tmp_path / "known.smi").write_text("CCCCF\nCCCl\n")
    model, run = models["classification"], tmp_path / "why"
    command = ["explain", tmp_path / "in.csv", "-m", model, "-o", run, "--reference"]
    done = mmsa(*command, tmp_path / "known.smi", "--task", "b", "--target", "0")
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(run / "explanations.csv")
    pages = [f"{row + 1:05d}.html" for row in range(len(given)) if row != 11]
    assert frame["page"].dropna().tolist() == pages
    assert set(frame["class"].dropna()) == {0}
    assert sorted(path.name for path in run.glob("0*.html")) == pages
    predictor = MMSAPredictor.from_pretrained(model)
    for row in (0, 10, 12):
        why = explain(predictor, given[row], "b", 0)
        told = frame.loc[row, ["prediction", "output", "baseline", "share_graph"]]
        wanted = [why.prediction, why.output, why.baseline, why.views[0].share]
        assert told.tolist() == pytest.approx(wanted, abs=1e-5)
        assert abs(why.output - why.baseline) > 1e-3
        page = (run / frame["page"][row]).read_text(encoding="utf-8")
        assert f">{given[row]}<" in page
        assert "CCCCF" in page
        assert "CCCl" in page


def test_neither_deepchem_nor_dgl_is_loaded(models, table, tmp_path):
    code = f"""
import sys
from deepchem_mmsa.cli import app
for command in (
    ["predict", "--model", {models["regression"]!r}, "-o", "p.csv"],
    ["embed", "--model", {models["pretraining"]!r}, "-o", "e.csv"],
    ["featurize", "-o", "f", "--modalities", "graph"],
):
    try:
        app([command[0], {str(table)!r}, *command[1:]])
    except SystemExit as ended:
        assert not ended.code, ended.code
print([m for m in ("deepchem", "dgl", "dgllife") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert {"p.csv", "e.csv", "f"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account")
def test_memory_stays_flat(models, tmp_path):
    code = """
import sys
from deepchem_mmsa.cli import app
try:
    app(["embed", sys.argv[1], "--model", sys.argv[2], "-o", sys.argv[1] + ".out.csv", "--quiet"])
except SystemExit as ended:
    assert not ended.code, ended.code
# Not ru_maxrss, which begins with the size of the process that started this one.
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    peaks = []
    for n in (6_000, 24_000):
        path = tmp_path / f"{n}.csv"
        path.write_text("smiles,note\n" + f"CCO,{'x' * 1000}\n" * n)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), models["pretraining"]],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 9, peaks  # MB; 18 MB of text lie between them


def test_the_domain_is_learnt_while_records_are_made(mmsa, models, tmp_path):
    table = tmp_path / "many.csv"
    table.write_text("smiles\n" + "\n".join("C" * n + "O" for n in range(1, 60)) + "\n")
    told = []
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}.csv"
        done = mmsa("predict", table, "-m", models["regression"], "--domain", table, "-o", out,
                    "--jobs", jobs)  # fmt: skip
        assert done.exit_code == 0, done.output
        told.append(out.read_bytes())
    assert told[0] == told[1]


# ---- a second table -----------------------------------------------------------------------


def test_the_columns_of_two_tables_are_named_apart(mmsa, models, tmp_path):
    for name, column in (("in", "Compound"), ("same", "Compound"), ("other", "Ligand")):
        (tmp_path / f"{name}.csv").write_text("\n".join([column, *DRUGS[:25]]))
    model = models["regression"]
    for command, option in (
        (["neighbors"], "--reference"),
        (["predict"], "--domain"),
        (["explain", "-o", tmp_path / "why"], "--reference"),
    ):
        given = [*command, tmp_path / "in.csv", "-m", model, "--smiles-column", "Compound", option]
        done = mmsa(*given, tmp_path / "same.csv")
        assert done.exit_code == 0, done.output
        refused = mmsa(*given, tmp_path / "other.csv")
        assert refused.exit_code == 3
        assert f"name it by {option}-column" in refused.stderr
        done = mmsa(*given, tmp_path / "other.csv", f"{option}-column", "Ligand")
        assert done.exit_code == 0, done.output


def test_the_column_of_the_input_serves_a_second_table_that_has_it(tmp_path):
    """Its rows are counted by it too, where nothing else tells what is one (a lone tab)."""
    path = str(tmp_path / "other.csv")
    Path(path).write_text("Compound\tname\nCCO\tethanol, neat\nCCN\tamine\n")
    assert column_of_other(path, None, "Compound") == "Compound"
    assert column_of_other(path, None, "Ligand") is None
    assert column_of_other(path, "name", "Compound") == "name"
    assert column_of_other(path, None, None) is None
    assert count_rows(path, column_of_other(path, None, "Compound")) == 2


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["explain", "-m", "regression", "--target", "1"], "has no classes"),
        (["explain", "-m", "classification", "--target", "2"], "classes of"),
        (["explain", "-m", "classification", "--target", "-1"], "are 0 to 1"),
        (["explain", "-m", "classification", "--task", "c"], "its tasks are: a, b"),
        (
            ["predict", "-m", "regression", "--uncertainty", "1"],
            "standard deviation needs at least 2 masks",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_row(
    mmsa, models, table, tmp_path, command, words
):
    given = [models.get(word, word) for word in command]
    done = mmsa(given[0], table, *given[1:], "-o", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.output.replace("│", " ").split())


def test_explain_needs_labels_and_a_folder_of_its_own(mmsa, models, table, tmp_path):
    done = mmsa("explain", table, "-m", models["pretraining"], "-o", tmp_path / "why")
    assert (done.exit_code, "was pre-trained only" in done.stderr) == (4, True)
    done = mmsa("explain", table, "-m", models["regression"], "-o", table)
    assert (done.exit_code, f"cannot write to {table}" in done.stderr) == (5, True)


# ---- the domain of a run, models given twice, pipes ----------------------------------------


def test_the_domain_of_a_run_is_that_of_its_training_rows(mmsa, models, table, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    parts = ["train"] * 22 + ["valid", "test", ""]
    frame = pd.DataFrame({"smiles": DRUGS[:25], "status": "ok", "split": parts})
    frame.to_csv(run / "rows.csv", index=False)
    frame[:22].to_csv(tmp_path / "train.csv", index=False)
    told = [
        mmsa("predict", table, "-m", models["regression"], "--domain", domain)
        for domain in (run, tmp_path / "train.csv", tmp_path)
    ]
    assert told[0].exit_code == 0, told[0].output
    assert told[0].stdout == told[1].stdout
    assert told[2].exit_code == 3
    assert "not the folder of mmsa finetune" in told[2].stderr


def test_the_domain_of_a_run_takes_the_records_of_its_training(mmsa, models, table, tmp_path):
    """Making them again would take longest, and lose geometries that came from a file."""
    run = tmp_path / "run"
    run.mkdir()
    parts = ["train"] * 22 + ["valid", "test", ""]
    frame = pd.DataFrame({"smiles": DRUGS[:25], "status": "ok", "split": parts})
    frame.to_csv(run / "rows.csv", index=False)

    def told():
        done = mmsa("predict", table, "-m", models["regression"], "--domain", run)
        assert done.exit_code == 0, done.output
        return done.stdout

    made_anew = told()
    settings = MMSAPredictor.from_pretrained(models["regression"]).settings
    featurize_to_shards(DRUGS[:25], run / "records", settings, shard_size=10)
    frame.assign(smiles="C").to_csv(run / "rows.csv", index=False)
    assert told() == made_anew
    # Records that are not those of the rows, or not what this model reads, are made again.
    frame[:24].to_csv(run / "rows.csv", index=False)
    assert told() == made_anew
    shutil.rmtree(run / "records")
    featurize_to_shards(DRUGS[:24], run / "records", ViewSettings(("fingerprint",)))
    assert told() == made_anew
    (run / "records" / "shard-00000.mmsa").write_bytes(b"damaged")
    assert told() == made_anew


def test_a_model_is_not_averaged_with_itself(mmsa, models, table):
    done = mmsa("predict", table, "-m", models["regression"], "-m", models["regression"])
    assert done.exit_code == 2
    # In a box, whose lines break after the length of the path.
    assert "is given twice" in " ".join(done.stderr.replace("│", " ").split())


def test_a_workbook_gets_its_remedy_from_every_command(mmsa, models, tmp_path):
    path = tmp_path / "x.xlsx"
    path.write_bytes(b"PK\x03\x04rest")
    for command in (["predict", "-m", models["regression"]], ["featurize"]):
        done = mmsa(command[0], path, *command[1:], "-o", tmp_path / "out.csv")
        assert (done.exit_code, "an Excel workbook" in done.stderr) == (3, True), done.output


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read_once_and_whole(mmsa, models, table, tmp_path):
    expected = mmsa("predict", table, "-m", models["regression"]).stdout
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(table.read_bytes()), daemon=True)
    writer.start()
    assert mmsa("predict", pipe, "-m", models["regression"]).stdout == expected


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="cannot list open files here")
def test_the_copy_of_a_pipe_is_closed_while_it_is_read():
    """Windows opens no file twice."""
    reading, writing = os.pipe()
    os.write(writing, b"smiles\nCCO\n")
    os.close(writing)
    with as_file(f"/dev/fd/{reading}") as copy:
        held = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
        assert os.path.realpath(copy) not in held
        assert Path(copy).read_bytes() == b"smiles\nCCO\n"
    os.close(reading)
    assert not os.path.exists(copy)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no limits of file sizes here")
def test_no_room_for_the_copy_of_a_pipe_names_the_folder_and_the_remedy(models, tmp_path):
    sdf = b"\n\n\n  0  0  0  0  0  0            999 V2000\nM  END\n$$$$\n" * 40_000
    for command in (["featurize", "--output", "views"], ["embed", "--model", models["regression"]]):
        code = (
            "import resource, sys, tempfile\nfrom deepchem_mmsa.cli import main\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            f"sys.argv = ['mmsa', {command[0]!r}, '-', *{command[1:]!r}]\nmain()"
        )
        room = {**os.environ, "TMPDIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], input=sdf, capture_output=True, cwd=tmp_path, env=room
        )
        told = f"make room, set TMPDIR to another folder, or give a file: '{tmp_path}'"
        assert (done.returncode, told in done.stderr.decode()) == (5, True), done.stderr
        assert os.listdir(tmp_path) == []


def test_a_log_shows_the_progress_of_long_commands_only(mmsa, models, table, monkeypatch):
    asked = ("predict", table, "-m", models["regression"], "-o", table.with_name("out.csv"))
    assert "mol/s" not in mmsa(*asked).stderr
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    done = mmsa(*asked)
    assert re.search(r"^predict: 100% 5/5 .*mol/s\]$", done.stderr, re.MULTILINE), done.stderr
    assert "mol/s" not in mmsa(*asked, "--quiet").stderr
