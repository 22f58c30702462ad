"""Fusion: masks mean what they say, and what is not available has no influence."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepchem_mmsa.layers.fusion import Fusion

MODALITIES = ("image", "graph", "geometry")
IN_DIMS = {"image": 7, "graph": 5, "geometry": 6}


def build(how="mean", dim=4, seed=0):
    torch.manual_seed(seed)
    return Fusion(MODALITIES, IN_DIMS, dim=dim, how=how).double()


def embeddings(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, width, generator=generator).double() for m, width in IN_DIMS.items()}


masks = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6).map(
    torch.tensor
)


def test_shapes_and_names():
    fusion = build()
    u, codes = fusion.project(embeddings(3))
    assert u.shape == codes.shape == (3, 3, 4)
    assert fusion.reconstruct(codes).shape == (3, 3, 3, 4)
    for m in MODALITIES:
        for part in ("heads", "encoders", "decoders"):
            assert any(name.startswith(f"{part}.{m}.") for name in fusion.state_dict())


def test_reconstruct_decodes_source_by_target():
    fusion = build()
    _, codes = fusion.project(embeddings(2))
    decoded = fusion.reconstruct(codes)
    for s in range(3):
        for t, target in enumerate(MODALITIES):
            torch.testing.assert_close(decoded[:, s, t], fusion.decoders[target](codes[:, s]))


@given(mask=masks, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_mean_equals_naive(mask, seed):
    codes = torch.randn(len(mask), 3, 4, generator=torch.Generator().manual_seed(seed)).double()
    fused = build().fuse(codes, mask)
    for i, row in enumerate(mask.tolist()):
        chosen = [codes[i, m] for m in range(3) if row[m]]
        expected = sum(chosen) / len(chosen) if chosen else torch.zeros(4).double()
        torch.testing.assert_close(fused[i], expected)


@given(mask=masks, how=st.sampled_from(["mean", "attention"]), filler=st.sampled_from([0, 1e6, -3]))
@settings(deadline=None, max_examples=30)
def test_filler_has_no_influence_on_values_or_gradients(mask, how, filler):
    fusion = build(how)
    given_rows, filled = embeddings(len(mask)), embeddings(len(mask))
    for column, m in enumerate(MODALITIES):
        filled[m][~mask[:, column]] = filler
        filled[m].requires_grad_()
        given_rows[m].requires_grad_()
    a, b = fusion(given_rows, mask), fusion(filled, mask)
    torch.testing.assert_close(a, b)
    (b**2).sum().backward()
    for column, m in enumerate(MODALITIES):
        assert filled[m].grad.isfinite().all()
        assert (filled[m].grad[~mask[:, column]] == 0).all()
    for parameter in fusion.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert (b[~mask.any(1)] == 0).all()


@pytest.mark.parametrize("how", ["mean", "attention"])
def test_nan_code_of_a_missing_modality_stays_out(how):
    codes = torch.randn(2, 3, 4).double()
    codes[0, 1] = torch.nan
    codes.requires_grad_()
    mask = torch.tensor([[True, False, True], [True, True, True]])
    fused = build(how).fuse(codes, mask)
    fused.sum().backward()
    assert fused.isfinite().all()
    assert codes.grad.isfinite().all()


@pytest.mark.parametrize("how", ["mean", "attention"])
def test_one_modality_is_its_own_code(how):
    codes = torch.randn(3, 3, 4).double()
    torch.testing.assert_close(
        build(how).fuse(codes, torch.eye(3).bool()), codes[range(3), range(3)]
    )


@given(permutation=st.permutations(range(5)), how=st.sampled_from(["mean", "attention"]))
@settings(deadline=None, max_examples=20)
def test_equivariant_to_the_order_of_molecules(permutation, how):
    fusion, h = build(how), embeddings(5)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]]).bool()
    permuted = fusion({m: x[permutation] for m, x in h.items()}, mask[permutation])
    torch.testing.assert_close(permuted, fusion(h, mask)[permutation])


def test_absent_modality_equals_one_not_available():
    fusion, h = build(), embeddings(3)
    mask = torch.tensor([[True, False, True]] * 3)
    without = {m: x for m, x in h.items() if m != "graph"}
    torch.testing.assert_close(fusion(without, mask), fusion(h, mask))


@pytest.mark.parametrize("how", ["mean", "attention"])
def test_gradcheck(how):
    fusion = build(how, dim=3)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    h = [x.requires_grad_() for x in embeddings(2).values()]
    assert torch.autograd.gradcheck(lambda *x: fusion(dict(zip(MODALITIES, x)), mask), h)


def test_no_molecules():
    fusion = build()
    assert fusion(embeddings(0), torch.zeros(0, 3).bool()).shape == (0, 4)


def test_errors_name_the_fault():
    with pytest.raises(ValueError, match="no width for \\['geometry'\\]"):
        Fusion(MODALITIES, {"image": 1, "graph": 1})
    with pytest.raises(ValueError, match="how='max'"):
        Fusion(MODALITIES, IN_DIMS, how="max")
    with pytest.raises(ValueError, match="each of them once"):
        Fusion(("graph", "graph"), IN_DIMS)
    with pytest.raises(ValueError, match="surface"):
        build().project({"surface": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="differ"):
        build().project({"image": torch.zeros(1, 7), "graph": torch.zeros(2, 5)})


def test_no_view_outweighs_another_by_its_scale_or_place():
    """Neither by that of its encoder's output, nor by the order in which views are given."""
    fusion, h = build(dim=16), embeddings(5)
    u, codes = fusion.project(h)
    torch.testing.assert_close(codes.mean(-1), torch.zeros(5, 3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        codes.var(-1, unbiased=False), torch.ones(5, 3).double(), atol=0.02, rtol=0
    )
    for other in ({m: 1000 * x for m, x in h.items()}, dict(reversed(h.items()))):
        for found, expected in zip(fusion.project(other), (u, codes)):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@given(mask=masks, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_attention_equals_naive(mask, seed):
    """Weights of a molecule's views: softmax of ``w · tanh(W c + b)``."""
    fusion = build("attention")
    codes = torch.randn(len(mask), 3, 4, generator=torch.Generator().manual_seed(seed)).double()
    inner, outer = fusion.attention[0], fusion.attention[-1].weight[0]
    for i, fused in enumerate(fusion.fuse(codes, mask)):
        chosen = [codes[i, m] for m in range(3) if mask[i, m]]
        weights = [(outer @ torch.tanh(inner.weight @ c + inner.bias)).exp() for c in chosen]
        total = sum(w * c for w, c in zip(weights, chosen))
        expected = total / sum(weights) if chosen else torch.zeros(4).double()
        torch.testing.assert_close(fused, expected)
