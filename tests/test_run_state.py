"""Where a run stands: round trips, and what it may go on with."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepchem_mmsa.run_state import Averages, RunState

numbers = st.integers(0, 1000)
figures = st.dictionaries(st.sampled_from(["loss", "mask"]), st.floats(-1e6, 1e6), min_size=1)


@given(st.lists(figures, min_size=1))
def test_averages_are_means_of_what_was_added_since_the_last_reading(rows):
    averages = Averages()
    averages.add({"loss": 5.0})
    averages.read()
    for row in rows:
        averages.add({**row, "odd": math.nan})
    assert averages.read() == {
        name: pytest.approx(math.fsum(values) / len(values), abs=1e-6)
        for name in ("loss", "mask")
        if (values := [row[name] for row in rows if name in row])
    }
    assert averages.read() == {}


@given(numbers, numbers, numbers, numbers, st.lists(st.floats(0, 9)), numbers, st.booleans())
def test_a_state_survives_being_written(epoch, batch, first, step, logged, skipped, ended):
    state = RunState(epoch, batch, first, step, [7, 3, None], logged=logged, skipped=skipped)
    state.ended = ended
    state.since_log.add({"loss": 1.0})
    state.of_epoch.add({"loss": 3.0})
    again = RunState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again.to_dict() == state.to_dict()
    assert (again.since_log.read(), again.of_epoch.read()) == ({"loss": 1.0}, {"loss": 3.0})
    assert again.last_logged == (logged[-1] if logged else 0.0)


def test_a_run_that_begins_forgets_the_place_but_not_the_epochs():
    state = RunState(4, 9, 1, 20, logged=[0.5], ended=True)
    state.of_epoch.add({"loss": 1.0})
    state.begin(50)
    assert (state.epoch, state.batch, state.first_epoch, state.first_step) == (4, 0, 4, 50)
    assert not state.ended
    assert state.of_epoch.read() == {}
    assert state.last_logged == 0.5


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ([90, 10, 0], "100 molecules"),
        ([100, 20, 0], "batch_size=10"),
        ([100, 10, 1], "in the order of seed 0"),
        ([100, 10, None], "in the dataset's order"),
    ],
)
def test_within_an_epoch_other_data_are_refused(other, words):
    state = RunState(epoch=1, batch=3, sizes=[100, 10, 0])
    with pytest.raises(ValueError, match=words):
        state.check_sizes(other, "runs/a")
    between = RunState(epoch=1, sizes=[100, 10, 0])
    between.check_sizes(other, "runs/a")
    assert between.sizes == other


def test_a_state_without_a_seed_is_of_an_older_checkpoint_and_fits():
    state = RunState(batch=3, sizes=[100, 10])
    state.check_sizes([100, 10, 4], "runs/a")
    assert state.sizes == [100, 10, 4]


def test_an_epoch_is_over_after_its_last_batch():
    """A checkpoint of a callback may lie between its last step and its end."""
    for batch, over in ((0, False), (4, False), (5, True)):
        assert RunState(batch=batch, sizes=[41, 8, 0]).is_epoch_over is over  # the last has 9
    assert not RunState(batch=5).is_epoch_over  # of a generator
