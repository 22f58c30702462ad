"""Losses: equal to plain references, masks without influence, gradients always finite."""

import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa import losses

quick = settings(deadline=None, max_examples=25)
masks = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6).map(
    torch.tensor
)
seeds = st.integers(0, 999)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def generator(seed):
    return torch.Generator().manual_seed(seed)


def assert_zero_with_graph(loss, *inputs):
    assert loss.item() == 0
    loss.backward()
    for x in inputs:
        assert x.grad is not None
        assert (x.grad == 0).all()


def naive_info_nce(a, b, temperature, molecule=None):
    n, total = len(a), 0.0
    molecule = list(range(n)) if molecule is None else molecule.tolist()
    for i in range(n):
        for left, right in ((a, b), (b, a)):
            scores = [float(F.cosine_similarity(left[i], right[j], dim=0)) for j in range(n)]
            exponentials = [math.exp(s / temperature) for s in scores]
            others = [e for j, e in enumerate(exponentials) if molecule[j] != molecule[i]]
            total -= math.log(exponentials[i] / (exponentials[i] + sum(others)))
    return total / (2 * n)


# --- random choices ---------------------------------------------------------------------------


@given(available=masks, seed=seeds)
@quick
def test_derangement_moves_every_modality_that_can_move(available, seed):
    pi = losses.derangement(available, generator(seed))
    assert torch.equal(pi, losses.derangement(available, generator(seed)))
    for row, to in zip(available.tolist(), pi.tolist()):
        present = [m for m in range(3) if row[m]]
        assert sorted(to) == [0, 1, 2]
        assert sorted(to[m] for m in present) == present
        for m in range(3):
            assert (to[m] == m) == (not row[m] or len(present) == 1)


def test_derangements_are_drawn_alike():
    pi = losses.derangement(torch.ones(4000, 3).bool(), generator(0))
    counts = Counter(map(tuple, pi.tolist()))
    assert set(counts) == {(1, 2, 0), (2, 0, 1)}
    assert min(counts.values()) > 1800


@given(available=masks, seed=seeds)
@quick
def test_random_subset_is_a_subset_and_not_empty(available, seed):
    subset = losses.random_subset(available, generator(seed))
    assert not (subset & ~available).any()
    assert torch.equal(subset.any(1), available.any(1))


def test_subsets_are_drawn_alike():
    available = torch.tensor([[True, True, True]] * 7000 + [[True, False, True]] * 3000)
    subset = losses.random_subset(available, generator(0))
    counts = Counter(map(tuple, subset[:7000].tolist()))
    assert len(counts) == 7
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150
    counts = Counter(map(tuple, subset[7000:].tolist()))
    assert len(counts) == 3
    assert min(counts.values()) > 880


def test_random_choices_follow_the_global_seed():
    available = torch.ones(50, 3).bool()
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        draws.append((losses.derangement(available), losses.random_subset(available)))
    assert all(torch.equal(a, b) for a, b in zip(*draws))


# --- contrastive ------------------------------------------------------------------------------


@given(n=st.integers(2, 6), seed=seeds, temperature=st.sampled_from([0.1, 0.5]))
@quick
def test_info_nce_equals_a_naive_reference(n, seed, temperature):
    a, b = randn(n, 4, seed=seed), randn(n, 4, seed=seed + 1)
    loss = losses.info_nce(a, b, temperature)
    assert loss.item() == pytest.approx(naive_info_nce(a, b, temperature))
    assert loss.item() == pytest.approx(losses.info_nce(b, a, temperature).item())
    order = torch.randperm(n, generator=generator(seed))
    assert loss.item() == pytest.approx(losses.info_nce(a[order], b[order], temperature).item())
    assert loss.item() == pytest.approx(losses.info_nce(3 * a, b / 7, temperature).item())


