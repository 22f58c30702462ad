"""The pre-training objective: every term of the loss, from an augmented batch.

``L = w_con L_con + w_rec L_rec + w_mask L_mask + w_mem L_mem + w_desc L_desc`` with
``L_mem = w_align L_align + w_commit L_commit + w_balance L_balance`` (docs/method.md).
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deepchem_mmsa import distributed, losses
from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.layers.memory_bank import MOLECULES_PER_ANCHOR
from deepchem_mmsa.layers.message_passing import BatchedGraph
from deepchem_mmsa.molecule import ATOM_FEATURES, FINGERPRINT_SIZE, N_DESCRIPTORS
from deepchem_mmsa.views.depiction import augment

if TYPE_CHECKING:
    from deepchem_mmsa.network import MMSANetwork

logger = logging.getLogger(__name__)

LOSS_TERMS = ("con", "rec", "mask", "align", "commit", "balance", "desc")
"""The terms of the pre-training loss, in the order of the network's output."""

STATISTICS = ("code_std", "retrieval")
"""Figures logged in addition to the losses. `code_std` is the standard deviation of the unit
codes times √d: 1 where directions are spread evenly over the sphere, 0 where they collapsed.
`retrieval` is the share of molecules whose own code is the nearest in another modality."""

MASK_TOKEN = ATOM_FEATURES["atomic_number"] - 1
"""Index of the masked atom in the atom vocabulary."""


