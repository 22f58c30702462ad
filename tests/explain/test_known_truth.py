"""What explanations find where the truth is known."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from deepchem_mmsa.batching import Collator
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.datasets import example_table
from deepchem_mmsa.explain import explain
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.views import ViewSettings, many_views
from tests.explain.small import QUICK, TINY, VIEWS


def labelled_by(substructure, n, views, image_size=32):
    """Real molecules of up to 30 heavy atoms, up to half of them with a substructure."""
    query = Chem.MolFromSmarts(substructure)
    smiles = example_table("chembl_samples")["smiles"].tolist()
    molecules = [Chem.MolFromSmiles(s) for s in smiles]
    small = [(s, m.HasSubstructMatch(query)) for s, m in zip(smiles, molecules)
             if m.GetNumHeavyAtoms() <= 30]  # fmt: skip
    having = [pair for pair in small if pair[1]]
    lacking = [pair for pair in small if not pair[1]]
    chosen = having[: n // 2] + lacking[: n - min(len(having), n // 2)]
    np.random.default_rng(0).shuffle(chosen)
    smiles = [str(s) for s, _ in chosen]
    y = np.array([str(has) == "True" for _, has in chosen], dtype=np.int64)
    return query, smiles, many_views(smiles, ViewSettings(views, image_size)), y


def trained(records, y, epochs, **changes):
    torch.manual_seed(0)
    config = MMSAConfig(
        **{**TINY, "graph_width": 32, "graph_layers": 3, "graph_dropout": 0.0, "memory": False,
           "embedding_dim": 32, "head_width": 32, **changes},
    )  # fmt: skip
    net = MMSANetwork(config)
    collate = Collator(config.modalities, config.image_size, config.hydrogens)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    share = torch.from_numpy(y).float().mean()
    weight = torch.stack([1 / (1 - share), 1 / share])
    order = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(records)), len(records) // 32):
            logits = net(collate([records[i] for i in rows]))[1][:, 0]
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[rows]), weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def found_substructure(net, query, smiles, n):
    """Mean AUC of the sizes of the atoms' totals against membership in the substructure.

    By size, for within a group one atom may well speak against what the group speaks for; also
    the share of all molecules' ``output − baseline`` that the groups as a whole carry. (A mean of
    shares would be that of a molecule whose output is near its baseline: a quotient by nearly 0.)
    """
    scores, carried, differences = [], 0.0, 0.0
    for text in [s for s in smiles if Chem.MolFromSmiles(s).HasSubstructMatch(query)][:n]:
        why = explain(net, text)
        inside = np.zeros(len(why.total), dtype=bool)
        for match in why.molecule.GetSubstructMatches(query):
            inside[list(match)] = True
        scores.append(roc_auc_score(inside, np.abs(why.total)))
        carried += why.total[inside].sum()
        differences += why.output - why.baseline
    assert len(scores) >= 8
    return float(np.mean(scores)), float(carried / differences)


ACID = "[CX3](=O)[OX2H1]"


@pytest.fixture(scope="module")
def acids():
    query, smiles, records, y = labelled_by(ACID, 300, ("graph",))
    net = trained(records[:240], y[:240], epochs=15, modalities=("graph",))
    return net, query, smiles[240:], records[240:], y[240:]


def test_the_substructure_that_makes_the_label_is_found(acids):
    net, query, smiles, records, y = acids
    with torch.no_grad():
        logits = net(Collator(("graph",))(records))[1][:, 0]
    assert roc_auc_score(y, logits[:, 1] - logits[:, 0]) > 0.9  # or there is nothing to find
    auc, share = found_substructure(net, query, smiles, 12)
    assert auc >= 0.9
    assert share > 0.5


def test_other_weights_give_another_picture(acids):
    net, _, smiles, _, _ = acids
    torch.manual_seed(7)
    random = MMSANetwork(net.config).eval()
    correlations = [
        spearmanr(explain(net, s, **QUICK).total, explain(random, s, **QUICK).total).statistic
        for s in smiles[:12]
    ]
    assert abs(np.mean(correlations)) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("views", [("graph",), ("geometry",), VIEWS, ("fingerprint",)],
                         ids="+".join)  # fmt: skip
@pytest.mark.parametrize("substructure", [ACID, "[SX4](=O)(=O)[NX3]"], ids=["acid", "sulfonamide"])
def test_the_substructure_is_found_in_every_view(views, substructure):
    query, smiles, records, y = labelled_by(substructure, 400, views, image_size=64)
    net = trained(records[:320], y[:320], epochs=20, modalities=views, image_size=64, image_width=8)
    auc, share = found_substructure(net, query, smiles[320:], 20)
    print(f"{substructure} in {views}: AUC {auc:.3f}, share {share:.2f}")
    # Descriptors, which belong to no atom, take most of the fingerprint's credit.
    least_auc, least_share = (0.75, 0.0) if views == ("fingerprint",) else (0.9, 0.5)
    assert auc >= least_auc
    assert share > least_share
