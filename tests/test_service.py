"""The example service: right answers from many threads, and what it refuses."""

import ctypes
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from deepchem_mmsa import MMSAPredictor, views
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.ensemble import ensemble_spread
from deepchem_mmsa.hub import WEIGHTS
from deepchem_mmsa.network import MMSANetwork
from tests.conftest import DRUGS

EXAMPLE = Path(__file__).parents[1] / "examples" / "service.py"


@pytest.fixture(scope="module")
def service():
    spec = importlib.util.spec_from_file_location("mmsa_service", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["mmsa_service"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def predictor():
    config = MMSAConfig(
        mode="classification", n_tasks=2, modalities=("graph",), graph_width=16, embedding_dim=16
    )
    return MMSAPredictor(MMSANetwork(config), {"tasks": ["inhibits", "toxic"]})


def test_answers_are_the_predictors_own_from_many_threads(service, predictor):
    smiles = [*DRUGS, "C1CC", ""]
    expected = predictor.predict(smiles).values
    limits = service.Limits(threads=4, waiting=64)

    def ask(client, seed):
        rows = np.random.default_rng(seed).permutation(len(smiles))[:7]
        reply = client.post("/predict", json={"smiles": [smiles[i] for i in rows]})
        assert reply.status_code == 200
        assert reply.json()["tasks"] == ["inhibits", "toxic"]
        for i, row in zip(rows, reply.json()["rows"], strict=True):
            assert row["smiles"] == smiles[i]
            if np.isnan(expected[i]).all():
                assert row["values"] == [[None, None]] * 2
                assert "unreadable" in row["reason"]
            else:
                assert row["reason"] == ""
                np.testing.assert_allclose(row["values"], expected[i], atol=1e-5)

    with TestClient(service.create_app(predictor, limits)) as client:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda seed: ask(client, seed), range(48)))
        embedded = client.post("/embed", json={"smiles": ["CCO"]}).json()["rows"][0]["values"]
        np.testing.assert_allclose(embedded, predictor.embed(["CCO"]).values[0], atol=1e-5)
        assert client.get("/health").json() == {"status": "ok", "requests": 0}


@pytest.mark.parametrize(
    ("smiles", "status"),
    [
        ([], 422),
        (["C"] * 5, 422),
        (["C" * 21], 422),
        (["C" * 20] * 4, 200),
        ("CCO", 422),
        ([3], 422),
        (["é" * 20] * 4, 200),  # each letter six bytes in JSON, still within the limits
        (["C" * 5000], 413),
    ],
)
def test_refuses_what_is_too_large_or_no_request(service, predictor, smiles, status):
    limits = service.Limits(molecules=4, characters=20)
    with TestClient(service.create_app(predictor, limits)) as client:
        reply = client.post("/predict", json={"smiles": smiles})
        assert reply.status_code == status
        assert client.post("/predict", content=b"{").status_code == 422


@pytest.mark.parametrize("row", ['"\\ud800"', "NaN", "-1e999", "null", '{"a": 1}'])
def test_a_row_that_json_or_utf8_cannot_hold_is_the_clients_error(service, predictor, row):
    with TestClient(service.create_app(predictor)) as client:
        json_type = {"content-type": "application/json"}
        reply = client.post("/predict", content=f'{{"smiles": [{row}]}}', headers=json_type)
        assert reply.status_code == 422
        assert [error["loc"] for error in reply.json()["detail"]] == [["body", "smiles", 0]]


def test_a_large_body_is_refused_while_it_arrives(service, predictor):
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(1000):
            sent += 1 << 16
            yield b" " * (1 << 16)

    limits = service.Limits(molecules=1, characters=20)
    with TestClient(service.create_app(predictor, limits)) as client:
        reply = client.post("/predict", content=endless())
    assert reply.status_code == 413
    assert json.loads(reply.content)["detail"].startswith("the body is larger than")


class Slow:
    """A predictor that answers when it is let."""

    def __init__(self, predictor):
        self.config, self.tasks = predictor.config, predictor.tasks
        self.settings = predictor.settings
        self.let = threading.Event()
        self._predictor = predictor

    def predict(self, smiles):
        self.let.wait(20)
        return self._predictor.predict(smiles)

    embed = predict


def test_the_classes_are_named_in_the_order_of_their_probabilities(service, predictor):
    named = MMSAPredictor(predictor.network, {"classes": ["inactive", "active"]})
    plain = MMSAPredictor(MMSANetwork(predictor.config.replace(mode="regression")))
    for model, expected in ((named, ["inactive", "active"]), (plain, None)):
        with TestClient(service.create_app(model)) as client:
            assert client.get("/info").json()["classes"] == expected


def test_the_model_that_answers_can_be_told(service):
    exported = MMSAPredictor.from_pretrained("mmsa-small")
    with TestClient(service.create_app(exported)) as client:
        (told,) = client.get("/info").json()["models"]
    config = json.loads((WEIGHTS / "mmsa-small" / "config.json").read_text(encoding="utf-8"))
    assert told["sha256"] == config["sha256"]
    assert told["package_version"] == config["package_version"]
    assert told["feature_version"] == config["metadata"]["feature_version"]


