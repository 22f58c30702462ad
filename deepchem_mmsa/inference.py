"""Inference: evaluation mode, reasons for missing predictions, and MC dropout."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.molecule import UNREADABLE, MoleculeViews
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.randomness import seeded
from deepchem_mmsa.user_warning import warn_user
from deepchem_mmsa.views.depiction import picture_size

NOT_FINITE = "the model's output is not finite: check that its weights are"
"""The reason for a row whose views were read but whose output is NaN or infinite."""

if hasattr(os, "register_at_fork"):
    # A child inherits OpenMP's state without its threads, and would wait for them for ever. With
    # one thread, as in torch's own workers, it can predict: gunicorn --preload, multiprocessing.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

_evaluated: WeakKeyDictionary[MMSANetwork, tuple[int, bool]] = WeakKeyDictionary()
_turn = threading.Lock()


@contextmanager
def evaluating(network: MMSANetwork) -> Iterator[None]:
    """Set evaluation mode without gradients, and restore the previous mode on exit.

    With several threads, the last one to leave restores it.
    """
    with _turn:
        users, was_training = _evaluated.get(network, (0, network.training))
        _evaluated[network] = users + 1, was_training
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        with _turn:
            users, was_training = _evaluated.pop(network)
            if users > 1:
                _evaluated[network] = users - 1, was_training
            else:
                network.train(was_training)


def missing_reason(record: MoleculeViews, modalities: tuple[str, ...]) -> str:
    """Return why a record has none of the modalities that a model reads.

    For an unreadable molecule the reason is given only once.

    Examples
    --------
    >>> missing_reason(MoleculeViews.unreadable("C(", "unclosed branch"), ("graph",))
    'unreadable: unclosed branch'
    >>> missing_reason(MoleculeViews("C"), ("graph",))
    'graph: the featurizer was not asked for this view'
    """
    given = [
        record.reasons.get(m, "the featurizer was not asked for this view") for m in modalities
    ]
    if len(set(given)) == 1 and given[0].startswith(UNREADABLE):
        return given[0]
    return "; ".join(f"{m}: {reason}" for m, reason in zip(modalities, given))


def drawn_size(records: Sequence[MoleculeViews], modalities: Sequence[str]) -> int:
    """Return the side in pixels of the first image; 0 if there is none, or none is read."""
    pictures = (r.image for r in records if r.image is not None) if "image" in modalities else ()
    return next((picture_size(picture) for picture in pictures), 0)


def unasked_views(records: Sequence[MoleculeViews], modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the views that a model reads but the featurizer of the records was not asked for."""
    some = [record for record in records if record.available]
    return tuple(
        m for m in modalities
        if some and not any(m in r.available or m in r.reasons for r in some)
    )  # fmt: skip


def oddities(
    modalities: Sequence[str], unasked: Sequence[str], drawn: int, trained: int
) -> list[str]:
    """Return warnings about records that another featurizer made than the model's.

    Parameters
    ----------
    modalities : sequence of str
        The views that the model reads.
    unasked : sequence of str
        Those that the records lack (:func:`unasked_views`).
    drawn, trained : int
        Side of the records' images, and of those of the training; 0 if there are none.

    Examples
    --------
    >>> oddities(("graph", "fingerprint"), ("fingerprint",), 0, 0)[0].partition(":")[0]
    'the molecules have no fingerprint, which this model reads as well'
    """
    told = []
    if drawn and drawn != trained:
        told.append(
            f"images of {drawn} pixels, but the model was trained on images drawn at "
            f"{trained}: lines and letters do not scale, so featurize with "
            f"MMSAFeaturizer(image_size={trained}), or mmsa featurize --image-size {trained}"
        )
    if unasked:
        told.append(
            f"the molecules have no {' and no '.join(unasked)}, which this model reads as "
            f"well: featurize with MMSAFeaturizer({list(modalities)}), or give the model fewer "
            "modalities"
        )
    return told