@given(n=st.integers(2, 7), seed=seeds)
@quick
def test_copies_of_a_molecule_are_no_negatives_of_each_other(n, seed):
    a, b = randn(n, 4, seed=seed), randn(n, 4, seed=seed + 1)
    molecule = torch.randint(0, 3, (n,), generator=generator(seed))
    loss = losses.info_nce(a, b, 0.2, molecule=molecule)
    assert loss.item() == pytest.approx(naive_info_nce(a, b, 0.2, molecule), abs=1e-6)
    mask = torch.arange(n) != 1
    masked = losses.info_nce(a, b, 0.2, mask, molecule)
    rest = losses.info_nce(a[mask], b[mask], 0.2, molecule=molecule[mask])
    torch.testing.assert_close(masked, rest)
    apart = torch.arange(n)
    torch.testing.assert_close(
        losses.info_nce(a, b, 0.2, molecule=apart), losses.info_nce(a, b, 0.2)
    )


def test_info_nce_mask_takes_rows_out():
    a, b = randn(4, 3).requires_grad_(), randn(4, 3, seed=1)
    mask = torch.tensor([True, False, True, True])
    loss = losses.info_nce(a, b, 0.1, mask)
    assert loss.item() == pytest.approx(losses.info_nce(a[mask], b[mask], 0.1).item())
    loss.backward()
    assert (a.grad[1] == 0).all()


@pytest.mark.parametrize("n", [0, 1])
def test_info_nce_of_fewer_than_two_is_zero(n):
    a, b = randn(n, 3).requires_grad_(), randn(n, 3).requires_grad_()
    assert_zero_with_graph(losses.info_nce(a, b), a, b)


