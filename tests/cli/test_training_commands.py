"""featurize, pretrain, finetune: folders that go on, and serve each other."""

import json
import shutil
import signal
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from deepchem_mmsa import MMSAModel
from deepchem_mmsa.cli import training
from deepchem_mmsa.run_folder import RunFolder
from deepchem_mmsa.shards import ShardSet
from deepchem_mmsa.shards.writing import LOCK
from deepchem_mmsa.views import ViewSettings
from tests.cli.small import TINY


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


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
@pytest.mark.parametrize("start", ["folder", "mmsa-small", None])
def test_a_model_to_give_away_names_no_folder_of_its_author(
    mmsa, labelled, models, tmp_path, command, start
):
    label = ["-l", "long"] if command == "finetune" else []
    begin = models["pretraining"] if start == "folder" else start
    how = TINY if start is None else ["--from-model", begin]
    done = mmsa(command, labelled, "-o", tmp_path / "run", *label, "--epochs", 1, *how)
    assert done.exit_code == 0, done.output
    described = (tmp_path / "run" / "config.json").read_text()
    assert str(tmp_path.parent) not in described
    notes = json.loads(described)["metadata"]
    assert notes["data"] == labelled.name
    assert notes["from_model"] == ("pretraining" if start == "folder" else start)
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (kept["data"], kept["from_model"]) == (str(labelled), begin)


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
    assert "--modalities image,graph,geometry, or --set 'modalities=[graph]'" in done.stderr
    # Of the views of weights, only those that are in the records can be set.
    done = mmsa("pretrain", tmp_path / "r", "-o", tmp_path / "p3", "--from-model", "mmsa-small")
    assert "the network also reads fingerprint" in done.stderr
    assert "--modalities graph,fingerprint, or --set 'modalities=[graph]'" in done.stderr
    mmsa_json("featurize", labelled, "-o", tmp_path / "g", "--modalities", "geometry")
    done = mmsa("pretrain", tmp_path / "g", "-o", tmp_path / "p3", "--from-model", "mmsa-small")
    assert "--modalities graph,fingerprint" in done.stderr
    assert "--set" not in done.stderr


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


def test_a_folder_that_another_run_holds_is_left_alone(mmsa, labelled, tmp_path):
    with RunFolder(tmp_path / "run" / "checkpoints"):
        done = mmsa("pretrain", labelled, "-o", tmp_path / "run", *TINY)
    assert done.exit_code == 5, done.output
    assert "is training into" in done.stderr


def test_a_run_that_another_one_overtakes_is_refused(mmsa, labelled, tmp_path, monkeypatch):
    with ExitStack() as other:  # which begins between the first look and the training
        folder = RunFolder(tmp_path / "run" / "checkpoints")
        monkeypatch.setattr(training, "note_run", lambda *_: other.enter_context(folder))
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
        (["--learning-rate", "0.1"], "--learning-rate (0.0005, not 0.1)"),
        (["--set=graph_dropout=0.5"], "graph_dropout"),
        (["--patience", "3"], "--patience (10, not 3)"),
        (["--valid", "0.2"], "--valid"),
        (["--test", "0.2"], "--test"),
    ):
        done = finetune("--resume", *more)
        assert done.exit_code in (2, 3), done.output
        assert word in done.stderr.replace("\n", " ")
    frame = pd.read_csv(labelled, float_precision="round_trip")
    frame["name"] = "other"
    frame.to_csv(labelled, index=False)
    assert finetune("--resume", "--epochs", 2).exit_code == 0
    frame.loc[0, "carbons"] = 0.9
    frame.to_csv(labelled, index=False)
    done = finetune("--resume", "--epochs", 3)
    assert (done.exit_code, "another input" in done.stderr) == (2, True)


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


