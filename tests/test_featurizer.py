"""MMSAFeaturizer in DeepChem: arrays, loaders, data sets, splitters, failures."""

import inspect
import logging
import pickle
import warnings

import deepchem as dc
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem, rdDistGeom

from deepchem_mmsa.featurizer import FEATURE_VERSION, MMSAFeaturizer
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.views import ViewSettings, many_views, molecule_views
from tests.conftest import DRUGS
from tests.views.test_topology import rewritten

GRAPH = ("graph",)
BAD = "C(C)(C)(C)(C)C"


@pytest.fixture
def dataset(records, drugs):
    y = np.arange(len(drugs), dtype=float)[:, None]
    return dc.data.NumpyDataset(records, y, np.ones_like(y), np.array(drugs, dtype=object))


def same(one, other) -> bool:
    return len(one) == len(other) and all(mine == theirs for mine, theirs in zip(one, other))


# --- the array ---------------------------------------------------------------------------------


def test_features_are_a_flat_object_array(drugs, records):
    features = MMSAFeaturizer().featurize(drugs)
    assert features.shape == (len(drugs),)
    assert features.dtype == object
    assert all(type(record) is MoleculeViews for record in features)
    assert all(record.available == ("image", "graph", "geometry") for record in features)
    assert same(features, records)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(DRUGS), st.integers(0, 2**31))
def test_every_writing_gives_the_same_bytes(smiles, seed):
    assert molecule_views(smiles).to_bytes() == molecule_views(rewritten(smiles, seed)).to_bytes()


def test_molecules_and_smiles_give_the_same(drugs, records):
    featurizer = MMSAFeaturizer()
    molecules = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in drugs[:8]]
    assert same(featurizer.featurize(molecules), records[:8])
    for alone in (drugs[0], Chem.MolFromSmiles(drugs[0]), (drugs[0],)):
        assert same(featurizer.featurize(alone), records[:1])
    assert same(featurizer(drugs[:2]), records[:2])
    assert same(featurizer(pd.Series(drugs[:2])), records[:2])
    assert featurizer.views(drugs[3]) == records[3]


def test_processes_give_the_same_bytes(drugs, records):
    mixed = [*drugs[:30], BAD, "", *[Chem.MolFromSmiles(smiles) for smiles in drugs[30:]]]
    rng = np.random.default_rng(0)
    carrier = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMolecule(carrier, randomSeed=5)
    mixed.insert(int(rng.integers(len(mixed))), Chem.RemoveHs(carrier))
    serial, parallel = many_views(mixed), many_views(mixed, n_jobs=2)
    assert [r.to_bytes() for r in serial] == [r.to_bytes() for r in parallel]


@pytest.mark.parametrize("names", [("image",), ("graph",), ("geometry",), ("geometry", "image")])
def test_any_subset_of_modalities(names):
    record = MMSAFeaturizer(modalities=names).views("CCO")
    assert set(record.available) == set(names)
    assert record.reasons == {}


def test_records_are_small(records):
    sizes = np.array([len(pickle.dumps(record)) for record in records])
    assert sizes.max() <= 8192
    assert sizes.mean() <= 3500


@pytest.mark.slow
def test_the_largest_drugs_have_small_records_too(moleculenet):
    sider = pd.read_csv(moleculenet / "sider.csv.gz")["smiles"]
    largest = sider[sider.str.len().sort_values().index[-60:]]
    assert max(len(r.to_bytes()) for r in many_views(largest)) <= 8192


def test_five_hundred_atoms_stay_in_without_a_conformer():
    record = molecule_views("NCC(=O)" * 125 + "O")
    assert record.available == ("image", "graph")
    assert "501 heavy atoms" in record.reasons["geometry"]
    assert len(pickle.dumps(record)) <= 8192
    assert record.readable


# --- names -------------------------------------------------------------------------------------


def test_arguments_are_stored_under_their_names():
    featurizer = MMSAFeaturizer(("graph", "image"), 112, 3, 2.5, True, 2)
    for name in inspect.signature(MMSAFeaturizer.__init__).parameters:
        assert name == "self" or hasattr(featurizer, name)
    for text in ("modalities=('image', 'graph')", "image_size=112", "seed=3", "n_jobs=2"):
        assert text in repr(featurizer)


def test_the_name_is_a_cache_key():
    """MoleculeNet's loaders reuse what lies under it: it must change with the records only."""
    base = str(MMSAFeaturizer())
    assert base == f"MMSAFeaturizer_v{FEATURE_VERSION}"
    assert str(MMSAFeaturizer(n_jobs=2)) == base
    others = [
        MMSAFeaturizer("graph"),
        MMSAFeaturizer(image_size=112),
        MMSAFeaturizer(seed=1),
        MMSAFeaturizer(conformer_timeout=0.5),
        MMSAFeaturizer(optimize_conformer=True),
        MMSAFeaturizer(("image", "geometry")),
    ]
    names = {base, *map(str, others)}
    assert len(names) == 7
    assert all(name.replace("_", "").replace("-", "").isalnum() for name in names)
    assert max(map(len, names)) < 60
    assert str(MMSAFeaturizer(["geometry", "image"])) == str(others[-1])


