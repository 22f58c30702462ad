"""Exported models: safetensors and JSON, by folder or name. Nothing in them is executed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepchem_mmsa import hub
from deepchem_mmsa._version import __version__
from deepchem_mmsa.atomic import write_together
from deepchem_mmsa.card import card_text
from deepchem_mmsa.checkpoint import CheckpointError, check_tensors, tensors_in
from deepchem_mmsa.config import CUSTOM, MMSAConfig
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.views import FEATURE_VERSION, compare_features

FORMAT = 1

_MALFORMED = (
    OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
    SafetensorError,
)  # fmt: skip
"""Exceptions that reading a file that is not an export may raise."""


PREVIOUS = ".previous"
"""Subfolder that keeps an export while it is being replaced."""

_ATTEMPTS = 4
_IDENTITY = ("package_version", "sha256")  # of an export; metadata once it has been read


class _TornError(CheckpointError):
    """Files of an export that do not belong together."""


@dataclass
class Pretrained:
    """An exported model as read from its folder.

    Parameters
    ----------
    config : MMSAConfig
    tensors : dict of str to torch.Tensor
        Parameters and buffers by name.
    exemplars : list
        The memory's exemplars per anchor, ``[(smiles, similarity), ...]``; empty where the
        export left them out.
    metadata : dict
        Package and feature version, SHA-256 of the weights, tasks, and whatever the author added.
    """

    config: MMSAConfig
    tensors: dict[str, Tensor]
    exemplars: list[list[tuple[str, float]]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def from_labels(self) -> bool:
        """Whether the weights, or those they were initialised from, were trained on labels."""
        return bool(self.metadata.get("from_labels") or self.metadata.get("labels_seen"))


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, without the extra state of modules."""
    return tensors_in(network.state_dict())