def test_a_run_that_is_not_finished_is_no_model(mmsa, table, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for command in (["predict", table, "-m"], ["embed", table, "-m"], ["info"]):
        for begun in (False, True):  # without a checkpoint, --resume is refused
            (checkpoints / "checkpoint1.pt").unlink(missing_ok=True)
            if begun:
                (checkpoints / "checkpoint1.pt").touch()
            done = mmsa(*command, tmp_path / "run")
            assert done.exit_code == 4, done.output
            assert ("resume it with --resume" in done.stderr) is begun


def test_a_folder_of_runs_names_the_models_in_it(mmsa, table, models, tmp_path):
    runs = tmp_path / "runs"
    (runs / "notes").mkdir(parents=True)
    done = mmsa("predict", table, "-m", runs)
    assert (done.exit_code, done.stderr) == (
        4, f"mmsa predict: {runs} is not an exported MMSA model (no config.json in it)\n"
    )  # fmt: skip
    shutil.copytree(models["regression"], runs / "one")
    shutil.copytree(models["regression"], runs / "two" / "model0")
    shutil.copytree(models["regression"], runs / "two" / "model1")
    done = mmsa("predict", table, "-m", runs)
    assert done.stderr.endswith(f"models inside: {runs / 'one'}, {runs / 'two'}\n")


def test_one_is_no_plural(mmsa, tmp_path):
    (tmp_path / "one.csv").write_text("smiles\nCCO\n")
    (tmp_path / "two.csv").write_text("smiles\nCCO\nCCN\n")
    done = mmsa("featurize", tmp_path / "one.csv", "-o", tmp_path / "a", "--modalities", "graph")
    assert "1 row in 1 shard in" in done.stderr
    done = mmsa("embed", tmp_path / "one.csv", "-o", tmp_path / "a.csv")
    assert "1 row computed in" in done.stderr
    done = mmsa("pretrain", tmp_path / "two.csv", "-o", tmp_path / "b", "--epochs", 1, *TINY)
    assert "for 1 epoch, loss" in done.stderr


def test_pretraining_on_records_names_the_molecules(mmsa, labelled, tmp_path):
    records = tmp_path / "records"
    assert mmsa("featurize", labelled, "-o", records, "--modalities", "graph").exit_code == 0
    done = mmsa("pretrain", records, "-o", tmp_path / "run", "--epochs", 1, *TINY)
    assert done.exit_code == 0, done.output
    rows = [(folder / "rows.csv").read_text() for folder in (records, tmp_path / "run")]
    assert rows[0] == rows[1]


def test_pretraining_on_the_folders_of_several_jobs_is_that_on_one(mmsa, labelled, tmp_path):
    table = pd.read_csv(labelled, dtype=str)
    for name, rows in (("a", slice(20)), ("b", slice(20, None))):
        table[rows].to_csv(tmp_path / f"{name}.csv", index=False)
        asked = (tmp_path / f"{name}.csv", "-o", tmp_path / "parts" / name)
        assert mmsa("featurize", *asked, "--modalities", "graph").exit_code == 0
    whole = mmsa("featurize", labelled, "-o", tmp_path / "whole", "--modalities", "graph",
                 "--shard-size", 20)  # fmt: skip
    assert whole.exit_code == 0
    for name in ("parts", "whole"):
        done = mmsa(
            "pretrain", tmp_path / name, "-o", tmp_path / f"run-{name}", "--epochs", 1, *TINY
        )
        assert done.exit_code == 0, done.output
        assert ("41 rows of 2 folders" in done.stderr) == (name == "parts")
        assert "the first is row 41" in done.stderr
    for name in ("rows.csv", "history.csv", "model.safetensors"):
        parts, whole = (tmp_path / f"run-{kind}" / name for kind in ("parts", "whole"))
        assert parts.read_bytes() == whole.read_bytes()


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
    done = mmsa(*run, base, "--epochs", 2, "--resume", "--seed", 1)
    told = "started with another --seed (0, not 1)"
    assert (done.exit_code, told in done.stderr.replace("\n", " ")) == (2, True), done.output


def test_an_exported_model_is_not_overwritten(mmsa, labelled, models, tmp_path):
    shutil.copytree(models["regression"], tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    done = mmsa("finetune", labelled, "--label", "long", "-o", tmp_path / "model", *TINY)
    assert (done.exit_code, "holds a run already" in done.stderr) == (5, True)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("featurize", "rows.csv"),
        ("pretrain", "rows.csv"),
        ("finetune", "rows.csv"),
        ("finetune", "test_predictions.csv"),
        ("explain", "explanations.csv"),
    ],
)
def test_the_input_is_not_replaced(mmsa, labelled, models, tmp_path, command, name):
    table = labelled.rename(tmp_path / name)
    before = table.read_bytes()
    arguments = {
        "featurize": ["--modalities", "graph"], "pretrain": TINY,
        "finetune": ["--label", "long", *TINY], "explain": ["-m", models["regression"]],
    }  # fmt: skip
    done = mmsa(command, table, "-o", tmp_path, *arguments[command])
    assert done.exit_code == 5, done.output
    assert f"{table} is the input, which this command would replace" in done.stderr
    assert table.read_bytes() == before


def test_a_model_without_checkpoints_is_not_said_to_be_resumable(mmsa, labelled, models, tmp_path):
    shutil.copytree(models["regression"], tmp_path / "model")
    asked = ["finetune", labelled, "--label", "long", "-o", tmp_path / "model", *TINY]
    done = mmsa(*asked, "--resume")
    assert done.exit_code == 5
    assert "no checkpoint to resume from; give another --output" in done.stderr


