"""Training: order, schedules, early stopping, and runs that go on as if uninterrupted."""

from types import SimpleNamespace

import deepchem as dc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa import EarlyStopping, MMSAFeaturizer, training
from deepchem_mmsa.epochs import batch_bounds, epoch_batches, step_seed
from deepchem_mmsa.molecule import MODALITIES, MoleculeViews
from tests.fixtures import labelled


def numbered(n):
    return dc.data.NumpyDataset(np.arange(n), np.arange(n)[:, None] * 10.0)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 60), size=st.integers(1, 20), epoch=st.integers(0, 5))
def test_each_molecule_is_seen_once_an_epoch(n, size, epoch):
    batches = list(epoch_batches(numbered(n), size, [epoch], seed=1))
    seen = np.concatenate([b[0][0] for b in batches])
    assert sorted(seen) == list(range(n))
    assert all((b[1][0][:, 0] == b[0][0] * 10).all() for b in batches)
    assert [b.last for b in batches] == [False] * (len(batches) - 1) + [True]
    assert len(batches) == len(batch_bounds(n, size))
    if size > 1:
        assert min(len(b[0][0]) for b in batches) > 1  # stock DeepChem leaves a batch of one


def test_stock_deepchem_repeats_molecules_and_we_do_not():
    stock = [b[0] for b in numbered(7).iterbatches(4, pad_batches=True, deterministic=True)]
    assert len(np.concatenate(stock)) == 8
    ours = [b[0][0] for b in epoch_batches(numbered(7), 4, [0], None)]
    assert len(np.concatenate(ours)) == 7


@settings(max_examples=20, deadline=None)
@given(skip=st.integers(0, 5), seed=st.integers(0, 99))
def test_skipping_gives_the_rest_of_the_same_epoch(skip, seed):
    whole = [b[0][0].tolist() for b in epoch_batches(numbered(23), 4, [3, 4], seed)]
    rest = [b[0][0].tolist() for b in epoch_batches(numbered(23), 4, [3, 4], seed, skip=skip)]
    assert rest == whole[skip:]


def test_order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate([b[0][0] for b in epoch_batches(numbered(50), 9, [epoch], seed)])

    assert (order(0, 1) == order(0, 1)).all()
    assert (order(0, 1) != order(0, 2)).any()
    assert (order(0, 1) != order(1, 1)).any()


def test_shards_are_read_one_by_one(tmp_path):
    disk = dc.data.DiskDataset.from_numpy(np.arange(50), data_dir=str(tmp_path))
    disk.reshard(8)
    seen = np.concatenate([b[0][0] for b in epoch_batches(disk, 7, [0], seed=0)])
    assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("mixed, least, most", [(1, 1, 1), (16, 1, 2), (8192, 4, 8)])
