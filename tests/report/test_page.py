"""The page as a file: complete, self-contained, harmless, and one that says what it lacks."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from deepchem_mmsa import MMSAPredictor
from deepchem_mmsa.cli import app
from deepchem_mmsa.report import write_report
from deepchem_mmsa.report.quality import calibration_section
from deepchem_mmsa.report.run import from_folder, from_model
from tests.fixtures import SMILES
from tests.report.conftest import EVIL, EVIL_SMILES, EVIL_TASK


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def read(pages):
    return {name: Reader(page.read_text("utf-8")) for name, page in pages.items()}


SECTIONS = {
    "pretraining": {"data", "training", "map", "memory", "setup"},
    "regression": {
        "data", "training", "scores", "curves", "calibration", "map", "memory", "errors", "setup"
    },
}  # fmt: skip
SECTIONS["classification"] = SECTIONS["regression"]


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_section_is_there_and_linked(kind, read):
    page = read[kind]
    assert page.open == []  # every element is closed, in its place
    assert {d["id"] for t, d in page.tags if t == "section"} == SECTIONS[kind]
    links = {d["href"] for t, d in page.tags if t == "a"}
    assert links == {f"#{name}" for name in SECTIONS[kind]}
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("kind", SECTIONS)
def test_nothing_is_loaded_and_nothing_from_outside_is_markup(kind, read, pages):
    page, text = read[kind], pages[kind].read_text("utf-8")
    assert len(text) < 5_000_000
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert not {"src", "xlink:href", "srcset", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", text)
    assert [t for t, _ in page.tags].count("script") == 2  # the data, and our own
    assert EVIL not in text
    assert EVIL in "".join(page.words)  # said, as text


def test_data_of_the_script_is_the_run(read, regression):
    model, data = regression
    page = read["regression"]
    content = json.loads(next(w for w in page.words if w.startswith('{"terms"')))
    assert content["terms"] == [
        "Split", "Row", EVIL_TASK, f"{EVIL_TASK}, predicted", "Nearest anchor"
    ]  # fmt: skip
    molecules = content["molecules"]
    assert len(molecules) == sum(map(len, data.values())) - 1  # one is no molecule
    assert molecules[0]["s"] == data["train"].X[0].smiles
    predicted = model.predict(data["train"])[0, 0]
    assert float(molecules[0]["f"][3].replace("−", "-")) == pytest.approx(predicted, rel=5e-3)
    for i, molecule in enumerate(molecules):
        assert i not in molecule["n"]
        assert len(molecule["n"]) == 6
        cosines = [float(c) for c in molecule["c"]]
        assert cosines == sorted(cosines, reverse=True)
    names = [mode["name"] for mode in content["modes"]]
    assert names == [
        f"Label: {EVIL_TASK}", f"Absolute error: {EVIL_TASK}", "Split", "Nearest memory anchor"
    ]  # fmt: skip
    circles = [d for t, d in page.tags if t == "circle" and d["class"].startswith("pt ")]
    assert all(len(mode["of"]) == len(circles) == len(molecules) for mode in content["modes"])


def test_failures_are_listed_with_row_and_reason(read):
    words = " ".join(" ".join(read["regression"].words).split())
    assert EVIL_SMILES in words
    assert "unclosed ring" in words
    assert "row 24:" in words  # of the test set


def test_run_agrees_with_the_model(classification):
    model, data = classification
    run = from_model(model, data, None, "", 100, 0)
    np.testing.assert_allclose(
        np.concatenate([model.predict(data[part]) for part in data]), run.predicted, atol=1e-5
    )
    assert run.judged() == "test"
    assert run.failed.sum() == 1
    assert len(run.labelled("train", 0)) == 31  # one label is missing
    assert model.history == run.history


@pytest.mark.parametrize("names", [["1", "2"], ["1", f"binds {EVIL}", "2"]])
def test_classes_are_called_by_their_names(make_model, molecules, tmp_path, names):
    model = make_model(mode="classification", n_tasks=1, n_classes=len(names))
    model.classes = names
    y = (np.arange(len(molecules)) % len(names)).astype(float)
    path = write_report(tmp_path / "page.html", model, {"test": (molecules, y)}, resamples=0)
    text = path.read_text("utf-8")
    assert EVIL not in text
    words = " ".join(Reader(text).words)
    assert "class 0" not in words
    assert all(f"class {name}" in words for name in names)
    assert (f"positive: class {names[1]}" in words) == (len(names) == 2)


def test_without_test_molecules_others_judge(make_model, molecules, dataset):
    model, few = make_model(mode="regression"), (list(molecules)[:4], dataset.y[:4])
    many = (list(molecules) * 2, np.concatenate([dataset.y, dataset.y]))
    parts = {"train": few, "extra": few}
    assert from_model(model, parts, None, "", 100, 0).judged() == "extra"
    run = from_model(model, {**parts, "valid": many}, None, "", 100, 0)
    assert run.judged() == "valid"
    # Intervals that were made from the molecules that they are evaluated on would prove nothing.
    assert "too few to assess calibration" in " ".join(calibration_section(run).split())


def test_making_a_page_leaves_a_model_as_it_is(regression):
    model, data = regression
    model.model.train()
    from_model(model, data, None, "", 100, 0)
    assert model.model.training
    model.model.eval()


def test_what_is_not_there_is_said(make_model, tmp_path):
    model = make_model(mode="regression", memory=False)
    text = write_report(tmp_path / "a.html", model, {"new": (SMILES[:2], None)}).read_text("utf-8")
    for sentence in (
        "no labels to compare", "Fewer than three molecules", "no active memory", "No history",
    ):  # fmt: skip
        assert sentence in text


def test_a_history_is_rows_or_a_table(make_model, tmp_path):
    model, parts = make_model(mode="regression"), {"new": (SMILES[:2], None)}
    rows = [{"epoch": 1, "step": 2, "learning_rate": 0.1, "loss": 3.5}]
    for history in (rows, pd.DataFrame(rows)):
        page = write_report(tmp_path / "a.html", model, parts, history)
        text = page.read_text("utf-8")
        assert "No history" not in text
        assert "<b>1</b><span>epoch</span>" in text


def test_one_class_and_few_labels_are_said(classification, tmp_path):
    predictor = MMSAPredictor(classification[0].model, {"tasks": ["a", "b"]})
    y = np.ones((5, 2))
    text = write_report(tmp_path / "a.html", predictor, {"test": (SMILES[:5], y)}).read_text()
    assert "of one class" in text
    assert "too few" in text


def test_requests_that_make_no_sense_are_refused(regression, tmp_path):
    model, data = regression
    path = tmp_path / "a.html"
    with pytest.raises(ValueError, match="projection='tsne'"):
        write_report(path, model, data, projection="tsne")
    with pytest.raises(ValueError, match="give the molecules"):
        write_report(path, model)
    with pytest.raises(ValueError, match="2 label"):
        write_report(path, model, {"test": (SMILES[:3], np.zeros((3, 2)))})
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        write_report(path, tmp_path)
    with pytest.raises(ValueError, match="leave out datasets"):
        write_report(path, tmp_path, data)
    assert not path.exists()


# ---- folders of runs --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What the command line leaves of both kinds of run."""
    folder = tmp_path_factory.mktemp("runs")
    n = len(SMILES)
    split = ["train"] * (n - 16) + ["valid"] * 8 + ["test"] * 8
    table = pd.DataFrame({"smiles": SMILES, "y": np.arange(n) % 7 / 3, "part": split})
    table.loc[n] = [EVIL_SMILES, 1.0, "train"]
    table.to_csv(folder / "in.csv", index=False)
    small = [
        "--set", "modalities=[graph]", "--set", "graph_width=16", "--set", "graph_layers=2",
        "--set", "embedding_dim=16", "--set", "memory_warmup=32", "--set", "n_anchors=8",
        "--set", "n_neighbors=4",
    ]  # fmt: skip
    run = [str(folder / "in.csv"), "--epochs", "2", "--batch-size", "8", "-q"]
    for arguments in (
        ["pretrain", *run, *small, "--output", str(folder / "pre")],
        ["finetune", *run, "--label", "y", "--split", "part", "--from-model", str(folder / "pre"),
         "--output", str(folder / "fine")],
    ):  # fmt: skip
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    return folder


