"""Results of a run: a tidy table, Markdown, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import deepchem as dc
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deepchem_mmsa.benchmark.cells import Cell
from deepchem_mmsa.benchmark.scores import score

COLUMNS = (
    "protocol", "dataset", "model", "seed", "metric", "valid", "test", "best_epoch", "seconds",
    "n_train", "n_valid", "n_test",
)  # fmt: skip
ENSEMBLE = "all"
"""What stands as seed of the mean of all seeds' predictions."""
_COLOURS = ("#0b5fa5", "#d1495b", "#2e8b57", "#8a5fbf", "#e08e0b", "#555555", "#14a3a8")


def tidy(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return one row per data set, model and seed, for the cells that are finished.

    Where a model has two seeds or more, a row with the seed ``"all"`` scores the mean of their
    predictions: an ensemble, under the name ``"<model> x<n>"``; a model in which nothing is
    random has none.

    Parameters
    ----------
    cells : sequence of Cell

    Returns
    -------
    pandas.DataFrame
        Columns :data:`COLUMNS`.
    """
    rows: list[dict[str, object]] = []
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if not cell.finished:
            continue
        result = cell.result()
        row = {name: result[name] for name in COLUMNS if name in result}
        sizes = dict(zip(("n_train", "n_valid", "n_test"), result["sizes"]))
        epoch = result["details"].get("best_epoch")
        rows.append({**row, "best_epoch": epoch, **sizes})
        key = (cell.protocol, cell.dataset, cell.contender.name)
        groups.setdefault(key, []).append(cell)
    for members in groups.values():
        ensemble = _ensemble(members) if len(members) > 1 else None
        if ensemble is not None:
            rows.append(ensemble)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _ensemble(cells: Sequence[Cell]) -> dict[str, object] | None:
    parts = [cell.predictions() for cell in cells]
    if all(np.array_equal(part["test"], parts[0]["test"]) for part in parts):
        return None
    results = [cell.result() for cell in cells]
    row = {name: results[0][name] for name in ("protocol", "dataset", "metric")}
    for name in ("valid", "test"):
        mean = np.mean([part[name] for part in parts], axis=0)
        labels = dc.data.NumpyDataset(
            np.zeros(len(mean)), parts[0][f"{name}_y"], parts[0][f"{name}_w"]
        )
        row[name] = score(labels, mean, str(row["metric"]))[0]
    model = f"{cells[0].contender.name} x{len(cells)}"
    seconds = sum(result["seconds"] for result in results)
    sizes = dict(zip(("n_train", "n_valid", "n_test"), results[0]["sizes"]))
    return {**row, "model": model, "seed": ENSEMBLE, "seconds": seconds, **sizes}


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of the test score.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`tidy`.

    Returns
    -------
    pandas.DataFrame
        Columns ``protocol``, ``metric``, ``model``, ``dataset``, ``mean``, ``std``, ``seeds``.
        The data set ``"mean"`` is the mean over the data sets, its deviation that of the seeds'
        means; only models that ran on all of them have one.
    """
    keys = ["protocol", "metric", "model", "dataset"]
    rows = []
    for (protocol, metric), part in frame.groupby(["protocol", "metric"], sort=False):
        datasets = list(dict.fromkeys(part["dataset"]))
        for model in dict.fromkeys(part["model"]):
            of_model = part[part["model"] == model]
            for name, group in of_model.groupby("dataset", sort=False):
                rows.append((protocol, metric, model, name, *_spread(group["test"])))
            table = of_model.pivot_table(index="seed", columns="dataset", values="test")
            whole = table.reindex(columns=datasets).dropna()
            if len(datasets) > 1 and len(whole):
                means = whole.mean(axis=1)
                rows.append((protocol, metric, model, "mean", *_spread(means)))
    return pd.DataFrame(rows, columns=[*keys, "mean", "std", "seeds"])


def _spread(values: pd.Series) -> tuple[float, float, int]:
    std = float(values.std(ddof=0)) if len(values) > 1 else float("nan")
    return float(values.mean()), std, len(values)


def markdown(frame: pd.DataFrame) -> str:
    """Return tables of mean ± standard deviation, one per protocol and metric.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`tidy`.

    Examples
    --------
    >>> rows = [("hu", d, "forest", s, "rmse", 1.0, t) for d, s, t in
    ...         [("esol", 0, 1.0), ("esol", 1, 1.2)]]
    >>> names = ["protocol", "dataset", "model", "seed", "metric", "valid", "test"]
    >>> print(markdown(pd.DataFrame(rows, columns=names)).splitlines()[-1])
    | forest | 1.100 ± 0.100 |
    """
    parts = []
    for (protocol, metric), table in summary(frame).groupby(["protocol", "metric"], sort=False):
        datasets = list(dict.fromkeys(table["dataset"]))
        datasets = [d for d in datasets if d != "mean"] + ["mean"] * ("mean" in datasets)
        better = "lower" if metric == "rmse" else "higher"
        lines = [
            f"Protocol {protocol}, {metric} on the test set at the best validation epoch "
            f"({better} is better), mean ± standard deviation over seeds:",
            "",
            "| model | " + " | ".join(datasets) + " |",
            "| --- |" + " --- |" * len(datasets),
        ]
        for model in dict.fromkeys(table["model"]):
            of_model = table[table["model"] == model].set_index("dataset")
            cells = []
            for name in datasets:
                if name not in of_model.index:
                    cells.append("")
                    continue
                mean, std = of_model.loc[name, "mean"], of_model.loc[name, "std"]
                cells.append(f"{mean:.3f}" + ("" if np.isnan(std) else f" ± {std:.3f}"))
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def plot(frame: pd.DataFrame, path: str | Path) -> None:
    """Draw the test scores: a panel per protocol and metric, a bar per model and data set.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`tidy`.
    path : path-like
        Where to write the PNG. Error bars are standard deviations over seeds.

    Raises
    ------
    ValueError
        If no cell is finished.
    """
    table = summary(frame)
    panels = list(table.groupby(["protocol", "metric"], sort=False))
    if not panels:
        raise ValueError("no finished cell to draw: run the benchmark first")
    width = max(6.0, 1.5 + 0.16 * len(table) / len(panels))
    figure = Figure(figsize=(width, 3.6 * len(panels)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, ((protocol, metric), part) in zip(axes, panels):
        datasets = list(dict.fromkeys(part["dataset"]))
        models = list(dict.fromkeys(part["model"]))
        size = 0.8 / len(models)
        for i, model in enumerate(models):
            of_model = part[part["model"] == model]
            x = np.array([datasets.index(d) for d in of_model["dataset"]], dtype=float)
            ax.bar(
                x + (i - (len(models) - 1) / 2) * size, of_model["mean"], size * 0.92,
                yerr=of_model["std"].fillna(0), label=model, color=_COLOURS[i % len(_COLOURS)],
                alpha=1.0 if i < len(_COLOURS) else 0.55, error_kw={"linewidth": 0.8},
            )  # fmt: skip
        ax.set_xticks(range(len(datasets)), datasets)
        ax.set(title=f"protocol {protocol}", ylabel=f"{metric}, test")
        if metric == "roc_auc":
            low = float(np.nanmin(part["mean"] - part["std"].fillna(0)))
            ax.set_ylim(max(0.0, min(0.5, low - 0.02)), 1.0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.25)
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes), key=lambda x: len(x[1]))
    figure.legend(handles, labels, fontsize=7, ncols=4, loc="outside lower center")
    figure.savefig(str(path))
