"""Charts as inline SVG: small, themed by the page's style sheet, readable without a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Self

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 42


class Chart:
    """One pair of axes.

    Colours are CSS classes of the page: ``c0`` to ``c7`` of a palette for all colour vision,
    ``train``, ``valid``, ``test``, and ``faint``.

    Parameters
    ----------
    x, y : array-like
        Values that the axes must cover; NaN are ignored.
    x_label, y_label : str
    title : str
        Text for screen readers.
    whole_x : bool
        Whether ticks of x are whole numbers.
    square : bool
        Whether both axes have the same range and length.

    Examples
    --------
    >>> chart = Chart([0, 1], [0, 2], "x", "y", "a line").line([0, 1], [0, 2], "c0")
    >>> chart.svg()[:26], chart.svg().count("<path")  # grid, axes, line
    ('<svg class="chart" viewBox', 3)
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        x_label: str,
        y_label: str,
        title: str,
        whole_x: bool = False,
        square: bool = False,
    ) -> None:
        self._labels, self._title = (x_label, y_label), title
        self._height = WIDTH - _LEFT - _RIGHT + _TOP + _BOTTOM if square else HEIGHT
        if square:
            x = y = np.concatenate([np.ravel(x), np.ravel(y)])
        self._x, self._x_ticks = _range(x, whole_x)
        self._y, self._y_ticks = _range(y, False)
        self._marks: list[str] = []

    def line(self, x: ArrayLike, y: ArrayLike, kind: str, thin: bool = False) -> Self:
        """Draw a line, interrupted by NaN."""
        path, joined = [], False
        for px, py in zip(*self._places(x, y)):
            there = bool(np.isfinite(px) and np.isfinite(py))
            if there:
                path.append(f"{'L' if joined else 'M'}{px:.1f} {py:.1f}")
            joined = there
        self._marks.append(
            f'<path class="line {kind}{" thin" if thin else ""}" d="{"".join(path)}"/>'
        )
        return self

    def points(
        self, x: ArrayLike, y: ArrayLike, kind: str, titles: Iterable[str] = (), r: float = 2.6
    ) -> Self:
        """Draw discs, with titles that browsers show on hovering."""
        xs, ys = self._places(x, y)
        said = list(titles) or [""] * len(xs)
        self._marks += [
            f'<circle class="dot {kind}" cx="{px:.1f}" cy="{py:.1f}" r="{r}">'
            + (f"<title>{escape(text)}</title>" if text else "") + "</circle>"
            for px, py, text in zip(xs, ys, said) if np.isfinite(px) and np.isfinite(py)
        ]  # fmt: skip
        return self

    def intervals(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, kind: str) -> Self:
        """Draw vertical lines from low to high."""
        xs, lows = self._places(x, low)
        _, highs = self._places(x, high)
        path = "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(xs, lows, highs))
        self._marks.append(f'<path class="whisker {kind}" d="{path}"/>')
        return self

    def steps(self, edges: ArrayLike, heights: ArrayLike, kind: str) -> Self:
        """Draw the outline of a histogram."""
        e, h = np.asarray(edges, float), np.asarray(heights, float)
        x = np.repeat(e, 2)
        y = np.concatenate([[0.0], np.repeat(h, 2), [0.0]])
        return self.line(x, y, kind)

    def diagonal(self) -> Self:
        """Draw the line ``y = x``."""
        low, high = max(self._x[0], self._y[0]), min(self._x[1], self._y[1])
        return self.line([low, high], [low, high], "faint", thin=True)

    def svg(self) -> str:
        """Return the chart as an SVG element."""
        right, bottom = WIDTH - _RIGHT, self._height - _BOTTOM
        grid, words = [], []
        for value in self._y_ticks:
            _, (y,) = self._places([self._x[0]], [value])
            grid.append(f"M{_LEFT} {y:.1f}H{right}")
            words.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{_say(value)}</text>')
        for value in self._x_ticks:
            (x,), _ = self._places([value], [self._y[0]])
            grid.append(f"M{x:.1f} {bottom}v4")
            words.append(f'<text x="{x:.1f}" y="{bottom + 17}" class="mid">{_say(value)}</text>')
        x_label, y_label = (escape(label) for label in self._labels)
        middle = (_TOP + bottom) / 2
        words.append(
            f'<text x="{(_LEFT + right) / 2:.0f}" y="{self._height - 6}" class="mid name">'
            f"{x_label}</text>"
            f'<text transform="translate(12 {middle:.0f}) rotate(-90)" class="mid name">'
            f"{y_label}</text>"
        )
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {self._height}" role="img" '
            f'aria-label="{escape(self._title)}"><path class="grid" d="{"".join(grid)}"/>'
            f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
            + f"{''.join(words)}{''.join(self._marks)}</svg>"
        )

    def _places(self, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        (x0, x1), (y0, y1) = self._x, self._y
        width, height = WIDTH - _LEFT - _RIGHT, self._height - _TOP - _BOTTOM
        px = _LEFT + (np.asarray(x, float) - x0) / (x1 - x0) * width
        return px, _TOP + (y1 - np.asarray(y, float)) / (y1 - y0) * height


def _range(values: ArrayLike, whole: bool) -> tuple[tuple[float, float], Sequence[float]]:
    """Return the ends of an axis and its ticks."""
    known = np.ravel(np.asarray(values, float))
    known = known[np.isfinite(known)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        reach = 0.5 * abs(low) or 0.5
        low, high = low - reach, high + reach
    margin = 0.04 * (high - low)
    low = low if low == 0 else low - margin
    ends = low, high + margin
    ticks = MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(*ends)
    return ends, [float(t) for t in ticks if ends[0] <= t <= ends[1]]


def _say(value: float) -> str:
    text = f"{value:.6g}"
    return text.replace("-", "−")
