"""Loading: whoever makes the batches, they are the same."""

import os
import pickle
import signal
import subprocess
import sys

import deepchem as dc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa import EarlyStopping
from deepchem_mmsa.batch_preparation import Preparation
from deepchem_mmsa.batching import Collator
from deepchem_mmsa.datasets import dataset_from_shards
from deepchem_mmsa.distributed import share
from deepchem_mmsa.epochs import EpochBatch, epoch_batches
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.shard_dataset import ShardDataset
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.views import ViewSettings, many_views
from tests.fixtures import SMILES

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def numbered(n):
    return dc.data.NumpyDataset(np.arange(n), np.arange(n)[:, None] * 10.0)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 40), size=st.integers(1, 9), takers=st.integers(1, 5), skip=st.integers(0, 4)
)
def test_takers_in_turn_have_what_one_has(n, size, takers, skip):
    def batches(*taker):
        return [
            (b[0][0].tolist(), b[1][0].tolist(), b.epoch, b.position, b.last)
            for b in epoch_batches(numbered(n), size, [2, 3], 7, skip, *taker)
        ]

    dealt = [iter(batches((i, takers))) for i in range(takers)]
    together = [next(dealt[turn % takers]) for turn in range(len(batches()))]
    assert together == batches()
    assert all(next(rest, None) is None for rest in dealt)


def test_a_batch_keeps_its_place_when_it_is_sent():
    batch = EpochBatch([np.arange(3)], [None], [None], 4, 2, True)
    again = pickle.loads(pickle.dumps(batch))
    assert (again.epoch, again.position, again.last) == (4, 2, True)
    assert again[0][0].tolist() == [0, 1, 2]
    assert tuple(batch.without_data()) == ([], [], [])


def graphs_without_shape(n):
    """A dataset whose conformers could not be embedded."""
    X = np.empty(n, dtype=object)
    for i, r in enumerate(many_views(SMILES[:n], ViewSettings(("graph",)))):
        views = {"atoms": r.atoms, "bond_atoms": r.bond_atoms, "bonds": r.bonds}
        X[i] = MoleculeViews(r.smiles, **views, reasons={"geometry": "no conformer"})
    return dc.data.NumpyDataset(X, np.arange(float(n))[:, None])


@pytest.mark.parametrize(
    ("modalities", "told"),
    [
        (("graph",), []),
        (("graph", "geometry"), []),  # asked for, and not to be had
        (("graph", "fingerprint"), ["no fingerprint, which"]),
        (("image", "graph", "fingerprint"), ["no image and no fingerprint, which"]),
    ],
)
def test_a_view_that_was_not_asked_for_is_told_once(make_model, caplog, modalities, told):
    data, model = graphs_without_shape(12), make_model(mode="regression", modalities=modalities)
    model.fit(data, nb_epoch=2)
    model.predict(data)
    warnings = [r.getMessage() for r in caplog.records if "reads as well" in r.getMessage()]
    assert len(warnings) == len(told)
    assert all(text in warning for text, warning in zip(told, warnings))


def test_pictures_of_another_size_are_told_once(make_model, caplog):
    model = make_model(mode="regression", modalities=("image",))
    for size, n_warnings in ((32, 0), (48, 1), (48, 1), (32, 1)):
        X = np.empty(6, dtype=object)
        X[:] = many_views(SMILES[:6], ViewSettings(("image",), size))
        data = dc.data.NumpyDataset(X, np.arange(6.0)[:, None])
        if not n_warnings:
            model.fit(data, nb_epoch=1)
        model.predict(data)
        told = [r for r in caplog.records if "images of 48 pixels" in r.getMessage()]
        assert len(told) == n_warnings


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda X, y, w: ([X], [np.tile(y, (2, 1))], None), "8 molecules, but 16 rows of labels"),
        (lambda X, y, w: ([X], [y[:3]], [w[:3]]), "has 8 molecules, but 3 rows of labels"),
        (lambda X, y, w: ([X], [y], [w[:3]]), "has 8 molecules, but 3 rows of weights"),
        (lambda X, y, w: (X, y, w), r"must yield \(\[X\], \[y\], \[w\]\).*not \(ndarray, ndarray"),
        (lambda X, y, w: ([X], [y], [w], [X]), r"must yield .*not \(list, list, list, list\)"),
        (lambda X, y, w: ([X], None, None), "has no labels"),
        (lambda X, y, w: ([X], [], []), "has no labels"),
    ],
)
def test_a_generator_of_another_form_is_refused(make_model, graph_dataset, form, message):
    model = make_model(mode="regression", scale_labels=False)
    d = graph_dataset
    with pytest.raises(ValueError, match=message):
        model.fit_generator([form(d.X[:8], d.y[:8], d.w[:8])])


