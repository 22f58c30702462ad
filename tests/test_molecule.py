"""The record: round trips, what it refuses, and that numpy leaves it whole."""

import pickle
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepchem_mmsa.molecule import (
    _HEADER,
    ATOM_FEATURE_SETS,
    ATOM_FEATURES,
    BOND_FEATURE_SETS,
    BOND_FEATURES,
    FINGERPRINT_SIZE,
    MODALITIES,
    N_DESCRIPTORS,
    MoleculeViews,
)

ATOM_SIZES = np.array(list(ATOM_FEATURES.values()))
BOND_SIZES = np.array(list(BOND_FEATURES.values()))


@st.composite
def arbitrary_records(draw):
    """Any record that the format allows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_atoms, n_bonds, n_points = (draw(st.integers(0, 30)) for _ in range(3))
    parts = draw(st.sets(st.sampled_from(MODALITIES)))
    fields = {}
    if "image" in parts:
        fields["image"] = draw(st.binary(max_size=200))
    if "graph" in parts:
        fields["atoms"] = (rng.random((n_atoms, 9)) * ATOM_SIZES).astype(np.uint8)
        n_bonds = n_bonds if n_atoms else 0
        fields["bonds"] = (rng.random((n_bonds, 5)) * BOND_SIZES).astype(np.uint8)
        fields["bond_atoms"] = rng.integers(0, max(n_atoms, 1), (n_bonds, 2)).astype(np.uint16)
    if "geometry" in parts:
        fields["atomic_numbers"] = rng.integers(0, 119, n_points).astype(np.uint8)
        finite = st.floats(-1e6, 1e6, width=32)
        fields["coordinates"] = draw(hnp.arrays(np.float32, (n_points, 3), elements=finite))
    if "fingerprint" in parts:
        bits = rng.choice(FINGERPRINT_SIZE, n_atoms, replace=False)
        fields["fingerprint_bits"] = np.sort(bits).astype(np.uint16)
        fields["fingerprint_counts"] = rng.integers(1, 256, n_atoms).astype(np.uint8)
        anything = st.floats(width=32, allow_infinity=False)
        values = draw(st.lists(anything, min_size=1, max_size=5))
        fields["descriptors"] = np.resize(np.array(values, np.float32), N_DESCRIPTORS)
    reasons = draw(st.dictionaries(st.sampled_from(MODALITIES), st.text(max_size=20)))
    return MoleculeViews(draw(st.text(max_size=60)), reasons=reasons, **fields)


@settings(deadline=None, max_examples=60)
@given(arbitrary_records())
def test_bytes_and_pickle_round_trip(record):
    data = record.to_bytes()
    for copy in (MoleculeViews.from_bytes(data), pickle.loads(pickle.dumps(record))):
        assert copy == record
        assert hash(copy) == hash(record)
        assert copy.to_bytes() == data
        assert copy.available == record.available
        for name in set(MoleculeViews.__slots__) - {"smiles", "image", "reasons"}:
            mine, theirs = getattr(record, name), getattr(copy, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert mine.dtype == theirs.dtype
                assert mine.shape == theirs.shape
                assert theirs.flags.c_contiguous


@settings(deadline=None, max_examples=60)
@given(arbitrary_records(), st.data())
def test_damaged_bytes_raise_value_error(record, data):
    good = record.to_bytes()
    cut = data.draw(st.integers(0, len(good) - 1))
    with pytest.raises(ValueError):
        MoleculeViews.from_bytes(good[:cut])
    with pytest.raises(ValueError):
        MoleculeViews.from_bytes(good + b"x")
    if len(good) > _HEADER.size:
        place = data.draw(st.integers(_HEADER.size, len(good) - 1))
        bad = bytearray(good)
        bad[place] ^= 1 + data.draw(st.integers(0, 254))
        with pytest.raises(ValueError):
            MoleculeViews.from_bytes(bytes(bad))


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_foreign_bytes_raise_value_error(data):
    with pytest.raises(ValueError):
        MoleculeViews.from_bytes(data)
    with pytest.raises(ValueError):
        MoleculeViews.from_bytes(b"MMSA" + data)


def _forged(fields, body):
    """A record with a right checksum and whatever its header claims."""
    return _HEADER.pack(b"MMSA", *fields, zlib.crc32(body)) + body


def test_a_bomb_is_refused_without_being_inflated():
    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    with pytest.raises(ValueError, match="another length"):
        MoleculeViews.from_bytes(_forged((1, 2, 0, 0, 0, 0, len(bomb), 1, 0, 0), bomb))
    with pytest.raises(ValueError, match="more atoms"):
        MoleculeViews.from_bytes(_forged((1, 2, 0, 0, 0, 0, len(bomb), 2**31, 0, 0), bomb))


def test_a_newer_version_is_named():
    with pytest.raises(ValueError, match="format 9 is not format 1 or 2"):
        MoleculeViews.from_bytes(_forged((9, 0, 0, 0, 0, 0, 0, 0, 0, 0), b""))


# Ethanol's graph as format 1 was written before there were fingerprints.
ETHANOL_1 = bytes.fromhex(
    "4d4d534101020000030000001a0000000000000020000000030000000200000000000000ed4bf7cd43434f7b"
    "2267656f6d65747279223a223020732072616e206f7574227d789c6365656760606065656561610132989918"
    "19b00046462610050007bc0037"
)


def test_the_first_format_is_still_read_and_written():
    record = MoleculeViews.from_bytes(ETHANOL_1)
    assert record.smiles == "CCO"
    assert record.available == ("graph",)
    assert record.atoms[:, 0].tolist() == [5, 5, 7]
    assert record.to_bytes()[:5] == ETHANOL_1[:5] == b"MMSA\x01"


def test_a_fingerprint_is_whole_and_in_order():
    bits, counts = np.array([3, 70], np.uint16), np.array([1, 2], np.uint8)
    values = np.zeros(N_DESCRIPTORS, np.float32)
    whole = {"fingerprint_bits": bits, "fingerprint_counts": counts, "descriptors": values}
    record = MoleculeViews("C", **whole)
    assert record.available == ("fingerprint",)
    assert record.to_bytes()[4] == 2
    for wrong, message in [
        ({"descriptors": None}, "belong together"),
        ({"fingerprint_bits": bits[::-1].copy()}, "ascending"),
        ({"fingerprint_bits": bits + np.uint16(2000)}, "outside its vocabulary"),
        ({"fingerprint_counts": counts - np.uint8(1)}, "count above 0"),
        ({"descriptors": values[:-1]}, r"float32 \[217\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            MoleculeViews("C", **{**whole, **wrong})


def test_reasons_that_are_no_object_are_refused():
    for text in (b"[1]", b"{", b'{"graph": 1}', b'{"sound": "x"}'):
        with pytest.raises(ValueError, match="reasons"):
            MoleculeViews.from_bytes(_forged((1, 0, 0, 0, len(text), 0, 0, 0, 0, 0), text))


def test_a_pickle_holds_no_code_but_ours():
    record = MoleculeViews("C")
    function, arguments = record.__reduce__()
    assert function.__module__ == "deepchem_mmsa.molecule"
    assert [type(argument) for argument in arguments] == [bytes]


def test_numpy_leaves_a_record_whole(records):
    array = np.array(list(records))
    assert array.shape == (len(records),)
    assert array.dtype == object
    assert np.array(records[0]).size == 1  # by which DeepChem's loaders keep a row
    assert not hasattr(records[0], "__len__")
    assert not hasattr(records[0], "__iter__")
    assert not hasattr(records[0], "__array__")


def test_a_wrong_field_is_refused():
    atoms = np.zeros((2, 9), np.uint8)
    bonds, bond_atoms = np.zeros((1, 5), np.uint8), np.array([[0, 1]], np.uint16)
    MoleculeViews("CC", None, atoms, bond_atoms, bonds)
    with pytest.raises(ValueError, match="belong together"):
        MoleculeViews("CC", atoms=atoms)
    with pytest.raises(ValueError, match=r"bond_atoms holds a value outside"):
        MoleculeViews("CC", None, atoms, bond_atoms + np.uint16(5), bonds)
    with pytest.raises(ValueError, match=r"atoms must be uint8 \[n, 9\]"):
        MoleculeViews("CC", None, atoms.astype(int), bond_atoms, bonds)
    with pytest.raises(ValueError, match=r"atoms holds"):
        MoleculeViews("CC", None, atoms + np.uint8(200), bond_atoms, bonds)
    with pytest.raises(ValueError, match="finite"):
        nan = np.full((1, 3), np.nan, np.float32)
        MoleculeViews("C", atomic_numbers=np.array([6], np.uint8), coordinates=nan)


def test_unreadable_rows_are_told_from_molecules_without_views():
    row = MoleculeViews.unreadable(float("nan"), "not text", ("graph", "image"))
    assert not row.readable
    assert row.available == ()
    assert row.smiles == "nan"
    assert row.reasons == {"graph": "unreadable: not text", "image": "unreadable: not text"}
    assert MoleculeViews.unreadable(None, "x").smiles == ""
    assert not pickle.loads(pickle.dumps(row)).readable
    assert MoleculeViews("C", reasons={"geometry": "too large"}).readable
    assert MoleculeViews("C").readable


def test_feature_sets_are_leading_columns():
    assert ATOM_FEATURE_SETS == {"basic": 2, "full": 9}
    assert BOND_FEATURE_SETS == {"basic": 2, "full": 5}
    assert list(ATOM_FEATURES.values())[:2] == [120, 3]
    assert list(BOND_FEATURES.values())[:2] == [6, 3]


def test_repr_is_short(records):
    assert all(len(repr(record)) < 140 for record in records)
