"""featurize, pretrain, finetune: folders that go on, and serve each other."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from filelock import FileLock

from deepchem_mmsa import MMSAModel
from deepchem_mmsa.run_folder import RunFolder
from deepchem_mmsa.shards import ShardSet
from deepchem_mmsa.shards.writing import LOCK
from deepchem_mmsa.views import ViewSettings
from tests.fixtures import SMILES

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "classification.yaml"
TINY = [
    "--preset=small",
    *(f"--set={field}" for field in (
        "modalities=[graph]", "graph_width=16", "graph_layers=2", "embedding_dim=16",
        "n_anchors=8", "n_neighbors=4", "head_width=16", "image_size=32",
    )),
]  # fmt: skip


@pytest.fixture
def labelled(tmp_path):
    """Forty molecules with two labels and a split, and a row that is none."""
    path = tmp_path / "data.csv"
    frame = pd.DataFrame({"smiles": SMILES, "name": [f"m{i}" for i in range(len(SMILES))]})
    frame["long"] = [len(s) > 8 for s in SMILES]
    frame["carbons"] = [s.lower().count("c") / len(s) for s in SMILES]
    frame["part"] = ["train"] * 24 + ["valid"] * 8 + ["Test"] * 8
    frame.loc[len(frame)] = ["C1CC", "bad", True, 0.1, "train"]
    frame.to_csv(path, index=False)
    return path


def test_featurize_keeps_every_row_and_goes_on(mmsa, mmsa_json, labelled, tmp_path, monkeypatch):
    from deepchem_mmsa.shards import file

    command = [
        "featurize", labelled, "-o", tmp_path / "r", "--modalities", "graph,image",
        "--image-size", 32, "--shard-size", 10,
    ]  # fmt: skip
    pack, packed = file.pack, []

    def interrupted(*arguments):
        packed.append(1)
        if len(packed) == 3:
            raise KeyboardInterrupt
        return pack(*arguments)

    monkeypatch.setattr(file, "pack", interrupted)
    stopped = mmsa(*command)
    assert stopped.exit_code == 130
    assert "same command again" in stopped.stderr
    said = mmsa_json(*command)
    assert len(packed) == 3 + 3  # two shards were there
    assert (said["rows"], said["failed"], said["shards"]) == (41, 1, 5)
    rows = pd.read_csv(tmp_path / "r" / "rows.csv")
    assert rows["status"].tolist() == ["ok"] * 40 + ["failed"]
    assert rows["name"].tolist() == pd.read_csv(labelled)["name"].tolist()
    assert ShardSet.open(tmp_path / "r").settings.image_size == 32


def test_featurize_refuses_an_unknown_view(mmsa, labelled, tmp_path):
    done = mmsa("featurize", labelled, "-o", tmp_path / "r", "--modalities", "picture")
    assert done.exit_code == 2
    assert "picture" in done.stderr


def test_pretrain_then_finetune_then_predict(mmsa, mmsa_json, labelled, tmp_path):
    pre, run = tmp_path / "pre", tmp_path / "run"
    said = mmsa_json("pretrain", labelled, "-o", pre, "--epochs", 2, "--batch-size", 16, *TINY)
    assert (said["molecules"], said["failed"], said["epochs"]) == (40, 1, 2)
    said = mmsa_json(
        "finetune", labelled, "-o", run, "--label", "long", "--from-model", pre, "--split", "part",
        "--epochs", 3, "--batch-size", 8, "--workers", 1,
    )  # fmt: skip
    assert said["mode"] == "classification"
    assert said["molecules"] == {"train": 24, "valid": 8, "test": 8}
    assert said["failed"] == 1
    assert set(said["scores"]["test"]) == {"roc_auc", "pr_auc"}
    assert json.loads((run / "metrics.json").read_text())["scores"] == said["scores"]
    rows = pd.read_csv(run / "rows.csv")
    assert rows["split"].fillna("").tolist() == ["train"] * 24 + ["valid"] * 8 + ["test"] * 8 + [""]
    assert len(pd.read_csv(run / "history.csv")) == said["epochs"]
    kept = pd.read_csv(run / "test_predictions.csv")
    assert mmsa("predict", labelled, "-m", run, "-o", tmp_path / "p.csv").exit_code == 0
    again = pd.read_csv(tmp_path / "p.csv").iloc[32:40]
    assert np.allclose(kept["probability_long"], again["probability_long"], atol=1e-5)


def test_pretrain_takes_what_featurize_made(mmsa, mmsa_json, labelled, tmp_path):
    mmsa_json("featurize", labelled, "-o", tmp_path / "r", "--modalities", "graph")
    said = mmsa_json(
        "pretrain", tmp_path / "r", "-o", tmp_path / "pre", "--epochs", 1, "--batch-size", 16,
        "--workers", 2, *TINY,
    )  # fmt: skip
    assert said["molecules"] == 40
    done = mmsa("pretrain", tmp_path / "r", "-o", tmp_path / "pre2")
    assert done.exit_code == 3
    assert "holds graph, the network also reads image, geometry" in done.stderr


def test_an_interrupted_run_goes_on_and_is_not_begun_over(
    mmsa, mmsa_json, labelled, tmp_path, monkeypatch
):
    command = ["finetune", labelled, "--label", "carbons", "--split", "random", "--batch-size", 8,
               "--epochs", 4, *TINY]  # fmt: skip
    straight = mmsa_json(*command, "-o", tmp_path / "straight")
    assert straight["mode"] == "regression"
    enter, seen = MMSAModel._enter_step, []

    def interrupted(self, batch, step, total):
        seen.append(step)
        if len(seen) == total // 2:
            signal.raise_signal(signal.SIGINT)
        enter(self, batch, step, total)

    monkeypatch.setattr(MMSAModel, "_enter_step", interrupted)
    run = tmp_path / "run"
    stopped = mmsa(*command, "-o", run)
    assert stopped.exit_code == 130, stopped.output
    assert "--resume" in stopped.stderr
    refused = mmsa(*command, "-o", run)
    assert refused.exit_code == 5
    assert "--resume" in refused.stderr
    resumed = mmsa_json(*command, "-o", run, "--resume")
    assert resumed["scores"] == straight["scores"]
    assert (run / "model.safetensors").read_bytes() == (
        tmp_path / "straight" / "model.safetensors"
    ).read_bytes()
    refused = mmsa(*command, "-o", tmp_path / "new", "--resume")
    assert "no checkpoint" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "2 columns hold numbers"),
        (["--label", "lnog"], "did you mean 'long'"),
        (["--label", "name"], "'m0' is not a number"),
        (["--label", "long", "--split", "name"], "write train, valid or test"),
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


def test_a_folder_that_another_run_holds_is_left_alone(mmsa, labelled, tmp_path):
    with RunFolder(tmp_path / "run" / "checkpoints"):
        done = mmsa("pretrain", labelled, "-o", tmp_path / "run", *TINY)
    assert done.exit_code == 5, done.output
    assert "is training into" in done.stderr


# ---- what a run goes on with, and what it says ------------------------------------------


def test_a_run_goes_on_with_what_it_began_with(mmsa, labelled, tmp_path):
    def finetune(*more):
        run = ["-o", tmp_path / "run", "--label", "carbons", "--epochs", 1]
        return mmsa("finetune", labelled, *run, *TINY, *more)

    assert finetune().exit_code == 0
    for more, word in (
        (["--split", "random"], "--split (scaffold, not random)"),
        (["--label", "part2"], "no column 'part2'"),
        (["--learning-rate", "0.1"], "learning_rate (0.0005, not 0.1)"),
        (["--set=graph_dropout=0.5"], "graph_dropout"),
        (["--patience", "3"], "--patience (10, not 3)"),
        (["--valid", "0.2"], "--valid"),
        (["--test", "0.2"], "--test"),
    ):
        done = finetune("--resume", *more)
        assert done.exit_code in (2, 3), done.output
        assert word in done.stderr.replace("\n", " ")
    frame = pd.read_csv(labelled)
    frame["name"] = "other"
    frame.to_csv(labelled, index=False)
    assert finetune("--resume", "--epochs", 2).exit_code == 0
    frame.loc[0, "carbons"] = 0.9
    frame.to_csv(labelled, index=False)
    done = finetune("--resume", "--epochs", 3)
    assert (done.exit_code, "another input" in done.stderr) == (2, True)


def test_r2_is_the_share_of_variance(mmsa_json, labelled, tmp_path):
    said = mmsa_json(
        "finetune", labelled, "-o", tmp_path / "run", "-l", "carbons", "--split", "part", *TINY
    )
    table = pd.read_csv(tmp_path / "run" / "test_predictions.csv")
    error = ((table["carbons"] - table["predicted_carbons"]) ** 2).sum()
    spread = ((table["carbons"] - table["carbons"].mean()) ** 2).sum()
    assert said["scores"]["test"]["r2"] == pytest.approx(1 - error / spread, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set=learning_rate=7"], 2, "learning_rate follows from --learning-rate"),
        (["--set=n_classes=3"], 2, "n_classes follows from the labels"),
        (["--set=modalities=[graph"], 2, "the value is not YAML"),
        (["--set=head_dropout=abc"], 2, "--set 'head_dropout=abc': "),
        (["--jobs", "0"], 2, "must not be 0"),
        (["--device", "abacus"], 2, "--device abacus"),
        (["--learning-rate", "1e12", "--epochs", "1"], 6, "lower"),
    ],
)
def test_what_is_wrong_is_said_with_its_code(mmsa, labelled, tmp_path, arguments, code, words):
    done = mmsa("finetune", labelled, "-o", tmp_path / "run", "-l", "carbons", *TINY, *arguments)
    assert done.exit_code == code, done.output
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.output


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


def test_a_run_that_is_not_finished_is_no_model(mmsa, table, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for command in (["predict", table, "-m"], ["embed", table, "-m"], ["info"]):
        done = mmsa(*command, tmp_path / "run")
        assert done.exit_code == 4, done.output
        assert "resume it with --resume" in done.stderr


def test_pretraining_on_records_names_the_molecules(mmsa, labelled, tmp_path):
    records = tmp_path / "records"
    assert mmsa("featurize", labelled, "-o", records, "--modalities", "graph").exit_code == 0
    done = mmsa("pretrain", records, "-o", tmp_path / "run", "--epochs", 1, *TINY)
    assert done.exit_code == 0, done.output
    rows = [(folder / "rows.csv").read_text() for folder in (records, tmp_path / "run")]
    assert rows[0] == rows[1]


def test_a_table_s_own_columns_stay_as_they_were_written(mmsa, tmp_path):
    text = "id,smiles,batch\n" + "".join(f"{n:03},{'C' * n}O,1.50\n" for n in range(1, 13))
    (tmp_path / "a.csv").write_text(text)
    asked = (tmp_path / "a.csv", "-o", tmp_path / "records", "--modalities", "graph")
    assert mmsa("featurize", *asked).exit_code == 0
    run = tmp_path / "run"
    assert mmsa("pretrain", tmp_path / "records", "-o", run, "--epochs", 1, *TINY).exit_code == 0
    assert (run / "rows.csv").read_text().splitlines()[1] == "001,CO,1.50,ok,"


def test_the_columns_of_a_table_do_not_decide_what_is_trained_on(mmsa, mmsa_json, tmp_path):
    """A table's own status is no status of ours; other molecules are another run."""
    rows = [(f"{'C' * n}O", "ok" if n % 3 else "sold") for n in range(1, 31)]
    pd.DataFrame([("C1CC", "ok"), *rows], columns=["smiles", "status"]).to_csv(
        tmp_path / "a.csv", index=False
    )
    pd.DataFrame({"smiles": [f"{'C' * n}N" for n in range(1, 32)]}).to_csv(
        tmp_path / "b.csv", index=False
    )
    for name in "ab":
        mmsa_json("featurize", tmp_path / f"{name}.csv", "--output", tmp_path / name,
                  "--modalities", "graph")  # fmt: skip
    asked = ("--output", tmp_path / "run", *TINY)
    done = mmsa_json("pretrain", tmp_path / "a", *asked, "--epochs", 1)
    assert (done["molecules"], done["failed"]) == (30, 1)
    told = pd.read_csv(tmp_path / "run" / "rows.csv")
    assert told["smiles"].tolist()[1:3] == ["CO", "CCO"]
    assert told["given_status"].tolist()[1:4] == ["ok", "ok", "sold"]
    assert told["status"].tolist()[:3] == ["failed", "ok", "ok"]
    again = mmsa("pretrain", tmp_path / "b", *asked, "--epochs", 2, "--resume")
    assert again.exit_code == 2
    assert "was started with another input" in again.output


