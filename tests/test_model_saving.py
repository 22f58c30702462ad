"""What goes from one model to another: the head with its labels' scale, or neither."""

import copy
import gc
import multiprocessing
import os
import pickle
from pathlib import Path

import deepchem as dc
import numpy as np
import pytest
import torch

from deepchem_mmsa import MMSAModel
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.exports import load_pretrained
from tests.fixtures import labelled


@pytest.fixture
def far(graph_dataset):
    """Labels far from standard."""
    return labelled(graph_dataset, 5000 + 300 * graph_dataset.y)


@pytest.mark.parametrize("atom_sum", [False, True])
def test_the_head_goes_with_the_scale_of_its_labels(make_model, graph_dataset, far, atom_sum):
    source = make_model(mode="regression", atom_sum=atom_sum)
    source.fit(far, nb_epoch=1)
    copy = make_model(mode="regression", seed=5, atom_sum=atom_sum)
    copy.load_from_pretrained(source, include_top=True)
    np.testing.assert_allclose(copy.predict(far), source.predict(far), rtol=1e-5)
    copy.fit(graph_dataset, nb_epoch=1)
    assert torch.equal(copy.model.label_mean, source.model.label_mean)


@pytest.mark.parametrize(("theirs", "words"), [(True, "sums over atoms"), (False, "head.atom")])
def test_half_a_head_is_refused(make_model, graph_dataset, theirs, words):
    source = make_model(mode="regression", atom_sum=theirs)
    mine = make_model(mode="regression", atom_sum=not theirs)
    before = copy.deepcopy(list(mine.model.parameters()))
    for asked in ({"include_top": True}, {"components": ["graph", "head"]}):
        with pytest.raises(CheckpointError, match=words):
            mine.load_from_pretrained(source, **asked)
    assert all(torch.equal(a, b) for a, b in zip(before, mine.model.parameters()))
    mine.load_from_pretrained(source)  # all but the head fits


def test_a_head_that_is_lost_is_told(make_model, graph_dataset, tmp_path, caplog):
    source = make_model(mode="regression")
    source.fit(graph_dataset, nb_epoch=1)
    source.save_pretrained(tmp_path / "tuned")
    MMSAModel.from_pretrained(tmp_path / "tuned", mode="regression", atom_sum=True)
    MMSAModel.from_pretrained(tmp_path / "tuned")
    assert not caplog.records
    MMSAModel.from_pretrained(tmp_path / "tuned", atom_sum=True)
    assert "atom_sum: True, not False) gets a new, untrained head" in caplog.text


def test_in_pretraining_nothing_hangs_on_the_head(make_model, tmp_path):
    source = make_model(mode="pretraining")
    source.model.atom_head.weight.data.add_(1)  # other than a new one, which has the same seed
    source.save_pretrained(tmp_path)
    again = MMSAModel.from_pretrained(tmp_path, atom_sum=True, head_width=3, n_tasks=7)
    for name, value in source.model.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_number_of_tasks_alone_makes_no_head(make_model, graph_dataset, tmp_path, caplog):
    make_model(mode="pretraining").save_pretrained(tmp_path)
    MMSAModel.from_pretrained(tmp_path, mode="regression", n_tasks=2)
    assert not caplog.records
    MMSAModel.from_pretrained(tmp_path, n_tasks=2)
    assert "n_tasks=2 has no effect" in caplog.text
    assert "without mode=" in caplog.text


def test_a_model_of_another_kind_is_no_source(make_model):
    with pytest.raises(TypeError, match="source is a MultitaskRegressor; give an MMSAModel"):
        make_model().load_from_pretrained(dc.models.MultitaskRegressor(1, 8))


