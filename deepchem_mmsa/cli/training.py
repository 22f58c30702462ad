"""Shared steps of ``pretrain`` and ``finetune``, from a table of molecules to a run folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from deepchem_mmsa import distributed
from deepchem_mmsa.atomic import write_text
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.cli.console import Console, ExitCode, Failure, Interrupted, finite
from deepchem_mmsa.cli.options import NOT_TO_SET
from deepchem_mmsa.cli.records import fate_of_rows, make_records, note_failures, rows_table
from deepchem_mmsa.cli.rows import new_names
from deepchem_mmsa.config import PRESETS, MMSAConfig
from deepchem_mmsa.datasets import dataset_from_shards
from deepchem_mmsa.exports import load_pretrained
from deepchem_mmsa.hub import is_hub_name, member_folders, starting_model
from deepchem_mmsa.model import MMSAModel
from deepchem_mmsa.run_folder import FolderInUseError, RunFolder
from deepchem_mmsa.shards import ShardError, ShardSet
from deepchem_mmsa.tables import Table, write_table
from deepchem_mmsa.views import ViewSettings

_SET = "--set "
ANEW = "--preset small starts from scratch, without weights"


def first_weights(from_model: str | None, preset: str | None) -> str | None:
    """Return the model to start from, or None to train from scratch (``--preset``)."""
    try:
        return starting_model(from_model, preset)
    except ValueError as error:
        raise Failure(
            "--from-model defines its own network, --preset starts one from scratch: give one of "
            "the two",
            ExitCode.USAGE,
        ) from error


def network_config(
    from_model: str | None, preset: str | None, fields: Mapping[str, Any]
) -> MMSAConfig:
    """Return the configuration of a run: that of the model it starts from, or a preset's."""
    if from_model is None:
        preset = preset or "small"
        if preset not in PRESETS:
            raise Failure(f"--preset {preset}: choose {' or '.join(PRESETS)}", ExitCode.USAGE)
        return MMSAConfig.preset(preset, **fields)
    config = load_pretrained(from_model).config
    network = config.replace(**fields)
    absent = [m for m in network.modalities if m not in config.modalities]
    if absent:
        raise Failure(
            f"{from_model} reads {', '.join(config.modalities)}, and has no weights for "
            f"{', '.join(absent)}: choose other modalities, or another --from-model (mmsa-base "
            f"reads all four views); {ANEW}",
            ExitCode.MODEL,
        )
    return network


def views_of(config: MMSAConfig, from_model: str | None) -> ViewSettings:
    """Return how a network's views are made: images at the size at which its weights saw them."""
    tensors = {} if from_model is None else load_pretrained(from_model).tensors
    return ViewSettings.of(config, int(tensors.get("picture_size", 0)))


def has_begun(folder: Path) -> bool:
    """Return whether a network has a checkpoint to resume from."""
    return any((folder / "checkpoints").glob("checkpoint*.pt"))


def begun_networks(folder: Path) -> bool:
    """Return whether any network of a run has a checkpoint to resume from."""
    return any(map(has_begun, [folder, *folder.glob("model*")]))


def open_run(
    folder: Path, resume: bool, asked: Mapping[str, Any], console: Console, n_models: int = 1
) -> None:
    """Create the folder of a run; an existing run is never overwritten.

    Parameters
    ----------
    folder : pathlib.Path
    resume : bool
        Whether to resume the run in the folder; where it has no checkpoint yet, a run begins.
    asked : mapping
        JSON-serialisable, by option: all that determines the result except the number of epochs.
        A run can only be resumed with the values it was started with.
    console : Console
    n_models : int
        Networks to train, each in its own folder.
    """
    if distributed.is_launched():
        raise Failure(
            "torchrun started several processes, which would all write to "
            f"{folder}: train on several with a program like examples/distributed_pretraining.py "
            "(docs/scaling.md)",
            ExitCode.USAGE,
        )
    checkpoints = begun_networks(folder)
    models = [*folder.glob("config.json"), *folder.glob("model*/config.json")]
    if (checkpoints or models) and not resume:
        raise Failure(
            f"{folder} holds a run already: add --resume to continue it, or give another "
            "--output folder",
            ExitCode.OUTPUT,
        )
    if models and not checkpoints:
        raise Failure(
            f"{folder} holds a model, but no checkpoint to resume from; give another --output "
            "folder to start a new run",
            ExitCode.OUTPUT,
        )
    if resume and not checkpoints:
        console.note(f"{folder} holds no checkpoint to resume from: a new run begins")
    try:
        for each in member_folders(folder, n_models):
            with RunFolder(each / "checkpoints"):
                pass
        if checkpoints and (folder / "run.json").is_file():
            _check_same(folder, json.loads(json.dumps(asked)))
    except (OSError, RuntimeError) as error:  # not writable, or locked by another run
        raise Failure(f"cannot write to {folder}: {error}", ExitCode.OUTPUT) from error