def test_records_are_made_as_prediction_makes_them(mmsa, labelled, tmp_path):
    """What is not asked for is the same in featurize, finetune and predict."""
    done = mmsa("featurize", labelled, "-o", tmp_path / "r", "--modalities", "graph")
    assert done.exit_code == 0, done.output
    assert ShardSet.open(tmp_path / "r").settings == ViewSettings(("graph",))


def test_a_table_without_any_molecule_is_an_input_error(mmsa, tmp_path):
    (tmp_path / "a.csv").write_text("smiles\nC1CC\nnone\n")
    asked = ("featurize", tmp_path / "a.csv", "--output", tmp_path / "o", "--modalities", "graph")
    done = mmsa(*asked)
    assert done.exit_code == 3
    assert "no row of" in done.output
    done = mmsa(*asked, "--timeout", "inf")
    assert done.exit_code == 2
    assert "must be 0 to 86400 seconds" in done.output


# ---- several networks --------------------------------------------------------------------


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


def test_several_networks_go_on_where_they_were(mmsa, mmsa_json, labelled, tmp_path, monkeypatch):
    command = ["finetune", labelled, "-l", "carbons", "--split", "part", "--batch-size", 8,
               "--epochs", 2, *TINY]  # fmt: skip
    alone, command = command, [*command, "--n-models", 2]
    straight, run = tmp_path / "straight", tmp_path / "run"
    mmsa_json(*command, "-o", straight)
    enter, seen = MMSAModel._enter_step, []

    def interrupted(self, batch, step, total):
        seen.append(step)
        if len(seen) == total + 2:  # in the second network
            signal.raise_signal(signal.SIGINT)
        enter(self, batch, step, total)

    monkeypatch.setattr(MMSAModel, "_enter_step", interrupted)
    assert mmsa(*command, "-o", run).exit_code == 130
    for asked in (["predict", labelled, "-m", run], ["explain", labelled, "-m", run, "-o", "why"]):
        done = mmsa(*asked)
        assert done.exit_code == 4, done.output
        assert "resume it with --resume" in done.stderr
    assert mmsa(*command, "-o", run).exit_code == 5
    other = mmsa(*alone, "-o", run, "--resume")
    assert "was started with another --n-models (2, not None)" in other.stderr.replace("\n", " ")
    mmsa_json(*command, "-o", run, "--resume")
    for model in ("model0", "model1"):
        files = [folder / model / "model.safetensors" for folder in (run, straight)]
        assert files[0].read_bytes() == files[1].read_bytes()
    for asked in (["info", run], ["explain", labelled, "-m", run, "-o", tmp_path / "why"]):
        done = mmsa(*asked)
        assert done.exit_code == 4, done.output
        assert "holds 2 models, model0 to model1" in done.stderr.replace("\n", " ")


