"""Settings of the views: which to make, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from deepchem_mmsa.molecule import DEFAULT_MODALITIES, MODALITIES
from deepchem_mmsa.views.conformer import DEFAULT_TIMEOUT
from deepchem_mmsa.views.depiction import DEFAULT_SIZE, MAX_SIZE, MIN_SIZE

if TYPE_CHECKING:
    from deepchem_mmsa.config import MMSAConfig


MAX_TIMEOUT = 86_400.0
"""Most seconds for a conformer: a day, in effect no limit."""


@dataclass(frozen=True)
class ViewSettings:
    """Which views to make of a molecule, and how.

    Parameters
    ----------
    modalities : sequence of str, optional
        Any of ``"image"``, ``"graph"``, ``"geometry"``, ``"fingerprint"``, at least one; the
        first three by default.
    image_size : int, optional
        Pixels per side of the image.
    seed : int, optional
        Seed of the conformer.
    conformer_timeout : float, optional
        Seconds of processor time per molecule before its conformer is abandoned, up to a day.
    optimize_conformer : bool, optional
        Relax the conformer by a force field.

    Raises
    ------
    ValueError
        If a value is out of range, or a modality is unknown (the message lists the known ones).

    Examples
    --------
    >>> ViewSettings(modalities=("picture",))
    Traceback (most recent call last):
    ...
    ValueError: unknown modality 'picture': choose from image, graph, geometry, fingerprint
    """

    modalities: tuple[str, ...] = DEFAULT_MODALITIES
    image_size: int = DEFAULT_SIZE
    seed: int = 0
    conformer_timeout: float = DEFAULT_TIMEOUT
    optimize_conformer: bool = False

    def __post_init__(self) -> None:
        given = (self.modalities,) if isinstance(self.modalities, str) else tuple(self.modalities)
        for name in given:
            if name not in MODALITIES:
                raise ValueError(f"unknown modality {name!r}: choose from {', '.join(MODALITIES)}")
        if not given:
            raise ValueError(f"no modality given: choose from {', '.join(MODALITIES)}")
        ordered = tuple(name for name in MODALITIES if name in given)
        object.__setattr__(self, "modalities", ordered)
        for name in ("image_size", "seed"):  # RDKit and JSON do not take NumPy's numbers
            value = getattr(self, name)
            if value != int(value):
                raise ValueError(f"{name} must be a whole number, got {value}")
            object.__setattr__(self, name, int(value))
        if not MIN_SIZE <= self.image_size <= MAX_SIZE:
            raise ValueError(
                f"image_size must be {MIN_SIZE} to {MAX_SIZE} pixels, got {self.image_size}"
            )
        if not 0 <= self.seed < 1 << 31:
            raise ValueError(f"seed must be 0 to 2147483647, got {self.seed}")
        if not 0 <= self.conformer_timeout <= MAX_TIMEOUT:
            raise ValueError(
                f"conformer_timeout must be 0 to {MAX_TIMEOUT:g} seconds, got "
                f"{self.conformer_timeout}"
            )
        object.__setattr__(self, "conformer_timeout", float(self.conformer_timeout))
        object.__setattr__(self, "optimize_conformer", bool(self.optimize_conformer))

    @classmethod
    def of(cls, config: MMSAConfig, drawn: int = 0) -> Self:
        """Return the settings for the views that a network reads.

        Parameters
        ----------
        config : MMSAConfig
        drawn : int, optional
            Side of the images that it was trained on, if known; images are drawn at this size
            and resampled to the one that the encoder sees.
        """
        return cls(config.modalities, drawn or config.image_size)
