"""The predictor: the model's own numbers, without DeepChem, from any thread."""

import copy
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import deepchem as dc
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

import deepchem_mmsa
from deepchem_mmsa import MMSAFeaturizer, MMSAModel
from deepchem_mmsa.batching import Collator
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.predictor import MMSAPredictor
from deepchem_mmsa.views import ViewSettings, many_views
from tests.fixtures import SMILES, AtomCounts


@pytest.fixture(scope="module")
def model(make_model):
    model = make_model(mode="regression", n_tasks=2)
    model.tasks = ["solubility", "permeability"]
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(folder):
    return MMSAPredictor.from_pretrained(folder)


def test_gives_the_numbers_of_the_model(model, predictor, dataset):
    values, reasons = predictor.predict(SMILES)
    np.testing.assert_allclose(values, model.predict(dataset), atol=1e-6)
    assert reasons == [""] * len(dataset)
    np.testing.assert_allclose(
        predictor.embed(list(dataset.X)).values, model.predict_embedding(dataset), atol=1e-6
    )
    assert predictor.tasks == ["solubility", "permeability"]


def test_a_network_trained_in_half_precision_predicts_in_single(
    make_model, graph_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr("deepchem_mmsa.training.training_precision", lambda *_: torch.bfloat16)
    trained = make_model(mode="regression")
    trained.fit(graph_dataset, nb_epoch=1)
    trained.save_pretrained(tmp_path)
    expected = MMSAPredictor.from_pretrained(tmp_path).predict(SMILES).values
    np.testing.assert_array_equal(MMSAPredictor(trained.model).predict(SMILES).values, expected)
    np.testing.assert_allclose(trained.predict(graph_dataset), expected, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(8)), batch_size=st.integers(1, 9))
def test_neither_order_nor_batch_matters(predictor, order, batch_size):
    alone = predictor.predict(SMILES[:8]).values
    together = predictor.predict([SMILES[i] for i in order], batch_size=batch_size).values
    np.testing.assert_allclose(together, alone[list(order)], atol=1e-5)


def test_every_row_stays_with_its_reason(predictor):
    rows = ["CCO", "", "C1CC", None, Chem.MolFromSmiles("c1ccccc1"), "CCO\0"]
    values, reasons = predictor.predict(rows)
    assert len(values) == len(reasons) == len(rows)
    spoken = [not r for r in reasons]
    assert spoken == [True, False, False, False, True, False]
    assert (~np.isnan(values).any(1)).tolist() == spoken
    assert "unclosed ring" in reasons[2]


def test_processes_do_not_matter(predictor):
    one = predictor.embed(SMILES[:6])
    two = predictor.embed(SMILES[:6], n_jobs=2)
    np.testing.assert_array_equal(one.values, two.values)


def test_nothing_in_nothing_out(predictor):
    assert predictor.predict([]).values.shape == (0, 2)
    assert predictor.embed([]).values.shape == (0, predictor.config.embedding_dim)
    with pytest.raises(TypeError, match="give a sequence"):
        predictor.predict("CCO")


def test_streams_without_holding_the_input(predictor):
    read = []

    def molecules():
        for i in range(10):
            read.append(i)
            yield SMILES[i % len(SMILES)]

    stream = predictor.stream(molecules(), batch_size=1)
    next(stream)
    assert len(read) < 10
    stream.close()


def test_a_pretrained_model_only_embeds(make_model):
    predictor = MMSAPredictor(make_model(mode="pretraining").model)
    with pytest.raises(ValueError, match="embeddings"):
        predictor.predict(["CCO"])
    assert np.isfinite(predictor.embed(["CCO"]).values).all()


