"""MMSAModel in DeepChem's hands. Each trap of the stock TorchModel has a test that it fails."""

import io
import os

import deepchem as dc
import numpy as np
import pytest
import torch
from deepchem.models.torch_models.torch_model import TorchModel
from torch import nn

from deepchem_mmsa import EarlyStopping, MMSAFeaturizer, MMSAModel, MMSAPredictor
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.molecule import MODALITIES
from deepchem_mmsa.pretraining import LOSS_TERMS
from tests.fixtures import SMILES, labelled, multitask

RMSE = dc.metrics.Metric(dc.metrics.rms_score, name="rmse")
AUC = dc.metrics.Metric(dc.metrics.roc_auc_score, name="auc")


def test_fine_tuning_leaves_the_memory_alone(make_model, dataset):
    pretrained = make_model(mode="pretraining", memory_warmup=16, modalities=MODALITIES)
    pretrained.fit(dataset, nb_epoch=2)
    anchors = pretrained.model.memory.anchors.clone()
    model = make_model(mode="regression", modalities=MODALITIES)
    model.load_from_pretrained(pretrained)
    model.fit(dataset, nb_epoch=2)
    assert torch.equal(model.model.memory.anchors, anchors)


def test_deepchem_is_told_the_kind_and_number_of_tasks(make_model):
    model = make_model(mode="classification", n_tasks=3)
    assert (model.get_task_type(), model.get_num_tasks()) == ("classification", 3)
    assert make_model(mode="pretraining").get_num_tasks() == 0


def test_processes_that_start_together_may_share_a_folder(make_model, tmp_path, monkeypatch):
    folder, exists = str(tmp_path / "run"), os.path.exists

    def and_then_another_process_makes_it(path):
        found = exists(path)
        if path == folder:
            os.makedirs(folder, exist_ok=True)
        return found

    monkeypatch.setattr(os.path, "exists", and_then_another_process_makes_it)
    assert make_model(mode="regression", model_dir=folder).model_dir == folder


# ---- what cannot be ---------------------------------------------------------------------


def test_a_table_without_labels_is_told_wherever_they_are_needed(make_model, tmp_path):
    """Where a dataset on disk has none, DeepChem looks for a file without a name."""
    (tmp_path / "table.csv").write_text("smiles\n" + "\n".join(SMILES[:9]))
    loader = dc.data.CSVLoader([], feature_field="smiles", featurizer=MMSAFeaturizer("graph"))
    data = loader.create_dataset(str(tmp_path / "table.csv"))
    model = make_model(mode="regression")
    for use in (model.fit, model.validation_loss, lambda data: model.evaluate(data, [RMSE])):
        with pytest.raises(ValueError, match="has no labels.*load it with its tasks"):
            use(data)
    assert model.predict(data).shape == (9, 1)


@pytest.mark.parametrize(
    "use, message",
    [
        (
            lambda m, d: m.fit(dc.data.NumpyDataset(np.zeros(4), np.zeros((4, 1)))),
            "not MoleculeViews",
        ),
        (lambda m, d: m.fit(dc.data.NumpyDataset(d.X[:1], d.y[:1])), "at least 2 molecules"),
        (lambda m, d: m.fit(dc.data.NumpyDataset(d.X[:0], d.y[:0])), "at least 2 molecules"),
        (lambda m, d: m.fit(labelled(d, np.zeros((len(d), 2)))), r"build it with n_tasks=2"),
        (lambda m, d: m.predict(dc.data.NumpyDataset(d.X[:0], d.y[:0])), "holds no molecule"),
        (lambda m, d: m.fit(d.X), "dataset is a ndarray; give a DeepChem dataset, for example"),
        (lambda m, d: m.predict(["CCO"]), "dataset is a list; give a DeepChem dataset"),
        (lambda m, d: m.predict_uncertainty(["CCO"]), "dataset is a list; give a DeepChem dataset"),
        (lambda m, d: m.evaluate(["CCO"], []), "dataset is a list; give a DeepChem dataset"),
        (lambda m, d: MMSAModel(mode="regression", tasks=["a", "b"]), "2 names, but n_tasks=1"),
        (lambda m, d: m.freeze_components(["images"]), r"no component \['images'\].*'graph'"),
        (lambda m, d: m.predict(d, output_types=["smell"]), "choose 'prediction' or 'embedding'"),
    ],
)
def test_errors_say_what_to_do(make_model, graph_dataset, use, message):
    with pytest.raises((ValueError, TypeError), match=message):
        use(make_model(mode="regression"), graph_dataset)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"graph": "gine"}, "gin"),
        ({"geometry": "comnet"}, "comenet"),
        ({"image": "resnet"}, "resnet18"),
        ({"n_task": 2}, "did you mean 'n_tasks'"),
        ({"config": -1}, "no preset -1; there are"),
        ({"config": {"n_tasks": 2}}, r"no preset \{'n_tasks': 2\}"),
        ({"config": "mmsa-small"}, "no preset 'mmsa-small'.*loaded by MMSAModel.from_pretrained"),
    ],
)
def test_unknown_names_list_the_known_ones(arguments, message):
    with pytest.raises(ValueError, match=message):
        MMSAModel(mode="regression", **arguments)


