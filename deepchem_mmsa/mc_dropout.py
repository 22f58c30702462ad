"""MC dropout: mean and deviation of a prediction over dropout masks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.randomness import seeded


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
