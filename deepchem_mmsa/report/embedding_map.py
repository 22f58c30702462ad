"""The map of a run's molecules: embeddings in two dimensions, colours, and neighbours."""

from __future__ import annotations

import json
from html import escape
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from deepchem_mmsa.report.run import Run
from deepchem_mmsa.report.structures import as_json
from deepchem_mmsa.words import number

WIDTH, HEIGHT, _MARGIN = 720, 540, 16
_STEPS = 9  # of the colour ramp
_CATEGORIES = 8  # colours that can be distinguished
_TASKS = 8  # with their own colouring
PROJECTIONS = ("pca", "umap")


class Colouring(NamedTuple):
    """One way to colour the points.

    Attributes
    ----------
    name : str
    classes : list of str
        Classes of the style sheet.
    of : np.ndarray
        ``[N]``, index of the class of each point.
    legend : str
        HTML.
    """

    name: str
    classes: list[str]
    of: np.ndarray
    legend: str


def map_section(
    run: Run, projection: str, at_most: int, n_neighbors: int, seed: int
) -> tuple[str, str]:
    """Return the section and the data for its script, as JSON.

    Raises
    ------
    ModuleNotFoundError
        If UMAP is requested and umap-learn is not installed.
    """
    known = np.flatnonzero((run.parts != "") & ~np.isnan(run.embedding).any(1))
    if len(known) < 3:
        return (
            "<section id='map'><h2>Map of molecules</h2><p class='soft'>Fewer than three molecules "
            "have an embedding: there is nothing to map.</p></section>",
            "null",
        )
    everything = len(known)
    if everything > at_most:
        known = np.sort(np.random.default_rng(seed).choice(known, at_most, replace=False))
    places, how = project(run.embedding[known], projection, seed)
    nearest, similarity = neighbours(run.embedding[known], n_neighbors)
    colourings = _colourings(run, known)
    first = colourings[0]
    circles = "".join(
        f'<circle class="pt {first.classes[kind]}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        for (x, y), kind in zip(_on_paper(places), first.of.tolist())
    )
    options = "".join(
        f"<option value='{i}'>{escape(c.name)}</option>" for i, c in enumerate(colourings)
    )
    legends = "".join(
        f"<div class='legend' data-mode='{i}'{' hidden' if i else ''}>{c.legend}</div>"
        for i, c in enumerate(colourings)
    )
    shown = (
        f"{len(known):,} molecules" if len(known) == everything
        else f"{len(known):,} of {everything:,} molecules, drawn at random"
    )  # fmt: skip
    html = f"""<section id="map"><h2>Map of molecules</h2>
<p class="soft">{shown}. {escape(how)} Point at a molecule to see its structure; click it, or press
Enter, to list its nearest neighbours. With the keyboard: Tab to the map, arrow keys to move.</p>
<div class="mapgrid"><div class="card"><div class="mapbar"><label for="colouring">Colour by</label>
<select id="colouring">{options}</select></div>{legends}
<svg id="points" viewBox="0 0 {WIDTH} {HEIGHT}" role="listbox" aria-label="Map of molecules">
<g id="links"></g>{circles}</svg></div>
<aside class="card" id="chosen" aria-live="polite" aria-label="Chosen molecule">
<h3>No molecule chosen</h3><p class="soft">Click a point of the map. Its structure, its labels and
its nearest neighbours by the cosine of their embeddings will be listed here.</p></aside></div>
<div id="hover" aria-hidden="true" hidden></div></section>"""
    return html, _data(run, known, colourings, nearest, similarity)


