"""Early stopping keeps the best weights, or the best average of weights."""

import itertools
import math

import deepchem as dc
import numpy as np
import pytest
import sklearn.metrics
import torch

from deepchem_mmsa import EarlyStopping, MMSAModel
from deepchem_mmsa.pretraining import LOSS_TERMS
from tests.fixtures import labelled, multitask
from tests.test_evaluate import RMSE


def weights_of(model):
    return {
        k: v.detach().double().clone()
        for k, v in model.model.state_dict().items()
        if isinstance(v, torch.Tensor) and v.is_floating_point()
    }


def test_early_stopping_keeps_the_best_weights(make_model, graph_dataset):
    model = make_model(mode="regression", learning_rate=0.05)
    stopping = EarlyStopping(graph_dataset, patience=2)
    model.fit(graph_dataset, nb_epoch=60, callbacks=stopping)
    scores = [row["valid_loss"] for row in model.history]
    assert len(scores) < 60
    assert len(scores) == stopping.best_epoch + 2
    assert stopping.best_score == min(scores)
    assert model.validation_loss(graph_dataset) == pytest.approx(min(scores), rel=1e-4)


def test_what_is_kept_is_the_average_of_the_steps(make_model, graph_dataset):
    """The sum over steps, written out; training itself goes on as without it."""
    arguments = {"mode": "regression", "graph_dropout": 0.2, "learning_rate": 0.01}
    steps = []

    def note(model, step):
        steps.append(weights_of(model))

    averaged, plain = make_model(**arguments), make_model(**arguments)
    stopping = EarlyStopping(graph_dataset, averaging=0.7)
    averaged.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0, callbacks=[stopping, note])
    plain.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0)
    assert len(steps) == 5
    for name, value in weights_of(plain).items():
        assert torch.equal(steps[-1][name], value)
    for name, value in weights_of(averaged).items():
        mean = steps[0][name]
        for n, step in enumerate(steps[1:], start=1):
            decay = min(0.7, (1 + n) / (10 + n))
            mean = decay * mean + (1 - decay) * step[name]
        torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-6)


def test_the_average_is_what_is_scored(make_model, graph_dataset):
    model = make_model(mode="regression", learning_rate=0.05)
    stopping = EarlyStopping(graph_dataset, patience=3, averaging=0.9)
    model.fit(graph_dataset, nb_epoch=60, callbacks=stopping)
    scores = [row["valid_loss"] for row in model.history]
    assert len(scores) == stopping.best_epoch + 3
    assert model.validation_loss(graph_dataset) == pytest.approx(min(scores), rel=1e-4)


@pytest.mark.parametrize("given_to", ["model", "fit"])
def test_the_loss_that_is_watched_is_the_loss_that_is_trained(make_model, graph_dataset, given_to):
    """A user's loss too: its minimum is 100 above all labels here, which the usual one shuns."""
    data = labelled(graph_dataset, np.linspace(0, 1, len(graph_dataset))[:, None])

    def far_off(outputs, labels, weights):
        return ((outputs[0] - labels[0] - 100) ** 2 * weights[0]).mean()

    loss = {name: {"loss": far_off} if name == given_to else {} for name in ("model", "fit")}
    model = make_model(mode="regression", learning_rate=0.05, **loss["model"])
    stopping = EarlyStopping(data, patience=50)
    model.fit(data, nb_epoch=6, callbacks=stopping, **loss["fit"])
    kept = ((model.predict(data)[:, 0] - data.y[:, 0] - 100) ** 2).mean()
    assert stopping.best_epoch > 1
    assert stopping.best_score == pytest.approx(kept, rel=1e-3)


def test_a_loss_of_deepchem_is_watched_whatever_the_batches(make_model, graph_dataset):
    data = multitask(graph_dataset, n_tasks=2)
    weights = make_model(mode="regression", n_tasks=2).model.state_dict()
    found = []
    for size in (3, 8, len(data)):
        loss = dc.models.losses.L2Loss()
        model = make_model(mode="regression", n_tasks=2, batch_size=size, loss=loss)
        model.model.load_state_dict(weights)
        found.append(model.validation_loss(data))
    expected = (data.w * (model.predict(data) - data.y) ** 2).mean()
    assert found == pytest.approx([expected] * 3, rel=1e-5)


@pytest.mark.parametrize("weights", [None, "balanced"])
def test_a_class_that_is_none_is_told(make_model, graph_dataset, weights):
    data = labelled(graph_dataset, np.full((len(graph_dataset), 1), 2))
    model = make_model(mode="classification", class_weights=weights)
    with pytest.raises(ValueError, match=r"row 0, task 0 is 2.0; with 2 classes"):
        model.validation_loss(data)


