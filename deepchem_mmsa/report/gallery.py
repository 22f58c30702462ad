"""Sections of the page with many molecules: memory anchors, and the worst errors."""

from __future__ import annotations

from html import escape

import numpy as np

from deepchem_mmsa.report.embedding_map import answer
from deepchem_mmsa.report.run import Run
from deepchem_mmsa.report.structures import as_svg
from deepchem_mmsa.words import counted, number

_ANCHORS = 24
_TYPICAL = 3  # molecules per anchor
_ERRORS = 12


def anchors_section(run: Run) -> str:
    """Return the memory anchors that are nearest to the most molecules."""
    memory = run.predictor.network.memory
    if memory is None or not memory.is_active:
        return (
            "<section id='memory'><h2>Memory</h2><p class='soft'>This model has no active memory "
            "bank: there are no anchors to show.</p></section>"
        )
    n = int(memory.n_active)
    seen = run.anchor[run.anchor >= 0]
    counts = np.bincount(seen, minlength=n)
    exemplars = memory.exemplars
    order = [j for j in np.lexsort((np.arange(n), -counts))[:_ANCHORS].tolist() if counts[j]]
    cards = "".join(_anchor(run, j, int(counts[j]), exemplars[j]) for j in order)
    idle = int((counts == 0).sum())
    shown = f"the {len(order)} with the most molecules" if n > len(order) else "all of them"
    return (
        f"<section id='memory'><h2>Memory anchors</h2><p class='soft'>The memory holds "
        f"{counted(n, 'typical representation')}; shown are {shown}. {counted(idle, 'anchor')} of "
        f"{n:,} {'is' if idle == 1 else 'are'} nearest to none of the {len(seen):,} molecules "
        "evaluated. Each card shows the pre-training molecules nearest to the anchor: what they "
        "share is what the anchor represents.</p>"
        f"<div class='anchors'>{cards}</div></section>"
    )


def _anchor(run: Run, anchor: int, count: int, exemplars: list[tuple[str, float]]) -> str:
    note = ""
    if not exemplars:
        # For example, the model was exported without its training molecules.
        mine = np.flatnonzero(run.anchor == anchor)
        near = mine[np.argsort(-run.anchor_similarity[mine], kind="stable")][:_TYPICAL]
        exemplars = [(run.smiles[i], float(run.anchor_similarity[i])) for i in near.tolist()]
        note = (
            "<p class='soft'>No exemplar is kept; these are the nearest of the molecules "
            "evaluated.</p>"
        )
    typical = "".join(
        f"<figure title='{escape(smiles)}'>{as_svg(smiles)}<figcaption>cosine {cosine:.2f}"
        "</figcaption></figure>"
        for smiles, cosine in exemplars[:_TYPICAL]
    )
    facts = counted(count, "molecule")
    mine = run.anchor == anchor
    if run.y.shape[1] and (known := mine & ~np.isnan(run.y[:, 0])).any():
        y = run.y[known, 0]
        if run.kind == "regression":
            facts += f", {_first(run)} {number(y.mean())} ± {number(y.std())}"
        elif run.predicted.shape[2] == 2:
            facts += f", {100 * (y == 1).mean():.0f} % positive"
            facts += f" for {run.tasks[0]}" if len(run.tasks) > 1 else ""
    return (
        f"<div class='card'><h3>Anchor {anchor}</h3><p class='soft'>{escape(facts)}</p>"
        f"<div class='mols'>{typical}</div>{note}</div>"
    )


def _first(run: Run) -> str:
    return "label" if len(run.tasks) == 1 else run.tasks[0]


def errors_section(run: Run) -> str:
    """Return the section of the molecules with the largest errors."""
    part = run.judged()
    if not part:
        return ""
    found: list[tuple[float, int, int]] = []
    for task in range(len(run.tasks)):
        places = run.labelled(part, task)
        if not len(places):
            continue
        y, said = run.y[places, task], run.predicted[places, task]
        if run.kind == "regression":
            spread = y.std() or 1.0  # tasks of different units are compared by their spread
            size = np.abs(said - y) / spread
        else:
            size = 1 - said[np.arange(len(y)), y.astype(int)]
        worst = np.argsort(-size, kind="stable")[:_ERRORS]
        found += [(float(size[i]), int(places[i]), task) for i in worst]
    found.sort(key=lambda item: (-item[0], item[1]))
    if run.kind == "classification":
        found = [item for item in found if item[0] > 0.5]
    if not found:
        return (
            f"<section id='errors'><h2>Worst errors</h2><p class='soft'>Every label of the "
            f"{escape(part)} molecules has a probability of at least 50 %.</p></section>"
        )
    nearest = _nearest_training(run, [place for _, place, _ in found[:_ERRORS]])
    cards = "".join(
        _error(run, place, task, nearest.get(place)) for _, place, task in found[:_ERRORS]
    )
    how = (
        "The largest differences between prediction and label"
        if run.kind == "regression"
        else "The labels with the lowest predicted probability"
    )
    warning = " These are molecules that the model was trained on." if part == "train" else ""
    return (
        f"<section id='errors'><h2>Worst errors</h2><p class='soft'>{how} among the {escape(part)} "
        f"molecules.{warning} Look for what they share, for labels that may be wrong, and for "
        "molecules unlike anything in the training set (a low cosine to the nearest one)."
        f"</p><div class='errors'>{cards}</div></section>"
    )


def _nearest_training(run: Run, places: list[int]) -> dict[int, tuple[int, float]]:
    """Return the nearest training molecule of each place, and its cosine."""
    known = np.flatnonzero((run.parts == "train") & ~np.isnan(run.embedding).any(1))
    if not len(known):
        return {}
    unit = run.embedding / np.linalg.norm(run.embedding, axis=1, keepdims=True)
    found = {}
    for place in places:
        others = known[known != place]
        cosine = unit[others] @ unit[place]
        if len(others):
            found[place] = int(others[cosine.argmax()]), float(cosine.max())
    return found


def _error(run: Run, place: int, task: int, nearest: tuple[int, float] | None) -> str:
    y, said = run.y[place, task], run.predicted[place, task]
    if run.kind == "regression":
        difference = float(said - y)
        gap = f"{'+' if difference > 0 else ''}{number(difference)}"
        rows = [("label", number(y)), ("predicted", number(float(said))), ("off by", gap)]
    else:
        chance, name = f"{100 * said[int(y)]:.1f} %", run.predictor.classes[int(y)]
        rows = [("label", f"class {name}")]
        if len(said) > 2:
            rows.append(("predicted", answer(run, said)))
        rows.append((f"probability of class {name}", chance))
    facts = "".join(
        f"<dt>{escape(term)}</dt><dd{' class=off' if (term, text) == rows[-1] else ''}>"
        f"{escape(text)}</dd>"
        for term, text in rows
    )
    if nearest is not None:
        other, cosine = nearest
        facts += f"<dt>nearest in training</dt><dd>cosine {cosine:.3f}"
        if not np.isnan(run.y[other, task]):
            facts += f"</dd><dt>its label</dt><dd>{number(run.y[other, task])}"
        facts += "</dd>"
    title = escape(run.tasks[task]) + ", " if len(run.tasks) > 1 else ""
    title += " · ".join(filter(None, [f"row {run.rows[place]}", escape(run.names[place][:80])]))
    return (
        f"<div class='card'><h3>{title}</h3>{as_svg(run.smiles[place])}"
        f"<dl>{facts}</dl><code class='smiles'>{escape(run.smiles[place])}</code></div>"
    )
