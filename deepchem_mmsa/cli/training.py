"""What ``pretrain`` and ``finetune`` share: molecules in, a run folder out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepchem_mmsa import MMSAFeaturizer, MMSAModel
from deepchem_mmsa.checkpoint import CheckpointError, load_pretrained
from deepchem_mmsa.cli.console import Console, ExitCode, Failure, Interrupted
from deepchem_mmsa.config import PRESETS, MMSAConfig
from deepchem_mmsa.datasets import dataset_from_smiles
from deepchem_mmsa.tables import Table, write_table

if TYPE_CHECKING:
    from deepchem.data import NumpyDataset


def network_config(from_model: str | None, preset: str, fields: Mapping[str, Any]) -> MMSAConfig:
    """Return the configuration that a run begins with: a model's own, or a preset's."""
    if preset not in PRESETS:
        raise Failure(f"--preset {preset}: choose {' or '.join(PRESETS)}", ExitCode.USAGE)
    if from_model is None:
        return MMSAConfig.preset(preset, **fields)
    try:
        return load_pretrained(from_model).config.replace(**fields)
    except FileNotFoundError as error:
        raise Failure(str(error), ExitCode.MODEL) from error


def open_run(folder: Path, resume: bool) -> None:
    """Make the folder of a run; one that holds a run is not begun anew over it."""
    checkpoints = list((folder / "checkpoints").glob("checkpoint*.pt"))
    if checkpoints and not resume:
        raise Failure(
            f"{folder} holds a run already: add --resume to go on with it, or give another "
            "--output folder",
            ExitCode.OUTPUT,
        )
    if resume and not checkpoints:
        raise Failure(
            f"{folder} holds no checkpoint to go on from; leave --resume away to begin",
            ExitCode.OUTPUT,
        )
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot write to {folder}: {error.strerror}", ExitCode.OUTPUT) from error


def make_model(
    config: MMSAConfig, from_model: str | None, folder: Path, device: str, console: Console
) -> MMSAModel:
    """Build the model of a run, with the weights of another where one is given."""
    arguments: dict[str, Any] = {
        "model_dir": str(folder / "checkpoints"),
        "device": None if device == "auto" else device,
        "progress": False if console.silent else None,
    }
    model = MMSAModel(config, **arguments)
    if from_model is not None:
        try:
            model.load_from_pretrained(from_model)
        except CheckpointError as error:
            raise Failure(str(error), ExitCode.MODEL) from error
    return model


def featurized(
    table: Table, config: MMSAConfig, y: np.ndarray | None, jobs: int, console: Console
) -> tuple[NumpyDataset, pd.DataFrame]:
    """Featurize a table; rows that hold no molecule stay, flagged.

    Parameters
    ----------
    table : Table
    config : MMSAConfig
    y : np.ndarray or None
        ``[N, T]`` labels, NaN where missing.
    jobs : int
    console : Console

    Returns
    -------
    dataset : deepchem.data.NumpyDataset
        With canonical SMILES as ids, or the text of an unreadable row.
    rows : pandas.DataFrame
        ``row`` (from 1), ``smiles``, ``status``, ``reason``.
    """
    from deepchem.data import NumpyDataset

    featurizer = MMSAFeaturizer(
        config.modalities, image_size=config.image_size, n_jobs=jobs,
        progress=not console.silent and len(table) > 200,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the rows are reported below
        data = dataset_from_smiles(table.smiles, featurizer, y)  # type: ignore[arg-type]
    reasons = [
        "" if record.available else next(iter(record.reasons.values()), "no view")
        for record in data.X
    ]
    ids = np.array([record.smiles for record in data.X], dtype=object)
    rows = pd.DataFrame(
        {
            "row": np.arange(1, len(table) + 1),
            "smiles": table.frame[table.smiles_column].fillna("").astype(str).to_numpy(),
            "status": ["failed" if reason else "ok" for reason in reasons],
            "reason": reasons,
        }
    )
    failed = [i for i, reason in enumerate(reasons) if reason]
    if failed:
        console.note(
            f"{len(failed)} of {len(rows)} rows hold no molecule and are left out; the first is "
            f"row {failed[0] + 1}: {reasons[failed[0]]}"
        )
    return NumpyDataset(data.X, data.y if y is not None else None, data.w, ids), rows


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say how a run goes on when it is interrupted: its loop has written a checkpoint."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        raise Interrupted(
            f"The state of the run is kept in {folder}; go on with the same command and --resume."
        ) from error


def write_run(
    folder: Path, model: MMSAModel, rows: pd.DataFrame, summary: Mapping[str, Any]
) -> None:
    """Write the model, its history, the fate of each row and the metrics of a run.

    ``model.safetensors``, ``config.json`` (see ``save_pretrained``), ``history.csv``,
    ``rows.csv``, ``metrics.json``.
    """
    model.save_pretrained(folder, metadata=dict(summary))
    write_table(pd.DataFrame(model.history), folder / "history.csv")
    write_table(rows, folder / "rows.csv")
    (folder / "metrics.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
