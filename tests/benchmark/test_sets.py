"""Splits: scaffolds stay together, nothing is random, no test molecule stands elsewhere."""

import urllib.request
from urllib.error import URLError

import deepchem as dc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from deepchem_mmsa import MMSAFeaturizer
from deepchem_mmsa.benchmark.sets import (
    BENCHMARKS,
    PROTOCOLS,
    PUBLISHED,
    LeakError,
    Split,
    Whole,
    check_apart,
    data_identity,
    held_out_molecules,
    load_benchmark,
    load_split,
    murcko_scaffold,
    scaffold_split,
    split_rows,
)
from deepchem_mmsa.datasets import connectivities, connectivity, example_table
from tests.conftest import DRUGS, data_dir
from tests.fixtures import SMILES

POOL = list(dict.fromkeys(DRUGS + SMILES))
needs_data = pytest.mark.skipif(data_dir() is None, reason="no MoleculeNet files here")


def hu_2020(smiles, frac_train=0.8, frac_valid=0.1):
    """The split as it stands in the code of Hu et al. 2020, word for word but for names."""
    all_scaffolds = {}
    for i, text in enumerate(smiles):
        all_scaffolds.setdefault(murcko_scaffold(text), []).append(i)
    all_scaffolds = {key: sorted(value) for key, value in all_scaffolds.items()}
    sets = [
        s
        for _, s in sorted(all_scaffolds.items(), key=lambda x: (len(x[1]), x[1][0]), reverse=True)
    ]
    train_cutoff = frac_train * len(smiles)
    valid_cutoff = (frac_train + frac_valid) * len(smiles)
    train, valid, test = [], [], []
    for s in sets:
        if len(train) + len(s) > train_cutoff:
            if len(train) + len(valid) + len(s) > valid_cutoff:
                test.extend(s)
            else:
                valid.extend(s)
        else:
            train.extend(s)
    return train, valid, test


molecule_lists = st.lists(st.sampled_from(POOL), min_size=1, max_size=60)


@settings(max_examples=20, deadline=None)
@given(smiles=molecule_lists)
def test_the_split_is_that_of_hu(smiles):
    assert scaffold_split(smiles) == hu_2020(smiles)


@settings(max_examples=20, deadline=None)
@given(smiles=molecule_lists, protocol=st.sampled_from(PROTOCOLS))
def test_every_row_is_in_one_part_and_a_molecule_in_one(smiles, protocol):
    parts = split_rows(smiles, protocol)
    assert sorted(row for part in parts for row in part) == list(range(len(smiles)))
    names = [{Chem.CanonSmiles(smiles[row]) for row in part} for part in parts]
    assert not names[0] & names[1]
    assert not names[2] & (names[0] | names[1])


def test_mirror_images_have_scaffolds_of_their_own_under_hu_only():
    pair = ["C[C@]12CCCC[C@H]1CCC2", "C[C@@]12CCCC[C@@H]1CCC2"]
    assert murcko_scaffold(pair[0]) != murcko_scaffold(pair[1])
    names = [sorted(map(len, split_rows(pair * 5, protocol))) for protocol in PUBLISHED]
    assert names == [[0, 5, 5], [0, 0, 10]]


def test_the_deepchem_protocol_is_deepchems():
    smiles = example_table("freesolv")["smiles"].tolist()
    data = dc.data.NumpyDataset(np.zeros(len(smiles)), ids=np.array(smiles, dtype=object))
    expected = dc.splits.ScaffoldSplitter().train_valid_test_split(data)
    for rows, part in zip(split_rows(smiles, "deepchem"), expected):
        assert [smiles[row] for row in rows] == part.ids.tolist()


def test_a_random_validation_leaves_the_test_set_of_deepchem():
    smiles = example_table("freesolv")["smiles"].tolist()
    (train, valid, test), (_, old, expected) = (
        split_rows(smiles, protocol) for protocol in ("random-valid", "deepchem")
    )
    assert test == expected
    assert len(valid) == len(old) == 64  # each of these molecules stands once
    other = {murcko_scaffold(smiles[row]) for row in train}
    assert np.mean([murcko_scaffold(smiles[row]) in other for row in valid]) > 0.5
    assert not any(murcko_scaffold(smiles[row]) in other for row in test)
    assert split_rows(smiles, "random-valid") == (train, valid, test)


def test_unknown_names():
    with pytest.raises(ValueError, match="no benchmark 'bbpb'; there are bbbp"):
        load_benchmark("bbpb", MMSAFeaturizer())
    with pytest.raises(ValueError, match="no protocol 'scaffold'; there are hu, deepchem"):
        load_split("bbbp", "scaffold", MMSAFeaturizer())
    with pytest.raises(ValueError, match="cannot read the SMILES 'C1CC'"):
        scaffold_split(["C1CC"])


def test_a_file_that_is_missing_is_named(tmp_path, monkeypatch):
    def offline(*a, **k):
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(urllib.request, "urlretrieve", offline)
    with pytest.raises(OSError, match=rf"esol cannot be loaded .*: it is read from {tmp_path}/del"):
        load_benchmark("esol", dc.feat.RawFeaturizer(), str(tmp_path))


def part(smiles):
    return dc.data.NumpyDataset(np.zeros(len(smiles)), ids=np.array(smiles, dtype=object))


def of(train, valid, test):
    parts = map(part, (train, valid, test))
    return Split("toy", "hu", "regression", "rmse", ["y"], *parts)


