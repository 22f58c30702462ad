"""Locating models: in folders, in this package, or on the Hugging Face hub.

What ``save_pretrained`` wrote can be published on the hub and fetched by name. That needs the
extra ``hub`` (``pip install "deepchem_mmsa[hub]"``). A name is ``hf:owner/model``, or
``hf:owner/model@revision``; it can be given wherever the name of a shipped model can. Only the
files of an export are fetched; they are checked and read like a local folder, and nothing in them
is executed.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "hf:"
FILES = ("config.json", "model.safetensors", "exemplars.json")
"""The files of a model, the only ones that are ever fetched."""

_CARD = "README.md"
_PUBLISHED = [*FILES, *(f"model[0-9]*/{name}" for name in FILES)]  # of one model, of an ensemble


WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the models shipped with the package, a subfolder each."""


DEFAULT_MODEL = "mmsa-small"
"""Default model for embeddings, and as the start of fine-tuning."""


def shipped_models() -> list[str]:
    """Return the names of the models shipped with the package."""
    if not WEIGHTS.is_dir():
        return []
    return sorted(p.name for p in WEIGHTS.iterdir() if (p / "config.json").is_file())


def starting_model(from_model: Any, preset: str | None) -> Any:
    """Return the model whose weights fine-tuning starts from; None to train from scratch.

    Parameters
    ----------
    from_model : path-like or None
    preset : str or None
        Size of a network to train from scratch.

    Raises
    ------
    ValueError
        If both are given.

    Examples
    --------
    >>> starting_model(None, None), starting_model("runs/mine", None), starting_model(None, "base")
    ('mmsa-small', 'runs/mine', None)
    """
    if from_model is not None and preset is not None:
        raise ValueError(
            f"from_model={from_model!r} brings its own network, preset={preset!r} starts one "
            "from scratch: give one of the two"
        )
    if preset is not None:
        return None
    return DEFAULT_MODEL if from_model is None else from_model


class ModelNotFoundError(FileNotFoundError):
    """A model that is not in a folder, shipped or on the hub, or whose training is not finished."""


def find_model(folder_or_name: str | os.PathLike) -> Path:
    """Return the folder of an exported model; one on the hub is fetched.

    Parameters
    ----------
    folder_or_name : path-like
        A folder that ``save_pretrained`` wrote, the name of a shipped model, or one on the hub.

    Raises
    ------
    FileNotFoundError
        If there is neither such a folder nor such a model, the folder may not be looked into, or
        its files are none.
    ModuleNotFoundError
        For a model on the hub, without ``huggingface_hub``.
    ValueError
        For a malformed ``hf:`` name.

    Examples
    --------
    >>> find_model("mmsa-small").name
    'mmsa-small'
    """
    name = str(folder_or_name)
    folder = download(name) if is_hub_name(name) else Path(name)
    try:
        # A folder of that name that holds no model does not hide the shipped one.
        if not (folder / "config.json").is_file() and name in shipped_models():
            folder = WEIGHTS / name
        there = folder.is_dir()
        odd = [path for path in map(folder.joinpath, FILES) if path.exists() and not path.is_file()]
    except PermissionError as error:
        raise ModelNotFoundError(f"the model {name} cannot be read: {error}") from error
    if not there:
        known = ", ".join(shipped_models()) or "none"
        raise ModelNotFoundError(
            f"no folder and no shipped model named {name!r} (shipped: {known}); "
            "give the folder that save_pretrained wrote, or hf:owner/model for one on the hub"
        )
    if odd:  # reading a pipe or a device may never end
        raise ModelNotFoundError(f"the model {name} cannot be read: {odd[0]} is no regular file")
    return folder


def member_folders(folder: str | os.PathLike, n_models: int) -> list[Path]:
    """Return the folders of an ensemble's models: subfolders, or `folder` itself for one model.

    Examples
    --------
    >>> [str(path) for path in member_folders("runs/a", 2)], len(member_folders("runs/a", 1))
    (['runs/a/model0', 'runs/a/model1'], 1)
    """
    folder = Path(folder)
    return [folder] if n_models == 1 else [folder / f"model{i}" for i in range(n_models)]


def members(folder: str | os.PathLike) -> list[Path]:
    """Return the models of an ensemble: the subfolders ``model0``, ``model1``, ... of a folder.

    Parameters
    ----------
    folder : path-like
        As written by ``mmsa finetune --n-models`` or ``save_pretrained`` of an estimator; a
        folder that is itself a model, or does not exist, has no members.

    Raises
    ------
    FileNotFoundError
        If it is the folder of a run that is not finished.

    Examples
    --------
    >>> members("runs/nothing/here")
    []
    """
    folder = Path(folder)
    numbers = [path.parent.name.removeprefix("model") for path in folder.glob("model*/config.json")]
    if (folder / "config.json").is_file() or not any(map(str.isdecimal, numbers)):
        return []
    if (folder / "run.json").is_file() and not (folder / "metrics.json").is_file():
        raise ModelNotFoundError(
            f"{folder} holds a run that is not finished: resume it with --resume"
        )
    return [folder / f"model{n}" for n in sorted(map(int, filter(str.isdecimal, numbers)))]


