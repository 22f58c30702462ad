"""Contenders: they learn what can be learnt, nothing from noise, and never see test labels."""

import json
import stat
import sys
from dataclasses import replace

import deepchem as dc
import numpy as np
import pytest

from deepchem_mmsa import MMSAModel
from deepchem_mmsa.benchmark.baselines import mean_predictions
from deepchem_mmsa.benchmark.cells import cells_of, run_cells
from deepchem_mmsa.benchmark.contenders import (
    GIN,
    MLP,
    MMSA,
    NO_STRUCTURE,
    Forest,
    GaussianProcess,
    Mean,
    from_scratch,
)
from deepchem_mmsa.benchmark.overlap import keys_of, write_keys
from deepchem_mmsa.benchmark.peers import AttentiveFP, Chemprop
from deepchem_mmsa.benchmark.scores import score
from deepchem_mmsa.benchmark.sets import LeakError, Split
from deepchem_mmsa.molecule import N_DESCRIPTORS, MoleculeViews
from deepchem_mmsa.predictor import MMSAPredictor

TINY = {
    "fingerprint_width": 32, "graph_width": 16, "graph_layers": 2, "embedding_dim": 16,
    "n_anchors": 8, "n_neighbors": 4, "head_width": 16, "batch_size": 64, "learning_rate": 3e-3,
}  # fmt: skip
CONTENDERS = {
    "forest": Forest(n_trees=30, n_jobs=1),
    "gp": GaussianProcess(),
    "mlp": MMSA("mlp", {**MLP, **TINY}, epochs=20),
    "mmsa": MMSA("mmsa", {"modalities": ("graph", "fingerprint"), **TINY}, epochs=20),
}


@pytest.mark.parametrize("name", CONTENDERS)
def test_what_can_be_learnt_is_learnt_and_noise_is_not(name, oxygen_split, shuffled_split):
    learnt = CONTENDERS[name].run(oxygen_split, seed=0)
    assert score(oxygen_split.test, learnt.test, "roc_auc")[0] > 0.7
    noise = CONTENDERS[name].run(shuffled_split, seed=0)
    value, per_task = score(shuffled_split.test, noise.test, "roc_auc")
    # The variance of a task's AUC under chance, (n + 1) / (12 n₀ n₁), and the mean of eight.
    n = len(shuffled_split.test)
    sigma = np.sqrt((n + 1) / (12 * (n / 2) ** 2) / len(per_task))
    assert abs(value - 0.5) < 4 * sigma


@pytest.mark.parametrize("name", CONTENDERS)
def test_labels_of_the_test_set_change_nothing(name, energy_split):
    other = Split(
        **{
            **{f: getattr(energy_split, f) for f in energy_split.__dataclass_fields__},
            "test": dc.data.NumpyDataset(
                energy_split.test.X, -100 * energy_split.test.y, ids=energy_split.test.ids
            ),
        }
    )
    a, b = (CONTENDERS[name].run(split, seed=1) for split in (energy_split, other))
    np.testing.assert_array_equal(a.test, b.test)
    np.testing.assert_array_equal(a.valid, b.valid)
    assert a.test.shape == (len(energy_split.test), 1)
    mean = Mean().run(energy_split, 0)
    # Label units: a model of anything predicts better than the mean.
    assert (
        score(energy_split.valid, a.valid, "rmse")[0]
        < score(energy_split.valid, mean.valid, "rmse")[0]
    )