def test_a_sorted_table_is_mixed_across_its_shards(tmp_path, monkeypatch, mixed, least, most):
    """A batch has molecules of the shards that are shuffled together, and of no others."""
    monkeypatch.setattr("deepchem_mmsa.epochs.MIXED", mixed)
    numbers = np.arange(400)
    disk = dc.data.DiskDataset.from_numpy(numbers, numbers[:, None] * 10.0, data_dir=str(tmp_path))
    disk.reshard(8)
    for epoch in range(3):
        made = list(epoch_batches(disk, 8, [epoch], seed=0))
        assert all((b[1][0][:, 0] == b[0][0] * 10).all() for b in made)
        batches = [b[0][0] for b in made]
        assert sorted(np.concatenate(batches)) == list(range(400))
        found = [len(set(batch // 8)) for batch in batches]
        assert least <= min(found)
        assert max(found) == most or mixed == 8192


def test_step_seeds_differ():
    assert len({step_seed(s, t) for s in range(20) for t in range(50)}) == 1000


def weights_of(model):
    state = model.model.state_dict()
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}


class Interrupt(Exception):
    pass


def stop_at(step):
    def callback(model, current):
        if current == step:
            raise Interrupt

    return callback


@pytest.mark.parametrize("mode", ["pretraining", "regression"])
@pytest.mark.parametrize("step", [3, 7, 8])
def test_interrupted_and_resumed_equals_uninterrupted(
    make_model, graph_dataset, tmp_path, mode, step
):
    arguments = {"mode": mode, "lr_schedule": "cosine", "memory_warmup": 16, "graph_dropout": 0.2}

    def fit(folder, callbacks=(), restore=False):
        model = make_model(model_dir=str(tmp_path / folder), **arguments)
        stopping = EarlyStopping(graph_dataset, patience=50, averaging=0.9)
        model.fit(
            graph_dataset, nb_epoch=4, checkpoint_interval=1, restore=restore,
            callbacks=[stopping, *callbacks],
        )  # fmt: skip
        return model

    whole = fit("whole")
    with pytest.raises(Interrupt):
        fit("broken", [stop_at(step)])
    resumed = fit("broken", restore=True)
    assert resumed.get_global_step() == whole.get_global_step()
    a, b = weights_of(whole), weights_of(resumed)
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    assert resumed.history == whole.history
    if mode == "pretraining":
        assert resumed.model.memory.exemplars == whole.model.memory.exemplars


@pytest.mark.parametrize("step", [5, 10])  # 5 steps an epoch
def test_a_checkpoint_of_a_callback_ends_its_epoch(make_model, graph_dataset, tmp_path, step):
    """As ValidationCallback(save_dir=...) writes it: after a step, before the end of its epoch."""

    def fit(folder, save=None):
        model = make_model(mode="regression", model_dir=str(tmp_path / folder), log_frequency=5)
        stopping, losses = EarlyStopping(graph_dataset, patience=50, averaging=0.9), []
        others = [] if save is None else [save]
        model.fit(
            graph_dataset, 2, restore=save is None, callbacks=[stopping, *others],
            all_losses=losses, checkpoint_interval=0,
        )  # fmt: skip
        return model, stopping, losses

    def save(model, current):
        if current == step:
            model.save_checkpoint(model_dir=str(tmp_path / "best"))

    whole, stopping, losses = fit("whole", save)
    resumed, its_stopping, its_losses = fit("best")
    assert resumed.history == whole.history
    assert its_losses == losses
    assert its_stopping.best_score == stopping.best_score
    a, b = weights_of(whole), weights_of(resumed)
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def test_a_loss_that_is_not_finite_names_the_molecules(make_model, graph_dataset):
    model = make_model(mode="regression", scale_labels=False)
    bad = dc.data.NumpyDataset(
        graph_dataset.X, np.where(np.arange(len(graph_dataset)) == 5, 1e38, 0.0)[:, None]
    )
    with pytest.raises(FloatingPointError, match=r"at step \d; lower .*molecules of this batch: "):
        model.fit(bad, nb_epoch=1)
    assert model.get_global_step() < 5


def test_cosine_schedule_ends_low(make_model, graph_dataset):
    model = make_model(mode="regression", lr_schedule="cosine", learning_rate=1e-3)
    model.fit(graph_dataset, nb_epoch=5)
    rates = [row["learning_rate"] for row in model.history]
    assert rates[-1] == pytest.approx(1e-5, rel=0.2)
    assert max(rates) <= 1e-3


@pytest.mark.parametrize("mode", ["regression", "pretraining"])
@pytest.mark.parametrize("generated", [False, True])
def test_a_run_that_reads_nothing_is_no_run(make_model, graph_dataset, mode, generated):
    model = make_model(mode=mode, modalities=("fingerprint",))
    with pytest.raises(ValueError, match=r"reads \(fingerprint\), so nothing was learnt"):
        if generated:
            batch = ([graph_dataset.X[:8]], [graph_dataset.y[:8]], [graph_dataset.w[:8]])
            model.fit_generator([batch])
        else:
            model.fit(graph_dataset, nb_epoch=1)


def test_the_generator_of_training_is_an_epoch_at_any_time(make_model, graph_dataset):
    model, seen = make_model(mode="regression"), []

    def count(model, step):
        batches = model.default_generator(graph_dataset, 2)
        seen.append(sum(len(inputs[0]) for inputs, _, _ in batches))

    model.fit(graph_dataset, nb_epoch=1, callbacks=count)
    count(model, 0)
    assert set(seen) == {2 * len(graph_dataset)}


def test_threads_that_train_do_not_disturb_each_other(make_model, graph_dataset):
    from concurrent.futures import ThreadPoolExecutor

    def fit(seed):
        model = make_model(mode="regression", seed=seed, graph_dropout=0.3)
        model.fit(graph_dataset, nb_epoch=2, checkpoint_interval=0)
        return weights_of(model)

    expected = [fit(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for one, other in zip(pool.map(fit, range(3)), expected):
            assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("n, size", [(1, 4), (7, 3), (64, 8)])
def test_batches_are_slices_of_the_whole_without_a_copy_each(n, size):
    y = np.arange(n, dtype=float)[:, None]
    data = dc.data.NumpyDataset(np.arange(n), y)
    batches = list(epoch_batches(data, size, [0], None))
    np.testing.assert_array_equal(np.concatenate([b[1][0] for b in batches]), y)
    whole = [batch[1][0].base is batches[0][1][0].base for batch in batches]
    assert all(whole)  # each a window on one array


def test_validation_loss_does_not_depend_on_the_batch(make_model, graph_dataset):
    """Also where classes weigh differently and some batches hold one class only."""
    y = (np.arange(len(graph_dataset)) % 11 == 0).astype(float)
    data = labelled(graph_dataset, y[:, None])
    found = []
    for size in (3, 7, len(data)):
        model = make_model(mode="classification", class_weights="balanced", batch_size=size)
        model._learn_labels(data)
        found.append(model.validation_loss(data))
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


def test_a_generator_leaves_encoders_and_rate_alone(make_model, graph_dataset, caplog):
    model = make_model(mode="regression", freeze_epochs=2, lr_schedule="cosine", learning_rate=1e-3)
    model.fit(graph_dataset, nb_epoch=1)
    before = {k: v.clone() for k, v in model.model.encoders.state_dict().items()}
    batches = model.default_generator(graph_dataset, epochs=2, mode="fit")
    model.fit_generator([tuple(batch) for batch in batches])
    assert any(not torch.equal(v, before[k]) for k, v in model.model.encoders.state_dict().items())
    assert {group["lr"] for group in model._pytorch_optimizer.param_groups} == {1e-3}
    for words in ("lr_schedule='cosine' stays", "freeze_epochs has no effect"):
        assert words in caplog.text


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_frozen_memory_stays(make_model, graph_dataset, update):
    model = make_model(mode="pretraining", memory_warmup=32, memory_update=update)
    model.fit(graph_dataset, nb_epoch=2)
    before = model.model.memory.anchors.detach().clone()
    model.freeze_components(["memory"])
    model.fit(graph_dataset, nb_epoch=1)
    assert torch.equal(model.model.memory.anchors, before)
    model.freeze_components(["memory"], freeze=False)
    model.fit(graph_dataset, nb_epoch=1)
    assert not torch.equal(model.model.memory.anchors, before)


def test_thawing_does_not_make_anchors_learn_from_labels(make_model):
    model = make_model(mode="regression", memory_update="gradient")
    for freeze in (True, False):
        model.freeze_components(list(model.model.components()), freeze)
    assert not model.model.memory.anchors.requires_grad
    assert all(p.requires_grad for p in model.model.head.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_in_one_pass_is_the_step_of_the_optimizer(make_model, dataset, precision, layout):
    """Whether or not the weights of convolutions are laid out row by row."""
    after = []
    for fused in (True, False):
        model = make_model(
            mode="regression", modalities=MODALITIES, batch_size=len(dataset), precision=precision
        )
        model.model.encoders["image"].to(memory_format=layout)
        model._ensure_built()
        assert all(group["fused"] for group in model._pytorch_optimizer.param_groups)
        for group in model._pytorch_optimizer.param_groups:
            group["fused"] = fused
        before = {name: p.detach().clone() for name, p in model.model.named_parameters()}
        model.fit(dataset, nb_epoch=1)
        after.append({name: p.detach() for name, p in model.model.named_parameters()})
    moved = [name for name, p in before.items() if not torch.equal(p, after[0][name])]
    assert any(after[0][name].dim() == 4 for name in moved)
    for name, weights in after[0].items():
        torch.testing.assert_close(weights, after[1][name], atol=1e-7, rtol=1e-6, msg=name)


def test_pretraining_on_one_batch_is_refused(make_model, graph_dataset):
    model = make_model(mode="pretraining")
    with pytest.raises(ValueError, match="pre-training needs more than one batch"):
        model.fit_on_batch(graph_dataset.X[:8], None, None)
    tuned = make_model(mode="regression")
    part = graph_dataset.select(range(8))
    assert np.isfinite(tuned.fit_on_batch(part.X, part.y, part.w))


@pytest.mark.parametrize(
    ("mode", "weights"), [("regression", None), ("classification", "balanced")]
)
def test_statistics_of_one_batch_are_told_and_those_of_all_can_be_taken(
    make_model, graph_dataset, caplog, mode, weights
):
    data = labelled(graph_dataset, (np.arange(len(graph_dataset)) > 20)[:, None])
    batch = data.X[:8], data.y[:8], data.w[:8]
    model = make_model(mode=mode, class_weights=weights)
    model.fit_on_batch(*batch, checkpoint=False)
    model.fit_on_batch(*batch, checkpoint=False)
    assert caplog.text.count("are those of this first batch") == 1
    caplog.clear()
    model = make_model(mode=mode, class_weights=weights)
    model.fit(data, nb_epoch=0)
    model.fit_on_batch(*batch, checkpoint=False)
    assert "batch" not in caplog.text
    if mode == "regression":
        assert float(model.model.label_mean) == pytest.approx(data.y.mean(), rel=1e-6)


@pytest.mark.parametrize("encoder", ["gin", "gcn", "gat", "attentivefp"])
def test_a_batch_of_one_atom_trains(make_model, encoder):
    records = MMSAFeaturizer("graph").featurize(["C", "CCO"])
    model = make_model(mode="regression", graph=encoder)
    model.model.train()
    batch = model._prepare_batch(([records[:1]], [np.zeros((1, 1))], [np.ones((1, 1))]))
    model.model(batch[0])[1].sum().backward()
    model.fit(dc.data.NumpyDataset(records, np.zeros((2, 1))), nb_epoch=1)


def test_nothing_is_hidden_at_a_rate_of_zero(make_model, graph_dataset):
    model = make_model(mode="pretraining", mask_rate=0.0)
    model.fit(graph_dataset, nb_epoch=1)
    assert model.history[-1]["mask"] == 0


def test_chosen_variables_keep_the_rate_of_their_part(graph_dataset, make_model):
    model = make_model(mode="regression", learning_rate=1e-3, encoder_learning_rate=1e-5)
    chosen = [*model.model.encoders.parameters(), *model.model.head.parameters()]
    model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0, variables=chosen)
    groups = model.optimizer_for(chosen)[0].param_groups
    assert [g["lr"] for g in groups] == [1e-5, 1e-3]
    assert [len(g["params"]) for g in groups] == [len(chosen) - 4, 4]


def test_pretraining_in_batches_of_one_says_what_it_lacks(graph_dataset, make_model, caplog):
    model = make_model(mode="pretraining", batch_size=1)
    model.fit(graph_dataset.select(range(4)), nb_epoch=1, checkpoint_interval=0)
    assert "no negatives for the contrastive loss" in caplog.text
    assert model.history[0]["mask"] > 0 == model.history[0]["con"]


def test_a_batch_without_any_view_is_passed_over(graph_dataset, make_model):
    X = np.empty(12, dtype=object)
    X[:] = [MoleculeViews.unreadable("?", "no", ("graph",))] * 4 + list(graph_dataset.X[:8])
    model = make_model(mode="pretraining", batch_size=4)
    model.fit(dc.data.NumpyDataset(X), nb_epoch=1, deterministic=True, checkpoint_interval=0)
    assert len(model.history) == 1
    assert model.history[0]["code_std"] > 0


def test_a_regression_says_that_it_has_no_classes(graph_dataset, make_model, caplog):
    model = make_model(mode="regression", class_weights="balanced")
    model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0)
    assert "class_weights are ignored" in caplog.text


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_memory_learns_in_fine_tuning_if_it_is_asked_to(
    graph_dataset, make_model, tmp_path, update
):
    def model(learns, folder="a"):
        return make_model(
            mode="regression", memory_warmup=16, memory_update=update, update_memory=learns,
            model_dir=str(tmp_path / folder),
        )  # fmt: skip

    resting, learning = model(False), model(True)
    resting.fit(graph_dataset, nb_epoch=2, checkpoint_interval=0)
    assert not resting.model.memory.is_active
    learning.fit(graph_dataset, nb_epoch=1)
    assert learning.model.memory.is_active
    known = {smiles for kept in learning.model.memory.exemplars for smiles, _ in kept}
    assert known <= {record.smiles for record in graph_dataset.X}
    before = learning.model.memory.anchors.detach().clone()
    learning.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0)
    assert not torch.equal(before, learning.model.memory.anchors)
    again = model(True)
    again.restore()
    assert torch.equal(again.model.memory.anchors, before)


def test_what_is_logged_is_the_mean_since_the_last_time(make_model, graph_dataset):
    logged, told = {}, {}
    for frequency in (1, 2):
        model = make_model(mode="regression", log_frequency=frequency)
        told[frequency] = model.fit(graph_dataset, 1, all_losses=logged.setdefault(frequency, []))
    a, b, c, d, e = logged[1]
    assert logged[2] == pytest.approx([(a + b) / 2, (c + d) / 2, e])
    assert told == {1: e, 2: e}


def test_where_none_is_to_be_kept_no_checkpoint_is_written(make_model, graph_dataset, tmp_path):
    model = make_model(mode="regression", model_dir=str(tmp_path / "run"))
    model.fit(graph_dataset, 1, max_checkpoints_to_keep=0, checkpoint_interval=1)
    assert list(tmp_path.rglob("*.pt")) == []
    assert list(tmp_path.rglob("*lock*")) == []


def test_the_gradient_of_what_is_trained_is_clipped_and_no_other(make_model, graph_dataset):
    model, norms = make_model(mode="regression", clip_norm=1e-3), []
    chosen = list(model.model.head.parameters())

    def note(optimizer, *rest):
        norms.append(float(torch.cat([p.grad.flatten() for p in chosen]).norm()))

    model.optimizer_for(chosen)[0].register_step_pre_hook(note)
    model.fit(graph_dataset, 1, checkpoint_interval=0, variables=chosen)
    assert norms == pytest.approx([1e-3] * 5, rel=1e-3)


def test_every_part_follows_the_schedule_from_its_own_rate(make_model, graph_dataset):
    model = make_model(
        mode="regression", learning_rate=1e-2, encoder_learning_rate=1e-4, lr_schedule="cosine"
    )
    model.fit(graph_dataset, 1, checkpoint_interval=0)
    rates = [group["lr"] for group in model._pytorch_optimizer.param_groups]
    assert rates == pytest.approx([1e-6, 1e-4])
    assert model.history[-1]["learning_rate"] == rates[1]


def test_checkpoints_come_after_so_many_steps(make_model, graph_dataset, tmp_path):
    model, seen = make_model(mode="regression", model_dir=str(tmp_path)), []
    model.fit(
        graph_dataset, 1, max_checkpoints_to_keep=9, checkpoint_interval=2,
        callbacks=lambda model, step: seen.append(len(model.get_checkpoints())),
    )  # fmt: skip
    assert seen == [0, 0, 1, 1, 2]
    assert len(model.get_checkpoints()) == 3


def test_a_schedule_of_ones_own_goes_before_the_cosine(make_model, graph_dataset):
    halving = dc.models.optimizers.ExponentialDecay(1e-2, 0.5, 1)
    model = make_model(mode="regression", learning_rate=halving, lr_schedule="cosine")
    model.fit(graph_dataset, 1, checkpoint_interval=0)
    assert model.history[-1]["learning_rate"] == pytest.approx(1e-2 / 2**5)


def test_the_rest_of_an_epoch_may_have_nothing_to_read(make_model, graph_dataset, tmp_path):
    X = np.empty(16, dtype=object)
    X[:] = [*graph_dataset.X[:8], *[MoleculeViews.unreadable("?", "no", ("graph",))] * 8]
    arguments = {"nb_epoch": 1, "deterministic": True, "checkpoint_interval": 1}
    for restore, callbacks in ((False, [stop_at(2)]), (True, [])):
        model = make_model(mode="pretraining", model_dir=str(tmp_path))
        try:
            model.fit(dc.data.NumpyDataset(X), restore=restore, callbacks=callbacks, **arguments)
        except Interrupt:
            assert model.get_global_step() == 2
    assert len(model.history) == 1


def test_a_logger_hears_of_every_step_by_its_number(make_model, graph_dataset):
    model, heard = make_model(mode="regression", log_frequency=2), []

    def log_data(values, step):
        heard.append((step, set(values)))

    model.wandb_logger = SimpleNamespace(log_data=log_data)
    model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0)
    assert heard == [(step, {"train/loss"}) for step in (2, 4, 5)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"w_con": 0, "w_rec": 0, "w_mask": 0, "w_mem": 0},
        {"w_rec": 0, "w_mem": 0, "modalities": ("geometry",)},
    ],
    ids=str,
)
def test_a_pretraining_without_any_term_says_so_once(make_model, dataset, caplog, arguments):
    make_model(mode="pretraining", **arguments).fit(dataset, nb_epoch=1, checkpoint_interval=0)
    assert caplog.text.count("the gradient is 0, so nothing is learnt") == 1
    caplog.clear()
    X = np.array([MoleculeViews.unreadable("?", "no", ("graph",)), *dataset.X[:8]], dtype=object)
    model = make_model(mode="pretraining", modalities=("graph",), batch_size=4)
    model.fit(dc.data.NumpyDataset(X), nb_epoch=1, checkpoint_interval=0)
    assert "the gradient is 0" not in caplog.text


