"""Messages: both backends equal a plain loop, values and gradients, on any graph."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.message_passing import (
    BatchedConformers,
    BatchedGraph,
    EdgeList,
    aggregate,
    pool,
)

from .batches import random_graph

QUICK = settings(max_examples=25, deadline=None)


@st.composite
def edge_lists(draw) -> EdgeList:
    """Any multigraph: isolated nodes, self-loops, repeated edges, no nodes at all."""
    n = draw(st.integers(0, 8))
    ends = st.integers(0, n - 1) if n else st.nothing()
    pairs = draw(st.lists(st.tuples(ends, ends), max_size=20)) if n else []
    src = torch.tensor([a for a, _ in pairs], dtype=torch.int64)
    dst = torch.tensor([b for _, b in pairs], dtype=torch.int64)
    return EdgeList(src, dst, n)


def by_loop(edges, nodes, values, message, reduce):
    """Send every message by hand."""
    rows = [[] for _ in range(edges.n_nodes)]
    for e, (j, i) in enumerate(zip(edges.src.tolist(), edges.dst.tolist())):
        sent = {
            "nodes": lambda j=j, e=e: nodes[j],
            "edges": lambda j=j, e=e: values[e],
            "add": lambda j=j, e=e: nodes[j] + values[e],
            "mul": lambda j=j, e=e: nodes[j] * values[e],
        }[message]()
        rows[i].append(sent)
    zero = torch.zeros(nodes.shape[1], dtype=nodes.dtype)
    reduced = []
    for row in rows:
        if not row:
            reduced.append(zero)
            continue
        stack = torch.stack(row)
        reduced.append(stack.amax(0) if reduce == "max" else getattr(stack, reduce)(0))
    return torch.stack(reduced) if reduced else torch.zeros(0, nodes.shape[1], dtype=nodes.dtype)


@pytest.mark.parametrize("backend", ["auto", "dgl", "torch"])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("message", ["nodes", "edges", "add", "mul"])
@QUICK
@given(edges=edge_lists(), seed=st.integers(0, 99))
def test_equals_a_loop(edges, seed, message, reduce, backend):
    generator = torch.Generator().manual_seed(seed)
    shape = {"generator": generator, "dtype": torch.float64}
    nodes = torch.randn(edges.n_nodes, 3, **shape).requires_grad_()
    values = torch.randn(len(edges.src), 3, **shape).requires_grad_()
    weight = torch.randn(edges.n_nodes, 3, **shape)
    results = []
    for function in (
        lambda: aggregate(edges, nodes, values, message=message, reduce=reduce, backend=backend),
        lambda: by_loop(edges, nodes, values, message, reduce),
    ):
        out = function()
        loss = (out * weight).sum()
        grads = (None, None)
        # Repeated edges tie exactly: the gradient of a maximum may then go either way.
        repeated = reduce == "max" and message == "nodes"
        if loss.requires_grad and not repeated:
            grads = torch.autograd.grad(loss, (nodes, values), allow_unused=True)
        dense = [torch.zeros(1) if g is None else g for g in grads]
        results.append((out.detach(), *(g if g.abs().sum() else torch.zeros(1) for g in dense)))
    for ours, loop in zip(*results):
        torch.testing.assert_close(ours, loop)


@pytest.mark.parametrize("backend", ["dgl", "torch"])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("message", ["add", "mul"])
def test_gradients_agree_with_finite_differences(message, reduce, backend):
    torch.manual_seed(0)
    edges = EdgeList(torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 2, 1, 3, 2]), 5)
    nodes = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    values = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: aggregate(edges, x, w, message=message, reduce=reduce, backend=backend),
        (nodes, values),
    )


@pytest.mark.parametrize("message", ["nodes", "mul"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@QUICK
@given(edges=edge_lists(), seed=st.integers(0, 99))
def test_sums_without_gradients_equal_those_of_dgl(edges, seed, dtype, message):
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(edges.n_nodes, 3, generator=generator, dtype=dtype)
    values = torch.randn(len(edges.src), 1, generator=generator, dtype=dtype)
    plain, dgl = (
        aggregate(edges, nodes, values, message=message, backend=backend)
        for backend in ("auto", "dgl")
    )
    exact = 0.0 if message == "nodes" else None  # the same additions in the same order
    torch.testing.assert_close(plain, dgl, rtol=exact, atol=exact)


@pytest.mark.parametrize("message", ["nodes", "mul"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@QUICK
@given(edges=edge_lists(), seed=st.integers(0, 99))
def test_gradients_of_sums_equal_those_of_dgl(edges, seed, dtype, message):
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(edges.n_nodes, 3, generator=generator, dtype=dtype, requires_grad=True)
    values = torch.randn(len(edges.src), 1, generator=generator, dtype=dtype)
    weight = torch.randn(edges.n_nodes, 3, generator=generator, dtype=dtype)
    plain, dgl = (
        torch.autograd.grad(
            (aggregate(edges, nodes, values, message=message, backend=backend) * weight).sum(),
            nodes,
        )[0]
        for backend in ("auto", "dgl")
    )
    torch.testing.assert_close(plain, dgl)


@pytest.mark.parametrize("backend", ["auto", "dgl", "torch"])
def test_edge_values_may_be_scalars(backend):
    edges = EdgeList(torch.tensor([0, 1]), torch.tensor([1, 0]), 2)
    nodes, values = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[10.0], [100.0]])
    out = aggregate(edges, nodes, values, message="mul", backend=backend)
    assert out.tolist() == [[300, 400], [10, 20]]


@pytest.mark.parametrize("backend", ["dgl", "torch"])
def test_half_precision_is_summed_in_single(backend):
    n = 600
    edges = EdgeList(torch.arange(n), torch.zeros(n, dtype=torch.int64), n)
    ones = torch.ones(n, 1, dtype=torch.bfloat16)
    out = aggregate(edges, ones, backend=backend)
    assert out.dtype == torch.bfloat16
    assert out[0].item() == pytest.approx(n, rel=0.01)  # a bfloat16 sum of ones stops at 256


@pytest.mark.parametrize("backend", ["dgl", "torch"])
def test_two_runs_are_equal_bit_for_bit(backend):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        graph = random_graph(0, [25] * 40)
        torch.manual_seed(0)
        x, w = torch.randn(len(graph.atoms), 64), torch.randn(len(graph.src), 64)
        runs = []
        for _ in range(3):
            nodes, values = x.clone().requires_grad_(), w.clone().requires_grad_()
            edges = EdgeList(graph.src, graph.dst, len(graph.atoms))
            out = aggregate(edges, nodes, values, message="mul", backend=backend)
            out.square().sum().backward()
            runs.append((out, nodes.grad, values.grad))
        for run in runs[1:]:
            assert all(torch.equal(a, b) for a, b in zip(run, runs[0]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@QUICK
@given(sizes=st.lists(st.integers(0, 5), max_size=6))
def test_pool_equals_a_loop(sizes, reduce):
    rows = torch.randn(sum(sizes), 2, generator=torch.Generator().manual_seed(0))
    pooled = pool(rows, torch.tensor(sizes, dtype=torch.int64), reduce)
    assert pooled.shape == (len(sizes), 2)
    for row, part in zip(pooled, rows.split(sizes)):
        part = part if len(part) else torch.zeros(1, 2)
        expected = part.amax(0) if reduce == "max" else getattr(part, reduce)(0)
        torch.testing.assert_close(row, expected)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"message": "subtract"}, "nodes, edges, add, mul"),
        ({"reduce": "median"}, "sum, mean, max"),
        ({"backend": "jax"}, "auto, dgl, torch"),
        ({"message": "mul"}, "edge_values"),
        ({"message": "edges"}, "edge_values"),
    ],
)
def test_bad_options_are_named(options, text):
    edges = EdgeList(torch.tensor([0]), torch.tensor([0]), 1)
    with pytest.raises(ValueError, match=text):
        aggregate(edges, torch.ones(1, 1), **options)
    with pytest.raises(ValueError, match="median"):
        pool(torch.ones(1, 1), torch.tensor([1]), "median")


def test_dgl_on_a_device_it_lacks_says_what_to_do():
    meta = torch.zeros(1, dtype=torch.int64, device="meta")
    with pytest.raises(RuntimeError, match=r"'meta'.*'cpu'"):
        EdgeList(meta, meta, 1).dgl()


def test_batched_graph_knows_its_molecules():
    graph = random_graph(0, [3, 1, 4])
    assert graph.n_molecules == 3
    assert graph.molecule_of_atom.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    dgl_graph = graph.dgl()
    assert dgl_graph is graph.dgl()
    assert dgl_graph.batch_num_nodes().tolist() == [3, 1, 4]
    assert dgl_graph.batch_num_edges().tolist() == graph.n_edges.tolist()
    moved = graph.to("cpu")
    assert moved is not graph
    assert torch.equal(moved.bonds, graph.bonds)


def test_inconsistent_batches_are_refused():
    none, one = torch.zeros(0, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="same edges"):
        BatchedGraph(torch.zeros(2, 9), one, none, torch.zeros(0, 5), one, one)
    with pytest.raises(ValueError, match="per molecule"):
        BatchedGraph(torch.zeros(2, 9), none, none, torch.zeros(0, 5), one, none)
    with pytest.raises(ValueError, match=r"coordinates must be \[1, 3\]"):
        BatchedConformers(one, torch.zeros(2, 3), one)
