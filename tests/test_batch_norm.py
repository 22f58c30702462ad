"""Batch-norm statistics after pre-training: those of clean views, and nothing else changes."""

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from deepchem_mmsa import EarlyStopping
from deepchem_mmsa.batch_norm import PreciseBatchNorm, precise_batch_norm
from deepchem_mmsa.batching import Collator
from deepchem_mmsa.model_prediction import evaluating
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.pretraining import pretraining_terms, total_loss
from deepchem_mmsa.randomness import seeded


def batches_of(molecules, size=8):
    collate = Collator(("image", "graph"), image_size=32)
    return [collate(molecules[i : i + size]) for i in range(0, 24, size)]


def test_statistics_are_the_plain_average_over_the_batches(make_model, molecules):
    network = make_model(mode="pretraining", modalities=("image", "graph")).model
    batches = batches_of(molecules)
    precise_batch_norm(network, batches)
    encoder = network.encoders["image"]
    with torch.no_grad():
        first = [
            encoder.conv1((b.inputs["image"].float() - encoder.mean) / encoder.std) for b in batches
        ]
    expected = torch.stack([x.mean((0, 2, 3)) for x in first]).mean(0)
    torch.testing.assert_close(encoder.bn1.running_mean, expected, atol=1e-5, rtol=1e-4)
    expected = torch.stack([x.var((0, 2, 3)) for x in first]).mean(0)
    torch.testing.assert_close(encoder.bn1.running_var, expected, atol=1e-5, rtol=1e-4)
    assert encoder.bn1.momentum == 0.1


def test_nothing_else_changes_and_frozen_components_rest(make_model, molecules):
    model = make_model(mode="pretraining", modalities=("image", "graph"))
    model.freeze_components(["graph"])
    before = {k: v.clone() for k, v in model.model.state_dict().items() if torch.is_tensor(v)}
    precise_batch_norm(model.model, batches_of(molecules))
    changed = [k for k, v in before.items() if not torch.equal(v, model.model.state_dict()[k])]
    assert changed
    assert all(k.startswith("encoders.image.") for k in changed)
    assert {k.rsplit(".")[-1] for k in changed} == {
        "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip


def test_a_view_that_no_molecule_has_keeps_its_statistics(make_model, molecules):
    network = make_model(mode="pretraining", modalities=("image", "graph")).model
    precise_batch_norm(network, batches_of(molecules))
    before = {k: v.clone() for k, v in network.encoders["image"].state_dict().items()}
    graphs = [MoleculeViews(r.smiles, atoms=r.atoms, bond_atoms=r.bond_atoms, bonds=r.bonds)
              for r in molecules]  # fmt: skip
    precise_batch_norm(network, batches_of(graphs))
    for name, value in network.encoders["image"].state_dict().items():
        assert torch.equal(value, before[name]), name


def test_pretraining_ends_with_the_statistics_of_clean_pictures(make_model, dataset):
    model = make_model(mode="pretraining", modalities=("image", "graph"), batch_size=40)
    model.fit(dataset, nb_epoch=3)
    after = model.model.encoders["image"].bn1.running_var.clone()
    clean = Collator(("image", "graph"), image_size=32)(list(dataset.X))
    precise_batch_norm(model.model, [clean])
    np.testing.assert_allclose(after, model.model.encoders["image"].bn1.running_var, rtol=1e-4)


def test_validation_in_fine_tuning_has_the_running_statistics(make_model, graph_dataset):
    losses = []
    for callbacks in ([], [PreciseBatchNorm(graph_dataset)]):
        model = make_model(mode="regression")
        stopping = EarlyStopping(graph_dataset)
        model.fit(graph_dataset, nb_epoch=2, callbacks=[stopping, *callbacks])
        losses.append([row["valid_loss"] for row in model.history])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("modalities", [("graph",), ("image", "graph")])
def test_validation_in_pretraining_has_the_statistics_of_the_weights_it_judges(
    make_model, dataset, modalities
):
    """Hardly updated, the running ones are those of no weights: the loss is far off."""
    model = make_model(mode="pretraining", modalities=modalities, batch_size=40)
    norms = [m for m in model.model.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1e-3
    seen = []

    def look(model, step):
        running = [norm.running_mean.clone() for norm in norms]
        seen.append(model.validation_loss(dataset))
        assert all(torch.equal(norm.running_mean, m) for norm, m in zip(norms, running))
        assert [norm.momentum for norm in norms] == [1e-3] * len(norms)
        views = next(iter(model.default_generator(dataset, mode="predict")))
        with evaluating(model.model), seeded(0):  # one batch: the statistics of its own molecules
            for norm in norms:
                norm.train()
            batch = model._prepare_batch(views)[0]
            terms = pretraining_terms(model.model, batch)[1]
        for norm, mean in zip(norms, running):
            norm.running_mean.copy_(mean)
        expected = total_loss(torch.stack(list(terms.values())), model.config)
        assert seen[-1] == pytest.approx(float(expected), rel=0.1)  # other atoms are masked

    model.fit(dataset, nb_epoch=4, callbacks=[look])
    assert len(seen) == 4
