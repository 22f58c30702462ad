"""How the documentation site is built: ``sphinx-build -W docs OUTPUT``."""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import deepchem_mmsa

DOCS = Path(__file__).parent

# DeepChem tells of each optional part that is absent; autodoc imports it.
logging.getLogger("deepchem").setLevel(logging.ERROR)

project = "deepchem_mmsa"
author = "the deepchem_mmsa authors"
version = release = deepchem_mmsa.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "figures/*.py", "**/.ipynb_checkpoints"]
suppress_warnings = ["myst.header"]  # a page may start below its title's level

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks hold their output; .ci/docs runs them

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say them, in words
OF_SKLEARN = [  # inherited, with references to scikit-learn's own pages
    "get_metadata_routing",
    "score",
    "set_output",
    *(
        f"set_{method}_request"
        for method in ("fit", "predict", "predict_proba", "score", "transform")
    ),
]
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": ", ".join(OF_SKLEARN),
}
autoclass_content = "class"
napoleon_google_docstring = False
napoleon_use_param = False  # arguments that share a description are listed once
napoleon_use_rtype = False

html_theme = "furo"
html_use_index = html_domain_indices = False  # no page leads to them: the search finds names
html_show_copyright = False  # LICENSE says it
html_title = f"deepchem_mmsa {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5ea8", "color-brand-content": "#0b5ea8"},
    "dark_css_variables": {"color-brand-primary": "#7db8f0", "color-brand-content": "#7db8f0"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

OTHERS = "%%OTHERS%%"
NOTEBOOKS = DOCS.parent / "examples" / "notebooks"


def bring_notebooks(app: Any, config: Any) -> None:
    """Copy the notebooks to where Sphinx finds them; they belong to the examples."""
    folder = DOCS / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(NOTEBOOKS, folder, ignore=shutil.ignore_patterns(".*"))


def fit_to_the_site(app: Any, docname: str, source: list[str]) -> None:
    """Turn what reads well in the repository into what the site needs."""
    source[0] = re.sub(r"\]\((\.\./)+examples/notebooks/", "](/notebooks/", source[0])
    source[0] = re.sub(
        " ?[±≤≥] ", lambda sign: sign[0].replace(" ", "\N{NO-BREAK SPACE}"), source[0]
    )
    if docname == "index":  # pages that it does not name come last, so that none is lost
        lines = (line.strip() for line in source[0].splitlines())
        named = {re.sub(r".+ <(.+)>", r"\1", line) for line in lines} | {"index"}  # Title <page>
        pages = [path.stem for path in sorted(DOCS.glob("*.md"))]
        others = [page for page in pages if page not in named]
        source[0] = source[0].replace(OTHERS, "\n".join(others))


def setup(app: Any) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("config-inited", bring_notebooks)
    app.connect("source-read", fit_to_the_site)