def test_info_nce_is_exact_under_autocast():
    a, b = randn(8, 16).float(), randn(8, 16, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert losses.info_nce(a, b) == losses.info_nce(a, b)
        cast = losses.info_nce(a, b)
    torch.testing.assert_close(cast, losses.info_nce(a, b))
    assert losses.info_nce(a.bfloat16(), b.bfloat16()).dtype == torch.float32


@given(available=masks, seed=seeds)
@quick
def test_contrastive_means_over_the_pairs_there_are(available, seed):
    codes = randn(len(available), 3, 4, seed=seed).requires_grad_()
    loss = losses.contrastive(codes, available, 0.2)
    terms = []
    for m, n in itertools.combinations(range(3), 2):
        rows = [i for i, row in enumerate(available.tolist()) if row[m] and row[n]]
        if len(rows) >= 2:
            terms.append(naive_info_nce(codes[rows, m].detach(), codes[rows, n].detach(), 0.2))
    assert loss.item() == pytest.approx(sum(terms) / len(terms) if terms else 0.0)
    loss.backward()
    assert codes.grad.isfinite().all()
    assert (codes.grad[~available] == 0).all()


# --- reconstruction ---------------------------------------------------------------------------


@given(available=masks, seed=seeds)
@quick
def test_reconstruction_equals_a_naive_reference(available, seed):
    n = len(available)
    decoded, targets = randn(n, 3, 3, 4, seed=seed), randn(n, 3, 4, seed=seed + 1)
    decoded.requires_grad_(), targets.requires_grad_()
    partner = losses.derangement(available, generator(seed))
    loss = losses.reconstruction(decoded, targets, available, partner)

    def error(i, s, m):
        return 1 - F.cosine_similarity(decoded[i, s, m].detach(), targets[i, m].detach(), dim=0)

    def mean(values):
        return float(sum(values) / len(values)) if values else 0.0

    present = [tuple(p) for p in available.nonzero().tolist()]
    own = [error(i, m, m) for i, m in present]
    cross = [error(i, partner[i, m], m) for i, m in present if partner[i, m] != m]
    assert loss.item() == pytest.approx(mean(own) + mean(cross))
    assert losses.reconstruction(decoded, targets, available).item() == pytest.approx(mean(own))
    loss.backward()
    assert decoded.grad.isfinite().all()
    assert targets.grad is None  # targets are detached
    missing = ~(available[:, :, None] & available[:, None, :])
    assert (decoded.grad[missing] == 0).all()


def test_reconstruction_ignores_what_fills_missing_modalities():
    available = torch.tensor([[True, False, True]])
    decoded, targets = randn(1, 3, 3, 4), randn(1, 3, 4)
    partner = torch.tensor([[2, 1, 0]])
    expected = losses.reconstruction(decoded, targets, available, partner)
    decoded[:, 1], decoded[:, :, 1], targets[:, 1] = torch.nan, torch.nan, torch.nan
    torch.testing.assert_close(
        losses.reconstruction(decoded, targets, available, partner), expected
    )


def test_masked_atoms():
    logits, targets = randn(3, 5).requires_grad_(), torch.tensor([0, 4, 2])
    torch.testing.assert_close(
        losses.masked_atoms(logits, targets), F.cross_entropy(logits, targets)
    )
    empty = randn(0, 5).requires_grad_()
    assert_zero_with_graph(losses.masked_atoms(empty, torch.zeros(0).long()), empty)


# --- memory -----------------------------------------------------------------------------------


def test_alignment_teaches_memory_only():
    student, teacher = randn(5, 4).requires_grad_(), randn(5, 4, seed=1).requires_grad_()
    loss = losses.alignment(student, teacher, 0.1)
    torch.testing.assert_close(loss, losses.info_nce(student, teacher, 0.1))
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_commitment_is_the_distance_to_the_nearest_anchor():
    codes, anchors = randn(6, 4).requires_grad_(), randn(3, 4, seed=1).requires_grad_()
    loss = losses.commitment(codes, anchors)
    expected = [max(F.cosine_similarity(c, a, dim=0).item() for a in anchors) for c in codes]
    assert loss.item() == pytest.approx(1 - sum(expected) / 6)
    loss.backward()
    assert anchors.grad is None


def test_balance_is_a_divergence_from_uniform():
    assert losses.balance(torch.full((5, 8), 1 / 8)).item() == pytest.approx(0, abs=1e-6)
    one_hot = torch.eye(8)[:1].repeat(5, 1).requires_grad_()
    loss = losses.balance(one_hot)
    assert loss.item() == pytest.approx(math.log(8), abs=1e-5)
    loss.backward()
    assert one_hot.grad.isfinite().all()
    p = randn(4, 6).softmax(1)
    uniform = torch.full((6,), 1 / 6).double()
    expected = F.kl_div(uniform.log(), p.mean(0), reduction="sum")
    torch.testing.assert_close(losses.balance(p), expected)


def test_without_anchors_memory_losses_are_zero():
    codes = randn(4, 3).requires_grad_()
    assert_zero_with_graph(losses.commitment(codes, randn(0, 3)), codes)
    p = randn(4, 0).requires_grad_()
    assert_zero_with_graph(losses.balance(p), p)
    codes = randn(0, 3).requires_grad_()
    assert_zero_with_graph(losses.commitment(codes, randn(2, 3)), codes)


@pytest.mark.parametrize(
    "loss,n_inputs",
    [
        (lambda a, b: losses.info_nce(a, b, 0.5), 2),
        (lambda a: losses.commitment(a, randn(3, 4, seed=8)), 1),
        (lambda a: losses.balance(a.softmax(1)), 1),
        (
            lambda a: losses.contrastive(
                a.reshape(3, 1, 4).expand(3, 2, 4) * randn(3, 2, 4), torch.ones(3, 2).bool()
            ),
            1,
        ),
        (lambda a: losses.masked_supervised_regression(a, torch.ones(3, 4), torch.eye(3, 4)), 1),
        (
            lambda a: losses.masked_supervised_classification(
                a.reshape(3, 2, 2), torch.ones(3, 2), torch.eye(3, 2)
            ),
            1,
        ),
    ],
)
def test_gradcheck(loss, n_inputs):
    inputs = [randn(3, 4, seed=s).requires_grad_() for s in range(n_inputs)]
    assert torch.autograd.gradcheck(loss, inputs)


# --- supervised -------------------------------------------------------------------------------

weights_2x3 = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=3, max_size=3), min_size=1, max_size=5
).map(lambda rows: torch.tensor(rows).double())


