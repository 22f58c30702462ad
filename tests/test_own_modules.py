"""Encoders and a head of one's own: what they must have, and that they are trained and kept."""

import deepchem as dc
import numpy as np
import pytest
import torch
from torch import nn

from deepchem_mmsa import MMSAModel, MMSAPredictor, training
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.layers.dgl_backend import import_dgllife
from deepchem_mmsa.molecule import MoleculeViews
from tests.fixtures import AtomCounts, labelled


def test_a_module_of_ones_own(make_model, graph_dataset, tmp_path):
    model = make_model(mode="pretraining", graph=AtomCounts())
    model.fit(graph_dataset, nb_epoch=1)
    assert model.config.graph == "custom"
    assert model.history[-1]["mask"] == 0
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pass it again, graph=<nn.Module>, to from_pretrained of"):
        MMSAModel.from_pretrained(tmp_path)
    again = MMSAModel.from_pretrained(tmp_path, graph=AtomCounts(), mode="regression")
    again.fit(graph_dataset, nb_epoch=1)
    with pytest.raises(ValueError, match="needs an attribute `out_dim`"):
        make_model(mode="regression", graph=nn.Linear(2, 2))


class OfDGLLife(nn.Module):
    """A network of dgllife on DGL's graph; its kernels do not know bf16."""

    def __init__(self):
        super().__init__()
        models = import_dgllife().model
        self.out_dim = 8
        self.atoms, self.bonds = nn.Embedding(120, 8), nn.Embedding(6, 8)
        self.gnn = models.AttentiveFPGNN(8, 8, num_layers=1, graph_feat_size=8)
        self.pool = models.AttentiveFPReadout(8, num_timesteps=1)

    def forward(self, graph):
        dgl_graph = graph.dgl()
        atoms, bonds = self.atoms(graph.atoms[:, 0]), self.bonds(graph.bonds[:, 0])
        return self.pool(dgl_graph, self.gnn(dgl_graph, atoms, bonds))


def test_a_module_of_ones_own_is_half_precision_only_if_asked_to_be(
    make_model, graph_dataset, monkeypatch
):
    monkeypatch.setattr(training, "training_precision", lambda *_: torch.bfloat16)
    model = make_model(mode="pretraining", graph=OfDGLLife())
    assert np.isfinite(model.fit(graph_dataset, nb_epoch=1))

    seen = []

    class Watched(AtomCounts):
        def forward(self, graph):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(graph)

    for precision in ("auto", "bf16"):
        model = make_model(mode="pretraining", graph=Watched(), precision=precision, batch_size=40)
        model.fit(graph_dataset, nb_epoch=1)
    assert seen == [False, True]


def test_a_module_that_shows_a_part_of_its_atoms_masks_none(make_model, graph_dataset):
    class Half(AtomCounts):
        def atom_embeddings(self, graph):
            return self.table(graph.atoms[:, 0])

    model = make_model(mode="pretraining", graph=Half())
    model.fit(graph_dataset, nb_epoch=1)
    assert model.history[-1]["mask"] == 0
    model = make_model(mode="pretraining", graph=ShownAtoms())
    model.fit(graph_dataset, nb_epoch=1)
    assert model.history[-1]["mask"] > 0


class ShownAtoms(AtomCounts):
    """A user's encoder with all that the masked-atom task takes."""

    atom_dim = 12

    def atom_embeddings(self, graph):
        return self.table(graph.atoms[:, 0])

    def readout(self, graph, atoms):
        return atoms.new_zeros(graph.n_molecules, 12).index_add(0, graph.molecule_of_atom, atoms)


@pytest.mark.parametrize("modalities", [("graph",), ("graph", "geometry")])
def test_what_a_module_of_ones_own_gives_is_checked(make_model, dataset, modalities):
    class OneForAll(AtomCounts):
        def forward(self, graph):
            return super().forward(graph).mean(0, keepdim=True)

    class OfAtoms(AtomCounts):
        def forward(self, graph):
            return self.table(graph.atoms[:, 0])

    class Wider(AtomCounts):
        out_dim = 13

    class WithAttention(AtomCounts):
        def forward(self, graph):
            return super().forward(graph), None

    for kind, told in (
        (OneForAll, r"\[1, 12\]"), (OfAtoms, r", 12\]"), (Wider, r"\[8, 12\]"),
        (WithAttention, "a tuple"),
    ):  # fmt: skip
        model = make_model(mode="pretraining", modalities=modalities, graph=kind())
        with pytest.raises(ValueError, match=f"{kind.__name__} has given .*{told} for 8 mol"):
            model.fit(dataset, nb_epoch=1)


