"""One self-contained page about a run: nothing is loaded from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from deepchem_mmsa.atomic import write_bytes
from deepchem_mmsa.page import html_document
from deepchem_mmsa.report.embedding_map import PROJECTIONS, map_section
from deepchem_mmsa.report.gallery import anchors_section, errors_section
from deepchem_mmsa.report.quality import (
    calibration_section,
    curves_section,
    score_runs,
    scores_section,
)
from deepchem_mmsa.report.run import Run, from_folder, from_model
from deepchem_mmsa.report.scores import Score
from deepchem_mmsa.report.sections import data_section, training_section
from deepchem_mmsa.words import counted, number

_NAMES = {
    "data": "Data", "training": "Training", "scores": "Scores", "curves": "Curves",
    "calibration": "Calibration", "map": "Map", "memory": "Memory", "errors": "Worst errors",
    "setup": "Configuration",
}  # fmt: skip


def write_report(
    path: str | os.PathLike,
    source: Any,
    datasets: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, float]] | pd.DataFrame | None = None,
    title: str | None = None,
    projection: str = "pca",
    max_points: int = 1500,
    n_neighbors: int = 6,
    resamples: int = 1000,
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Write a page that shows a run: data, training, quality, the map of molecules, the memory.

    Parameters
    ----------
    path : path-like
        The HTML file.
    source : path-like, MMSAModel or MMSAPredictor
        The folder that ``mmsa finetune`` or ``mmsa pretrain`` wrote; or a model.
    datasets : mapping of str to dataset, with a model only
        Name of the part ("train", "valid", "test", ...) to a DeepChem dataset, or to a pair
        ``(molecules, labels)`` of SMILES, molecules or records, and ``[N]`` or ``[N, T]`` numbers
        (NaN where missing) or None.
    history : sequence of mapping or pandas.DataFrame, optional
        One row per epoch; by default that of the run or model.
    title : str, optional
        By default the folder's name.
    projection : {"pca", "umap"}
        UMAP needs umap-learn.
    max_points : int
        Molecules on the map, at most; drawn at random.
    n_neighbors : int
        Neighbours listed for each of them.
    resamples : int
        Bootstrap resamples; 0 for no intervals.
    seed : int
        Seed of the bootstrap and of random choices.
    device : str, optional
        Device of a folder's model; the GPU, where there is one, by default.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileNotFoundError
        If the folder holds no finished run, or several models.
    ValueError
        If a model comes without data sets or a folder with them, a count is too small, the
        projection is unknown, or labels do not fit the tasks.
    ModuleNotFoundError
        If UMAP is requested and umap-learn is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from deepchem_mmsa import MMSAConfig, MMSAPredictor
    >>> from deepchem_mmsa.network import MMSANetwork
    >>> config = MMSAConfig(mode="regression", modalities=("graph",), graph_width=16)
    >>> predictor = MMSAPredictor(MMSANetwork(config), {"tasks": ["logS"]})
    >>> parts = {"test": (["CCO", "CCCC", "c1ccccc1", "C1CC"], [1.1, -3.0, -1.6, 0.0])}
    >>> page = write_report(tempfile.mkdtemp() + "/report.html", predictor, parts, resamples=50)
    >>> "unclosed ring" in page.read_text(encoding="utf-8")
    True
    """
    counts = {"max_points": max_points, "n_neighbors": n_neighbors, "resamples": resamples}
    for name, value in counts.items():
        least = int(name != "resamples")
        if value < least:
            raise ValueError(f"{name}={value}: give at least {least}")
    if projection not in PROJECTIONS:
        raise ValueError(f"projection={projection!r}: choose {' or '.join(PROJECTIONS)}")
    if isinstance(history, pd.DataFrame):  # as history.csv is read
        rows = history.to_dict("records")
        history = [{str(name): value for name, value in row.items()} for row in rows]
    if isinstance(source, (str, os.PathLike)):
        if datasets is not None:
            raise ValueError(
                "a run's folder already has its molecules: leave out datasets, or give a model "
                "instead of the folder"
            )
        run = from_folder(source, device, max_points, seed)
        if history is not None:
            run.history = [dict(row) for row in history]
    elif not datasets:
        raise ValueError(
            "give the molecules to report on: datasets={'train': ..., 'valid': ..., 'test': ...}"
        )
    else:
        run = from_model(source, datasets, history, "Report", max_points, seed)
    if title is not None:
        run.title = title
    text = _page(run, projection, max_points, n_neighbors, resamples, seed)
    path = Path(path)
    # A lone surrogate from a damaged table becomes "?" rather than an error.
    write_bytes(path, text.encode("utf-8", "replace"))
    return path


