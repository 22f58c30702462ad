"""The command line asked in this very process, and models so small that it answers at once."""

import json

import pytest
from typer.testing import CliRunner

from deepchem_mmsa.cli import app


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
