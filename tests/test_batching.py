"""Batches: nothing lost, nothing mixed up, whatever is missing."""

import deepchem as dc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.batching import Collator
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.molecule import MODALITIES
from deepchem_mmsa.views import ViewSettings, molecule_views
from deepchem_mmsa.views.depiction import decode


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 30), min_size=1, max_size=9), data=st.data())
def test_each_molecule_keeps_its_own(molecules, rows, data):
    modalities = tuple(
        m for m in MODALITIES if m in data.draw(st.sets(st.sampled_from(MODALITIES), min_size=1))
    )
    chosen = [molecules[i % len(molecules)] for i in rows]
    batch = Collator(modalities, image_size=48)(chosen)
    assert batch.smiles == [r.smiles for r in chosen]
    for column, modality in enumerate(modalities):
        there = [i for i, r in enumerate(chosen) if modality in r.available]
        assert batch.rows[modality].tolist() == there
        assert batch.available[:, column].nonzero()[:, 0].tolist() == there
    if "graph" in modalities:
        graph = batch.inputs["graph"]
        kept = [chosen[i] for i in batch.rows["graph"]]
        atoms = np.concatenate([r.atoms for r in kept])
        assert (graph.atoms.numpy() == atoms).all()
        assert graph.n_edges.tolist() == [2 * len(r.bonds) for r in kept]
        # every edge stays inside its molecule and has its reverse with the same features
        assert (graph.molecule_of_atom[graph.src] == graph.molecule_of_atom[graph.dst]).all()
        edges = {
            (s, d, *f)
            for s, d, f in zip(graph.src.tolist(), graph.dst.tolist(), graph.bonds.tolist())
        }
        assert edges == {(d, s, *f) for s, d, *f in edges}


def test_hydrogens_are_an_option(molecules):
    record = next(
        r for r in molecules if "geometry" in r.available and (r.atomic_numbers == 1).any()
    )
    bare = Collator(("geometry",))([record]).inputs["geometry"]
    whole = Collator(("geometry",), hydrogens=True)([record]).inputs["geometry"]
    assert (bare.atomic_numbers != 1).all()
    assert len(whole.atomic_numbers) == len(record.atomic_numbers)
    assert len(bare.atomic_numbers) == len(record.atoms)


def test_a_dummy_atom_is_no_hydrogen():
    record = molecule_views("*CC", ViewSettings(("graph", "geometry")))
    conformers = Collator(("geometry",))([record]).inputs["geometry"]
    assert sorted(conformers.atomic_numbers.tolist()) == [0, 6, 6]


def test_an_empty_modality_is_well_formed(molecules):
    from deepchem_mmsa.molecule import MoleculeViews

    batch = Collator(MODALITIES, image_size=32)([MoleculeViews.unreadable("C(", "open branch")])
    assert not batch.available.any()
    assert batch.inputs["image"].shape == (0, 3, 32, 32)
    assert batch.inputs["graph"].n_molecules == 0
    assert batch.inputs["geometry"].coordinates.shape == (0, 3)


def test_foreign_objects_are_named():
    with pytest.raises(TypeError, match=r"row 1 .*str, not MoleculeViews; featurize"):
        from deepchem_mmsa.molecule import MoleculeViews

        Collator(("graph",))([MoleculeViews("C"), "CCO"])


@pytest.mark.filterwarnings("ignore")
def test_a_row_that_the_featurizer_could_not_read_is_told():
    from deepchem_mmsa import MMSAFeaturizer

    with pytest.raises(TypeError, match=r"row 1 .*is empty.*could not read.*by featurize_all"):
        Collator(("graph",))(MMSAFeaturizer("graph").featurize(["CCO", "C1CC", "CCN"]))


def test_a_column_of_records_is_told_apart_from_other_arrays(graph_dataset):
    frame = dc.data.NumpyDataset(graph_dataset.X[:3]).to_dataframe()
    column = dc.data.NumpyDataset.from_dataframe(frame).X  # [3, 1]
    with pytest.raises(TypeError, match=r"row 0 .*2 dimensions: give .*as \[N\], X\[:, 0\]"):
        Collator(("graph",))(column)
    with pytest.raises(TypeError, match="featurize the data"):
        Collator(("graph",))(np.zeros((3, 1)))


def test_moves_between_devices(molecules):
    batch = Collator(MODALITIES, image_size=32)(molecules[:3]).to("meta")
    assert batch.available.device == torch.device("meta")
    assert batch.inputs["graph"].src.device == torch.device("meta")


def test_every_view_is_the_records_own(molecules):
    chosen = molecules[:6]
    inputs = Collator(MODALITIES, image_size=32, hydrogens=True)(chosen).inputs
    prints, cloud = inputs["fingerprint"], inputs["geometry"]
    for row, record in enumerate(chosen):
        assert (inputs["image"][row].numpy() == decode(record.image, 32)).all()
        counts = np.zeros(prints.counts.shape[1])
        counts[record.fingerprint_bits] = record.fingerprint_counts
        assert (prints.counts[row].numpy() == counts).all()
        np.testing.assert_array_equal(prints.descriptors[row], record.descriptors)
    assert counts.max() > 1
    numbers = np.concatenate([record.atomic_numbers for record in chosen])
    points = np.concatenate([record.coordinates for record in chosen]).astype(np.float32)
    assert (cloud.atomic_numbers.numpy() == numbers).all()
    np.testing.assert_array_equal(cloud.coordinates, points)
    bare = Collator(("geometry",))(chosen).inputs["geometry"]
    assert (bare.atomic_numbers.numpy() == numbers[numbers != 1]).all()
    np.testing.assert_array_equal(bare.coordinates, points[numbers != 1])


def test_rows_move_with_the_inputs(molecules):
    batch = Collator(MODALITIES, image_size=32)(molecules[:3]).to("meta")
    assert {rows.device.type for rows in batch.rows.values()} == {"meta"}


def test_a_molecule_of_hydrogen_keeps_its_atoms():
    record = molecule_views("[H][H]", ViewSettings(("graph", "geometry")))
    conformers = Collator(("geometry",))([record]).inputs["geometry"]
    assert conformers.atomic_numbers.tolist() == [1, 1]


def test_a_network_is_fed_as_it_was_configured(molecules):
    config = MMSAConfig(modalities=("image", "geometry"), image_size=48, hydrogens=True)
    inputs = Collator.of(config)(molecules[:3]).inputs
    assert set(inputs) == {"image", "geometry"}
    assert inputs["image"].shape == (3, 3, 48, 48)
    assert (inputs["geometry"].atomic_numbers == 1).any()


def test_a_batch_of_nothing_is_well_formed():
    batch = Collator(MODALITIES, image_size=32)([])
    assert len(batch) == 0
    assert batch.available.shape == (0, len(MODALITIES))
