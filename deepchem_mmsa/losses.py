"""Losses of pre-training (docs/method.md) and of supervised tasks with missing labels.

Every loss is a scalar. Where nothing contributes (no pair, no anchor, no label) it is 0 and still
part of the autograd graph, so that ``backward`` works on any batch. Filler values (NaN labels of
weight 0, embeddings of missing modalities) affect neither value nor gradient.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _directions(x: Tensor) -> Tensor:
    # eps bounds the gradient at a zero vector, whose direction does not exist.
    return F.normalize(_at_least_fp32(x), dim=-1, eps=1e-6)


def _zero_in_graph(*tensors: Tensor) -> Tensor:
    # The sum of an empty slice: 0 whatever the values, where `x.sum() * 0` turns inf into NaN.
    return torch.stack([_at_least_fp32(t).reshape(-1)[:0].sum() for t in tensors]).sum()


def _rand(
    shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    # Drawn on the generator's device, so that a CPU seed gives the same choices on every device.
    where = generator.device if generator is not None else "cpu"
    return torch.rand(shape, generator=generator, device=where).to(device)


# --- random choices ---------------------------------------------------------------------------


def derangement(available: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw, for each available modality of a molecule, another available one.

    The draw is a random cycle through the available modalities: for two or three of them, this is
    a uniform random derangement (for more, a uniform one among those with a single cycle).

    Parameters
    ----------
    available : bool Tensor, [B, M]
    generator : torch.Generator, optional
        Torch's global one by default.

    Returns
    -------
    int64 Tensor, [B, M]
        π: a permutation in each row. A modality that is missing, or the only one, maps to itself.

    Examples
    --------
    >>> derangement(torch.tensor([[True, False, True], [False, True, False]]))
    tensor([[2, 1, 0],
            [0, 1, 2]])
    """
    n_molecules, n_modalities = available.shape
    keys = _rand((n_molecules, n_modalities), generator, available.device)
    # The available ones first, in random order; each then maps to the one after it.
    order = keys.masked_fill(~available, 2.0).argsort(dim=1)
    n_available = available.sum(1, keepdim=True)
    place = torch.arange(n_modalities, device=available.device).expand(n_molecules, -1)
    following = torch.where(place < n_available, (place + 1) % n_available.clamp(min=1), place)
    return torch.empty_like(order).scatter_(1, order, order.gather(1, following))


