"""The command-line interface ``mmsa``, one module per command.

Each command calls the public Python API; see docs/cli.md.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Annotated, Any

import typer

from deepchem_mmsa._version import __version__
from deepchem_mmsa.cli.benchmark import benchmark
from deepchem_mmsa.cli.console import ExitCode, command, complain
from deepchem_mmsa.cli.embed import embed
from deepchem_mmsa.cli.explain import explain
from deepchem_mmsa.cli.featurize import featurize
from deepchem_mmsa.cli.finetune import finetune
from deepchem_mmsa.cli.info import info
from deepchem_mmsa.cli.neighbors import neighbors
from deepchem_mmsa.cli.predict import predict
from deepchem_mmsa.cli.pretrain import pretrain
from deepchem_mmsa.cli.report import report

__all__ = ["app", "main"]

app = typer.Typer(
    name="mmsa",
    help="Multi-modal molecular representations: pre-train, fine-tune, predict, embed, explain.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 2 usage, 3 input, 4 model, 5 output, 6 training diverged, "
    "130 interrupted (can be resumed), 143 terminated.",
)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for function, example in (
    (featurize, "mmsa featurize zinc.csv.gz --output zinc.records --jobs 8"),
    (pretrain, "mmsa pretrain zinc.csv.gz --output runs/base --epochs 20"),
    (finetune, "mmsa finetune bbbp.csv --label p_np --output runs/bbbp"),
    (predict, "mmsa predict new.csv --model runs/bbbp --output predicted.csv"),
    (embed, "mmsa embed library.smi.gz --output library.parquet --jobs 8"),
    (explain, "mmsa explain hits.csv --model runs/bbbp --output why"),
    (neighbors, "mmsa neighbors hits.csv --reference library.csv --count 5 --output near.csv"),
    (report, "mmsa report runs/bbbp --output bbbp.html"),
    (benchmark, "mmsa benchmark bbbp esol --output runs/benchmark"),
    (info, "mmsa info runs/bbbp"),
):
    command(app, example)(function)


# click's UsageError, of which newer versions of typer vendor a copy
_UsageError: Any = typer.BadParameter.__mro__[1]


def _terminate(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def _open_closed_streams() -> None:
    """Put the null device where the caller closed a standard stream (``2>&-``).

    The next file to be opened would get its number, and what C++ code prints would end in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def main() -> None:
    """Run the command line; the entry point of ``mmsa`` and ``python -m deepchem_mmsa``."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # letters that it lacks, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    # SIGTERM, as a scheduler sends it, is handled like Ctrl-C: no partial files, can be resumed.
    signal.signal(signal.SIGTERM, _terminate)
    # Processes that this one starts look for modules where it does: not in the current folder, in
    # which a random.py or select.py may lie.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    # OpenMP threads spin while they wait for each other, which is slow on cores shared with other
    # processes. The variable is read when torch is loaded, later (docs/performance.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if "--json" not in sys.argv:
        sys.exit(app(prog_name="mmsa"))
    try:
        sys.exit(app(prog_name="mmsa", standalone_mode=False))
    except _UsageError as error:
        complain("", error.format_message(), ExitCode.USAGE, True)
        sys.exit(ExitCode.USAGE)