def pretraining_terms(
    network: MMSANetwork, batch: MoleculeBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the embedding and every term of the pre-training loss, unweighted.

    In training mode images are augmented and the memory is updated; in evaluation mode neither
    happens. Masked atoms and subsets are drawn from torch's random state.

    Parameters
    ----------
    network : MMSANetwork
        Its ``statistics`` receive the figures of :data:`STATISTICS`.
    batch : MoleculeBatch

    Returns
    -------
    embedding : torch.Tensor
        ``[B, d]``; molecules without any view are left out.
    terms : dict of str to torch.Tensor
        Scalars named as in :data:`LOSS_TERMS`; a term that cannot be computed is 0.
    """
    config, memory = network.config, network.memory
    h, mask_loss = _masked_embeddings(network, batch)
    u, codes = network.fusion.project(h)
    available, smiles = batch.available, batch.smiles
    descriptor_loss = _descriptor_loss(network, batch, codes)
    if network.training and distributed.is_shared():
        mask_loss = _over_processes(mask_loss, codes)
        descriptor_loss = _over_processes(descriptor_loss, codes)
        codes, u, available = distributed.gather(codes, u.detach(), available)
        smiles = distributed.gather_lists(smiles)
        if network.shared_seed is not None:  # from here on all processes draw the same
            torch.manual_seed(network.shared_seed)
    seen = available.any(1)
    if not bool(seen.all()):  # leave out molecules without any view
        u, codes, available = u[seen], codes[seen], available[seen]
        smiles = [s for s, keep in zip(smiles, seen.tolist()) if keep]
    molecule = _copies(smiles, codes.device)
    terms = dict.fromkeys(LOSS_TERMS, codes.sum() * 0.0)
    if mask_loss is not None:
        terms["mask"] = mask_loss[0]
    if descriptor_loss is not None:
        terms["desc"] = descriptor_loss[0]
    if config.w_con:
        terms["con"] = losses.contrastive(codes, available, config.temperature, molecule)
    if config.w_rec:
        decoded = network.fusion.reconstruct(codes)
        terms["rec"] = losses.reconstruction(decoded, u, available, losses.derangement(available))

    c = network.fusion.fuse(codes, available)
    in_batch = config.hypergraph_scope == "batch"
    between = network.between_anchors()
    aware = network.structure_aware_in_batch if in_batch else network.structure_aware
    embedding = aware(c, between)
    if network.structure_on:
        if config.w_mem and config.w_align and len(c) > 1:
            part = network.fusion.fuse(codes, losses.random_subset(available))
            # Without a memory there is no student: both sides are trained, with the hypergraph.
            agree = losses.info_nce if memory is None else losses.alignment
            terms["align"] = agree(
                network.structure_aware(part, between), embedding, config.temperature,
                molecule=molecule,
            )  # fmt: skip
        if memory is not None and memory.is_active:
            terms["commit"] = losses.commitment(c, memory.active_anchors())
            terms["balance"] = losses.balance(memory.address(c))
        if network.training:
            network.remember(c, smiles, gathered=True)
    network.statistics = _statistics(codes.detach(), available)
    return embedding, terms


def _copies(smiles: Sequence[str], device: torch.device) -> Tensor | None:
    """Return a number for each molecule, equal for duplicates; None if there are no duplicates."""
    names = [text or row for row, text in enumerate(smiles)]  # records without SMILES differ
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    if len(first) == len(names):
        return None
    return torch.tensor([first[name] for name in names], device=device)


def _over_processes(part: tuple[Tensor, int] | None, codes: Tensor) -> tuple[Tensor, int]:
    """Return the mean of a term over all processes; `part` is None if this one has no items."""
    value, n = (codes.sum() * 0.0, 0) if part is None else part
    return distributed.mean(value, n), n


def total_loss(terms: Tensor, config: MMSAConfig) -> Tensor:
    """Return L of the terms ``[7]``, in the order of :data:`LOSS_TERMS`.

    Examples
    --------
    >>> total_loss(torch.ones(7), MMSAConfig(w_mask=0.5, w_mem=2, w_commit=0.1, w_balance=0))
    tensor(5.7000)
    """
    weights = (
        config.w_con,
        config.w_rec,
        config.w_mask,
        config.w_mem * config.w_align,
        config.w_mem * config.w_commit,
        config.w_mem * config.w_balance,
        config.w_desc,
    )
    return (terms * terms.new_tensor(weights)).sum()


def _masked_embeddings(
    network: MMSANetwork, batch: MoleculeBatch
) -> tuple[dict[str, Tensor], tuple[Tensor, int] | None]:
    """Encode an augmented batch; the masked graph serves both tasks in one pass.

    Returns the embeddings, and the masked-atom loss with the number of atoms it is the mean of.
    """
    config = network.config
    inputs = dict(batch.inputs)
    if "image" in inputs and config.image_augmentation and network.training:
        inputs["image"] = augment(inputs["image"], torch.default_generator)
    atom_head = network.atom_head if config.w_mask > 0 and config.mask_rate > 0 else None
    if atom_head is None or not len(batch.rows["graph"]):
        return {m: network.encode(m, batch, x) for m, x in inputs.items()}, None

    inputs["graph"], hidden, truth = mask_atoms(inputs["graph"], config.mask_rate)
    atoms = network.atom_embeddings(inputs["graph"])
    h = {m: network.encode(m, batch, x, atoms if m == "graph" else None) for m, x in inputs.items()}
    logits = atom_head(atoms.index_select(0, hidden).float())
    return h, (losses.masked_atoms(logits, truth), len(truth))


def _descriptor_loss(
    network: MMSANetwork, batch: MoleculeBatch, codes: Tensor
) -> tuple[Tensor, int] | None:
    """Predict descriptors and fingerprint from a random subset of the *other* views.

    Squared error of the scaled descriptors plus cross-entropy of the set bits: a target that needs
    no labels (KPGT, Li et al., Nat. Commun. 2023; CheMeleon, Burns et al., 2025).
    """
    head = network.descriptor_head if network.config.w_desc > 0 else None
    if head is None:
        return None
    rows = batch.rows["fingerprint"]
    others = batch.available.index_select(0, rows)
    others[:, network.config.modalities.index("fingerprint")] = False
    kept = others.any(1)
    if not bool(kept.any()):
        return None
    inputs, encoder = batch.inputs["fingerprint"], network.encoders["fingerprint"]
    part = network.fusion.fuse(codes[rows[kept]], losses.random_subset(others[kept]))
    values, bits = head(part).split([N_DESCRIPTORS, FINGERPRINT_SIZE], dim=1)
    truth = encoder.scaled_descriptors(inputs)[kept]  # type: ignore[operator]
    present = (inputs.counts[kept] > 0).to(bits.dtype)
    loss = nn.functional.mse_loss(values, truth)
    loss = loss + nn.functional.binary_cross_entropy_with_logits(bits, present)
    return loss, len(part)


@torch.no_grad()
def _statistics(codes: Tensor, available: Tensor) -> dict[str, float]:
    """Return the spread of the codes and retrieval between modalities within the batch."""
    if not len(codes):
        return dict.fromkeys(STATISTICS, math.nan)
    there = available.unsqueeze(-1)
    unit = nn.functional.normalize(codes, dim=-1).masked_fill(~there, 0.0)
    n = there.sum(0)  # [M, 1]
    centred = (unit - unit.sum(0) / n).masked_fill(~there, 0.0)
    deviation = (centred.square().sum(0) / (n - 1)).sqrt().mean(1) * unit.shape[2] ** 0.5
    spread = torch.where(n[:, 0] > 1, deviation, torch.nan).nanmean()
    rows = torch.arange(len(unit), device=unit.device)
    found = [unit.new_tensor(torch.nan)]
    for a, b in itertools.permutations(range(codes.shape[1]), 2):
        both = available[:, a] & available[:, b]
        likeness = (unit[:, a] @ unit[:, b].T).masked_fill(~both, -torch.inf)
        share = ((likeness.argmax(1) == rows) & both).sum() / both.sum()
        found.append(torch.where(both.sum() > 1, share, torch.nan))
    # A GPU is synchronised only once.
    return dict(zip(STATISTICS, torch.stack([spread, torch.stack(found).nanmean()]).tolist()))


def mask_atoms(graph: BatchedGraph, rate: float) -> tuple[BatchedGraph, Tensor, Tensor]:
    """Mask a share of the atoms, at least one per batch (Hu et al. 2020).

    Parameters
    ----------
    graph : BatchedGraph
    rate : float
        Share of atoms to mask, drawn from torch's random state.

    Returns
    -------
    masked : BatchedGraph
        With the mask token at the masked atoms and their other features at 0.
    hidden : torch.Tensor
        int64 [n], indices of the masked atoms.
    truth : torch.Tensor
        int64 [n], their atom-type indices.
    """
    n = len(graph.atoms)
    count = min(n, max(1, round(rate * n)))
    hidden = torch.randperm(n, device=graph.atoms.device)[:count]
    atoms = graph.atoms.clone()
    truth = atoms[hidden, 0]
    atoms[hidden] = 0
    atoms[hidden, 0] = MASK_TOKEN
    return replace(graph, atoms=atoms), hidden, truth


def tell_anchors(network: MMSANetwork) -> None:
    """Warn where the warm-up of the memory is too short for all of its anchors."""
    config, memory = network.config, network.memory
    needed, least = config.n_anchors * MOLECULES_PER_ANCHOR, config.memory_warmup
    if memory is not None and not memory.is_active and least < needed:
        logger.warning(
            "n_anchors=%d, but the memory starts with at most %d anchors: one per %d molecules of "
            "memory_warmup=%d; raise memory_warmup to %d to have them all",
            config.n_anchors, least // MOLECULES_PER_ANCHOR, MOLECULES_PER_ANCHOR, least, needed,
        )  # fmt: skip
