"""Progress bars: redrawn in a terminal, lines in the log of a job."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

SECONDS = 30.0
"""Between two lines of a log; a terminal is redrawn twice a second."""


class _Lines:
    """A stream that gets a line where a terminal would be redrawn."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write what a bar would show, on a line of its own."""
        if line := text.strip():
            self._stream.write(line + "\n")


def progress_bar(shown: bool | None = True, **arguments: Any) -> tqdm:
    """Return a bar of tqdm's on standard error.

    Parameters
    ----------
    shown : bool or None
        None shows it in a terminal only.
    **arguments
        Of ``tqdm``.

    Examples
    --------
    >>> with progress_bar(False, total=2) as bar:
    ...     bar.update()
    """
    if sys.stderr is None:  # closed, or a process of a window
        return tqdm(disable=True, **arguments)
    live = sys.stderr.isatty()
    layout: dict[str, Any] = {"file": sys.stderr, "mininterval": 0.5, "dynamic_ncols": True}
    if not live:
        layout = {"file": _Lines(sys.stderr), "mininterval": SECONDS, "maxinterval": SECONDS}
        layout["ncols"] = 0  # figures without a bar
    return tqdm(disable=not (live if shown is None else shown), **layout, **arguments)


def show_means(bar: tqdm, epoch: int, means: dict[str, float]) -> None:
    """Show the loss, and in pre-training the retrieval, beside the number of steps."""
    told = [f"{name} {means[name]:.4g}" for name in ("loss", "retrieval") if name in means]
    bar.set_postfix_str(f"epoch {epoch} {' '.join(told)}", refresh=False)