def test_an_ensemble_answers_with_its_mean_and_deviation(service, predictor):
    torch.manual_seed(1)
    other = MMSAPredictor(MMSANetwork(predictor.config), predictor.metadata)
    smiles = [*DRUGS[:3], "C1CC"]
    expected = ensemble_spread([predictor, other], smiles)
    with TestClient(service.create_app(predictor, others=[other])) as client:
        rows = client.post("/predict", json={"smiles": smiles}).json()["rows"]
        assert len(client.get("/info").json()["models"]) == 2
    for row, values, std in zip(rows[:3], expected.values, expected.std):
        np.testing.assert_allclose(row["values"], values, atol=1e-5)
        np.testing.assert_allclose(row["std"], std, atol=1e-5)
        assert np.max(row["std"]) > 1e-4
    assert rows[3]["std"] == rows[3]["values"] == [[None, None]] * 2
    assert "unreadable" in rows[3]["reason"]


def test_late_answers_time_out_and_a_full_queue_refuses(service, predictor):
    slow = Slow(predictor)
    limits = service.Limits(seconds=0.3, threads=1, waiting=1)
    with TestClient(service.create_app(slow, limits)) as client, ThreadPoolExecutor(2) as pool:
        body = {"smiles": ["CCO"]}
        late = [pool.submit(client.post, "/predict", json=body) for _ in range(2)]
        while client.get("/health").json()["requests"] < 2:
            time.sleep(0.01)
        refused = client.post("/predict", json=body)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert [f.result().status_code for f in late] == [504, 504]
        # The thread that is late still counts; once it ends, the service serves again.
        assert client.get("/health").json()["requests"] >= 1
        slow.let.set()
        while client.get("/health").json()["requests"]:
            time.sleep(0.01)
        assert client.post("/predict", json=body).status_code == 200


def begin_reading_with(monkeypatch, smiles, work):
    """Let the reading of one molecule begin with some work, in a child process too."""
    make = views._make

    def made(task, settings):
        if task.smiles == smiles:
            work()
        return make(task, settings)

    monkeypatch.setattr(views, "_make", made)


@pytest.mark.skipif(not views.AVAILABLE, reason="needs fork")
def test_a_molecule_that_crashes_rdkit_costs_its_row_only(service, predictor, monkeypatch):
    begin_reading_with(monkeypatch, "CCN", lambda: os.kill(os.getpid(), signal.SIGSEGV))
    with TestClient(service.create_app(predictor)) as client:
        for path in ("/predict", "/embed"):
            rows = client.post(path, json={"smiles": ["CCO", "CCN", "CCC"]}).json()["rows"]
            reasons = [row["reason"] for row in rows]
            assert reasons == ["", "unreadable: its process ended by SIGSEGV", ""]


@pytest.mark.skipif(not views.AVAILABLE, reason="needs fork")
def test_a_molecule_that_keeps_rdkit_busy_stops_neither_others_nor_the_clock(
    service, predictor, monkeypatch
):
    # Fourteen tungsten atoms, all bonded to each other, are 474 characters and take minutes; like
    # RDKit, a function of PyDLL keeps Python's lock, so that nothing else runs in its process.
    begin_reading_with(monkeypatch, "CCN", lambda: ctypes.PyDLL(None).sleep(5))
    limits = service.Limits(seconds=0.5, threads=2)
    with TestClient(service.create_app(predictor, limits)) as client, ThreadPoolExecutor(1) as pool:
        client.post("/predict", json={"smiles": ["CCO"]})
        began = time.monotonic()
        late = pool.submit(client.post, "/predict", json={"smiles": ["CCN"] * 50})
        while not client.get("/health").json()["requests"]:
            time.sleep(0.01)
        assert client.post("/predict", json={"smiles": ["CCO"]}).status_code == 200
        assert time.monotonic() - began < 4
        assert late.result().status_code == 504
        assert time.monotonic() - began < 4
        # The thread is free once the present molecule is read; nobody waits for the others.
        while client.get("/health").json()["requests"]:
            assert time.monotonic() - began < 30
            time.sleep(0.05)


@pytest.mark.skipif(not views.AVAILABLE, reason="needs fork")
@pytest.mark.parametrize("trusted", [False, True])
def test_trusted_molecules_are_read_in_the_service_itself(service, predictor, monkeypatch, trusted):
    here = []
    begin_reading_with(monkeypatch, "CCN", lambda: here.append(os.getpid()))
    with TestClient(service.create_app(predictor, trusted=trusted)) as client:
        assert client.post("/predict", json={"smiles": ["CCN"]}).status_code == 200
    assert here == [os.getpid()] * trusted  # what a child appends is not seen here


def test_a_pretrained_model_embeds_and_does_not_predict(service):
    config = MMSAConfig(modalities=("graph",), graph_width=16, embedding_dim=16)
    app = service.create_app(MMSAPredictor(MMSANetwork(config)))
    with TestClient(app) as client:
        assert client.post("/predict", json={"smiles": ["C"]}).status_code == 404
        assert client.post("/embed", json={"smiles": ["C"]}).status_code == 200
