"""The map: neighbours by cosine, and projections that repeat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.report.embedding_map import _on_paper, neighbours, project


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 20), st.integers(1, 8), st.integers(0, 1000))
def test_neighbours_are_the_most_similar_others(n, k, seed):
    x = np.random.default_rng(seed).normal(size=(n, 5))
    index, cosine = neighbours(x, k)
    assert index.shape == (n, min(k, n - 1))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    best = -np.sort(-similarity, axis=1)[:, : index.shape[1]]
    np.testing.assert_allclose(cosine, best, atol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(similarity, index, 1), best, atol=1e-9)


def test_equal_molecules_are_neighbours_and_lie_together():
    x = np.random.default_rng(0).normal(size=(10, 5))
    x[7] = x[2]
    index, cosine = neighbours(x, 1)
    assert (index[2, 0], index[7, 0]) == (7, 2)
    np.testing.assert_allclose(cosine[[2, 7], 0], 1)
    places, _ = project(x, "pca", 0)
    np.testing.assert_allclose(places[2], places[7], atol=1e-9)


def test_principal_components_say_how_much_they_hold():
    x = np.zeros((40, 6))
    x[:, 0], x[:, 3] = np.repeat([-3, 3], 20), np.tile([-1, 1], 20)
    places, how = project(x, "pca", 0)
    assert "90 % and 10 %" in how
    np.testing.assert_allclose(np.abs(places), [[3, 1]] * 40)
    constant, how = project(np.ones((4, 3)), "pca", 0)
    assert np.isfinite(constant).all()


def test_the_map_fills_its_paper_and_the_second_axis_points_upwards():
    places = np.array([[-1.0, 2.0], [3.0, 4.0], [1.0, 3.0]])
    assert _on_paper(places).tolist() == [[16, 524], [704, 16], [360, 270]]
    assert _on_paper(np.ones((2, 2))).tolist() == [[360, 270]] * 2


@pytest.mark.slow  # numba compiles it first
def test_umap_keeps_clusters_together():
    pytest.importorskip("umap", reason="umap-learn is not installed")
    rng = np.random.default_rng(0)
    centres = np.eye(6)[:2] * 10
    x = np.concatenate([centre + rng.normal(size=(30, 6)) * 0.3 for centre in centres])
    places, _ = project(x, "umap", 0)
    np.testing.assert_array_equal(places, project(x, "umap", 0)[0])
    index = neighbours(places - places.mean(0), 1)[0][:, 0]
    assert ((index < 30) == (np.arange(60) < 30)).mean() > 0.9


def test_umap_that_is_not_there_is_named():
    try:
        import umap  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ModuleNotFoundError, match=r"deepchem_mmsa\[umap\]"):
            project(np.ones((4, 3)), "umap", 0)
    else:
        pytest.skip("umap-learn is installed")
