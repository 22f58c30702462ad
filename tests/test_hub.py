"""The hub: the real huggingface_hub, offline, on a cache that stands in for the hub."""

import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from deepchem_mmsa import MMSAModel, MMSAPredictor, embed, hub
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.exports import load_pretrained, publish
from tests.fixtures import SMILES

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """A folder in the layout of the library's cache, in place of the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create_repo(self, repo_id, private=False, exist_ok=False):
        return f"https://example.org/{repo_id}"

    def upload_folder(self, repo_id, folder_path, revision, allow_patterns, commit_message):
        root = self.folder / f"models--{repo_id.replace('/', '--')}"
        snapshot = root / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        for pattern in allow_patterns:
            for file in Path(folder_path).glob(pattern):
                shutil.copy(file, snapshot / file.name)
        (root / "refs").mkdir()
        for ref in ("main", revision or "main"):
            (root / "refs" / ref).write_text(COMMIT)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "create_repo", stand_in.create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", stand_in.upload_folder)
    fetch = huggingface_hub.snapshot_download

    def offline(*arguments, **keywords):
        keywords["cache_dir"] = stand_in.folder
        return fetch(*arguments, **keywords, local_files_only=True)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    return stand_in


@pytest.fixture
def exported(tmp_path):
    model = MMSAModel("small", mode="regression", modalities=("graph",), graph_width=16, seed=3)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# card")
    (tmp_path / "model" / "evil.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["hf:me/mine", "hf:me/mine@v1"])
def test_what_is_published_is_what_is_loaded(stand_in, exported, name):
    assert publish(exported, name) == "https://example.org/me/mine"
    names = {f.name for f in stand_in.folder.rglob("*") if f.parent.name == COMMIT}
    assert names == {"README.md", *(n for n in hub.FILES if (exported / n).exists())}
    here = MMSAPredictor.from_pretrained(exported).predict(SMILES[:4]).values
    there = MMSAPredictor.from_pretrained(name).predict(SMILES[:4]).values
    np.testing.assert_array_equal(here, there)
    assert MMSAModel.from_pretrained(name).config == MMSAModel.from_pretrained(exported).config


def test_what_the_hub_does_not_have(stand_in):
    with pytest.raises(FileNotFoundError, match="hf:nobody/nothing could not be fetched"):
        MMSAModel.from_pretrained("hf:nobody/nothing")


@pytest.mark.parametrize("name", ["hf:alone", "hf:", "hf:a/b/c", "hf:/b", "hf:@v1"])
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match="hf:owner/model"):
        load_pretrained(name)


def test_a_damaged_model_is_not_published(stand_in, exported):
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(CheckpointError, match="checksum"):
        publish(exported, "hf:me/mine")
    assert not stand_in.folder.exists()


def test_a_damaged_model_is_not_loaded(stand_in, exported):
    publish(exported, "hf:me/mine")
    (snapshot,) = stand_in.folder.glob("*/snapshots/*")
    (snapshot / "model.safetensors").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(CheckpointError, match="checksum"):
        MMSAModel.from_pretrained("hf:me/mine")


def test_without_the_library_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"deepchem_mmsa\[hub\]"):
        hub.download("hf:me/mine")


def test_an_empty_folder_does_not_hide_a_shipped_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mmsa-small").mkdir()
    assert hub.find_model("mmsa-small") == hub.WEIGHTS / "mmsa-small"
    assert embed(["CCO"]).shape == (1, 256)


def test_a_model_of_ones_own_goes_before_a_shipped_one_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mmsa-small").mkdir()
    (tmp_path / "mmsa-small" / "config.json").write_text("{}")
    assert hub.find_model("mmsa-small").resolve() == tmp_path / "mmsa-small"
