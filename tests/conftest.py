"""Molecules that several test files share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Networks of this size are as fast on one thread, and two threads crawl on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what it puts in the background deaf to Ctrl-C, which some tests are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch

from tests.fixtures import dataset, graph_dataset, make_model, molecules  # noqa: F401

# Real drugs and a few others: rings of all sizes, halogens, S, P, B, charges, salts, stereocentres,
# double bonds of both kinds.
DRUGS = [
    "CC(=O)Oc1ccccc1C(=O)O",  # aspirin
    "CC(C)Cc1ccc([C@H](C)C(=O)O)cc1",  # dexibuprofen
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",  # caffeine
    "CC(=O)Nc1ccc(O)cc1",  # paracetamol
    "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",  # testosterone
    "CN1[C@H]2CC[C@@H]1[C@@H](C(=O)OC)[C@H](C2)OC(=O)c1ccccc1",  # cocaine
    "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",  # morphine
    "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)O",  # penicillin G
    "O=C(O)Cc1ccccc1Nc1c(Cl)cccc1Cl",  # diclofenac
    "CCOC(=O)C1=C(COCCN)NC(C)=C(C(=O)OC)C1c1ccccc1Cl",  # amlodipine
    "CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc21",  # chlorpromazine
    "Clc1ccccc1C(c1ccccc1)(c1ccccc1)n1ccnc1",  # clotrimazole
    "CC/C(=C(\\c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1",  # tamoxifen
    "CC/C(c1ccc(O)cc1)=C(\\CC)c1ccc(O)cc1",  # diethylstilbestrol
    "OC(=O)/C=C/C(=O)O.CN(C)CCOC(c1ccccc1)c1ccccc1",  # a fumarate
    "Cl.CNCCC(Oc1ccc(C(F)(F)F)cc1)c1ccccc1",  # fluoxetine hydrochloride
    "[Na+].CC(C)(C)c1ccc(S(=O)(=O)[N-]c2ncccn2)cc1",  # a sodium sulfonamide
    "C[N+](C)(C)CC(=O)[O-]",  # betaine
    "NCCc1ccc(O)c(O)c1",  # dopamine
    "O=P(O)(O)OP(=O)(O)OC[C@H]1O[C@@H](n2cnc3c(N)ncnc32)[C@H](O)[C@@H]1O",  # ADP
    "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",  # glucose
    "CC(C)NCC(O)COc1cccc2ccccc12",  # propranolol
    "C#C[C@]1(O)CC[C@H]2[C@@H]3CCC4=CC(=O)CC[C@@H]4[C@H]3CC[C@@]21C",  # norethisterone
    "O=c1[nH]cc(F)c(=O)[nH]1",  # fluorouracil
    "CC1=C(C(=O)Nc2ccccc2)SCCO1",  # carboxin
    "NS(=O)(=O)c1cc2c(cc1Cl)NCNS2(=O)=O",  # hydrochlorothiazide
    "CCCCCCCC(=O)O",  # octanoic acid
    "c1ccc2c(c1)ccc1ccccc12",  # phenanthrene
    "C1CCCCCCCCCCC1",  # cyclododecane
    "Ic1cc(I)c(O)c(I)c1",  # triiodophenol
    "CC(Br)C(=O)N",  # bromopropanamide
    "OB(O)c1ccc(C#N)cc1",  # a boronic acid
    "C[S@](=O)c1ccccc1",  # a chiral sulfoxide
    "CC(C)C[C@H](NC(=O)[C@H](Cc1ccccc1)NC(=O)c1cnccn1)B(O)O",  # bortezomib
    "N[C@@H](CCC(=O)N[C@@H](CS)C(=O)NCC(=O)O)C(=O)O",  # glutathione
    "O=C1c2ccccc2C(=O)N1C1CCC(=O)NC1=O",  # thalidomide
    "CC1=CC(=O)c2ccccc2C1=O",  # menadione
    "COc1cc(/C=C/C(=O)CC(=O)/C=C/c2ccc(O)c(OC)c2)ccc1O",  # curcumin
    "C1CN2CCC1CC2",  # quinuclidine
    "C1C2CC3CC1CC(C2)C3",  # adamantane
    "O=[N+]([O-])OCC(O[N+](=O)[O-])CO[N+](=O)[O-]",  # nitroglycerin
    "N[C@@H](Cc1c[nH]c2ccccc12)C(=O)O",  # tryptophan
]


def data_dir() -> Path | None:
    """Folder of the MoleculeNet files, if this machine has one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    given = os.environ.get("DEEPCHEM_DATA_DIR")
    for folder in ([Path(given)] if given else []) + [beside]:
        if (folder / "BBBP.csv").exists():
            return folder
    return None


@pytest.fixture(scope="session")
def drugs() -> list[str]:
    """About forty drugs as SMILES."""
    return list(DRUGS)


@pytest.fixture(scope="session")
def moleculenet() -> Path:
    """Folder of the MoleculeNet files; the test is skipped where there is none."""
    folder = data_dir()
    if folder is None:
        pytest.skip("no MoleculeNet files: set DEEPCHEM_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def records(drugs):
    """Records of the drugs with all three views: an object array."""
    import numpy as np

    from deepchem_mmsa.views import many_views

    made = np.empty(len(drugs), dtype=object)
    for index, record in enumerate(many_views(drugs)):
        made[index] = record
    return made


def pytest_configure(config):
    """Let the controller of several workers know DGL: they send it DGL's warnings by class."""
    if config.getoption("numprocesses", None):
        from deepchem_mmsa.layers.dgl_backend import import_dgl

        import_dgl()


@pytest.fixture
def without_doubles(monkeypatch):
    """A device without float64, as Apple's: a tensor has to leave it before it gets one."""
    leave, widen = torch.Tensor.cpu, torch.Tensor.double

    def cpu(tensor):
        there = leave(tensor).clone()
        there.left = True
        return there

    def double(tensor):
        assert getattr(tensor, "left", False), "the device has no float64"
        return widen(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(torch.Tensor, "double", double)
