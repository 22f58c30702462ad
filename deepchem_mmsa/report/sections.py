"""Sections of the page on data and training."""

from __future__ import annotations

from collections import Counter
from html import escape

import numpy as np

from deepchem_mmsa.report.charts import Chart
from deepchem_mmsa.report.run import PARTS, Missing, Run
from deepchem_mmsa.words import counted, number

_ROWS = 100  # of a list of failures
_PANELS = 6
# Title and explanation of each column of a history.
_TERMS = {
    "loss": ("Training loss", "The weighted sum of the terms; mean over the epoch."),
    "valid_loss": ("Validation loss", "The same loss on molecules that are not trained on."),
    "con": ("Agreement of views", "Contrastive loss (InfoNCE) between a molecule's views."),
    "rec": ("Reconstruction", "Error of views reconstructed from their own and other codes."),
    "mask": ("Masked atoms", "Loss of predicting masked atoms from their surroundings."),
    "align": ("Alignment with the memory", "InfoNCE between memory- and batch-scope embeddings."),
    "commit": ("Commitment", "How far molecules lie from their nearest anchor."),
    "balance": ("Balance", "How unevenly the anchors are used; 0 is even."),
    "desc": ("Descriptors", "Error of predicting fingerprint and descriptors from other views."),
    "retrieval": ("Retrieval", "Share of a batch whose code in one view finds its own in another."),
    "code_std": ("Spread of the codes", "Falls towards 0 if representations collapse."),
    "anchors_in_use": ("Anchors in use", "Share of anchors nearest to some recent molecule."),
    "learning_rate": ("Learning rate", "Of the optimizer, at the end of the epoch."),
}
_QUANTITIES = {
    "rmse": "RMSE", "mae": "MAE", "r2": "R²", "roc_auc": "ROC AUC", "pr_auc": "PR AUC"
}  # fmt: skip
_SILENT = ("epoch", "step", "skipped_batches")


def kind_of(part: str, others: list[str]) -> str:
    """Return the colour class of a part: fixed for train, valid and test."""
    return part if part in PARTS else f"c{others.index(part) % 8}"


def part_dot(part: str, others: list[str]) -> str:
    """Return the coloured disc of a part."""
    return f'<i class="dot {kind_of(part, others)}"></i>'


def data_section(run: Run) -> str:
    """Return the summary of the data: sizes, labels, and what could not be read."""
    supervised = bool(run.y.shape[1])
    rows = ""
    for part in run.part_names:
        inside = run.parts == part
        cells = [f"{inside.sum():,}"]
        unread = int((inside & run.failed).sum())
        cells.append(f"{unread:,}" if unread else "–")
        if supervised:
            cells += _labels_of(run, inside)
        rows += (
            f"<tr><td>{part_dot(part, run.part_names)}{escape(part)}</td>"
            + "".join(f"<td class='num'>{cell}</td>" for cell in cells) + "</tr>"
        )  # fmt: skip
    unused = int((run.parts == "").sum())
    if unused:
        span = 1 + (2 if supervised else 0)
        rows += (
            f"<tr><td>in no part</td><td class='num'>{unused:,}</td>"
            f"<td class='soft' colspan='{span}'>unreadable, or without a label</td></tr>"
        )
    head = "<th>Part</th><th class='num'>Rows</th><th class='num'>Unreadable</th>"
    if supervised:
        what = "Positive" if run.kind == "classification" else "Mean ± spread"
        if len(run.tasks) > 1:
            what += ", first task"
        head += "<th class='num'>Labels</th>"
        head += "" if _many_classes(run) else f"<th class='num'>{what}</th>"
    table = (
        f"<div class='card scroll' tabindex='0' role='region' aria-label='Parts of the data'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return (
        "<section id='data'><h2>Data</h2><p class='soft'>The data of the model, part by part. "
        "Rows that cannot be read are counted and listed with their reasons."
        f"</p>{table}{_distributions(run)}{missing_views(run)}</section>"
    )