def test_a_resumed_run_begins_with_the_same_model(mmsa, labelled, tmp_path):
    base, other = tmp_path / "base", tmp_path / "other"
    assert mmsa("pretrain", labelled, "-o", base, "--epochs", 1, *TINY).exit_code == 0
    shutil.copytree(base, other)
    run = ["pretrain", labelled, "-o", tmp_path / "run", "--from-model"]
    assert mmsa(*run, base, "--epochs", 1).exit_code == 0
    done = mmsa(*run, other, "--epochs", 2, "--resume")
    assert (done.exit_code, "another --from-model" in done.stderr) == (2, True), done.output


def test_an_exported_model_is_not_overwritten(mmsa, labelled, models, tmp_path):
    shutil.copytree(models["regression"], tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    done = mmsa("finetune", labelled, "--label", "long", "-o", tmp_path / "model", *TINY)
    assert (done.exit_code, "holds a run already" in done.stderr) == (5, True)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_a_refused_run_leaves_the_notes_of_the_first(mmsa, labelled, tmp_path):
    """The first one is still making its records, and has no checkpoint yet."""
    run = tmp_path / "run"
    asked = ["finetune", labelled, "--label", "long", "-o", run, *TINY]
    (run / "records").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    with FileLock(run / "records" / LOCK):
        done = mmsa(*asked)
    assert done.exit_code != 0
    assert (run / "run.json").read_text() == "{}"


def test_an_interruption_says_whether_there_is_a_checkpoint(mmsa, labelled, tmp_path, monkeypatch):
    def fit(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(MMSAModel, "fit", fit)
    done = mmsa("finetune", labelled, "--label", "long", "-o", tmp_path / "run", *TINY)
    assert done.exit_code == 130
    assert "no checkpoint yet" in done.stderr
    assert "--resume" not in done.stderr


def test_notes_of_a_run_that_are_damaged_are_named(mmsa, labelled, tmp_path):
    run = ["finetune", labelled, "--label", "long", "-o", tmp_path / "run", "--epochs", 1, *TINY]
    assert mmsa(*run).exit_code == 0
    (tmp_path / "run" / "run.json").write_text('{"--split":')
    done = mmsa(*run, "--resume")
    assert (done.exit_code, "run.json is damaged" in done.stderr) == (5, True)


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
    parts = pd.read_csv(tmp_path / "run" / "rows.csv", keep_default_na=False)["split"]
    assert parts[[3, 5, len(frame) - 1]].tolist() == ["", "", ""]


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