def test_a_module_that_would_not_be_read_is_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match=r"graph: given as an encoder.*\('geometry',\); add it"):
        make_model(modalities=("geometry",), graph=AtomCounts())
    make_model(mode="regression").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="grahp: given as an encoder"):
        MMSAPredictor.from_pretrained(tmp_path, grahp=AtomCounts())


def test_a_head_of_ones_own_is_trained(make_model, graph_dataset, tmp_path):
    """Put in before or between two runs; the optimizer was made with the model."""
    model = make_model(mode="regression")
    for _ in range(2):
        model.model.head = nn.Linear(model.config.embedding_dim, 1)
        before = model.model.head.weight.clone()
        step = model.get_global_step()
        model.fit(graph_dataset, nb_epoch=1)
        assert not torch.equal(model.model.head.weight, before)
        assert model.get_global_step() > step
    again = make_model(mode="regression", model_dir=model.model_dir)
    again.model.head = nn.Linear(model.config.embedding_dim, 1)
    again.restore()
    assert (again.predict(graph_dataset) == model.predict(graph_dataset)).all()
    with pytest.raises(CheckpointError, match="a part of this network was replaced.*head.weight"):
        model.save_pretrained(tmp_path / "export")  # nobody could read it
    assert not (tmp_path / "export" / "config.json").exists()
    usual = make_model(mode="regression")
    usual.load_from_pretrained(model)
    usual.save_pretrained(tmp_path / "export")
    MMSAModel.from_pretrained(tmp_path / "export")


@pytest.mark.parametrize("mode", ["regression", "classification"])
def test_what_a_head_of_ones_own_gives_is_checked(make_model, graph_dataset, mode):
    """With a loss of one's own, [n] against [n, 1] would become [n, n] silently."""

    class Flat(nn.Linear):
        def forward(self, e):
            return super().forward(e)[:, 0]

    model = make_model(mode=mode, loss=lambda outputs, labels, weights: outputs[0].sum())
    model.model.head = Flat(model.config.embedding_dim, 1)
    with pytest.raises(ValueError, match=r"the head Flat has given \[8\] for 8.*\[8, [12]\]"):
        model.fit(labelled(graph_dataset, np.arange(len(graph_dataset))[:, None] % 2), nb_epoch=1)


def test_another_module_than_the_checkpoints_is_refused_whole(make_model, graph_dataset):
    class Wider(AtomCounts):
        out_dim = 13

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(120, 13)

    model = make_model(mode="regression", graph=AtomCounts())
    model.save()
    for changes in ({"graph": Wider()}, {"graph": ShownAtoms()}):
        other = make_model(mode="regression", model_dir=model.model_dir, **changes)
        if isinstance(changes["graph"], ShownAtoms):  # the head that was put in is forgotten
            other.model.head = nn.Linear(model.config.embedding_dim, 1)
        before = {k: v.clone() for k, v in other.model.named_parameters()}
        with pytest.raises(CheckpointError, match=r"checkpoint1.pt does not fit: .*(table|head)"):
            other.restore()
        assert all(torch.equal(before[k], v) for k, v in other.model.named_parameters())


def test_batch_norm_of_ones_own_takes_a_single_molecule_or_none(make_model, dataset):
    """Of a batch, one molecule may have the view, or none, at any step of a run."""

    class Normed(AtomCounts):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(12)

        def forward(self, graph):
            return self.norm(super().forward(graph))

    for n_graphs in (1, 0):
        X = dataset.X[:8].copy()
        for row in range(n_graphs, 8):
            of = X[row]
            X[row] = MoleculeViews(
                of.smiles, atomic_numbers=of.atomic_numbers, coordinates=of.coordinates
            )
        data = dc.data.NumpyDataset(X, dataset.y[:8])
        model = make_model(mode="regression", modalities=("graph", "geometry"), graph=Normed())
        assert np.isfinite(model.fit(data, nb_epoch=1))
        assert model.model.train().encoders["graph"].norm.training