def _many_classes(run: Run) -> bool:
    """Return whether there are more classes than positive and negative."""
    return run.kind == "classification" and run.predicted.shape[2] > 2


def _labels_of(run: Run, inside: np.ndarray) -> list[str]:
    y = run.y[inside]
    known = ~np.isnan(y)
    first = y[known[:, 0], 0]
    if _many_classes(run):
        return [f"{known.sum():,}"]
    if not len(first):
        return [f"{known.sum():,}", "–"]
    if run.kind == "classification":
        return [f"{known.sum():,}", f"{100 * (first == 1).mean():.0f} %"]
    return [f"{known.sum():,}", f"{number(first.mean())} ± {number(first.std())}"]


def _distributions(run: Run) -> str:
    """Return histograms of the labels of a regression, one panel per task."""
    if run.kind != "regression" or not run.y.shape[1]:
        return ""
    panels = []
    for task, name in enumerate(run.tasks[:_PANELS]):
        known = ~np.isnan(run.y[:, task])
        if known.sum() < 2:
            continue
        edges = np.histogram_bin_edges(run.y[known, task], bins=20)
        heights = {}
        for part in run.part_names:
            values = run.y[known & (run.parts == part), task]
            if len(values):
                heights[part] = 100 * np.histogram(values, edges)[0] / len(values)
        if not heights:
            continue
        top = np.concatenate(list(heights.values()))
        chart = Chart(
            edges, [0, *top], name, "share of the part / %", f"Distribution of {name} by part"
        )
        for part, values in heights.items():
            chart.steps(edges, values, kind_of(part, run.part_names))
        panels.append(
            f"<figure class='card'><h3>Labels: {escape(name)}</h3>{chart.svg()}"
            f"{parts_legend(run, list(heights))}<figcaption>Share of each part's molecules by "
            "label. Where the curves differ, the split asks the model to extrapolate."
            "</figcaption></figure>"
        )
    return f"<div class='panels below'>{''.join(panels)}</div>" if panels else ""


def parts_legend(run: Run, parts: list[str]) -> str:
    """Return the legend of parts."""
    items = "".join(
        f"<span>{part_dot(part, run.part_names)}{escape(part)}</span>" for part in parts
    )
    return f"<div class='legend'>{items}</div>"


def missing_views(run: Run) -> str:
    """Return the views that could not be made, by reason and row by row."""
    if not run.missing:
        return "<p class='soft below'>Every view of every row evaluated was made.</p>"
    grouped: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Missing] = {}
    for items in _by_row_and_gist(run.missing):
        key = ", ".join(item.view for item in items), _gist(items[0])
        grouped[key] += 1
        first.setdefault(key, items[0])
    rows = "".join(
        f"<tr><td class='view'>{escape(view)}</td><td class='num'>{n:,}</td><td>{escape(gist)}</td>"
        f"<td>row {first[view, gist].row}: <code>{escape(_cut(first[view, gist].smiles))}</code>"
        "</td></tr>"
        for (view, gist), n in grouped.most_common(20)
    )
    listed = "".join(
        f"<tr><td class='num'>{m.row}</td><td>{escape(m.part) or '–'}</td>"
        f"<td class='view'>{escape(m.view)}</td>"
        f"<td>{escape(_cut(m.reason, 200))}</td><td><code>{escape(_cut(m.smiles))}</code></td></tr>"
        for m in run.missing[:_ROWS]
    )
    beyond = (
        f"the first {_ROWS} of {counted(len(run.missing), 'missing view')}"
        if len(run.missing) > _ROWS
        else f"all {counted(len(run.missing), 'missing view')}"
    )
    return f"""<h3 class="below">Views that are missing</h3>
<p class="soft">A molecule that lacks some views is used for training and prediction with the
others; one that lacks all of them has no prediction.</p>
<div class="card scroll" tabindex="0" role="region" aria-label="Missing views by reason"><table>
<thead><tr><th>Views</th><th class="num">Rows</th><th>Reason</th><th>For example</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<details><summary>Row by row: {beyond}</summary>
<div class="card scroll" tabindex="0" role="region" aria-label="Missing views row by row"><table>
<thead><tr><th class="num">Row</th><th>Part</th><th>View</th><th>Reason</th><th>SMILES</th></tr>
</thead><tbody>{listed}</tbody></table></div></details>"""


