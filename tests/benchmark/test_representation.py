"""Figures of a representation: their known values, and the callback that collects them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.benchmark.representation import (
    HeldOut,
    alignment,
    describe,
    retrieval,
    uniformity,
)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0.1, 10))
def test_only_directions_count(seed, scale):
    a, b = np.random.default_rng(seed).normal(size=(2, 12, 5))
    assert alignment(a, scale * b) == pytest.approx(alignment(a, b))
    assert uniformity(scale * a) == pytest.approx(uniformity(a))
    assert retrieval(a, scale * b) == retrieval(a, b)
    assert alignment(a, a) == pytest.approx(0)
    assert retrieval(a, a) == 1
    assert -4.5 < uniformity(a) <= 0


def test_even_directions_are_near_minus_four():
    x = np.random.default_rng(0).normal(size=(400, 256))
    assert uniformity(x) == pytest.approx(-4, abs=0.1)
    assert uniformity(x + 10) > -0.5


def test_missing_views_are_left_out():
    codes = np.random.default_rng(0).normal(size=(6, 3, 4))
    codes[:, 1] = codes[:, 0]
    codes[2, 1] = np.nan
    codes[:, 2] = np.nan
    figures = describe(codes, codes[:, 0], ("image", "graph", "geometry"))
    assert figures["image>graph"] == figures["held_out_retrieval"] == 1
    assert figures["held_out_alignment"] == pytest.approx(0)
    assert not any("geometry" in name for name in figures)


def test_the_callback_writes_into_the_history(make_model, dataset):
    model = make_model(mode="pretraining", modalities=("graph", "fingerprint"), memory_warmup=16)
    model.fit(dataset, nb_epoch=4, checkpoint_interval=0, callbacks=[HeldOut(dataset, every=2)])
    looked = [("held_out_retrieval" in row) for row in model.history]
    assert looked == [False, True, False, True]
    row = model.history[-1]
    assert 0 <= row["graph>fingerprint"] <= 1
    assert row["held_out_uniformity"] < 0
    assert row["anchors_active"] == model.model.memory.n_active
