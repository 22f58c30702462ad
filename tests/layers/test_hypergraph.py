"""The hypergraph: equal to its dense formula, equivariant, continuous, and blind to the batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.hypergraph import (
    OWN_WEIGHT,
    Hypergraph,
    HypergraphConv,
    anchor_hypergraph,
    nearest_nodes_hypergraph,
)

NORMS = ("row", "sym")
quick = settings(deadline=None, max_examples=25)


def build(norm="row", dim=5, backend="auto", dtype=torch.float64):
    torch.manual_seed(1)
    return HypergraphConv(dim, norm=norm, backend=backend).to(dtype).eval()


def points(n, seed, dim=5, dtype=torch.float64):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_hypergraph(n_nodes, n_hyperedges, nnz, seed, dtype=torch.float64):
    """Random memberships, repeated and zero ones too; isolated nodes, empty hyperedges."""
    g = torch.Generator().manual_seed(seed)
    return Hypergraph(
        torch.randint(n_nodes, (nnz,), generator=g),
        torch.randint(n_hyperedges, (nnz,), generator=g),
        (torch.rand(nnz, generator=g, dtype=dtype) - 0.3).relu(),
        (torch.rand(n_hyperedges, generator=g, dtype=dtype) - 0.2).relu(),
        n_nodes,
        n_hyperedges,
    )


def dense(conv, x, hypergraph):
    """The formula as docs/method.md writes it."""
    h, w = hypergraph.incidence(), torch.diag(hypergraph.weight)
    d_v, d_e = (h @ w).sum(1), h.sum(0)
    inverse_e = torch.diag(torch.where(d_e > 0, 1 / d_e, 0))
    if conv.norm == "row":
        g = torch.diag(torch.where(d_v > 0, 1 / d_v, 0)) @ h @ w @ inverse_e @ h.T
    else:
        root = torch.diag(torch.where(d_v > 0, d_v**-0.5, 0))
        g = root @ h @ w @ inverse_e @ h.T @ root
    return x + g @ conv.transform(x)


@pytest.mark.parametrize("backend", ["dgl", "torch"])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 8), st.integers(0, 20)),
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 999),
)
@quick
def test_equals_the_dense_formula(backend, dtype, tolerance, shape, norm, seed):
    hypergraph = random_hypergraph(*shape, seed, dtype)
    conv, x = build(norm, backend=backend, dtype=dtype), points(shape[0], seed, dtype=dtype)
    z = conv(x, hypergraph)
    torch.testing.assert_close(z, dense(conv, x, hypergraph), atol=tolerance, rtol=tolerance)
    isolated = hypergraph.node_degree == 0
    assert torch.equal(z[isolated], x[isolated])


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 15)),
    norm=st.sampled_from(NORMS),
)
@quick
def test_backends_agree_in_gradients(shape, norm):
    gradients = []
    for backend in ("dgl", "torch"):
        conv, x = build(norm, backend=backend), points(shape[0], 3).requires_grad_()
        (conv(x, random_hypergraph(*shape, 5)) ** 2).sum().backward()
        gradients.append([x.grad] + [p.grad for p in conv.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("norm", NORMS)
def test_gradcheck(norm):
    conv = build(norm, dim=3)
    hypergraph = random_hypergraph(5, 3, 7, 0)
    assert torch.autograd.gradcheck(
        lambda x: conv(x, hypergraph), [points(5, 0, 3).requires_grad_()]
    )


@given(norm=st.sampled_from(NORMS), seed=st.integers(0, 99), data=st.data())
@quick
def test_equivariant_to_nodes_and_hyperedges(norm, seed, data):
    hypergraph, x, conv = random_hypergraph(8, 5, 14, seed), points(8, seed), build(norm)
    new_node = torch.tensor(data.draw(st.permutations(range(8))))
    new_hyperedge = torch.tensor(data.draw(st.permutations(range(5))))
    moved = Hypergraph(
        new_node[hypergraph.node],
        new_hyperedge[hypergraph.hyperedge],
        hypergraph.membership,
        torch.empty_like(hypergraph.weight).index_copy(0, new_hyperedge, hypergraph.weight),
        8,
        5,
    )
    permuted = torch.empty_like(x).index_copy(0, new_node, x)
    torch.testing.assert_close(conv(permuted, moved)[new_node], conv(x, hypergraph))


def naive_members(i, candidates, nodes, k):
    """Members and weights of node i's hyperedge, in plain Python."""

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    others = sorted(((cosine(nodes[i], nodes[j]), j) for j in candidates if j != i), reverse=True)
    inside, outside = others[: k - 1], others[k - 1 :]
    border = outside[0][0] if outside else -1.0
    weights = {j: max(0.0, s - border) for s, j in inside}
    weights[i] = max(0.0, 1 - border) + OWN_WEIGHT
    return weights