def is_hub_name(name: str | os.PathLike) -> bool:
    """Return whether a name refers to a model on the hub.

    Examples
    --------
    >>> is_hub_name("hf:chemists/mmsa-base"), is_hub_name("runs/mmsa-base")
    (True, False)
    """
    return str(name).startswith(PREFIX)


def split_name(name: str) -> tuple[str, str | None]:
    """Return the repository and the revision that a hub name refers to.

    Raises
    ------
    ValueError
        If it is not a hub name.

    Examples
    --------
    >>> split_name("hf:chemists/mmsa-base@v2")
    ('chemists/mmsa-base', 'v2')
    >>> split_name("hf:chemists/mmsa-base")
    ('chemists/mmsa-base', None)
    """
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    if not is_hub_name(name) or len([part for part in repository.split("/") if part]) != 2:
        raise ValueError(f"{name!r} is not a name of the form hf:owner/model or hf:owner/model@tag")
    return repository, revision or None


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ModuleNotFoundError(
            'models of the Hugging Face hub need huggingface_hub: pip install "deepchem_mmsa[hub]"'
        ) from error
    return huggingface_hub


def download(name: str) -> Path:
    """Fetch a model, or find it in the cache of ``huggingface_hub`` (``HF_HOME``).

    Offline (``HF_HUB_OFFLINE=1``) only cached models are found.

    Parameters
    ----------
    name : str
        ``hf:owner/model``, optionally with ``@revision``.

    Returns
    -------
    pathlib.Path
        A folder that ``MMSAModel.from_pretrained`` reads.

    Raises
    ------
    ModuleNotFoundError
        Without ``huggingface_hub``.
    FileNotFoundError
        If it cannot be fetched; the message quotes the hub's error.
    ValueError
        For a malformed name.
    """
    library = _library()
    repository, revision = split_name(name)
    try:
        folder = library.snapshot_download(repository, revision=revision, allow_patterns=_PUBLISHED)
    except (OSError, ValueError) as error:  # all of the hub's errors are one or the other
        raise ModelNotFoundError(
            f"{name} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {error}); check the name and the connection, "
            "or give a folder"
        ) from error
    return Path(folder)


def upload(folder: str | os.PathLike, name: str, private: bool, card: str) -> str:
    """Upload an export and its model card; see :func:`deepchem_mmsa.exports.publish`.

    `card` is sent where neither folder nor hub has a ``README.md``. Files of an earlier export that
    this one does not have are deleted; the hub keeps them in its history. A revision that does not
    exist becomes a branch.

    Raises
    ------
    ModuleNotFoundError
        Without ``huggingface_hub``.
    ValueError
        For a malformed name, or if `private` is asked for a repository that is public.
    OSError
        If it cannot be sent; the message quotes the hub's error.
    """
    library = _library()
    repository, revision = split_name(name)
    try:
        return _sent(library, folder, repository, revision, private, card)
    except ValueError:
        raise
    except Exception as error:  # also of the HTTP library, which is another in each version
        raise OSError(
            f"{folder} could not be sent to {repository} on the Hugging Face hub "
            f"({type(error).__name__}: {error}); check the connection, the name and your login "
            "(hf auth login), and publish again"
        ) from error


def _sent(
    library: ModuleType, folder: str | os.PathLike, repository: str, revision: str | None,
    private: bool, card: str,
) -> str:  # fmt: skip
    url = library.create_repo(repository, private=private, exist_ok=True)
    if private and not library.model_info(repository).private:  # as it was before
        raise ValueError(
            f"{repository} is there already and is public, so nothing was sent: make it private "
            "on the hub first, or take another name"
        )
    if revision is not None and not revision.startswith("refs/"):
        library.create_branch(repository, branch=revision, exist_ok=True)
    sent = [f"{one.name}/{name}" for one in members(folder) for name in FILES] or FILES
    library.upload_folder(
        repo_id=repository, folder_path=str(folder), revision=revision,
        allow_patterns=[*sent, _CARD], delete_patterns=_PUBLISHED,
        commit_message="A model of deepchem_mmsa",
    )  # fmt: skip
    if not library.file_exists(repository, _CARD, revision=revision):
        library.upload_file(
            path_or_fileobj=card.encode(), path_in_repo=_CARD, repo_id=repository,
            revision=revision, commit_message="Its model card",
        )  # fmt: skip
    return str(url)
