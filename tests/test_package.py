"""The package as a whole: what importing it does, and who may import whom."""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deepchem_mmsa"

# Lower floors first; a module may import its own floor's neighbours to its left and all below.
FLOORS = [
    "_version",
    "atomic",
    "packing",
    "page",
    "randomness",
    "user_warning",
    "words",
    "rdkit_state",
    "prefetching",
    "progress",
    "molecule",
    "config",
    "views",
    "layers",
    "batching",
    "losses",
    "distributed",
    "pretraining",
    "network",
    "hub",
    "checkpoint",
    "card",
    "exports",
    "mc_dropout",
    "record_checks",
    "predictor",
    "tables",
    "shards",
    "labels",
    "epochs",
    "batch_preparation",
    "trainee",
    "batch_norm",
    "interruption",
    "run_folder",
    "run_state",
    "optimizers",
    "training",
    "featurizer",
    "shard_dataset",
    "datasets",
    "evaluate",
    "model_saving",
    "model_prediction",
    "model",
    "early_stopping",
    "ensemble",
    "estimators",
    "calibrate",
    "conformal",
    "applicability",
    "explain",
    "report",
    "benchmark",
    "cli",
    "__main__",
]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def test_import_is_quiet_and_lazy():
    heavy = ("torch", "dgl", "dgllife", "deepchem", "rdkit", "sklearn", "matplotlib")
    out, err = run(f"import sys, deepchem_mmsa; print([m for m in {heavy!r} if m in sys.modules])")
    assert (out, err) == ("[]", "")


@pytest.mark.parametrize(
    "code",
    [
        "import deepchem as dc, deepchem_mmsa",
        "import deepchem_mmsa, deepchem as dc",
        "import deepchem_mmsa; from deepchem_mmsa import MMSAModel; import deepchem as dc",
        "import deepchem as dc, deepchem_mmsa; from deepchem.models import MMSAModel",
        "import deepchem_mmsa; from importlib.util import find_spec; "
        "assert find_spec('deepchem') and find_spec('deepchem'); import deepchem as dc",
    ],
)
def test_registers_in_deepchem_whichever_comes_first(code):
    out, _ = run(
        code + "; print(dc.models.MMSAModel.__name__, dc.feat.MMSAFeaturizer.__name__, "
        "'TorchModel' in [c.__name__ for c in dc.models.MMSAModel.__mro__], "
        "hasattr(dc.models, 'nothing'), {'MMSAModel', 'SklearnModel'} <= {*dir(dc.models)}, "
        "'MMSAFeaturizer' in dir(dc.feat))"
    )
    assert out.splitlines()[-1] == "MMSAModel MMSAFeaturizer True False True True"


def test_importing_the_model_is_quiet():
    assert run("from deepchem_mmsa import MMSAModel, MMSAFeaturizer") == ("", "")


def test_unknown_name_is_an_attribute_error():
    import deepchem_mmsa

    with pytest.raises(AttributeError, match="no attribute 'MMSAModle'"):
        deepchem_mmsa.MMSAModle  # noqa: B018


def imports_of(path, for_types=False):
    """Modules that a file imports; those for type checkers only if they are asked for."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden and not for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "deepchem_mmsa":
                yield from (f"deepchem_mmsa.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_type_checkers_see_every_public_name_and_no_other():
    import deepchem_mmsa

    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    seen, fallback = {}, []
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                seen |= {alias.name: line.module for alias in line.names}
        elif "__getattr__" in ast.unparse(node):  # of a type checker's eyes: any name exists
            fallback.append(ast.unparse(node).splitlines()[0])
    homes = {name: f"deepchem_mmsa.{home}" for name, home in deepchem_mmsa._HOME.items()}
    assert seen == homes
    assert set(deepchem_mmsa.__all__) == {*homes, "__version__"}
    assert "if not TYPE_CHECKING:" in fallback
    assert not any(line.startswith("def __getattr__") for line in fallback)


def files():
    return [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]


def floor(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    """Also those for types, so that a file can be understood with what lies below it alone."""
    mine = FLOORS.index(floor(path))
    for name in imports_of(path, for_types=True):
        if (floor(path), name) == ("pretraining", "deepchem_mmsa.network"):  # its objective
            continue
        if name.startswith("deepchem_mmsa.") and name != "deepchem_mmsa.__version__":
            assert FLOORS.index(name.split(".")[1]) <= mine, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_library_has_its_rooms(path):
    rooms = {
        "dgl": {"layers"},
        "dgllife": {"layers"},
        "deepchem": {
            "featurizer",
            "shard_dataset",
            "datasets",
            "evaluate",
            "optimizers",
            "model_saving",
            "model_prediction",
            "model",
            "estimators",
            "benchmark",
            "cli",
        },
        "rdkit": {
            "rdkit_state",
            "views",
            "featurizer",
            "datasets",
            "applicability",
            "benchmark",
            "explain",
            "report",
            "tables",
        },
    }
    for name in imports_of(path):
        library = name.split(".")[0]
        if library in rooms:
            assert floor(path) in rooms[library], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_fit_in_a_head(path):
    assert len(path.read_text().splitlines()) < 450


def test_no_dependency_older_than_is_safe():
    """The floors of setup.cfg, and the table of docs/reliability.md, agree."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = "\n".join([config["options"]["install_requires"], *extras.values()]).split("\n")
    floors: dict[str, list[Version]] = {}
    for line in filter(None, lines):
        requirement = Requirement(line)
        least = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
        floors.setdefault(requirement.name.lower(), []).extend(least or [Version("0")])
    text = (ROOT / "docs" / "reliability.md").read_text()
    section = text.split("## Oldest versions known to be safe")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([a-z-]+) \| ([0-9.]+) \|", section, re.MULTILINE)
    assert len(rows) >= 10
    for name, least in rows:
        assert all(floor >= Version(least) for floor in floors[name]), name


def test_the_map_for_contributors_has_a_place_for_every_module():
    page = (ROOT / "docs" / "contributing.md").read_text()
    rooms = page.partition("| room | files |")[2].partition("\n## ")[0]
    files = "\n".join(line.split("|")[2] for line in rooms.splitlines() if line.count("|") == 3)
    named = re.findall(r"`([a-z_]+)/?`", files)
    assert sorted(named) == sorted(FLOORS)
