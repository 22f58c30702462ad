"""Figures of a run: training curves, predicted against true values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_COLOURS = ("#0b5fa5", "#d1495b", "#2e8b57", "#8a5fbf", "#e08e0b", "#555555", "#14a3a8")
_TITLES = {
    "loss": "total",
    "con": "agreement",
    "rec": "reconstruction",
    "mask": "masked atoms",
    "align": "alignment",
    "commit": "commitment",
    "balance": "balance",
    "desc": "descriptors",
    "valid_loss": "validation",
}


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Any]]:
    """Return a figure that needs no display or global state, and its axes, side by side."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    (axes,) = figure.subplots(1, columns, squeeze=False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, axes


def plot_history(histories: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path) -> None:
    """Draw training curves: one panel for each run, a line for each loss term.

    Parameters
    ----------
    histories : mapping of str to history
        Title to ``model.history``.
    path : path-like
        Where to write the PNG.
    """
    figure, axes = _figure(5.5 * len(histories), 4, columns=len(histories))
    for ax, (title, history) in zip(axes, histories.items()):
        epochs = [row["epoch"] for row in history]
        names = [n for n in _TITLES if any(n in row for row in history)]
        colours = iter(_COLOURS[1:] * 2)
        for name in names:
            values = np.array([row.get(name, np.nan) for row in history], dtype=float)
            if not np.nanmax(np.abs(values)) > 0:
                continue  # a term that is switched off
            main = name == "loss"
            ax.plot(
                epochs, values, label=_TITLES[name] if len(names) > 2 or not main else "training",
                color=_COLOURS[0] if main else next(colours), linewidth=2.4 if main else 1.4,
            )  # fmt: skip
        ax.set(title=title, xlabel="epoch", ylabel="loss")
        ax.legend(frameon=False, fontsize=8)
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(str(path))


def plot_comparison(curves: Mapping[str, Sequence[float]], path: str | Path, label: str) -> None:
    """Draw one quantity over the epochs for several runs.

    Parameters
    ----------
    curves : mapping of str to sequence of float
        Run to its values, one per epoch.
    path : path-like
        Where to write the PNG.
    label : str
        What the values are.
    """
    figure, (ax,) = _figure(6, 4)
    for colour, (name, values) in zip(itertools.cycle(_COLOURS), curves.items()):
        ax.plot(range(1, len(values) + 1), values, label=name, color=colour, marker="o", ms=3)
    ax.set(xlabel="epoch", ylabel=label)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    figure.savefig(str(path))


def plot_parity(
    truth: np.ndarray, predictions: Mapping[str, np.ndarray], path: str | Path, label: str
) -> None:
    """Draw predicted against true values, a panel for each model with its RMSE and R².

    Parameters
    ----------
    truth : np.ndarray
        ``[N]``.
    predictions : mapping of str to np.ndarray
        Model to ``[N]`` values; NaN are left out and counted.
    path : path-like
        Where to write the PNG.
    label : str
        What is predicted, with its unit.
    """
    figure, axes = _figure(4.2 * len(predictions), 4.2, columns=len(predictions))
    every = np.concatenate([truth, *predictions.values()])
    low, high = np.nanmin(every), np.nanmax(every)
    margin = 0.04 * (high - low)
    for i, (ax, (name, predicted)) in enumerate(zip(axes, predictions.items())):
        known = ~np.isnan(predicted)
        error = predicted[known] - truth[known]
        rmse = float(np.sqrt((error**2).mean()))
        r2 = 1 - float((error**2).sum() / ((truth[known] - truth[known].mean()) ** 2).sum())
        ax.plot([low, high], [low, high], color="#999999", linewidth=1)
        ax.scatter(
            truth[known], predicted[known], s=16, alpha=0.65, linewidth=0, color=_COLOURS[i % 7]
        )
        lost = f", {int((~known).sum())} without a prediction" if not known.all() else ""
        ax.set(
            title=f"{name}\nRMSE {rmse:.2f}, R² {r2:.2f}{lost}", xlabel=f"true {label}",
            ylabel=f"predicted {label}", xlim=(low - margin, high + margin),
            ylim=(low - margin, high + margin), aspect="equal",
        )  # fmt: skip
        ax.title.set_fontsize(10)
    figure.savefig(str(path))
