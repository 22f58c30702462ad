"""What a model says of molecules: probabilities, values, embeddings, whatever the company."""

import itertools

import deepchem as dc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa import MMSAFeaturizer, MMSAModel
from deepchem_mmsa.mc_dropout import has_dropout
from deepchem_mmsa.molecule import DEFAULT_MODALITIES, MODALITIES, MoleculeViews
from deepchem_mmsa.pretraining import LOSS_TERMS
from tests.fixtures import labelled, multitask

RMSE = dc.metrics.Metric(dc.metrics.rms_score, name="rmse")
AUC = dc.metrics.Metric(dc.metrics.roc_auc_score, name="auc")


@pytest.mark.parametrize("n_tasks, n_classes", [(1, 2), (3, 2), (2, 4)])
def test_classification_gives_probabilities_always(make_model, graph_dataset, n_tasks, n_classes):
    data = multitask(graph_dataset, n_tasks, n_classes)
    model = make_model(mode="classification", n_tasks=n_tasks, n_classes=n_classes)
    model.fit(data, nb_epoch=2)
    p = model.predict(data)
    assert p.shape == (len(data), n_tasks, n_classes)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)


def test_a_generator_is_scored_as_its_dataset(make_model, graph_dataset):
    """Missing labels count nowhere, rows without a prediction are left out, transforms undone."""
    y = np.linspace(1, 3, len(graph_dataset))[:, None]
    w = np.ones_like(y)
    w[::3] = 0
    X = graph_dataset.X.copy()
    X[5] = MoleculeViews("C1CC")
    data = dc.data.NumpyDataset(X, y * w, w, graph_dataset.ids)
    scaled = dc.trans.NormalizationTransformer(transform_y=True, dataset=data)
    data = scaled.transform(data)
    model = make_model(mode="regression")
    for transformers in ([], [scaled]):
        expected = model.evaluate(data, [RMSE], transformers, per_task_metrics=True)
        batches = model.default_generator(data, mode="predict")
        found = model.evaluate_generator(batches, [RMSE], transformers, per_task_metrics=True)
        assert found == expected
    with pytest.raises(ValueError, match="no molecule"):
        model.evaluate_generator([], [RMSE])


def test_a_generator_to_score_may_leave_out_weights_but_not_labels(make_model, graph_dataset):
    model, (X, y) = make_model(mode="regression"), (graph_dataset.X, graph_dataset.y)
    expected = model.evaluate(graph_dataset, [RMSE])
    for weights in ([], None, [None], [np.ones((1, 1))]):
        found = model.evaluate_generator([([X], [y], weights)], [RMSE])
        assert found == pytest.approx(expected)
    for labels in ([], None, [None]):
        with pytest.raises(ValueError, match="has no labels: yield"):
            model.evaluate_generator([([X], labels, [])], [RMSE])
    with pytest.raises(ValueError, match="40 molecules, but 39 rows of labels"):
        model.evaluate_generator([([X], [y[1:]], [])], [RMSE])


def test_any_default_type_of_torch_will_do(make_model, dataset):
    expected = make_model(modalities=MODALITIES, mode="regression").predict(dataset)
    torch.set_default_dtype(torch.float64)
    try:
        model = make_model(modalities=MODALITIES, mode="pretraining")
        model.fit(dataset, nb_epoch=1)
        assert model.predict_embedding(dataset).dtype == np.float32
        model = make_model(modalities=MODALITIES, mode="regression")
        model.fit(dataset, nb_epoch=1)
        assert model.predict(dataset).dtype == expected.dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_regression_in_label_units(make_model, graph_dataset):
    y = np.c_[
        np.linspace(1000, 1100, len(graph_dataset)), np.linspace(-1e-3, 1e-3, len(graph_dataset))
    ]
    model = make_model(mode="regression", n_tasks=2)
    model.fit(labelled(graph_dataset, y), nb_epoch=1)
    p = model.predict(graph_dataset)
    assert p.shape == (len(graph_dataset), 2)
    assert (abs(p.mean(0) - y.mean(0)) < 3 * y.std(0)).all()


def test_embedding_is_one_array(make_model, graph_dataset):
    model = make_model(mode="regression")
    e = model.predict_embedding(graph_dataset)
    assert isinstance(e, np.ndarray)
    assert e.shape == (len(graph_dataset), 16)
    assert np.isfinite(e).all()


def test_an_embedding_is_not_scaled_by_transformers_of_labels(make_model, graph_dataset):
    normal = dc.trans.NormalizationTransformer(transform_y=True, dataset=graph_dataset)
    model = make_model(mode="regression")
    for kind in ("embedding", ["embedding"]):
        found = model.predict(graph_dataset, [normal], output_types=kind)
        np.testing.assert_array_equal(found, model.predict_embedding(graph_dataset))