# ---- the stock traps --------------------------------------------------------------------


class Recorder:
    """Notes at each step whether the network is in training mode when the step begins."""

    def __init__(self, network):
        self.modes = []
        network.register_forward_pre_hook(self.note)
        self.active = True

    def note(self, module, inputs):
        if torch.is_grad_enabled():
            self.modes.append(module.training)


def test_training_goes_on_in_training_mode_after_validation(make_model, graph_dataset):
    model = make_model(mode="regression")
    recorder = Recorder(model.model)
    validation = dc.models.ValidationCallback(graph_dataset, 1, [RMSE], output_file=io.StringIO())
    model.fit(graph_dataset, nb_epoch=2, callbacks=[validation])
    assert recorder.modes == [True] * len(recorder.modes)
    assert len(recorder.modes) == model.get_global_step() > 2


def test_stock_training_goes_on_in_evaluation_mode():
    network = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5))
    stock = TorchModel(network, dc.models.losses.L2Loss(), batch_size=4)
    rng = np.random.default_rng(0)
    data = dc.data.NumpyDataset(rng.random((12, 3)), rng.random((12, 1)))
    seen = []
    stock.fit(
        data,
        nb_epoch=1,
        callbacks=[lambda m, s: m.predict(data), lambda m, s: seen.append(m.model.training)],
    )
    assert seen[-1] is False  # what test_training_goes_on_in_training_mode guards against


def test_unlabelled_data_in_every_form(make_model, graph_dataset, tmp_path):
    X = graph_dataset.X
    table = tmp_path / "molecules.csv"
    table.write_text("smiles\n" + "\n".join(r.smiles for r in X))
    loader = dc.data.CSVLoader(
        tasks=[], feature_field="smiles", featurizer=MMSAFeaturizer(modalities=("graph",))
    )
    forms = [
        dc.data.NumpyDataset(X),
        dc.data.NumpyDataset(X, y=None, w=np.zeros((len(X), 1))),
        dc.data.DiskDataset.from_numpy(X, data_dir=str(tmp_path / "disk")),
        loader.create_dataset(str(table)),
        graph_dataset,
    ]
    losses = {round(make_model(mode="pretraining").fit(data, nb_epoch=1), 4) for data in forms}
    assert len(losses) == 1  # labels and weights change nothing


def test_a_disk_dataset_is_not_kept_in_memory(make_model, graph_dataset, tmp_path):
    disk = dc.data.DiskDataset.from_numpy(graph_dataset.X, graph_dataset.y, data_dir=str(tmp_path))
    disk.reshard(8)
    model = make_model(mode="regression")
    model.fit(disk, nb_epoch=1)
    model.predict(disk)
    assert not any(disk._cached_shards or [])
    stock = dc.data.DiskDataset(str(tmp_path))
    list(stock.iterbatches(8))
    assert any(stock._cached_shards)  # it counts 8 bytes for a record


def test_missing_labels_change_nothing(make_model, graph_dataset):
    data = multitask(graph_dataset)
    other = labelled(data, np.where(data.w > 0, data.y, 1 - data.y), data.w)
    models = [make_model(mode="classification", n_tasks=3) for _ in range(2)]
    losses = [model.fit(d, nb_epoch=2) for model, d in zip(models, (data, other))]
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(models[0].predict(data), models[1].predict(data))


def test_save_and_reload(make_model, graph_dataset, tmp_path):
    model = make_model(mode="regression", model_dir=str(tmp_path))
    model.fit(graph_dataset, nb_epoch=1)
    p = model.predict(graph_dataset)
    model.save()
    again = make_model(mode="regression", model_dir=str(tmp_path), seed=5)
    assert not np.array_equal(again.predict(graph_dataset), p)
    again.reload()
    np.testing.assert_array_equal(again.predict(graph_dataset), p)