@pytest.mark.parametrize(
    "weights", [None, [None], [], [np.ones((1, 1))], [np.ones(1)], [np.ones(8)]], ids=str
)
def test_weights_of_a_generator_may_be_absent_or_one(make_model, graph_dataset, weights):
    d = graph_dataset
    losses = [
        make_model(mode="regression", scale_labels=False).fit_generator([([d.X[:8]], [d.y[:8]], w)])
        for w in (weights, [np.ones((8, 1))])
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("shape", [(), (1,), (2,)], ids=str)
@pytest.mark.parametrize("shares", [(2, 2), (3, 0)], ids=str)
def test_processes_share_labels_of_any_shape(graph_dataset, shape, shares):
    """Also one row of weights for all; of a batch of three, the second process gets nothing."""
    n = sum(shares)
    batch = [graph_dataset.X[:n]], [np.ones((n, *shape))], [np.ones((1, *shape))]
    prepare = Preparation(Collator(("graph",)), labelled=True)
    for process, mine in enumerate(shares):
        ready = prepare(share(batch, (process, 2)))
        assert ready.labels[0].shape == (mine, shape[0] if shape else 1)
        assert torch.equal(ready.weights[0], torch.ones_like(ready.labels[0]))


def test_a_dataset_that_is_given_for_a_generator_is_refused(make_model, graph_dataset):
    model = make_model(mode="regression")
    with pytest.raises(ValueError, match="a generator must yield"):
        model.predict_on_generator(graph_dataset.iterbatches(8))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Labelled shards of seven molecules each, one of which lacks its label."""
    settings = ViewSettings(("graph", "fingerprint"))
    made = featurize_to_shards(
        SMILES, tmp_path_factory.mktemp("shards"), settings, 7, contained=False
    )
    y = np.linspace(0, 1, len(SMILES))
    y[3] = np.nan
    return dataset_from_shards(made, y, ["share"])


@pytest.mark.parametrize("kind", ["shards", "memory"])
@pytest.mark.parametrize("mode", ["pretraining", "regression"])
def test_workers_do_not_change_the_run(shards, dataset, make_model, mode, kind):
    data = shards if kind == "shards" else dataset
    states = []
    for n_workers in (0, 1, 3):
        views = ("graph", "fingerprint")
        model = make_model(mode=mode, modalities=views, memory_warmup=24, device="cpu")
        model.fit(data, nb_epoch=2, checkpoint_interval=0, n_workers=n_workers)
        states.append((model.history, model.model.state_dict()))
    for history, state in states[1:]:
        assert history == states[0][0]
        for name, value in states[0][1].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(state[name], value), name


def test_a_run_goes_on_with_another_number_of_workers(shards, make_model, tmp_path):
    def model(folder):
        return make_model(mode="regression", model_dir=str(tmp_path / folder), device="cpu")

    class Stop:
        def __call__(self, model, step):
            if step == 8:  # in the middle of the second epoch
                raise RuntimeError("here")

    whole = model("whole")
    whole.fit(shards, nb_epoch=3)
    with pytest.raises(RuntimeError, match="here"):
        model("parts").fit(
            shards, nb_epoch=3, checkpoint_interval=7, callbacks=[Stop()], n_workers=2
        )
    rest = model("parts")
    rest.fit(shards, nb_epoch=3, restore=True, n_workers=1)
    for name, value in whole.model.named_parameters():
        assert torch.equal(rest.model.get_parameter(name), value), name


def test_what_fails_in_a_worker_is_told_and_ends_the_others(make_model):
    data = dc.data.NumpyDataset(np.arange(20), np.zeros((20, 1)))
    others = torch.multiprocessing.active_children()
    with pytest.raises(TypeError, match="featurize the data with") as caught:
        make_model(mode="pretraining").fit(data, n_workers=2)
    assert caught.value is not None  # its frames are still held
    assert set(torch.multiprocessing.active_children()) <= set(others)


def test_what_fails_in_a_step_ends_the_workers(shards, make_model):
    def fail(model, step):
        raise RuntimeError("here")

    others = torch.multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="here") as caught:
        make_model(mode="regression").fit(shards, callbacks=fail, n_workers=2)
    assert caught.value is not None
    assert set(torch.multiprocessing.active_children()) <= set(others)


ENDLESS = """
import sys
import deepchem as dc
import numpy as np
from deepchem_mmsa import MMSAFeaturizer, MMSAModel

X = MMSAFeaturizer(modalities=("graph",)).featurize(["CCO", "CCN", "c1ccccc1", "CC(C)=O"] * 4)
model = MMSAModel("small", mode="pretraining", modalities=("graph",), batch_size=4,
                  graph_width=16, model_dir=sys.argv[1], progress=False)
model.fit(dc.data.NumpyDataset(X), nb_epoch=10**6, n_workers=2,
          callbacks=lambda model, step: step == 3 and print("begun", flush=True))
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_leaves_a_checkpoint(tmp_path, number):
    """As a launcher, or a terminal, sends it."""
    run = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, tmp_path], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert "begun" in run.stdout.readline()
    os.killpg(run.pid, number)
    _, said = run.communicate(timeout=60)
    assert list(tmp_path.glob("checkpoint*.pt")), said
    assert f"stopped by {signal.Signals(number).name}" in said
    assert "DataLoader worker" not in said


def test_a_dataset_that_changes_its_shards_is_heard(shards):
    class Hundredfold(ShardDataset):
        def get_shard(self, i):
            X, y, w, ids = super().get_shard(i)
            return X, 100 * y, w, ids

    changed = Hundredfold(shards.shards, shards.y, shards.w, ["share"])
    labels = [
        np.concatenate([b[1][0] for b in epoch_batches(data, 6, [0], 1)])
        for data in (shards, changed)
    ]
    assert np.allclose(labels[1], 100 * labels[0])
    assert labels[1].max() == 100


def test_early_stopping_ends_the_workers(shards, make_model):
    model = make_model(mode="regression")
    stop = EarlyStopping(shards, patience=1)
    others = torch.multiprocessing.active_children()
    model.fit(shards, nb_epoch=200, callbacks=[stop], checkpoint_interval=0, n_workers=2)
    assert len(model.history) < 200
    assert set(torch.multiprocessing.active_children()) <= set(others)
