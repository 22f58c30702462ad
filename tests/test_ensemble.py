"""Spread over models and dropout masks."""

import copy
import pickle

import numpy as np
import pytest
import torch

from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.ensemble import (
    Spread,
    dropout_spread,
    ensemble_spread,
    load_ensemble,
    over_batches,
)
from deepchem_mmsa.exports import export
from deepchem_mmsa.mc_dropout import _shared_mask, sample_dropout
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.predictor import MMSAPredictor
from tests.fixtures import SMILES


def predictor(seed=0, **arguments):
    small = {
        "mode": "regression", "modalities": ("graph",), "graph_width": 16, "graph_layers": 2,
        "embedding_dim": 16, "n_anchors": 8, "n_neighbors": 4, "n_tasks": 2,
    }  # fmt: skip
    torch.manual_seed(seed)
    return MMSAPredictor(MMSANetwork(MMSAConfig(**{**small, **arguments})), {"tasks": ["a", "b"]})


GIVEN = [*SMILES[:9], "C1CC", *SMILES[9:12]]


def test_equal_models_agree_and_different_ones_spread():
    one = predictor()
    same = ensemble_spread([one, one, one], GIVEN)
    known = np.arange(len(GIVEN)) != 9
    assert (same.std[known] == 0).all()
    np.testing.assert_array_equal(same.values, one.predict(GIVEN).values)
    members = [predictor(seed) for seed in range(3)]
    spread = ensemble_spread(members, GIVEN)
    assert (spread.std[known] > 0).all()
    np.testing.assert_allclose(
        spread.values, np.mean([m.predict(GIVEN).values for m in members], axis=0), atol=1e-6
    )
    assert np.isnan(spread.values[9]).all()
    assert [bool(r) for r in spread.reasons] == (~known).tolist()
    with pytest.raises(ValueError, match="at least one model"):
        ensemble_spread([], GIVEN)


def test_a_folder_of_models_is_read_as_they_were_written(tmp_path):
    written = [predictor(seed) for seed in range(11)]  # model10 comes after model9
    for number, model in enumerate(written):
        folder = tmp_path / f"model{number}"
        export(folder, model.network, model.config, [], model.metadata)
    read = load_ensemble(tmp_path)
    assert len(read) == len(written)
    for one, other in zip(read, written):
        np.testing.assert_array_equal(one.predict(GIVEN).values, other.predict(GIVEN).values)
    (single,) = load_ensemble(tmp_path / "model3")
    np.testing.assert_array_equal(single.predict(GIVEN).values, written[3].predict(GIVEN).values)
    export(tmp_path / "model4", written[0].network, written[0].config, [], {"tasks": ["b", "a"]})
    with pytest.raises(ValueError, match="model 5 has the tasks b, a, model 1 a, b"):
        load_ensemble(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_ensemble(tmp_path / "nothing")


def test_an_answer_that_is_not_finite_has_its_reason():
    sound, spoilt = predictor(0, head_dropout=0.5), predictor(1, head_dropout=0.5)
    with torch.no_grad():
        next(spoilt.network.head.parameters()).fill_(float("nan"))
    wanted = spoilt.predict(["CCO", "C1CC"]).reasons
    assert "not finite" in wanted[0]
    assert "unclosed ring" in wanted[1]
    for members in ([sound, spoilt], [spoilt, sound]):
        assert ensemble_spread(members, ["CCO", "C1CC"]).reasons == wanted
    assert dropout_spread(spoilt, ["CCO", "C1CC"], masks=3).reasons == wanted


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"mode": "classification"}, "model 3 has the mode classification of 2 classes, model 1"),
        ({"n_tasks": 3}, "model 3 has the tasks task 0, task 1, task 2, model 1 a, b"),
        ({"modalities": ("fingerprint",)}, "model 3 has the views fingerprint, model 1 graph"),
    ],
)
def test_models_of_another_question_are_not_averaged(changes, said):
    with pytest.raises(ValueError, match=said):
        ensemble_spread([predictor(), predictor(1), predictor(2, **changes)], GIVEN)


@pytest.mark.parametrize("mode", ["regression", "classification"])
def test_dropout_spread_repeats_and_leaves_the_model_alone(mode):
    one = predictor(mode=mode)
    before = one.predict(GIVEN).values
    first, again = (dropout_spread(one, GIVEN, masks=8) for _ in range(2))
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.std, again.std)
    assert first.std.shape == before.shape
    assert not np.array_equal(first.std, dropout_spread(one, GIVEN, masks=8, seed=1).std)
    np.testing.assert_array_equal(one.predict(GIVEN).values, before)
    many = dropout_spread(one, GIVEN, masks=200)
    close = np.abs(many.values - before) <= 8 * many.std / np.sqrt(200) + 0.5 * many.std
    assert close[np.arange(len(GIVEN)) != 9].all()