@given(
    sizes=st.tuples(st.integers(1, 7), st.integers(0, 7)),
    k=st.integers(1, 10),
    seed=st.integers(0, 999),
)
@quick
def test_nearest_nodes_equal_a_naive_reference(sizes, k, seed):
    n_molecules = sizes[0]
    nodes = points(sum(sizes), seed)
    hypergraph = nearest_nodes_hypergraph(nodes[:n_molecules], nodes[n_molecules:], k)
    incidence = hypergraph.incidence()
    assert hypergraph.n_nodes == hypergraph.n_hyperedges == sum(sizes)
    for e in range(sum(sizes)):
        candidates = range(sum(sizes)) if e < n_molecules else range(n_molecules, sum(sizes))
        expected = torch.zeros(sum(sizes)).double()
        for j, weight in naive_members(e, candidates, nodes, k).items():
            expected[j] = weight
        torch.testing.assert_close(incidence[:, e], expected)
    assert (torch.bincount(hypergraph.hyperedge) <= k).all()


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_duplicates_and_ties_leave_no_hyperedge_empty(k):
    codes = points(1, 0).repeat(6, 1)
    hypergraph = nearest_nodes_hypergraph(codes, codes[:3], k)
    own = hypergraph.incidence().diagonal()
    assert (own >= OWN_WEIGHT).all()
    for norm in NORMS:
        z = build(norm)(torch.cat([codes, codes[:3]]), hypergraph)
        assert z.isfinite().all()
        if norm == "row":  # equal molecules stay equal
            torch.testing.assert_close(z[:6], z[:1].expand(6, -1))


def test_no_gradient_through_memberships():
    codes, anchors = points(4, 0).requires_grad_(), points(3, 1).requires_grad_()
    assert not nearest_nodes_hypergraph(codes, anchors, 2).membership.requires_grad
    assert not anchor_hypergraph(anchors, 2).membership.requires_grad


def test_what_is_sent_is_normalised_node_by_node():
    conv = build().train()
    theta = conv.transform[0]
    x = points(3, 0)
    normed = torch.nn.functional.layer_norm(x @ theta.weight.T + theta.bias, (5,))
    torch.testing.assert_close(conv.transform(x), torch.nn.functional.gelu(normed))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scope", ["batch", "memory"])
def test_continuous_where_the_neighbours_change(norm, scope):
    """On a path on which the nearest nodes change several times, no step is a jump."""
    conv, anchors, other = build(norm), points(12, 1), points(3, 2)
    start, end = points(1, 3), points(1, 4)
    outputs = []
    for t in torch.linspace(0, 1, 2001).tolist():
        code = (1 - t) * start + t * end
        if scope == "memory":
            outputs.append(conv.forward_memory(code, anchors, 4)[0])
        else:
            hypergraph = nearest_nodes_hypergraph(torch.cat([code, other]), anchors, 4)
            outputs.append(conv(torch.cat([code, other, anchors]), hypergraph)[0])
    steps = torch.stack(outputs).diff(dim=0).norm(dim=1)
    assert steps.max() < 0.02  # the path is about 2000 times that long


@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    k=st.integers(1, 11),
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 999),
    backend=st.sampled_from(["dgl", "torch"]),
)
@settings(deadline=None, max_examples=40)
def test_memory_scope_is_the_operator_on_one_molecule(sizes, k, norm, seed, backend):
    conv = build(norm, backend=backend)
    codes, anchors = points(sizes[0], seed).requires_grad_(), points(sizes[1], seed + 1)
    anchors[-1] = codes[0].detach()  # an anchor may be a molecule
    z = conv.forward_memory(codes, anchors, k)
    singly = torch.cat(
        [
            conv(torch.cat([c[None], anchors]), nearest_nodes_hypergraph(c[None], anchors, k))[:1]
            for c in codes
        ]
    )
    torch.testing.assert_close(z, singly)
    (gradient,) = torch.autograd.grad((z**2).sum(), codes)
    (expected,) = torch.autograd.grad((singly**2).sum(), codes)
    torch.testing.assert_close(gradient, expected)


