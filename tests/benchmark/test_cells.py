"""Cells: nothing is run twice, nothing half done is believed, nothing old is taken for new."""

import itertools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import deepchem as dc
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from deepchem_mmsa.benchmark.baselines import mean_predictions
from deepchem_mmsa.benchmark.cells import cells_of, run_cells
from deepchem_mmsa.benchmark.contenders import Mean, Outcome
from deepchem_mmsa.benchmark.results import ENSEMBLE, markdown, plot, summary, tidy, write_results
from deepchem_mmsa.benchmark.scores import score
from deepchem_mmsa.benchmark.sets import Split


@dataclass(frozen=True)
class Noisy:
    """The mean and some noise of its seed; counts its runs, and can break."""

    name: str = "noisy"
    noise: float = 0.1
    runs: list = field(default_factory=list)
    breaks_at: int | None = None

    def settings(self):
        return {"name": self.name, "noise": self.noise}

    def run(self, split, seed):
        if seed == self.breaks_at:
            raise KeyboardInterrupt
        self.runs.append((split.name, split.protocol, seed))
        rng = np.random.default_rng(seed)
        values = []
        for part in (split.valid, split.test):
            made = mean_predictions(split.train, part, split.mode)
            values.append(made + self.noise * rng.normal(size=made.shape))
        return Outcome(*values, {"best_epoch": np.int64(seed + 1)})


@pytest.fixture
def load(energy_split, oxygen_split):
    calls = []

    def load(dataset, protocol):
        calls.append((dataset, protocol))
        return {"energy": energy_split, "oxygen": oxygen_split}[dataset]

    load.calls = calls
    return load


def test_a_run_that_was_killed_goes_on(tmp_path, load):
    broken = Noisy(breaks_at=1)
    cells = cells_of(tmp_path, ["hu"], ["energy", "oxygen"], [Mean(), broken], [0, 1, 2])
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, load, report=lambda line: None)
    assert [c.finished for c in cells] == [True] * 3 + [False] * 9
    whole = Noisy()
    again = cells_of(tmp_path, ["hu"], ["energy", "oxygen"], [Mean(), whole], [0, 1, 2])
    assert run_cells(again, load, report=lambda line: None) == []
    assert [seed for _, _, seed in whole.runs] == [1, 2, 0, 1, 2]
    assert all(c.finished for c in again)
    load.calls.clear()
    assert run_cells(again, load) == []
    assert load.calls == []  # nothing left to do: nothing is loaded


def test_another_setting_is_another_cell(tmp_path, load):
    for noise in (0.1, 0.2):
        contender = Noisy(noise=noise)
        cells = cells_of(tmp_path, ["hu"], ["energy"], [contender], [0])
        run_cells(cells, load, report=lambda line: None)
        assert len(contender.runs) == 1
    cut = cells_of(tmp_path, ["hu"], ["energy"], [contender], [0], max_molecules=9)
    assert not cut[0].finished


def test_a_cell_is_scored_on_the_split_of_its_protocol(tmp_path, energy_split):
    turned = replace(energy_split, valid=energy_split.test, test=energy_split.valid)
    splits = {"hu": energy_split, "deepchem": turned}
    cells = cells_of(tmp_path, splits, ["energy"], [Noisy()], [0])
    run_cells(cells, lambda _, protocol: splits[protocol], report=lambda line: None)
    for cell in cells:
        for name in ("valid", "test"):
            part, found = splits[cell.protocol].parts()[name], cell.predictions()
            np.testing.assert_array_equal(found[f"{name}_y"], part.y.astype(np.float32))
            expected = score(part, found[name], "rmse")[0]
            assert cell.result()[name] == pytest.approx(expected, rel=1e-5)
    assert len({cell.path for cell in cells}) == len({c.result()["test"] for c in cells}) == 2


def test_a_half_written_cell_is_not_finished(tmp_path, load):
    (cell,) = cells_of(tmp_path, ["hu"], ["energy"], [Noisy()], [0])
    cell.path.parent.mkdir(parents=True)
    cell.path.with_suffix(".npz").write_bytes(b"half")
    assert not cell.finished
    run_cells([cell], load, report=lambda line: None)
    assert cell.predictions()["test"].shape == cell.predictions()["test_y"].shape


def test_a_cell_without_its_predictions_is_run_again(tmp_path, load):
    noisy = Noisy()
    cells = cells_of(tmp_path, ["hu"], ["energy"], [noisy], [0, 1])
    run_cells(cells, load, report=lambda line: None)
    before = tidy(cells).drop(columns="seconds")
    cells[0].path.with_suffix(".npz").unlink()
    run_cells(cells, load, report=lambda line: None)
    assert [seed for _, _, seed in noisy.runs] == [0, 1, 0]
    pd.testing.assert_frame_equal(tidy(cells).drop(columns="seconds"), before)


