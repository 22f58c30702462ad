"""On a GPU everything is as on the CPU; skipped where there is none.

``MMSA_TEST_DEVICE=cpu`` rehearses the file without one.
"""

import copy
import os

import deepchem as dc
import numpy as np
import pytest
import torch

from deepchem_mmsa import MMSAFeaturizer, MMSAModel, MMSAPredictor
from deepchem_mmsa.batch_norm import precise_batch_norm
from deepchem_mmsa.batching import Collator
from deepchem_mmsa.layers.dgl_backend import dgl_supports, import_dgllife
from deepchem_mmsa.layers.message_passing import MESSAGES, REDUCTIONS, EdgeList, aggregate
from deepchem_mmsa.molecule import MODALITIES
from tests.fixtures import SMILES, labelled

DEVICE = os.environ.get("MMSA_TEST_DEVICE", "cuda")
SIZE = 64  # pixels
QUIET = {"checkpoint_interval": 0}

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU"
)
if torch.cuda.is_available():  # read when cuBLAS is first used, which is later
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def whole_fp32():
    """Products of 24 bits: TF32 keeps 11, in convolutions by default."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, value in zip(places, before):
        place.allow_tf32 = value


@pytest.fixture(scope="module")
def seen():
    """24 molecules with four views, and the share of heteroatoms as label."""
    records = list(MMSAFeaturizer(MODALITIES, image_size=SIZE).featurize(SMILES[:24]))
    X = np.empty(len(records), dtype=object)
    X[:] = records
    hetero = np.array([[(r.atoms[:, 0] != 5).mean()] for r in records])
    return dc.data.NumpyDataset(X, hetero, ids=np.array(SMILES[:24], dtype=object))


@pytest.fixture
def make(make_model):
    """A maker of small models of four views on the device."""

    def made(**arguments):
        return make_model(
            **{"modalities": MODALITIES, "image_size": SIZE, "device": DEVICE, **arguments}
        )

    return made


def close(a, b, tolerance=1e-4):
    a, b = (np.asarray(x.detach().cpu() if torch.is_tensor(x) else x) for x in (a, b))
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def on_device(network):
    return {t.device.type for t in [*network.parameters(), *network.buffers()]} == {DEVICE}


# ---- the network ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"features": "full", "fusion": "attention", "hypergraph_norm": "sym", "hydrogens": True},
        {"graph": "gcn"}, {"graph": "gat"}, {"graph": "attentivefp"}, {"geometry": "schnet"},
        {"atom_sum": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_network_gives_what_it_gives_on_the_cpu(make, seen, arguments):
    of_dgl = {"graph", "geometry"} & set(arguments)
    if of_dgl:
        try:
            import_dgllife()
        except ImportError as error:
            pytest.skip(str(error))
    model = make(mode="classification", n_tasks=2, device="cpu", memory_warmup=64, **arguments)
    network = model.model
    batch = Collator(MODALITIES, SIZE, model.config.hydrogens)(seen.X)
    precise_batch_norm(network, [batch])
    network.memory.update(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        network.readout.gate.fill_(0.5)  # so that what is read from the memory counts
    assert network.memory.is_active
    there, moved = copy.deepcopy(network).to(DEVICE).eval(), batch.to(DEVICE)
    assert on_device(there)
    with torch.inference_mode():
        if of_dgl and not dgl_supports(DEVICE):
            with pytest.raises(RuntimeError, match="no support for device.*'gin', 'comenet'"):
                there(moved)
            return
        network.eval()
        close(there(moved)[0], network(batch)[0])
        close(there.embed(moved), network.embed(batch))
        close(there.codes(moved), network.codes(batch))
        close(there.features(moved), network.features(batch))


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("width", [5, 1])
def test_messages_and_their_gradients(message, reduce, width):
    draw = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 9, (2, 40), generator=draw)  # node 9 has no edge
    nodes, values = torch.randn(10, 5, generator=draw), torch.randn(40, width, generator=draw)
    weight = torch.randn(10, 5, generator=draw)
    found = []
    for device in ("cpu", DEVICE):
        edges = EdgeList(src.to(device), dst.to(device), 10)
        x, w = (t.to(device, copy=True).requires_grad_() for t in (nodes, values))
        out = aggregate(edges, x, w, message=message, reduce=reduce)
        (out * weight.to(device)[:, : out.shape[1]]).sum().backward()
        found.append([t for t in (out, x.grad, w.grad) if t is not None])
    assert len(found[0]) == len(found[1])
    for here, there in zip(*found):
        close(there, here, 1e-5)


# ---- training ---------------------------------------------------------------------------


def test_pretraining_goes_on_from_a_checkpoint_and_serves_a_cpu(make, seen, tmp_path):
    arguments = {
        "mode": "pretraining", "memory_warmup": 24, "learning_rate": 3e-3, "batch_size": 12,
        "model_dir": str(tmp_path / "run"),
    }  # fmt: skip
    model = make(**arguments)
    assert not model.model.memory.is_active
    model.fit(seen, nb_epoch=8, checkpoint_interval=4)
    history = model.history
    assert on_device(model.model)
    assert model.model.memory.is_active
    assert all(np.isfinite(row["loss"]) for row in history)
    # The memory brings terms of its own, from the second epoch on.
    assert history[-1]["loss"] < history[1]["loss"]
    assert history[-1]["con"] + history[-1]["rec"] < history[0]["con"] + history[0]["rec"]

    embedding = model.predict_embedding(seen)
    model.save_pretrained(tmp_path / "exported")
    close(MMSAModel.from_pretrained(tmp_path / "exported", device="cpu").predict_embedding(seen),
          embedding)  # fmt: skip
    resumed = make(**{**arguments, "seed": 5, "device": "cpu"})
    resumed.restore()  # what a GPU wrote, without a GPU
    close(resumed.predict_embedding(seen), embedding)

    resumed = make(**{**arguments, "seed": 5})
    resumed.fit(seen, nb_epoch=10, restore=True)
    assert resumed.get_global_step() == 20
    assert resumed.history[:8] == history
    assert np.isfinite([row["loss"] for row in resumed.history]).all()
    assert resumed.history[-1]["loss"] < history[1]["loss"]


@pytest.mark.parametrize("mode", ["classification", "regression"])
def test_fine_tuning_answers_alone_as_in_a_batch(make, seen, mode):
    source = make(mode="pretraining", memory_warmup=24)
    source.fit(seen, nb_epoch=1, **QUIET)
    data = seen if mode == "regression" else labelled(seen, seen.y > np.median(seen.y))
    model = make(mode=mode, learning_rate=3e-3)
    model.load_from_pretrained(source)
    model.fit(data, nb_epoch=10, **QUIET)
    assert on_device(model.model)
    assert model.model.memory.is_active
    assert model.history[-1]["loss"] < model.history[0]["loss"]
    together = model.predict(data)
    mean, std = model.predict_uncertainty(data, masks=8)
    assert (std.reshape(len(data), -1).max(1) > 0).all()
    for row in (0, 6, 13):
        one = data.select([row])
        scale = np.abs(together).max()
        np.testing.assert_allclose(model.predict(one)[0], together[row], rtol=0, atol=1e-4 * scale)
        alone, deviation = model.predict_uncertainty(one, masks=8)
        np.testing.assert_allclose(alone[0], mean[row], rtol=0, atol=1e-3 * scale)
        np.testing.assert_allclose(deviation[0], std[row], rtol=0, atol=1e-3 * scale)


def test_a_shipped_model_embeds_as_on_the_cpu():
    here, there = (MMSAPredictor.from_pretrained("mmsa-small", d) for d in ("cpu", DEVICE))
    assert on_device(there.network)
    close(there.embed(SMILES[:12]).values, here.embed(SMILES[:12]).values)


def test_processes_that_read_ahead_change_no_batch(make, seen):
    runs = []
    for workers in (0, 2):
        model = make(mode="pretraining", modalities=("graph", "fingerprint"), precision="fp32",
                     memory_warmup=24)  # fmt: skip
        model.fit(seen, nb_epoch=2, n_workers=workers, **QUIET)
        runs.append(model)
    assert [m.get_global_step() for m in runs] == [6, 6]
    assert np.isfinite(runs[1].history[-1]["loss"])
    # Later epochs drift apart by the rounding of sums without an order.
    assert runs[1].history[0]["loss"] == pytest.approx(runs[0].history[0]["loss"], rel=1e-3)


@pytest.mark.parametrize("views", [("graph", "geometry", "fingerprint"), ("image", "graph")],
                         ids="+".join)  # fmt: skip
def test_deterministic_algorithms_repeat_a_run_bit_for_bit(make, seen, views):
    def weights():
        model = make(mode="pretraining", modalities=views, memory_warmup=24)
        model.fit(seen, nb_epoch=3, **QUIET)
        return {k: v for k, v in model.model.state_dict().items() if torch.is_tensor(v)}

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, again = weights(), weights()
    except RuntimeError as error:  # an operation without an order on this device
        if "deterministic" not in str(error):
            raise
        pytest.skip(str(error).partition("\n")[0][:200])
    finally:
        torch.use_deterministic_algorithms(before)
    assert [name for name in first if not torch.equal(first[name], again[name])] == []