def test_row_form_is_the_weighted_mean_of_the_nearest():
    conv, code, anchors = build("row"), points(1, 0), points(6, 1)
    weights = naive_members(0, range(7), torch.cat([code, anchors]), 3)
    y = conv.transform(torch.cat([code, anchors]))
    mean = sum(w * y[j] for j, w in weights.items()) / math.fsum(weights.values())
    torch.testing.assert_close(conv.forward_memory(code, anchors, 3)[0], code[0] + mean)


@given(norm=st.sampled_from(NORMS), n=st.integers(1, 40), seed=st.integers(0, 999))
@quick
def test_memory_scope_does_not_see_the_batch(norm, n, seed):
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        conv = build(norm, dim=32, dtype=dtype)
        anchors, codes = points(30, 7, 32, dtype), points(n, seed, 32, dtype)
        together = conv.forward_memory(codes, anchors, 8)
        alone = torch.cat([conv.forward_memory(c[None], anchors, 8) for c in codes])
        difference = float((together - alone).detach().abs().max())
        assert difference <= bound * float(
            alone.detach().abs().max()
        )  # rounding, in units of the values


@given(norm=st.sampled_from(NORMS), order=st.permutations(range(9)))
@quick
def test_memory_scope_ignores_the_order_of_anchors(norm, order):
    conv, codes, anchors = build(norm), points(4, 0), points(9, 1)
    order = list(order)
    torch.testing.assert_close(
        conv.forward_memory(codes, anchors[order], 4), conv.forward_memory(codes, anchors, 4)
    )
    torch.testing.assert_close(
        conv.convolve_anchors(anchors[order], 4), conv.convolve_anchors(anchors, 4)[order]
    )


@given(order=st.permutations(range(7)), norm=st.sampled_from(NORMS))
@quick
def test_batch_scope_is_equivariant_to_molecules(order, norm):
    conv, codes, anchors = build(norm), points(7, 0), points(5, 1)
    order = list(order)

    def run(c):
        return conv(torch.cat([c, anchors]), nearest_nodes_hypergraph(c, anchors, 3))

    plain, permuted = run(codes), run(codes[order])
    torch.testing.assert_close(permuted[:7], plain[order])
    torch.testing.assert_close(permuted[7:], plain[7:])


@pytest.mark.parametrize("norm", NORMS)
def test_without_anchors_memory_scope_is_transparent(norm):
    conv, codes, none = build(norm), points(3, 0), points(0, 0)
    assert conv.forward_memory(codes, none, 8) is codes
    assert conv.convolve_anchors(none, 8).shape == (0, 5)
    assert conv.forward_memory(points(0, 0), points(4, 0), 2).shape == (0, 5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_code_of_zeros_gives_finite_values_and_gradients(norm):
    conv, anchors = build(norm), points(4, 1)
    codes = torch.zeros(2, 5).double().requires_grad_()
    conv.forward_memory(codes, anchors, 2).sum().backward()
    assert codes.grad.isfinite().all()


def test_bf16_autocast_keeps_neighbours_exact():
    conv = build(dtype=torch.float32)
    codes, anchors = points(6, 0, dtype=torch.float32), points(20, 1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = nearest_nodes_hypergraph(codes, anchors, 4).incidence()
        z = conv.forward_memory(codes, anchors, 4)
    torch.testing.assert_close(cast, nearest_nodes_hypergraph(codes, anchors, 4).incidence())
    torch.testing.assert_close(z, conv.forward_memory(codes, anchors, 4), atol=0.05, rtol=0)


def test_errors_name_the_fault():
    with pytest.raises(ValueError, match="norm='column'"):
        HypergraphConv(4, norm="column")
    for call in (
        lambda: nearest_nodes_hypergraph(points(2, 0), points(2, 0), 0),
        lambda: anchor_hypergraph(points(2, 0), 0),
        lambda: build().forward_memory(points(2, 0), points(2, 0), 0),
    ):
        with pytest.raises(ValueError, match="k=0"):
            call()
    with pytest.raises(ValueError, match="3 rows"):
        build()(points(3, 0), random_hypergraph(4, 2, 3, 0))
    with pytest.raises(ValueError, match="one number per hyperedge"):
        Hypergraph(torch.tensor([0]), torch.tensor([0]), torch.ones(1), torch.ones(2), 1, 1)
    with pytest.raises(ValueError, match="one entry per membership"):
        Hypergraph(torch.tensor([0]), torch.tensor([0]), torch.ones(2), torch.ones(1), 1, 1)
