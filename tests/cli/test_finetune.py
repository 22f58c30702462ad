"""finetune: what is learnt from which rows, from which weights, and what is said of it."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from deepchem_mmsa import MMSAModel
from deepchem_mmsa.shards import ShardSet
from tests.cli.small import TINY

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "classification.yaml"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "2 columns hold numbers"),
        (["--label", "lnog"], "did you mean 'long'"),
        (["--label", "name"], "'m0' is not a number"),
        (["--label", "long", "--split", "name"], "write train, valid or test"),
        (["--label", "long", "--split", "prt"], "did you mean 'part'"),
        (["--label", "long", "--valid", "0"], "0 of 40 usable rows for valid"),
        (["--label", "carbons", "--mode", "classification"], "is no class; classes are whole"),
        (["--label", "long", "--from-model", "nowhere"], "no shipped model named 'nowhere'"),
    ],
)
def test_a_finetuning_that_cannot_be_is_refused(mmsa, labelled, tmp_path, arguments, words):
    model = [] if "--from-model" in arguments else TINY
    done = mmsa("finetune", labelled, "-o", tmp_path / "run", *arguments, *model)
    assert done.exit_code in (3, 4), done.output
    assert words in done.stderr
    assert "Traceback" not in done.output
    # Nothing is in the way of the corrected command: no view was made.
    assert (tmp_path / "run").exists() is ("--valid" in arguments)


def test_labels_are_learnt_from_the_shipped_weights_unless_a_network_begins_anew(
    mmsa, mmsa_json, labelled, tmp_path
):
    asked = ["finetune", labelled, "--label", "long", "--split", "part", "--epochs", 1]
    mmsa_json(*asked, "-o", tmp_path / "given")
    mmsa_json(*asked, "-o", tmp_path / "named", "--from-model", "mmsa-small")
    files = [tmp_path / name / "model.safetensors" for name in ("given", "named")]
    assert files[0].read_bytes() == files[1].read_bytes()
    for more, code, words in (
        (["--from-model", "mmsa-small", "--preset", "small"], 2, "give one of the two"),
        (["--set=modalities=[image]"], 4, "mmsa-small reads graph, fingerprint, and has no weight"),
        (["--set=graph_width=64"], 4, "--preset small starts from scratch"),
    ):
        done = mmsa(*asked, "-o", tmp_path / "refused", *more)
        assert done.exit_code == code, done.output
        assert words in " ".join(done.stderr.replace("│", " ").split())


def test_r2_is_the_share_of_variance(mmsa_json, labelled, tmp_path):
    said = mmsa_json(
        "finetune", labelled, "-o", tmp_path / "run", "-l", "carbons", "--split", "part", *TINY
    )
    table = pd.read_csv(tmp_path / "run" / "test_predictions.csv")
    error = ((table["carbons"] - table["predicted_carbons"]) ** 2).sum()
    spread = ((table["carbons"] - table["carbons"].mean()) ** 2).sum()
    assert said["scores"]["test"]["r2"] == pytest.approx(1 - error / spread, rel=1e-4)


@pytest.mark.parametrize(
    ("value", "mode", "words"),
    [
        ("inf", "regression", "'inf' is not a finite number"),
        ("-1", "classification", "row 2: the label -1 is no class"),
    ],
)
def test_a_label_that_cannot_be_is_named_by_its_row(mmsa, labelled, tmp_path, value, mode, words):
    frame = pd.read_csv(labelled, dtype={"long": str})
    frame.loc[1, "long"] = value
    frame.to_csv(labelled, index=False)
    done = mmsa("finetune", labelled, "-o", tmp_path / "run", "-l", "long", "--mode", mode, *TINY)
    assert done.exit_code == 3, done.output
    assert words in done.stderr


def test_classes_beside_values_are_told(mmsa, labelled, tmp_path):
    frame = pd.read_csv(labelled)
    frame["active"] = np.arange(len(frame)) % 2
    frame.to_csv(labelled, index=False)
    labels = ["-l", "carbons", "-l", "active"]
    done = mmsa("finetune", labelled, "-o", tmp_path / "run", *labels, *TINY)
    told = " ".join(done.stderr.split())
    assert "active holds only 0 and 1, but is trained as regression" in told
    assert "carbons holds" not in told


def test_scores_of_classes_are_those_of_the_report(mmsa, mmsa_json, labelled, tmp_path):
    frame = pd.read_csv(labelled)
    frame["kind"] = np.arange(len(frame)) % 3
    frame.to_csv(labelled, index=False)
    run, page = tmp_path / "run", tmp_path / "page.html"
    said = mmsa_json(
        "finetune", labelled, "-o", run, "-l", "kind", "--split", "part", "--epochs", 1,
        "--mode", "classification", *TINY,
    )  # fmt: skip
    assert mmsa("report", run, "-o", page, "--resamples", 0).exit_code == 0
    shown = page.read_text(encoding="utf-8")
    assert f"{said['scores']['test']['pr_auc']:.3f}" in shown
    assert "mean of 3 classes" in shown
    assert "mean of the classes" in shown
    assert "mean of the tasks" not in shown
    assert "Positive</th>" not in shown
    done = mmsa("report", run, "-o", tmp_path / "nowhere" / "page.html")
    assert (done.exit_code, "there is no folder" in done.stderr) == (5, True)


def test_labels_that_are_all_the_same_are_told(mmsa, labelled, tmp_path):
    frame = pd.read_csv(labelled)
    frame["one"] = 1
    frame.to_csv(labelled, index=False)
    asked = ["finetune", labelled, "-l", "one", "--split", "part", "--epochs", 1, *TINY]
    done = mmsa(*asked, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "labels of one are all the same in training" in done.stderr
    assert "test: roc_auc" in done.stderr
    assert "Warning" not in done.output


def test_a_class_that_is_missing_in_validation_leaves_the_loss(mmsa_json, labelled, tmp_path):
    frame = pd.read_csv(labelled)
    frame["kind"] = np.where(frame["part"] == "train", np.arange(len(frame)) % 3, 1)
    frame.to_csv(labelled, index=False)
    said = mmsa_json(
        "finetune", labelled, "-o", tmp_path / "run", "-l", "kind", "--split", "part",
        "--mode", "classification", "--epochs", 3, *TINY,
    )  # fmt: skip
    assert said["best_epoch"] is not None


def test_several_networks_are_each_a_run_and_predict_their_mean(
    mmsa, mmsa_json, labelled, tmp_path
):
    asked = ["finetune", labelled, "-l", "carbons", "--split", "part", "--epochs", 2, *TINY]
    run, alone, out = tmp_path / "run", tmp_path / "alone", tmp_path / "p.csv"
    said = mmsa_json(*asked, "-o", run, "--n-models", 2, "--averaging", 0.9)
    mmsa_json(*asked, "-o", alone, "--seed", 1, "--averaging", 0.9)
    weights = [folder / "model.safetensors" for folder in (run / "model1", alone)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert [one["epochs"] for one in said["models"]] == [2, 2]
    assert mmsa("predict", labelled, "-m", run, "-o", out).exit_code == 0
    each = ["-m", run / "model0", "-m", run / "model1"]
    assert mmsa("predict", labelled, *each, "-o", tmp_path / "q.csv").exit_code == 0
    assert out.read_bytes() == (tmp_path / "q.csv").read_bytes()
    told = pd.read_csv(out).iloc[32:40].reset_index(drop=True)
    kept = pd.read_csv(run / "test_predictions.csv")
    for column in ("predicted_carbons", "std_carbons"):
        assert np.allclose(kept[column], told[column], atol=1e-5)
    error = np.sqrt(((kept["carbons"] - kept["predicted_carbons"]) ** 2).mean())
    assert said["scores"]["test"]["rmse"] == pytest.approx(error, rel=1e-4)
    page = mmsa("report", run / "model1", "-o", tmp_path / "page.html", "--resamples", 10)
    assert page.exit_code == 0, page.output


def test_the_recipe_for_classifications_reaches_every_network(mmsa_json, labelled, tmp_path):
    run = tmp_path / "run"
    said = mmsa_json(
        "finetune", labelled, "-l", "long", "--split", "part", "--config", RECIPE, "--epochs", 1,
        "--n-models", 2, "-o", run,
    )  # fmt: skip
    assert len(said["models"]) == 2
    told = json.loads((run / "model1" / "config.json").read_text())["config"]
    asked = yaml.safe_load(RECIPE.read_text())
    assert {name: told[name] for name in asked["set"]} == asked["set"]
    assert json.loads((run / "run.json").read_text())["--averaging"] == asked["averaging"]


def test_the_best_epoch_is_that_of_the_best_score(mmsa_json, labelled, tmp_path):
    for label, column, best in (("long", "valid_roc_auc", "max"), ("carbons", "valid_rmse", "min")):
        run = tmp_path / label
        said = mmsa_json(
            "finetune", labelled, "--label", label, "--split", "part", "-o", run, "--epochs", 6,
            "--learning-rate", 0.01, *TINY,
        )  # fmt: skip
        watched = pd.read_csv(run / "history.csv")[column]
        assert watched[said["best_epoch"] - 1] == getattr(watched, best)(), watched.tolist()
        assert watched.nunique() > 1


def test_rows_without_a_label_take_no_part(mmsa_json, labelled, tmp_path):
    frame = pd.read_csv(labelled)
    frame.loc[[3, 5], "carbons"] = np.nan
    frame.to_csv(labelled, index=False)
    said = mmsa_json(
        "finetune", labelled, "--label", "carbons", "--split", "part", "-o", tmp_path / "run",
        "--epochs", 1, *TINY,
    )  # fmt: skip
    assert said["molecules"] == {"train": 22, "valid": 8, "test": 8}
    rows = pd.read_csv(tmp_path / "run" / "rows.csv", keep_default_na=False)
    left_out = rows.loc[[3, 5, len(frame) - 1]]
    assert left_out["split"].tolist() == ["", "", ""]
    assert left_out["reason"].tolist()[:2] == ["no label", "no label"]
    assert "unclosed ring" in left_out["reason"].iloc[2]
    assert set(rows["reason"].drop(left_out.index)) == {""}


def test_the_names_of_the_table_are_kept_and_reported(mmsa, mmsa_json, labelled, tmp_path):
    asked = ["finetune", labelled, "--label", "carbons", "--split", "part", "--epochs", 1]
    mmsa_json(*asked, "-o", tmp_path / "run", *TINY)
    rows = pd.read_csv(tmp_path / "run" / "rows.csv", keep_default_na=False)
    assert rows["name"].tolist() == pd.read_csv(labelled)["name"].tolist()
    done = mmsa("report", tmp_path / "run", "-o", tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text("utf-8")
    cards = re.findall(r"<h3>row (\d+) · (m\d+)</h3>", page)
    assert cards
    assert all(name == f"m{int(row) - 1}" for row, name in cards)
    assert '"terms":["Split","Row","Name","carbons"' in page


def test_labels_with_decimal_commas_of_a_european_spreadsheet(mmsa, labelled, tmp_path):
    frame = pd.read_csv(labelled)
    frame.to_csv(labelled, index=False, sep=";", decimal=",")
    for label in (["--label", "carbons"], []):
        run = tmp_path / f"run{len(label)}"
        given = labelled
        if not label:  # the only column of numbers is found, too
            given = tmp_path / "two.csv"
            frame[["smiles", "carbons"]].to_csv(given, index=False, sep=";", decimal=",")
        done = mmsa("finetune", given, *label, "-o", run, "--epochs", 1, *TINY)
        assert done.exit_code == 0, done.output
        assert done.stderr.count("commas are read as those of decimals") == 1
        rows = pd.read_csv(run / "rows.csv")
        np.testing.assert_allclose(rows["label carbons"], frame["carbons"])


def test_the_screen_tells_rows_without_a_label_and_scores_of_few_molecules(
    mmsa, labelled, tmp_path
):
    frame = pd.read_csv(labelled)
    frame.loc[[3, 5], "carbons"] = np.nan
    frame.to_csv(labelled, index=False)
    asked = ["finetune", labelled, "--label", "carbons", "--split", "part", "--epochs", 1]
    done = mmsa(*asked, "-o", tmp_path / "run", *TINY)
    assert done.exit_code == 0, done.output
    assert "2 of 41 rows without a label, left out" in done.stderr
    assert "the scores of 8 valid and 8 test molecules are rough" in done.stderr


def test_workers_are_passed_on(mmsa, labelled, tmp_path, monkeypatch):
    asked, fit = [], MMSAModel.fit

    def watched(self, *arguments, n_workers=0, **options):
        asked.append(n_workers)
        return fit(self, *arguments, **options)

    monkeypatch.setattr(MMSAModel, "fit", watched)
    run = ["--label", "long", "--epochs", 1, "--workers", 2, *TINY]
    assert mmsa("finetune", labelled, "-o", tmp_path / "run", *run).exit_code == 0
    assert asked == [2]


def test_images_are_drawn_at_the_size_that_the_weights_have_seen(mmsa, labelled, tmp_path):
    images = ["--set=modalities=[image]", "--epochs", 1]
    records = ["--modalities", "image", "--image-size", 48]
    assert mmsa("featurize", labelled, "-o", tmp_path / "records", *records).exit_code == 0
    base = tmp_path / "base"
    done = mmsa("pretrain", tmp_path / "records", "-o", base, *TINY, *images)
    assert done.exit_code == 0, done.output
    tuned = ["finetune", labelled, "--label", "long", "--from-model", base, "-o", tmp_path / "run"]
    done = mmsa(*tuned, "--epochs", 1)
    assert done.exit_code == 0, done.output
    assert "pixels" not in done.stderr
    assert ShardSet.open(tmp_path / "run" / "records").settings.image_size == 48


def test_words_are_classes_where_that_is_said(mmsa, mmsa_json, labelled, tmp_path):
    frame = pd.read_csv(labelled)
    frame["class"] = np.where(frame["long"], "long", "short")
    frame.loc[2, "class"] = "NA"
    frame.to_csv(labelled, index=False)
    asked = ["finetune", labelled, "--label", "class", "--split", "part", "--epochs", 1, *TINY]
    done = mmsa(*asked, "-o", tmp_path / "auto")
    assert (done.exit_code, "--mode classification" in done.stderr) == (3, True)
    said = mmsa_json(*asked, "-o", tmp_path / "run", "--mode", "classification")
    assert said["molecules"]["train"] == 23
    told = pd.read_csv(tmp_path / "run" / "test_predictions.csv")
    assert told.columns[-1] == "probability_class_short"
    answer = mmsa("predict", labelled, "-m", tmp_path / "run")
    assert "probability_class_short" in answer.stdout.splitlines()[0]
    numbers = frame.assign(**{"class": frame["class"].map({"long": 0, "short": 1})})
    numbers.to_csv(labelled, index=False)
    assert mmsa_json(*asked, "-o", tmp_path / "numbers")["scores"] == said["scores"]


def test_a_score_says_of_which_tasks_it_is(mmsa, labelled, tmp_path):
    frame = pd.read_csv(labelled)
    frame["rare"] = 0
    frame.loc[[0, 25], "rare"] = 1  # one in train, one in valid, none in test
    frame.to_csv(labelled, index=False)
    done = mmsa(
        "finetune", labelled, "--label", "long", "--label", "rare", "--split", "part",
        "-o", tmp_path / "run", "--epochs", 1, *TINY,
    )  # fmt: skip
    assert "test: the mean of roc_auc, pr_auc is over 1 of 2 tasks" in done.stderr, done.output
    assert "valid: the mean" not in done.stderr
    text = (tmp_path / "run" / "metrics.json").read_text()
    told = json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
    assert told["scores_of_tasks"]["test"]["rare"] == {"roc_auc": None, "pr_auc": None}
    assert told["scores_of_tasks"]["test"]["long"]["roc_auc"] == told["scores"]["test"]["roc_auc"]
    json.loads((tmp_path / "run" / "config.json").read_text(), parse_constant=pytest.fail)