@given(
    weights=weights_2x3,
    seed=seeds,
    n_classes=st.integers(2, 4),
    weighted=st.sampled_from(["", "class", "class of task"]),
)
@quick
def test_classification_equals_a_naive_reference(weights, seed, n_classes, weighted):
    n = len(weights)
    logits = randn(n, 3, n_classes, seed=seed).requires_grad_()
    labels = torch.randint(n_classes, (n, 3), generator=generator(seed)).double()
    labels[weights == 0] = torch.nan
    of_class = 0.1 + torch.rand(3, n_classes, generator=generator(seed)).double()
    if weighted != "class of task":
        of_class[:] = of_class[0] if weighted else 1
    given = {"": None, "class": of_class[0], "class of task": of_class}[weighted]
    loss = losses.masked_supervised_classification(logits, labels, weights, given)
    total = value = 0.0
    for i, t in itertools.product(range(n), range(3)):
        if weights[i, t] > 0:
            c = int(labels[i, t])
            w = float(weights[i, t] * of_class[t, c])
            value -= w * logits[i, t].log_softmax(0)[c].item()
            total += w
    assert loss.item() == pytest.approx(value / total if total else 0.0)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[weights == 0] == 0).all()


@given(weights=weights_2x3, seed=seeds)
@quick
def test_regression_equals_a_naive_reference(weights, seed):
    predictions = randn(len(weights), 3, seed=seed).requires_grad_()
    labels = randn(len(weights), 3, seed=seed + 1)
    labels[weights == 0] = torch.nan
    loss = losses.masked_supervised_regression(predictions, labels, weights)
    seen = weights > 0
    squared = (predictions[seen] - labels[seen]) ** 2
    expected = (weights[seen] * squared).sum() / weights.sum() if seen.any() else 0.0
    assert loss.item() == pytest.approx(float(expected))
    loss.backward()
    assert predictions.grad.isfinite().all()
    assert (predictions.grad[~seen] == 0).all()


def test_missing_labels_do_not_dilute_the_loss():
    """A mean over all labels, as in DeepChem's stock loss, fades as labels go missing."""
    predictions, labels = randn(4, 5), randn(4, 5, seed=1)
    weights = torch.zeros(4, 5).double()
    weights[0, 0] = weights[2, 3] = 1
    ours = losses.masked_supervised_regression(predictions, labels, weights)
    stock = (weights * (predictions - labels) ** 2).mean()
    torch.testing.assert_close(ours, stock * 10)  # 2 of 20 labels are there
    only = torch.stack([(predictions - labels)[0, 0], (predictions - labels)[2, 3]])
    torch.testing.assert_close(ours, (only**2).mean())
    # adding molecules without any label changes nothing
    padded = losses.masked_supervised_regression(
        torch.cat([predictions, randn(9, 5)]),
        torch.cat([labels, torch.full((9, 5), torch.nan).double()]),
        torch.cat([weights, torch.zeros(9, 5).double()]),
    )
    torch.testing.assert_close(ours, padded)


def test_nothing_labelled_is_zero_with_graph():
    missing, nothing = torch.full((2, 3), torch.nan), torch.zeros(2, 3)
    logits = randn(2, 3, 2).requires_grad_()
    assert_zero_with_graph(
        losses.masked_supervised_classification(logits, missing, nothing), logits
    )
    predictions = randn(2, 3).requires_grad_()
    assert_zero_with_graph(
        losses.masked_supervised_regression(predictions, missing, nothing), predictions
    )


