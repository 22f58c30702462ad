"""``mmsa info``: versions and devices, or the description of a model."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Annotated, Any

import typer

from deepchem_mmsa._version import __version__
from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, visible

_LIBRARIES = ("torch", "dgl", "dgllife", "deepchem", "rdkit", "numpy", "pandas", "scikit-learn")


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Folder of an exported model, or name of a shipped one."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show versions, devices and shipped models, or the card and configuration of one model."""
    described = _surroundings() if model is None else _model(model)
    if as_json:
        Console(as_json=True).result(described, "")
        return
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2))
    for key, value in described.items():
        if isinstance(value, dict):
            value = "\n".join(f"{k}: {_plain(v)}" for k, v in value.items())
        table.add_row(visible(key), visible(_plain(value)))
    RichConsole(highlight=False, markup=False).print(table)


def _plain(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return ", ".join(map(str, value)) or "none"
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _surroundings() -> dict[str, Any]:
    """Return the versions and devices that a bug report should include."""
    import torch

    from deepchem_mmsa.hub import shipped_models
    from deepchem_mmsa.layers.dgl_backend import dgl_supports

    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    devices = ["cpu"]
    devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "deepchem_mmsa": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "libraries": versions,
        "devices": devices,
        "messages on graphs": {
            device: "DGL" if dgl_supports(device) else "torch" for device in devices
        },
        "threads": torch.get_num_threads(),
        "shipped models": shipped_models(),
    }


def _model(folder_or_name: str) -> dict[str, Any]:
    """Return the metadata and configuration of an exported model."""
    from deepchem_mmsa.exports import load_pretrained

    found = load_pretrained(folder_or_name)
    return {
        "model": folder_or_name,
        "parameters": sum(tensor.numel() for tensor in found.tensors.values()),
        "anchors with exemplars": sum(bool(row) for row in found.exemplars),
        **{key: value for key, value in found.metadata.items() if value is not None},
        "config": found.config.to_dict(),
    }
