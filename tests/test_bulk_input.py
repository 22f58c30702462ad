"""Bad input in bulk: no crash, no hang, bounded memory, and every row accounted for."""

import io
import random
import resource
import time

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.tables import TableError, read_table
from deepchem_mmsa.views import ViewSettings, many_views, molecule_views, stream_views
from tests.conftest import DRUGS

ALL = ViewSettings(conformer_timeout=2.0)
GRAPH = ViewSettings(("graph",))
SMILES_BYTES = (
    b"CNOSPFIBrlcnosp[]()=#$:/\\@+-.%0123456789HKaeMgZu*~!<>{}|&;,? \t\n\r\0\x7f\xc3\xa9\xff"
)

FERROCENE = "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1"
STRANGE = {
    "empty": "",
    "blank": " \t ",
    "nothing": None,
    "not a number": float("nan"),
    "bytes": b"CCO",
    "a list": ["CCO"],
    "an empty molecule": Chem.Mol(),
    "a hydrogen": "[H]",
    "a proton": "[H+]",
    "an electron's worth of nothing": "[*]",
    "a polymer": "*CC(*)c1ccccc1",
    "numbered dummies": "[1*]CC[2*]",
    "a reaction": "CC>>CN",
    "a query": "[#6;R]~*",
    "a name": "aspirin",
    "a name after": "CCO ethanol",
    "extensions": "CCO |$;;R$|",
    "ferrocene": FERROCENE,
    "cisplatin": "[NH3][Pt]([NH3])(Cl)Cl",
    "a Grignard": "CC[Mg]Br",
    "a carbonyl": "[O+]#C[Ni-4](C#[O+])(C#[O+])C#[O+]",
    "a dative bond": "[NH3]->[Cu+2]<-[NH3]",
    "no such element": "[Xx]",
    "no such isotope": "[999C]",
    "charged": "[C+15]",
    "unicode": "C\N{LATIN SMALL LETTER E WITH ACUTE}C",
    "full width": "\N{FULLWIDTH LATIN CAPITAL LETTER C}CO",
    "right to left": "\N{RIGHT-TO-LEFT OVERRIDE}OCC",
    "a lone surrogate": "CC\ud800",
    "NUL inside": "CC\0O",
    "NUL at the end": "CCO\0",
    "two lines": "CCO\nCCN",
    "rings": "C%(99999)CC%(99999)",
    "unclosed": "C1CC",
    "a megabyte of letters": "X" * 1_000_000,
    "a megabyte of atoms": "C" * 1_000_000,
    "a megabyte of branches": "C(" * 500_000,
    "a megabyte of brackets": "[" * 1_000_000,
    "a megabyte of rings": "C1" * 500_000,
    "nested branches": "C" + "(C" * 4000 + ")" * 4000,
    "a chain of 2,000": "C" * 2000,
    "a peptide of 2,000": "NCC(=O)" * 500 + "O",
    "a thousand fragments": ".".join(["CO"] * 1000),
    "a thousand metals": "[Fe]" * 1000,
    "a cage": "C12C3C4C1C5C2C3C45",
    "a crowded centre": "CC(C)(C)C(C(C)(C)C)(C(C)(C)C)C(C)(C)C",
    "an impossible valence": "C(C)(C)(C)(C)C",
    "an unkekulizable ring": "c1cccc1",
}
NO_MOLECULE = {
    "empty", "blank", "nothing", "not a number", "bytes", "a list", "an empty molecule", "a name",
    "no such element", "a query", "unicode", "full width", "right to left", "a lone surrogate",
    "NUL inside", "NUL at the end", "unclosed", "a megabyte of letters", "a megabyte of atoms",
    "a megabyte of branches", "a megabyte of brackets", "a megabyte of rings",
    "an impossible valence", "a reaction", "an unkekulizable ring",
}  # fmt: skip


def accounted(record, settings):
    """Assert that each view that was asked for is there, or the reason why not; a short one."""
    assert isinstance(record, MoleculeViews)
    assert set(record.available) | set(record.reasons) == set(settings.modalities)
    assert not set(record.available) & set(record.reasons)
    assert all(0 < len(reason) < 600 for reason in record.reasons.values())
    assert MoleculeViews.from_bytes(record.to_bytes()) == record


def mutated(smiles, chance):
    """Change some bytes of a SMILES as a broken file would."""
    data = bytearray(smiles.encode())
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            del data[place % len(data)]
        elif kind == 2:
            data.insert(place, chance.choice(SMILES_BYTES))
        elif kind == 3 and data:
            data[place % len(data)] = chance.choice(SMILES_BYTES)
        elif kind == 4:
            start = chance.randrange(len(data) + 1)
            data[place:place] = data[start : start + chance.randrange(20)]
        else:
            del data[place : place + chance.randrange(10)]
    return bytes(data).decode("utf-8", chance.choice(["replace", "surrogateescape"]))