def test_codes_of_each_view(make_model, dataset):
    model = make_model(mode="pretraining", modalities=MODALITIES)
    X = dataset.X[:5].copy()
    X[2] = with_only(X[2], {"graph"})
    codes, available = model.predict_codes(dc.data.NumpyDataset(X))
    assert codes.shape == (5, 4, 16)
    whole, graph_only = [True] * 4, [False, True, False, False]
    assert available.tolist() == [whole] * 2 + [graph_only] + [whole] * 2
    assert (np.isnan(codes).any(-1) == ~available).all()


def test_pretraining_has_no_predictions(make_model, graph_dataset):
    with pytest.raises(ValueError, match="use predict_embedding, or fine-tune"):
        make_model(mode="pretraining").predict(graph_dataset)


@pytest.mark.parametrize(
    "modalities",
    [m for r in (1, 2, 3) for m in itertools.combinations(DEFAULT_MODALITIES, r)]
    + [("fingerprint",), ("graph", "fingerprint"), MODALITIES],
    ids="+".join,
)
def test_any_subset_of_modalities(make_model, dataset, modalities):
    model = make_model(mode="pretraining", modalities=modalities, memory_warmup=16)
    model.fit(dataset, nb_epoch=2)
    row = model.history[-1]
    assert set(LOSS_TERMS) <= set(row)
    assert (row["con"] > 0) == (len(modalities) > 1)
    assert (row["mask"] > 0) == ("graph" in modalities)
    assert (row["desc"] > 0) == ("fingerprint" in modalities and len(modalities) > 1)
    assert row["rec"] > 0
    tuned = make_model(mode="regression", modalities=modalities)
    tuned.load_from_pretrained(model)
    tuned.fit(dataset, nb_epoch=1)
    assert np.isfinite(tuned.predict(dataset)).all()


# ---- batch invariance -------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(make_model, dataset):
    """A model of all modalities with an active memory, pre-trained and fine-tuned a little."""
    pretrained = make_model(mode="pretraining", memory_warmup=16, modalities=MODALITIES)
    pretrained.fit(dataset, nb_epoch=2)
    assert pretrained.model.memory.is_active
    model = make_model(mode="regression", modalities=MODALITIES)
    model.load_from_pretrained(pretrained)
    model.fit(dataset, nb_epoch=1)
    return model


