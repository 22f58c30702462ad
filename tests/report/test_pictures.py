"""Pictures: made from what a run leaves, without a screen and with gaps in the data."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deepchem_mmsa.pretraining import LOSS_TERMS
from deepchem_mmsa.report import plot_comparison, plot_history, plot_parity


def inked(path):
    picture = np.asarray(Image.open(path).convert("L"))
    assert min(picture.shape) > 200
    return (picture < 250).mean()


def test_history(make_model, graph_dataset, tmp_path):
    model = make_model(mode="pretraining")
    model.fit(graph_dataset, nb_epoch=2)
    plot_history({"pre-training": model.history}, tmp_path / "a.png")
    assert inked(tmp_path / "a.png") > 0.01


def test_parity_says_what_is_missing(tmp_path):
    truth = np.linspace(0, 1, 20)
    gaps = np.where(np.arange(20) == 3, np.nan, truth)
    plot_parity(truth, {"exact": truth, "gaps": gaps}, tmp_path / "a.png", "x / unit")
    assert inked(tmp_path / "a.png") > 0.01


@pytest.mark.parametrize("n", [1, 5])
def test_comparison(tmp_path, n):
    plot_comparison({"a": [1.0] * n, "b": [2.0] * n}, tmp_path / "a.png", "loss")
    assert inked(tmp_path / "a.png") > 0.01


def test_every_run_and_every_term_has_its_line(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    plot_comparison({f"run {i}": [1.0, 2.0] for i in range(9)}, tmp_path / "a.png", "loss")
    terms = dict.fromkeys(["loss", *LOSS_TERMS], 0.5)
    plot_history({"pre-training": [{"epoch": 1, **terms}]}, tmp_path / "a.png")
    lines = [len(axes.lines) for figure in figures for axes in figure.axes]
    assert lines == [9, len(terms)]
