"""The applicability domain: distances are what they say, and scores know their training set."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem
from scipy.stats import spearmanr

from deepchem_mmsa.applicability import ApplicabilityDomain, error_ordering, tanimoto_distance
from deepchem_mmsa.ensemble import over_batches
from deepchem_mmsa.layers.hypergraph import cosine_similarity
from deepchem_mmsa.layers.memory_bank import MemoryBank
from tests.fixtures import SMILES
from tests.test_ensemble import predictor

CHAINS = ["C" * n + end for n in range(2, 13) for end in ("", "O", "N")]


def unified_codes(predictor, molecules):
    network = predictor.network
    return over_batches(
        predictor, molecules, lambda b: network.fusion.fuse(network.codes(b), b.available)
    )[0]


@pytest.fixture(scope="module")
def remembering():
    """A model whose memory has anchors: codes of the chains."""
    made = predictor()
    values = unified_codes(made, CHAINS)
    made.network.memory.warmup = len(CHAINS)
    made.network.memory.update(torch.from_numpy(values).float())
    assert made.network.memory.is_active
    return made


def test_distance_is_that_of_the_nearest_anchor(remembering):
    domain = ApplicabilityDomain(remembering)
    codes = unified_codes(remembering, SMILES)
    anchors = remembering.network.memory.active_anchors()
    expected = 1 - cosine_similarity(torch.from_numpy(codes).float(), anchors).max(1).values
    np.testing.assert_allclose(domain.distance(SMILES), expected.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("anchors", ["memory", "training"])
def test_score_is_a_share_of_the_training_set(anchors, remembering):
    domain = ApplicabilityDomain(remembering, anchors).fit([*CHAINS, "C1CC"])
    assert len(domain.training_distance) == len(CHAINS)  # the unreadable one is passed over
    own = domain.score(CHAINS)
    even = np.arange(1, len(CHAINS) + 1) / len(CHAINS)
    if anchors == "memory":
        np.testing.assert_allclose(np.sort(own), even, atol=0.11)
    else:  # they have a share in the anchors, and lie nearer than others of their kind
        assert (np.sort(own) >= even - 0.11).all()
    distance, score = domain.distance(SMILES), domain.score(SMILES)
    assert (np.diff(score[np.argsort(distance)]) <= 0).all()  # farther is never better
    assert (score[distance > domain.training_distance[-1]] == 0).all()


@pytest.mark.parametrize("anchors", ["memory", "training"])
def test_other_molecules_lie_farther_out_than_those_known(anchors, remembering):
    domain = ApplicabilityDomain(remembering, anchors).fit(CHAINS[::2])
    others = [s for s in SMILES if "1" in s]  # rings
    assert np.median(domain.score(CHAINS[1::2])) > 0.2
    assert np.median(domain.score(others)) < 0.05


def test_unreadable_rows_are_nan_and_order_does_not_matter(remembering):
    domain = ApplicabilityDomain(remembering, "training", batch_size=7).fit(CHAINS)
    given = [*SMILES[:10], "C1CC", None]
    score = domain.score(given)
    assert np.isnan(score).tolist() == [False] * 10 + [True, True]
    np.testing.assert_allclose(domain.score(given[::-1]), score[::-1])


def test_what_is_missing_is_named(remembering):
    with pytest.raises(ValueError, match="holds no anchor.*anchors='training'"):
        ApplicabilityDomain(predictor())
    with pytest.raises(ValueError, match="choose 'memory' or 'training'"):
        ApplicabilityDomain(remembering, "tanimoto")
    with pytest.raises(RuntimeError, match="call fit"):
        ApplicabilityDomain(remembering).score(SMILES)
    with pytest.raises(RuntimeError, match="call fit"):
        ApplicabilityDomain(remembering, "training").distance(SMILES)
    with pytest.raises(ValueError, match=r"3 molecule\(s\) can be read, at least 16"):
        ApplicabilityDomain(remembering, "training").fit(["C", "CC", "CO", "C1CC"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(SMILES), min_size=1, max_size=6, unique=True))
def test_tanimoto_distance_by_definition(reference):
    fingerprints = [
        AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(s), 2, 2048) for s in reference
    ]
    for smiles in SMILES[::5]:
        own = AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(smiles), 2, 2048)
        expected = 1 - max(DataStructs.TanimotoSimilarity(own, f) for f in fingerprints)
        assert tanimoto_distance([smiles], reference)[0] == pytest.approx(expected)
    assert (tanimoto_distance(reference, reference) == 0).all()


def test_tanimoto_takes_molecules_and_passes_over_the_unreadable():
    found = tanimoto_distance([Chem.MolFromSmiles("OCC"), "C1CC", None], ["C1CC", "CCO"])
    assert found[0] == 0
    assert np.isnan(found[1:]).all()
    with pytest.raises(ValueError, match="none of the 1 reference molecules"):
        tanimoto_distance(["C"], ["C1CC"])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 60), st.booleans())
def test_ordering_is_spearmans_whatever_the_scale(seed, n, ties):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(2, n))
    if ties:
        x, y = np.round(x), np.round(y)
        x[:2], y[:2] = (0, 1), (0, 1)
    found = error_ordering(x, y, n_resamples=100)
    assert found.correlation == pytest.approx(spearmanr(x, y).statistic)
    assert found.low <= found.high
    again = error_ordering(np.exp(x), 3 * y + 1, n_resamples=100)
    np.testing.assert_allclose(again, found)


def test_chance_is_not_taken_for_order():
    """Under no relation p-values are uniform: about one in twenty is below 0.05."""
    random = np.random.default_rng(0)
    p = [
        error_ordering(*random.normal(size=(2, 40)), n_resamples=99, seed=i).p_value
        for i in range(300)
    ]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09
    x = random.normal(size=200)
    related = error_ordering(x, x + 2 * random.normal(size=200))
    assert related.p_value < 0.01
    assert related.low > 0.2


def test_ordering_needs_no_matrix_of_all_resamples(monkeypatch):
    """Its memory does not grow with the resamples, and the blocks change no digit."""
    random = np.random.default_rng(0)
    x, y = np.round(random.normal(size=(2, 5000)), 2)
    whole = error_ordering(x[:70], y[:70], n_resamples=500)
    tracemalloc.start()
    error_ordering(x, y)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6  # a single matrix of 1000 × 5000 numbers is 40 MB, and there were a dozen
    monkeypatch.setattr("deepchem_mmsa.applicability._AT_A_TIME", 1000)
    assert error_ordering(x[:70], y[:70], n_resamples=500) == whole


def test_ordering_leaves_out_gaps_and_refuses_what_does_not_vary():
    whole = error_ordering([1, 2, 3, 4], [1, 3, 2, 5])
    assert error_ordering([1, np.nan, 2, 3, 4], [1, 9, 3, 2, 5]) == whole
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2], [1, 2]), ([np.nan] * 3, [1, 2, 3])):
        with pytest.raises(ValueError, match="at least 3 are needed"):
            error_ordering(x, y)


def test_molecules_of_the_same_kind_are_ordinary(remembering):
    """One half fits, the other is scored: about a twentieth is below 0.05, half below a half."""
    random = np.random.default_rng(0)
    ends = ["", "O", "N", "F", "Cl", "Br", "C=O", "C#N", "S", "C(=O)O"]
    molecules = [
        f"{'C' * a}{end}" if not b else f"{'C' * a}C({'C' * b}){'C' * b}{end}"
        for a in range(2, 12) for b in range(4) for end in ends
    ]  # fmt: skip
    order = random.permutation(len(molecules))
    known, new = ([molecules[i] for i in part] for part in (order[::2], order[1::2]))
    score = ApplicabilityDomain(remembering, "training").fit(known).score(new)
    assert (score < 0.05).mean() < 0.12
    assert 0.35 < np.median(score) < 0.75


def test_nothing_in_nothing_out(remembering):
    for anchors in ("memory", "training"):
        assert ApplicabilityDomain(remembering, anchors).fit(CHAINS).score([]).shape == (0,)
    with pytest.raises(ValueError, match=r"0 molecule\(s\) can be read"):
        ApplicabilityDomain(remembering).fit([])


def test_one_text_is_not_a_list_of_letters(remembering):
    domain = ApplicabilityDomain(remembering).fit(CHAINS)
    for call in (domain.score, domain.fit, lambda text: tanimoto_distance(text, CHAINS)):
        with pytest.raises(TypeError, match=r"not one text: \['CCO'\]"):
            call("CCO")


def test_an_empty_text_is_no_molecule():
    assert np.isnan(tanimoto_distance(["", "CCO"], ["CCO"])).tolist() == [True, False]
    with pytest.raises(ValueError, match="none of the 1 reference"):
        tanimoto_distance(["CCO"], [""])


def test_radius_and_size_are_those_asked_for():
    molecules = ["CCCCCCO", "c1ccccc1O"]
    wide, narrow = (tanimoto_distance(molecules, ["CCCCO"], radius=r) for r in (3, 0))
    assert (narrow < wide).all()
    tiny = tanimoto_distance(molecules, ["CCCCO"], size=4)
    assert (tiny < tanimoto_distance(molecules, ["CCCCO"])).any()


def test_an_interval_holds_nineteen_of_twenty():
    """Of rank correlations around the true one of 0."""
    random = np.random.default_rng(0)
    found = [error_ordering(*random.normal(size=(2, 40)), n_resamples=200) for _ in range(100)]
    assert 0.87 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 1


def test_an_interval_is_the_percentile_bootstraps():
    x, y = np.random.default_rng(0).normal(size=(2, 100))
    found = error_ordering(x, x + y, n_resamples=4000)
    rows = np.random.default_rng(1).integers(100, size=(2000, 100))
    naive = np.percentile([spearmanr(x[r], (x + y)[r]).statistic for r in rows], [2.5, 97.5])
    assert found.high - found.low == pytest.approx(naive[1] - naive[0], rel=0.07)
    assert found.low == pytest.approx(naive[0], abs=0.02)


def test_as_far_out_as_a_training_molecule_is_no_farther(remembering, monkeypatch):
    domain = ApplicabilityDomain(remembering)
    domain.training_distance = np.array([0.1, 0.2, 0.2, 0.4])
    monkeypatch.setattr(domain, "distance", lambda molecules: np.array(molecules))
    assert domain.score([0.0, 0.2, 0.3, 0.4, 0.5]).tolist() == [1, 0.75, 0.25, 0.25, 0]


def test_the_yardstick_has_no_share_in_its_own_anchors(remembering):
    domain = ApplicabilityDomain(remembering, "training").fit(CHAINS)
    assert domain.training_distance.mean() > 1.05 * domain.distance(CHAINS).mean()


def test_each_fifth_is_measured_by_the_anchors_of_the_others(remembering):
    codes = unified_codes(remembering, CHAINS)
    codes, expected = torch.from_numpy(codes).float(), []
    for k in range(5):
        bank = MemoryBank(remembering.config.n_anchors, codes.shape[1], warmup=10**6)
        bank.update(codes[np.arange(len(codes)) % 5 != k])
        bank.start()
        similarity = cosine_similarity(codes[k::5], bank.active_anchors())
        expected += (1 - similarity.max(1).values).tolist()
    domain = ApplicabilityDomain(remembering, "training").fit(CHAINS)
    np.testing.assert_allclose(domain.training_distance, sorted(expected), atol=1e-6)


def test_as_many_molecules_as_are_needed_are_enough(remembering):
    assert len(ApplicabilityDomain(remembering).fit(["CCO"]).training_distance) == 1
    enough = ApplicabilityDomain(remembering, "training").fit(CHAINS[:16])
    assert len(enough.training_distance) == 16


def test_processes_are_those_asked_for(remembering, monkeypatch):
    asked, records = [], remembering.records

    def watched(molecules, n_jobs=1):
        asked.append(n_jobs)
        return records(molecules)

    monkeypatch.setattr(remembering, "records", watched)
    ApplicabilityDomain(remembering, n_jobs=2).distance(["CCO"])
    assert asked[0] == 2


def test_a_random_order_that_does_as_well_counts_against_the_order_found():
    """Of three molecules one order in six is perfect; and none is impossible."""
    assert error_ordering([1, 2, 3], [1, 2, 3]).p_value == pytest.approx(1 / 6, abs=0.05)
    assert error_ordering(range(50), range(50), n_resamples=99).p_value == 0.01
