"""Models on the Hugging Face hub: what ``save_pretrained`` wrote, published and fetched by name.

Needs the extra ``hub`` (``pip install "deepchem_mmsa[hub]"``). A name is ``hf:owner/model``, or
``hf:owner/model@revision``; it stands wherever the name of a shipped model may stand. Only the
files of an export are fetched; they are checked and read like a local folder, and nothing in them
is executed.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

PREFIX = "hf:"
FILES = ("config.json", "model.safetensors", "exemplars.json")
"""All that is ever fetched."""


def is_hub_name(name: str | os.PathLike) -> bool:
    """Return whether a name means a model on the hub.

    Examples
    --------
    >>> is_hub_name("hf:chemists/mmsa-base"), is_hub_name("runs/mmsa-base")
    (True, False)
    """
    return str(name).startswith(PREFIX)


def split_name(name: str) -> tuple[str, str | None]:
    """Return the repository and the revision that a name means.

    Raises
    ------
    ValueError
        If it is no such name.

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


def download(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Fetch a model, or find it in the cache.

    Parameters
    ----------
    name : str
        ``hf:owner/model``, with ``@revision`` where a certain one is wanted.
    cache_dir : path-like, optional
        By default that of ``huggingface_hub`` (``HF_HOME``); offline (``HF_HUB_OFFLINE=1``) only
        what lies there is found.

    Returns
    -------
    pathlib.Path
        A folder that ``MMSAModel.from_pretrained`` reads.

    Raises
    ------
    ModuleNotFoundError
        Without ``huggingface_hub``.
    FileNotFoundError
        If it cannot be had; the message holds the hub's reason.
    """
    library = _library()
    repository, revision = split_name(name)
    try:
        folder = library.snapshot_download(
            repository, revision=revision, cache_dir=cache_dir, allow_patterns=list(FILES)
        )
    except (OSError, ValueError) as error:  # all of the hub's errors are one or the other
        raise FileNotFoundError(
            f"{name} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {error}); check the name and the connection, "
            "or give a folder"
        ) from error
    return Path(folder)


def upload(folder: str | os.PathLike, name: str, private: bool = False) -> str:
    """Send an export, and its model card; see :func:`deepchem_mmsa.checkpoint.publish`.

    Raises
    ------
    ModuleNotFoundError
        Without ``huggingface_hub``.
    """
    library = _library()
    repository, revision = split_name(name)
    url = library.create_repo(repository, private=private, exist_ok=True)
    library.upload_folder(
        repo_id=repository, folder_path=str(folder), revision=revision,
        allow_patterns=[*FILES, "README.md"], commit_message="A model of deepchem_mmsa",
    )  # fmt: skip
    return str(url)
