"""Sections of the page on model quality: scores, curves, calibration."""

from __future__ import annotations

from html import escape

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve, roc_curve

from deepchem_mmsa.calibrate import reliability
from deepchem_mmsa.conformal import ConformalIntervals
from deepchem_mmsa.report.charts import Chart
from deepchem_mmsa.report.run import Run
from deepchem_mmsa.report.scores import Problem, Score, metrics_of, problems, score
from deepchem_mmsa.report.sections import kind_of, part_dot, parts_legend
from deepchem_mmsa.words import counted, number

_PANELS = 6  # problems that get their own charts
_POINTS = 1500  # dots of a parity plot
_LEVELS = np.linspace(0.1, 0.95, 18)
_LEAST = 20  # fewest molecules to assess calibration; the highest level needs 19


def score_runs(run: Run, resamples: int, seed: int) -> list[Score]:
    """Return the scores of all parts and problems."""
    return [
        found
        for part in run.part_names
        for problem in problems(run, part)
        for found in score(problem, run.kind, resamples, seed)
    ]


def scores_section(run: Run, scores: list[Score], resamples: int) -> str:
    """Return the table of scores, with intervals."""
    if run.kind == "pretraining":
        return ""
    if not scores:
        return (
            "<section id='scores'><h2>Scores</h2><p class='soft'>There are no labels to compare "
            "the predictions with, or no predictions.</p></section>"
        )
    names = list(metrics_of(run.kind))
    by_name: dict[str, list[Score]] = {}
    for found in scores:
        by_name.setdefault(found.problem.name, []).append(found)
    many = len(by_name) > 1
    rows = _mean_rows(run, scores, names) if many else ""
    for name, of_name in by_name.items():
        for part in dict.fromkeys(found.problem.part for found in of_name):
            task = f"<td>{escape(name)}</td>" if many else ""
            rows += f"<tr>{task}{_score_cells(run, [s for s in of_name if s.problem.part == part])}"
    head = "<th>Task</th>" if many else ""
    head += "<th>Part</th><th class='num'>Molecules</th>"
    head += "".join(f"<th class='num'>{escape(name)}</th>" for name in names)
    table = (
        "<div class='card scroll' tabindex='0' role='region' aria-label='Scores'><table><thead>"
        f"<tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    meaning = (
        "ROC AUC: the chance that a positive is ranked above a negative, 0.5 for guessing. PR AUC: "
        "average precision; for guessing, the share of positives. Brier: mean squared error of "
        "the probabilities, 0 is best."
        if run.kind == "classification"
        else "RMSE and MAE in label units, 0 is best; R²: the share of the labels' variance that "
        "is explained, 1 is best, 0 for predicting their mean."
    )
    if resamples:
        meaning += (
            f" In brackets: 95 % intervals from {resamples:,} bootstrap resamples of the part's "
            "molecules (fewer where these are more than 5,000). They show how much a score depends "
            "on which molecules were drawn, not on the training."
        )
    return f"<section id='scores'><h2>Scores</h2><p class='soft'>{meaning}</p>{table}</section>"


def _score_cells(run: Run, scores: list[Score]) -> str:
    """Return the cells of one problem and part."""
    problem = scores[0].problem
    counts = f"{len(problem.y):,}"
    if run.kind == "classification":
        counts += f" <span class='soft'>({problem.y.sum():,.0f} positive)</span>"
    cells = "".join(f"<td class='num'><b>{number(s.value)}</b> {_interval(s)}</td>" for s in scores)
    part = f"{part_dot(problem.part, run.part_names)}{escape(problem.part)}"
    return f"<td>{part}</td><td class='num'>{counts}</td>{cells}</tr>"


def _interval(found: Score) -> str:
    if not np.isfinite(found.low):
        return ""
    return f"<span class='soft'>[{number(found.low)}, {number(found.high)}]</span>"


def _mean_rows(run: Run, scores: list[Score], names: list[str]) -> str:
    rows, things = "", "tasks" if len(run.tasks) > 1 else "classes"
    for part in run.part_names:
        inside = [s for s in scores if s.problem.part == part]
        if not inside:
            continue
        cells = ""
        for name in names:
            values = np.array([s.value for s in inside if s.metric == name])
            known = values[np.isfinite(values)]
            mean = number(known.mean()) if len(known) else "–"
            lost = f" <span class='soft'>of {len(known)}</span>" if len(known) < len(values) else ""
            cells += f"<td class='num'><b>{mean}</b>{lost}</td>"
        rows += (
            f"<tr><td><b>mean of the {things}</b></td><td>{part_dot(part, run.part_names)}"
            f"{escape(part)}</td><td></td>{cells}</tr>"
        )
    return rows