def test_a_loss_of_pretraining_is_watched(make_model, graph_dataset):
    """Of the terms: one of them alone has the validation loss of that term."""
    term = LOSS_TERMS.index("mask")
    one = {"mode": "pretraining", "batch_size": len(graph_dataset)}  # the first to draw at random
    model = make_model(**one, loss=lambda outputs, labels, weights: outputs[0][term])
    stopping = EarlyStopping(graph_dataset, patience=9)
    model.fit(graph_dataset, nb_epoch=2, callbacks=stopping)
    alone = {f"w_{name}": float(name == "mask") for name in ("con", "rec", "mem", "mask", "desc")}
    usual = make_model(**one, **alone)
    usual.model.load_state_dict(model.model.state_dict())
    expected = usual.validation_loss(graph_dataset)
    assert model.validation_loss(graph_dataset) == pytest.approx(expected, rel=1e-5)
    assert stopping.best_score == min(row["valid_loss"] for row in model.history) > 0


def test_both_stages_of_a_pretraining_are_watched_alike(make_model, graph_dataset):
    """The second stage has more terms, and would never beat the first one."""
    model = make_model(mode="pretraining", schedule="staged", modalities=("graph", "fingerprint"))
    watched = []
    for model.model.structure_on in (False, True):
        watched.append(model.validation_loss(graph_dataset))
        watched.append(model.model.structure_on)
    assert watched == [watched[0], False, watched[0], True]


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_memory_is_no_average(make_model, graph_dataset, update):
    """Anchors begin all at once: averaged with the zeros before, they would be too short."""
    anchors = []
    for averaging in (0, 0.99):
        model = make_model(mode="pretraining", memory_warmup=16, memory_update=update)
        stopping = EarlyStopping(graph_dataset, averaging=averaging)
        model.fit(graph_dataset, nb_epoch=1, callbacks=[stopping], checkpoint_interval=0)
        anchors.append(model.model.memory.active_anchors())
    assert len(anchors[0])
    torch.testing.assert_close(*anchors)


@pytest.mark.parametrize("averaging", [-0.1, 1.0, float("nan")])
def test_averaging_is_a_decay(averaging):
    with pytest.raises(ValueError, match="averaging must be at least 0 and below 1"):
        EarlyStopping(None, averaging=averaging)


@pytest.mark.parametrize("patience", [None, -1, "ten", float("nan")])
def test_patience_is_a_number_of_epochs(patience):
    with pytest.raises(ValueError, match="must be a number of epochs"):
        EarlyStopping(None, patience=patience)


@pytest.mark.parametrize("patience", [0, 1, 2.5])
def test_patience_is_how_many_epochs_are_no_better(make_model, graph_dataset, patience):
    model, rising = make_model(mode="regression"), itertools.count(1.0)
    model.validation_loss = lambda dataset: next(rising)
    model.fit(graph_dataset, nb_epoch=9, callbacks=EarlyStopping(graph_dataset, patience=patience))
    assert len(model.history) == 1 + max(1, math.ceil(patience))


def test_another_model_begins_anew_and_the_same_goes_on(make_model, graph_dataset):
    stopping = EarlyStopping(graph_dataset)
    first, second = (make_model(mode="regression", seed=seed) for seed in (0, 1))
    first.fit(graph_dataset, nb_epoch=3, callbacks=stopping)
    best = stopping.best_score
    first.fit(graph_dataset, nb_epoch=1, callbacks=stopping)
    assert stopping.best_score <= best
    second.fit(graph_dataset, nb_epoch=2, callbacks=stopping)
    assert stopping.best_score == min(row["valid_loss"] for row in second.history)
    assert second.validation_loss(graph_dataset) == pytest.approx(stopping.best_score, rel=1e-4)
    assert first.validation_loss(graph_dataset) != second.validation_loss(graph_dataset)


def test_a_run_without_epochs_is_told(make_model, graph_dataset, caplog):
    model = make_model(mode="regression", scale_labels=False)
    batch = ([graph_dataset.X[:8]], [graph_dataset.y[:8]], [graph_dataset.w[:8]])
    model.fit_generator([batch], callbacks=EarlyStopping(graph_dataset))
    assert "this run had none" in caplog.text


def test_a_model_can_be_pickled_after_its_run_and_keeps_no_data(make_model, graph_dataset):
    import gc
    import pickle
    import weakref

    data = graph_dataset.select(range(20))
    model = make_model(mode="regression")
    stopping = EarlyStopping(data)
    model.fit(data, nb_epoch=1, callbacks=[stopping, lambda model, step: None])
    assert pickle.loads(pickle.dumps(stopping)).best_score == stopping.best_score
    del stopping.dataset
    there = weakref.ref(data)
    del data
    gc.collect()
    assert there() is None
    assert len(pickle.dumps(model)) > 0