def random_subset(available: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a non-empty subset of each molecule's available modalities, uniformly at random.

    Parameters
    ----------
    available : bool Tensor, [B, M]
    generator : torch.Generator, optional
        Torch's global one by default.

    Returns
    -------
    bool Tensor, [B, M]
        All False for a molecule without any modality.

    Examples
    --------
    >>> random_subset(torch.tensor([[False, True, False], [False, False, False]]))
    tensor([[False,  True, False],
            [False, False, False]])
    """
    # A subset of n modalities is a number from 1 to 2^n - 1, read in bits.
    n_subsets = 2 ** available.sum(1) - 1
    drawn = _rand((len(available),), generator, available.device) * n_subsets
    number = torch.minimum(drawn.long(), (n_subsets - 1).clamp(min=0)) + 1
    rank = (available.cumsum(1) - 1).clamp(min=0)
    return ((number.unsqueeze(1) >> rank) & 1).bool() & available


# --- multi-modal learning ---------------------------------------------------------------------


def info_nce(
    a: Tensor,
    b: Tensor,
    temperature: float = 0.1,
    mask: Tensor | None = None,
    molecule: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE: each row of ``a`` must identify its row of ``b``, and the reverse.

    ``½ Σ_{ab, ba} mean_i −log( exp(cos(a_i, b_i)/τ) / Σ_j exp(cos(a_i, b_j)/τ) )``
    (van den Oord et al. 2018; the symmetric form of CLIP, Radford et al. 2021).

    Parameters
    ----------
    a, b : Tensor, [B, d]
    temperature : float, default 0.1
        τ.
    mask : bool Tensor, [B], optional
        Which rows take part, as positives and as negatives.
    molecule : int64 Tensor, [B], optional
        Rows with the same number are the same molecule, and not negatives of each other.

    Returns
    -------
    Tensor, scalar
        0 with fewer than two rows, as there are no negatives.

    Raises
    ------
    ValueError
        If ``temperature`` is not positive.

    Examples
    --------
    >>> info_nce(torch.eye(3), torch.eye(3), temperature=0.01).item()
    0.0
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: it must be positive")
    if mask is not None:
        a, b = a[mask], b[mask]
        molecule = None if molecule is None else molecule[mask]
    if len(a) < 2:
        return _zero_in_graph(a, b)
    # bf16 has three digits, and dividing by τ = 0.1 makes a similarity's error ten times larger.
    with torch.autocast(a.device.type, enabled=False):
        logits = _directions(a) @ _directions(b).T / temperature
        target = torch.arange(len(a), device=a.device)
        if molecule is not None:
            copies = (molecule.unsqueeze(1) == molecule) & (target.unsqueeze(1) != target)
            logits = logits.masked_fill(copies, -torch.inf)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def contrastive(
    codes: Tensor, available: Tensor, temperature: float = 0.1, molecule: Tensor | None = None
) -> Tensor:
    """``L_con``: the mean InfoNCE over every pair of modalities.

    Parameters
    ----------
    codes : Tensor, [B, M, d]
    available : bool Tensor, [B, M]
        A pair uses the molecules that have both; with fewer than two of them it is skipped.
    temperature : float, default 0.1
        τ.
    molecule : int64 Tensor, [B], optional
        As in :func:`info_nce`.

    Returns
    -------
    Tensor, scalar
    """
    terms = []
    whole = bool(available.all())  # usually; then a GPU is synchronised only once
    for m, n in combinations(range(codes.shape[1]), 2):
        both = None if whole else available[:, m] & available[:, n]
        if (len(available) if both is None else int(both.sum())) >= 2:
            terms.append(info_nce(codes[:, m], codes[:, n], temperature, both, molecule))
    return torch.stack(terms).mean() if terms else _zero_in_graph(codes)


def reconstruction(
    decoded: Tensor, targets: Tensor, available: Tensor, partner: Tensor | None = None
) -> Tensor:
    """``L_rec``: each modality reconstructed from its own code and from that of another one.

    ``mean err(D_m(c_m), sg(u_m)) + mean err(D_m(c_π(m)), sg(u_m))``, ``err = 1 − cosine``; the
    means run over available modalities. The targets are detached, to prevent collapse.

    Parameters
    ----------
    decoded : Tensor, [B, M, M, d]
        ``[i, s, t] = D_t(c_s)``, as returned by ``Fusion.reconstruct``.
    targets : Tensor, [B, M, d]
        ``u_m``.
    available : bool Tensor, [B, M]
    partner : int64 Tensor, [B, M], optional
        π, from ``derangement``; a modality that is its own partner has no cross-modal term. None
        leaves out all cross-modal terms.

    Returns
    -------
    Tensor, scalar
    """
    own_index = torch.arange(decoded.shape[1], device=decoded.device).expand_as(available)
    directions = _directions(targets.detach())

    def error(source: Tensor, wanted: Tensor) -> Tensor:
        if not bool(wanted.any()):
            return _zero_in_graph(decoded)
        rows, target = wanted.nonzero(as_tuple=True)
        told = _directions(decoded[rows, source[rows, target], target])
        return (1 - (told * directions[rows, target]).sum(-1)).mean()

    loss = error(own_index, available)
    if partner is not None:
        has_source = available & available.gather(1, partner)
        loss = loss + error(partner, has_source & (partner != own_index))
    return loss


def masked_atoms(logits: Tensor, targets: Tensor) -> Tensor:
    """``L_mask``: cross-entropy of the types of the masked atoms.

    Parameters
    ----------
    logits : Tensor, [n_masked, n_types]
    targets : int64 Tensor, [n_masked]

    Returns
    -------
    Tensor, scalar
    """
    if len(targets) == 0:
        return _zero_in_graph(logits)
    return F.cross_entropy(_at_least_fp32(logits), targets)


# --- structure awareness ----------------------------------------------------------------------


def alignment(
    memory_embedding: Tensor,
    batch_embedding: Tensor,
    temperature: float = 0.1,
    molecule: Tensor | None = None,
) -> Tensor:
    """``L_align``: InfoNCE between a molecule's memory-only embedding and its batch embedding.

    Parameters
    ----------
    memory_embedding : Tensor, [B, d]
        ``e`` of scope "memory", from a subset of the modalities.
    batch_embedding : Tensor, [B, d]
        ``e`` of scope "batch", from all of them; the teacher, detached here.
    temperature : float, default 0.1
        τ.
    molecule : int64 Tensor, [B], optional
        As in :func:`info_nce`.

    Returns
    -------
    Tensor, scalar
    """
    return info_nce(memory_embedding, batch_embedding.detach(), temperature, molecule=molecule)


def commitment(codes: Tensor, anchors: Tensor) -> Tensor:
    """``mean_i 1 − cos(c_i, sg(nearest anchor))``: keeps codes near the anchors.

    Parameters
    ----------
    codes : Tensor, [B, d]
    anchors : Tensor, [K_active, d]
        Detached here. Without anchors the loss is 0.

    Returns
    -------
    Tensor, scalar
    """
    if len(codes) == 0 or len(anchors) == 0:
        return _zero_in_graph(codes)
    with torch.autocast(codes.device.type, enabled=False):
        similarity = _directions(codes) @ _directions(anchors.detach()).T
        return (1 - similarity.amax(dim=1)).mean()


def balance(p: Tensor) -> Tensor:
    """``KL(mean_i p_i ‖ uniform)``: encourages equal use of all anchors.

    Parameters
    ----------
    p : Tensor, [B, K_active]
        Addresses, each row a distribution.

    Returns
    -------
    Tensor, scalar
        0 for uniform use, log K if one anchor takes everything.

    Examples
    --------
    >>> balance(torch.eye(4)).item()
    0.0
    """
    if p.numel() == 0:
        return _zero_in_graph(p)
    mean = _at_least_fp32(p).mean(0)
    # 0 log 0 = 0; the clamp also keeps the gradient finite there.
    return (mean * (mean.clamp(min=1e-12) * p.shape[1]).log()).sum()


# --- supervised, with missing labels ----------------------------------------------------------


def _observed(outputs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    if not outputs.shape[:2] == labels.shape == weights.shape:
        raise ValueError(
            f"outputs {tuple(outputs.shape)}, labels {tuple(labels.shape)} and weights "
            f"{tuple(weights.shape)} must agree in [molecules, tasks]"
        )
    wrong = (~(weights >= 0)).nonzero()
    if len(wrong):
        row, task = wrong[0].tolist()
        raise ValueError(
            f"the weight of row {row}, task {task} is {float(weights[row, task])}; weights are 0, "
            "for a missing label, or positive"
        )
    observed = weights > 0
    missing = (observed & labels.isnan()).nonzero()
    if len(missing):
        row, task = missing[0].tolist()
        raise ValueError(
            f"the label of row {row}, task {task} is NaN but has weight "
            f"{float(weights[row, task])}; give missing labels the weight 0"
        )
    return observed


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def masked_supervised_classification(
    logits: Tensor, labels: Tensor, weights: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the observed labels: ``Σ w ℓ / Σ w``.

    DeepChem's stock loss divides by the number of all labels, including missing ones, which slows
    learning from sparsely labelled batches.

    Parameters
    ----------
    logits : Tensor, [B, T, C]
    labels : Tensor, [B, T]
        Class numbers. Any value, including NaN, where the weight is 0.
    weights : Tensor, [B, T]
        0 for a missing label.
    class_weights : Tensor, [C] or [T, C], optional
        Each weight is multiplied by that of the label's class.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        If shapes differ, a weight is negative or NaN, or a label with positive weight is NaN or
        not a class number.

    Examples
    --------
    >>> nan = float("nan")
    >>> logits = torch.zeros(2, 2, 2)
    >>> labels, weights = torch.tensor([[1, nan], [nan, nan]]), torch.tensor([[1.0, 0], [0, 0]])
    >>> masked_supervised_classification(logits, labels, weights).item()  # log 2, not log 2 / 4
    0.693
    """
    n_classes = logits.shape[-1]
    labels = labels.to(torch.float64 if labels.dtype == torch.float64 else torch.float32)
    observed = _observed(logits, labels, weights)
    classes = labels.masked_fill(~observed, 0)
    wrong = ((classes != classes.floor()) | (classes < 0) | (classes >= n_classes)).nonzero()
    if len(wrong):
        row, task = wrong[0].tolist()
        raise ValueError(
            f"the label of row {row}, task {task} is {float(labels[row, task])}; "
            f"with {n_classes} classes it must be one of 0..{n_classes - 1}"
        )
    index = classes.long()
    logits = _at_least_fp32(logits.masked_fill(~observed.unsqueeze(-1), 0))
    weights = weights.masked_fill(~observed, 0).to(logits.dtype)
    if class_weights is not None:
        weights = weights * weight_of_class(class_weights.to(logits), index)
    loss = -logits.log_softmax(-1).gather(2, index.unsqueeze(-1)).squeeze(-1)
    return _weighted_mean(loss, weights)


def weight_of_class(class_weights: Tensor, index: Tensor) -> Tensor:
    """Return the weight, of ``[C]`` or ``[T, C]``, of each class number ``[B, T]``."""
    tasks = torch.arange(index.shape[1], device=index.device)
    return class_weights.expand(len(tasks), -1)[tasks, index]


def masked_supervised_regression(predictions: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Squared error over the observed labels: ``Σ w (ŷ − y)² / Σ w``.

    Parameters
    ----------
    predictions : Tensor, [B, T]
    labels : Tensor, [B, T]
        Any value, including NaN, where the weight is 0.
    weights : Tensor, [B, T]
        0 for a missing label.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        If shapes differ, a weight is negative or NaN, or a label with positive weight is NaN.
    """
    observed = _observed(predictions, labels, weights)
    predictions = _at_least_fp32(predictions.masked_fill(~observed, 0))
    labels = labels.masked_fill(~observed, 0).to(predictions.dtype)
    weights = weights.masked_fill(~observed, 0).to(predictions.dtype)
    return _weighted_mean((predictions - labels) ** 2, weights)
