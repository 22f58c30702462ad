"""One molecule as stored in a dataset's ``X``: image, 2D graph, 3D conformer, fingerprint.

:class:`MoleculeViews` is what :class:`~deepchem_mmsa.featurizer.MMSAFeaturizer` makes and what
every other part of the package reads. It depends on numpy only, so that a dataset can be opened
without RDKit, torch or DGL. Its import path is part of the file format of pickled datasets and
never changes.
"""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepchem_mmsa.packing import COLUMNS, inflate, to_planes

MODALITIES: tuple[str, ...] = ("image", "graph", "geometry", "fingerprint")
#: Modalities made and read by default: the three of the MMSA paper.
DEFAULT_MODALITIES: tuple[str, ...] = MODALITIES[:3]

#: Atom columns and their vocabulary sizes. The index of an atom is Z-1 for Z in 1..118, 118 for
#: the dummy atom ``*`` and 119 for the mask token of pre-training.
ATOM_FEATURES: dict[str, int] = {
    "atomic_number": 120,  # as in Hu et al. 2020
    "chirality": 3,  # 0 unspecified or other, 1 clockwise, 2 counter-clockwise
    "charge": 11,  # clip(charge, -5, 5) + 5
    "hybridization": 8,  # 0 other, 1 S, 2 SP, 3 SP2, 4 SP3, 5 SP3D, 6 SP3D2, 7 unused
    "aromatic": 2,
    "n_hydrogens": 9,  # clip(total hydrogens, 0, 8)
    "in_ring": 2,
    "cip": 3,  # 0 none, 1 R (or r), 2 S (or s)
    "radical": 4,  # clip(radical electrons, 0, 3)
}
#: Bond columns and their vocabulary sizes. Type 4, the self-loop, is made by encoders only.
BOND_FEATURES: dict[str, int] = {
    "type": 6,  # 0 single, 1 double, 2 triple, 3 aromatic, 4 self-loop, 5 any other
    "direction": 3,  # 0 none, 1 end up right, 2 end down right
    "conjugated": 2,
    "in_ring": 2,
    "stereo": 6,  # none, any, Z, E, cis, trans
}
#: How many of the first columns a feature set uses. "basic" is that of Hu et al. 2020.
ATOM_FEATURE_SETS: dict[str, int] = {"basic": 2, "full": len(ATOM_FEATURES)}
BOND_FEATURE_SETS: dict[str, int] = {"basic": 2, "full": len(BOND_FEATURES)}

FINGERPRINT_SIZE = 2048
N_DESCRIPTORS = 217

_MAGIC = b"MMSA"
#: Format 2 is format 1 with a fingerprint; a record without one is still written as format 1.
_VERSIONS = (1, 2)
# magic, version, flags, set bits; bytes of smiles, reasons, image and arrays; atoms, bonds,
# points; CRC
_HEADER = struct.Struct("<4sBBH4I3II")
_HAS_IMAGE, _HAS_GRAPH, _HAS_GEOMETRY, _HAS_FINGERPRINT = 1, 2, 4, 8
UNREADABLE = "unreadable: "  # prefix of the reason of an unreadable row
_MAX_TEXT = 1 << 20
_MAX_IMAGE = 1 << 24
MAX_IMAGE_SIZE = 4096
"""Maximum pixels per side of an image."""

_MAX_ATOMS = 1 << 16  # bonds address atoms by uint16
_MAX_BONDS = 1 << 18
_MAX_POINTS = 1 << 19
_N_ATOM = len(ATOM_FEATURES)
_N_BOND = len(BOND_FEATURES)
_ATOM_SIZES = np.array(list(ATOM_FEATURES.values()), dtype=np.uint8)
_BOND_SIZES = np.array(list(BOND_FEATURES.values()), dtype=np.uint8)


