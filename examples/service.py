"""Predictions over HTTP: an exported model behind FastAPI, with limits and a time-out.

    pip install -e ".[service]"
    python examples/service.py --model runs/bbbp --port 8000
    curl -s localhost:8000/predict -H 'content-type: application/json' -d '{"smiles": ["CCO"]}'

One process holds one model, or an ensemble (``mmsa finetune --n-models 3``), whose mean and
standard deviation it answers with; all threads share it. A request is refused, with the reason,
if it is too large (413, 422), if too many wait already (503), or if it takes too long (504).
A row that cannot be read is not an error: its values are null and its reason is given. Molecules
are read in a child process of each request: one that crashes RDKit costs its own row.
"""

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from joblib import cpu_count  # of this container, where its processor time is limited
from pydantic import BaseModel, Field, StringConstraints

from deepchem_mmsa import MMSAPredictor, __version__
from deepchem_mmsa.ensemble import Spread, ensemble_spread, load_ensemble
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.predictor import Predictions
from deepchem_mmsa.views import stream_views


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    Parameters
    ----------
    molecules : int
        Maximum number of molecules per request.
    characters : int
        Maximum length of a SMILES.
    seconds : float
        Time-out, after which the client gets 504. Python cannot stop the thread, which counts as
        busy until it ends.
    threads : int
        Number of requests computed at a time.
    waiting : int
        Number of requests that may wait for a thread; the next one gets 503.
    """

    molecules: int = 256
    characters: int = 500
    seconds: float = 30.0
    threads: int = 4
    waiting: int = 32

    @property
    def body_bytes(self) -> int:
        """Maximum size of a request within these limits: an escaped character takes six bytes."""
        return self.molecules * (6 * self.characters + 8) + 1024


class Workers:
    """Threads with a bounded queue and a time-out."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="mmsa")
        self.taken = 0  # changed only in the event loop

    async def __call__(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns.

        Raises
        ------
        HTTPException
            503 if the queue is full, 504 after the time-out.
        """
        if self.taken >= self.limits.threads + self.limits.waiting:
            raise HTTPException(503, "too many requests wait; try later", {"Retry-After": "1"})
        loop = asyncio.get_running_loop()
        self.taken += 1
        future: Future[Any] = self.pool.submit(work)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError:
            raise HTTPException(
                504, f"no answer within {self.limits.seconds:g} s; send fewer or smaller molecules"
            ) from None

    def _free(self) -> None:
        self.taken -= 1


class BodyLimit:
    """Rejects a body that is too large before it is held in memory, whatever its header says."""

    def __init__(self, app: Any, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self.most:
                refusal = JSONResponse(
                    {"detail": f"the body is larger than {self.most} bytes; send fewer molecules"},
                    413,
                )
                await refusal(scope, receive, send)
                return
        whole: dict[str, Any] | None = {"type": "http.request", "body": b"".join(parts)}

        async def once() -> dict[str, Any]:
            nonlocal whole
            message, whole = whole, None
            return message if message is not None else await receive()

        await self.app(scope, once, send)


def answer(predictions: Predictions | Spread, molecules: list[str]) -> list[dict[str, Any]]:
    """Return a row per molecule, with null for NaN, which JSON lacks."""
    columns = predictions._asdict()
    reasons = columns.pop("reasons")
    return [
        {"smiles": smiles, "reason": reason}
        | {name: _plain(values[row]) for name, values in columns.items()}
        for row, (smiles, reason) in enumerate(zip(molecules, reasons))
    ]


def _plain(values: np.ndarray) -> Any:
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [float(v) if math.isfinite(v) else None for v in values]


def create_app(
    predictor: MMSAPredictor,
    limits: Limits | None = None,
    others: Sequence[MMSAPredictor] = (),
    trusted: bool = False,
) -> FastAPI:
    """Return the service around a model.

    Parameters
    ----------
    predictor : MMSAPredictor
    limits : Limits, optional
    others : sequence of MMSAPredictor
        The other models of an ensemble. Predictions are the mean of all then, with their standard
        deviation; embeddings are the first model's.
    trusted : bool
        Whether molecules are read in this process, which is several times faster: one that
        crashes RDKit ends the service then, and one that keeps it busy stops all requests.
    """
    limits, models = limits or Limits(), [predictor, *others]
    workers = Workers(limits)
    app = FastAPI(title="deepchem_mmsa", version=__version__)
    app.add_middleware(BodyLimit, most=limits.body_bytes)

    smiles_text = Annotated[str, StringConstraints(max_length=limits.characters)]

    class Molecules(BaseModel):
        smiles: list[smiles_text] = Field(  # type: ignore[valid-type]
            min_length=1, max_length=limits.molecules, examples=[["CCO", "c1ccccc1O"]]
        )

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Any, error: RequestValidationError) -> JSONResponse:
        # Without the input: what is wrong with it may be that JSON or UTF-8 cannot hold it.
        kept = ("type", "loc", "msg")
        return JSONResponse({"detail": [{k: e[k] for k in kept} for e in error.errors()]}, 422)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "requests": workers.taken}

    @app.get("/info")
    async def info() -> dict[str, Any]:
        classes = predictor.classes if predictor.config.mode == "classification" else None
        told = ("sha256", "package_version", "feature_version")
        return {
            "package": __version__, "mode": predictor.config.mode, "tasks": predictor.tasks,
            "classes": classes, "views": predictor.config.modalities,
            "molecules": limits.molecules, "characters": limits.characters,
            "seconds": limits.seconds,
            "models": [{key: model.metadata.get(key) for key in told} for model in models],
        }  # fmt: skip

    def read(smiles: list[str], end: float) -> list[MoleculeViews]:
        # In a child process: RDKit may crash, and no other thread runs while it reads a molecule.
        records = []
        with closing(stream_views(smiles, predictor.settings, contained=not trusted)) as made:
            for record in made:
                records.append(record)
                if time.monotonic() > end:
                    raise TimeoutError  # nobody waits for the others
        return records

    def averaged(records: list[MoleculeViews]) -> Predictions | Spread:
        return ensemble_spread(models, records) if others else predictor.predict(records)

    async def serve(
        method: Callable[[list[MoleculeViews]], Predictions | Spread], body: Any
    ) -> list[Any]:
        end = time.monotonic() + limits.seconds
        return await workers(lambda: answer(method(read(body.smiles, end)), body.smiles))

    if predictor.config.mode != "pretraining":

        @app.post("/predict")
        async def predict(body: Molecules) -> dict[str, Any]:
            """Probabilities of the classes, in the order of /info, or a value, per task."""
            return {"tasks": predictor.tasks, "rows": await serve(averaged, body)}

    @app.post("/embed")
    async def embed(body: Molecules) -> dict[str, Any]:
        """Embeddings."""
        return {"tasks": None, "rows": await serve(predictor.embed, body)}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="folder of a model, or of several")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for the whole network")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--molecules", type=int, default=Limits.molecules)
    parser.add_argument("--characters", type=int, default=Limits.characters)
    parser.add_argument("--seconds", type=float, default=Limits.seconds)
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--waiting", type=int, default=Limits.waiting)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--trusted", action="store_true", help="read molecules here, not in a child: faster"
    )
    a = parser.parse_args()
    torch.set_num_threads(1)  # requests run in parallel already
    predictor, *others = load_ensemble(a.model, a.device)
    predictor.embed(["C"])  # load now what is loaded on first use
    limits = Limits(a.molecules, a.characters, a.seconds, a.threads, a.waiting)
    app = create_app(predictor, limits, others, a.trusted)
    uvicorn.run(app, host=a.host, port=a.port, log_level="warning")


if __name__ == "__main__":
    main()
