"""Load test of the example service over loopback: requests per second, latency, wrong answers.

    python examples/benchmarks/service.py --model runs/bbbp --clients 16 --requests 2000

Starts ``examples/service.py`` as a separate process, and queries it from many clients at once.
Each request holds some real molecules and unreadable ones. Every answer is compared with that
of the same model without the service; one that differs by more than 1e-5 is wrong. Without
``--model`` an untrained network serves: its speed is that of a trained one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from deepchem_mmsa import MMSAPredictor
from deepchem_mmsa.datasets import example_table

SERVICE = Path(__file__).parents[1] / "service.py"
UNREADABLE = ["C1CC", "", "not a molecule", "C(C"]
TOLERANCE = 1e-5


def untrained(folder: Path, modalities: list[str]) -> str:
    """Export an untrained network."""
    from deepchem_mmsa import MMSAModel

    model = MMSAModel("small", mode="classification", modalities=modalities)
    model.save_pretrained(folder)
    return str(folder)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with code {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the service did not answer within {seconds:g} s")


def is_right(row: dict[str, Any], smiles: str, expected: np.ndarray) -> bool:
    if row["smiles"] != smiles:
        return False
    if np.isnan(expected).all():
        return bool(row["reason"]) and all(v is None for v in np.ravel(row["values"]))
    values = np.array(row["values"], dtype=float)
    return row["reason"] == "" and bool(np.abs(values - expected).max() <= TOLERANCE)


def client(port: int, number: int, a: argparse.Namespace, truth: dict, found: dict) -> None:
    """Send requests over one connection, and record the answers."""
    random = np.random.default_rng([a.seed, number])
    pool = list(truth)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for _ in range(a.requests // a.clients):
        smiles = [pool[i] for i in random.integers(len(pool), size=a.molecules)]
        body = json.dumps({"smiles": smiles})
        start = time.perf_counter()
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        found["seconds"].append(time.perf_counter() - start)
        found["status"].append(response.status)
        if response.status == 200:
            rows = json.loads(data)["rows"]
            right = len(rows) == len(smiles) and all(
                is_right(row, s, truth[s]) for row, s in zip(rows, smiles)
            )
            found["wrong"].append(not right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="folder of save_pretrained")
    parser.add_argument("--modalities", nargs="+", default=["graph"], help="without --model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=800, help="of all clients together")
    parser.add_argument("--molecules", type=int, default=8, help="in a request")
    parser.add_argument("--distinct", type=int, default=300, help="molecules to draw from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trusted", action="store_true", help="as the service's")
    parser.add_argument("--output", type=Path, help="JSON file")
    a = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        model = a.model or untrained(Path(folder) / "model", a.modalities)
        predictor = MMSAPredictor.from_pretrained(model)
        smiles = example_table("freesolv")["smiles"].tolist()[: a.distinct] + UNREADABLE
        truth = dict(zip(smiles, predictor.predict(smiles).values))
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, str(SERVICE), "--model", model, "--port", str(port),
             "--waiting", str(a.clients), *["--trusted"] * a.trusted]
        )  # fmt: skip
        try:
            wait_for(port, process)
            found: dict[str, list] = {"seconds": [], "status": [], "wrong": []}
            threads = [
                threading.Thread(target=client, args=(port, i, a, truth, found))
                for i in range(a.clients)
            ]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            wall = time.perf_counter() - start
        finally:
            process.terminate()
            process.wait(30)
    p50, p99 = np.percentile(found["seconds"], [50, 99])
    result = {
        "clients": a.clients, "molecules_per_request": a.molecules, "cores": os.cpu_count(),
        "requests": len(found["seconds"]), "status": dict(Counter(found["status"])),
        "wrong_answers": int(sum(found["wrong"])),
        "requests_per_second": len(found["seconds"]) / wall,
        "p50_ms": 1000 * float(p50), "p99_ms": 1000 * float(p99),
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name:24}{value:.1f}" if isinstance(value, float) else f"{name:24}{value}")
    if a.output:
        a.output.write_text(json.dumps(result, indent=1), encoding="utf-8")
    asked = a.clients * (a.requests // a.clients)
    if result["wrong_answers"] or len(found["wrong"]) != asked:
        sys.exit(f"{asked} requests, {len(found['wrong'])} answered, {sum(found['wrong'])} wrong")


if __name__ == "__main__":
    main()
