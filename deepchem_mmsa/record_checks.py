"""What a model says of records: why one has no output, and whether another featurizer made them."""

from __future__ import annotations

from collections.abc import Sequence

from deepchem_mmsa.molecule import UNREADABLE, MoleculeViews
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.user_warning import warn_user
from deepchem_mmsa.views.depiction import picture_size

NOT_FINITE = "the model's output is not finite: check that its weights are"
"""The reason for a row whose views were read but whose output is NaN or infinite."""


def missing_reason(record: MoleculeViews, modalities: tuple[str, ...]) -> str:
    """Return why a record has none of the modalities that a model reads.

    For an unreadable molecule the reason is given only once.

    Examples
    --------
    >>> missing_reason(MoleculeViews.unreadable("C(", "unclosed branch"), ("graph",))
    'unreadable: unclosed branch'
    >>> missing_reason(MoleculeViews("C"), ("graph",))
    'graph: the featurizer was not asked for this view'
    """
    given = [
        record.reasons.get(m, "the featurizer was not asked for this view") for m in modalities
    ]
    if len(set(given)) == 1 and given[0].startswith(UNREADABLE):
        return given[0]
    return "; ".join(f"{m}: {reason}" for m, reason in zip(modalities, given))


def drawn_size(records: Sequence[MoleculeViews], modalities: Sequence[str]) -> int:
    """Return the side in pixels of the first image; 0 if there is none, or none is read."""
    pictures = (r.image for r in records if r.image is not None) if "image" in modalities else ()
    return next((picture_size(picture) for picture in pictures), 0)


def unasked_views(records: Sequence[MoleculeViews], modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the views that a model reads but the featurizer of the records was not asked for."""
    some = [record for record in records if record.available]
    return tuple(
        m for m in modalities
        if some and not any(m in r.available or m in r.reasons for r in some)
    )  # fmt: skip


def oddities(
    modalities: Sequence[str], unasked: Sequence[str], drawn: int, trained: int
) -> list[str]:
    """Return warnings about records that another featurizer made than the model's.

    Parameters
    ----------
    modalities : sequence of str
        The views that the model reads.
    unasked : sequence of str
        Those that the records lack (:func:`unasked_views`).
    drawn, trained : int
        Side of the records' images, and of those of the training; 0 if there are none.

    Examples
    --------
    >>> oddities(("graph", "fingerprint"), ("fingerprint",), 0, 0)[0].partition(":")[0]
    'the molecules have no fingerprint, which this model reads as well'
    """
    told = []
    if drawn and drawn != trained:
        told.append(
            f"images of {drawn} pixels, but the model was trained on images drawn at "
            f"{trained}: lines and letters do not scale, so featurize with "
            f"MMSAFeaturizer(image_size={trained}), or mmsa featurize --image-size {trained}"
        )
    if unasked:
        told.append(
            f"the molecules have no {' and no '.join(unasked)}, which this model reads as "
            f"well: featurize with MMSAFeaturizer({list(modalities)}), or give the model fewer "
            "modalities"
        )
    return told


def warn_of_oddities(records: Sequence[MoleculeViews], network: MMSANetwork) -> bool:
    """Warn of records that another featurizer made than the model's; return whether any was."""
    read, trained = network.config.modalities, int(network.picture_size)
    drawn = drawn_size(records, read) if trained else 0
    told = oddities(read, unasked_views(records, read), drawn, trained)
    for text in told:
        warn_user(text)
    return bool(told)
