"""The fingerprint's encoder: a monotone, bounded scaling, and rows that do not mix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import QuantileTransformer

from deepchem_mmsa.batching import Collator
from deepchem_mmsa.layers.encoders import make_encoder
from deepchem_mmsa.layers.fingerprint_encoder import (
    BatchedFingerprints,
    FingerprintMLP,
    normal_scores,
    reference_quantiles,
)
from deepchem_mmsa.molecule import FINGERPRINT_SIZE, N_DESCRIPTORS
from deepchem_mmsa.views.fingerprint import DESCRIPTORS


@pytest.fixture(scope="module")
def batch(molecules):
    return Collator(("fingerprint",))(molecules).inputs["fingerprint"]


def rows(batch, chosen):
    return BatchedFingerprints(batch.counts[chosen], batch.descriptors[chosen])


def test_the_table_is_the_descriptors():
    names, levels, quantiles = reference_quantiles()
    assert tuple(names) == DESCRIPTORS
    assert (levels.diff() > 0).all()
    assert (quantiles.diff(dim=1) >= 0).all()
    assert torch.isfinite(quantiles).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), whole=st.booleans())
def test_scores_are_scikit_learns_quantile_transform(seed, whole):
    rng = np.random.default_rng(seed)
    sample = rng.gamma(0.5, 20, size=(500, 3))
    sample = sample.astype(int).astype(float) if whole else sample
    levels = torch.linspace(-3, 3, 25, dtype=torch.float64)
    ranks = torch.special.ndtr(levels).numpy()
    quantiles = np.ascontiguousarray(np.quantile(sample, ranks, axis=0).T)
    theirs = QuantileTransformer(n_quantiles=25, output_distribution="normal")
    theirs.fit(sample)
    theirs.references_, theirs.quantiles_ = ranks, quantiles.T
    # Inside the outermost quantiles, where scikit-learn does not jump to its own limits.
    x = np.clip(rng.gamma(0.5, 20, size=(50, 3)), quantiles[:, 1], quantiles[:, -2])
    x = np.round(x) if whole else x
    inside = (x > quantiles[:, 0]) & (x < quantiles[:, -1])
    mine = normal_scores(torch.from_numpy(x), levels, torch.from_numpy(quantiles)).numpy()
    np.testing.assert_allclose(mine[inside], theirs.transform(x)[inside], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=2, max_size=20),
    column=st.integers(0, N_DESCRIPTORS - 1),
)
def test_scores_are_monotone_and_bounded(values, column):
    _, levels, quantiles = reference_quantiles()
    x = torch.tensor(sorted(values))[:, None]
    scores = normal_scores(x, levels, quantiles[column : column + 1])[:, 0]
    assert torch.isfinite(scores).all()
    assert (scores.diff() >= -1e-6).all()
    assert (scores.abs() <= levels.max() + 1e-4).all()


def test_an_undefined_descriptor_is_the_median():
    """Its score is 0 only where no other molecules have the same value."""
    names, levels, quantiles = reference_quantiles()
    half = quantiles[:, levels.tolist().index(0.0)]
    nothing = torch.full((2, N_DESCRIPTORS), torch.nan)
    scores = normal_scores(nothing, levels, quantiles)
    assert torch.equal(scores, normal_scores(half.expand(2, -1), levels, quantiles))
    assert scores[0, names.index("MaxPartialCharge")] == 0
    assert scores[0, names.index("NumSaturatedRings")] < -0.5  # most molecules have none


def test_rows_do_not_mix(batch):
    encoder = FingerprintMLP(width=16)
    for mode in (True, False):
        encoder.train(mode)
        encoder.layers[2].p = encoder.layers[5].p = 0.0
        together = encoder(batch)
        for row in range(0, len(batch), 7):
            torch.testing.assert_close(encoder(rows(batch, [row]))[0], together[row])
    assert encoder(rows(batch, [])).shape == (0, 16)


def test_every_input_is_used(batch):
    encoder = FingerprintMLP(width=16).eval()
    first = rows(batch, [0])
    for column in (0, 1000, FINGERPRINT_SIZE - 1):
        counts = first.counts.clone()
        counts[0, column] += 1
        assert not torch.equal(
            encoder(BatchedFingerprints(counts, first.descriptors)), encoder(first)
        )
    values = first.descriptors.clone()
    values[0, DESCRIPTORS.index("MolLogP")] += 1
    assert not torch.equal(encoder(BatchedFingerprints(first.counts, values)), encoder(first))


def test_gradients_are_right(batch):
    encoder = FingerprintMLP(width=4, n_layers=3, dropout=0.0).double()
    part = BatchedFingerprints(batch.counts[:3], batch.descriptors[:3].double())
    weight = encoder.layers[3].weight

    def output(w):
        return torch.func.functional_call(encoder, {"layers.3.weight": w}, (part,))

    assert torch.autograd.gradcheck(output, (weight.detach().clone().requires_grad_(),))


def test_the_scaling_travels_in_the_state():
    one, other = FingerprintMLP(width=4), FingerprintMLP(width=4)
    one.quantiles.mul_(2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.quantiles, other.quantiles)


def test_names_are_checked():
    with pytest.raises(ValueError, match="'perceptron' is unknown; known are mlp"):
        make_encoder("fingerprint", "perceptron")
    with pytest.raises(ValueError, match="must be at least 1"):
        FingerprintMLP(width=0)


def test_counts_enter_as_logarithms_and_descriptors_as_scores(batch):
    encoder, seen = FingerprintMLP(width=16).eval(), []
    encoder.layers[0].register_forward_hook(lambda layer, given, out: seen.append(given[0]))
    encoder(batch)
    counts = np.log(1.0 + batch.counts.numpy().astype(float))
    np.testing.assert_allclose(seen[0][:, :FINGERPRINT_SIZE], counts, rtol=1e-6)
    assert torch.equal(seen[0][:, FINGERPRINT_SIZE:], encoder.scaled_descriptors(batch))
