"""Results of a run: a tidy table, Markdown, a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import deepchem as dc
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deepchem_mmsa.atomic import write_atomically, write_text
from deepchem_mmsa.benchmark.cells import Cell
from deepchem_mmsa.benchmark.scores import metric_of, score
from deepchem_mmsa.early_stopping import small_is_good

COLUMNS = (
    "protocol", "dataset", "model", "seed", "metric", "valid", "test", "best_epoch", "seconds",
    "n_train", "n_valid", "n_test",
)  # fmt: skip
ENSEMBLE = "all"
"""Value of the column ``seed`` for the mean of all seeds' predictions."""
_COLOURS = ("#0b5fa5", "#d1495b")  # of one model, of several together
_COLUMNS = 6  # panels beside each other


def tidy(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return one row per data set, model and seed, for the cells that are finished.

    For a model with two seeds or more, a row with the seed ``"all"`` scores the mean of their
    predictions: an ensemble, under the name ``"<model> x<n>"``; a deterministic model has none.

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
    found = {cell.path: cell.predictions() for cell in cells}
    scores = scores_of_the_mean(found, cells[0].result()["metric"])
    first, *rest = (part["test"] for part in found.values())
    if all(np.array_equal(first, other) for other in rest):
        return None
    results = [cell.result() for cell in cells]
    row = {name: results[0][name] for name in ("protocol", "dataset", "metric")}
    model = f"{cells[0].contender.name} x{len(cells)}"
    seconds = sum(result["seconds"] for result in results)
    sizes = dict(zip(("n_train", "n_valid", "n_test"), results[0]["sizes"]))
    return {**row, **scores, "model": model, "seed": ENSEMBLE, "seconds": seconds, **sizes}


def scores_of_the_mean(
    found: Mapping[Path, Mapping[str, np.ndarray]], metric: str
) -> dict[str, float]:
    """Score the mean of several networks' predictions of the same molecules.

    Parameters
    ----------
    found : mapping of pathlib.Path to mapping of str to np.ndarray
        The file of each network, and the result of
        :meth:`~deepchem_mmsa.benchmark.cells.Cell.predictions`.
    metric : {"roc_auc", "rmse", "mae"}

    Returns
    -------
    dict
        ``valid`` and ``test``.

    Raises
    ------
    ValueError
        If the labels of two networks differ; the message names their files.

    Examples
    --------
    >>> y = np.array([[1.0], [2.0]])
    >>> part = {"valid_y": y, "test_y": y, "valid_w": np.ones((2, 1)), "test_w": np.ones((2, 1))}
    >>> above, below = ({**part, "valid": y + d, "test": y + 2 * d} for d in (0.5, -0.25))
    >>> scores_of_the_mean({Path("a"): above, Path("b"): below}, "rmse")
    {'valid': 0.125, 'test': 0.25}
    """
    (path, first), *others = found.items()
    for other, part in others:
        if not all(
            np.array_equal(part[name], first[name], equal_nan=True)
            for name in ("valid_y", "test_y")
        ):
            raise ValueError(f"{other} and {path} are results of other data: remove the older one")
    scores = {}
    for name in ("valid", "test"):
        mean = np.mean([part[name] for part in found.values()], axis=0)
        labels = dc.data.NumpyDataset(np.zeros(len(mean)), first[f"{name}_y"], first[f"{name}_w"])
        scores[name] = score(labels, mean, metric)[0]
    return scores


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
        The data set ``"mean"`` is the mean over the data sets, with the standard deviation of the
        seeds' means; it is left out for models that did not run on all sets, and for RMSE, whose
        units differ. Standard deviations are divided by n, not n − 1.
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
            if len(datasets) > 1 and len(whole) and not small_is_good(metric_of(metric)):
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
        better = "lower" if small_is_good(metric_of(metric)) else "higher"
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
    """Draw the test scores: a panel per data set, a line per model.

    A dot is the mean over seeds with the standard deviation, a diamond the ensemble of the seeds.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`tidy`.
    path : path-like
        Where to write the PNG.

    Raises
    ------
    ValueError
        If no cell is finished.
    """
    table = summary(frame)
    if table.empty:
        raise ValueError("no finished cell to draw: run the benchmark first")
    together = set(frame.loc[frame["seed"] == ENSEMBLE, "model"])
    models = [model for model in dict.fromkeys(table["model"]) if model not in together]
    line = {model: i for i, model in enumerate(models)}
    line |= {model: line[model.rpartition(" x")[0]] for model in together}
    panels = []
    for (protocol, metric), part in table.groupby(["protocol", "metric"], sort=False):
        names = sorted(dict.fromkeys(part["dataset"]), key=lambda name: name == "mean")
        panels += [(protocol, metric, name, part[part["dataset"] == name]) for name in names]
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (1.6 + 1.7 * columns, rows * (1.0 + 0.24 * len(models)) + 0.3)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, (protocol, metric, name, part) in zip(axes, panels):
        several = part["model"].isin(together)
        kinds = (~several, "o", "mean of the seeds"), (several, "D", "ensemble of the seeds")
        for colour, (chosen, marker, label) in zip(_COLOURS, kinds):
            if not chosen.any():  # one seed has no ensemble
                continue
            ax.errorbar(
                part[chosen]["mean"], part[chosen]["model"].map(line),
                xerr=part[chosen]["std"].fillna(0), fmt=marker, color=colour, label=label,
                mfc="none" if marker == "D" else colour, ms=6 if marker == "D" else 4, lw=1,
            )  # fmt: skip
        ax.set_title(f"{name}\n{protocol}" if table["protocol"].nunique() > 1 else name)
        ax.set_xlabel(f"{metric}, test")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(models)), models)
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize=8, ncols=2, loc="outside lower center"
    )
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def write_results(frame: pd.DataFrame, folder: str | Path) -> str:
    """Write ``results.csv``, ``results.md`` and ``results.png``, each atomically.

    Parameters
    ----------
    frame : pandas.DataFrame
        From :func:`tidy`.
    folder : path-like

    Returns
    -------
    str
        The Markdown.

    Raises
    ------
    ValueError
        If no cell is finished.
    """
    text = markdown(frame)
    plot(frame, Path(folder, "results.png"))
    write_text(Path(folder, "results.csv"), frame.to_csv(index=False, lineterminator="\n"))
    write_text(Path(folder, "results.md"), text)
    return text
