"""DeepChem's Lightning wrapper around MMSAModel."""

import deepchem as dc
import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="the extra `lightning` is not installed")

import lightning
from deepchem.models.lightning import DCLightningDatasetModule, DCLightningModule


@pytest.fixture
def trainer(tmp_path):
    return lightning.Trainer(
        max_epochs=12, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of Lightning, about data loaders with few workers
@pytest.mark.parametrize("mode", ["pretraining", "classification", "regression"])
def test_lightning_trains_the_model(make_model, graph_dataset, trainer, mode):
    y = graph_dataset.y
    if mode == "classification":
        y = (y > np.median(y)).astype(float)
    data = dc.data.NumpyDataset(graph_dataset.X, y)
    model = make_model(mode=mode, memory_warmup=16, learning_rate=0.001)
    before = model.validation_loss(data)
    trainer.fit(DCLightningModule(model), DCLightningDatasetModule(data, batch_size=8))
    assert trainer.global_step == 12 * 5
    assert model.validation_loss(data) < before
    if mode == "pretraining":
        assert model.model.memory.is_active
    else:
        assert np.isfinite(model.predict(data)).all()


@pytest.mark.filterwarnings("ignore")
def test_lightning_takes_the_steps_of_the_same_optimizer(make_model, graph_dataset, trainer):
    """One step over all molecules, nothing random: the weights of ``fit``."""
    calm = {
        "mode": "regression", "graph_dropout": 0.0, "head_dropout": 0.0, "scale_labels": False,
        "batch_size": 40, "clip_norm": None, "precision": "fp32",
    }  # fmt: skip
    # Adam would make a step of a gradient that is nothing but rounding.
    calm["optimizer"] = dc.models.optimizers.GradientDescent(learning_rate=0.05)
    wrapped, plain = make_model(**calm), make_model(**calm)
    trainer.fit_loop.max_epochs = 1
    trainer.fit(DCLightningModule(wrapped), DCLightningDatasetModule(graph_dataset, batch_size=40))
    plain.fit(graph_dataset, nb_epoch=1, deterministic=True)
    for (name, a), b in zip(wrapped.model.named_parameters(), plain.model.parameters()):
        torch.testing.assert_close(a, b, msg=name)