def test_the_seed_decides_and_averaging_averages(oxygen_split):
    contender = MMSA("mlp", {**MLP, **TINY, "seed": 7}, epochs=1)
    first, again, other = (contender.run(oxygen_split, seed).test for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    averaged = replace(contender, averaging=0.9).run(oxygen_split, 0).test
    assert not np.array_equal(first, averaged)


@pytest.mark.parametrize("kind", ["oxygen", "energy"])
def test_further_epochs_make_no_validation_score_worse(kind, request):
    """The epoch is chosen by the score, in the direction that is better."""
    split = request.getfixturevalue(f"{kind}_split")
    few, many = (
        score(split.valid, MMSA("mlp", {**MLP, **TINY}, epochs=n).run(split, 0).valid, split.metric)
        for n in (1, 4)
    )
    assert many[0] < few[0] if split.minimize else many[0] > few[0]


@pytest.fixture(scope="module")
def weights(small_molecules, oxygen_split, tmp_path_factory):
    """A model pre-trained on the training part, with exemplars."""
    model = MMSAModel(
        mode="pretraining", modalities=("graph", "fingerprint"), memory_warmup=64,
        progress=False, **TINY,
    )  # fmt: skip
    model.fit(oxygen_split.train, 1, checkpoint_interval=0)
    folder = tmp_path_factory.mktemp("weights")
    model.save_pretrained(folder)
    assert any(model.model.memory.exemplars)
    return str(folder)


def test_pretrained_and_from_scratch_are_one_network(weights, oxygen_split):
    tuned = MMSA("mmsa", {"batch_size": 64}, weights=weights, epochs=1)
    scratch = MMSA("scratch", from_scratch(weights, {"batch_size": 64}), preset="base", epochs=1)
    a, b = (contender.run(oxygen_split, 0) for contender in (tuned, scratch))
    assert a.details["parameters"] == b.details["parameters"]
    assert a.details["config"] == b.details["config"]
    assert not np.array_equal(a.test, b.test)
    assert len(json.dumps(tuned.settings())) < 500
    assert tuned.settings()["weights"] not in (None, weights)  # a checksum


def test_every_setting_makes_another_cell(weights, tmp_path):
    (tmp_path / "keys.txt").write_text("AAAAAAAAAAAAAA\n")
    plain = MMSA("mmsa", weights=weights)
    other = {
        "name": "other", "config": {"batch_size": 32}, "weights": None, "preset": "small",
        "epochs": 7, "patience": 7, "pretrained_on": str(tmp_path / "keys.txt"),
        "components": ("graph",), "averaging": 0.5,
    }  # fmt: skip
    assert set(other) == set(plain.__dataclass_fields__)
    kinds = [plain, MMSA("mmsa", preset="base")]
    kinds += [replace(plain, **{name: value}) for name, value in other.items() if name != "preset"]
    assert len({json.dumps(kind.settings(), sort_keys=True) for kind in kinds}) == len(kinds)
    # Settings that are not used are left out: cells from before there were any stay valid.
    assert set(plain.settings()) == {"name", "config", "weights", "epochs", "patience"}


def test_a_result_of_weights_with_other_settings_is_refused(weights, oxygen_split, tmp_path):
    """Checksums of the tensors do not tell what is in config.json."""
    again = tmp_path / "again"
    MMSAModel.from_pretrained(weights, n_neighbors=2).save_pretrained(again)

    def cells(weights, components=None, network=True):
        tuned = MMSA("mmsa", {"batch_size": 32}, weights, epochs=1, components=components)
        found = [tuned] if network else [Forest(2, 1, "mmsa-forest", weights)]
        return cells_of(tmp_path / "run", ["hu"], ["oxygen"], found, [0])

    for kind in ({}, {"components": ("graph",)}, {"network": False}):
        assert run_cells(cells(weights, **kind), lambda *_: oxygen_split) == []
        assert run_cells(cells(weights, **kind), lambda *_: oxygen_split) == []
        with pytest.raises(
            ValueError, match=r"other settings of the network \(n_neighbors 4, now 2"
        ):
            run_cells(cells(str(again), **kind), lambda *_: oxygen_split)


def test_the_best_epoch_by_validation_is_kept(energy_split, oxygen_split):
    for split in (energy_split, oxygen_split):
        first, early, late = (
            MMSA("mlp", {**MLP, **TINY}, epochs=epochs, patience=patience).run(split, 0)
            for epochs, patience in ((1, 1), (8, 1), (30, 30))
        )
        assert early.details["epochs"] in (8, early.details["best_epoch"] + 1)
        assert late.details["epochs"] == 30
        one, few, many = (
            score(split.valid, run.valid, split.metric)[0] for run in (first, early, late)
        )
        assert many <= few <= one if split.minimize else many >= few >= one
        assert many != one


def test_a_forest_reads_what_pretraining_has_learnt(weights, oxygen_split):
    plain, beside = Forest(30, 1), Forest(30, 1, "mmsa-forest", weights)
    a, b = (forest.run(oxygen_split, 0) for forest in (plain, beside))
    learnt = sum(MMSAPredictor.from_pretrained(weights).network.feature_widths.values())
    assert b.details["features"] - a.details["features"] == learnt > 0
    assert score(oxygen_split.test, b.test, "roc_auc")[0] > 0.7
    assert not np.array_equal(a.test, b.test)
    assert plain.settings() == {"name": "forest", "n_trees": 30}  # as finished cells have it
    assert beside.settings()["weights"] not in (None, weights)


def test_a_gaussian_process_reads_what_pretraining_has_learnt(weights, energy_split):
    plain, learnt = GaussianProcess(), GaussianProcess("mmsa-gp", weights)
    a, b, mean = (model.run(energy_split, 0) for model in (plain, learnt, Mean()))
    widths = MMSAPredictor.from_pretrained(weights).network.feature_widths
    assert 0 < a.details["features"] <= N_DESCRIPTORS
    assert 0 < b.details["features"] <= sum(widths.values()) != a.details["features"]
    assert (a.details["config"], b.details["config"]["n_neighbors"]) == ({}, 4)
    scores = [score(energy_split.test, one.test, "rmse")[0] for one in (a, b, mean)]
    assert max(scores[:2]) < scores[2]
    assert learnt.settings()["weights"] not in (None, weights)


def test_a_leaked_test_molecule_ends_the_run(weights, oxygen_split, tmp_path):
    leaked = Split(
        **{
            **{f: getattr(oxygen_split, f) for f in oxygen_split.__dataclass_fields__},
            "train": oxygen_split.valid, "test": oxygen_split.train,
        }
    )  # fmt: skip
    for contender in (MMSA("mmsa", weights=weights, epochs=1), Forest(2, 1, "f", weights),
                      GaussianProcess("g", weights)):  # fmt: skip
        with pytest.raises(LeakError, match="memory's exemplars"):
            contender.run(leaked, 0)
    from deepchem_mmsa.datasets import connectivity

    keys = tmp_path / "keys.txt"
    keys.write_text(f"AAAAAAAAAAAAAA\n{connectivity(oxygen_split.test.ids[0])}\n")
    for contender in (
        MMSA("mmsa", weights=weights, epochs=1, pretrained_on=str(keys)),
        Forest(2, 1, "f", weights, str(keys)),
        GaussianProcess("g", weights, str(keys)),
    ):
        with pytest.raises(LeakError, match="pre-training set"):
            contender.run(oxygen_split, 0)


def test_gin_is_a_graph_network_without_structure(oxygen_split):
    model = MMSAModel(mode="classification", n_tasks=8, **GIN)
    assert list(model.model.encoders) == ["graph"]
    assert model.model.hypergraph is None
    assert model.model.memory is None
    assert set(NO_STRUCTURE) <= set(GIN)


def of_few(split):
    """The split with a quarter of its training molecules."""
    return replace(split, train=split.train.select(range(0, len(split.train), 4)))


def test_attentive_fp_predicts_every_row_in_label_units(energy_split):
    split = of_few(energy_split)
    contender = AttentiveFP(epochs=2, batch_size=16)
    outcome = contender.run(split, 0)
    assert outcome.test.shape == (len(split.test), 1)
    assert np.isfinite(outcome.test).all()
    alone = [i for i, s in enumerate(split.test.ids) if s == "C" or s == "N"]
    assert outcome.details["refused"] == len(alone)
    # Standardised labels would be near 0.
    mean = Mean().run(split, 0)
    found, simple = (score(split.valid, one.valid, "rmse")[0] for one in (outcome, mean))
    assert found < simple
    # A missing label changes nothing, whatever stands in its place.
    y = np.where(split.train.w != 0, split.train.y, np.nan)
    assert np.isnan(y).any()
    train = dc.data.NumpyDataset(split.train.X, y, split.train.w, split.train.ids)
    again = contender.run(replace(split, train=train), 0)
    np.testing.assert_array_equal(again.test, outcome.test)


@pytest.mark.parametrize("name", ["energy_split", "oxygen_split"])
def test_attentive_fp_keeps_its_best_epoch(name, request):
    split = of_few(request.getfixturevalue(name))
    found = [
        AttentiveFP(epochs=n, patience=9, batch_size=16, learning_rate=0.01).run(split, 0)
        for n in (1, 2, 6)
    ]
    scores = [score(split.valid, one.valid, split.metric)[0] for one in found]
    assert scores == sorted(scores, reverse=split.minimize)
    epochs = [one.details["best_epoch"] for one in found]
    assert epochs == sorted(epochs)
    assert scores[0] != scores[-1]


STAND_IN = '''#!{python}
"""Answers chemprop's command line; refuses to run if it is shown the labels of the test set."""
import sys
import pandas as pd
words = sys.argv[1:]
after = lambda name: words[words.index(name) + 1]
if words == ["--version"]:
    print("chemprop 2.3.1")
elif words[0] == "train":
    data = pd.read_csv(after("--data-path"))
    assert list(data.columns) == ["smiles", *["task%d" % i for i in range(8)], "split"]
    assert set(data.split) == {{"train", "val", "test"}}
    assert (data[data.split == "test"].filter(like="task") == 0).all(axis=None)
    assert data[data.split == "train"].filter(like="task").isna().any(axis=None)
    sys.stderr.buffer.write(b"10 \\xb5s")  # no UTF-8
    assert after("--pytorch-seed") == "3" and after("--task-type") == "classification"
elif "fail" in sys.argv[0]:
    sys.exit("no such file")
else:
    asked = pd.read_csv(after("--test-path"))
    for i in range(8):
        asked["task%d" % i] = asked.smiles.str.len() / 100
    asked.to_csv(after("--preds-path"), index=False)
'''


@pytest.fixture
def stand_in(tmp_path):
    def make(name):
        path = tmp_path / name
        path.write_text(STAND_IN.format(python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def test_chemprop_is_called_by_its_command_line(stand_in, oxygen_split):
    outcome = Chemprop(stand_in("chemprop")).run(oxygen_split, 3)
    assert outcome.test.shape == (len(oxygen_split.test), 8, 2)
    expected = [len(s) / 100 for s in oxygen_split.test.ids]
    np.testing.assert_allclose(outcome.test[:, 0, 1], expected)
    np.testing.assert_allclose(outcome.test.sum(-1), 1)
    assert outcome.details == {"version": "2.3.1"}
    with pytest.raises(RuntimeError, match="predict failed: no such file"):
        Chemprop(stand_in("fail")).run(oxygen_split, 3)


def test_weights_that_have_seen_labels_do_not_take_part(oxygen_split, tmp_path):
    model = MMSAModel(
        mode="classification", n_tasks=len(oxygen_split.tasks), modalities=("graph",),
        progress=False, **TINY,
    )  # fmt: skip
    model.fit(oxygen_split.test, 1, checkpoint_interval=0)
    model.save_pretrained(tmp_path)
    with pytest.raises(LeakError, match="was fine-tuned on labels.*pre-trained only"):
        MMSA("mmsa", weights=str(tmp_path), epochs=1).run(oxygen_split, 0)
    # Where the molecules are known, it is they that decide.
    checked = {}
    for part in ("test", "train"):
        keys = tmp_path / f"{part}.txt.gz"
        write_keys(keys_of(list(getattr(oxygen_split, part).ids)), keys)
        checked[part] = MMSA("m", weights=str(tmp_path), epochs=1, pretrained_on=str(keys))
    with pytest.raises(LeakError, match="pre-training set"):
        checked["test"].run(oxygen_split, 0)
    assert np.isfinite(checked["train"].run(oxygen_split, 0).test).all()


def test_a_molecule_that_a_network_cannot_read_is_scored_all_the_same(oxygen_split):
    test = oxygen_split.test
    X = test.X.copy()
    X[3] = MoleculeViews(str(test.ids[3]), reasons={"graph": "none"})
    whole = replace(oxygen_split, test=dc.data.NumpyDataset(X, test.y, test.w, test.ids))
    network = MMSA("m", {"modalities": ("graph",), **TINY}, epochs=1)
    found, plain = network.run(whole, 0), network.run(oxygen_split, 0)
    assert (found.details["refused"], plain.details["refused"]) == (1, 0)
    expected = mean_predictions(oxygen_split.train, test, "classification")[3]
    np.testing.assert_allclose(found.test[3], expected)
    others = np.arange(len(test)) != 3
    np.testing.assert_allclose(found.test[others], plain.test[others], atol=1e-5)


def test_an_unchecked_result_is_not_that_of_checked_weights(weights, tmp_path):
    (tmp_path / "keys.txt").write_text("AAAAAAAAAAAAAA\n")
    plain, checked = (
        MMSA("mmsa", weights=weights, pretrained_on=keys).settings()
        for keys in (None, str(tmp_path / "keys.txt"))
    )
    assert plain == {k: v for k, v in checked.items() if k != "pretrained_on"}
    assert "pretrained_on" in checked
