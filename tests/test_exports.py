"""Exported models: round trips, rounding, replacement, damage."""

import copy
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepchem_mmsa import MMSAModel, MMSAPredictor
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.exports import load_pretrained
from deepchem_mmsa.hub import ModelNotFoundError, find_model


@pytest.mark.parametrize("atom_sum", [False, True])
@pytest.mark.parametrize("mode", ["regression", "classification", "pretraining"])
def test_export_round_trip(make_model, graph_dataset, tmp_path, mode, atom_sum):
    model = make_model(mode=mode, memory_warmup=16, atom_sum=atom_sum)
    data = graph_dataset if mode != "classification" else binary(graph_dataset)
    model.fit(data, nb_epoch=2)
    model.save_pretrained(tmp_path / "out", metadata={"licence": "none"})
    again = MMSAModel.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(model.predict_embedding(data), again.predict_embedding(data))
    if mode != "pretraining":
        np.testing.assert_array_equal(model.predict(data), again.predict(data))
        assert again.tasks == model.tasks
    assert again.model.memory.exemplars == model.model.memory.exemplars
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["metadata"]["licence"] == "none"
    load_file(tmp_path / "out" / "model.safetensors")


def binary(dataset):
    import deepchem as dc

    return dc.data.NumpyDataset(dataset.X, (dataset.y > np.median(dataset.y)).astype(float))


def test_exemplars_can_stay_at_home(make_model, graph_dataset, tmp_path):
    model = make_model(mode="pretraining", memory_warmup=16)
    model.fit(graph_dataset, nb_epoch=2)
    assert any(model.model.memory.exemplars)
    model.save_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "out", exemplars=False)
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir())
    assert not any(r.smiles.encode() in everything for r in graph_dataset.X if len(r.smiles) > 8)
    assert not any(MMSAModel.from_pretrained(tmp_path / "out").model.memory.exemplars)


def test_a_changed_byte_is_noticed(make_model, tmp_path):
    make_model(mode="regression").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="does not match the checksum"):
        MMSAModel.from_pretrained(tmp_path)


def test_unknown_names_and_foreign_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shipped model named 'mmsa-huge'"):
        MMSAModel.from_pretrained("mmsa-huge")
    with pytest.raises(CheckpointError, match="not an exported MMSA model"):
        MMSAModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1, "config": {"moode": 1}}')
    with pytest.raises(CheckpointError, match="did you mean 'mode'"):
        MMSAModel.from_pretrained(tmp_path)


def test_a_folder_that_may_not_be_looked_into_is_no_model(tmp_path, monkeypatch):
    def refused(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refused)  # root may look into every folder
    with pytest.raises(ModelNotFoundError, match="cannot be read.*Permission denied"):
        find_model(tmp_path)


