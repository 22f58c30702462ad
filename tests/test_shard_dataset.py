"""A DeepChem dataset over shards: each row once with its own label, in flat memory."""

from types import SimpleNamespace

import deepchem as dc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.datasets import dataset_from_shards
from deepchem_mmsa.shard_dataset import ShardDataset
from deepchem_mmsa.shards import featurize_to_shards
from deepchem_mmsa.views import ViewSettings
from tests.fixtures import SMILES

ROWS = [*SMILES[:17], "C1CC", "", *SMILES[17:30], "C\0", None]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Shards of five molecules each, made in this very process."""
    folder = tmp_path_factory.mktemp("made")
    return featurize_to_shards(ROWS, folder, ViewSettings(("graph",)), 5, contained=False)


@pytest.fixture(scope="module")
def dataset(made):
    y = 1.0 + np.arange(len(ROWS))
    y[4] = np.nan  # becomes 0
    return dataset_from_shards(made, y, ["place"])


def places(batches):
    return [int(value) for batch in batches for value in batch[1][:, 0]]


def test_it_is_a_dataset_of_every_row(made, dataset):
    assert len(dataset) == len(ROWS)
    assert dataset.get_shape() == ((34,), (34, 1), (34, 1), (34,))
    assert list(dataset.X) == list(made)
    assert dataset.w[:6, 0].tolist() == [1, 1, 1, 1, 0, 1]
    assert dataset.get_task_names().tolist() == ["place"]
    assert [x for x, *_ in dataset.itersamples()] == list(made)
    assert "ShardDataset X.shape: (34,)" in repr(dataset)
    assert dataset_from_shards(made.folder).y is None
    with pytest.raises(ValueError, match="y has 3 rows, the shards hold 34"):
        dataset_from_shards(made, [1, 2, 3])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.booleans(), st.lists(st.integers(0, 33), max_size=30))
def test_batches_hold_each_row_once_with_its_own_label(dataset, size, deterministic, chosen):
    part = dataset.select(chosen)
    batches = list(part.iterbatches(size, deterministic=deterministic))
    expected = [0 if row == 4 else row + 1 for row in sorted(chosen)]
    assert sorted(places(batches)) == sorted(expected)
    assert all(len(X) == size for X, *_ in batches[:-1])
    records = list(dataset.shards)
    for X, y, _, ids in batches:
        for record, label, smiles in zip(X, y[:, 0], ids):
            assert record.smiles == smiles
            assert record == records[int(label) - 1 if label else 4]
    if deterministic:
        assert places(batches) == expected


def test_it_shuffles_and_pads_as_deepchem_does(dataset):
    np.random.seed(0)  # noqa: NPY002 -- what DeepChem's users seed
    one, two = (places(dataset.iterbatches(7)) for _ in range(2))
    assert one != two
    np.random.seed(0)  # noqa: NPY002
    assert places(dataset.iterbatches(7)) == one
    sizes = [len(X) for X, *_ in dataset.iterbatches(10, pad_batches=True, epochs=2)]
    assert sizes == [10] * 8
    loader = dataset.make_pytorch_dataset(deterministic=True, batch_size=10)
    assert places(loader) == dataset.y[:, 0].astype(int).tolist()


def test_splits_and_label_transformers(dataset):
    parts = dc.splits.ScaffoldSplitter().train_valid_test_split(dataset.select(range(17)))
    assert sorted(i for part in parts for i in part.ids) == sorted(dataset.ids[:17])
    scaled = dc.trans.NormalizationTransformer(transform_y=True, dataset=dataset).transform(dataset)
    np.testing.assert_allclose([scaled.y.mean(), scaled.y.std()], [0, 1], atol=1e-6)
    with pytest.raises(ValueError, match="changes X"):
        dataset.transform(dc.trans.ClippingTransformer(transform_X=True))
    with pytest.raises(ValueError, match="no mean"):
        dataset.get_statistics()


def test_training_over_shards_equals_training_in_memory(made, make_model):
    readable = [row for row, record in enumerate(made) if record.readable]
    shards = dataset_from_shards(made, np.arange(len(ROWS)) / 10).select(readable)
    memory = dc.data.NumpyDataset(shards.X, shards.y, shards.w, shards.ids)
    predictions = []
    for data in (shards, memory):
        model = make_model(mode="regression", seed=1)
        model.fit(data, nb_epoch=2, deterministic=True, checkpoint_interval=0)
        predictions.append(model.predict(data))
    np.testing.assert_array_equal(*predictions)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_select_takes_what_numpy_takes(dataset, data):
    n = len(dataset)
    if data.draw(st.booleans()):
        chosen = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    else:
        chosen = data.draw(st.lists(st.integers(-n, n - 1), max_size=n, unique_by=lambda i: i % n))
    expected = np.sort(np.arange(n)[np.asarray(chosen) if len(chosen) else np.array([], int)])
    found = dataset.select(chosen)
    assert found.ids.tolist() == dataset.ids[expected].tolist()
    for wrong in (np.ones(n + 1, bool), [n]):
        with pytest.raises(IndexError):
            dataset.select(wrong)


def multitask(made):
    """Two labels of each row, that of the second task a hundred larger."""
    y = np.arange(len(ROWS))[:, None] + np.array([[0.0, 100.0]])
    return ShardDataset(made, y, np.ones_like(y), ["near", "far"])


@pytest.mark.parametrize("rows", [[34], [-1, 0], [3, 2]])
def test_rows_that_are_none_are_refused(made, rows):
    with pytest.raises(ValueError, match="rows must ascend from 0 to 33"):
        ShardDataset(made, rows=np.array(rows))


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"w": np.ones((3, 2))}, "w has 3 rows, the shards hold 34"),
        ({"tasks": ["near"]}, "1 task names for 2 labels"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(made, parts, message):
    with pytest.raises(ValueError, match=message):
        ShardDataset(made, np.zeros((34, 2)), **parts)


class Doubled(ShardDataset):
    def get_shard(self, i):
        X, y, w, ids = super().get_shard(i)
        return X, None if y is None else 2 * y, w, ids


@pytest.mark.parametrize("kind, factor", [(ShardDataset, 1), (Doubled, 2)])
def test_training_reads_what_a_shard_gives_and_ones_and_zeros_for_the_rest(made, kind, factor):
    rows = np.array([3, 0])
    n, take = kind(made).shard_reader(1)
    X, y, w = take(rows)
    assert n == 5
    assert list(X) == [made.records(1)[3], made.records(1)[0]]
    assert (y.tolist(), w.tolist()) == ([[0], [0]], [[1], [1]])
    labelled = kind(made, np.arange(34.0)[:, None])
    assert labelled.shard_reader(1)[1](rows)[1].tolist() == [[8 * factor], [5 * factor]]


def test_workers_share_the_rows_of_every_epoch(dataset, monkeypatch):
    seen = []
    for number in range(3):
        told = SimpleNamespace(id=number, num_workers=3)
        monkeypatch.setattr("torch.utils.data.get_worker_info", lambda told=told: told)
        seen += places(dataset.make_pytorch_dataset(epochs=2, batch_size=4))
    assert sorted(seen) == sorted(2 * dataset.y[:, 0].astype(int).tolist())


def test_a_choice_of_rows_keeps_its_names_and_weights_when_it_is_transformed(made):
    thrice = SimpleNamespace(
        transform_X=False, transform_array=lambda X, y, w, ids: (X, 2 * y, 3 * w, ids)
    )
    part = multitask(made).select([20, 3]).transform(thrice)
    assert part.get_task_names().tolist() == ["near", "far"]
    assert part.ids.tolist() == [ROWS[3], ROWS[20]]
    assert part.y.tolist() == [[6, 206], [40, 240]]
    assert part.w.tolist() == [[3, 3], [3, 3]]


def test_each_task_has_statistics_of_its_own(made):
    mean, _ = multitask(made).get_statistics(X_stats=False)
    assert mean.tolist() == [16.5, 116.5]


def test_without_a_size_a_batch_is_a_shard(dataset):
    batches = list(dataset.iterbatches(deterministic=True))
    assert [len(X) for X, *_ in batches] == dataset.shards.sizes.tolist()


def test_batches_of_unlabelled_rows_have_no_labels(made):
    batches = list(ShardDataset(made).iterbatches(8, deterministic=True))
    assert [(len(X), y, w) for X, y, w, _ in batches] == [(8, None, None)] * 4 + [(2, None, None)]
