"""Checkpoints: whole or not there, data and nothing else, and refused with the reason."""

import pickle

import pytest
import torch

from deepchem_mmsa.checkpoint import CheckpointError, load_state


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_checkpoints_never_execute_code(make_model, tmp_path):
    trap = tmp_path / "executed"
    torch.save({"format": 1, "x": Malicious(trap)}, tmp_path / "checkpoint1.pt")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        make_model(mode="regression").restore(model_dir=str(tmp_path))
    (tmp_path / "checkpoint1.pt").write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "checkpoint1.pt")
    assert not trap.exists()


def test_a_trained_checkpoint_is_weights_only(make_model, graph_dataset, tmp_path):
    model = make_model(mode="regression", model_dir=str(tmp_path))
    model.fit(graph_dataset, nb_epoch=1)
    state = torch.load(tmp_path / "checkpoint1.pt", weights_only=True)
    assert state["config"]["mode"] == "regression"
    assert state["tasks"] == model.tasks


def test_the_newest_readable_checkpoint_is_found(make_model, graph_dataset, tmp_path, caplog):
    model = make_model(mode="regression", model_dir=str(tmp_path))
    model.fit(graph_dataset, nb_epoch=3, checkpoint_interval=1, max_checkpoints_to_keep=12)
    paths = model.get_checkpoints()
    assert [p.rsplit("checkpoint", 1)[1] for p in paths[:3]] == ["1.pt", "2.pt", "3.pt"]
    assert len(paths) >= 10  # checkpoint10 is the oldest, not the second
    steps = [torch.load(p, weights_only=True)["global_step"] for p in paths]
    assert steps == sorted(steps, reverse=True)
    with open(paths[0], "r+b") as file:
        file.truncate(1000)
    model.restore()
    assert model.get_global_step() == steps[1]
    assert "skipped a damaged checkpoint" in caplog.text
    for path in paths:
        with open(path, "r+b") as file:
            file.truncate(1000)
    with pytest.raises(CheckpointError, match="none of .* can be read: train anew") as refused:
        model.restore()
    assert str(refused.value).count("BadZipFile") == 1
    assert paths[0] in str(refused.value)


def test_another_configuration_is_refused_with_the_difference(make_model, graph_dataset, tmp_path):
    make_model(mode="regression", model_dir=str(tmp_path)).save()
    with pytest.raises(CheckpointError, match="embedding_dim: 32, not 16"):
        make_model(mode="regression", embedding_dim=32, model_dir=str(tmp_path)).reload()


def test_no_checkpoint_says_so(make_model, tmp_path):
    with pytest.raises(ValueError, match="No checkpoint found"):
        make_model(mode="regression", model_dir=str(tmp_path)).restore()