def export(
    folder: str | os.PathLike,
    network: nn.Module,
    config: MMSAConfig,
    exemplars: list[list[tuple[str, float]]],
    metadata: Mapping[str, Any],
    precision: str = "fp32",
) -> None:
    """Write ``model.safetensors``, ``config.json`` and, unless empty, ``exemplars.json``.

    With ``precision="bf16"`` weight matrices are rounded to bf16; norms, statistics and the
    memory stay as they are. An existing export remains readable until this one is complete: its
    files are kept in ``.previous`` while they are replaced, one after the other.

    Raises
    ------
    TypeError
        If the metadata are not JSON-serialisable.
    ValueError
        If `precision` is unknown, or ``"tasks"`` or ``"classes"`` of the metadata are no lists.
    CheckpointError
        If a part other than an encoder was replaced, such as the head: the export could not be
        loaded.
    OSError
        If it cannot be written.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={precision!r}: choose 'fp32' or 'bf16'")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors_of(network).items()}
    if precision == "bf16":
        matrices = {
            name
            for name, p in network.named_parameters()
            if p.dim() > 1 and not name.startswith("memory.")
        }
        tensors = {k: v.bfloat16() if k in matrices else v for k, v in tensors.items()}
    _check_rebuilt(network, config, tensors)
    weights = save(tensors)
    metadata = {k: v for k, v in metadata.items() if k not in _IDENTITY}  # another export's
    _check_names(metadata)
    described = {
        "format": FORMAT,
        "package_version": __version__,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "config": config.to_dict(),
        "metadata": {"feature_version": FEATURE_VERSION, **metadata},
    }
    contents = {"model.safetensors": weights}
    described["exemplars_sha256"] = None
    if any(exemplars):
        contents["exemplars.json"] = _json(exemplars)
        described["exemplars_sha256"] = hashlib.sha256(contents["exemplars.json"]).hexdigest()
    contents["config.json"] = _json(described)
    writes = {folder / name: partial(_fill, data) for name, data in contents.items()}
    write_together(writes, partial(_keep_previous, folder))
    if not any(exemplars):
        (folder / "exemplars.json").unlink(missing_ok=True)  # they would be another model's
    shutil.rmtree(folder / PREVIOUS, ignore_errors=True)


def _check_rebuilt(network: nn.Module, config: MMSAConfig, tensors: Mapping[str, Tensor]) -> None:
    """Check that the configuration, with the custom encoders, describes these tensors."""
    given: Any = network.get_submodule("encoders")
    own = {m: given[m] for m in config.modalities if getattr(config, m) == CUSTOM}
    with torch.device("meta"), _WithoutNoise():
        usual = MMSANetwork(config, own)
    try:
        check_tensors(tensors_of(usual), tensors, ("",), "the usual network")
    except CheckpointError as error:
        raise CheckpointError(
            "a part of this network was replaced, and from_pretrained would refuse the export "
            f"({str(error).partition('; use ')[0]}): keep its checkpoints (restore), or export a "
            "usual model that has taken over the rest by load_from_pretrained"
        ) from None


def _check_names(metadata: Mapping[str, Any]) -> None:
    for key in ("tasks", "classes"):
        names = metadata.get(key)
        if not (names is None or isinstance(names, (list, tuple))):
            raise ValueError(f"metadata {key}={names!r}: must be the list of their names")


def _keep_previous(folder: Path) -> None:
    """Keep the files of an export, as hard links where the file system has them."""
    kept = folder / PREVIOUS
    try:
        _read_export(folder)
    except _MALFORMED:
        return  # killed in the middle before: keep the older, complete export
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for name in hub.FILES:
        if (folder / name).is_file():
            try:
                os.link(folder / name, kept / name)
            except OSError:
                shutil.copyfile(folder / name, kept / name)


def _fill(data: bytes, name: str) -> None:
    Path(name).write_bytes(data)


def _json(value: Any) -> bytes:
    """Return JSON text; numbers of NumPy and torch become plain ones."""

    def plain(other: Any) -> Any:
        if getattr(other, "ndim", None) == 0:
            return other.item()
        raise TypeError(
            f"metadata must be JSON, but {other!r} is {type(other).__name__}: give numbers, texts, "
            "lists and dictionaries"
        )

    return json.dumps(value, indent=1, default=plain).encode()


def load_pretrained(folder_or_name: str | os.PathLike) -> Pretrained:
    """Read an exported model; its checksum is verified and nothing in it is executed.

    Parameters
    ----------
    folder_or_name : path-like
        A folder that ``save_pretrained`` wrote, the name of a shipped model, or one on the
        Hugging Face hub (``hf:owner/model``, see :mod:`deepchem_mmsa.hub`).

    Raises
    ------
    FileNotFoundError
        If there is neither such a folder nor such a model.
    CheckpointError
        If its files are damaged, incomplete or of another format, do not fit each other, or it
        holds several models.
    """
    folder = hub.find_model(folder_or_name)
    if several := hub.members(folder):
        raise CheckpointError(
            f"{folder} holds {len(several)} models, {several[0].name} to {several[-1].name}: name "
            f"one of them ({several[0]}); mmsa predict and deepchem_mmsa.ensemble.load_ensemble "
            "take them all"
        )
    for _ in range(_ATTEMPTS):
        try:
            return _read_export(folder)
        except _TornError as error:
            # An export is being replaced, or was when its process died: read the previous one.
            with suppress(*_MALFORMED):
                return _read_export(hub.find_model(folder / PREVIOUS))
            torn = CheckpointError(str(error))
            time.sleep(0.05)
        except CheckpointError as error:
            raise CheckpointError(f"{error}{_other_version(folder)}") from error
        except _MALFORMED as error:
            runs = [folder, *folder.glob("model*")]
            trained = any(any(run.glob("checkpoints/checkpoint*.pt")) for run in runs)
            absent = not (folder / "config.json").is_file()
            why = "no config.json in it" if absent else f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"{folder} is not an exported MMSA model ({why})"
                + (
                    "; its run is not finished: resume it with --resume"
                    if trained and absent
                    else ""
                )
                + (_models_inside(folder) if absent else "")
                + _other_version(folder)
            ) from error
    raise torn


def _models_inside(folder: Path) -> str:
    """Return a remark that names the models in the subfolders, if there are any."""
    inside = sorted(
        {str(path.parent) for path in folder.glob("*/config.json")}
        | {str(path.parents[1]) for path in folder.glob("*/model0/config.json")}
    )
    more = ", ..." if len(inside) > 5 else ""
    return f"; give one of the models inside: {', '.join(inside[:5])}{more}" if inside else ""


def _other_version(folder: Path) -> str:
    """Return a remark where another version of this package wrote an export; else nothing."""
    with suppress(*_MALFORMED):
        version = json.loads((folder / "config.json").read_bytes())["package_version"]
        if version != __version__:
            return f"; deepchem_mmsa {version} wrote it and this is {__version__}: install that"
    return ""


def _read_export(folder: Path) -> Pretrained:
    described = json.loads((folder / "config.json").read_bytes())
    if described["format"] != FORMAT:
        raise CheckpointError(
            f"{folder} has format {described['format']!r}, this package reads {FORMAT}"
        )
    config = MMSAConfig.from_dict(described["config"])
    metadata = described.get("metadata", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"the metadata in {folder / 'config.json'} must be a JSON object")
    _check_names(metadata)
    compare_features(metadata.get("feature_version", FEATURE_VERSION), folder)
    # Read once: what was checked is what is loaded. (And `load_file` of safetensors 0.8.0 leaks
    # two objects per tensor, which matters in a long-running service.)
    weights = folder / "model.safetensors"
    data = _checked(weights, described["sha256"])
    exemplars = _read_exemplars(folder / "exemplars.json", described)
    metadata |= {key: described.get(key) for key in _IDENTITY}
    tensors = load(data)
    _compare_sizes(config, tensors, str(folder))
    return Pretrained(config, tensors, exemplars, metadata)


class _WithoutNoise(TorchFunctionMode):
    """Skips initial noise, for which torch imports its compiler on the meta device: a second."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.__name__.endswith("normal_"):
            return None
        return function(*args, **(kwargs or {}))