def test_a_damaged_cell_is_named(tmp_path, load):
    (cell,) = cells_of(tmp_path, ["hu"], ["energy"], [Mean()], [0])
    run_cells([cell], load, report=lambda line: None)
    cell.path.write_text(cell.path.read_text()[:50])
    with pytest.raises(ValueError, match=rf"{cell.path.name} is damaged .*: remove it"):
        run_cells([cell], load)


def test_a_task_without_a_score_is_null(tmp_path, oxygen_split):
    """As MUV's tasks that have one class in the test set: JSON has no NaN."""
    y = np.zeros_like(oxygen_split.test.y)
    blank = dc.data.NumpyDataset(oxygen_split.test.X, y, ids=oxygen_split.test.ids)
    (cell,) = cells_of(tmp_path, ["hu"], ["oxygen"], [Mean()], [0])
    run_cells([cell], lambda *_: replace(oxygen_split, test=blank), report=lambda line: None)
    stored = json.loads(cell.path.read_text(), parse_constant=pytest.fail)
    assert stored["test"] is None
    assert set(stored["per_task"].values()) == {None}
    assert np.isnan(cell.result()["test"])
    assert np.isnan(tidy([cell])["test"].item())


def test_a_failure_is_told_and_left_to_be_done(tmp_path, load):
    class Broken(Noisy):
        def run(self, split, seed):
            raise ArithmeticError("overflow")

    cells = cells_of(tmp_path, ["hu"], ["energy"], [Broken(name="broken"), Mean()], [0])
    lines = []
    failed = run_cells(cells, load, keep_going=True, report=lines.append)
    assert [c.contender.name for c in failed] == ["broken"]
    assert "FAILED, ArithmeticError: overflow" in lines[0]
    assert [c.finished for c in cells] == [False, True]
    with pytest.raises(ArithmeticError):
        run_cells(cells, load)


@pytest.fixture
def finished(tmp_path, load):
    cells = cells_of(
        tmp_path, ["hu"], ["energy", "oxygen"], [Mean(), Noisy("noisy / 10 %")], [0, 1, 2]
    )
    run_cells(cells, load, report=lambda line: None)
    return cells


def test_results_hold_every_cell_and_the_ensembles(finished, tmp_path):
    frame = tidy(finished)
    single = frame[frame["seed"] != ENSEMBLE]
    assert len(single) == 2 * 2 * 3
    assert not single.duplicated(["protocol", "dataset", "model", "seed"]).any()
    for cell in finished:
        row = single[
            (single["dataset"] == cell.dataset)
            & (single["model"] == cell.contender.name)
            & (single["seed"] == cell.seed)
        ]
        assert row["test"].item() == cell.result()["test"]
    # Averaging takes noise away.
    noisy = frame[(frame["dataset"] == "energy") & frame["model"].str.startswith("noisy")]
    alone = noisy[noisy["seed"] != ENSEMBLE]["test"].mean()
    together = noisy[noisy["model"] == "noisy / 10 % x3"]["test"].item()
    assert not (frame["model"] == "mean x3").any()  # nothing is random in it
    mean = single[(single["dataset"] == "energy") & (single["model"] == "mean")]["test"].iloc[0]
    assert mean < together < alone
    frame.to_csv(tmp_path / "r.csv", index=False)
    assert len(pd.read_csv(tmp_path / "r.csv")) == len(frame)
    assert json.loads(finished[0].path.read_text())["details"] == {}