def test_weights_go_by_name_with_buffers(make_model, graph_dataset):
    source = make_model(mode="pretraining", memory_warmup=16)
    source.fit(graph_dataset, nb_epoch=2)
    target = make_model(mode="classification", n_tasks=7, seed=3)
    head = target.model.head[0].weight.clone()
    target.load_from_pretrained(source)
    theirs, mine = source.model.state_dict(), target.model.state_dict()
    for name in mine:
        if name.startswith("head") or not torch.is_tensor(mine[name]):
            continue
        if name.startswith(("encoders", "fusion", "hypergraph", "memory", "readout")):
            assert torch.equal(mine[name], theirs[name]), name
    assert any("running_mean" in name for name in mine)
    assert torch.equal(target.model.head[0].weight, head)
    assert target.model.memory.exemplars == source.model.memory.exemplars


def test_components_are_selectable(make_model, graph_dataset):
    source, target = make_model(mode="pretraining", seed=1), make_model(mode="regression")
    fusion = {k: v.clone() for k, v in target.model.fusion.state_dict().items()}
    target.load_from_pretrained(source, components=["graph"])
    for a, b in zip(
        source.model.encoders["graph"].parameters(), target.model.encoders["graph"].parameters()
    ):
        assert torch.equal(a, b)
    assert all(torch.equal(v, fusion[k]) for k, v in target.model.fusion.state_dict().items())
    wider = make_model(mode="regression", graph_width=40)
    with pytest.raises(CheckpointError, match="there.*here"):
        wider.load_from_pretrained(source)