@dataclass(slots=True, eq=False, repr=False)
class MoleculeViews:
    """A molecule in up to four modalities.

    A modality that is absent is ``None``; one that was requested and could not be made also has
    an entry in `reasons`. The class deliberately has no length, no iteration and no array
    interface: numpy would unpack a record when DeepChem puts it in an object array.

    Parameters
    ----------
    smiles : str
        Canonical isomeric SMILES, or the text as it was given if it cannot be read.
    image : bytes, optional
        Depiction as a compressed image (a palette PNG), see
        :func:`deepchem_mmsa.views.depiction.draw`.
    atoms : np.ndarray, optional
        uint8 ``[n_atoms, 9]``, vocabulary indices in the columns of :data:`ATOM_FEATURES`.
    bond_atoms : np.ndarray, optional
        uint16 ``[n_bonds, 2]``, the atoms of each bond; each bond once.
    bonds : np.ndarray, optional
        uint8 ``[n_bonds, 5]``, vocabulary indices in the columns of :data:`BOND_FEATURES`.
    atomic_numbers : np.ndarray, optional
        uint8 ``[n_points]``: the atoms of the graph in its order, then the added hydrogens.
        0 is the dummy atom.
    coordinates : np.ndarray, optional
        float32 ``[n_points, 3]``, Å.
    fingerprint_bits : np.ndarray, optional
        uint16 ``[n_bits]``, the set positions of the folded fingerprint, ascending.
    fingerprint_counts : np.ndarray, optional
        uint8 ``[n_bits]``, how often each occurs.
    descriptors : np.ndarray, optional
        float32 ``[217]``, see :data:`deepchem_mmsa.views.fingerprint.DESCRIPTORS`; NaN where one
        is not defined.
    reasons : mapping of str to str, optional
        Modality to the reason why it is missing.

    Raises
    ------
    ValueError
        If an array has another shape, or a value outside its vocabulary, or only a part of a
        modality is given.

    Examples
    --------
    >>> import numpy as np
    >>> methane = MoleculeViews("C", atoms=np.zeros((1, 9), np.uint8),
    ...                         bond_atoms=np.zeros((0, 2), np.uint16),
    ...                         bonds=np.zeros((0, 5), np.uint8))
    >>> methane.available
    ('graph',)
    >>> MoleculeViews.from_bytes(methane.to_bytes()) == methane
    True
    """

    smiles: str
    image: bytes | None = None
    atoms: np.ndarray | None = None
    bond_atoms: np.ndarray | None = None
    bonds: np.ndarray | None = None
    atomic_numbers: np.ndarray | None = None
    coordinates: np.ndarray | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    fingerprint_bits: np.ndarray | None = None
    fingerprint_counts: np.ndarray | None = None
    descriptors: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.reasons = dict(self.reasons or {})
        if not isinstance(self.smiles, str):
            raise ValueError(f"smiles must be text, got {type(self.smiles).__name__}")
        if self.image is not None and not isinstance(self.image, bytes):
            raise ValueError(f"image must be bytes, got {type(self.image).__name__}")
        if not (self.atoms is None) == (self.bonds is None) == (self.bond_atoms is None):
            raise ValueError("atoms, bond_atoms and bonds belong together: give all or none")
        if (self.atomic_numbers is None) != (self.coordinates is None):
            raise ValueError("atomic_numbers and coordinates belong together: give both or none")
        if self.atoms is not None and self.bond_atoms is not None and self.bonds is not None:
            n_bonds = len(self.bonds)
            _check_array("atoms", self.atoms, np.uint8, (None, _N_ATOM), _ATOM_SIZES)
            _check_array("bonds", self.bonds, np.uint8, (None, _N_BOND), _BOND_SIZES)
            n_atoms = len(self.atoms)
            if n_atoms > _MAX_ATOMS or n_bonds > _MAX_BONDS:
                raise ValueError(f"{n_atoms} atoms, {n_bonds} bonds: more than a record can hold")
            _check_array("bond_atoms", self.bond_atoms, np.uint16, (n_bonds, 2), n_atoms)
        if self.atomic_numbers is not None and self.coordinates is not None:
            n_points = len(self.coordinates)
            if n_points > _MAX_POINTS:
                raise ValueError(f"{n_points} points: more than a record can hold")
            _check_array("coordinates", self.coordinates, np.float32, (None, 3))
            _check_array("atomic_numbers", self.atomic_numbers, np.uint8, (n_points,), 119)
            if not np.isfinite(self.coordinates).all():
                raise ValueError("coordinates must be finite")
        self._check_fingerprint()
        for name, reason in self.reasons.items():
            if name not in MODALITIES or not isinstance(reason, str):
                raise ValueError(f"reasons must map {MODALITIES} to text, got {name!r}: {reason!r}")

    def _check_fingerprint(self) -> None:
        parts = (self.fingerprint_bits, self.fingerprint_counts, self.descriptors)
        bits, counts, descriptors = parts
        if bits is not None and counts is not None and descriptors is not None:
            _check_array("fingerprint_bits", bits, np.uint16, (None,), FINGERPRINT_SIZE)
            _check_array("fingerprint_counts", counts, np.uint8, (len(bits),))
            _check_array("descriptors", descriptors, np.float32, (N_DESCRIPTORS,))
            if (np.diff(bits.astype(int)) <= 0).any() or (counts == 0).any():
                raise ValueError("fingerprint_bits must be ascending, each with a count above 0")
        elif any(part is not None for part in parts):
            raise ValueError("fingerprint bits, counts and descriptors belong together")

    @classmethod
    def unreadable(
        cls, smiles: object, reason: str, modalities: Sequence[str] = DEFAULT_MODALITIES
    ) -> MoleculeViews:
        """Return the flagged record of a row that cannot be read, to keep its place.

        Parameters
        ----------
        smiles : object
            The input; kept as text, cut at a thousand characters.
        reason : str
            Why it cannot be read.
        modalities : sequence of str, optional
            The modalities that were requested.

        Returns
        -------
        MoleculeViews
            A record without any view.

        Examples
        --------
        >>> row = MoleculeViews.unreadable("C1CC", "unclosed ring", ("graph",))
        >>> row.readable, row.reasons
        (False, {'graph': 'unreadable: unclosed ring'})
        """
        text = smiles if isinstance(smiles, str) else "" if smiles is None else str(smiles)
        return cls(text[:1000], reasons=dict.fromkeys(modalities, UNREADABLE + reason))

    @property
    def available(self) -> tuple[str, ...]:
        """Modalities that are present, in the order of :data:`MODALITIES`."""
        parts = (self.image, self.atoms, self.coordinates, self.descriptors)
        return tuple(name for name, part in zip(MODALITIES, parts) if part is not None)

    @property
    def readable(self) -> bool:
        """Whether the molecule could be read, even if no view of it could be made."""
        reasons = self.reasons.values()
        return not reasons or not all(reason.startswith(UNREADABLE) for reason in reasons)

    def to_bytes(self) -> bytes:
        """Serialise to a header, the texts, the image, and the arrays, deflated.

        Returns
        -------
        bytes
            About 3 KB for a drug-like molecule with the default views, 0.5 KB more with the
            fingerprint. Equal records on one machine give equal bytes.

        Raises
        ------
        ValueError
            If a text or the image is larger than the format allows.
        """
        text = self.smiles.encode("utf-8", "surrogatepass")
        reasons = (
            json.dumps(self.reasons, sort_keys=True, separators=(",", ":")).encode()
            if self.reasons
            else b""
        )
        image = self.image or b""
        if len(text) > _MAX_TEXT or len(reasons) > _MAX_TEXT or len(image) > _MAX_IMAGE:
            raise ValueError(
                f"record too large: SMILES {len(text)}, reasons {len(reasons)}, "
                f"image {len(image)} bytes"
            )
        flags, n_atoms, n_bonds, n_points, n_bits = 0, 0, 0, 0, 0
        arrays: list[bytes] = []
        if self.image is not None:
            flags |= _HAS_IMAGE
        if self.atoms is not None and self.bonds is not None and self.bond_atoms is not None:
            flags |= _HAS_GRAPH
            n_atoms, n_bonds = len(self.atoms), len(self.bonds)
            arrays += [to_planes(self.atoms, COLUMNS), to_planes(self.bonds, COLUMNS)]
            arrays.append(to_planes(self.bond_atoms, "<u2"))
        if self.atomic_numbers is not None and self.coordinates is not None:
            flags |= _HAS_GEOMETRY
            n_points = len(self.coordinates)
            arrays += [self.atomic_numbers.tobytes(), to_planes(self.coordinates, "<f4")]
        bits, counts = self.fingerprint_bits, self.fingerprint_counts
        if bits is not None and counts is not None and self.descriptors is not None:
            flags |= _HAS_FINGERPRINT
            n_bits = len(bits)
            arrays += [to_planes(bits, "<u2"), counts.tobytes()]
            arrays.append(to_planes(self.descriptors, "<f4"))
        deflated = zlib.compress(b"".join(arrays), 6) if arrays else b""
        body = b"".join((text, reasons, image, deflated))
        sizes = (len(text), len(reasons), len(image), len(deflated), n_atoms, n_bonds, n_points)
        version = 2 if flags & _HAS_FINGERPRINT else 1
        return _HEADER.pack(_MAGIC, version, flags, n_bits, *sizes, zlib.crc32(body)) + body

    @classmethod
    def from_bytes(cls, data: bytes) -> MoleculeViews:
        """Read what :meth:`to_bytes` wrote; it never executes code from `data`.

        Parameters
        ----------
        data : bytes
            The serialised record.

        Returns
        -------
        MoleculeViews
            A record equal to the one that was written.

        Raises
        ------
        ValueError
            If the bytes are foreign, cut short, damaged, or of a newer version.
        """
        if not isinstance(data, bytes) or len(data) < _HEADER.size or data[:4] != _MAGIC:
            raise ValueError("not a MoleculeViews record: its first bytes are not its header")
        fields = _HEADER.unpack_from(data)
        version, flags, n_bits, n_text, n_reasons, n_image, n_deflated = fields[1:8]
        n_atoms, n_bonds, n_points, checksum = fields[8:]
        if version not in _VERSIONS:
            raise ValueError(
                f"MoleculeViews format {version} is not format 1 or 2, which this "
                "deepchem_mmsa reads: featurize again, or install the version that wrote it"
            )
        body = memoryview(data)[_HEADER.size :]
        if len(body) != n_text + n_reasons + n_image + n_deflated:
            raise ValueError("MoleculeViews record is cut short or has bytes to spare")
        if zlib.crc32(body) != checksum:
            raise ValueError("MoleculeViews record is damaged: its checksum does not fit")
        if n_atoms > _MAX_ATOMS or n_bonds > _MAX_BONDS or n_points > _MAX_POINTS:
            raise ValueError("MoleculeViews record claims more atoms than the format allows")
        ends = list(itertools.accumulate((n_text, n_reasons, n_image, n_deflated)))
        text = bytes(body[: ends[0]]).decode("utf-8", "surrogatepass")
        reasons = bytes(body[ends[0] : ends[1]])
        arrays: list[np.ndarray | None] = [None] * 8
        if flags & (_HAS_GRAPH | _HAS_GEOMETRY | _HAS_FINGERPRINT):
            layouts = _layouts(flags, n_atoms, n_bonds, n_points, n_bits)
            arrays = inflate(body[ends[2] :], layouts)
        atoms, bonds, bond_atoms, atomic_numbers, coordinates, bits, counts, descriptors = arrays
        return cls(
            text,
            image=bytes(body[ends[1] : ends[2]]) if flags & _HAS_IMAGE else None,
            atoms=atoms,
            bond_atoms=bond_atoms,
            bonds=bonds,
            atomic_numbers=atomic_numbers,
            coordinates=coordinates,
            reasons=_read_reasons(reasons) if reasons else {},
            fingerprint_bits=bits,
            fingerprint_counts=counts,
            descriptors=descriptors,
        )

    @staticmethod
    def lacks_a_view(data: bytes) -> bool:
        """Return whether a serialised record has reasons, without reading it."""
        return _HEADER.unpack_from(data)[5] > 0

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return _from_bytes, (self.to_bytes(),)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MoleculeViews):
            return NotImplemented
        for name in self.__slots__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, np.ndarray) or isinstance(theirs, np.ndarray):
                if mine is None or theirs is None:
                    return False
                # An undefined descriptor equals itself.
                if not np.array_equal(mine, theirs, equal_nan=name == "descriptors"):
                    return False
            elif mine != theirs:
                return False
        return True

    def __hash__(self) -> int:
        return hash((self.smiles, self.image))

    def __repr__(self) -> str:
        smiles = self.smiles if len(self.smiles) <= 60 else self.smiles[:57] + "..."
        parts = [repr(smiles), f"available={self.available}"]
        if self.reasons:
            parts.append(f"reasons={self.reasons}")
        return f"MoleculeViews({', '.join(parts)})"