def _page(
    run: Run, projection: str, max_points: int, n_neighbors: int, resamples: int, seed: int
) -> str:
    scores = score_runs(run, resamples, seed)
    map_html, molecules = map_section(run, projection, max_points, n_neighbors, seed)
    sections = [
        data_section(run),
        training_section(run),
        scores_section(run, scores, resamples),
        curves_section(run),
        calibration_section(run),
        map_html,
        anchors_section(run),
        errors_section(run),
        _setup(run),
    ]
    body = "".join(sections)
    links = "".join(
        f"<a href='#{key}'>{name}</a>" for key, name in _NAMES.items()
        if f"<section id='{key}'" in body or f'<section id="{key}"' in body
    )  # fmt: skip
    files = resources.files("deepchem_mmsa.report")
    style, script = ((files / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    content = f"""<p class="soft">{escape(_subtitle(run))}</p>
<nav aria-label="Sections">{links}</nav>
{_tiles(run, scores)}
{body}
<script type="application/json" id="molecules">{molecules}</script>"""
    footer = (
        ". Nothing on this page is loaded from elsewhere. It holds structures and labels: share it "
        "as you would share the data."
    )
    return html_document(run.title, content, footer, style, script)


def _subtitle(run: Run) -> str:
    config = run.predictor.config
    what = {
        "pretraining": "Pre-training",
        "classification": "Classification",
        "regression": "Regression",
    }[run.kind]
    if run.tasks:
        listed = ", ".join(run.tasks[:4]) + (", …" if len(run.tasks) > 4 else "")
        what += f" of {listed}"
    parts = [what, "views: " + ", ".join(config.modalities)]
    names = run.predictor.classes
    if run.kind == "classification" and len(names) == 2 and names != ["0", "1"]:
        parts.insert(1, f"positive: class {names[1]}")
    if "data" in run.summary:
        parts.append(f"data: {Path(str(run.summary['data'])).name}")
    if "split" in run.summary:
        parts.append(f"{run.summary['split']} split")
    return " · ".join(parts)


def _tiles(run: Run, scores: list[Score]) -> str:
    used = run.parts != ""
    tiles = [(f"{used.sum():,}", "molecules in " + counted(len(run.part_names), "part"))]
    unread = int(run.failed.sum())
    if run.kind != "pretraining" or unread:
        tiles.append((f"{unread:,}", "row that cannot be read" if unread == 1 else
                      "rows that cannot be read"))  # fmt: skip
    part = run.judged()
    inside = [s for s in scores if s.problem.part == part]
    for metric in dict.fromkeys(s.metric for s in inside):
        of_metric = [s for s in inside if s.metric == metric]
        known = [s.value for s in of_metric if s.value == s.value]
        if not known or len(tiles) > 3:
            continue
        said = f"{metric}, {part}"
        if len(of_metric) > 1:
            things = ("task",) if len(run.tasks) > 1 else ("class", "classes")
            said += f", mean of {counted(len(known), *things)}"
        elif of_metric[0].low == of_metric[0].low:
            said += f"\n95 %: {number(of_metric[0].low)} to {number(of_metric[0].high)}"
        tiles.append((number(sum(known) / len(known)), said))
    if run.history:
        best = run.summary.get("best_epoch")
        n, epochs = counted(len(run.history), "epoch").split()
        tiles.append((n, epochs + (f", best {best}" if best else "")))
    if run.kind == "pretraining" and run.history and "loss" in run.history[-1]:
        tiles.append((number(run.history[-1]["loss"]), "loss of the last epoch"))
    memory = run.predictor.network.memory
    if memory is not None and memory.is_active and len(tiles) < 6:
        tiles.append((f"{int(memory.n_active):,}", "memory anchors"))
    cards = "".join(
        f"<div class='card tile'><b>{escape(value)}</b><span>{escape(text)}</span></div>"
        for value, text in tiles
    )
    return f"<div class='tiles'>{cards}</div>"


def _setup(run: Run) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td><code>{escape(str(value))}</code></td></tr>"
        for key, value in run.predictor.config.to_dict().items()
    )
    n = sum(tensor.numel() for tensor in run.predictor.network.parameters())
    return f"""<section id="setup"><h2>Configuration</h2>
<p class="soft">The network has {n:,} parameters.</p>
<details><summary>All settings</summary><div class="card scroll" tabindex="0" role="region"
 aria-label="Settings"><table><thead><tr><th>Field</th><th>Value</th></tr></thead>
<tbody>{rows}</tbody></table></div></details></section>"""