def test_what_cannot_be_sampled_is_refused():
    still = predictor(head_dropout=0, graph_dropout=0, hypergraph_dropout=0)
    with pytest.raises(ValueError, match="no dropout to sample; train several models"):
        dropout_spread(still, GIVEN)
    with pytest.raises(ValueError, match="no molecule was given"):
        over_batches(still, [], still.network.embed)


def test_over_batches_is_the_same_in_any_batch_size():
    one = predictor()
    values, reasons = over_batches(one, GIVEN, one.network.embed, batch_size=5)
    np.testing.assert_allclose(values, one.embed(GIVEN).values, atol=1e-5)
    assert reasons == one.embed(GIVEN).reasons


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copied_predictor_is_the_same(copied):
    one = predictor()
    other = copied(one)
    assert other.network is not one.network
    assert (other.tasks, other.config) == (["a", "b"], one.config)
    np.testing.assert_array_equal(other.predict(GIVEN).values, one.predict(GIVEN).values)


@pytest.mark.parametrize(
    "changes",
    [
        {"graph_dropout": 0.3, "fusion_dropout": 0.2, "head_dropout": 0.5},
        {"modalities": ("fingerprint",), "fingerprint_dropout": 0.4, "mode": "classification"},
        {"graph": "gcn", "graph_dropout": 0.3},
    ],
)
def test_a_spread_does_not_depend_on_company(changes):
    one = predictor(**changes)
    whole = dropout_spread(one, GIVEN, masks=6)
    assert (whole.std[:9] > 0).all()
    for again in (
        dropout_spread(one, GIVEN, masks=6, batch_size=3),
        Spread(*(part[::-1] for part in dropout_spread(one, GIVEN[::-1], masks=6))),
    ):
        np.testing.assert_allclose(again.values, whole.values, atol=1e-5)
        np.testing.assert_allclose(again.std, whole.std, atol=1e-5)
    same = dropout_spread(one, [GIVEN[0]] * 3, masks=6)
    np.testing.assert_allclose(same.std, np.repeat(whole.std[:1], 3, axis=0), atol=1e-5)