def test_half_precision_halves_the_weights_and_hardly_changes_the_answer(
    make_model, dataset, tmp_path
):
    model = make_model(mode="regression", modalities=("graph", "image"))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", precision="bf16")
    sizes = [(tmp_path / f / "model.safetensors").stat().st_size for f in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    loaded = MMSAModel.from_pretrained(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
    whole, half = model.predict(dataset), loaded.predict(dataset)
    np.testing.assert_allclose(half, whole, atol=0.05 * np.abs(whole).max())
    with pytest.raises(ValueError, match="choose 'fp32' or 'bf16'"):
        model.save_pretrained(tmp_path / "other", precision="int4")


def test_an_export_that_fails_leaves_the_one_before(
    make_model, graph_dataset, tmp_path, monkeypatch
):
    model = make_model(mode="regression")
    model.model.memory.update(torch.randn(64, 16), [f"molecule {i}" for i in range(64)])
    model.save_pretrained(tmp_path, metadata={"rmse": np.float32(0.5), "n": torch.tensor(3)})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.fit(graph_dataset, nb_epoch=1)
    with pytest.raises(TypeError, match="metadata must be JSON, but .* is set"):
        model.save_pretrained(tmp_path, metadata={"splits": {1, 2}})

    def full(self, data):  # the disk, when the second file is written
        if "config" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, data)

    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", full)
    for exemplars in (True, False):
        with pytest.raises(OSError, match="unharmed"):
            model.save_pretrained(tmp_path, exemplars)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert load_pretrained(tmp_path).metadata["rmse"] == 0.5


def test_what_identifies_an_export_is_not_taken_over_from_another(make_model, tmp_path):
    make_model(mode="regression", seed=1).save_pretrained(tmp_path / "a")
    first = load_pretrained(tmp_path / "a").metadata
    make_model(mode="regression", seed=2).save_pretrained(tmp_path / "b", metadata=first)
    second = load_pretrained(tmp_path / "b").metadata
    for folder, found in (("a", first), ("b", second)):
        described = json.loads((tmp_path / folder / "config.json").read_text(encoding="utf-8"))
        assert found["sha256"] == described["sha256"]
        assert "sha256" not in described["metadata"]
    assert first["sha256"] != second["sha256"]


# ---- exports that are replaced -------------------------------------------------------------


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_a_kill_while_an_export_is_replaced_leaves_one_that_is_whole(
    make_model, graph_dataset, tmp_path, monkeypatch, moved
):
    """After any of the renames: the former model, or the new one, with its own exemplars."""
    old, new = (make_model(mode="pretraining", seed=seed, memory_warmup=16) for seed in (1, 2))
    for model in (old, new):
        model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0)
    assert old.model.memory.exemplars != new.model.memory.exemplars
    old.save_pretrained(tmp_path)
    replace, calls = os.replace, []

    def dies(source, target):
        replace(source, target)
        calls.append(target)
        if len(calls) == moved:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    found = load_pretrained(tmp_path)
    expected = old if moved < 3 else new
    assert found.exemplars == expected.model.memory.exemplars
    name = "fusion.projections.graph.weight"
    name = name if name in found.tensors else next(n for n in found.tensors if "weight" in n)
    assert torch.equal(found.tensors[name], expected.model.state_dict()[name])
    new.save_pretrained(tmp_path)  # which clears away what was left
    assert load_pretrained(tmp_path).exemplars == new.model.memory.exemplars
    assert not (tmp_path / ".previous").exists()


def test_a_kill_leaves_no_exemplars_of_another_model(
    make_model, graph_dataset, tmp_path, monkeypatch
):
    """An export without exemplars, killed before the file of the former one is removed."""
    model = make_model(mode="pretraining", memory_warmup=16)
    model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0)
    model.save_pretrained(tmp_path)

    def dies(self, missing_ok=False):
        if self.name == "exemplars.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", dies)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path, exemplars=False)
    monkeypatch.undo()
    assert (tmp_path / "exemplars.json").is_file()
    assert not any(load_pretrained(tmp_path).exemplars)


def test_an_export_without_exemplars_keeps_none_of_another(make_model, graph_dataset, tmp_path):
    model = make_model(mode="pretraining", memory_warmup=16)
    model.fit(graph_dataset, nb_epoch=1, checkpoint_interval=0)
    model.save_pretrained(tmp_path)
    assert any(load_pretrained(tmp_path).exemplars)
    model.save_pretrained(tmp_path, exemplars=False)
    assert not any(load_pretrained(tmp_path).exemplars)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": []}, "not an exported MMSA model"),
        ({"config": None}, "not an exported MMSA model"),
        ({"metadata": ["a"]}, "must be a JSON object"),
        ({"metadata": {"tasks": 7}}, "tasks=7: must be the list of their names"),
        ({"metadata": {"classes": "ab"}}, "classes='ab': must be the list of their names"),
        ({"format": 2}, "has format 2, this package reads 1"),
        ({"format": 2, "config": {"further": 1}}, "has format 2, this package reads 1"),
        ({"format": "1"}, "has format '1', this package reads 1"),
    ],
)
def test_a_description_of_another_shape_is_no_model(make_model, tmp_path, change, words):
    make_model(mode="regression").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for kind in (MMSAPredictor, MMSAModel):
        with pytest.raises(CheckpointError, match=words):
            kind.from_pretrained(tmp_path)


