"""Writing, rotating and reading the checkpoints of a training run.

They cannot execute code: they are read with ``weights_only=True``, after their checksums are
verified.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepchem_mmsa._version import __version__
from deepchem_mmsa.atomic import sync_folder, write_atomically
from deepchem_mmsa.config import ARCHITECTURE, MMSAConfig

logger = logging.getLogger(__name__)

FORMAT = 1
EXTRA_STATE = "_extra_state"


class CheckpointError(ValueError):
    """A checkpoint or exported model that cannot be used here, and why."""


def tensors_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the parameters and buffers of a state by name, without the extra state of modules."""
    return {k: v for k, v in state.items() if not k.endswith(EXTRA_STATE)}


def save_state(path: str | os.PathLike, state: Mapping[str, Any]) -> None:
    """Write a training state made of tensors and plain Python values."""
    whole = {"format": FORMAT, "package_version": __version__, **state}

    def write(name: str) -> None:
        try:
            with open(name, "wb") as file:
                torch.save(whole, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides that the disk is full
                raise error.__context__ from None
            raise

    write_atomically(path, write)


def load_state(path: str | os.PathLike) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, to the CPU; the caller moves it to a device.

    Raises
    ------
    CheckpointError
        If the file is damaged, holds anything but data, or has another format.
    FileNotFoundError
    """
    try:
        # torch does not verify the checksums that it writes: a flipped bit would become a weight.
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        said = str(error).partition("\n")[0] or "no further message"
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {said}); "
            "restore another one, see get_checkpoints()"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of MMSAModel in format {FORMAT}; it was written by "
            "another model or another version"
        )
    return state


def checkpoints_in(folder: str | os.PathLike) -> list[str]:
    """Return the paths of a folder's checkpoints, the newest first."""
    found = Path(folder).glob("checkpoint*.pt")
    numbered = [p for p in found if p.stem.removeprefix("checkpoint").isdigit()]
    return [str(p) for p in sorted(numbered, key=lambda p: int(p.stem.removeprefix("checkpoint")))]


def rotate_and_save(folder: Path, state: Mapping[str, Any], keep: int) -> None:
    """Write ``checkpoint1.pt`` and move older ones up, as DeepChem names them.

    The new state is whole on disk before an older one is touched.
    """
    arriving = folder / "arriving.pt"
    save_state(arriving, state)
    paths = [folder / f"checkpoint{i + 1}.pt" for i in range(keep)]
    for older, newer in zip(reversed(paths), reversed(paths[:-1])):
        if newer.exists():
            os.replace(newer, older)
    os.replace(arriving, paths[0])
    sync_folder(folder)


def load_newest(paths: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Return the first readable state of `paths` (newest first); damaged ones are reported.

    Raises
    ------
    CheckpointError
        If none can be read; each was reported, and the message repeats the newest one's fault.
    FileNotFoundError
        If a path does not exist.
    ValueError
        If `paths` is empty.
    """
    faults = []
    for path in paths:
        try:
            return path, load_state(path)
        except CheckpointError as error:
            logger.warning("skipped a damaged checkpoint: %s", error)
            faults.append(str(error))
    if faults:
        raise CheckpointError(
            f"none of {len(faults)} checkpoint(s) can be read: train anew in another folder, or "
            f"remove them; the newest: {faults[0]}"
        )
    raise ValueError("No checkpoint found")


def check_tensors(
    mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], entire: tuple[str, ...], source: str
) -> None:
    """Check that each tensor of a network is in a source, with the same shape.

    Parameters
    ----------
    mine, theirs : mapping
        Tensors by name, of the network and of the source.
    entire : tuple of str
        Beginnings of names of which the source must not have more than the network.
    source : str

    Raises
    ------
    CheckpointError
        If they do not fit; the message lists the first names.
    """
    missing = [k for k in mine if k not in theirs]
    beyond = [k for k in theirs if k not in mine and k.startswith(entire)]
    shapes = [
        f"{k} {tuple(theirs[k].shape)} there, {tuple(v.shape)} here"
        for k, v in mine.items()
        if k in theirs and theirs[k].shape != v.shape
    ]
    if missing or beyond or shapes:
        names = (("missing", missing), ("only there:", beyond))
        told = [f"{how} {', '.join(sorted(some)[:5])}" for how, some in names if some]
        raise CheckpointError(
            f"{source} does not fit: "
            + "; ".join(told + shapes[:5])
            + "; use the same architecture, or copy fewer components"
        )


def check_architecture(mine: MMSAConfig, theirs: MMSAConfig, source: str) -> None:
    """Check that a checkpoint has the same architecture.

    Raises
    ------
    CheckpointError
        If it does not; the message lists the differences.
    """
    differences = mine.differences(theirs, ARCHITECTURE)
    if differences:
        raise CheckpointError(
            f"{source} belongs to another configuration (this model has "
            f"{'; '.join(differences)}); build the model with MMSAModel.from_pretrained or with "
            "the checkpoint's own arguments, or copy components with load_from_pretrained"
        )