def warn_of_oddities(records: Sequence[MoleculeViews], network: MMSANetwork) -> bool:
    """Warn of records that another featurizer made than the model's; return whether any was."""
    read, trained = network.config.modalities, int(network.picture_size)
    drawn = drawn_size(records, read) if trained else 0
    told = oddities(read, unasked_views(records, read), drawn, trained)
    for text in told:
        warn_user(text)
    return bool(told)


def has_dropout(module: nn.Module) -> bool:
    """Return whether a module contains dropout with a rate above 0."""
    return any(isinstance(part, _DropoutNd) and part.p > 0 for part in module.modules())


def check_dropout(network: MMSANetwork, masks: int) -> None:
    """Raise a ValueError if a deviation over so many dropout masks has no meaning."""
    if masks < 2:
        raise ValueError(f"masks={masks}: a deviation needs at least 2; 50 is usual")
    if network.config.mode == "pretraining" or not has_dropout(network):
        raise ValueError(
            "this model has no dropout to sample; train several models with other seeds, or a "
            "supervised one with head_dropout, graph_dropout or hypergraph_dropout above 0"
        )


def _shared_mask(
    generator: torch.Generator, dropout: nn.Dropout, given: tuple[Tensor], dropped: Tensor
) -> Tensor:
    """Forward hook that drops the same features in every row."""
    x = given[0]
    if x.shape[-1] == 1:
        return dropped
    kept = x.new_empty((1, *x.shape[1:])).bernoulli_(1 - dropout.p, generator=generator)
    return x * (kept / max(1 - dropout.p, 1e-12))


def sample_dropout(
    network: MMSANetwork, batch: MoleculeBatch, masks: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the prediction over dropout masks (MC dropout).

    Dropout is active; batch norm and everything else stay in evaluation mode (Gal and Ghahramani
    2016). Encoders without dropout are run once. A mask drops the same features of every molecule
    and atom, so that a prediction does not depend on the other molecules. (Dropout of whole rows,
    such as attention to a bond, is drawn row by row, and there it does.)

    Parameters
    ----------
    network : MMSANetwork
        In evaluation mode.
    batch : MoleculeBatch
    masks : int
    seed : int
        The same seed draws the same masks.

    Returns
    -------
    mean, std : torch.Tensor
        Shaped like the prediction.
    """
    stochastic = [m for m, encoder in network.encoders.items() if has_dropout(encoder)]
    fixed = [m for m in network.encoders if m not in stochastic]
    known = network.modality_embeddings(batch, only=fixed)
    dropouts = [part for part in network.modules() if isinstance(part, _DropoutNd)]
    values: list[Tensor] = []
    device = batch.available.device
    # One each: a layer with nothing to drop in a batch must not shift the others' masks.
    seeds = ((seed * 1_000_003 + place) % 2**63 for place in range(len(dropouts)))
    inplace = [part.inplace for part in dropouts]
    hooks = [
        part.register_forward_hook(partial(_shared_mask, torch.Generator(device).manual_seed(own)))
        for own, part in zip(seeds, dropouts)
        if isinstance(part, nn.Dropout)
    ]
    try:
        with seeded(seed, device):
            for part in dropouts:
                part.inplace = False  # the hook needs what was given
                part.train()
            for _ in range(masks):
                h = {**known, **network.modality_embeddings(batch, only=stochastic)}
                embedding = network.embed_codes(network.project(h), batch.available)
                value = network.supervised_outputs(embedding, h, batch.available)[0]
                values.append(value.cpu().double())
    finally:
        for part, before in zip(dropouts, inplace):
            part.eval()
            part.inplace = before
        for hook in hooks:
            hook.remove()
    # Relative to the first sample, so that the deviation of equal values is exactly 0.
    differences, zero = [value - values[0] for value in values], torch.zeros_like(values[0])
    mean = sum(differences, zero) / masks
    square = sum((difference**2 for difference in differences), zero) / masks
    return (values[0] + mean).float(), (square - mean**2).clamp(min=0).sqrt().float()
