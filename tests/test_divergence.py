"""Losses and gradients that are not finite: told before a weight is spoilt, or skipped."""

import logging

import deepchem as dc
import numpy as np
import pytest
import torch


def with_bad_label(dataset, row=5):
    y = np.asarray(dataset.y, dtype=float).copy()
    y[row] = 1e30
    return dc.data.NumpyDataset(dataset.X, y, ids=dataset.ids)


@pytest.mark.parametrize("clip_norm", [None, 5.0])
def test_a_gradient_that_is_not_finite_spoils_no_weight(
    make_model, graph_dataset, tmp_path, clip_norm
):
    def infinite_gradient(outputs, labels, weights):
        value = outputs[0].sum() * 0
        return value + torch.sqrt(outputs[0][:1] * 0).sum()  # 0, with a slope of infinity

    model = make_model(mode="regression", model_dir=str(tmp_path), clip_norm=clip_norm)
    before = {k: v.clone() for k, v in model.model.named_parameters()}
    with pytest.raises(FloatingPointError, match="the gradient became nan at step 0"):
        model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=1, loss=infinite_gradient)
    assert all(torch.equal(v, before[k]) for k, v in model.model.named_parameters())
    assert model.get_checkpoints() == []


def test_bad_batches_are_skipped_and_counted(make_model, graph_dataset, tmp_path, caplog):
    data = with_bad_label(graph_dataset)
    model = make_model(mode="regression", scale_labels=False, model_dir=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        model.fit(data, nb_epoch=3, skip_bad_batches=True)
    assert [row["skipped_batches"] for row in model.history] == [1, 1, 1]
    assert all(np.isfinite(row["loss"]) for row in model.history)
    assert caplog.text.count("skipped a batch: the loss became inf") == 3
    assert graph_dataset.X[5].smiles in caplog.text
    assert all(v.isfinite().all() for v in model.model.parameters())


@pytest.mark.parametrize(
    ("spoilt", "update"), [("codes", "ema"), ("gradients", "ema"), ("gradients", "gradient")]
)
def test_a_skipped_batch_leaves_no_trace(make_model, dataset, spoilt, update):
    """Neither in running statistics, nor in the memory, whose anchors may be parameters."""
    model = make_model(
        mode="pretraining", modalities=("image", "geometry"), memory_warmup=16, batch_size=40,
        memory_update=update,
    )  # fmt: skip
    model.fit(dataset, nb_epoch=2)
    assert model.model.memory.is_active
    model.model.memory.anchors.data[0] *= -1  # nearest to no molecule: any batch re-seeds it
    model.model.memory.idle.fill_(10**6)
    state = {k: v for k, v in model.model.state_dict().items() if torch.is_tensor(v)}
    state = {k: v.clone() for k, v in state.items()}
    memory = model.model.memory.get_extra_state()

    def poison(module, inputs, output):
        return torch.full_like(output, torch.nan)

    encoder = model.model.encoders["geometry"]
    if spoilt == "codes":  # which the memory does not take
        hook = encoder.register_forward_hook(poison)
    else:
        hook = next(encoder.parameters()).register_hook(lambda gradient: gradient * torch.nan)
    try:
        with pytest.raises(FloatingPointError, match="every batch of epoch"):
            model.fit(dataset, nb_epoch=1, skip_bad_batches=True)
    finally:
        hook.remove()
    for name, value in model.model.state_dict().items():
        if torch.is_tensor(value):
            assert torch.equal(value, state[name]), name
    after = model.model.memory.get_extra_state()
    assert torch.equal(memory.pop("recent_codes"), after.pop("recent_codes"))
    assert memory == after


def test_a_loss_that_is_not_finite_in_pretraining_names_the_molecules(make_model, graph_dataset):
    model = make_model(mode="pretraining", memory_warmup=16)
    with torch.no_grad():
        next(model.model.fusion.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"became nan at step 0.*molecules of this batch"):
        model.fit(graph_dataset, nb_epoch=1)
