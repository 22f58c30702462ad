"""The documentation: it can be built, its links lead somewhere, and what it says to type exists."""

import ast
import configparser
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from deepchem_mmsa.cli import app
from deepchem_mmsa.cli.console import EXPLAINED
from deepchem_mmsa.config import MMSAConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
COMMANDS = typer.main.get_command(app).commands

FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(page, language):
    return [body for name, body in FENCE.findall(page.read_text("utf-8")) if name == language]


def lines(page):
    """Commands of a page, those that go on over several lines as one."""
    return [
        line for body in blocks(page, "bash") for line in body.replace("\\\n", " ").splitlines()
    ]


def anchors(page):
    """Anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@by_page
def test_python_blocks_parse(page):
    for body in blocks(page, "python"):
        if ">>>" in body:
            lines = re.findall(r"^(?:>>>|\.\.\.) ?(.*)$", body, re.MULTILINE)
            body = "\n".join(lines) + "\n"
        ast.parse(body)


def test_the_page_on_extending_runs():
    names = {}
    for body in blocks(ROOT / "docs/extending.md", "python"):
        exec(body, names)
    assert {"AtomCounts", "MPNN", "agreement_later"} <= set(names)
    assert torch.isfinite(names["loss"])


@by_page
def test_relative_links_resolve(page):
    text = FENCE.sub("", page.read_text("utf-8"))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page.name} links to {target}"


def test_every_page_is_one_link_from_the_readme_or_two():
    """The README names it, or the table of questions that the README names."""
    named = set()
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        targets = LINK.findall(FENCE.sub("", page.read_text("utf-8")))
        named |= {(page.parent / target.partition("#")[0]).resolve() for target in targets}
    reference = ROOT / "docs" / "api"  # of use on the site, where the side bar names it
    assert not [p for p in PAGES[1:] if p.resolve() not in named and p.parent != reference]


@by_page
def test_tests_that_are_named_exist(page):
    """``file::name``, or ``::name`` in the file named last; `…` stands for the rest of a name."""
    source = ""
    for path, name, rest in re.findall(
        r"`(tests/[\w/]+\.py)?(?:::(\w+)(…?))?`", FENCE.sub("", page.read_text("utf-8"))
    ):
        source = (ROOT / path).read_text("utf-8") if path else source
        if name:
            whole = rf"{name}\w*" if rest else name
            assert re.search(rf"^def {whole}\(", source, re.MULTILINE), f"{path}::{name}"


def test_the_versions_of_the_page_on_installing_are_those_of_setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    page = (ROOT / "docs" / "install.md").read_text("utf-8").split("## Supported versions")[1]
    least = dict(re.findall(r"^([\w-]+)>=([\d.]+)", config["options"]["install_requires"], re.M))
    for names, versions in re.findall(r"^\| ([\w, -]+?) \| ([\d., and]+) or newer", page, re.M):
        for name, version in zip(
            re.split(", ", names), re.split(", | and ", versions), strict=True
        ):
            assert version == least.pop(name.lower()).removesuffix(".0"), name
    assert {"torch", "numpy", "pandas", "rdkit", "deepchem"}.isdisjoint(least)


@by_page
def test_commands_and_their_options_exist(page):
    text = page.read_text("utf-8")
    typed = lines(page)
    typed += re.findall(r"`(mmsa [^`]+)`", text)
    for line in typed:
        found = re.match(r"\s*(?:\$ )?mmsa ([a-z][a-z-]*)(.*)", line)
        if found is None:
            continue
        name, rest = found.groups()
        assert name in COMMANDS, f"{page.name}: mmsa {name}"
        known = {o for parameter in COMMANDS[name].params for o in parameter.opts} | {"--help"}
        for option in re.findall(r"(?<=\s)--[a-z-]+", rest):
            assert option in known, f"{page.name}: mmsa {name} {option}"


@by_page
def test_no_page_begins_two_runs_in_one_folder(page):
    """The second would be refused: a run is never overwritten."""
    typed = [
        found[2]
        for line in lines(page)
        if (found := re.search(r"mmsa (finetune|pretrain)\b.*?(?:--output|-o) (\S+)", line))
        and "--resume" not in line
    ]
    assert len(set(typed)) == len(typed), typed


def options_of(script):
    """The options of an example, and of the file that those of its folder share."""
    found = {"--help"}
    for path in (script, script.parent / "common.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))) if path.is_file() else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                found |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    return found


@by_page
def test_scripts_that_are_named_exist_with_their_options_and_fields(page):
    text = page.read_text("utf-8")
    named = r"((?:examples|docs)/[\w/]+\.py)([^`|;&#]*)"
    for line in [*lines(page), *re.findall(r"`([^`]*\.py[^`]*)`", text)]:
        for script, rest in re.findall(named, line):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
            known = options_of(ROOT / script)
            for option in re.findall(r"(?<=[\s\[])--[a-z][a-z-]*", rest):
                assert option in known, f"{page.name}: {script} {option}"
    fields = {field.name for field in dataclasses.fields(MMSAConfig)}
    fields |= {"field", "name"}  # of no field in particular
    for line in [*lines(page), *re.findall(r"`([^`]*)`", text)]:
        for words in re.findall(r"--set ((?:'?[a-z_]+=\S+\s*)+)", line):
            for name in re.findall(r"(?:^|\s)'?([a-z_]+)=", words):
                assert name in fields, f"{page.name}: --set {name}"


def messages():
    """Every text in the package's source, f-strings as far as they are constant."""
    for path in sorted((ROOT / "deepchem_mmsa").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_page_of_errors_quotes_messages_that_exist():
    heads = re.findall(r"^### (.+)$", (ROOT / "docs" / "errors.md").read_text("utf-8"), re.M)
    said = list(messages())
    heads.remove("Something else")
    assert len(heads) > 10
    assert tuple(heads) == EXPLAINED  # the command line points to each of them
    for head in heads:
        assert any(head in text for text in said), f"no message says {head!r}"


def test_every_public_name_is_in_the_reference():
    import deepchem_mmsa

    reference = "".join(p.read_text("utf-8") for p in (ROOT / "docs" / "api").glob("*.md"))
    for name in deepchem_mmsa.__all__:
        if name != "__version__":
            assert re.search(rf"deepchem_mmsa\.\S*\b{name}\b", reference), name


def test_names_that_the_pages_import_are_in_the_reference():
    reference = "".join(p.read_text("utf-8") for p in (ROOT / "docs" / "api").glob("*.md"))
    whole = re.findall(r"auto(?:module|class):: (\S+)\n(?!   :no-members:)", reference)
    for page in PAGES:
        for body in blocks(page, "python"):
            code = "\n".join(re.sub(r"^(>>>|\.\.\.) ?", "", line) for line in body.splitlines())
            for home, names in re.findall(
                r"^from (deepchem_mmsa\.[\w.]+) import \(?([\w, ]+)", code, re.M
            ):
                for name in filter(None, map(str.strip, names.split(","))):
                    listed = re.search(rf":: deepchem_mmsa\.\S*\b{name}\n", reference)
                    assert listed or home in whole, f"{page.name}: {home}.{name}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "trees"),
         str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "site" / "index.html").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):  # every page can be reached from the first
        assert f'href="{page.stem}.html"' in front or page.stem == "index", page.stem

    import deepchem_mmsa

    reference = "".join(p.read_text("utf-8") for p in (tmp_path / "site" / "api").glob("*.html"))
    for name in deepchem_mmsa.__all__:
        public = getattr(deepchem_mmsa, name)
        methods = inspect.getmembers(public, callable) if inspect.isclass(public) else []
        for method, function in methods:
            ours = str(getattr(function, "__module__", "")).startswith("deepchem_mmsa.")
            if ours and not method.startswith("_"):
                assert f'.{name}.{method}"' in reference, f"{name}.{method}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    size = path.stat().st_size
    assert size < 400_000, f"{path.name} holds {size} bytes of output"
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises what a cell raises


def test_there_are_three_notebooks_and_the_site_shows_them():
    assert len(NOTEBOOKS) == 3
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for path in NOTEBOOKS:
        assert f"\nnotebooks/{path.stem}\n" in index
