"""The objective of pre-training, written out molecule by molecule from docs/method.md."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deepchem_mmsa import losses
from deepchem_mmsa.batching import Collator
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.molecule import MODALITIES, MoleculeViews
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.pretraining import pretraining_terms

FIELDS = {
    "image": ("image",),
    "graph": ("atoms", "bond_atoms", "bonds"),
    "geometry": ("atomic_numbers", "coordinates"),
    "fingerprint": ("fingerprint_bits", "fingerprint_counts", "descriptors"),
}
K, TAU = 4, 0.1


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


class Written:
    """The formulas, with the weights of a network in double precision."""

    def __init__(self, net, smiles):
        self.net, self.smiles = net.double(), smiles
        self.anchors = net.memory.active_anchors()

    def info_nce(self, a, b, rows):
        total = 0.0
        for left, right in ((a, b), (b, a)):
            for i in rows:
                others = [j for j in rows if j == i or self.smiles[j] != self.smiles[i]]
                scores = {j: math.exp(cosine(left[i], right[j]) / TAU) for j in others}
                total -= math.log(scores[i] / sum(scores.values()))
        return total / (2 * len(rows))

    def fused(self, codes, available):
        rows = []
        for code, there in zip(codes, available):
            code = code[there]
            if self.net.fusion.attention is None:
                rows.append(code.mean(0))
            else:
                rows.append((self.net.fusion.attention(code).softmax(0) * code).sum(0))
        return torch.stack(rows)

    def convolved(self, nodes, n_molecules):
        n = len(nodes)
        h = torch.zeros(n, n).double()
        for edge in range(n):
            candidates = range(n) if edge < n_molecules else range(n_molecules, n)
            near = sorted(
                ((cosine(nodes[edge], nodes[j]), j) for j in candidates if j != edge), reverse=True
            )
            border = near[K - 1][0] if len(near) >= K else -1.0
            for similarity, j in near[: K - 1]:
                h[j, edge] = max(0.0, similarity - border)
            h[edge, edge] = max(0.0, 1 - border) + 0.01
        linear, norm = self.net.hypergraph.transform[:2]
        sent = F.linear(nodes, linear.weight, linear.bias)
        sent = F.gelu(F.layer_norm(sent, norm.normalized_shape, norm.weight, norm.bias))
        to, back = h.sum(0).pow(-1), h.sum(1).pow(-1)
        if self.net.hypergraph.norm == "row":
            return nodes + back[:, None] * (h @ (to[:, None] * (h.T @ sent)))
        root = back.sqrt()[:, None]
        return nodes + root * (h @ (to[:, None] * (h.T @ (root * sent))))

    def address(self, code):
        return torch.tensor([cosine(code, a) / TAU for a in self.anchors]).double().softmax(0)

    def embedded(self, codes, in_batch):
        if in_batch:
            z = self.convolved(torch.cat([codes, self.anchors]), len(codes))[: len(codes)]
        else:
            alone = [self.convolved(torch.cat([c[None], self.anchors]), 1)[:1] for c in codes]
            z = torch.cat(alone)
        read = torch.stack([self.address(c) for c in codes]) @ self.convolved(self.anchors, 0)
        norm = self.net.readout.norm
        return F.layer_norm(z + self.net.readout.gate * read, (16,), norm.weight, norm.bias)


@pytest.mark.parametrize(
    "norm, fusion, scope, n_codes",
    [("row", "mean", "batch", 64), ("sym", "attention", "batch", 64), ("row", "mean", "memory", 64),
     ("sym", "mean", "batch", 8)],
)  # fmt: skip
@torch.no_grad()
def test_every_term_is_as_the_method_writes_it(
    molecules, monkeypatch, norm, fusion, scope, n_codes
):
    """Molecules with views in every pattern, none included, and one molecule twice."""
    patterns = [c for n in range(5) for c in itertools.combinations(MODALITIES, n)]
    records = [
        MoleculeViews(r.smiles, **{f: getattr(r, f) for view in views for f in FIELDS[view]})
        for r, views in zip(molecules, patterns)
    ]
    records += [molecules[20], molecules[21], molecules[20]]
    torch.manual_seed(5)
    net = MMSANetwork(MMSAConfig(
        image_size=32, image_width=8, graph_width=16, graph_layers=2, geometry_width=16,
        geometry_layers=1, fingerprint_width=16, embedding_dim=16, n_anchors=8, n_neighbors=K,
        modalities=MODALITIES, memory_warmup=n_codes, hypergraph_norm=norm, fusion=fusion,
        hypergraph_scope=scope,
    )).eval()  # fmt: skip
    for parameter in net.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter) * (parameter.dim() > 1))
    net.readout.gate.normal_()
    net.memory.update(torch.randn(n_codes, 16))
    assert len(net.memory.active_anchors()) == n_codes // 8

    drawn, projected, told = {"derangement": [], "random_subset": []}, [], []
    for name, kept in drawn.items():
        draw = getattr(losses, name)
        monkeypatch.setattr(
            losses, name, lambda a, draw=draw, kept=kept: kept.append(draw(a)) or kept[-1]
        )
    project = net.fusion.project
    monkeypatch.setattr(
        net.fusion, "project", lambda h: projected.append(project(h)) or projected[-1]
    )
    net.descriptor_head.register_forward_hook(lambda head, given, out: told.append((given[0], out)))
    batch = Collator.of(net.config)(records)
    embedding, terms = pretraining_terms(net, batch)

    seen = batch.available.any(1)
    available = batch.available[seen]
    u, codes = (x[seen].double() for x in projected[0])
    smiles = [s for s, there in zip(batch.smiles, seen.tolist()) if there]
    assert Counter(smiles).most_common(1)[0][1] == 2
    by_hand = Written(net, smiles)
    n, expected = len(codes), {}

    pairs = [
        (a, b, [i for i in range(n) if available[i, a] and available[i, b]])
        for a, b in itertools.combinations(range(4), 2)
    ]
    expected["con"] = np.mean([by_hand.info_nce(codes[:, a], codes[:, b], r) for a, b, r in pairs])

    (partner,), decoders = drawn["derangement"], [net.fusion.decoders[m] for m in MODALITIES]

    def error(i, source, target):
        return 1 - cosine(decoders[target](codes[i, source]), u[i, target])

    there = available.nonzero().tolist()
    crossed = [(i, int(partner[i, m]), m) for i, m in there if partner[i, m] != m]
    own = [error(i, m, m) for i, m in there]
    expected["rec"] = np.mean(own) + np.mean([error(*which) for which in crossed])

    c = by_hand.fused(codes, available)
    teacher = by_hand.embedded(c, scope == "batch")
    student = by_hand.embedded(by_hand.fused(codes, drawn["random_subset"][-1]), False)
    expected["align"] = by_hand.info_nce(student, teacher, range(n))
    expected["commit"] = np.mean([1 - max(cosine(x, a) for a in by_hand.anchors) for x in c])
    p = torch.stack([by_hand.address(x) for x in c]).mean(0)
    expected["balance"] = float((p * (p * len(p)).log()).sum())

    # Of the molecules with a fingerprint and another view, in their order.
    column, kept = MODALITIES.index("fingerprint"), []
    for i, row in enumerate(available.tolist()):
        if row[column] and sum(row) > 1:
            kept.append(i)
    ((given, out),), (subset, _) = told, drawn["random_subset"]
    assert not subset[:, column].any()
    torch.testing.assert_close(
        given.double(), by_hand.fused(codes[kept], subset), atol=1e-5, rtol=1e-4
    )
    of_record = {r.smiles: r for r in records if "fingerprint" in r.available}
    inputs = Collator(("fingerprint",))([of_record[smiles[i]] for i in kept])
    scores = net.encoders["fingerprint"].float().scaled_descriptors(inputs.inputs["fingerprint"])
    chances = out[:, 217:].double().sigmoid()
    is_set = inputs.inputs["fingerprint"].counts > 0
    expected["desc"] = float(
        ((out[:, :217] - scores) ** 2).mean()
        - torch.where(is_set, chances, 1 - chances).log().mean()
    )

    torch.testing.assert_close(embedding.double(), teacher, atol=1e-5, rtol=1e-4)
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4, abs=1e-6), name