# ---- curves -----------------------------------------------------------------------------------


def curves_section(run: Run) -> str:
    """Return parity plots, or ROC and precision-recall curves."""
    part = run.judged()
    if not part:
        return ""
    found = problems(run, part)
    shown, note = _chosen(found)
    if run.kind == "regression":
        panels = "".join(_parity(run, problem) for problem in shown)
        title = "Predicted against measured"
        reading = "Each disc is a molecule; on the dashed line prediction and label agree."
    else:
        panels = "".join(_ranking(run, problem) for problem in shown)
        title = "ROC and precision–recall curves"
        reading = (
            "True against false positive rate, or precision against recall, as the threshold "
            "varies. Dashed: guessing."
        )
    return (
        f"<section id='curves'><h2>{title}</h2><p class='soft'>{reading}{note}</p>"
        f"<div class='panels'>{panels}</div></section>"
    )


def _chosen(found: list[Problem]) -> tuple[list[Problem], str]:
    """Return the problems with the most labels, and a note on those left out."""
    if len(found) <= _PANELS:
        return found, ""
    shown = sorted(found, key=lambda problem: -len(problem.y))[:_PANELS]
    return shown, f" Shown are the {_PANELS} of {len(found)} tasks with the most labels."


def _parity(run: Run, problem: Problem) -> str:
    parts = [p for p in run.part_names if len(run.labelled(p, problem.task))]
    drawn, places = [], {}
    rng = np.random.default_rng(0)
    for part in parts:
        rows = run.labelled(part, problem.task)
        places[part] = rows if len(rows) <= _POINTS else rng.choice(rows, _POINTS, replace=False)
        drawn.append(places[part])
    every = np.concatenate(drawn)
    chart = Chart(
        run.y[every, problem.task], run.predicted[every, problem.task], "measured", "predicted",
        f"Predicted against measured {problem.name}", square=True,
    ).diagonal()  # fmt: skip
    for part in parts:
        rows = places[part]
        kind = kind_of(part, run.part_names)
        y, p = run.y[rows, problem.task], run.predicted[rows, problem.task]
        said = [f"{run.smiles[r]}: {number(a)} → {number(b)}" for r, a, b in zip(rows, y, p)]
        chart.points(y, p, kind, said if part == problem.part else (), 2.2)
    return (
        f"<figure class='card'><h3>{escape(problem.name)}</h3>{chart.svg()}"
        f"{parts_legend(run, parts)}<figcaption>In label units. Training molecules lie closer to "
        "the line than new ones will.</figcaption></figure>"
    )


def _both_classes(problem: Problem) -> bool:
    return 0 < problem.y.sum() < len(problem.y)


def _ranking(run: Run, problem: Problem) -> str:
    """Return the ROC and the precision-recall curve of each part that has both classes."""
    name = escape(problem.name)
    if not _both_classes(problem):
        return (
            f"<figure class='card'><h3>{name}</h3><p class='soft'>All "
            f"{counted(len(problem.y), 'label')} of this part are of one class: no curve can be "
            "drawn.</p></figure>"
        )
    ends, base = [0, 1], float(problem.y.mean())
    title = f"ROC of {problem.name}"
    roc = Chart(ends, ends, "false positives", "true positives", title, square=True).diagonal()
    title = f"Precision and recall of {problem.name}"
    precision = Chart(ends, ends, "recall", "precision", title, square=True)
    precision.line(ends, [base, base], "faint", thin=True)
    drawn = []
    for part in [p for p in run.part_names if p != "train"] or run.part_names:
        same = [p for p in problems(run, part) if p.name == problem.name]
        if same and _both_classes(same[0]):
            y, p, kind = same[0].y, same[0].answer, kind_of(part, run.part_names)
            false, true, _ = roc_curve(y, p)
            roc.line(false, true, kind)
            exact, recall, _ = precision_recall_curve(y, p)
            precision.line(recall, exact, kind)
            drawn.append(part)
    legend = parts_legend(run, drawn)
    return (
        f"<figure class='card'><h3>{name}: ROC</h3>{roc.svg()}{legend}<figcaption>Closer to the "
        "upper left corner is better.</figcaption></figure>"
        f"<figure class='card'><h3>{name}: precision–recall</h3>{precision.svg()}{legend}"
        "<figcaption>Precision: share of true positives among those predicted positive. "
        f"{100 * base:.0f} % of the {escape(problem.part)} molecules are positive.</figcaption>"
        "</figure>"
    )


