"""``mmsa report``: an HTML page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, ExitCode, Failure


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Output folder of finetune or pretrain.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path(
        "report.html"
    ),
    title: Annotated[
        str | None, typer.Option(help="Title of the page; by default the folder's name.")
    ] = None,
    projection: Annotated[
        str, typer.Option(help="Projection of the map: pca, or umap, which needs umap-learn.")
    ] = "pca",
    points: Annotated[
        int,
        typer.Option(
            metavar="N", min=3, help="Maximum number of molecules on the map, drawn at random."
        ),
    ] = 1500,
    resamples: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Bootstrap resamples for the confidence intervals of scores."
        ),
    ] = 1000,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Write one HTML page about a run: data, training, scores, map of molecules, memory, errors.

    The page is self-contained and loads nothing from outside; see docs/report.md.
    """
    console = Console(quiet, as_json)
    from deepchem_mmsa.cli.rows import checked_device
    from deepchem_mmsa.report import write_report

    if projection not in ("pca", "umap"):
        raise Failure(f"--projection {projection}: choose pca or umap", ExitCode.USAGE)
    if not output.parent.is_dir():
        raise Failure(
            f"there is no folder {output.parent} to write {output.name} to", ExitCode.OUTPUT
        )
    device = checked_device(device)
    path = write_report(
        output, run, title=title, projection=projection, max_points=points, resamples=resamples,
        seed=seed, device=device,
    )  # fmt: skip
    size = path.stat().st_size
    console.result(
        {"run": str(run), "output": str(path), "bytes": size},
        f"{path} ({size / 1e6:.1f} MB) shows {run}; open it in a browser",
    )
