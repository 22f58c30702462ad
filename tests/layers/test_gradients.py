"""Every layer's gradients against finite differences, in float64 and in training mode.

Each parameter moves along one random direction, so that a check costs two evaluations a tensor,
not two a number. Inputs have their checks beside their layers.
"""

import pytest
import torch

from deepchem_mmsa.layers.fingerprint_encoder import BatchedFingerprints, FingerprintMLP
from deepchem_mmsa.layers.fusion import Fusion
from deepchem_mmsa.layers.geometry_encoder import ComENet
from deepchem_mmsa.layers.gin import GIN
from deepchem_mmsa.layers.hypergraph import HypergraphConv, nearest_nodes_hypergraph
from deepchem_mmsa.layers.image_encoder import ResNet18
from deepchem_mmsa.layers.memory_bank import MemoryBank, MemoryReadout
from deepchem_mmsa.layers.message_passing import BatchedConformers
from tests.layers.batches import random_conformers, random_graph

EPS = 1e-6


def check(module, *inputs, method="forward"):
    """Compare backward with central differences, for all parameters of a module."""
    module = module.double().train()
    generator = torch.Generator().manual_seed(1)

    def random_like(x):
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    def outputs():
        result = getattr(module, method)(*inputs)
        return result if isinstance(result, tuple) else (result,)

    weights = [random_like(o) for o in outputs()]

    def value():
        return sum((o * w).sum() for o, w in zip(outputs(), weights))

    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(value(), parameters.values(), allow_unused=True)
    used = 0
    for (name, parameter), gradient in zip(parameters.items(), gradients):
        if gradient is None:
            continue
        used += 1
        direction = random_like(parameter) / parameter.numel() ** 0.5
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * EPS)
                ends.append(float(value()))
                parameter.sub_(direction, alpha=sign * EPS)
        slope = (ends[0] - ends[1]) / (2 * EPS)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-6), name
    assert used


def points(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("features", ["basic", "full"])
@pytest.mark.parametrize("share", [True, False])
def test_gin(features, share):
    torch.manual_seed(0)
    encoder = GIN(features=features, width=5, n_layers=2, dropout=0.0, share_rows=share)
    check(encoder, random_graph(0, [6, 4, 1, 5]))


def test_resnet():
    torch.manual_seed(0)
    check(ResNet18(width=8), 255 * points(3, 3, 33, 33).sigmoid())


def test_comenet():
    torch.manual_seed(0)
    conformers = random_conformers(0, [6, 4, 1])
    double = BatchedConformers(
        conformers.atomic_numbers, conformers.coordinates.double(), conformers.n_atoms
    )
    check(ComENet(width=4, n_layers=2, cutoff=6.0), double)


def test_fingerprint_mlp():
    torch.manual_seed(0)
    inputs = BatchedFingerprints(
        (points(4, 2048) > 1.5).to(torch.uint8), points(4, 217, seed=1).float()
    )
    check(FingerprintMLP(width=4, n_layers=2, dropout=0.0), inputs)


@pytest.mark.parametrize("how", ["mean", "attention"])
def test_fusion(how):
    torch.manual_seed(0)
    fusion = Fusion(("a", "b"), {"a": 3, "b": 4}, dim=5, how=how)
    check(fusion, {"a": points(3, 3), "b": points(3, 4, seed=1)}, method="project")
    codes = points(3, 2, 5)
    check(fusion, codes, method="reconstruct")
    if how == "attention":
        check(fusion, codes, torch.tensor([[True, True], [True, False], [True, True]]),
              method="fuse")  # fmt: skip


@pytest.mark.parametrize("norm", ["row", "sym"])
def test_hypergraph_in_both_scopes(norm):
    torch.manual_seed(0)
    conv, codes, anchors = HypergraphConv(4, norm=norm), points(5, 4), points(3, 4, seed=1)
    check(conv, torch.cat([codes, anchors]), nearest_nodes_hypergraph(codes, anchors, 3))
    check(conv, codes, anchors, 3, method="forward_memory")
    check(conv, anchors, 2, method="convolve_anchors")


def test_memory_that_learns_by_gradients():
    bank = MemoryBank(n_anchors=4, dim=3, update="gradient", warmup=32).double()
    bank.update(points(32, 3))
    assert bank.is_active
    check(bank, points(5, 3, seed=1), method="address")
    check(MemoryReadout(3), points(5, 3), points(5, 3, seed=1))