def test_the_table_is_mean_and_deviation_over_seeds(finished, tmp_path):
    frame = tidy(finished)
    table = summary(frame)
    of_noisy = frame[(frame["model"] == "noisy / 10 %") & (frame["dataset"] == "oxygen")]["test"]
    row = table[(table["model"] == "noisy / 10 %") & (table["dataset"] == "oxygen")].iloc[0]
    assert row["mean"] == pytest.approx(of_noisy.mean())
    assert row["std"] == pytest.approx(of_noisy.std(ddof=0))
    text = markdown(frame)
    assert f"{row['mean']:.3f} ± {row['std']:.3f}" in text
    for metric, better in (("rmse", "lower"), ("roc_auc", "higher")):
        assert f"{metric} on the test set at the best validation epoch ({better} is better" in text
    plot(frame, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no finished cell"):
        plot(tidy([]), tmp_path / "none.png")


def test_a_full_disk_leaves_the_results_that_were_there(finished, tmp_path, monkeypatch):
    frame = tidy(finished)
    assert (
        write_results(frame, tmp_path) == (tmp_path / "results.md").read_text() == markdown(frame)
    )
    names = [f"results.{ending}" for ending in ("csv", "md", "png")]
    before = [(tmp_path / name).read_bytes() for name in names]
    assert len(pd.read_csv(tmp_path / names[0])) == len(frame)

    def half(figure, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space left on device: could not write this file"):
        write_results(frame[:3], tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells", *names]


def test_titles_of_panels_stand_apart(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: drawn.append(figure))
    sets = ("freesolv", "esol", "lipophilicity")
    rows = [(p, d, "m", 0, "rmse", 1.0, 2.0) for p in ("deepchem", "hu") for d in sets]
    names = ["protocol", "dataset", "model", "seed", "metric", "valid", "test"]
    plot(pd.DataFrame(rows, columns=names), tmp_path / "r.png")
    drawn[0].canvas.draw()
    places = [ax.title.get_window_extent() for ax in drawn[0].axes]
    assert len(places) == 6
    gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(places)]
    assert min(gaps) > 10  # pixels


def test_the_mean_over_data_sets_needs_all_of_them():
    columns = ["protocol", "dataset", "model", "seed", "metric", "valid", "test"]
    rows = [
        ("hu", "a", "x", 0, "roc_auc", 0, 0.6), ("hu", "b", "x", 0, "roc_auc", 0, 0.8),
        ("hu", "a", "x", 1, "roc_auc", 0, 0.8), ("hu", "b", "x", 1, "roc_auc", 0, 1.0),
        ("hu", "a", "y", 0, "roc_auc", 0, 0.9),
    ]  # fmt: skip
    table = summary(pd.DataFrame(rows, columns=columns)).set_index(["model", "dataset"])
    assert table.loc[("x", "mean"), "mean"] == pytest.approx(0.8)
    assert table.loc[("x", "mean"), "std"] == pytest.approx(0.1)
    assert ("y", "mean") not in table.index


def test_a_result_of_other_data_is_refused(tmp_path, load):
    def cells(file, folder=tmp_path):
        return cells_of(folder, ["hu"], ["energy"], [Noisy()], [0], None, lambda _: {"file": file})

    run_cells(cells("a"), load, report=lambda line: None)
    assert run_cells(cells("a"), load) == run_cells(cells(None), load) == []
    run_cells(cells(None, tmp_path / "unknown"), load, report=lambda line: None)
    assert run_cells(cells("a", tmp_path / "unknown"), load) == []
    with pytest.raises(ValueError, match=r"other data \(file a, now b\): give another output"):
        run_cells(cells("b"), load)


@pytest.mark.parametrize("part", ["valid_y", "test_y"])
def test_predictions_of_other_molecules_are_not_averaged(finished, part):
    cell = finished[1]
    arrays = cell.predictions()
    np.savez(cell.path.with_suffix(".npz"), **{**arrays, part: arrays[part][::-1]})
    with pytest.raises(ValueError, match="results of other data"):
        tidy(finished)


def test_a_set_that_cannot_be_loaded_is_told_and_left_to_be_done(tmp_path, load):
    def missing(dataset, protocol):
        if dataset == "energy":
            raise OSError("no such file")
        return load(dataset, protocol)

    cells = cells_of(tmp_path, ["hu"], ["energy", "oxygen"], [Mean()], [0])
    lines = []
    failed = run_cells(cells, missing, keep_going=True, report=lines.append)
    assert [c.dataset for c in failed] == ["energy"]
    assert "FAILED, OSError: no such file" in lines[0]
    assert [c.finished for c in cells] == [False, True]


def test_what_is_asked_for_twice_is_run_once(tmp_path):
    cells = cells_of(tmp_path, ["hu", "hu"], ["energy", "energy"], [Mean(), Mean()], [0, 1, 0])
    assert [(c.dataset, c.seed) for c in cells] == [("energy", 0), ("energy", 1)]


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_errors_are_better_when_lower_and_in_different_units_have_no_mean(metric):
    rows = [("hu", d, "m", 0, metric, 1.0, 2.0) for d in ("esol", "freesolv")]
    names = ["protocol", "dataset", "model", "seed", "metric", "valid", "test"]
    frame = pd.DataFrame(rows, columns=names)
    assert "mean" not in set(summary(frame)["dataset"])
    assert "lower is better" in markdown(frame)
    assert Split("esol", "hu", "regression", metric, ["y"], None, None, None).minimize