def project(embedding: np.ndarray, projection: str, seed: int) -> tuple[np.ndarray, str]:
    """Return coordinates ``[N, 2]`` and a description of the projection.

    Parameters
    ----------
    embedding : np.ndarray
        ``[N, d]``, without NaN.
    projection : {"pca", "umap"}
    seed : int

    Raises
    ------
    ModuleNotFoundError
        If umap-learn is not installed.
    """
    if projection == "pca":
        fitted = PCA(2, random_state=seed)
        with np.errstate(invalid="ignore"):  # equal embeddings have no variance
            places = fitted.fit_transform(embedding)
        share = 100 * np.nan_to_num(fitted.explained_variance_ratio_)
        return places, (
            "The first two principal components of the embeddings, which explain "
            f"{share[0]:.0f} % and {share[1]:.0f} % of the variance: distant molecules differ, "
            "close ones may differ in components that are not shown."
        )
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a UMAP needs umap-learn: pip install 'deepchem_mmsa[umap]', or choose the projection "
            "'pca'"
        ) from error
    near = max(2, min(15, len(embedding) - 1))
    start = "spectral" if len(embedding) > near + 1 else "random"
    reducer = UMAP(n_neighbors=near, metric="cosine", random_state=seed, init=start, n_jobs=1)
    return np.asarray(reducer.fit_transform(embedding)), (
        "UMAP of the embeddings: neighbours are kept together; sizes of clusters, and distances "
        "between them, mean little."
    )


