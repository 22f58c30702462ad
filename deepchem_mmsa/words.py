"""Numbers and counts in messages and on pages."""

from __future__ import annotations

import math


def number(value: float, digits: int = 3) -> str:
    """Format a number with a few significant digits; a dash if it is not finite.

    Examples
    --------
    >>> number(-0.12345), number(float("nan")), number(1234567.0), number(2.0)
    ('−0.123', '–', '1.23e+06', '2')
    """
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "–"


def counted(n: int, one: str, many: str = "") -> str:
    """Format a count with its noun.

    Examples
    --------
    >>> counted(1, "row"), counted(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