def _by_row_and_gist(missing: list[Missing]) -> list[list[Missing]]:
    """Put together the views that a row lacks for one reason: all of them, if it is unreadable."""
    found: dict[tuple[str, int, str], list[Missing]] = {}
    for item in missing:
        found.setdefault((item.part, item.row, _gist(item)), []).append(item)
    return list(found.values())


def _gist(item: Missing) -> str:
    """Return a reason without the molecule that it names, so that rows can be counted by it."""
    head = item.reason.partition(" for input: ")[0]
    return _cut(head.replace(item.smiles, "…") if len(item.smiles) > 2 else head, 120)


def _cut(text: str, most: int = 90) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def training_section(run: Run) -> str:
    """Return a panel for each column of the history."""
    if not run.history:
        return (
            "<section id='training'><h2>Training</h2><p class='soft'>No history came with this "
            "model.</p></section>"
        )
    columns = list(dict.fromkeys(key for row in run.history for key in row if key not in _SILENT))
    order = {name: place for place, name in enumerate(_TERMS)}
    best = run.summary.get("best_epoch")
    known = [
        name for name in columns
        if np.isfinite(values := _column(run, name)).any() and np.nanmax(np.abs(values)) > 0
    ]  # fmt: skip
    rates = _column(run, "learning_rate")
    if np.nanmin(rates, initial=np.inf) == np.nanmax(rates, initial=-np.inf):
        known = [name for name in known if name != "learning_rate"]  # a constant needs no panel
    # The loss, then scores on the validation set, then the terms in the method's order.
    known.sort(key=lambda name: (name != "loss", name in order, order.get(name, 0)))
    panels = "".join(_curve(run, name, best) for name in known)
    epochs = counted(len(run.history), "epoch")
    chosen = f" The dashed line is the epoch that was kept, {best}." if best else ""
    return (
        f"<section id='training'><h2>Training</h2><p class='soft'>{epochs}, a panel per quantity; "
        "terms that are switched off are left out. For losses and their terms, lower is better."
        f"{chosen}</p>"
        f"<div class='panels'>{panels}</div></section>"
    )


def _column(run: Run, name: str) -> np.ndarray:
    return np.array([row.get(name, np.nan) for row in run.history], dtype=float)


def _curve(run: Run, name: str, best: int | None) -> str:
    values = _column(run, name)
    epochs = np.array([row.get("epoch", i + 1) for i, row in enumerate(run.history)], float)
    validation = name.startswith("valid_")
    title, caption = _TERMS.get(name, ("", ""))
    if not title:
        quantity = name.removeprefix("valid_")
        title = _QUANTITIES.get(quantity, quantity.replace("_", " "))
        title = f"{title} on the validation set" if validation else title
        caption = "On molecules that are not trained on, after each epoch." if validation else ""
    kind = "valid" if validation else "c0" if name in ("loss", "learning_rate") else "c2"
    chart = Chart(epochs, values, "epoch", "", f"{title} by epoch", whole_x=True)
    if best:
        known = values[np.isfinite(values)]
        chart.line([best, best], [known.min(), known.max()], "faint", thin=True)
    chart.line(epochs, values, kind)
    if len(values) <= 60:
        said = [f"epoch {e:.0f}: {number(v, 4)}" for e, v in zip(epochs, values)]
        chart.points(epochs, values, kind, said)
    last = values[np.isfinite(values)][-1]
    return (
        f"<figure class='card'><h3>{escape(title)}</h3>{chart.svg()}<figcaption>"
        f"{escape(caption)} Last: {number(last)}.</figcaption></figure>"
    )
