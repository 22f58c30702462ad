"""What is worth knowing of labelled molecules before a network is trained on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from deepchem_mmsa.datasets import canonical_text, shared_rows

#: Median absolute deviations, scaled to standard deviations, from which a label is remarkable.
#: The farthest labels of ESOL, FreeSolv and Lipophilicity have 3 to 7.
FAR = 30.0


def notes_on(
    labels: Mapping[str, np.ndarray],
    part: np.ndarray,
    smiles: np.ndarray,
    kind: str,
    split: str,
    guessed: bool,
    tested: bool,
    classes: Sequence[str] = (),
) -> Iterator[str]:
    """Yield a summary of the training data, and warnings about it.

    Parameters
    ----------
    labels : mapping of str to np.ndarray
        Task to ``[N]`` values, NaN where one is missing.
    part : np.ndarray
        ``[N]`` "train", "valid", "test", or "" for a row that takes no part.
    smiles : np.ndarray
        ``[N]``.
    kind : {"classification", "regression"}
    split : str
    guessed : bool
        Whether `kind` was inferred.
    tested : bool
        Whether a test set was asked for.
    classes : sequence of str
        Names of the classes, where the labels are words.
    """
    sizes = ", ".join(f"{(part == name).sum()} {name}" for name in ("train", "valid", "test"))
    yield f"{kind} of {', '.join(labels)}: {sizes} molecules ({split} split)"
    if classes:
        numbered = ", ".join(f"class {i} is {word}" for i, word in enumerate(classes))
        scored = f"; pr_auc is that of {classes[1]}" if len(classes) == 2 else ""
        yield f"{numbered} (alphabetical; write 0, 1, ... for another order){scored}"
    for task, values in labels.items():
        if len(_distinct(values[part == "train"])) < 2:
            yield f"the labels of {task} are all the same in training: there is nothing to learn"
        if guessed and kind == "regression" and _distinct(values) == {0, 1}:
            yield (
                f"{task} holds only 0 and 1, but is trained as regression like the other labels; "
                "for probabilities train it in a separate run"
            )
        if kind == "regression" and (found := outlier(np.where(part == "", np.nan, values))):
            row, deviations = found
            yield (
                f"{task}, row {row + 1}: the label {values[row]:g} is {deviations:.0f} robust "
                "standard deviations from the median: correct it if it is a mistake, and take "
                "logarithms of labels that span orders of magnitude"
            )
    trained = {task: np.where(part == "train", values, np.nan) for task, values in labels.items()}
    if pairs := contradictions(trained, smiles, kind):
        task, one, other = pairs[0]
        values, far = labels[task], " by more than a standard deviation" * (kind == "regression")
        yield (
            f"{len(pairs)} label(s) of molecules with several training rows differ{far}; the first "
            f"is {task}, {values[one]:g} in row {one + 1} and {values[other]:g} in row "
            f"{other + 1}: correct it if it is a mistake, and give each molecule one row"
        )
    for name in ("valid", "test"):
        rows = shared_rows(smiles, part == "train", part == name)
        forms = set(shared_rows(smiles, part == "train", part == name, forms=True)) - set(rows)
        if forms:
            yield (
                f"{len(forms)} of {(part == name).sum()} {name} molecules are in train as another "
                f"salt, stereoisomer or tautomer (the first is row {min(forms) + 1}): if the label "
                "does not depend on the form, split by a column that keeps the forms together"
            )
        if rows:
            yield (
                f"{len(rows)} of {(part == name).sum()} {name} molecules are in train too (the "
                f"first is row {rows[0] + 1}), so that the {name} score flatters the model: "
                "give each molecule one row, or split by scaffold"
            )
    if not (part == "test").any() and tested:
        yield f"the {split} split left no row for test: there is no test score"


def outlier(values: np.ndarray) -> tuple[int, float] | None:
    """Return the row of the most remote label and how remote it is, if that is far.

    In median absolute deviations from the median, times 1.4826, which makes them standard
    deviations where the labels are normally distributed.

    Examples
    --------
    >>> outlier(np.array([1.0, 2.0, 3.0, 1e6, np.nan]))[0]
    3
    >>> outlier(np.array([1.0, 2.0, 3.0])) is None
    True
    """
    if np.isnan(values).all():
        return None
    distance = np.abs(values - np.nanmedian(values))
    scale = 1.4826 * float(np.nanmedian(distance))
    row = int(np.nanargmax(distance))
    if scale == 0 or distance[row] < FAR * scale:
        return None
    return row, float(distance[row] / scale)


def contradictions(
    labels: Mapping[str, np.ndarray], smiles: np.ndarray, kind: str
) -> list[tuple[str, int, int]]:
    """Return where rows of one molecule have labels that contradict each other.

    Classes contradict each other if they differ, and values if they differ by more than the
    standard deviation of the task's labels: measurements scatter.

    Returns
    -------
    list of tuple
        Task and two rows, for each molecule and task.

    Examples
    --------
    >>> known = {"y": np.array([0.0, 1.0, 1.0, np.nan])}
    >>> contradictions(known, np.array(["CCO", "CCN", "OCC", "CCN"]), "classification")
    [('y', 0, 2)]
    """
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(smiles):
        rows_of.setdefault(canonical_text(str(text)), []).append(row)
    repeated = [np.array(rows) for rows in rows_of.values() if len(rows) > 1]
    found = []
    for task, values in labels.items():
        least = float(np.std(values[~np.isnan(values)])) if kind == "regression" else 0.0
        for rows in repeated:
            there = rows[~np.isnan(values[rows])]
            if len(there) > 1 and np.ptp(values[there]) > least:
                ends = there[values[there].argmin()], there[values[there].argmax()]
                found.append((task, int(min(ends)), int(max(ends))))
    return found


def _distinct(values: np.ndarray) -> set[float]:
    """Return the labels that are not missing."""
    return {value for value in values.tolist() if value == value}
