"""Options shared by several commands, and the YAML file that sets their defaults."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deepchem_mmsa.hub import DEFAULT_MODEL as DEFAULT_MODEL


def _from_file(ctx: typer.Context, value: Path | None) -> Path | None:
    """Take defaults from a YAML file; options on the command line take precedence."""
    if value is None or ctx.resilient_parsing:
        return value
    import yaml

    try:
        given = yaml.safe_load(value.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"cannot read {value}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{value} is not YAML: {' '.join(str(error).split())}") from error
    if given is None:
        return value
    if not isinstance(given, dict):
        raise typer.BadParameter(f"{value} must hold lines like 'batch-size: 64'")
    places: dict[str, Any] = {}
    for parameter in ctx.command.params:
        if parameter.name not in ("config", "help"):
            places.update(dict.fromkeys(_spellings(parameter), parameter))
    defaults: dict[str, Any] = {}
    for key, content in given.items():
        named = places.get(str(key).replace("_", "-"))
        if named is None:
            close = difflib.get_close_matches(str(key).replace("_", "-"), places, n=1)
            known = ", ".join(dict.fromkeys(max(_spellings(p), key=len) for p in places.values()))
            hint = f"did you mean {close[0]!r}?" if close else f"known are: {known}"
            raise typer.BadParameter(f"{value}: unknown key {key!r}; {hint}")
        if isinstance(content, Mapping):
            content = [f"{name}={json.dumps(item, default=str)}" for name, item in content.items()]
        if named.multiple and not isinstance(content, list):
            content = [content]
        defaults[str(named.name)] = content
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return value


def _spellings(parameter: Any) -> list[str]:
    """Return a parameter's names in the YAML file: those of the command line, without dashes."""
    if parameter.param_type_name == "argument":
        return [str(parameter.metavar or parameter.name).lower()]
    return [o.lstrip("-") for o in parameter.opts if o.startswith("--")]


Input = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="Molecules: CSV, TSV, SMI, SDF or Parquet file, gzipped or not; - is standard input.",
        show_default=False,
    ),
]
OutputTable = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        help="Output table: .csv, .tsv, .jsonl (these also .gz) or .parquet; - is standard output.",
    ),
]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", help="Output folder.", show_default=False)
]


def _shipped(incomplete: str) -> list[str]:
    from deepchem_mmsa.hub import shipped_models

    return [name for name in shipped_models() if name.startswith(incomplete)]


Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Folder of an exported model, or name of a shipped one.",
        autocompletion=_shipped,
    ),
]  # fmt: skip
Models = Annotated[
    list[str],
    typer.Option(
        "--model", "-m", autocompletion=_shipped,
        help="Folder of a fine-tuned model. With several (repeat the option, or use finetune "
        "--n-models) the predictions are averaged, and std_TASK is their standard deviation.",
    ),
]  # fmt: skip
FromModel = Annotated[
    str | None,
    typer.Option(
        "--from-model", show_default=False,
        help="Start from the weights of this folder or shipped model; by default "
        f"{DEFAULT_MODEL}, unless --preset is given.",
        autocompletion=_shipped,
    ),
]  # fmt: skip
SmilesColumn = Annotated[
    str | None, typer.Option(help="Column of the SMILES; by default found by its name.")
]
Features = Annotated[
    bool,
    typer.Option(
        "--features",
        help="Also write the outputs of the views' encoders, as inputs for your own models.",
    ),
]
InputFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="csv, tsv, smi, sdf or parquet; by default inferred from file ending or content.",
    ),
]
ReferenceColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the SMILES in the second table; by default --smiles-column if it has one "
        "of that name, else found by its name."
    ),
]


def _some(jobs: int) -> int:
    if jobs == 0:
        raise typer.BadParameter("must not be 0: 1 uses this process only, -1 all cores")
    return jobs


Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j", callback=_some, help="Processes for featurization; -1 uses all cores."
    ),
]
AutoJobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j",
        help="Processes for featurization; -1 uses all cores; 0 decides by file size: all cores "
        "above 64 KB, else only this process.",
    ),
]  # fmt: skip
Workers = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Processes that prepare batches in advance; a GPU needs several, e.g. 4.",
    ),
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Molecules per batch.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Random seed.")]
Device = Annotated[
    str, typer.Option(help="auto (a CUDA GPU if there is one), cpu, cuda, cuda:1 or mps.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors, but no messages and no progress.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, without messages.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="YAML file of options, one per line ('batch-size: 64'); the command line takes "
        "precedence.",
        callback=_from_file,
        is_eager=True,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Resume the interrupted run in the output folder; without a checkpoint it begins.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        help="Train a network of this size (small or base) from scratch, without pre-trained "
        "weights.",
    ),
]
LearningRate = Annotated[
    float, typer.Option(metavar="X", min=0, help="Learning rate of the AdamW optimizer.")
]
Epochs = Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of epochs.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Set a field of MMSAConfig: --set graph_width=128; repeatable.",
    ),
]


NOT_TO_SET = {
    "learning_rate": "--learning-rate", "batch_size": "--batch-size", "seed": "--seed",
    "mode": "what the command does (finetune has --mode)", "n_tasks": "the labels",
    "n_classes": "the labels",
}  # fmt: skip
"""Fields of MMSAConfig that ``--set`` refuses, and what decides them instead."""


def network_fields(settings: list[str] | None) -> dict[str, Any]:
    """Return the configuration fields given by ``--set``, each validated.

    Raises
    ------
    typer.BadParameter
        If a field is unknown, its value is invalid, or it is set by another option or the labels.

    Examples
    --------
    >>> network_fields(["graph_width=64", "modalities=[graph]"])
    {'graph_width': 64, 'modalities': ['graph']}
    """
    import yaml

    from deepchem_mmsa.config import MMSAConfig

    fields: dict[str, Any] = {}
    told: list[str] = []
    for text in settings or []:
        name, sign, value = text.partition("=")
        if not sign:
            raise typer.BadParameter(f"--set {text!r}: write it as field=value")
        name = name.strip().replace("-", "_")
        if name in NOT_TO_SET:
            raise typer.BadParameter(f"--set {text!r}: {name} follows from {NOT_TO_SET[name]}")
        try:
            fields[name] = yaml.safe_load(value)
            MMSAConfig.preset("small", **{name: fields[name]})
        except yaml.YAMLError as error:
            raise typer.BadParameter(
                f"--set {text!r}: the value is not YAML: {' '.join(str(error).split())}"
            ) from error
        except (ValueError, TypeError) as error:
            told.append(f"--set {text!r}: {error}")
    try:
        MMSAConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(told[0] if told else f"--set: {error}") from error
    return fields