def test_metadata_do_not_replace_names_by_anything_else(make_model, tmp_path):
    with pytest.raises(ValueError, match="tasks=12: must be the list of their names"):
        make_model(mode="regression").save_pretrained(tmp_path, metadata={"tasks": 12})
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"further": 1}, "unknown argument 'further'.*"),
        ({"graph": "gps"}, "encoder 'gps' is unknown.*"),
        ({"graph_layers": 7}, "does not fit.*"),
    ],
)
def test_what_another_version_wrote_says_so(make_model, tmp_path, change, words):
    make_model(mode="regression").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    described["config"].update(change)
    path.write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=words) as alike:
        MMSAModel.from_pretrained(tmp_path)
    assert "wrote it" not in str(alike.value)
    path.write_text(json.dumps({**described, "package_version": "99.0"}))
    with pytest.raises(CheckpointError, match=words + "deepchem_mmsa 99.0 wrote it and this is"):
        MMSAModel.from_pretrained(tmp_path)


def test_a_pointer_in_the_place_of_the_weights_is_told(make_model, tmp_path):
    make_model(mode="regression").save_pretrained(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 3\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        MMSAPredictor.from_pretrained(tmp_path)


def test_an_editor_s_byte_order_mark_does_no_harm(make_model, tmp_path):
    make_model(mode="regression").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert MMSAPredictor.from_pretrained(tmp_path).config.mode == "regression"


@pytest.mark.parametrize("change", [{"modalities": ["graph"]}, {"graph_layers": 1}])
def test_a_description_of_a_part_of_the_network_is_refused(make_model, tmp_path, change):
    views = ("graph", "fingerprint")
    make_model(mode="regression", modalities=views).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    described["config"].update(change)
    path.write_text(json.dumps(described))
    for kind in (MMSAPredictor, MMSAModel):
        with pytest.raises(CheckpointError, match="only there: encoders.*use the same"):
            kind.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"graph_width": 10**9}, r"\(\d+, 1000000000\) here"),
        ({"head_width": 10**17}, "does not fit|cannot be built"),
        ({"n_tasks": 10**10}, "does not fit"),
        ({"n_anchors": 10**12}, "does not fit: n_anchors=1000000000000"),
        ({"graph_layers": 10**9}, "must be at most 1000"),
    ],
)
def test_sizes_are_compared_before_memory_is_taken_for_them(make_model, tmp_path, change, words):
    make_model(mode="regression").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    described["config"].update(change)
    path.write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="other devices")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "exemplars.json"])
def test_a_device_in_the_place_of_a_file_is_not_read(make_model, tmp_path, name):
    make_model(mode="regression").save_pretrained(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.symlink("/dev/null", tmp_path / name)  # /dev/zero never ends
    with pytest.raises(ModelNotFoundError, match=f"{name} is no regular file"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("pixels", [-5, 10**12])
def test_a_size_of_pictures_that_cannot_be_drawn_is_refused(make_model, tmp_path, pixels):
    model = make_model(mode="regression")
    model.model.picture_size.fill_(pixels)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be built: image_size must be"):
        MMSAPredictor.from_pretrained(tmp_path)


@pytest.mark.parametrize("deeper", ["graph_layers", "head_layers"])
def test_half_of_an_encoder_or_a_head_is_not_copied(make_model, deeper):
    source = make_model(mode="regression", **{deeper: 3})
    mine = make_model(mode="regression", **{deeper: 2})
    before = copy.deepcopy(list(mine.model.parameters()))
    with pytest.raises(CheckpointError, match="only there: "):
        mine.load_from_pretrained(source, include_top=True)
    assert all(torch.equal(a, b) for a, b in zip(before, mine.model.parameters()))


@pytest.mark.parametrize("content", [b"", b"cos\nsystem\n(S'true'\ntR.", b"\x10" + b"\0" * 20])
def test_weights_that_are_none_are_told(make_model, tmp_path, content):
    make_model(mode="regression").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    described["sha256"] = hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="not an exported MMSA model"):
        load_pretrained(tmp_path)