def test_fine_tuning_from_a_fine_tuned_model_begins_with_a_fresh_head(
    make_model, graph_dataset, far, tmp_path
):
    source = make_model(mode="regression", tasks=["logP"], atom_sum=True)
    source.fit(graph_dataset, nb_epoch=1)
    source.save_pretrained(tmp_path)
    same = MMSAModel.from_pretrained(tmp_path)
    assert same.tasks == ["logP"]
    np.testing.assert_allclose(same.predict(far), source.predict(far), rtol=1e-5)
    assert MMSAModel.from_pretrained(tmp_path, tasks=["renamed"]).tasks == ["renamed"]

    tuned = MMSAModel.from_pretrained(tmp_path, mode="regression", n_tasks=1, tasks=["Tm"])
    fresh, theirs = tuned.model.head.state_dict(), source.model.head.state_dict()
    assert any(not torch.equal(fresh[name], theirs[name]) for name in fresh)
    plain = MMSAModel.from_pretrained(tmp_path, mode="regression", atom_sum=False)
    assert plain.model.head.atom_weight is None
    assert torch.equal(
        tuned.model.fusion.state_dict()["heads.graph.0.weight"],
        source.model.fusion.state_dict()["heads.graph.0.weight"],
    )
    tuned.fit(far, nb_epoch=1)
    assert tuned.tasks == ["Tm"]
    assert float(tuned.model.label_mean) == pytest.approx(far.y.mean(), rel=1e-4)


def test_weights_of_classes_that_are_given_count_everywhere(make_model, graph_dataset, tmp_path):
    classes = labelled(graph_dataset, graph_dataset.y > np.median(graph_dataset.y))
    plain = make_model(mode="classification")
    plain.fit(classes, nb_epoch=1)
    plain.save_pretrained(tmp_path)
    exported = MMSAModel.from_pretrained(tmp_path, class_weights=(1.0, 20.0))
    exported.fit(classes, nb_epoch=1)
    generated = make_model(mode="classification", class_weights=(1.0, 20.0))
    generated.fit_generator(generated.default_generator(classes))
    for model in (exported, generated):
        assert model.model.class_weight.tolist() == [[1.0, 20.0]]


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"mode": "regression"}, "standardise them"),
        ({"mode": "classification", "class_weights": "balanced"}, "balance the classes"),
        ({"mode": "pretraining", "schedule": "staged"}, "cannot find its middle"),
        ({"mode": "regression", "scale_labels": False}, None),
    ],
)
def test_a_generator_says_what_it_cannot_know(make_model, graph_dataset, caplog, arguments, told):
    data = labelled(graph_dataset, graph_dataset.y > np.median(graph_dataset.y))
    model = make_model(**arguments)
    model.fit_generator(model.default_generator(data))
    warnings = [r.message for r in caplog.records if "a generator does not reveal" in r.message]
    assert len(warnings) == (0 if told is None else 2 if model.config.mode == "pretraining" else 1)
    assert told is None or told in warnings[0]


def test_half_precision_leaves_anchors_that_are_parameters(make_model, graph_dataset, tmp_path):
    model = make_model(mode="pretraining", memory_update="gradient", memory_warmup=16)
    model.fit(graph_dataset, nb_epoch=1)
    model.save_pretrained(tmp_path, precision="bf16")
    again = MMSAModel.from_pretrained(tmp_path)
    assert torch.equal(again.model.memory.anchors, model.model.memory.anchors)
    before = again.model.memory.anchors.clone()
    tuned = MMSAModel.from_pretrained(tmp_path, mode="regression", n_tasks=1)
    tuned.fit(graph_dataset, nb_epoch=2)
    assert torch.equal(tuned.model.memory.anchors, before)


@pytest.mark.parametrize("loss", [dc.models.losses.L2Loss(), dc.models.losses.HuberLoss()])
def test_a_loss_of_ones_own_sees_label_units(make_model, far, loss):
    """What it is minimised for is what is predicted."""
    seen = []

    def spied(outputs, labels, weights):
        seen.append((outputs[0].detach().mean().item(), labels[0].mean().item()))
        return loss._create_pytorch_loss()(outputs[0], labels[0]).mean()

    for model, arguments in (
        (make_model(mode="regression", loss=loss, learning_rate=0.01), {}),
        (make_model(mode="regression", learning_rate=0.01), {"loss": spied}),
    ):
        model.fit(far, nb_epoch=30, **arguments)
        error = np.sqrt(np.mean((model.predict(far) - far.y) ** 2))
        assert error < far.y.std()
    outputs, labels = np.transpose(seen)
    assert abs(outputs - labels).max() < 5 * far.y.std()