def test_folder_of_a_fine_tuned_model(folders, tmp_path):
    out = tmp_path / "a.html"
    done = CliRunner().invoke(app, ["report", str(folders / "fine"), "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes"] == out.stat().st_size
    page = Reader(out.read_text("utf-8"))
    assert {d["id"] for t, d in page.tags if t == "section"} == SECTIONS["regression"]
    run = from_folder(folders / "fine", "cpu", 100, 0)
    assert run.part_names == ["train", "valid", "test"]
    np.testing.assert_allclose(run.y[:-1, 0], np.arange(len(SMILES)) % 7 / 3, rtol=1e-6)
    told = pd.read_csv(folders / "fine" / "test_predictions.csv")
    column = next(name for name in told if "predict" in name.lower())
    np.testing.assert_allclose(told[column], run.predicted[run.parts == "test", 0], rtol=1e-4)


def test_folder_of_a_pretrained_model(folders, tmp_path):
    out = write_report(tmp_path / "a.html", folders / "pre", max_points=20)
    page = Reader(out.read_text("utf-8"))
    assert {d["id"] for t, d in page.tags if t == "section"} == SECTIONS["pretraining"]
    content = json.loads(next(w for w in page.words if w.startswith('{"terms"')))
    assert len(content["molecules"]) == 20


def test_records_that_are_gone_are_made_again(folders, tmp_path):
    import shutil

    copy = shutil.copytree(folders / "fine", tmp_path / "copy")
    shutil.rmtree(copy / "records")
    a, b = (from_folder(place, "cpu", 100, 0) for place in (folders / "fine", copy))
    np.testing.assert_allclose(a.predicted, b.predicted, rtol=1e-5)
    assert [m.row for m in a.missing] == [m.row for m in b.missing] == [len(SMILES) + 1]


def test_a_folder_without_a_run_is_an_input_error(tmp_path):
    done = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(tmp_path / "a.html")])
    assert done.exit_code == 3


@pytest.mark.parametrize(
    "y, said",
    [
        (np.array([1, -1.0] * 20), r"20 label\(s\) of the data set 'test'.* -1 in row 1.*0 to 1"),
        (np.array([0, 0.5] * 20), "0.5 in row 1"),
        (np.array([0, np.inf] * 20), "inf in row 1"),
    ],
)  # fmt: skip
def test_labels_that_mean_nothing_are_refused(make_model, molecules, tmp_path, y, said):
    model = make_model(mode="classification")
    X = (list(molecules) * 2)[:40]
    with pytest.raises(ValueError, match=said):
        write_report(tmp_path / "r.html", model, {"test": (X, y)})
    with pytest.raises(ValueError, match="n_neighbors=0: give at least 1"):
        write_report(tmp_path / "r.html", model, {"test": (X, [0, 1] * 20)}, n_neighbors=0)


def test_an_empty_part_is_no_fault(make_model, molecules, tmp_path):
    parts = {"test": (list(molecules)[:20], [0, 1] * 10), "valid": ([], [])}
    page = write_report(tmp_path / "r.html", make_model(mode="classification"), parts, resamples=20)
    assert "20" in page.read_text("utf-8")