def test_scores_that_are_none_are_told_and_cost_patience(make_model, graph_dataset, caplog):
    import deepchem as dc

    from tests.fixtures import labelled

    one_class = labelled(graph_dataset, 0 * graph_dataset.y)
    auc = dc.metrics.Metric(dc.metrics.roc_auc_score, name="auc")
    model = make_model(mode="classification")
    stopping = EarlyStopping(one_class, auc, patience=3)
    model.fit(one_class, nb_epoch=10, callbacks=stopping)
    assert (len(model.history), stopping.best_epoch) == (3, None)
    assert caplog.text.count("valid_auc is NaN after epoch 1") == 1


@pytest.mark.parametrize(
    "function, name, small",
    [
        (dc.metrics.rms_score, "RMSE", True), (dc.metrics.mae_score, "MAE", True),
        (sklearn.metrics.mean_squared_error, "mse", True), (sklearn.metrics.log_loss, None, True),
        (sklearn.metrics.brier_score_loss, "Brier", True), (sklearn.metrics.max_error, None, True),
        (sklearn.metrics.d2_absolute_error_score, None, False),
        (dc.metrics.roc_auc_score, None, False), (dc.metrics.pearson_r2_score, "R2", False),
        (sklearn.metrics.matthews_corrcoef, None, False), (dc.metrics.kappa_score, None, False),
        (dc.metrics.concordance_index, None, False),
    ],
)  # fmt: skip
def test_whether_small_is_good_is_told_by_the_names(function, name, small):
    metric = dc.metrics.Metric(function, name=name, mode="regression")
    assert EarlyStopping(None, metric).minimize == small
    assert EarlyStopping(None, metric, minimize=not small).minimize != small


def test_what_is_no_dataset_is_refused_at_once():
    with pytest.raises(TypeError, match="validation set is a list; give a DeepChem dataset"):
        EarlyStopping(["CCO"])


@pytest.mark.parametrize(
    "metric", [[RMSE], dc.metrics.rms_score, "rmse"], ids=["list", "function", "name"]
)
def test_what_is_no_metric_is_refused_at_once(metric):
    with pytest.raises(TypeError, match="give one DeepChem metric"):
        EarlyStopping(None, metric, minimize=True)


def test_a_metric_that_does_not_tell_is_refused():
    def quality(y, predicted):
        return 0.0

    metric = dc.metrics.Metric(quality, mode="regression")
    with pytest.raises(ValueError, match="name 'quality' whether lower is better"):
        EarlyStopping(None, metric)
    assert EarlyStopping(None, metric, minimize=False).minimize is False


def test_epochs_without_a_score_are_remembered():
    stopping, again = EarlyStopping(None), EarlyStopping(None)
    stopping._unscored = 2
    again.load_state_dict(stopping.state_dict())
    assert again._unscored == 2


@pytest.mark.parametrize(
    "scores, minimize, best",
    [
        ([0.5, 0.1, 0.9, 0.4, 0.3], True, 2),
        ([0.5, 0.1, 0.9, 0.4, 0.3], False, 3),
        ([0.5, 0.5, 0.5, 0.5], True, 1),  # as good is not better
        ([0.5, 0.5, 0.5, 0.5], False, 1),
        ([np.nan, 0.5, np.nan, 0.4, 0.9, 0.9], True, 4),  # epochs without a score, not in a row
    ],
)
def test_the_best_epoch_is_that_of_the_best_score(
    make_model, graph_dataset, monkeypatch, scores, minimize, best
):
    told, epochs = iter(scores), []
    model = make_model(mode="regression")
    monkeypatch.setattr(model, "evaluate", lambda *_: {"told": next(told)})
    metric = dc.metrics.Metric(dc.metrics.mae_score, name="told")
    stopping = EarlyStopping(graph_dataset, metric, patience=2, minimize=minimize)

    class Note:
        def __call__(self, model, step):
            pass

        def on_epoch_end(self, model, epoch):
            epochs.append(weights_of(model))

    model.fit(graph_dataset, nb_epoch=9, callbacks=[stopping, Note()], checkpoint_interval=0)
    assert (stopping.best_epoch, len(model.history)) == (best, best + 2)
    assert stopping.best_score == scores[best - 1]
    for name, value in weights_of(model).items():
        assert torch.equal(value, epochs[best - 1][name]), name


def test_what_is_watched_is_in_label_units(make_model, graph_dataset):
    normal = dc.trans.NormalizationTransformer(transform_y=True, dataset=graph_dataset)
    data = normal.transform(graph_dataset)
    model = make_model(mode="regression")
    stopping = EarlyStopping(data, RMSE, transformers=[normal])
    model.fit(data, nb_epoch=2, callbacks=stopping, checkpoint_interval=0)
    expected = model.evaluate(data, [RMSE], [normal])["rmse"]
    assert stopping.best_score == pytest.approx(expected, rel=1e-5)
    assert stopping.best_score != pytest.approx(model.evaluate(data, [RMSE])["rmse"], rel=0.1)