def neighbours(embedding: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest other rows by cosine, and their cosines, ``[N, n]`` each.

    Examples
    --------
    >>> index, similarity = neighbours(np.array([[1.0, 0], [2, 0], [0, 1]]), 1)
    >>> index[:2, 0], similarity[0]
    (array([1, 0]), array([1.]))
    """
    n = min(n, len(embedding) - 1)
    search = NearestNeighbors(n_neighbors=n, metric="cosine", algorithm="brute").fit(embedding)
    distance, index = search.kneighbors()  # without an argument a row is not its own neighbour
    return index, 1 - distance


def _on_paper(places: np.ndarray) -> np.ndarray:
    """Return coordinates scaled to the SVG, y downwards."""
    low, high = places.min(0), places.max(0)
    share = (places - low) / np.where(high > low, high - low, 1.0)
    share[:, high <= low] = 0.5
    share[:, 1] = 1 - share[:, 1]
    return _MARGIN + share * (np.array([WIDTH, HEIGHT]) - 2 * _MARGIN)


# ---- colours --------------------------------------------------------------------------------


def _colourings(run: Run, known: np.ndarray) -> list[Colouring]:
    found = []
    for task, name in enumerate(run.tasks[:_TASKS] if run.y.shape[1] else []):
        y = run.y[known, task]
        if np.isnan(y).all():
            continue
        if run.kind == "regression":
            found.append(_ramp(f"Label: {name}", y))
        else:
            classes = [f"class {name}" for name in run.predictor.classes]
            found.append(_categories(f"Label: {name}", np.nan_to_num(y, nan=-1), classes, ""))
    for task, name in enumerate(run.tasks[:_TASKS] if run.kind == "regression" else []):
        if run.y.shape[1] and not np.isnan(run.y[known, task]).all():
            error = np.abs(run.predicted[known, task] - run.y[known, task])
            found.append(_ramp(f"Absolute error: {name}", error))
    parts = run.part_names
    index = np.array([parts.index(part) for part in run.parts[known]])
    found.append(_categories("Split", index, parts, "part"))
    if (run.anchor[known] >= 0).any():
        anchors, counts = np.unique(run.anchor[known], return_counts=True)
        common = anchors[np.argsort(-counts, kind="stable")][: _CATEGORIES - 1]
        rank = {anchor: i for i, anchor in enumerate(common.tolist())}
        index = np.array([rank.get(anchor, len(rank)) for anchor in run.anchor[known].tolist()])
        names = [f"anchor {anchor}" for anchor in common]
        if len(anchors) > len(common):
            names.append(f"{len(anchors) - len(common)} other anchors")
        by_anchor = _categories("Nearest memory anchor", index, names, "rest")
        # A single part has one colour, which shows nothing: put the anchors first.
        found.insert(0 if len(found) == len(parts) == 1 else len(found), by_anchor)
    return found


def _ramp(name: str, values: np.ndarray) -> Colouring:
    low, high = np.nanpercentile(values, [2, 98])
    with np.errstate(invalid="ignore"):
        share = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
    of = np.where(np.isnan(values), _STEPS, np.nan_to_num(share) * (_STEPS - 1) + 0.5).astype(int)
    classes = [*(f"k{i}" for i in range(_STEPS)), "none"]
    swatches = "".join(f"<i class='{c}'></i>" for c in classes[:-1])
    legend = f"<span>≤ {number(low)}</span><span class='ramp'>{swatches}</span>"
    return Colouring(name, classes, of, legend + f"<span>≥ {number(high)}</span>")


def _categories(name: str, index: np.ndarray, names: list[str], how: str) -> Colouring:
    """Colour by category; how: "part" uses the colours of splits, "rest" greys the last."""
    classes = [f"c{i % _CATEGORIES}" for i in range(len(names))]
    if how == "part":
        classes = [n if n in ("train", "valid", "test") else f"c{i}" for i, n in enumerate(names)]
    if how == "rest" and len(names) == _CATEGORIES:
        classes[-1] = "none"
    counts = [(index == i).sum() for i in range(len(names))]
    legend = "".join(
        f"<span><i class='dot {c}'></i>{escape(n)} <small>{count:,}</small></span>"
        for c, n, count in zip(classes, names, counts)
    )
    of = np.where(index < 0, len(names), index).astype(int)
    if (index < 0).any():
        legend += (
            f"<span><i class='dot none'></i>no label <small>{(index < 0).sum():,}</small></span>"
        )
    return Colouring(name, [*classes, "none"], of, legend)


def _data(
    run: Run,
    known: np.ndarray,
    colourings: list[Colouring],
    nearest: np.ndarray,
    similarity: np.ndarray,
) -> str:
    tasks = list(range(min(len(run.tasks), _TASKS)))
    named = any(run.names[place] for place in known)
    terms = ["Split", "Row", *(["Name"] if named else [])]
    for task in tasks:
        if run.y.shape[1]:
            terms.append(run.tasks[task])
        terms.append(f"{run.tasks[task]}, predicted")
    has_anchor = (run.anchor[known] >= 0).any()
    terms += ["Nearest anchor"] if has_anchor else []
    molecules = []
    for rank, place in enumerate(known.tolist()):
        fields = [str(run.parts[place]), f"{run.rows[place]}"]
        fields += [run.names[place][:80]] if named else []
        for task in tasks:
            if run.y.shape[1]:
                fields.append(number(run.y[place, task]))
            said = run.predicted[place, task]
            fields.append(answer(run, said))
        if has_anchor:
            fields.append(f"{run.anchor[place]} (cosine {run.anchor_similarity[place]:.2f})")
        molecules.append(
            {"s": run.smiles[place], "f": fields, "d": as_json(run.smiles[place]),
             "n": nearest[rank].tolist(), "c": [f"{c:.3f}" for c in similarity[rank]]}
        )  # fmt: skip
    modes: list[dict[str, Any]] = [
        {"classes": c.classes, "of": c.of.tolist(), "name": c.name} for c in colourings
    ]
    content = {"terms": terms, "molecules": molecules, "modes": modes}
    # Inside a script element only "<" could end the element, or open a comment.
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def answer(run: Run, said: np.ndarray | float) -> str:
    """Format a prediction: a value, the probability of class 1, or the most probable class."""
    values = np.atleast_1d(said)
    if np.isnan(values).any():
        return "–"
    if run.kind == "regression":
        return number(float(values[0]))
    if len(values) == 2:
        return f"{100 * values[1]:.1f} %"
    return f"class {run.predictor.classes[values.argmax()]} ({100 * values.max():.1f} %)"