# ---- calibration ------------------------------------------------------------------------------


def calibration_section(run: Run) -> str:
    """Return reliability curves of probabilities, or of intervals."""
    part = run.judged()
    if not part:
        return ""
    shown, note = _chosen(problems(run, part))
    if run.kind == "classification":
        reading = (
            f"Observed share of positives among the {escape(part)} molecules, by predicted "
            "probability. On the dashed line the model is calibrated; below it, it is too sure "
            "of positives. Bars are 95 % intervals."
        )
        panels = "".join(_reliability(run, problem) for problem in shown)
    else:
        reading = (
            "Split conformal intervals, from the errors on the validation molecules, are "
            f"evaluated on the {escape(part)} molecules. On the dashed line they cover the label "
            "as often as claimed; below it, errors are larger than on the validation molecules."
        )
        panels = "".join(_coverage(run, problem) for problem in shown)
    return (
        f"<section id='calibration'><h2>Calibration</h2><p class='soft'>{reading}{note}</p>"
        f"<div class='panels'>{panels}</div></section>"
    )


def _reliability(run: Run, problem: Problem) -> str:
    title = f"<h3>{escape(problem.name)}</h3>"
    n, kind = len(problem.y), kind_of(problem.part, run.part_names)
    if n < _LEAST:
        return _too_few(title, n)
    found = reliability(problem.y, problem.answer, n_bins=min(10, max(3, n // 15)))
    chart = Chart(
        [0, 1], [0, 1], "predicted probability", "observed share of positives",
        f"Reliability of {problem.name}", square=True,
    ).diagonal()  # fmt: skip
    chart.intervals(found.predicted, found.low, found.high, kind)
    said = [
        f"{counted(int(k), 'molecule')}: predicted {100 * p:.0f} %, observed {100 * o:.0f} %"
        for p, o, k in zip(found.predicted, found.observed, found.n)
    ]
    chart.line(found.predicted, found.observed, kind, thin=True)
    chart.points(found.predicted, found.observed, kind, said, 4)
    return (
        f"<figure class='card'>{title}{chart.svg()}<figcaption>{len(found.n)} groups of about "
        f"{n // len(found.n)} molecules. Expected calibration error: {found.error:.3f}."
        "</figcaption></figure>"
    )


def _coverage(run: Run, problem: Problem) -> str:
    title = f"<h3>{escape(problem.name)}</h3>"
    yard = run.labelled("valid", problem.task) if problem.part != "valid" else np.zeros(0, int)
    if len(yard) < _LEAST or len(problem.y) < _LEAST:
        return _too_few(title, min(len(yard), len(problem.y)))
    y, p = run.y[yard, problem.task], run.predicted[yard, problem.task]
    hits, widths = [], []
    for level in _LEVELS:
        intervals = ConformalIntervals(float(level)).fit(y, p)
        hits.append(int(intervals.covers(problem.y, problem.answer).sum()))
        widths.append(float(intervals.quantile[0]))
    n, kind = len(problem.y), kind_of(problem.part, run.part_names)
    bounds = [binomtest(k, n).proportion_ci(method="wilson") for k in hits]
    chart = Chart(
        [0, 1], [0, 1], "nominal coverage", "observed coverage",
        f"Coverage of intervals of {problem.name}", square=True,
    ).diagonal()  # fmt: skip
    observed = np.array(hits) / n
    chart.intervals(_LEVELS, [b.low for b in bounds], [b.high for b in bounds], kind)
    chart.line(_LEVELS, observed, kind, thin=True)
    said = [
        f"± {number(width)}: nominal {100 * level:.0f} %, observed {100 * o:.0f} %"
        for width, level, o in zip(widths, _LEVELS, observed)
    ]
    chart.points(_LEVELS, observed, kind, said, 3.4)
    nine = ConformalIntervals(0.9).fit(y, p)
    inside = 100 * nine.covers(problem.y, problem.answer).mean()
    return (
        f"<figure class='card'>{title}{chart.svg()}<figcaption>90 % intervals are ± "
        f"{number(float(nine.quantile[0]))} and cover {inside:.0f} % of {counted(n, 'label')}. If "
        "the epoch was chosen on the same validation molecules, their errors are a bit too small."
        "</figcaption></figure>"
    )


def _too_few(title: str, n: int) -> str:
    return (
        f"<figure class='card'>{title}<p class='soft'>{counted(n, 'label')} can be used: too few "
        f"to assess calibration (at least {_LEAST} are needed; for intervals, in each of two "
        "parts).</p></figure>"
    )