def test_another_model_begins_its_average_anew(make_model, graph_dataset):
    used, found = EarlyStopping(graph_dataset, averaging=0.9), []
    for seed, stopping in ((0, used), (1, used), (1, EarlyStopping(graph_dataset, averaging=0.9))):
        model = make_model(mode="regression", seed=seed)
        model.fit(graph_dataset, nb_epoch=2, callbacks=stopping, checkpoint_interval=0)
        found.append(weights_of(model))
    for name, value in found[1].items():
        assert torch.equal(value, found[2][name]), name


def test_averaging_does_not_change_the_training(make_model, graph_dataset):
    """Over several epochs: after each, the average is scored and taken off again."""
    found = []
    for averaging in (0, 0.9):
        model = make_model(mode="regression", graph_dropout=0.2, learning_rate=0.01)
        stopping = EarlyStopping(graph_dataset, averaging=averaging)
        model.fit(graph_dataset, nb_epoch=3, checkpoint_interval=0, callbacks=stopping)
        found.append([row["loss"] for row in model.history])
    assert found[0] == found[1]


def test_patience_is_counted_anew_for_another_model(make_model, graph_dataset, monkeypatch):
    metric = dc.metrics.Metric(dc.metrics.mae_score, name="told")
    stopping = EarlyStopping(graph_dataset, metric, patience=3)
    first, second = (make_model(mode="regression") for _ in range(2))
    second.fit(graph_dataset, nb_epoch=4, checkpoint_interval=0)
    for model, epochs in ((first, 2), (second, 9)):
        monkeypatch.setattr(model, "evaluate", lambda *_: {"told": np.nan})
        model.fit(graph_dataset, nb_epoch=epochs, callbacks=stopping, checkpoint_interval=0)
    assert (len(first.history), len(second.history)) == (2, 4 + 3)


def test_a_run_that_has_only_its_end_to_do_needs_no_epoch(make_model, graph_dataset, caplog):
    model, stopping = make_model(mode="regression"), EarlyStopping(graph_dataset)
    model.fit(graph_dataset, nb_epoch=1, callbacks=stopping, checkpoint_interval=0)
    stopping.on_fit_start(model)
    stopping.on_fit_end(model)
    assert "this run had none" not in caplog.text


def test_a_finished_run_continues_from_its_last_weights(make_model, graph_dataset, monkeypatch):
    """Not from its best ones, which it ended with."""
    worse = itertools.count()
    monkeypatch.setattr(MMSAModel, "validation_loss", lambda self, data: float(next(worse)))
    found = []
    for parts in ((3,), (2, 3)):
        model = make_model(mode="regression", learning_rate=0.01)
        stopping = EarlyStopping(graph_dataset)
        for i, epochs in enumerate(parts):
            model.fit(graph_dataset, nb_epoch=epochs, callbacks=stopping, restore=i > 0)
        assert stopping.best_epoch == 1
        found.append([row["loss"] for row in model.history])
    assert found[0] == found[1]


def test_an_average_does_not_outlive_its_run(make_model, graph_dataset):
    used, found = EarlyStopping(graph_dataset, averaging=0.9), []
    for stopping in (used, EarlyStopping(graph_dataset, averaging=0.9)):
        model = make_model(mode="regression", learning_rate=0.01)
        model.fit(graph_dataset, nb_epoch=2, callbacks=used, checkpoint_interval=0)
        stopping.best_score = None
        model.fit(graph_dataset, nb_epoch=1, callbacks=stopping, checkpoint_interval=0)
        found.append(weights_of(model))
        used = EarlyStopping(graph_dataset, averaging=0.9)
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_other_callbacks_may_watch_a_resumed_run(make_model, graph_dataset):
    model = make_model(mode="regression")
    model.fit(graph_dataset, nb_epoch=1, callbacks=lambda model, step: None)
    stopping = EarlyStopping(graph_dataset)
    model.fit(graph_dataset, nb_epoch=2, callbacks=stopping, restore=True)
    assert stopping.best_epoch == 2


def test_the_first_of_two_stages_is_scored_but_neither_kept_nor_stopped(make_model, graph_dataset):
    """Its weights would be a model whose memory has no anchor."""
    model = make_model(mode="pretraining", schedule="staged", memory_warmup=16)
    rising = itertools.count(1.0)
    model.validation_loss = lambda dataset: next(rising)
    stopping = EarlyStopping(graph_dataset, patience=1)
    model.fit(graph_dataset, nb_epoch=8, callbacks=stopping)
    assert [row["valid_loss"] for row in model.history] == [1, 2, 3, 4, 5, 6]
    assert stopping.best_epoch == 5
    assert model.model.memory.is_active