def _compare_sizes(config: MMSAConfig, tensors: Mapping[str, Tensor], source: str) -> None:
    """Check that a configuration describes these tensors, before memory is taken for its sizes."""
    if any(getattr(config, modality) == CUSTOM for modality in config.modalities):
        return  # the encoder is not known here
    anchors = tensors.get("memory.anchors")
    n = 0 if anchors is None else anchors.size(0)
    if config.memory and config.n_anchors != n:
        raise CheckpointError(f"{source} does not fit: n_anchors={config.n_anchors}, {n} there")
    try:
        with torch.device("meta"), _WithoutNoise():
            network = MMSANetwork(config)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source} cannot be built: {error}") from error
    copy_tensors(network, tensors, [""], source)


def _read_exemplars(path: Path, described: Mapping[str, Any]) -> list[list[tuple[str, float]]]:
    if "exemplars_sha256" not in described:  # an export of an earlier version
        data = path.read_bytes() if path.is_file() else b"[]"
    elif described["exemplars_sha256"] is None:  # a file that is there is another model's
        data = b"[]"
    elif path.is_file():
        data = _checked(path, described["exemplars_sha256"])
    else:
        raise _TornError(f"{path} is missing")
    return [[(str(s), float(x)) for s, x in row] for row in json.loads(data)]


def _checked(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    if data.startswith(b"version https://git-lfs"):  # a clone without Git LFS
        raise CheckpointError(f"{path} only points to the file in Git LFS: run git lfs pull")
    if hashlib.sha256(data).hexdigest() != digest:
        raise _TornError(f"{path} does not match the checksum in config.json")
    return data


def model_card(folder_or_name: str | os.PathLike, name: str | None = None) -> str:
    """Return a model card: what an export says of itself, as the text of a ``README.md``.

    It is a start: what the model is for, and its licence, only the author knows.

    Parameters
    ----------
    folder_or_name : path-like
        As in :func:`load_pretrained`, or the folder of an ensemble.
    name : str, optional
        By which others load the model; by default the folder's name.

    Raises
    ------
    FileNotFoundError, CheckpointError
        As :func:`load_pretrained`.

    Examples
    --------
    >>> print(model_card("mmsa-small", "hf:me/mine").splitlines()[5])
    # me/mine
    """
    each: list[str | os.PathLike] = [*hub.members(hub.find_model(folder_or_name))]
    found, *others = map(load_pretrained, each or [folder_or_name])
    name = name or Path(folder_or_name).resolve().name
    parameters = sum(tensor.numel() for tensor in found.tensors.values())
    exemplars = sum(map(len, found.exemplars))
    return card_text(name, found.config, found.metadata, parameters, exemplars, 1 + len(others))


def publish(folder: str | os.PathLike, name: str, private: bool = False) -> str:
    """Upload an exported model to the Hugging Face hub, with ``README.md`` as its model card.

    Without this file, and if there is no card on the hub yet, :func:`model_card` is sent.
    ``exemplars.json`` names molecules of the pre-training: leave it out of the export
    (``exemplars=False``) if they are confidential.

    Parameters
    ----------
    folder : path-like
        As written by ``save_pretrained``, or the folder of an ensemble. It is read and verified
        before anything is sent.
    name : str
        ``hf:owner/model``; the repository is created where there is none yet.
    private : bool

    Returns
    -------
    str
        URL of the repository.

    Raises
    ------
    ModuleNotFoundError
        Without ``huggingface_hub`` (the extra ``hub``).
    FileNotFoundError, CheckpointError
        If the folder holds no complete export.
    ValueError
        For a malformed name, or if `private` is asked for a repository that is public.
    OSError
        If the hub cannot be reached, or refuses.
    """
    folder = Path(folder).resolve()
    card = model_card(folder, name)
    for one in hub.members(folder) or [folder]:
        if (one / PREVIOUS).is_dir():  # which was read, and would not be sent
            raise CheckpointError(f"writing {one} was interrupted: export the model again")
    return hub.upload(folder, name, private, card)


def copy_tensors(
    network: nn.Module, tensors: Mapping[str, Tensor], prefixes: Iterable[str], source: str
) -> None:
    """Copy parameters and buffers by name; each must be in the source, with the same shape.

    An encoder, a head or a whole network must have the same ones on both sides: the first layers
    of a deeper one mean nothing without the others. (The fusion may leave out parts of views.)

    Parameters
    ----------
    network : torch.nn.Module
        Where to copy to, in place.
    tensors : mapping
        Where to copy from.
    prefixes : iterable of str
        Copy the names that begin with one of these.
    source : str
        Name of the source in error messages.

    Raises
    ------
    CheckpointError
        If a name is missing or has another shape; nothing is copied then.
    """
    starts = tuple(prefixes)
    mine = {k: v for k, v in tensors_of(network).items() if k.startswith(starts)}
    entire = tuple(p for p in starts if not p or p.startswith(("encoders.", "head.")))
    check_tensors(mine, tensors, entire, source)
    with torch.no_grad():
        for name, value in mine.items():
            value.copy_(tensors[name])