def test_resume_begins_where_there_is_no_checkpoint_yet(mmsa, labelled, tmp_path):
    """A job of a cluster asks for it from its first start on."""
    for name, label in {"pretrain": (), "finetune": ("--label", "long")}.items():
        run = tmp_path / name
        run.mkdir()
        (run / "run.json").write_text("{}")  # of a run that was killed before its first checkpoint
        done = mmsa(name, labelled, *label, *TINY, "-o", run, "--epochs", 1, "--resume")
        assert done.exit_code == 0, done.output
        assert f"{run} holds no checkpoint to resume from: a new run begins" in done.stderr
        assert training.begun_networks(run)


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_names_the_remedy_of_the_command_alone(
    mmsa, labelled, tmp_path, monkeypatch, caplog, number
):
    enter = MMSAModel._enter_step

    def interrupted(self, batch, step, total):
        signal.raise_signal(number)
        enter(self, batch, step, total)

    monkeypatch.setattr(MMSAModel, "_enter_step", interrupted)
    done = mmsa("pretrain", labelled, *TINY, "-o", tmp_path / "run", "--epochs", 1)
    assert done.exit_code == 128 + number, done.output
    assert "add --resume to the command" in done.stderr
    assert "restore=True" not in done.stderr + caplog.text


def test_a_corrected_table_is_told_which_folder_is_in_its_way(mmsa, labelled, tmp_path):
    asked = ["-l", "long", "-o", tmp_path / "run", "--epochs", 1, *TINY]
    (tmp_path / "few.csv").write_text("smiles,long\nCCO,0\nC1CC,1\n")
    assert mmsa("finetune", tmp_path / "few.csv", *asked).exit_code != 0
    records = tmp_path / "run" / "records"
    assert records.is_dir()
    done = mmsa("finetune", labelled, *asked)
    assert done.exit_code == 5, done.output
    assert f"another --output), or delete {records}\n" in done.stderr
    shutil.rmtree(records)
    assert mmsa("finetune", labelled, *asked).exit_code == 0


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


def test_a_run_can_be_followed_in_the_log_of_a_job(mmsa, labelled, tmp_path, monkeypatch):
    """Without a terminal: how far it is, and what it has learnt so far."""
    (tmp_path / "many.csv").write_text("smiles\n" + "".join(f"{'C' * n}O\n" for n in range(201)))
    asked = (tmp_path / "many.csv", "-o", tmp_path / "records", "--modalities", "graph")
    assert "201/201" in mmsa("featurize", *asked).stderr
    close, files = training.HistoryFile.on_epoch_end, []

    def followed(self, model, epoch):
        close(self, model, epoch)
        files.append(pd.read_csv(self.folder / "history.csv")["epoch"].tolist())

    monkeypatch.setattr(training.HistoryFile, "on_epoch_end", followed)
    for command, *more in (("pretrain",), ("finetune", "--label", "long", "--split", "part")):
        run = tmp_path / command
        done = mmsa(command, labelled, *more, "-o", run, "--epochs", 2, *TINY)
        assert done.exit_code == 0, done.output
        assert "100% " in done.stderr
        assert "epoch 2 loss " in done.stderr
        quiet = mmsa(command, labelled, *more, "-o", run / "quiet", "--epochs", 1, "--quiet", *TINY)
        assert quiet.stderr == ""
    assert files == [[1], [1, 2], [1]] * 2


@pytest.mark.parametrize("at", ["in training", "before it"])
def test_a_shard_that_was_damaged_since_is_named(mmsa, labelled, tmp_path, at):
    records = tmp_path / "records"
    assert mmsa("featurize", labelled, "-o", records, "--modalities", "graph").exit_code == 0
    place = records / "shard-00000.mmsa"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    if at == "before it":
        (records / "rows.csv").unlink()
    done = mmsa("pretrain", records, "-o", tmp_path / "run", "--epochs", 1, *TINY)
    assert done.exit_code == 3, done.output
    assert f"{place} is damaged" in done.stderr


def test_a_killed_pretraining_goes_on_from_its_last_epoch(mmsa, tmp_path, monkeypatch):
    """Epochs of 100 steps or more end with a checkpoint, short ones share one."""
    (tmp_path / "a.csv").write_text("smiles\n" + "".join(f"{'C' * n}O\n" for n in range(240)))
    saved = []
    monkeypatch.setattr(
        MMSAModel, "save_checkpoint", lambda self, *_: saved.append(self._global_step)
    )
    for size, steps in ((2, [120, 240, 240]), (24, [20])):
        saved.clear()
        run = tmp_path / str(size)
        asked = (
            "pretrain",
            tmp_path / "a.csv",
            "-o",
            run,
            "--epochs",
            2,
            "--batch-size",
            size,
            *TINY,
        )
        assert mmsa(*asked).exit_code == 0
        assert saved == steps


@pytest.mark.parametrize("command", [["pretrain"], ["finetune", "--label", "long"]])
def test_several_processes_do_not_write_one_folder(mmsa, labelled, tmp_path, monkeypatch, command):
    for name, value in (
        ("RANK", 0),
        ("WORLD_SIZE", 2),
        ("MASTER_ADDR", "here"),
        ("MASTER_PORT", 1),
    ):
        monkeypatch.setenv(name, str(value))
    done = mmsa(command[0], labelled, *command[1:], "-o", tmp_path / "run", *TINY)
    assert done.exit_code == 2
    assert "examples/distributed_pretraining.py" in done.stderr
    assert not (tmp_path / "run").exists()