def test_featurizers_can_be_pickled():
    copy = pickle.loads(pickle.dumps(MMSAFeaturizer("graph", seed=2)))
    assert str(copy) == str(MMSAFeaturizer("graph", seed=2))
    assert copy.views("CCO").available == ("graph",)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"modalities": ("picture",)}, "unknown modality 'picture': choose from image, graph"),
        ({"modalities": ()}, "no modality given"),
        ({"image_size": 5}, "image_size must be 16 to 4096 pixels, got 5"),
        ({"seed": -1}, "seed must be 0 to 2147483647, got -1"),
        ({"conformer_timeout": -1.0}, "conformer_timeout must be 0 to 86400 seconds"),
    ],
)
def test_bad_arguments_name_value_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        MMSAFeaturizer(**arguments)


# --- unreadable rows ---------------------------------------------------------------------------


def test_unreadable_rows_are_dropped_with_one_warning():
    featurizer = MMSAFeaturizer(GRAPH)
    with pytest.warns(UserWarning, match="cannot be read") as caught:
        features = featurizer.featurize(["CCO", BAD, "N", None, float("nan")])
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "3 of 5 rows cannot be read" in text
    assert "row 1: 'C(C)(C)(C)(C)C': unreadable: Explicit valence for atom # 0 C, 5" in text
    assert [np.array(feature).size for feature in features] == [1, 0, 1, 0, 0]
    assert [(f.row, f.smiles) for f in featurizer.failures] == [(1, BAD), (3, ""), (4, "nan")]
    assert caught[0].filename == __file__


def test_many_failures_make_a_short_warning():
    featurizer = MMSAFeaturizer(GRAPH)
    with pytest.warns(UserWarning, match="and 40 more, see featurizer.failures"):
        featurizer.featurize(["X"] * 50)
    assert len(featurizer.failures) == 50


def test_in_featurize_all_every_row_stays():
    featurizer = MMSAFeaturizer()
    with pytest.warns(UserWarning, match="2 of 3"):
        features = featurizer.featurize_all(["", "CCO", BAD])
    assert [record.readable for record in features] == [False, True, False]
    assert features[2].smiles == BAD
    assert set(features[2].reasons) == {"image", "graph", "geometry"}


def test_a_molecule_without_its_only_view_stays_in():
    featurizer = MMSAFeaturizer("geometry", conformer_timeout=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (record,) = featurizer.featurize(["CCO"])
    assert record.available == ()
    assert record.readable
    assert "0 s ran out" in record.reasons["geometry"]
    assert featurizer.failures == []


def test_a_molecule_object_that_cannot_be_sanitized_is_flagged():
    record = molecule_views(Chem.MolFromSmiles(BAD, sanitize=False), ViewSettings(GRAPH))
    assert not record.readable
    assert "Explicit valence" in record.reasons["graph"]


def test_rdkit_stays_quiet(capfd):
    with pytest.warns(UserWarning, match="2 of 5"):
        MMSAFeaturizer().featurize([BAD, "[H]", "C1CC", "[U+9]", "CCO"])
    captured = capfd.readouterr()
    assert "[" not in captured.err
    assert captured.out == ""


def test_progress_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="deepchem_mmsa.featurizer"):
        MMSAFeaturizer(GRAPH).featurize(["C"] * 25, log_every_n=10)
    assert [r.getMessage() for r in caplog.records] == [
        "Featurized 10 of 25 molecules",
        "Featurized 20 of 25 molecules",
    ]


# --- loaders -----------------------------------------------------------------------------------


def test_csv_loader_drops_and_names_rows_through_all_shards(tmp_path, drugs):
    rows = [*drugs[:5], BAD, *drugs[5:9], "", drugs[9]]
    table = pd.DataFrame({"smiles": rows, "y": np.arange(12.0)})
    table.to_csv(tmp_path / "data.csv", index=False)
    featurizer = MMSAFeaturizer(GRAPH)
    loader = dc.data.CSVLoader(["y"], featurizer, feature_field="smiles")
    with pytest.warns(UserWarning, match="cannot be read"):
        dataset = loader.create_dataset(str(tmp_path / "data.csv"), shard_size=4)
    assert len(dataset) == 10
    assert dataset.y[:, 0].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert list(dataset.ids) == [smiles for smiles in rows if smiles not in (BAD, "")]
    assert [failure.row for failure in featurizer.failures] == [5, 10]
    assert same(dataset.X, many_views(dataset.ids, ViewSettings(GRAPH)))