def test_a_leak_is_found_wherever_it_is():
    check_apart(of(["CCO"], ["CCN"], ["CCC"]), ["CCCC"], frozenset([connectivity("CCS")]))
    with pytest.raises(LeakError, match="1 test molecules of toy are in the training"):
        check_apart(of(["CCO"], ["CCN"], ["OCC", "CCC"]))
    with pytest.raises(LeakError, match="validation set, for example NCC"):
        check_apart(of(["CCO"], ["CCN"], ["NCC"]))
    with pytest.raises(LeakError, match="memory's exemplars, for example CCC"):
        check_apart(of(["CCO"], ["CCN"], ["CCC"]), ["CC", "C(C)C"])
    # A salt is its larger component too, on either side.
    free, salt = "CCCCN(CC)C(=O)c1ccccc1", "Cl.CCCCN(CC)C(=O)c1ccccc1"
    for known, tested in ((free, salt), (salt, free)):
        with pytest.raises(LeakError, match="memory's exemplars"):
            check_apart(of(["CCO"], ["CCN"], [tested]), [known])
        with pytest.raises(LeakError, match="pre-training set"):
            check_apart(of(["CCO"], ["CCN"], [tested]), (), connectivities(known))
    # A skeleton is one, whatever its stereochemistry.
    keys = frozenset([connectivity("C[C@H](N)C(=O)O")])
    with pytest.raises(LeakError, match="pre-training set"):
        check_apart(of(["CCO"], ["CCN"], ["C[C@@H](N)C(=O)O"]), (), keys)


@pytest.fixture(scope="module")
def bace_folder(tmp_path_factory):
    """A file like DeepChem's BBBP, of drugs, one of them no molecule."""
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "BBBP.csv", "w") as file:
        file.write("num,name,p_np,smiles\n")
        for i, smiles in enumerate([*DRUGS, "C1CC"]):
            file.write(f"{i},m{i},{i % 2},{smiles}\n")
    return str(folder)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_benchmark_is_loaded_and_split(bace_folder, protocol):
    split = load_split("bbbp", protocol, MMSAFeaturizer("graph"), bace_folder)
    assert (split.mode, split.metric, split.minimize) == ("classification", "roc_auc", False)
    assert split.tasks == ["p_np"]
    assert sum(len(data) for data in split.parts().values()) == len(DRUGS)
    assert all(record.available == ("graph",) for record in split.test.X)
    labels = {Chem.CanonSmiles(s): i % 2 for i, s in enumerate(DRUGS)}
    for data in split.parts().values():
        assert [labels[Chem.CanonSmiles(s)] for s in data.ids] == data.y[:, 0].tolist()
    check_apart(split)


def test_a_kept_set_is_that_of_its_file(tmp_path):
    class Counted(dc.feat.RawFeaturizer):
        seen = 0

        def _featurize(self, molecule, **more):
            Counted.seen += 1
            return super()._featurize(molecule, **more)

        def __str__(self):
            return "counted"

    def positives(n):
        rows = "".join(f"{i},m{i},{int(i < n)},{s}\n" for i, s in enumerate(DRUGS))
        (tmp_path / "BBBP.csv").write_text("num,name,p_np,smiles\n" + rows)
        whole = Whole.load("bbbp", Counted(smiles=True), str(tmp_path), str(tmp_path / "kept"))
        assert (whole.data.w == 1).all()  # no transformer has balanced the classes
        return whole.data.y.sum()

    assert positives(5) == positives(5) == 5
    assert Counted.seen == len(DRUGS)  # the second time it was read from the folder
    assert positives(9) == 9  # another file under the same name


def test_held_out_molecules_are_those_of_both_published_protocols(bace_folder, caplog):
    held = set(held_out_molecules("bbbp", bace_folder))
    assert not caplog.records  # DeepChem writes six lines for the row that holds no molecule
    whole = Whole.load("bbbp", MMSAFeaturizer("graph"), bace_folder)
    for protocol in PUBLISHED:
        split = whole.split(protocol)
        assert {*split.valid.ids, *split.test.ids} <= held
    assert set(whole.split("random-valid").test.ids) <= held
    assert len(held) < len(DRUGS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_splitting_writes_nothing(protocol, capfd):
    split_rows([*POOL, "[H+].[Cl-]"], protocol)
    assert capfd.readouterr() == ("", "")


def test_a_set_cut_short_is_always_the_same(bace_folder):
    first, second = (
        Whole.load("bbbp", MMSAFeaturizer("graph"), bace_folder, max_molecules=12) for _ in "ab"
    )
    assert len(first.data) == 12
    assert first.data.ids.tolist() == second.data.ids.tolist()


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["bbbp", "bace", "clintox", "sider", "tox21", "esol", "freesolv"])
def test_benchmarks_load_with_their_tasks(name, protocol):
    split = load_split(name, protocol, MMSAFeaturizer("graph", n_jobs=2), str(data_dir()))
    assert all(len(data) for data in split.parts().values())
    assert split.train.y.shape[1] == len(split.tasks)
    assert split.minimize == (BENCHMARKS[name].mode == "regression")
    check_apart(split)


def test_the_identity_of_data_is_that_of_their_file(bace_folder, tmp_path, monkeypatch):
    mine = data_identity("bbbp", bace_folder)
    assert mine["file"]
    assert data_identity("bbbp", str(tmp_path))["file"] is None
    assert data_identity("bbbp", bace_folder, optimize_conformer=True) != mine
    monkeypatch.setattr("deepchem_mmsa.benchmark.sets.FEATURE_VERSION", -1)
    assert data_identity("bbbp", bace_folder)["features"] not in (None, mine["features"])


def test_a_set_cut_too_short_is_refused(bace_folder):
    whole = Whole.load("bbbp", dc.feat.RawFeaturizer(smiles=True), bace_folder, None, 3)
    with pytest.raises(ValueError, match="bbbp: 3 molecules make parts of .*take more"):
        whole.split("hu")