def _check_same(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raise a Failure if the run of a folder was started with other values than `asked`."""
    place = folder / "run.json"
    try:
        began = dict(json.loads(place.read_text(encoding="utf-8")))
    except ValueError as error:
        raise Failure(
            f"{place} is damaged ({error}), so the settings of the run are unknown; give another "
            "--output folder",
            ExitCode.OUTPUT,
        ) from error
    for option in {**asked, **began}:
        if began.get(option) != asked.get(option):
            own = NOT_TO_SET.get(option.removeprefix(_SET), "")
            name = own if own.startswith("--") else option
            short = f"{began.get(option)}, not {asked.get(option)}"
            raise Failure(
                f"--resume: the run in {folder} was started with another {name}"
                + (f" ({short})" if len(short) < 200 else "")
                + "; use the original value, or another --output folder",
                ExitCode.USAGE,
            )


def note_run(folder: Path, asked: Mapping[str, Any]) -> None:
    """Write what :func:`open_run` compares, once the records are made: their folder is locked."""
    write_text(folder / "run.json", json.dumps(asked, indent=1))


def began_with(
    config: MMSAConfig,
    from_model: str | None,
    table: Table | None,
    columns: Sequence[str] = (),
    **others: Any,
) -> dict[str, Any]:
    """Return what :func:`open_run` compares: the settings, and a checksum of the columns used."""
    found: dict[str, Any] = dict(others)
    if table is not None:
        text = table.frame[list(dict.fromkeys([table.smiles_column, *columns]))].to_csv()
        found["input"] = hashlib.sha256(text.encode()).hexdigest()
    settings = {f"{_SET}{name}": value for name, value in config.to_dict().items()}
    return {**found, "--from-model": from_model, **settings}


def make_model(
    config: MMSAConfig, from_model: str | None, folder: Path, device: str, console: Console
) -> MMSAModel:
    """Build the model of a run, with pre-trained weights if a model is given."""
    model = MMSAModel(
        config, model_dir=str(folder / "checkpoints"), device=device, progress=not console.silent
    )
    if from_model is not None:
        try:
            model.load_from_pretrained(from_model)
        except CheckpointError as error:
            raise Failure(f"{error}; {ANEW}", ExitCode.MODEL) from error
    return model


def featurized(
    table: Table, settings: ViewSettings, folder: Path, jobs: int, console: Console
) -> tuple[ShardSet, pd.DataFrame]:
    """Featurize a table into the folder of a run; rows without a valid molecule are flagged.

    Parameters
    ----------
    table : Table
    settings : ViewSettings
    folder : pathlib.Path
        Of the run; existing shards are reused.
    jobs : int
    console : Console

    Returns
    -------
    shards : ShardSet
    rows : pandas.DataFrame
        ``row`` (from 1), ``smiles``, ``status``, ``reason``.
    """
    shards = make_records(
        table.smiles, folder / "records", settings, jobs, console,
        go_on="run the same command again.",
    )  # fmt: skip
    status, reasons = fate_of_rows(shards)
    note_failures(console, status, reasons, ", left out")
    smiles = table.frame[table.smiles_column].fillna("").astype(str).tolist()
    return shards, rows_table(smiles, status, reasons)


def opened(folder: Path, config: MMSAConfig, console: Console) -> tuple[ShardSet, pd.DataFrame]:
    """Open shards made by ``mmsa featurize``, and check that they hold the network's views."""
    try:
        shards = ShardSet.open(folder)
    except ShardError as error:
        raise Failure(str(error), ExitCode.INPUT) from error
    held, read = shards.settings.modalities, config.modalities
    absent, common = (", ".join(m for m in read if (m in held) is there) for there in (False, True))
    if absent:
        raise Failure(
            f"{folder} holds {', '.join(held)}, the network also reads {absent}: featurize into "
            f"another folder with --modalities {','.join(read)}"
            + (f", or --set 'modalities=[{common.replace(' ', '')}]'" if common else ""),
            ExitCode.INPUT,
        )
    status, reasons = fate_of_rows(shards)
    note_failures(console, status, reasons, ", left out")
    if len(shards.parts) > 1:
        console.note(f"{len(shards)} rows of {len(shards.parts)} folders in {folder}")
    # Written by featurize: the table's columns, status and reason.
    told = [part / "rows.csv" for part, _ in shards.parts]
    if all(map(Path.is_file, told)):
        tables = [pd.read_csv(each, keep_default_na=False, dtype=str).iloc[:, :-2] for each in told]
        given = pd.concat(tables, ignore_index=True)
        if len(given) == len(shards) and all(list(each) == list(given) for each in tables):
            for name in {"status", "reason"}.intersection(given):
                (free,) = new_names(given, [f"given_{name}"])
                given = given.rename(columns={name: free})
            if "smiles" not in given:
                given.insert(0, "smiles", _smiles_of(shards))
            return shards, given.assign(status=status, reason=reasons)
    return shards, rows_table(_smiles_of(shards), status, reasons)


def _smiles_of(shards: ShardSet) -> list[str]:
    try:
        return [str(text) for text in dataset_from_shards(shards).ids]
    except ShardError as error:
        raise Failure(str(error), ExitCode.INPUT) from error


class HistoryFile:
    """Callback of ``fit``: ``history.csv`` after each epoch, to follow a run.

    Parameters
    ----------
    folder : pathlib.Path
        Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, model: MMSAModel, step: int) -> None:
        """Do nothing after a step."""

    def on_epoch_end(self, model: MMSAModel, epoch: int) -> None:
        """Write a row for each epoch so far."""
        write_table(pd.DataFrame(model.history), self.folder / "history.csv")


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Report how to resume an interrupted run, which has a checkpoint, and who holds a folder."""
    log = logging.getLogger("deepchem_mmsa.training")
    log.addFilter(_is_of_a_command)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        raise Interrupted(
            f"The state of the run is kept in {folder}; add --resume to the command to continue."
            if begun_networks(folder)
            else "There is no checkpoint yet; run the same command again."
        ) from error
    except FolderInUseError as error:  # by a run that began while this one made its records
        raise Failure(f"cannot write to {folder}: {error}", ExitCode.OUTPUT) from error
    except ShardError as error:  # a shard that was damaged since it was made
        raise Failure(str(error), ExitCode.INPUT) from error
    finally:
        log.removeFilter(_is_of_a_command)


def _is_of_a_command(record: logging.LogRecord) -> bool:
    """Return whether a message's remedy is no call of Python: a command has its own."""
    return "restore=True" not in record.getMessage()


def write_run(
    folder: Path, model: MMSAModel, rows: pd.DataFrame, summary: Mapping[str, Any]
) -> None:
    """Write the model, its history, the status of each row and the metrics of a run.

    ``model.safetensors``, ``config.json`` (see ``save_pretrained``), ``history.csv``,
    ``rows.csv``, ``metrics.json``. The model may be given away: of the data's file, and of the
    model that it began with, it holds the names, not the paths.
    """
    named = {
        key: summary[key] if is_hub_name(summary[key]) else Path(summary[key]).name
        for key in ("data", "from_model")
        if summary[key] is not None
    }
    model.save_pretrained(folder, metadata={**finite(summary), **named})
    write_table(pd.DataFrame(model.history), folder / "history.csv")
    write_summary(folder, rows, summary)


def write_summary(folder: Path, rows: pd.DataFrame, summary: Mapping[str, Any]) -> None:
    """Write the status of each row and the metrics of a run: ``rows.csv``, ``metrics.json``."""
    write_table(rows, folder / "rows.csv")
    write_text(folder / "metrics.json", json.dumps(finite(summary), indent=1))