def test_csv_loader_without_tasks(tmp_path, drugs):
    pd.DataFrame({"smiles": drugs[:6]}).to_csv(tmp_path / "data.csv", index=False)
    loader = dc.data.CSVLoader([], MMSAFeaturizer(GRAPH), feature_field="smiles")
    dataset = loader.create_dataset(str(tmp_path / "data.csv"))
    assert len(dataset) == 6
    assert dataset.X.shape == (6,)
    assert list(dataset.ids) == drugs[:6]


def test_csv_shard_of_bad_rows_only(tmp_path, drugs):
    rows = [drugs[0], drugs[1], BAD, BAD, drugs[2], drugs[3]]
    pd.DataFrame({"smiles": rows, "y": range(6)}).to_csv(tmp_path / "data.csv", index=False)
    loader = dc.data.CSVLoader(["y"], MMSAFeaturizer(GRAPH), feature_field="smiles")
    with pytest.warns(UserWarning, match="2 of 2 rows"):
        dataset = loader.create_dataset(str(tmp_path / "data.csv"), shard_size=2)
    assert dataset.y[:, 0].tolist() == [0, 1, 4, 5]
    assert all(isinstance(record, MoleculeViews) for record in dataset.X)


def test_in_memory_loader_keeps_a_bad_row_flagged(drugs):
    """It hands over one molecule at a time, and stock featurizers make it raise here."""
    featurizer = MMSAFeaturizer(GRAPH)
    loader = dc.data.InMemoryLoader(["y"], featurizer)
    inputs = [(drugs[0], 1.0), (BAD, 2.0), (drugs[1], 3.0)]
    with pytest.warns(UserWarning, match="Explicit valence"):
        dataset = loader.create_dataset(inputs)
    assert [record.readable for record in dataset.X] == [True, False, True]
    assert dataset.y.tolist() == [1.0, 2.0, 3.0]
    assert featurizer.failures[0].row is None
    unlabelled = dc.data.InMemoryLoader([], MMSAFeaturizer(GRAPH)).create_dataset(drugs[:3])
    assert len(unlabelled) == 3
    with pytest.raises(ValueError):
        dc.data.InMemoryLoader(["y"], dc.feat.CircularFingerprint()).create_dataset(inputs)


@pytest.mark.parametrize("sanitize", [False, True])
def test_sdf_loader_uses_the_files_conformers(tmp_path, drugs, sanitize):
    path = tmp_path / "molecules.sdf"
    written = []
    with Chem.SDWriter(str(path)) as writer:
        for number, smiles in enumerate(s for s in drugs[:12] if "." not in s):
            molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
            rdDistGeom.EmbedMolecule(molecule, randomSeed=99)
            molecule.SetProp("y", str(number))
            writer.write(molecule)
            written.append(molecule)
    loader = dc.data.SDFLoader(["y"], MMSAFeaturizer(), sanitize=sanitize)
    dataset = loader.create_dataset(str(path))
    assert len(dataset) == len(written)
    assert dataset.y[:, 0].tolist() == list(range(len(written)))
    for record, molecule in zip(dataset.X, written):
        elements = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
        positions = np.asarray(molecule.GetConformer().GetPositions())  # 4 decimals in the file
        theirs = sorted(zip(elements, *np.round(positions, 3).T.tolist()))
        mine = sorted(zip(record.atomic_numbers.tolist(), *record.coordinates.T.tolist()))
        np.testing.assert_allclose(mine, theirs, atol=1e-3)
        plain = molecule_views(record.smiles, ViewSettings(("image", "graph")))
        Chem.AssignStereochemistryFrom3D(molecule)  # the geometry specifies every centre
        assert record.smiles == Chem.MolToSmiles(Chem.RemoveHs(molecule))
        assert plain.image == record.image
        np.testing.assert_array_equal(plain.atoms, record.atoms)


# --- data sets ---------------------------------------------------------------------------------


def test_data_sets_keep_records_whole(dataset, records, tmp_path):
    disk = dc.data.DiskDataset.from_numpy(
        dataset.X, dataset.y, dataset.w, dataset.ids, data_dir=str(tmp_path / "disk")
    )
    assert same(disk.X, records)
    assert same(dc.data.DiskDataset(str(tmp_path / "disk")).X, records)
    disk.reshard(7)
    assert disk.get_number_shards() == 6
    assert same(disk.X, records)
    picked = disk.select([3, 1, 20], str(tmp_path / "picked"))
    assert same(picked.X, [records[1], records[3], records[20]]) or same(
        picked.X, [records[3], records[1], records[20]]
    )
    shuffled = disk.complete_shuffle(str(tmp_path / "shuffled"))
    place = {smiles: index for index, smiles in enumerate(dataset.ids)}
    assert same(shuffled.X, [records[place[smiles]] for smiles in shuffled.ids])
    assert set(shuffled.ids) == set(dataset.ids)
    merged = dc.data.DiskDataset.merge([disk, picked], str(tmp_path / "merged"))
    assert same(merged.X, [*records, *picked.X])
    assert same(dataset.select([2, 5]).X, [records[2], records[5]])
    batches = [X for X, _, _, _ in disk.iterbatches(10, pad_batches=False, deterministic=True)]
    assert same([record for X in batches for record in X], records)
    assert same([X for X, _, _, _ in disk.itersamples()], records)


