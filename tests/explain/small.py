"""A small network to be explained, and what makes explanations quick."""

import torch

from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.network import MMSANetwork

VIEWS = ("image", "graph", "geometry")
QUICK = {"tolerance": 1.0, "max_steps": 4}  # for laws that hold at any number of steps
IBUPROFEN = "CC(C)Cc1ccc([C@H](C)C(=O)O)cc1"
TINY = {
    "mode": "classification", "modalities": VIEWS, "image_size": 32, "image_width": 8,
    "graph_width": 16, "graph_layers": 2, "geometry_width": 16, "geometry_layers": 1,
    "embedding_dim": 16, "n_anchors": 8, "n_neighbors": 4, "memory_warmup": 32, "head_width": 16,
}  # fmt: skip


def network(seed=3, **changes):
    torch.manual_seed(seed)
    net = MMSANetwork(MMSAConfig(**{**TINY, **changes}))
    if net.memory is not None:
        names = [f"{'C' * (i % 7 + 1)}O" for i in range(32)]
        net.memory.update(torch.randn(32, 16), names)
        net.readout.gate.data.fill_(0.5)
    # A new network hardly tells molecules apart: make it less indifferent.
    with torch.no_grad():
        for parameter in net.head.parameters():
            parameter.mul_(3)
    return net.eval()
