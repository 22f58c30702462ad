"""The command line asked in this very process, and models so small that it answers at once."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from deepchem_mmsa.cli import app
from tests.fixtures import SMILES


@pytest.fixture(scope="session")
def models(make_model, tmp_path_factory):
    """Exported models by mode."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "classification": {"n_tasks": 2, "tasks": ["a", "b"]},
        "regression": {"tasks": ["logS"]},
        "pretraining": {},
    }
    for mode, arguments in made.items():
        make_model(mode=mode, **arguments).save_pretrained(folder / mode)
    return {mode: str(folder / mode) for mode in made}


@pytest.fixture
def mmsa():
    """Run a command; gives the result, whose stdout and stderr are apart."""

    def run(*arguments, input=None):
        return CliRunner().invoke(app, [str(a) for a in arguments], input=input)

    return run


@pytest.fixture
def mmsa_json(mmsa):
    """Run a command that succeeds, with --json; gives its object."""

    def run(*arguments, input=None):
        done = mmsa(*arguments, "--json", input=input)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run


@pytest.fixture
def table(tmp_path):
    """A CSV of five rows, two of them no molecules."""
    path = tmp_path / "in.csv"
    path.write_text("id,SMILES,status\na,CCO,x\nb,C1CC,y\n\nd,c1ccccc1,z\ne,CCN,w\n")
    return path


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