def test_a_shared_mask_drops_as_often_as_dropout_does():
    generator = torch.Generator().manual_seed(0)
    dropout, x = torch.nn.Dropout(0.25), torch.ones(3, 4000)
    found = _shared_mask(generator, dropout, (x,), x)
    assert torch.equal(found[0], found[2])
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert float((found == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_a_column_of_one_is_dropped_row_by_row():
    """Such as the attention to a bond: one mask would drop all bonds of all molecules at once."""
    dropout = torch.nn.Dropout(0.5)
    dropped = dropout(torch.ones(1000, 1))
    assert _shared_mask(torch.Generator(), dropout, (torch.ones(1000, 1),), dropped) is dropped


def test_dropout_that_works_in_place_is_drawn_once():
    """As a module of one's own may have it: the mask is drawn of what the layer was given."""
    spreads = []
    for inplace in (False, True):
        one = predictor(head_dropout=0.5)
        layers = [part for part in one.network.modules() if isinstance(part, torch.nn.Dropout)]
        for part in layers:
            part.inplace = inplace
        spreads.append(dropout_spread(one, GIVEN, masks=10))
        assert {part.inplace for part in layers} == {inplace}  # as it was before
    np.testing.assert_array_equal(spreads[0].std, spreads[1].std)


def test_a_large_seed_draws_masks():
    config = predictor().config.replace(seed=2**64 - 1)
    spread = dropout_spread(MMSAPredictor(MMSANetwork(config)), GIVEN[:2], 5, config.seed)
    assert (spread.std > 0).all()


def test_others_predict_while_masks_are_drawn(monkeypatch):
    one = predictor()
    before = one.predict(GIVEN).values
    seen = []

    def watched(network, batch, masks, seed):
        network.train()  # the middle of the drawing, when another thread predicts
        seen.append(one.predict(GIVEN).values)
        return sample_dropout(network.eval(), batch, masks, seed)

    monkeypatch.setattr("deepchem_mmsa.ensemble.sample_dropout", watched)
    dropout_spread(one, GIVEN, masks=2)
    np.testing.assert_array_equal(seen, [before])


def test_counts_that_cannot_be_are_refused():
    one = predictor()
    for masks in (0, 1):
        with pytest.raises(ValueError, match=f"masks={masks}: a deviation needs at least 2"):
            dropout_spread(one, GIVEN, masks=masks)
    for call in (one.predict, one.embed, lambda x, batch_size: dropout_spread(one, x, 5, 0, 0)):
        with pytest.raises(ValueError, match="batch_size=0: give at least 1"):
            call(GIVEN, batch_size=0)
    nothing = dropout_spread(one, [])
    assert (nothing.values.shape, nothing.std.shape, nothing.reasons) == ((0, 2), (0, 2), [])


def test_one_text_is_not_a_list_of_letters():
    one = predictor()
    for call in (
        one.records,
        lambda x: dropout_spread(one, x),
        lambda x: ensemble_spread([one], x),
    ):
        with pytest.raises(TypeError, match=r"not one text: \['CCO'\]"):
            call("CCO")


@pytest.mark.parametrize("encoder", ["gin", "attentivefp"])
def test_masks_do_not_depend_on_what_others_lack(encoder):
    """Neither a molecule without bonds nor one without a view moves the masks of the rest."""
    one = predictor(
        graph=encoder, graph_dropout=0.3, modalities=("graph", "fingerprint"),
        fingerprint_width=16, fingerprint_dropout=0.3,
    )  # fmt: skip
    records = one.records(["C", "CCO", "N"])
    graph = {name: getattr(records[1], name) for name in ("atoms", "bond_atoms", "bonds")}
    records.append(MoleculeViews("CCN", **graph, reasons={"fingerprint": "none"}))
    whole = dropout_spread(one, records, masks=5)
    for row in (0, 2, 3):
        alone = dropout_spread(one, records[row : row + 1], masks=5)
        np.testing.assert_allclose(alone.values[0], whole.values[row], atol=1e-5)
        np.testing.assert_allclose(alone.std[0], whole.std[row], atol=1e-5)


def test_records_and_texts_may_stand_in_any_order():
    one = predictor()
    ready = one.records(["CCN", "CCC"])
    mixed = one.records(["CCO", ready[0], "C1CC", ready[1], "CO"])
    assert [record.smiles for record in mixed] == ["CCO", "CCN", "C1CC", "CCC", "CO"]
    assert mixed[1] is ready[0]


@pytest.mark.parametrize("hydrogens", [True, False])
def test_hydrogens_are_read_as_the_model_was_trained(hydrogens):
    small = {"modalities": ("geometry",), "geometry_width": 16, "geometry_layers": 1}
    one = predictor(hydrogens=hydrogens, **small)
    seen = []
    encoder = one.network.encoders["geometry"]
    encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    one.predict(["CCO"])
    copied = []
    over_batches(
        one, ["CCO"], lambda b: copied.append(b.inputs["geometry"]) or one.network.embed(b)
    )
    for conformers in (*seen, *copied):
        assert bool((conformers.atomic_numbers == 1).any()) == hydrogens


def test_a_copy_keeps_its_exemplars():
    one = predictor()
    one.network.memory.update(torch.randn(64, 16), [f"C{i}" for i in range(64)])
    one.network.memory.start()
    assert any(one.network.memory.exemplars)
    again = pickle.loads(pickle.dumps(one))
    assert again.network.memory.exemplars == one.network.memory.exemplars


def test_the_spread_of_two_models_is_half_their_difference():
    members = [predictor(seed) for seed in range(2)]
    first, second = (m.predict(SMILES[:5]).values.astype(float) for m in members)
    np.testing.assert_allclose(
        ensemble_spread(members, SMILES[:5]).std, np.abs(first - second) / 2, atol=1e-6
    )


def test_models_that_read_other_views_of_the_same_name_are_not_averaged():
    small = {"modalities": ("image",), "image_width": 8}
    with pytest.raises(ValueError, match="model 2 has the settings"):
        ensemble_spread(
            [predictor(image_size=32, **small), predictor(image_size=64, **small)], ["C"]
        )


def test_models_of_other_classes_are_not_averaged():
    members = [predictor(mode="classification", n_tasks=1) for _ in range(2)]
    for member, classes in zip(members, (["inactive", "active"], ["active", "inactive"])):
        member.classes = classes
    with pytest.raises(ValueError, match="model 2 has the classes active, inactive, model 1"):
        ensemble_spread(members, ["CCO"])


def test_an_ensemble_works_in_the_batches_and_processes_asked_for(monkeypatch):
    one, jobs, sizes = predictor(), [], []
    records, predict = one.records, one.predict

    def watched_records(given, n_jobs=1):
        jobs.append(n_jobs)
        return records(given, n_jobs)

    def watched_predict(given, batch_size=256):
        sizes.append(batch_size)
        return predict(given, batch_size)

    monkeypatch.setattr(one, "records", watched_records)
    monkeypatch.setattr(one, "predict", watched_predict)
    ensemble_spread([one, one], ["CCO", "CCN", "CCC"], batch_size=2, n_jobs=2)
    assert (jobs[0], sizes) == (2, [2, 2])


def test_masks_need_no_float64_on_the_device(without_doubles):
    assert (dropout_spread(predictor(), GIVEN[:2], masks=2).std > 0).all()
