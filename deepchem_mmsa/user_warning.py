"""Warnings that point to the user's line."""

from __future__ import annotations

import sys
import warnings

_BETWEEN = ("deepchem_mmsa", "deepchem", "sklearn", "joblib")
"""Packages whose lines are not the user's."""


def warn_user(message: str) -> None:
    """Issue a warning at the line that called this package, or a tool that calls it.

    Python shows a warning once for each line that it points to. A fixed ``stacklevel`` points
    into this package, or into a pipeline, where the same warning about other molecules is then
    mistaken for a repetition.

    Parameters
    ----------
    message : str

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     warn_user("1 of 3 molecules cannot be read")
    >>> str(told[0].message), told[0].category.__name__
    ('1 of 3 molecules cannot be read', 'UserWarning')
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