@pytest.mark.parametrize("by_epochs", [False, True])
def test_frozen_components_rest_with_their_batch_norm(make_model, graph_dataset, by_epochs):
    model = make_model(mode="regression", freeze_epochs=2 if by_epochs else 0)
    if not by_epochs:
        model.freeze_components(["graph"])
    encoder = model.model.encoders["graph"]
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    head = model.model.head[0].weight.clone()
    model.fit(graph_dataset, nb_epoch=2)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not torch.equal(head, model.model.head[0].weight)
    model.freeze_components(["graph"], freeze=False)
    model.fit(graph_dataset, nb_epoch=3)
    assert any(not torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


# ---- what TorchModel offers -------------------------------------------------------------


def test_fit_on_batch_and_generator(make_model, graph_dataset):
    model = make_model(mode="regression")
    d = graph_dataset
    assert np.isfinite(model.fit_on_batch(d.X[:8], d.y[:8], d.w[:8], checkpoint=False))
    assert model.get_global_step() == 1
    model.fit_generator(model.default_generator(d, epochs=1))
    assert model.get_global_step() > 1
    assert model.predict_on_batch(d.X[:3]).shape == (3, 1)


def test_all_arguments_of_torch_model(make_model, graph_dataset, tmp_path):
    losses = []
    model = make_model(
        mode="regression",
        model_dir=str(tmp_path),
        learning_rate=dc.models.optimizers.ExponentialDecay(1e-3, 0.5, 2),
        tensorboard=True,
        log_frequency=1,
        device=torch.device("cpu"),
        regularization_loss=lambda: torch.tensor(100.0),
        loss=lambda outputs, labels, weights: (outputs[0] ** 2).mean(),
        wandb=False,
    )
    model.fit(graph_dataset, nb_epoch=2, all_losses=losses)
    assert len(losses) == model.get_global_step()
    assert min(losses) > 100
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert model.history[-1]["learning_rate"] < 1e-3
    plain = make_model(mode="regression", optimizer=dc.models.optimizers.GradientDescent(0.01))
    assert np.isfinite(plain.fit(graph_dataset, nb_epoch=1))


def test_what_regularizes_is_added_once_to_any_loss(make_model, graph_dataset):
    def first(loss, added):
        losses = []
        model = make_model(mode="regression", loss=loss, regularization_loss=added)
        model.fit(graph_dataset, nb_epoch=1, all_losses=losses, checkpoint_interval=0)
        return losses[0]

    for loss in (None, dc.models.losses.L2Loss()):
        with_it = first(loss, lambda: torch.tensor(100.0))
        assert with_it - first(loss, None) == pytest.approx(100)


def test_what_regularizes_may_change_during_a_run(make_model, graph_dataset):
    def relax(model, step):
        model.regularization_loss = None

    losses = []
    added = {"regularization_loss": lambda: torch.tensor(100.0)}
    model = make_model(mode="regression", log_frequency=1, **added)
    model.fit(graph_dataset, nb_epoch=1, all_losses=losses, callbacks=relax, checkpoint_interval=0)
    assert losses[0] > 100
    assert max(losses[1:]) < 100


def test_tensorboard_logs_every_term_by_name(make_model, graph_dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = make_model(
        mode="pretraining", model_dir=str(tmp_path), tensorboard=True, log_frequency=1
    )
    model.fit(graph_dataset, nb_epoch=1)
    model._summary_writer.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {*LOSS_TERMS, "loss", "code_std"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("iterator", [False, True])
def test_variables_choose_what_is_trained(make_model, graph_dataset, iterator):
    model = make_model(mode="regression", weight_decay=0)
    before = {k: v.clone() for k, v in model.model.named_parameters()}
    chosen = model.model.head.parameters() if iterator else list(model.model.head.parameters())
    model.fit(graph_dataset, nb_epoch=1, variables=chosen)
    moved = {k for k, v in model.model.named_parameters() if not torch.equal(v, before[k])}
    assert moved
    assert all(name.startswith("head") for name in moved)


def test_encoder_learning_rate(make_model):
    model = make_model(mode="regression", learning_rate=1e-2, encoder_learning_rate=1e-4)
    assert [g["lr"] for g in model._pytorch_optimizer.param_groups] == [1e-4, 1e-2]


def test_gradients_are_clipped(make_model, graph_dataset):
    norms = {}
    for clip in (None, 1e9, 1e-3):
        model = make_model(mode="regression", clip_norm=clip)
        seen = norms.setdefault(clip, [])

        def note(optimizer, *rest, seen=seen, model=model):
            gradients = [p.grad for p in model.model.parameters() if p.grad is not None]
            seen.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

        model._pytorch_optimizer.register_step_pre_hook(note)
        model.fit(graph_dataset, nb_epoch=1)
    assert max(norms[1e-3]) <= 1e-3 * 1.001
    assert norms[None] == norms[1e9]
    assert max(norms[None]) > 1  # a bound that one might take for none


def test_a_short_pretraining_starts_the_memory_with_what_it_saw(make_model, graph_dataset):
    model = make_model(mode="pretraining", schedule="staged", memory_warmup=10_000)
    model.fit(graph_dataset, nb_epoch=1)
    assert model.model.memory.is_active


def test_class_weights_shift_the_balance(make_model, graph_dataset):
    y = (np.arange(len(graph_dataset)) % 8 == 0).astype(float)[:, None]
    data = labelled(graph_dataset, y)
    shares = []
    for weights in (None, "balanced"):
        model = make_model(mode="classification", class_weights=weights)
        model.fit(data, nb_epoch=4)
        shares.append(model.predict(data)[:, 0, 1].mean())
    assert shares[1] > shares[0] + 0.1


def test_seed_fixes_everything(make_model, graph_dataset):
    def run(seed):
        torch.rand(3)  # the state of the world outside must not matter ...
        np.random.rand(3)  # noqa: NPY002
        model = make_model(mode="regression", seed=seed, graph_dropout=0.2)
        before = torch.get_rng_state()
        model.fit(graph_dataset, nb_epoch=2)
        assert torch.equal(before, torch.get_rng_state())  # ... and is left alone
        return model.predict(graph_dataset)

    first = run(0)
    np.testing.assert_array_equal(first, run(0))
    assert not np.array_equal(first, run(1))


def test_grid_search_runs_over_it(make_model, graph_dataset, tmp_path):
    def build(**arguments):
        return make_model(mode="regression", **arguments)

    search = dc.hyper.GridHyperparamOpt(build)
    best, chosen, scores = search.hyperparam_search(
        {"learning_rate": [1e-4, 1e-2], "head_width": [8]},
        graph_dataset, graph_dataset, RMSE, nb_epoch=3, use_max=False, logdir=str(tmp_path),
    )  # fmt: skip
    assert isinstance(best, MMSAModel)
    assert len(scores) == 2
    assert chosen["learning_rate"] in (1e-4, 1e-2)


def test_transformers_of_deepchem(make_model, graph_dataset):
    normal = dc.trans.NormalizationTransformer(transform_y=True, dataset=graph_dataset)
    data = normal.transform(graph_dataset)
    model = make_model(mode="regression")
    model.fit(data, nb_epoch=2)
    plain = model.predict(data)
    np.testing.assert_allclose(
        model.predict(data, [normal]),
        plain * graph_dataset.y.std() + graph_dataset.y.mean(),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    assert model.evaluate(data, [RMSE], [normal])["rmse"] > 0


# ---- every choice ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"graph": "gcn"}, {"graph": "gat"}, {"graph": "attentivefp"}, {"features": "full"},
        {"modalities": ("geometry",), "geometry": "schnet"},
        {"graph": "gcn", "precision": "bf16"}, {"graph": "gat", "precision": "bf16"},
        {"graph": "attentivefp", "precision": "bf16"},
        {"modalities": ("geometry",), "geometry": "schnet", "precision": "bf16"},
        {"modalities": ("geometry",), "hydrogens": True},
        {"fusion": "attention", "modalities": MODALITIES},
        {"hypergraph_norm": "sym"}, {"hypergraph_scope": "memory"}, {"memory_update": "gradient"},
        {"hypergraph": False}, {"memory": False}, {"hypergraph": False, "memory": False},
        {"schedule": "staged"}, {"atom_sum": True}, {"atom_sum": True, "graph_jk": "concat"},
        {"atom_sum": True, "graph": "attentivefp", "precision": "bf16"},
    ],
    ids=str,
)  # fmt: skip
def test_every_choice_trains_and_predicts(make_model, dataset, arguments):
    model = make_model(mode="pretraining", memory_warmup=16, **arguments)
    assert np.isfinite(model.fit(dataset, nb_epoch=2))
    tuned = make_model(mode="regression", **arguments)
    tuned.load_from_pretrained(model)
    assert np.isfinite(tuned.fit(dataset, nb_epoch=1))
    assert np.isfinite(tuned.predict(dataset)).all()


# ---- learning ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "modalities",
    [
        ("graph",),
        pytest.param(("image",), marks=pytest.mark.slow),
        pytest.param(("geometry",), marks=pytest.mark.slow),
        pytest.param(MODALITIES, marks=pytest.mark.slow),
    ],
    ids="+".join,
)
def test_overfits_labels(make_model, dataset, modalities):
    rng = np.random.default_rng(0)
    data = dc.data.NumpyDataset(dataset.X[:32], rng.normal(size=(32, 1)))
    wide = {
        "modalities": modalities, "graph_width": 64, "geometry_width": 64, "image_width": 16,
        "embedding_dim": 64, "learning_rate": 1e-3, "batch_size": 32, "features": "full",
        "graph_dropout": 0, "head_dropout": 0, "fingerprint_dropout": 0, "hypergraph_dropout": 0,
    }  # fmt: skip
    model = make_model(mode="regression", **wide)
    stopping = EarlyStopping(data, RMSE, patience=300, minimize=True)
    model.fit(data, nb_epoch=300, callbacks=stopping, checkpoint_interval=0)
    assert model.evaluate(data, [RMSE])["rmse"] <= 0.1 * data.y.std()
    binary = labelled(data, data.y > 0)
    model = make_model(mode="classification", **wide)
    stopping = EarlyStopping(binary, AUC, patience=300)
    model.fit(binary, nb_epoch=300, callbacks=stopping, checkpoint_interval=0)
    assert model.evaluate(binary, [AUC])["auc"] >= 0.99


def test_tasks_without_names_are_numbered(make_model, graph_dataset):
    model = make_model(mode="regression", scale_labels=False)
    model.fit(dc.data.NumpyDataset(graph_dataset.X, graph_dataset.y), nb_epoch=1)
    assert model.tasks == ["task 0"] == MMSAPredictor(model.model).tasks


def test_tasks_in_another_order_are_refused(make_model, graph_dataset):
    """They are matched by column: the scores would be those of other tasks."""
    y = np.random.default_rng(0).normal(size=(len(graph_dataset), 2))
    given, other, turned = (
        dc.data.DiskDataset.from_numpy(graph_dataset.X, labels, tasks=names)
        for labels, names in ((y, ["a", "b"]), (y, ["c", "d"]), (y[:, ::-1], ["b", "a"]))
    )
    model = make_model(mode="regression", n_tasks=2)
    model.fit(given, nb_epoch=1, checkpoint_interval=0)
    assert np.isfinite(model.evaluate(given, RMSE)["rmse"])
    assert np.isfinite(model.evaluate(other, RMSE)["rmse"])
    for use in (
        lambda: model.evaluate(turned, RMSE),
        lambda: model.fit(turned),
        lambda: model.validation_loss(turned),
    ):
        with pytest.raises(ValueError, match=r"\['b', 'a'\], those of the model \['a', 'b'\]"):
            use()