def _from_bytes(data: bytes) -> MoleculeViews:
    """Unpickle a record; a module-level name keeps pickles short and stable."""
    return MoleculeViews.from_bytes(data)


def _check_array(
    name: str,
    array: np.ndarray,
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
    below: np.ndarray | int | None = None,
) -> None:
    """Raise ValueError unless `array` has this type and shape and all values are under `below`."""
    fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == len(shape)
    if not fits or any(n is not None and n != m for n, m in zip(shape, array.shape)):
        wanted = "[" + ", ".join("n" if n is None else str(n) for n in shape) + "]"
        got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else array
        raise ValueError(f"{name} must be {np.dtype(dtype)} {wanted}, got {got}")
    if below is not None and (array >= below).any():
        raise ValueError(f"{name} holds a value outside its vocabulary: {array.max(axis=0)}")


def _layouts(
    flags: int, n_atoms: int, n_bonds: int, n_points: int, n_bits: int
) -> list[tuple[str, tuple[int, ...]] | None]:
    """Return the layouts of the eight arrays, in their order."""
    graph = [(COLUMNS, (n_atoms, _N_ATOM)), (COLUMNS, (n_bonds, _N_BOND)), ("<u2", (n_bonds, 2))]
    geometry = [("|u1", (n_points,)), ("<f4", (n_points, 3))]
    fingerprint = [("<u2", (n_bits,)), ("|u1", (n_bits,)), ("<f4", (N_DESCRIPTORS,))]
    parts = ((_HAS_GRAPH, graph), (_HAS_GEOMETRY, geometry), (_HAS_FINGERPRINT, fingerprint))
    return [layout if flags & flag else None for flag, part in parts for layout in part]


def _read_reasons(data: bytes) -> dict[str, str]:
    """Parse the reasons from their JSON text."""
    try:
        reasons = json.loads(data)
    except ValueError:
        reasons = None
    if not isinstance(reasons, dict):
        raise ValueError("MoleculeViews record is damaged: its reasons are not a JSON object")
    return reasons