def test_anchors_for_which_the_warmup_is_too_short_are_told(make_model, graph_dataset, caplog):
    arguments = {"nb_epoch": 1, "checkpoint_interval": 0}
    make_model(mode="pretraining", memory_warmup=24).fit(graph_dataset, **arguments)
    assert "n_anchors=8, but the memory starts with at most 3 anchors" in caplog.text
    assert "raise memory_warmup to 64" in caplog.text
    caplog.clear()
    make_model(mode="pretraining", memory_warmup=64).fit(graph_dataset, **arguments)
    make_model(mode="regression", memory_warmup=24).fit(graph_dataset, **arguments)
    assert "anchors" not in caplog.text


def test_the_loss_that_is_shown_in_an_epoch_is_of_its_steps_alone(
    make_model, graph_dataset, monkeypatch
):
    shown, losses = [], []
    monkeypatch.setattr(
        training, "show_means", lambda bar, epoch, means: shown.append((epoch, means["loss"]))
    )
    model = make_model(mode="regression", batch_size=8, log_frequency=1)
    model.fit(graph_dataset, nb_epoch=2, all_losses=losses, checkpoint_interval=0)
    steps = len(losses) // 2
    so_far = [np.mean(losses[e * steps : e * steps + n + 1]) for e in (0, 1) for n in range(steps)]
    for at_the_end in (2 * steps + 1, steps):  # once more, with the row of the history
        assert shown.pop(at_the_end)[0] == 1 + at_the_end // (2 * steps)
    assert [epoch for epoch, _ in shown] == [1] * steps + [2] * steps
    np.testing.assert_allclose([loss for _, loss in shown], so_far, rtol=1e-6)
