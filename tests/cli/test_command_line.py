"""What all commands have in common: help, configuration files, errors and exit codes."""

import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from deepchem_mmsa import __version__
from deepchem_mmsa.cli import app, options
from deepchem_mmsa.cli.console import Console, ExitCode, complain
from tests.old_files import OLD

COMMANDS = [c.callback.__name__ for c in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_begins_with_the_command(mmsa, command):
    done = mmsa(command, "--help")
    assert done.exit_code == 0
    assert f"Example: mmsa {command} " in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_no_wide_column_of_types(mmsa, command):
    """That of `<float range>` and its bounds left 24 of 80 columns for the text."""
    assert "range>" not in mmsa(command, "--help").stdout


@pytest.mark.parametrize("command", app.registered_commands, ids=COMMANDS)
def test_help_is_not_broken_in_mid_sentence_at_80_columns(command):
    """Typer keeps the line ends of all paragraphs but the first."""
    _, *others = inspect.getdoc(command.callback).split("\n\n")
    assert [line for text in others for line in text.splitlines() if len(line) > 78] == []


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom deepchem_mmsa.cli import app\n"
        "try: app(['predict', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'rdkit', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("given", "set_to"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_that_wait_do_not_spin_long_unless_told(given, set_to):
    code = (
        "import os, sys\nfrom deepchem_mmsa.cli import main\nsys.argv = ['mmsa', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n"
        "    print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **given}, capture_output=True, text=True
    )
    assert done.stdout.split()[-2:] == [set_to, "False"], done.stderr


def test_module_and_version():
    done = subprocess.run(
        [sys.executable, "-m", "deepchem_mmsa", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_a_terminal_that_lacks_a_letter_gets_its_code(make_model, tmp_path):
    make_model(mode="regression", tasks=["Löslichkeit ≤ 5"]).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "deepchem_mmsa", "info", tmp_path],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert r"L\xf6slichkeit \u2264 5" in done.stdout


# ---- configuration file -----------------------------------------------------------------


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(
    mmsa, models, table, tmp_path
):
    config = tmp_path / "c.yaml"
    out = tmp_path / "o.csv"
    config.write_text(f"model: {models['regression']}\noutput: {out}\nsmiles_column: id\n")
    config.write_text(config.read_text() + f"in: {table}\n")
    done = mmsa("predict", "--config", config, "--smiles-column", "SMILES")
    assert done.exit_code == 0, done.output
    assert "predicted_logS" in out.read_text().splitlines()[0]
    assert mmsa("predict", table, "--config", config).exit_code == ExitCode.INPUT


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("batch-sise: 3", "unknown key 'batch-sise'; did you mean 'batch-size'?"),
        ("colour: red", "unknown key 'colour'; known are:"),
        ("- 3", "must hold lines like"),
        ("a: [", "is not YAML"),
        ("batch-size: many", "'--batch-size'"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(mmsa, table, tmp_path, content, words):
    (tmp_path / "c.yaml").write_text(content)
    done = mmsa("embed", table, "--config", tmp_path / "c.yaml")
    assert done.exit_code == ExitCode.USAGE
    text = " ".join(done.stderr.replace("│", " ").split())
    assert words in text


def test_a_file_gives_fields_of_the_network_as_yaml_has_them(mmsa, tmp_path):
    (tmp_path / "c.yaml").write_text("set: {clip_norm: null, modalities: [graph], n_anchor: 3}")
    done = mmsa("pretrain", "in.csv", "-o", tmp_path / "o", "--config", tmp_path / "c.yaml")
    assert done.exit_code == ExitCode.USAGE  # all but the last are understood
    assert "unknown argument 'n_anchor'" in " ".join(done.stderr.replace("│", " ").split())


def test_fields_of_the_network_are_checked():
    assert options.network_fields(["graph-width=8", "head_layers=1"])["graph_width"] == 8
    for text in ("graph_widht=8", "graph_width", "graph_width=-1"):
        with pytest.raises(Exception, match="--set"):
            options.network_fields([text])


# ---- errors -----------------------------------------------------------------------------


def wrong(name, tmp_path):
    """Command lines that cannot be served."""
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.csv").write_text("smiles\nC1CC\n(\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    return {
        "no file": ["inn.csv"],
        "empty": ["empty.csv"],
        "typo in a column": ["in.csv", "--smiles-column", "SMILE"],
        "no row is a molecule": ["bad.csv"],
        "no model": ["in.csv", "--model", "nowhere"],
        "broken model": ["in.csv", "--model", "broken"],
        "no labels": ["in.csv", "--model", "pretraining"],
        "output format": ["in.csv", "--output", "o.xlsx"],
        "output folder": ["in.csv", "--output", "none/o.csv"],
        "no such option": ["in.csv", "--modle", "x"],
        "device": ["in.csv", "--device", "quantum"],
    }[name]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("no file", 3, "did you mean in.csv"),
        ("empty", 3, "empty.csv is empty"),
        ("typo in a column", 3, "did you mean 'SMILES'"),
        ("no row is a molecule", 3, "no row of bad.csv could be computed"),
        ("no model", 4, "no shipped model named 'nowhere'"),
        ("broken model", 4, "broken is not an exported MMSA model"),
        ("no labels", 4, "mmsa finetune"),
        ("output format", 5, "end the name in .csv"),
        ("output folder", 5, "there is no folder none"),
        ("no such option", 2, "--modle"),
        ("device", 2, "--device quantum"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_is_one_paragraph_and_a_code(
    mmsa, models, table, tmp_path, monkeypatch, name, code, words, as_json
):
    arguments = wrong(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    os.symlink(models["pretraining"], "pretraining")
    if "--model" not in arguments:
        arguments += ["--model", models["regression"]]
    done = mmsa("predict", *arguments, *(["--json"] if as_json else []))
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert "Traceback" not in done.output
    if as_json and code != 2:
        said = json.loads(done.stderr.splitlines()[-1])
        assert said["exit_code"] == code
    elif code not in (2,) and name != "no row is a molecule":
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_fault_of_ours_is_not_hidden(mmsa, models, table, monkeypatch):
    from deepchem_mmsa import MMSAPredictor

    def faulty(*arguments):
        raise RuntimeError("a fault")

    monkeypatch.setattr(MMSAPredictor, "predict", faulty)
    done = mmsa("predict", table, "--model", models["regression"])
    assert isinstance(done.exception, RuntimeError)


def test_a_reader_that_has_had_enough_is_no_error(models, tmp_path):
    (tmp_path / "big.csv").write_text("smiles\n" + "CCO\n" * 600)
    command = f"{sys.executable} -m deepchem_mmsa embed big.csv --model {models['pretraining']}"
    done = subprocess.run(
        ["bash", "-c", f"{command} --quiet | head -1"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("smiles,embedding_0,embedding_1,")
    assert done.stdout.endswith(",status,reason\n")
    assert done.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no numbers of streams to close")
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed_are_not_missed(models, table, tmp_path, closed):
    command = f"{sys.executable} -m deepchem_mmsa predict {table} -m {models['regression']}"
    for where in (f"-o {tmp_path / 'out.csv'}", ""):
        done = subprocess.run(f"{command} {where} {closed}", shell=True, capture_output=True)
        assert done.returncode == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6
    assert len(done.stdout.splitlines()) == (6 if closed == "2>&-" else 0)


def test_modules_in_the_current_folder_are_not_imported(tmp_path):
    """Neither here nor in the processes that make the records."""
    entry = tmp_path / "bin" / "mmsa"
    entry.parent.mkdir()
    entry.write_text("from deepchem_mmsa.cli import main\nmain()\n")
    for name in ("random", "select", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    (tmp_path / "in.csv").write_text("smiles\nCCO\nCCN\n")
    words = ["featurize", "in.csv", "--modalities", "graph", "--jobs", "2", "--output", "records"]
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, entry, *words], cwd=tmp_path, env=kept, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_json_says_what_computed_a_table(mmsa_json, models, table, tmp_path, command):
    told = [
        mmsa_json(command, table, "-m", models[mode], "-o", tmp_path / f"{mode}.csv")
        for mode in ("classification", "regression")
    ]
    for about, mode in zip(told, ("classification", "regression")):
        described = Path(models[mode], "config.json").read_bytes()
        assert about["models_sha256"] == [hashlib.sha256(described).hexdigest()]
        assert about["version"] == __version__
    assert told[0]["models_sha256"] != told[1]["models_sha256"]


# ---- info -------------------------------------------------------------------------------


def test_info_tells_versions_and_models(mmsa, mmsa_json, models):
    about = mmsa_json("info")
    assert about["deepchem_mmsa"] == __version__
    assert {"torch", "dgl", "rdkit"} <= set(about["libraries"])
    assert about["messages on graphs"]["cpu"] in ("DGL", "torch")
    model = mmsa_json("info", models["classification"])
    assert model["config"]["n_tasks"] == 2
    assert model["tasks"] == ["a", "b"]
    assert model["package_version"] == __version__
    assert re.fullmatch("[0-9a-f]{64}", model["sha256"])
    shown = mmsa("info", models["classification"])
    assert "graph_width: 16" in shown.stdout
    assert mmsa("info", "nowhere").exit_code == ExitCode.MODEL


def test_names_in_a_model_do_not_command_the_terminal(mmsa, make_model, tmp_path, capsys):
    make_model(mode="regression", tasks=["log\x1b[2JS"]).save_pretrained(
        tmp_path / "m", metadata={"by\x9b31m": "\x1b]0;me\x07"}
    )
    shown = mmsa("info", tmp_path / "m").stdout
    assert "log\\x1b[2JS" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    Console().note("regression of log\x1b[2JS")
    complain("predict", "log\x1b[2JS has no column", ExitCode.INPUT, as_json=False)
    told = capsys.readouterr().err
    assert told.count("log\\x1b[2JS") == 2
    assert "\x1b" not in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "x.csv", "--json", "--model", "m", "--uncertainty", "-1"],
        ["predict", "--json"],
        ["finetune", "x.csv", "-o", "run", "--json", "--set", "foo=1"],
    ],
)
def test_wrong_options_are_json_where_that_was_asked_for(arguments, monkeypatch, capsys):
    from deepchem_mmsa import cli

    monkeypatch.setattr("sys.argv", ["mmsa", *arguments])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with mock.patch.dict("os.environ"), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = json.loads(capsys.readouterr().err)
    assert said["exit_code"] == 2
    assert said["error"]


def test_a_warning_is_a_note_without_lines_of_code(mmsa, tmp_path):
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    model = next(OLD.iterdir()) / "model"
    arguments = ("predict", tmp_path / "in.csv", "-m", model, "-o", tmp_path / "out.csv")
    done = mmsa(*arguments)
    assert done.exit_code == 0
    assert f"{model} was trained on features of version" in done.stderr
    assert ".py" not in done.stderr
    assert mmsa(*arguments, "--quiet").stderr == ""