def run_through(rows, settings, seconds):
    """Make all records contained; assert the laws of bulk; return how many were molecules."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n = readable = 0
    last = time.monotonic()
    for record in stream_views(rows, settings, contained=True):
        accounted(record, settings)
        n += 1
        readable += record.readable
        now = time.monotonic()
        # Processor time has a limit; the clock's time may be longer on a busy machine.
        assert now - last < seconds, f"row {n - 1} took {now - last:.0f} s"
        last = now
    assert n == len(rows)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} KB"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < before + 1_000_000
    return readable


def test_strange_rows_are_each_accounted_for():
    records = many_views(STRANGE.values(), ViewSettings(conformer_timeout=0.5), contained=True)
    for record in records:
        accounted(record, ALL)
    found = {name for name, record in zip(STRANGE, records) if not record.readable}
    assert found == NO_MOLECULE


def test_mutated_smiles(capfd):
    chance = random.Random(1)
    rows = [mutated(chance.choice(DRUGS), chance) for _ in range(300)]
    assert 20 < run_through(rows, ViewSettings(("image", "graph")), 150) < 280
    assert capfd.readouterr() == ("", "")  # RDKit's complaints are in the reasons


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("CNOFcno[]()=#@+-.%1234H*/\\"), max_size=40))
def test_any_text_of_smiles_characters(text):
    accounted(molecule_views(text, GRAPH), GRAPH)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60), st.floats(), st.none()))
def test_anything(thing):
    record = molecule_views(thing, GRAPH)
    accounted(record, GRAPH)
    assert record.readable or record.reasons["graph"].startswith("unreadable: ")


@pytest.mark.parametrize("n", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_duplicates_are_rows_like_others(tmp_path, n):
    shards = featurize_to_shards(["CC(=O)Oc1ccccc1C(=O)O"] * n, tmp_path, GRAPH)
    first = shards.records(0)[0]
    assert len(shards) == n
    assert all(record == first for record in shards)
    assert len(shards.failures()) == 0


@pytest.mark.slow
def test_twenty_thousand_mutated_smiles(moleculenet):
    chance = random.Random(2)
    table = pd.concat([
        pd.read_csv(moleculenet / "pretrain" / "zinc250k.csv.gz", nrows=3000)["smiles"],
        pd.read_csv(moleculenet / "sider.csv.gz")["smiles"],
        pd.read_csv(moleculenet / "tox21.csv.gz")["smiles"],
    ]).tolist()  # fmt: skip
    rows = [mutated(chance.choice(table), chance) for _ in range(20_000)]
    readable = run_through(rows, ALL, 300)
    print(f"{readable} of {len(rows)} are molecules still")
    assert 1000 < readable < 19_000


# --- broken files ------------------------------------------------------------------------------


def broken_file(chance, number):
    """Bytes of a CSV or SDF file, and its ending, with something wrong."""
    if number % 2:
        out = io.StringIO()
        with Chem.SDWriter(out) as writer:
            for smiles in chance.sample(DRUGS, 3):
                molecule = Chem.MolFromSmiles(smiles)
                molecule.SetProp("y", "1.0")
                writer.write(molecule)
        data, ending = bytearray(out.getvalue().encode()), ".sdf"
    else:
        lines = [f'{smiles},{chance.random():.3f},"a, b"' for smiles in chance.sample(DRUGS, 8)]
        data, ending = bytearray("\n".join(["smiles,y,note", *lines]).encode()), ".csv"
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(7)
        if kind == 0:
            data[place:place] = bytes([chance.randrange(256)])
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = b'"'
        elif kind == 3:
            data[place:place] = b"\0" * chance.randrange(1, 50)
        elif kind == 4:
            data[place:place] = chance.choice([b"\r", b"\n\n", b"$$$$\n", b"M  END\n", b",,,,"])
        elif kind == 5:
            data[place:place] = b"A" * chance.choice([10, 1000, 1_000_000])
        elif data:
            del data[place : place + chance.randrange(40)]
    return bytes(data), ending


@pytest.mark.parametrize("n", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_broken_files_are_read_or_refused_with_a_reason(tmp_path, n):
    chance = random.Random(3)
    refused = rows = 0
    for number in range(n):
        data, ending = broken_file(chance, number)
        path = tmp_path / f"broken{ending}"
        path.write_bytes(data)
        try:
            table = read_table(path)
        except TableError as error:
            refused += 1
            if len(str(error)) > 2000:
                raise
            continue
        assert len(table.smiles) == len(table.frame)
        rows += len(table)
        for record in many_views(table.smiles, GRAPH, contained=True):
            accounted(record, GRAPH)
    assert refused < n
    assert rows > n