def test_a_copy_has_a_folder_of_its_own(make_model, graph_dataset):
    model = make_model(mode="regression", model_dir=None)
    model.fit(graph_dataset, nb_epoch=1)
    expected = model.predict(graph_dataset)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copied.predict(graph_dataset), expected)
        assert copied.model_dir != model.model_dir
    folder = Path(model.model_dir)
    del copied
    gc.collect()
    assert folder.is_dir()
    model.save_checkpoint()
    with pytest.raises(NotImplementedError, match=r"deepchem_mmsa\.explain\.explain\(model"):
        model.compute_saliency(graph_dataset.X[0])


def test_a_copy_logs_to_tensorboard_itself(make_model, graph_dataset):
    model = make_model(mode="regression", model_dir=None, tensorboard=True, log_frequency=1)
    model.fit(graph_dataset, nb_epoch=1)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copied.predict(graph_dataset), model.predict(graph_dataset))
        copied.fit(graph_dataset, nb_epoch=2)
        copied._summary_writer.flush()
        assert copied._summary_writer.log_dir == copied.model_dir != model.model_dir
        assert list(Path(copied.model_dir).glob("events*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_leaves_the_temporary_folder_alone(make_model):
    model = make_model(mode="regression", model_dir=None)
    folder = Path(model.model_dir)
    child = multiprocessing.get_context("fork").Process(target=model.__del__)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert folder.is_dir()
    model.__del__()
    assert not folder.exists()
    model.__del__()  # and says nothing of a folder that is gone


def test_what_cannot_be_meant_is_no_copy_of_everything(make_model, tmp_path):
    source = make_model(mode="pretraining")
    target = make_model(mode="regression", seed=3)
    with pytest.raises(TypeError, match="component"):
        target.load_from_pretrained(source, component=["graph"])
    source.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no checkpoints"):
        target.load_from_pretrained(tmp_path, checkpoint="checkpoint1.pt")


def test_a_view_without_weights_is_named():
    with pytest.raises(ValueError, match=r"mmsa-small reads graph, fingerprint; .* for image"):
        MMSAModel.from_pretrained("mmsa-small", modalities=("image", "graph"))


@pytest.mark.parametrize("way", ["from_pretrained", "load_from_pretrained", "restored"])
def test_that_weights_have_seen_labels_is_not_forgotten(make_model, graph_dataset, tmp_path, way):
    tuned = make_model(mode="regression")
    tuned.save_pretrained(tmp_path / "new")
    assert not load_pretrained(tmp_path / "new").from_labels
    tuned.fit(graph_dataset, nb_epoch=1)
    tuned.save_pretrained(tmp_path / "tuned")
    if way == "from_pretrained":
        model = MMSAModel.from_pretrained(tmp_path / "tuned", mode="pretraining")
    else:
        model = make_model(mode="pretraining")
        model.load_from_pretrained(tuned if way == "restored" else tmp_path / "tuned")
    model.fit(graph_dataset, nb_epoch=1)
    if way == "restored":
        model.save_checkpoint()
        again = make_model(mode="pretraining")
        again.restore(model_dir=model.model_dir)
        model = again
    model.save_pretrained(tmp_path / "last")
    assert load_pretrained(tmp_path / "last").from_labels


# ---- single parameters ---------------------------------------------------------------------


def paired(source, model):
    return dict(zip(source.model.encoders.parameters(), model.model.encoders.parameters()))


def weights_of(model):
    return [p.detach().clone() for p in model.model.parameters()]


def test_mapped_parameters_are_copies(make_model, graph_dataset):
    """DeepChem's are the same memory on a CPU: training one model changes the other."""
    source, model = make_model(mode="regression"), make_model(mode="regression", seed=1)
    source.fit(graph_dataset, nb_epoch=1)
    before = weights_of(source)
    model.load_from_pretrained(source, assignment_map=paired(source, model))
    for a, b in paired(source, model).items():
        assert torch.equal(a, b)
    model.save_pretrained(model.model_dir)
    assert load_pretrained(model.model_dir).from_labels
    model.fit(graph_dataset, nb_epoch=1)
    assert all(map(torch.equal, weights_of(source), before))


def test_mapped_parameters_are_those_that_the_source_has_now(make_model, graph_dataset):
    """A source without checkpoint, one that has changed since, and values of one's own."""
    source, model = make_model(mode="regression"), make_model(mode="regression", seed=1)
    model.load_from_pretrained(source, assignment_map=paired(source, model))
    assert all(torch.equal(a, b) for a, b in paired(source, model).items())
    source.fit(graph_dataset, nb_epoch=1)
    with torch.no_grad():
        next(source.model.encoders.parameters()).fill_(3)
    model.load_from_pretrained(source, assignment_map=paired(source, model))
    assert (next(source.model.encoders.parameters()) == 3).all()
    assert all(torch.equal(a, b) for a, b in paired(source, model).items())
    model.load_from_pretrained(source, checkpoint=source.get_checkpoints()[0],
                               assignment_map=paired(source, model))  # fmt: skip
    assert not (next(model.model.encoders.parameters()) == 3).any()
    values = {p: np.full(p.shape, 2.0) for p in source.model.encoders.parameters()}
    model.load_from_pretrained(source, paired(source, model), values)
    assert all((p == 2).all() for p in model.model.encoders.parameters())
    everything = {p: p.detach().numpy() for p in source.model.parameters()}
    model.load_from_pretrained(source, value_map=everything, include_top=True)
    assert all(map(torch.equal, weights_of(model), weights_of(source)))


def test_maps_that_do_not_fit_copy_nothing(make_model):
    source, model = make_model(mode="regression"), make_model(mode="regression", seed=1)
    before = weights_of(model)
    pairs = dict(zip(source.model.parameters(), reversed(list(model.model.parameters()))))
    with pytest.raises(CheckpointError, match="parameters of the same shape"):
        model.load_from_pretrained(source, assignment_map=pairs)
    with pytest.raises(ValueError, match="leave out the maps"):
        model.load_from_pretrained(source, paired(source, model), components=["graph"])
    assert all(map(torch.equal, weights_of(model), before))


# ---- a run that goes on with other settings ------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_goes_on_with_the_rates_of_its_model(
    make_model, graph_dataset, tmp_path, caplog, schedule
):
    """What a diverging run is told to do, lowering the rate, must have an effect."""
    given = {"mode": "regression", "model_dir": str(tmp_path), "lr_schedule": schedule}
    make_model(**given, learning_rate=1e-3).fit(graph_dataset, nb_epoch=1)
    model = make_model(**given, learning_rate=1e-5, weight_decay=0.3, head_dropout=0.4)
    seen = []

    def note(model, step):
        group = model._pytorch_optimizer.param_groups[0]
        seen.append((group["lr"], group["weight_decay"]))

    with caplog.at_level("WARNING"):
        model.fit(graph_dataset, nb_epoch=2, restore=True, callbacks=note)
    assert len(seen) == 5
    assert all(0 <= rate <= 1e-5 and decay == 0.3 for rate, decay in seen)
    for word in ("learning_rate: 1e-05, not 0.001", "weight_decay", "head_dropout: 0.4, not"):
        assert word in caplog.text


def test_the_rest_of_an_epoch_has_the_order_of_its_beginning(make_model, graph_dataset, tmp_path):
    class Enough(Exception):
        pass

    def stop(model, step):
        if step == 3:
            model.save_checkpoint()
            raise Enough

    given = {"mode": "regression", "model_dir": str(tmp_path)}
    with pytest.raises(Enough):
        make_model(**given).fit(graph_dataset, nb_epoch=1, callbacks=stop)
    with pytest.raises(ValueError, match="in the order of seed 0, and cannot .* of seed 9"):
        make_model(**given, seed=9).fit(graph_dataset, nb_epoch=1, restore=True)
    with pytest.raises(ValueError, match="in the dataset's order"):
        make_model(**given).fit(graph_dataset, nb_epoch=1, restore=True, deterministic=True)
    make_model(**given).fit(graph_dataset, nb_epoch=1, restore=True)