def test_many_threads_get_the_same_numbers(predictor):
    alone = predictor.predict(SMILES[:8]).values
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: predictor.predict([SMILES[i % 8]]).values, range(64)))
    np.testing.assert_allclose(np.concatenate(answers), np.tile(alone, (8, 1)), atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_predicts_in_a_process_forked_after_loading():
    code = """
import os, signal, numpy, torch
from deepchem_mmsa import MMSAPredictor
torch.set_num_threads(2)
predictor = MMSAPredictor.from_pretrained("mmsa-small", "cpu")
expected = predictor.embed(["CCO", "c1ccccc1O"] * 128).values
if not (child := os.fork()):
    signal.alarm(60)  # ends it if it waits for threads that are not there
    found = predictor.embed(["CCO", "c1ccccc1O"] * 128).values
    os._exit(not numpy.allclose(found, expected, atol=1e-5))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 2\n", "")


def test_records_stay_as_they_are(predictor):
    record = MoleculeViews.unreadable("C(", "unclosed branch")
    assert predictor.records([record])[0] is record


@pytest.mark.parametrize("precision", ["bfloat16", "float32", "float64"])
def test_numbers_of_any_precision_arrive(predictor, precision):
    kind = getattr(torch, precision)
    (found,) = predictor.apply(SMILES, lambda batch: predictor.network.embed(batch).to(kind))
    assert found.values.dtype == ("float64" if precision == "float64" else "float32")
    np.testing.assert_allclose(found.values, predictor.embed(SMILES).values, atol=0.05)


def test_names_of_another_number_name_nothing(predictor):
    for n in (1, 3):
        names = [f"name {i}" for i in range(n)]
        unnamed = MMSAPredictor(predictor.network, {"tasks": names, "classes": names})
        assert (unnamed.tasks, unnamed.classes) == (["task 0", "task 1"], ["0", "1"])


def test_embed_in_one_call(folder, predictor):
    np.testing.assert_array_equal(
        deepchem_mmsa.embed(["CCO", "CCN"], model=folder), predictor.embed(["CCO", "CCN"]).values
    )


def test_predicts_without_what_takes_long_to_import(folder):
    code = (
        "import sys; from deepchem_mmsa import MMSAPredictor, embed; "
        f"MMSAPredictor.from_pretrained({str(folder)!r}).predict(['CCO']); "
        "embed(['CCO'], 'mmsa-small'); embed(['CCO'], 'mmsa-base'); "
        "heavy = ('deepchem', 'dgl', 'dgllife', 'sklearn', 'matplotlib', 'pandas', 'scipy', "
        "'torch._dynamo'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_draws_as_large_as_the_training_pictures(make_model, dataset, caplog):
    model = make_model(mode="pretraining", modalities=("image",), image_size=48)
    model.fit(dataset, nb_epoch=1)
    assert MMSAPredictor(model.model).settings.image_size == 32  # the dataset's pictures
    tuned = make_model(mode="regression", modalities=("image",), image_size=48)
    tuned.load_from_pretrained(model)
    with caplog.at_level("WARNING"):
        tuned.predict(dataset)
        assert not caplog.records
        tuned.predict(dc.data.NumpyDataset(MMSAFeaturizer("image", 48).featurize(SMILES[:3])))
    assert "MMSAFeaturizer(image_size=32)" in caplog.text


@pytest.mark.parametrize("atom_sum", [False, True])
def test_features_are_what_the_encoders_say_and_the_embedding(make_model, molecules, atom_sum):
    model = make_model(mode="regression", modalities=("graph", "fingerprint"), atom_sum=atom_sum)
    predictor = MMSAPredictor(model.model)
    bare = MoleculeViews("C", atoms=molecules[0].atoms, bond_atoms=molecules[0].bond_atoms,
                         bonds=molecules[0].bonds)  # fmt: skip
    rows = [*molecules[:3], MoleculeViews.unreadable("C(", "no"), bare]
    values, reasons = predictor.features(rows, batch_size=2)
    assert predictor.network.feature_widths == {"graph": 16, "fingerprint": 16, "embedding": 16}
    np.testing.assert_array_equal(values[:, 32:], predictor.embed(rows, batch_size=2).values)
    batch = Collator.of(model.config)(molecules[:3])
    graph = predictor.network.encoders["graph"](batch.inputs["graph"]).detach()
    np.testing.assert_allclose(values[:3, :16], graph, rtol=1e-5, atol=1e-6)
    assert (values[4, 16:32] == 0).all()  # a view that is missing
    np.testing.assert_allclose(values[4, :16], values[0, :16], rtol=1e-5, atol=1e-6)
    assert np.isnan(values[3]).all()
    assert "no" in reasons[3]
    assert predictor.features([]).values.shape == (0, 48)


def test_embed_reads_a_folder_again_when_it_changed(make_model, tmp_path, monkeypatch):
    for place, seed in (("a", 0), ("b", 1)):
        (tmp_path / place).mkdir()
        make_model(mode="regression", seed=seed).save_pretrained(tmp_path / place / "model")
    answers = []
    for place in ("a", "b"):
        monkeypatch.chdir(tmp_path / place)
        answers.append(deepchem_mmsa.embed(["CCO"], model="model"))
    assert not np.allclose(*answers)
    make_model(mode="regression", seed=0).save_pretrained(tmp_path / "b" / "model")
    np.testing.assert_array_equal(deepchem_mmsa.embed(["CCO"], model="model"), answers[0])


def test_a_table_is_no_column(predictor):
    table = pd.DataFrame({"smiles": ["CCO", "CCN"]})
    with pytest.raises(TypeError, match="give the column"):
        predictor.embed(table)
    assert len(predictor.embed(table["smiles"]).values) == 2


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interruption_does_not_wait_for_the_rest_of_a_batch(predictor, monkeypatch, n_jobs):
    """Of six hundred molecules that take a while each."""

    def slowly(molecules, *_):
        for _ in molecules:
            time.sleep(0.05)
            yield MoleculeViews("C")

    def interrupted(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr("deepchem_mmsa.predictor.stream_views", slowly)
    before = signal.signal(signal.SIGALRM, interrupted)
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            predictor.predict(["C"] * 600, batch_size=600, n_jobs=n_jobs)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 5  # all take 30 seconds


def test_an_answer_that_is_not_finite_has_a_reason(make_model):
    model = make_model(mode="regression")
    with torch.no_grad():
        next(model.model.head.parameters()).fill_(float("nan"))
    answer = MMSAPredictor(model.model).predict(["CCO", "C1CC"])
    assert np.isnan(answer.values).all()
    assert "not finite" in answer.reasons[0]
    assert "unreadable" in answer.reasons[1]


def test_a_predictor_of_a_users_encoder_can_be_copied_and_read(tmp_path):
    model = MMSAModel(mode="regression", modalities=("graph",), graph=AtomCounts())
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="pass it again, graph=<nn.Module>"):
        MMSAPredictor.from_pretrained(tmp_path)
    predictor = MMSAPredictor(model.model)
    expected = predictor.predict(["CCO"]).values
    for again in (
        copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor)),
        MMSAPredictor.from_pretrained(tmp_path, graph=AtomCounts()),
    ):  # fmt: skip
        np.testing.assert_array_equal(again.predict(["CCO"]).values, expected)


def test_embed_warns_of_what_it_cannot_read():
    with pytest.warns(UserWarning, match="1 of 3 molecules .* the first is row 1: unreadable"):
        found = deepchem_mmsa.embed(["CCO", "C1CC", "CCN"])
    assert np.isnan(found).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("settings, message", [
    (ViewSettings(("graph",)), r"have no image, which .*MMSAFeaturizer\(\['image', 'graph'\]\)"),
    (ViewSettings(("image", "graph"), 48), "images of 48 pixels, but the model was trained.*at 32"),
    (ViewSettings(("image", "graph"), 32), None),
])  # fmt: skip
def test_records_of_another_featurizer_are_told_once_a_call(make_model, settings, message):
    model = make_model(mode="regression", modalities=("image", "graph"))
    model.model.picture_size.fill_(32)
    predictor = MMSAPredictor(model.model)
    records = many_views(SMILES[:9], settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predictor.predict(records, batch_size=3)
        predictor.predict(SMILES[:3])
    assert [w.filename for w in caught] == [__file__] * (message is not None)
    assert all(re.search(message, str(w.message)) for w in caught)
