"""``mmsa explain``: explain the predictions of a model, as HTML pages and a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepchem_mmsa.cli import options
from deepchem_mmsa.cli.console import Console, ExitCode, Failure, keep_input, make_folder
from deepchem_mmsa.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from deepchem_mmsa.predictor import MMSAPredictor
    from deepchem_mmsa.tables import Table


def explain(
    source: options.Input,
    model: Annotated[str, typer.Option("--model", "-m", help="Folder of a fine-tuned model.")],
    output: options.OutputFolder,
    task: Annotated[
        str | None, typer.Option(help="Name of the label to explain; by default the first.")
    ] = None,
    target: Annotated[
        int | None,
        typer.Option(
            help="Number of the class to explain, from 0; by default 1 of two classes, else the "
            "most probable."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            "-r",
            help="Table of molecules, usually the training set, of which the nearest are shown, "
            "with their measured labels if the table has them.",
        ),
    ] = None,
    svg: Annotated[
        bool, typer.Option("--svg", help="Also write the map of contributions as SVG.")
    ] = False,
    smiles_column: options.SmilesColumn = None,
    reference_column: options.ReferenceColumn = None,
    format: options.InputFormat = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> None:
    """Explain predictions: an HTML page per row, an index, and a table with each view's share.

    A page shows the contributions of atoms, bonds and views, the memory anchors
    and the nearest molecules; see docs/explain.md.
    """
    import pandas as pd

    from deepchem_mmsa.atomic import write_text
    from deepchem_mmsa.cli.rows import (
        column_of_other,
        compute_table,
        file_identity,
        load_model,
        model_identity,
        other_records,
    )
    from deepchem_mmsa.explain import explain as explain_molecule
    from deepchem_mmsa.explain import read_references
    from deepchem_mmsa.tables import read_table
    from deepchem_mmsa.views import many_views

    console = Console(quiet, as_json)
    if reference == "-":
        raise typer.BadParameter("--reference must be a file; standard input is for IN")
    predictor = load_model(model, device)
    _check_question(predictor, model, task, target)
    settings = predictor.settings
    asked = task or predictor.tasks[0]
    others: list[object] = []
    told: list[tuple[str, str]] = []
    if reference:
        column = column_of_other(reference, reference_column, smiles_column)
        for table, records in other_records(reference, column, "--reference-column", settings):
            others += records
            told += names_and_labels(table, asked)
    known = read_references(predictor, others, *zip(*told))
    keep_input(source, output / "explanations.csv")
    make_folder(output)

    def compute(
        table: Table, molecules: Sequence[object], progress: Callable[[int], None]
    ) -> tuple[pd.DataFrame, list[str]]:
        rows: list[dict[str, object]] = []
        reasons = []
        # Each is featurized in a child process first, so that a crash fails only its row.
        records = many_views(molecules, settings, contained=True)
        known_of = names_and_labels(table, asked)
        for index, (molecule, record) in enumerate(zip(molecules, records)):
            try:
                given = molecule if record.readable else record
                why = explain_molecule(predictor, given, task or 0, target, references=known)
            except ValueError as error:  # invalid molecule or no view: the message says which
                rows.append({})
                reasons.append(str(error))
            else:
                row, (name, label) = table.start + index + 1, known_of[index]
                measured = label and f"{asked} measured: {label}"
                origin = [name, f"row {row} of {Path(table.name).name}", measured, f"model {model}"]
                why.source = " · ".join(filter(None, origin))
                page = output / f"{row:05d}.html"
                why.save(page)
                if svg:
                    why.save(page.with_suffix(".svg"))
                rows.append(
                    {"class": why.class_name, "prediction": why.prediction,
                     "output": why.output, "baseline": why.baseline,
                     **{f"share_{view.name}": view.share for view in why.views},
                     "page": page.name}
                )  # fmt: skip
                reasons.append("")
            progress(index + 1)
        of_class = [] if predictor.config.mode == "regression" else ["class"]
        names = ["prediction", "output", "baseline"]
        names += [f"share_{name}" for name in predictor.config.modalities]
        frame = pd.DataFrame(rows, columns=[*of_class, *names, "page"])
        # float32 is the precision of the network's output.
        return frame.astype(dict.fromkeys(names, "float32")), reasons

    compute_table(
        console, "explain", source, str(Path(output) / "explanations.csv"), lambda: compute,
        smiles_column, format,
        {"model": model_identity(model), "task": task, "target": target, "svg": svg,
         "smiles_column": smiles_column,
         "reference": reference and [file_identity(reference), reference_column]},
        chunk=10,
    )  # fmt: skip
    written = read_table(output / "explanations.csv", smiles_column)
    with_class = predictor.config.mode == "classification"
    n_new = 6 + with_class + len(predictor.config.modalities)
    write_text(output / "index.html", index_page(written, asked, n_new, with_class))


def index_page(table: Table, task: str, n_new: int, with_class: bool) -> str:
    """Return a page with a line and a link, or the reason, for each row of ``explanations.csv``.

    Parameters
    ----------
    table : Table
    task : str
    n_new : int
        Columns that :func:`explain` has added, the last ones; others may have the same names.
    with_class : bool
        Whether the first of them is the class.
    """
    from html import escape

    from deepchem_mmsa.page import html_document

    given, made = table.frame.iloc[:, :-n_new], table.frame.iloc[:, -n_new:]
    names, labels = zip(*names_and_labels(replace(table, frame=given), task))
    columns = {name.partition(": ")[0] for name in names if name}
    head = columns.pop() if len(columns) == 1 else "name"  # said once where all rows have it
    lines = []
    for row, (smiles, name, label, found) in enumerate(
        zip(table.smiles, names, labels, made.to_numpy().tolist()), start=1
    ):
        *_, page, status, reason = found
        told = f'<td class="soft">{escape(reason)}</td>'
        if status == "ok":
            of_class = f" (class {found[0]})" if with_class else ""
            text = escape(f"{float(found[with_class]):.4g}{of_class}")
            told = f'<td class="num"><a href="{page}">{text}</a></td>'
        lines.append(
            f'<tr><td class="num">{row}</td><td>{escape(name.removeprefix(head + ": "))}</td>'
            f'<td class="num">{escape(label)}</td>{told}<td><code>{escape(str(smiles))}</code></td>'
            "</tr>"
        )
    cells = "".join(
        f'<th class="num">{text}</th>' if text in ("row", "measured", "predicted")
        else f"<th>{escape(text)}</th>"
        for text in ("row", head, "measured", "predicted", "SMILES")
    )  # fmt: skip
    body = "\n".join(lines)
    n = int((made.iloc[:, -2] == "ok").sum())
    content = (
        f'<p class="soft">{n} of {counted(len(lines), "row")} explained: a prediction leads to its '
        f'page.</p>\n<div class="card scroll" tabindex="0" role="region" aria-label="Rows">'
        f"<table><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
    style = (
        "table { width: 100%; } td:nth-child(2) { min-width: 10em; overflow-wrap: anywhere; } "
        "td.soft { text-align: right; } td:last-child { min-width: 12em; width: 45%; }"
    )
    return html_document(f"Explanations of {task}", content, "", style)


def names_and_labels(table: Table, task: str) -> list[tuple[str, str]]:
    """Return for each row its name, with that of its column, and its measured label, "" for none.

    The name is the row's first text beside SMILES and label, or its first number if there is none.

    Examples
    --------
    >>> import pandas as pd
    >>> from deepchem_mmsa.tables import Table
    >>> frame = pd.DataFrame({"batch": ["7"], "ID": ["A-1"], "smiles": ["CCO"], "logS": ["1.10"]})
    >>> names_and_labels(Table(frame, ["CCO"], "my.csv", "smiles"), "logS")
    [('ID: A-1', '1.1')]
    """
    from deepchem_mmsa.tables.files import MISSING

    cells = table.frame.astype(object).where(table.frame.notna(), "").astype(str)
    found = []
    for row in cells.to_dict("records"):
        row.pop(table.smiles_column)
        label = row.pop(task, "")
        there = {
            column: text for column, text in row.items() if text.strip().lower() not in MISSING
        }
        texts = [column for column in there if not _is_number(there[column])]
        name = next(iter([*texts, *there]), None)
        found.append(
            ("" if name is None else f"{name}: {_cut(there[name])}",
             "" if label.strip().lower() in MISSING else _short(label))
        )  # fmt: skip
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # 12_01 is 1201 to Python alone


def _cut(text: str) -> str:
    return " ".join(text.split())[:80]


def _short(text: str) -> str:
    return f"{float(text):.6g}" if _is_number(text) else _cut(text)


def _check_question(
    predictor: MMSAPredictor, model: str, task: str | None, target: int | None
) -> None:
    """Raise a Failure if the model has no labels, no such task, or no such class."""
    config = predictor.config
    if config.mode == "pretraining":
        raise Failure(
            f"the model {model} was pre-trained only and predicts no labels: fine-tune it first",
            ExitCode.MODEL,
        )
    if task is not None and task not in predictor.tasks:
        raise Failure(
            f"the model {model} has no task {task!r}; its tasks are: {', '.join(predictor.tasks)}",
            ExitCode.USAGE,
        )
    if target is not None and config.mode == "regression":
        raise Failure(f"--target {target}: the model {model} has no classes", ExitCode.USAGE)
    if target is not None and not 0 <= target < config.n_classes:
        raise Failure(
            f"--target {target}: the classes of {model} are 0 to {config.n_classes - 1}",
            ExitCode.USAGE,
        )