def with_only(record, modalities):
    kept = {}
    if "image" in modalities:
        kept["image"] = record.image
    if "graph" in modalities:
        kept.update(atoms=record.atoms, bond_atoms=record.bond_atoms, bonds=record.bonds)
    if "geometry" in modalities:
        kept.update(atomic_numbers=record.atomic_numbers, coordinates=record.coordinates)
    if "fingerprint" in modalities:
        kept.update(
            fingerprint_bits=record.fingerprint_bits,
            fingerprint_counts=record.fingerprint_counts,
            descriptors=record.descriptors,
        )
    return MoleculeViews(record.smiles, **kept)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_prediction_does_not_depend_on_the_company(trained, dataset, data):
    subsets = st.sets(st.sampled_from(MODALITIES), min_size=1)
    chosen = data.draw(
        st.lists(st.tuples(st.integers(0, len(dataset) - 1), subsets), min_size=1, max_size=20)
    )
    X = np.empty(len(chosen), dtype=object)
    X[:] = [with_only(dataset.X[i], subset) for i, subset in chosen]
    size = data.draw(st.integers(1, 25))
    before, trained.batch_size = trained.batch_size, size
    try:
        together = dc.data.NumpyDataset(X)
        p, e = trained.predict(together), trained.predict_embedding(together)
        which = data.draw(st.integers(0, len(X) - 1))
        alone = dc.data.NumpyDataset(X[which : which + 1])
        np.testing.assert_allclose(trained.predict(alone)[0], p[which], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(trained.predict_embedding(alone)[0], e[which], atol=1e-5)
    finally:
        trained.batch_size = before


@pytest.mark.parametrize("modalities", [(m,) for m in MODALITIES] + [MODALITIES])
def test_prediction_does_not_depend_on_threads_or_much_on_precision(
    make_model, dataset, modalities, tmp_path
):
    """fp32: 1e-5 of itself at any thread count. bf16 keeps 8 bits of a number: 0.03 of 1."""
    model = make_model(mode="classification", n_tasks=2, modalities=modalities)
    model.fit(multitask(dataset, 2), nb_epoch=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = model.predict(dataset)
        torch.set_num_threads(3)
        three = model.predict(dataset)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(three, one, atol=1e-5)
    model.save_pretrained(tmp_path)
    coarse = MMSAModel.from_pretrained(tmp_path, precision="bf16").predict(dataset)
    assert 0 < abs(coarse - one).max() < 0.03


def test_prediction_leaves_no_trace(trained, dataset):
    state = {k: v.clone() for k, v in trained.model.state_dict().items() if torch.is_tensor(v)}
    first = trained.predict(dataset)
    trained.predict_embedding(dataset)
    trained.predict_uncertainty(dataset, masks=3)
    np.testing.assert_array_equal(first, trained.predict(dataset))
    for name, value in trained.model.state_dict().items():
        if torch.is_tensor(value):
            assert torch.equal(value, state[name]), name


def test_a_molecule_without_any_view_gets_nan_and_a_reason(make_model, graph_dataset, caplog):
    X = graph_dataset.X.copy()
    X[3] = MoleculeViews.unreadable("C1CC", "unclosed ring", ("graph",))
    data = dc.data.NumpyDataset(X, graph_dataset.y, ids=graph_dataset.ids)
    model = make_model(mode="regression")
    model.fit(data, nb_epoch=1)
    p = model.predict(data)
    assert np.isnan(p[3]).all()
    assert np.isfinite(np.delete(p, 3, axis=0)).all()
    assert model.failures == [(3, "C1CC", "unreadable: unclosed ring")]
    assert "row 3, 'C1CC': unreadable: unclosed ring" in caplog.text
    assert np.isnan(model.predict_embedding(data)[3]).all()
    pretrained = make_model(mode="pretraining")
    assert np.isfinite(pretrained.fit(data, nb_epoch=1))


def test_prediction_keeps_no_gradients(make_model, graph_dataset):
    model = make_model(mode="regression")
    seen = []
    model.model.register_forward_hook(lambda m, i, out: seen.append(out[0].requires_grad))
    model.predict(graph_dataset)
    assert seen
    assert not any(seen)


def test_uncertainty_is_a_real_one(make_model, graph_dataset):
    model = make_model(mode="regression", head_dropout=0.3)
    model.fit(graph_dataset, nb_epoch=2)
    mean, std = model.predict_uncertainty(graph_dataset, masks=40)
    assert mean.shape == std.shape == (len(graph_dataset), 1)
    assert (std > 0).all()
    again = model.predict_uncertainty(graph_dataset, masks=40)
    np.testing.assert_array_equal(std, again[1])
    assert np.corrcoef(mean[:, 0], model.predict(graph_dataset)[:, 0])[0, 1] > 0.8
    dry = make_model(mode="regression", head_dropout=0, graph_dropout=0, hypergraph_dropout=0)
    with pytest.raises(ValueError, match="no dropout to sample"):
        dry.predict_uncertainty(graph_dataset)


def test_sampled_dropout_knows_the_sum_over_atoms(make_model, graph_dataset):
    """Where the head is silent, the sum is all there is, and nothing of it is dropped."""
    model = make_model(mode="regression", head_dropout=0.3, graph_dropout=0, atom_sum=True)
    for parameter in [p for layer in model.model.head for p in layer.parameters()]:
        parameter.data.zero_()
    mean, std = model.predict_uncertainty(graph_dataset, masks=3)
    np.testing.assert_allclose(mean, model.predict(graph_dataset), rtol=1e-5, atol=1e-6)
    assert (std == 0).all()
    assert np.ptp(mean) > 0.01


def test_writing_of_a_molecule_does_not_matter(trained):
    featurizer = MMSAFeaturizer(image_size=32)
    pairs = [
        ("OC(=O)c1ccccc1OC(C)=O", "CC(=O)Oc1ccccc1C(O)=O"),
        ("C[C@H](N)C(=O)O", "OC(=O)[C@@H](N)C"),
    ]
    for written in pairs:
        p = trained.predict(dc.data.NumpyDataset(featurizer.featurize(list(written))))
        np.testing.assert_array_equal(p[0], p[1])


def test_mirror_images_are_told_apart(trained):
    X = MMSAFeaturizer(image_size=32).featurize(["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"])
    p = trained.predict(dc.data.NumpyDataset(X))
    assert p[0] != p[1]


def test_sampling_in_one_thread_leaves_predictions_in_others_alone(make_model, graph_dataset):
    import threading

    model, stop = make_model(mode="regression", head_dropout=0.5), threading.Event()
    expected = model.predict(graph_dataset)

    def sample():
        while not stop.is_set():
            model.predict_uncertainty(graph_dataset, masks=10)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        for _ in range(20):
            np.testing.assert_allclose(model.predict(graph_dataset), expected, rtol=1e-5)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "kind",
    ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"],
)
def test_every_kind_of_dropout_is_known(kind):
    for p in (0.0, 0.5):
        module = torch.nn.Sequential(torch.nn.Linear(2, 2), getattr(torch.nn, kind)(p))
        assert has_dropout(module) == (p > 0)