def test_shuffles_of_shards_keep_pairs(dataset, records, tmp_path):
    disk = dc.data.DiskDataset.from_numpy(dataset.X, dataset.y, dataset.w, dataset.ids)
    disk.reshard(10)
    disk.shuffle_each_shard()
    disk.shuffle_shards()
    assert same(disk.X, [records[int(y)] for y in disk.y[:, 0]])
    copy = disk.copy(str(tmp_path / "copy"))
    assert same(copy.X, disk.X)
    frame = dataset.to_dataframe()
    assert same(frame["X"], records)


SPLITTERS = [
    dc.splits.RandomSplitter(),
    dc.splits.IndexSplitter(),
    dc.splits.ScaffoldSplitter(),
    dc.splits.ButinaSplitter(),
    dc.splits.FingerprintSplitter(),
    dc.splits.MaxMinSplitter(),
    dc.splits.MolecularWeightSplitter(),
    dc.splits.RandomStratifiedSplitter(),
    dc.splits.SingletaskStratifiedSplitter(),
    dc.splits.RandomGroupSplitter(groups=[index // 3 for index in range(len(DRUGS))]),
    dc.splits.SpecifiedSplitter(valid_indices=[1, 2], test_indices=[3, 4]),
]


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda splitter: type(splitter).__name__)
@pytest.mark.parametrize("on_disk", [False, True])
def test_every_splitter_parts_the_records(splitter, on_disk, dataset, records):
    labels = (dataset.y % 2).astype(float)
    if isinstance(splitter, dc.splits.SingletaskStratifiedSplitter):
        # DeepChem's own faults, whatever the features are: its indices are floats, which a
        # NumpyDataset refuses, and it loses the rows beyond a multiple of ten.
        if not on_disk:
            pytest.skip("DeepChem's splitter gives float indices, which NumpyDataset refuses")
        dataset = dataset.select(range(40))
        labels = dataset.y
    kind = dc.data.DiskDataset.from_numpy if on_disk else dc.data.NumpyDataset
    whole = kind(dataset.X, labels, dataset.w, dataset.ids)
    parts = splitter.train_valid_test_split(
        whole, frac_train=0.6, frac_valid=0.2, frac_test=0.2, seed=1
    )
    place = {smiles: index for index, smiles in enumerate(dataset.ids)}
    seen = [smiles for part in parts for smiles in part.ids]
    assert sorted(seen) == sorted(dataset.ids)
    for part in parts:
        assert same(part.X, [records[place[smiles]] for smiles in part.ids])


def test_k_fold_splits(dataset, records):
    folds = dc.splits.RandomSplitter().k_fold_split(dataset, k=3, seed=0)
    place = {smiles: index for index, smiles in enumerate(dataset.ids)}
    assert sum(len(test) for _, test in folds) == len(records)
    for train, test in folds:
        for part in (train, test):
            assert same(part.X, [records[place[smiles]] for smiles in part.ids])


def test_numbers_of_numpy_are_numbers(tmp_path):
    featurizer = MMSAFeaturizer(("graph", "geometry"), seed=np.int64(3), image_size=np.int64(64))
    assert featurizer.featurize(["CCO"])[0].available == ("graph", "geometry")
    settings = ViewSettings(("graph",), np.int64(64), np.int32(3), np.float32(2), np.bool_(False))
    assert len(featurize_to_shards(["CCO"], tmp_path, settings)) == 1
    for arguments in ({"seed": 1.5}, {"image_size": 64.5}, {"conformer_timeout": float("inf")}):
        with pytest.raises(ValueError, match="must be"):
            ViewSettings(**arguments)


@pytest.mark.parametrize("wrong", [b"CCO", pd.DataFrame({"smiles": ["CCO"]})])
def test_what_is_no_sequence_of_molecules_is_refused(wrong):
    with pytest.raises(TypeError, match="give"):
        MMSAFeaturizer("graph").featurize(wrong)


def test_coordinates_that_no_molecule_has_are_not_taken():
    molecule = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    for far in (1e38, 1e7):
        molecule.GetConformer().SetAtomPosition(1, (far, 0.0, 0.0))
        record = molecule_views(molecule, ViewSettings(("graph", "geometry")))
        assert record.available == ("graph", "geometry")
        assert np.abs(record.coordinates).max() < 10  # embedded anew
