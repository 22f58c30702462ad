"""The hub: the real huggingface_hub, offline, on a cache that stands in for the hub."""

import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import numpy as np
import pytest

from deepchem_mmsa import MMSAModel, MMSAPredictor, MMSARegressor, embed, hub
from deepchem_mmsa.checkpoint import CheckpointError
from deepchem_mmsa.ensemble import ensemble_spread, load_ensemble
from deepchem_mmsa.exports import load_pretrained, model_card, publish
from tests.fixtures import SMILES

COMMIT = "{:040x}"


class StandIn:
    """A folder in the layout of the library's cache, in place of the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private: dict[str, bool] = {}

    def root(self, repo_id):
        return self.folder / f"models--{repo_id.replace('/', '--')}"

    def head(self, repo_id, revision):
        commit = (self.root(repo_id) / "refs" / (revision or "main")).read_text()
        return self.root(repo_id) / "snapshots" / commit

    def create_repo(self, repo_id, private=False, exist_ok=False):
        if repo_id not in self.private:
            self.private[repo_id] = private
            (self.root(repo_id) / "refs").mkdir(parents=True)
            (self.root(repo_id) / "refs" / "main").write_text(COMMIT.format(0))
            self.head(repo_id, None).mkdir(parents=True)
        return f"https://example.org/{repo_id}"

    def model_info(self, repo_id):
        return SimpleNamespace(private=self.private[repo_id])

    def create_branch(self, repo_id, *, branch, exist_ok=False):
        refs = self.root(repo_id) / "refs"
        if not (refs / branch).exists():
            shutil.copy(refs / "main", refs / branch)

    def upload_folder(
        self, repo_id, folder_path, revision, allow_patterns, delete_patterns, commit_message
    ):
        before = self.head(repo_id, revision)  # which the hub does not make
        number = len(list(before.parent.iterdir()))
        after = before.parent / COMMIT.format(number)
        after.mkdir()
        for source, patterns, wanted in (
            (before, delete_patterns, False),
            (Path(folder_path), allow_patterns, True),
        ):
            for file in filter(Path.is_file, source.rglob("*")):
                place = file.relative_to(source)
                if any(fnmatch(place.as_posix(), pattern) for pattern in patterns) is wanted:
                    (after / place).parent.mkdir(exist_ok=True)
                    shutil.copy(file, after / place)
        (self.root(repo_id) / "refs" / (revision or "main")).write_text(after.name)

    def file_exists(self, repo_id, filename, *, revision=None):
        return (self.head(repo_id, revision) / filename).is_file()

    def upload_file(
        self, *, path_or_fileobj, path_in_repo, repo_id, revision=None, commit_message=None
    ):
        (self.head(repo_id, revision) / path_in_repo).write_bytes(path_or_fileobj)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path / "cache")
    for name in ("create_repo", "model_info", "create_branch", "upload_folder", "upload_file",
                 "file_exists"):  # fmt: skip
        monkeypatch.setattr(huggingface_hub, name, getattr(stand_in, name))
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
    names = {f.name for f in stand_in.head(*hub.split_name(name)).iterdir()}
    assert names == {"README.md", *(n for n in hub.FILES if (exported / n).exists())}
    here = MMSAPredictor.from_pretrained(exported).predict(SMILES[:4]).values
    there = MMSAPredictor.from_pretrained(name).predict(SMILES[:4]).values
    np.testing.assert_array_equal(here, there)
    assert MMSAModel.from_pretrained(name).config == MMSAModel.from_pretrained(exported).config


def test_an_ensemble_is_published_as_one(stand_in, tmp_path):
    def made(n_models, folder):
        regressor = MMSARegressor(
            preset="small", modalities=("graph",), nb_epoch=1, n_models=n_models,
            config={"graph_width": 16},
        )  # fmt: skip
        regressor.fit(SMILES[:8], range(8)).save_pretrained(tmp_path / folder)
        return tmp_path / folder

    name, three = "hf:me/three", made(3, "three")
    (three / "model0" / "checkpoints").mkdir()
    (three / "model0" / "checkpoints" / "checkpoint1.pt").touch()
    publish(three, name)
    head = stand_in.head("me/three", None)
    assert {str(f.relative_to(head)) for f in head.rglob("*.*")} == {
        "README.md", *(f"model{i}/{n}" for i in range(3) for n in hub.FILES[:2])
    }  # fmt: skip
    assert "3 networks" in (head / "README.md").read_text()
    assert f'load_ensemble("{name}")' in (head / "README.md").read_text()
    here, there = (ensemble_spread(load_ensemble(x), SMILES[:4]) for x in (three, name))
    np.testing.assert_array_equal(here.values, there.values)
    np.testing.assert_array_equal(here.std, there.std)
    publish(made(2, "two"), name)  # which takes the place of the three
    assert len(load_ensemble(name)) == 2
    publish(made(1, "one"), name)
    assert not list(stand_in.head("me/three", None).glob("model*/config.json"))
    weights = three / "model2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(CheckpointError, match="checksum"):
        publish(three, "hf:me/damaged")
    assert not stand_in.root("me/damaged").exists()


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


def test_a_model_is_published_with_a_card(stand_in, exported):
    card = "README.md"
    (exported / card).unlink()
    publish(exported, "hf:me/mine@v1")
    sent = stand_in.head("me/mine", "v1") / card
    assert sent.read_text() == model_card(exported, "hf:me/mine@v1")
    assert not (exported / card).exists()
    sent.write_text("# by hand, on the hub")
    publish(exported, "hf:me/mine@v1")
    assert (stand_in.head("me/mine", "v1") / card).read_text() == "# by hand, on the hub"
    (exported / card).write_text("# by hand, here")
    publish(exported, "hf:me/mine@v1")
    assert (stand_in.head("me/mine", "v1") / card).read_text() == "# by hand, here"


def test_without_a_connection_repository_and_remedy_are_named(stand_in, exported, monkeypatch):
    def unreachable(*arguments, **keywords):
        raise httpx.ConnectError("[Errno -2] Name or service not known")  # no OSError

    monkeypatch.setattr(huggingface_hub, "upload_folder", unreachable)
    with pytest.raises(OSError, match="me/mine .*ConnectError: .* check the connection"):
        publish(exported, "hf:me/mine")


def test_a_private_model_is_not_sent_to_a_public_repository(stand_in, exported):
    publish(exported, "hf:me/mine")
    before = stand_in.head("me/mine", None)
    with pytest.raises(ValueError, match="me/mine is there already and is public"):
        publish(exported, "hf:me/mine", private=True)
    assert stand_in.head("me/mine", None) == before
    publish(exported, "hf:me/secret", private=True)
    publish(exported, "hf:me/secret", private=True)


def test_exemplars_that_are_withdrawn_do_not_stay_published(stand_in, tmp_path):
    model = MMSAModel.from_pretrained("mmsa-small")
    model.save_pretrained(tmp_path)
    publish(tmp_path, "hf:me/mine")
    assert any(MMSAModel.from_pretrained("hf:me/mine").model.memory.exemplars)
    model.save_pretrained(tmp_path, exemplars=False)
    publish(tmp_path, "hf:me/mine")
    assert not (stand_in.head("me/mine", None) / "exemplars.json").exists()
    assert not any(MMSAModel.from_pretrained("hf:me/mine").model.memory.exemplars)


def test_an_export_that_was_interrupted_is_not_published(stand_in, exported):
    shutil.copytree(exported, exported / ".previous")
    with pytest.raises(CheckpointError, match="was interrupted: export the model again"):
        publish(exported, "hf:me/mine")
    assert not stand_in.folder.exists()


def test_a_damaged_model_is_not_loaded(stand_in, exported):
    publish(exported, "hf:me/mine")
    (stand_in.head("me/mine", None) / "model.safetensors").write_bytes(
        b"cos\nsystem\n(S'touch pwned'\ntR."
    )
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