def test_outputs_without_a_label_have_no_influence():
    weights = torch.tensor([[1.0, 0.0]]).double()
    for loss, shape in (
        (losses.masked_supervised_classification, (1, 2, 2)),
        (losses.masked_supervised_regression, (1, 2)),
    ):
        outputs = randn(*shape)
        expected = loss(outputs, torch.ones(1, 2), weights)
        outputs[0, 1] = torch.nan  # of a task without a label
        outputs.requires_grad_()
        value = loss(outputs, torch.ones(1, 2), weights)
        torch.testing.assert_close(value, expected)
        value.backward()
        assert outputs.grad.isfinite().all()


def test_class_weights_per_task():
    logits, labels = randn(4, 2, 2), torch.randint(2, (4, 2), generator=generator(0)).double()
    ones = torch.ones(4, 2).double()
    same = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    torch.testing.assert_close(
        losses.masked_supervised_classification(logits, labels, ones, same),
        losses.masked_supervised_classification(logits, labels, ones, same[0]),
    )
    single = losses.masked_supervised_classification(
        logits[:, :1], labels[:, :1], ones[:, :1], same[0]
    )
    expected = F.cross_entropy(logits[:, 0], labels[:, 0].long(), same[0].double())
    torch.testing.assert_close(single, expected)


def test_errors_name_row_task_and_value():
    logits, weights = torch.zeros(2, 2, 2), torch.ones(2, 2)
    labels = torch.tensor([[0.0, 1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match=r"row 1, task 1 is 2.0.*0..1"):
        losses.masked_supervised_classification(logits, labels, weights)
    labels[1, 1] = 0.5
    with pytest.raises(ValueError, match=r"row 1, task 1 is 0.5"):
        losses.masked_supervised_classification(logits, labels, weights)
    labels[0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"row 0, task 1 is NaN"):
        losses.masked_supervised_regression(torch.zeros(2, 2), labels, weights)
    for weight in (-1.0, torch.nan):
        given = torch.tensor([[1.0, 1.0], [weight, 1.0]])
        with pytest.raises(ValueError, match=f"weight of row 1, task 0 is {weight}"):
            losses.masked_supervised_regression(torch.zeros(2, 2), torch.zeros(2, 2), given)
    with pytest.raises(ValueError, match="agree"):
        losses.masked_supervised_regression(torch.zeros(2, 3), labels, weights)
    with pytest.raises(ValueError, match="temperature=0"):
        losses.info_nce(torch.zeros(2, 2), torch.zeros(2, 2), 0)


def test_contrast_knows_copies_too():
    codes, molecule = randn(6, 2, 4), torch.tensor([0, 0, 1, 1, 2, 3])
    there = torch.ones(6, 2).bool()
    expected = losses.info_nce(codes[:, 0], codes[:, 1], 0.2, molecule=molecule)
    torch.testing.assert_close(losses.contrastive(codes, there, 0.2, molecule), expected)
    there[0, 1] = False
    rest = losses.info_nce(codes[1:, 0], codes[1:, 1], 0.2, molecule=molecule[1:])
    torch.testing.assert_close(losses.contrastive(codes, there, 0.2, molecule), rest)


def test_commitment_is_exact_under_autocast():
    codes, anchors = randn(6, 16).float(), randn(3, 16, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = losses.commitment(codes, anchors)
    torch.testing.assert_close(cast, losses.commitment(codes, anchors))


@pytest.mark.parametrize(
    "loss",
    [
        lambda a: losses.info_nce(a, a.flip(0)),
        lambda a: losses.balance(a.abs()),
        lambda a: losses.commitment(a, a[:3]),
        lambda a: losses.masked_atoms(a, torch.arange(len(a)) % 16),
        lambda a: losses.masked_supervised_regression(a, a.float(), a.float().abs()),
    ],
)
def test_losses_of_half_precision_are_those_of_the_same_numbers_in_single(loss):
    a = randn(40, 16).bfloat16()
    assert loss(a).dtype == torch.float32
    torch.testing.assert_close(loss(a), loss(a.float()), rtol=2e-3, atol=1e-5)
