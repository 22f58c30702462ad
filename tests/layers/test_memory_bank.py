"""The memory bank: addressing, learning and exemplars."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.memory_bank import MemoryBank, MemoryReadout

quick = settings(deadline=None, max_examples=20)


def clustered(n, n_clusters=8, dim=16, seed=0, noise=0.1):
    """Codes around fixed random centres, with the number of their cluster."""
    centres = torch.randn(n_clusters, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(n_clusters, (n,), generator=generator)
    return centres[index] + noise * torch.randn(n, dim, generator=generator), index


def named(n, prefix="C"):
    return [f"{prefix}{i}" for i in range(n)]


def started(**kwargs):
    arguments = {"n_anchors": 8, "dim": 16, "warmup": 128, "dead_after": 80, **kwargs}
    bank = MemoryBank(**arguments)
    bank.update(clustered(bank.warmup)[0], named(bank.warmup))
    return bank


# --- before the start -------------------------------------------------------------------------


def test_transparent_before_the_start():
    bank = MemoryBank(n_anchors=4, dim=16)
    codes = torch.randn(3, 16, requires_grad=True)
    assert not bank.is_active
    assert bank.active_anchors().shape == (0, 16)
    assert bank.address(codes).shape == (3, 0)
    r = bank.read(codes, bank.active_anchors())
    assert (r == 0).all()
    readout = MemoryReadout(16)
    torch.testing.assert_close(readout(codes, r), F.layer_norm(codes, (16,)))
    torch.testing.assert_close(readout(codes), F.layer_norm(codes, (16,)))
    assert bank.exemplars == []
    with pytest.raises(RuntimeError, match="no active anchor"):
        bank.nearest(codes)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), warmup=st.integers(8, 100))
@quick
def test_starts_when_the_warmup_has_been_seen(sizes, warmup):
    bank, seen = MemoryBank(n_anchors=6, dim=16, warmup=warmup), 0
    for size in sizes:
        bank.update(clustered(size, seed=size)[0])
        seen += size
        assert bank.is_active == (seen >= warmup)
    if bank.is_active:
        assert int(bank.n_active) <= min(6, warmup // 8)
        assert torch.equal(bank.active_anchors(), bank.anchors[: int(bank.n_active)])


def test_start_can_be_forced_with_what_there_is():
    bank = MemoryBank(n_anchors=512, dim=16)
    bank.update(clustered(7)[0])
    assert not bank.start()
    bank.update(clustered(33)[0], named(33))
    assert bank.start()
    assert int(bank.n_active) == 40 // 8
    before = bank.anchors.clone()
    assert bank.start()
    assert torch.equal(before, bank.anchors)
    assert any(bank.exemplars)


def test_a_second_start_changes_nothing():
    bank = started()
    for seed in range(5):
        bank.update(clustered(64, seed=seed, noise=1.0)[0])
    before = bank.anchors.clone(), bank.usage.clone()
    assert bank.start()
    assert torch.equal(before[0], bank.anchors)
    assert torch.equal(before[1], bank.usage)


def test_clusters_are_those_of_directions_whatever_the_lengths():
    codes = torch.eye(16)[:3].repeat(32, 1)
    codes[::6] *= 100  # some of the first direction: by length they are clusters of their own
    codes[::12] *= 10
    bank = MemoryBank(n_anchors=3, dim=16, warmup=96)
    bank.update(codes + 1e-3 * torch.randn(96, 16, generator=torch.Generator().manual_seed(0)))
    nearest, similarity = bank.nearest(codes[:3])
    assert sorted(nearest.tolist()) == [0, 1, 2]
    assert similarity.min() > 0.99


def test_start_finds_the_clusters():
    bank = started()
    codes, index = clustered(500, seed=5)
    nearest, similarity = bank.nearest(codes)
    assert similarity.mean() > 0.95
    assert len({(int(a), int(b)) for a, b in zip(index, nearest)}) == 8  # one to one
    assert bank.share_in_use() == 1.0


def test_start_survives_duplicates():
    bank = MemoryBank(n_anchors=8, dim=4, warmup=64)
    bank.update(torch.eye(4)[[0, 1]].repeat(32, 1))
    assert int(bank.n_active) == 2
    assert bank.active_anchors().isfinite().all()


# --- addressing -------------------------------------------------------------------------------


@given(n=st.integers(1, 6), seed=st.integers(0, 99), temperature=st.sampled_from([0.05, 0.1, 1.0]))
@quick
def test_address_and_read_equal_a_naive_reference(n, seed, temperature):
    bank = started(temperature=temperature).double()
    codes, _ = clustered(n, seed=seed)
    codes, anchors = codes.double(), bank.active_anchors()
    values = torch.randn(len(anchors), 16).double()
    p, r = bank.address(codes), bank.read(codes, values)
    for i in range(n):
        cosines = [F.cosine_similarity(codes[i], a, dim=0) for a in anchors]
        weights = [torch.exp(c / temperature) for c in cosines]
        total = sum(weights)
        expected = sum(w / total * v for w, v in zip(weights, values))
        torch.testing.assert_close(p[i], torch.stack(weights) / total)
        torch.testing.assert_close(r[i], expected)
        assert int(bank.nearest(codes)[0][i]) == int(torch.stack(cosines).argmax())


@given(order=st.permutations(range(8)))
@quick
def test_reading_ignores_the_order_of_anchors_and_molecules(order):
    bank, order = started(), list(order)
    codes, values = clustered(8, seed=3)[0], torch.randn(8, 16)
    plain = bank.read(codes, values)
    torch.testing.assert_close(bank.read(codes[order], values), plain[order])
    bank.anchors.copy_(bank.anchors[order])
    torch.testing.assert_close(bank.read(codes, values[order]), plain)


def test_gradcheck_of_reading_and_read_out():
    bank, readout = started().double(), MemoryReadout(16).double()
    torch.nn.init.normal_(readout.gate)
    codes, values = clustered(3)[0].double(), torch.randn(8, 16).double()
    assert torch.autograd.gradcheck(
        lambda c, v: readout(c, bank.read(c, v)), [codes.requires_grad_(), values.requires_grad_()]
    )


# --- learning ---------------------------------------------------------------------------------


def test_ema_equals_a_naive_reference():
    bank = started(decay=0.9, dead_after=10**6)
    anchors, usage = bank.active_anchors().double(), bank.usage.double()
    for step in range(10):
        codes, _ = clustered(5, seed=step)
        codes = codes.double()
        nearest = F.normalize(codes, dim=1) @ F.normalize(anchors, dim=1).T
        for j in range(8):
            mine = [c for c, near in zip(codes, nearest.argmax(1)) if near == j]
            weight_old, weight_new = 0.9 * usage[j], 0.1 * len(mine) / len(codes)
            if mine:
                mean = sum(mine) / len(mine)
                anchors[j] = (weight_old * anchors[j] + weight_new * mean) / (
                    weight_old + weight_new
                )
            usage[j] = weight_old + weight_new
        bank.update(codes.float())
        torch.testing.assert_close(bank.active_anchors().double(), anchors, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(bank.usage.double(), usage, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(bank.usage.sum(), torch.tensor(1.0))


def test_anchors_follow_codes_that_drift():
    bank = started()
    shift = torch.randn(16, generator=torch.Generator().manual_seed(1))
    for step in range(300):
        codes, _ = clustered(32, seed=step)
        bank.update(codes + shift * min(1.0, step / 100))
    target = clustered(200, seed=7)[0] + shift
    assert bank.nearest(target)[1].mean() > 0.95
    assert bank.share_in_use() == 1.0


def test_unused_anchors_are_reseeded_from_recent_codes():
    bank = started()
    away = -bank.active_anchors().mean(0)
    bank.anchors[3] = away
    bank._exemplars[3] = [("gone", 1.0, 0)]
    codes = clustered(16, seed=1)[0]
    for _ in range(bank.dead_after // 16 - 1):
        bank.update(codes, named(16, "N"))
    assert torch.equal(bank.anchors[3], away)
    bank.update(codes, named(16, "N"))
    assert F.cosine_similarity(bank.anchors[3], bank.recent_codes).max() > 0.9999
    assert "gone" not in {s for kept in bank.exemplars for s, _ in kept}
    assert int(bank.idle[3]) == 0


@given(size=st.sampled_from([4, 8, 16, 40]))
@settings(deadline=None)
def test_how_long_an_anchor_may_rest_is_told_in_molecules(size):
    bank = started()
    away = -bank.active_anchors().mean(0)
    bank.anchors[3] = away
    codes = clustered(16, seed=1)[0].repeat(5, 1)  # 80 of them
    for part in codes.split(size):
        assert torch.equal(bank.anchors[3], away)
        bank.update(part)
    assert not torch.equal(bank.anchors[3], away)


def test_gradient_update_leaves_moving_to_the_optimizer():
    bank = started(update="gradient")
    assert isinstance(bank.anchors, torch.nn.Parameter)
    before = bank.anchors.detach().clone()
    bank.update(clustered(16, seed=1)[0])
    assert torch.equal(before, bank.anchors)
    bank.read(clustered(4)[0], bank.active_anchors()).sum().backward()
    assert bank.anchors.grad.isfinite().all()
    assert bank.anchors.grad.abs().sum() > 0


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_update_between_forward_and_backward_is_safe(update):
    bank = started(update=update, dead_after=1)
    codes = clustered(16, seed=1)[0].requires_grad_()
    loss = bank.read(codes, torch.nn.Linear(16, 16)(bank.active_anchors())).sum()
    bank.update(codes)
    loss.backward()
    assert codes.grad.isfinite().all()


def test_anchors_stay_put_without_update():
    bank, before = started(), started().state_dict()
    bank.train()
    bank.read(clustered(5)[0], bank.active_anchors())
    for name, tensor in bank.state_dict().items():
        if name != "_extra_state":
            assert torch.equal(tensor, before[name])


def test_rows_of_zeros_are_passed_over():
    bank, with_gaps = started(), started()
    codes = clustered(6, seed=2)[0]
    bank.update(codes, named(6, "N"))
    gaps = torch.zeros(8, 16)
    gaps[[0, 2, 3, 4, 6, 7]] = codes
    names = ["N0", "gap", "N1", "N2", "N3", "gap", "N4", "N5"]
    with_gaps.update(gaps, names)
    assert torch.equal(bank.anchors, with_gaps.anchors)
    assert bank.exemplars == with_gaps.exemplars
    with_gaps.update(torch.zeros(2, 16))
    assert torch.equal(bank.anchors, with_gaps.anchors)


def test_codes_that_are_not_finite_are_named():
    codes = torch.zeros(3, 16)
    codes[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"row 1 \(CCO\)"):
        started().update(codes, ["C", "CCO", "CC"])
    with pytest.raises(ValueError, match="2 SMILES for 3 codes"):
        started().update(codes, ["C", "CC"])


@given(
    argument=st.sampled_from(
        [
            {"n_anchors": 0},
            {"warmup": 0},
            {"temperature": 0.0},
            {"decay": 1.0},
            {"decay": -0.1},
            {"update": "soft"},
            {"n_exemplars": -1},
            {"dead_after": 0},
        ]
    )
)
@quick
def test_bad_arguments_are_named(argument):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        MemoryBank(**argument)


# --- exemplars --------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), n_exemplars=st.integers(0, 4))
@quick
def test_exemplars_are_the_nearest_molecules(seed, n_exemplars):
    bank = started(n_exemplars=n_exemplars)
    codes, _ = clustered(60, seed=seed, noise=0.5)
    bank.forget_exemplars()
    half = torch.arange(60) < 30  # in two calls: what was kept first must give way
    for rows in (half, ~half):
        bank.collect_exemplars(codes[rows], [n for n, r in zip(named(60), rows) if r])
    index, similarity = bank.nearest(codes)
    for j, kept in enumerate(bank.exemplars):
        order = sorted((i for i in range(60) if index[i] == j), key=lambda i: -similarity[i])
        assert [s for s, _ in kept] == [f"C{i}" for i in order[:n_exemplars]]
        torch.testing.assert_close(
            torch.tensor([c for _, c in kept]), similarity[order[:n_exemplars]]
        )


def test_a_molecule_is_an_exemplar_once_with_its_latest_similarity():
    bank = started()
    first, second = bank.active_anchors()[:2]
    bank.update(first[None], ["CCO"])
    bank.update(second[None], ["CCO"])
    found = [(j, s) for j, kept in enumerate(bank.exemplars) for s, _ in kept if s == "CCO"]
    assert found == [(1, "CCO")]
    bank.update(torch.stack([first, second]), ["CC", "CC"])
    assert sum(s == "CC" for kept in bank.exemplars for s, _ in kept) == 1


def test_old_exemplars_give_way_to_fresh_ones():
    bank = started(n_exemplars=1, dead_after=10**6)
    bank.forget_exemplars()
    anchor = bank.active_anchors()[0]
    near = anchor + 0.05 * anchor.norm() * F.normalize(torch.randn(16), dim=0)
    bank.collect_exemplars(anchor[None], ["old"])
    bank.collect_exemplars(near[None], ["fresh"])
    assert bank.exemplars[0][0][0] == "old"
    bank.n_updates += 1000
    bank.collect_exemplars(near[None], ["fresh"])
    assert bank.exemplars[0][0][0] == "fresh"


def test_forgetting_leaves_no_smiles():
    bank = started()
    bank.forget_exemplars()
    state = bank.get_extra_state()
    assert not any(state["exemplars"])
    assert set(state["recent_smiles"]) == {None}
    assert bank.is_active


# --- read-out ---------------------------------------------------------------------------------


def test_gate_starts_closed_and_learns():
    readout = MemoryReadout(6)
    z, r = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(readout(z, r), F.layer_norm(z, (6,)))
    (readout(z, r) * torch.randn(4, 6)).sum().backward()
    assert readout.gate.grad.abs().sum() > 0
    torch.nn.init.ones_(readout.gate)
    torch.testing.assert_close(readout(z, r), F.layer_norm(z + r, (6,)))


def test_anchors_start_as_the_means_of_the_codes_they_are_nearest_to():
    """Means, not directions: read and convolved, an anchor is as long as a code."""
    bank, codes = started(), clustered(128)[0]
    index, _ = bank.nearest(codes)
    for j, anchor in enumerate(bank.active_anchors()):
        torch.testing.assert_close(anchor, codes[index == j].mean(0))
        assert bank.usage[j] == pytest.approx(float((index == j).float().mean()))


def reseeded():
    """A bank whose fourth anchor is re-seeded from codes of which one is far from all anchors."""
    bank = started(dead_after=16)
    anchor = bank.active_anchors()[0]
    near = anchor + 0.01 * torch.randn(15, 16, generator=torch.Generator().manual_seed(1))
    codes = torch.cat([near, -anchor[None]])
    bank.recent_codes, bank.recent_smiles = codes, named(16, "R")
    bank._reseed(torch.tensor([3]))
    return bank, codes


def test_an_anchor_is_reseeded_rather_where_none_is_near():
    bank, codes = reseeded()
    torch.testing.assert_close(bank.anchors[3], codes[15])
    assert bank.exemplars[3] == [("R15", pytest.approx(1))]  # its own name


@pytest.mark.parametrize("what", ["start", "re-seeding"])
def test_the_seed_decides(what):
    """Of k-means, and of the codes that unused anchors are taken from."""

    def anchors(seed):
        bank = MemoryBank(8, 16, warmup=64, seed=seed)
        codes = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
        bank.update(codes)
        if what == "re-seeding":
            bank.anchors.copy_(codes[:8])
            bank._reseed(torch.arange(8))
        return bank.anchors.clone()

    assert torch.equal(anchors(0), anchors(0))
    assert not torch.equal(anchors(0), anchors(1))


def test_recent_codes_are_the_latest_with_their_names():
    bank = MemoryBank(8, 16, warmup=20)
    codes = torch.randn(50, 16)
    for start in range(0, 50, 10):
        bank.update(codes[start : start + 10], [f"C{i}" for i in range(start, start + 10)])
    assert torch.equal(bank.recent_codes, codes[30:])
    assert bank.recent_smiles == [f"C{i}" for i in range(30, 50)]
    shorter = MemoryBank(8, 16, warmup=7)
    shorter.load_state_dict(bank.state_dict())
    assert torch.equal(shorter.recent_codes, codes[43:])
    assert shorter.recent_smiles == [f"C{i}" for i in range(43, 50)]


def test_an_anchor_that_few_molecules_choose_is_not_unused():
    bank = started()
    rare, common = bank.active_anchors()[3], bank.active_anchors()[0]
    bank.update(torch.cat([rare[None], common.expand(39, -1)]))
    assert bank.idle.tolist() == [0, 40, 40, 0, 40, 40, 40, 40]


def test_a_reseeded_anchor_weighs_as_others_do():
    """It is not thrown out of its place by the first molecule that comes."""
    bank, _ = reseeded()
    assert bank.usage[3] == pytest.approx(1 / 8)


def test_no_more_anchors_are_reseeded_than_there_are_codes():
    bank = started()
    bank.set_extra_state({})  # as in an export: no recent codes
    bank.idle += bank.dead_after
    codes = torch.eye(16)[:3]
    bank.update(codes)
    reseeded = [i for i, anchor in enumerate(bank.anchors) if (anchor == codes).all(1).any()]
    assert 1 <= len(reseeded) <= 3


def test_a_cluster_without_codes_starts_as_long_as_a_code_is(monkeypatch):
    class KMeans:
        def __init__(self, n_clusters, **options):
            self.cluster_centers_ = torch.eye(16)[:n_clusters].numpy()

        def fit(self, directions):
            return self

    monkeypatch.setattr("sklearn.cluster.MiniBatchKMeans", KMeans)
    bank = MemoryBank(n_anchors=2, dim=16, warmup=16)
    bank.update(7 * torch.eye(16)[:1] + 1e-3 * torch.arange(16).unsqueeze(1))
    assert bank.usage.tolist() == [1, 0]
    assert bank.anchors[1].norm().item() == pytest.approx(7, rel=0.01)


def test_the_memory_needs_no_float64_on_the_device(without_doubles):
    bank, codes = reseeded()
    assert bank.is_active
    torch.testing.assert_close(bank.anchors[3], codes[15])
