"""The memory bank: anchors, typical representations that molecules are compared with.

``K`` anchors ``M_j`` lie in the space of the unified codes (docs/method.md). They are initialised
by k-means of the codes seen in a warm-up, and then follow the codes that they are *nearest* to
(hard assignment: soft updates pull all anchors into one direction). A molecule reads them by::

    p_i = softmax_j(cos(c_i, M_j) / τ)      address
    r_i = Σ_j p_ij A_j                      read; A: the anchors after the hypergraph convolution
    e_i = LayerNorm(z_i + g ⊙ r_i)          MemoryReadout
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepchem_mmsa.layers.hypergraph import cosine_similarity

# Warm-up molecules per anchor: with fewer, k-means would only list molecules.
MOLECULES_PER_ANCHOR = 8
# Penalty on an exemplar's rank per update since it was last seen. Code and anchor drift apart, so
# that an old similarity means little; one epoch of a few hundred updates costs as much as a few
# hundredths of cosine.
STALENESS = 1e-4


class MemoryBank(nn.Module):
    """Anchors in the code space, with their addressing, updates and exemplars.

    Until it is active (see `start`) there is no anchor: `address` has no column, `read` returns
    zeros. What is needed to *use* the bank are tensors of fixed shapes (``anchors``, ``n_active``,
    ``usage``, ``idle``). What is needed to *continue its training* (recent codes, their SMILES,
    counters) and the exemplars form the extra state, of plain Python and torch types; a state
    dictionary without it loads as well.

    Parameters
    ----------
    n_anchors : int, default 512
        Maximum number of anchors ``K``; at most one per 8 molecules seen becomes active.
    dim : int, default 256
        Width ``d`` of the codes.
    temperature : float, default 0.1
        Softmax temperature τ of the addresses.
    decay : float, default 0.99
        Decay of the moving averages, per update.
    update : {"ema", "gradient"}, default "ema"
        Whether anchors are buffers that follow their codes, or parameters of the optimizer.
    warmup : int, default 4096
        Molecules seen before the anchors are initialised; also the number of recent codes kept.
    n_exemplars : int, default 5
        Training molecules kept per anchor; 0 for none.
    dead_after : int, optional
        Molecules since an anchor was last nearest to one, after which it is re-seeded from a
        recent code; ``50 * n_anchors`` by default.
    seed : int, default 0
        Seed of k-means and of the choice of codes for re-seeding.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> bank = MemoryBank(n_anchors=4, dim=8, warmup=64)
    >>> bank.read(torch.randn(2, 8), bank.active_anchors()).abs().sum().item()
    0.0
    >>> bank.update(torch.randn(64, 8), [f"molecule {i}" for i in range(64)])
    >>> bank.is_active, bank.address(torch.randn(2, 8)).shape
    (True, torch.Size([2, 4]))
    """

    anchors: Tensor
    n_active: Tensor
    usage: Tensor
    idle: Tensor
    recent_codes: Tensor
    recent_smiles: list[str | None]
    # Per anchor: (SMILES, cosine, update of the measurement), best first.
    _exemplars: list[list[tuple[str, float, int]]]

    def __init__(
        self,
        n_anchors: int = 512,
        dim: int = 256,
        temperature: float = 0.1,
        decay: float = 0.99,
        update: str = "ema",
        warmup: int = 4096,
        n_exemplars: int = 5,
        dead_after: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        dead_after = 50 * n_anchors if dead_after is None else dead_after
        counts = {"n_anchors": n_anchors, "dim": dim, "warmup": warmup, "dead_after": dead_after}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1")
        if n_exemplars < 0 or not temperature > 0 or not 0 <= decay < 1:
            raise ValueError(
                f"n_exemplars={n_exemplars}, temperature={temperature}, decay={decay}: they must "
                "be at least 0, greater than 0, and in [0, 1)"
            )
        if update not in ("ema", "gradient"):
            raise ValueError(f"update={update!r}: choose 'ema' or 'gradient'")
        self.n_anchors, self.dim = n_anchors, dim
        self.temperature, self.decay = temperature, decay
        self.update_rule = update
        self.warmup, self.n_exemplars = warmup, n_exemplars
        self.dead_after, self.seed = dead_after, seed
        if update == "ema":
            self.register_buffer("anchors", torch.zeros(n_anchors, dim))
        else:
            self.anchors = nn.Parameter(torch.zeros(n_anchors, dim))
        self.register_buffer("n_active", torch.zeros((), dtype=torch.int64))
        self._counted: tuple = (None, 0, 0)
        # Moving average of the share of a batch's molecules whose nearest anchor this is.
        self.register_buffer("usage", torch.zeros(n_anchors))
        self.register_buffer("idle", torch.zeros(n_anchors, dtype=torch.int64))
        self.register_buffer("recent_codes", torch.zeros(0, dim), persistent=False)
        self.set_extra_state({})

    # --- use ----------------------------------------------------------------------------------

    def _count(self) -> int:
        """Return ``n_active`` as an int; wait for a GPU only where it may have changed."""
        now = self.n_active
        if now.is_inference():
            return int(now)  # an inference tensor has no version
        if self._counted[0] is not now or self._counted[1] != now._version:
            self._counted = now, now._version, int(now)
        return self._counted[2]

    @property
    def is_active(self) -> bool:
        """Whether there is any anchor yet."""
        return self._count() > 0

    def active_anchors(self) -> Tensor:
        """Return the anchors in use, [K_active, d]: the first rows of ``anchors``."""
        # A copy: an update between forward and backward must not change what backward needs.
        return self.anchors[: self._count()].clone()

    def address(self, codes: Tensor) -> Tensor:
        """Return ``p``, the weight of each anchor for each molecule; [B, d] to [B, K_active].

        Rows sum to 1; with no active anchor there is no column.
        """
        similarity = cosine_similarity(codes, self.active_anchors())
        return torch.softmax(similarity / self.temperature, dim=1)

    def read(self, codes: Tensor, values: Tensor) -> Tensor:
        """Return ``r``, the values of the anchors weighted by the addresses.

        Parameters
        ----------
        codes : Tensor, [B, d]
        values : Tensor, [K_active, d]
            Usually the convolved anchors ``A``; without anchors ``r``, [B, d], is zero.
        """
        p = self.address(codes)
        return p @ values.to(p.dtype)

    def nearest(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Find the nearest anchor of each molecule.

        Parameters
        ----------
        codes : Tensor, [B, d]

        Returns
        -------
        index : int64 Tensor, [B]
        similarity : Tensor, [B]
            Cosine.

        Raises
        ------
        RuntimeError
            If there is no active anchor.
        """
        if not self.is_active:
            raise RuntimeError(
                "the memory bank has no active anchor: pre-train with at least "
                f"memory_warmup={self.warmup} molecules, or call start() on fewer"
            )
        similarity, index = cosine_similarity(codes, self.active_anchors()).max(dim=1)
        return index, similarity

    def share_in_use(self) -> float:
        """Return the share of the active anchors that are nearest to a recent training molecule.

        NaN without recent molecules, or without anchors.
        """
        if not self.is_active or len(self.recent_codes) == 0:
            return float("nan")
        with torch.no_grad():
            index, _ = self.nearest(self.recent_codes)
        return len(index.unique()) / self._count()

    # --- learning -----------------------------------------------------------------------------

    @torch.no_grad()
    def update(self, codes: Tensor, smiles: Sequence[str | None] | None = None) -> None:
        """Update the bank with a batch of training molecules, never with validation or test ones.

        Parameters
        ----------
        codes : Tensor, [B, d]
            Unified codes, those of all processes. Rows of zeros (no view) are skipped.
        smiles : sequence of str, optional
            SMILES of the molecules, kept for the exemplars.

        Raises
        ------
        ValueError
            If a code is not finite, or lengths differ.
        """
        codes = codes.detach().to(self.usage)
        if smiles is not None and len(smiles) != len(codes):
            raise ValueError(f"{len(smiles)} SMILES for {len(codes)} codes")
        if spoilt := (~codes.isfinite().all(1)).nonzero().squeeze(1).tolist():
            row = spoilt[0]
            raise ValueError(
                f"the code of row {row} ({smiles[row] if smiles else 'no SMILES given'}) is not "
                "finite and would spoil the anchors; lower the learning rate, or clip gradients"
            )
        with_direction = (codes != 0).any(1).nonzero().squeeze(1)
        if len(with_direction) == 0:
            return
        codes = codes[with_direction]
        names = [None if smiles is None else smiles[row] for row in with_direction.tolist()]
        self.n_updates += 1
        # New tensors, not an in-place ring: a state dictionary taken earlier must not change.
        self.recent_codes = torch.cat([self.recent_codes, codes])[-self.warmup :]
        self.recent_smiles = (self.recent_smiles + names)[-self.warmup :]
        if self.is_active:
            self._follow(codes, names)
        elif len(self.recent_codes) >= self.warmup:
            self.start()

    @torch.no_grad()
    def start(self) -> bool:
        """Initialise the anchors by k-means of the codes collected so far.

        `update` calls it after ``warmup`` molecules; call it at the end of a shorter
        pre-training. Calling it again changes nothing. Returns whether the bank is active now:
        with fewer than 8 molecules it is not.
        """
        n_clusters = min(self.n_anchors, len(self.recent_codes) // MOLECULES_PER_ANCHOR)
        if self.is_active or n_clusters == 0:
            return self.is_active
        # Imported here: prediction needs no scikit-learn.
        from sklearn.cluster import MiniBatchKMeans

        codes = self.recent_codes
        directions = torch.nn.functional.normalize(codes, dim=1)
        n_clusters = min(n_clusters, len(directions.unique(dim=0)))
        kmeans = MiniBatchKMeans(
            n_clusters, n_init=1, batch_size=2048, random_state=self.seed % 2**32
        ).fit(directions.cpu().double().numpy())
        centres = torch.from_numpy(kmeans.cluster_centers_).to(self.usage)
        # k-means clusters directions; an anchor is a mean of codes, as later in `_follow`.
        index = cosine_similarity(codes, centres).argmax(dim=1)
        usage, means = self._assigned(codes, index, n_clusters)
        means = torch.where((usage > 0).unsqueeze(1), means, centres * codes.norm(dim=1).mean())
        self.anchors[:n_clusters] = means.to(self.anchors.dtype)
        self.usage[:n_clusters] = usage
        self.idle.zero_()
        self.n_active.fill_(n_clusters)
        self.collect_exemplars(codes, self.recent_smiles)
        return True

    @staticmethod
    def _assigned(codes: Tensor, index: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Share of the codes assigned to each of n anchors, [n], and the codes' mean, [n, d]."""
        count = torch.bincount(index, minlength=n).to(codes.dtype)
        total = codes.new_zeros(n, codes.shape[1]).index_add(0, index, codes)
        return count / len(codes), total / count.clamp(min=1).unsqueeze(1)

    def _follow(self, codes: Tensor, names: list[str | None]) -> None:
        n = self._count()
        index, _ = self.nearest(codes)
        share, means = self._assigned(codes, index, n)
        old = self.decay * self.usage[:n]
        new = (1 - self.decay) * share
        self.usage[:n] = old + new
        if self.update_rule == "ema":
            # The average over codes, not over updates: an anchor that is rarely nearest stays in
            # place until it is, and then weighs its codes as any other anchor does.
            weight = (new / (old + new).clamp(min=1e-12)).unsqueeze(1)
            self.anchors[:n] += weight * (means - self.anchors[:n])
        self.idle[:n] = torch.where(share > 0, 0, self.idle[:n] + len(codes))
        dead = (self.idle[:n] >= self.dead_after).nonzero().squeeze(1)
        if len(dead):
            self._reseed(dead)
        self.collect_exemplars(codes, names)

    def _reseed(self, dead: Tensor) -> None:
        codes = self.recent_codes
        dead = dead[: len(codes)]
        _, similarity = self.nearest(codes)
        # Prefers codes far from all anchors; seed and update fix the draw, so no state is saved.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.n_updates) % 2**63)
        distance = (1 - similarity).clamp(min=1e-6).cpu().double()
        chosen = torch.multinomial(distance, len(dead), generator=generator).to(codes.device)
        self.anchors[dead] = codes[chosen].to(self.anchors.dtype)
        self.usage[dead] = 1 / self._count()
        self.idle[dead] = 0
        for anchor in dead.tolist():
            self._exemplars[anchor] = []
        self.collect_exemplars(codes[chosen], [self.recent_smiles[i] for i in chosen.tolist()])

    # --- exemplars ----------------------------------------------------------------------------

    @property
    def exemplars(self) -> list[list[tuple[str, float]]]:
        """The training molecules nearest to each active anchor: (SMILES, cosine), nearest first.

        Cosines are from when a molecule was last seen; stale exemplars lose rank.
        """
        return [
            sorted(((s, c) for s, c, _ in kept), key=lambda exemplar: -exemplar[1])
            for kept in self._exemplars[: self._count()]
        ]

    @exemplars.setter
    def exemplars(self, kept: Sequence[Sequence[tuple[str, float]]]) -> None:
        self.forget_exemplars()
        for anchor, rows in enumerate(kept):
            self._exemplars[anchor] = [(s, c, self.n_updates) for s, c in rows]

    def forget_exemplars(self) -> None:
        """Drop every SMILES of the training set from the bank: they may be confidential."""
        self._exemplars = [[] for _ in range(self.n_anchors)]
        self.recent_smiles = [None] * len(self.recent_smiles)

    @torch.no_grad()
    def collect_exemplars(self, codes: Tensor, smiles: Sequence[str | None]) -> None:
        """Offer molecules as exemplars of their nearest anchors, without moving the anchors.

        `update` does so with every batch. For exact similarities at the end of training, call
        `forget_exemplars`, and then this with all training molecules.

        Parameters
        ----------
        codes : Tensor, [B, d]
        smiles : sequence of str, [B]
            None for a molecule without a name.
        """
        if self.n_exemplars == 0 or not self.is_active or all(s is None for s in smiles):
            return
        index, similarity = (t.tolist() for t in self.nearest(codes))
        seen = {s: (j, cosine) for s, j, cosine in zip(smiles, index, similarity) if s is not None}
        # Earlier cosines of these molecules are out of date, at whichever anchor they were kept.
        self._exemplars = [[e for e in kept if e[0] not in seen] for kept in self._exemplars]
        for name, (anchor, cosine) in seen.items():
            self._exemplars[anchor].append((name, cosine, self.n_updates))
        for anchor in {anchor for anchor, _ in seen.values()}:
            self._exemplars[anchor].sort(key=self._rank)
            del self._exemplars[anchor][self.n_exemplars :]

    def _rank(self, exemplar: tuple[str, float, int]) -> tuple[float, str]:
        smiles, cosine, measured = exemplar
        return STALENESS * (self.n_updates - measured) - cosine, smiles

    # --- state --------------------------------------------------------------------------------

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Count the anchors of a copy anew: its tensors have other versions."""
        super().__setstate__({**state, "_counted": (None, 0, 0)})

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of training and exemplars beside the buffers, in plain types."""
        return {
            "n_updates": self.n_updates,
            "recent_codes": self.recent_codes.clone(),  # oldest first
            "recent_smiles": list(self.recent_smiles),
            "exemplars": [list(kept) for kept in self._exemplars],
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `get_extra_state`, or reset everything if it is empty.

        Raises
        ------
        ValueError
            If the state is that of a bank of another width or number of anchors.
        """
        codes = state.get("recent_codes", self.usage.new_zeros(0, self.dim))
        exemplars = state.get("exemplars", [[] for _ in range(self.n_anchors)])
        if codes.shape[1:] != (self.dim,) or len(exemplars) != self.n_anchors:
            raise ValueError(
                f"the saved memory has {len(exemplars)} anchors and codes of width "
                f"{codes.shape[-1]}, this one {self.n_anchors} and {self.dim}: build the network "
                "with the configuration of the checkpoint"
            )
        self.n_updates = int(state.get("n_updates", 0))
        self.recent_codes = codes.to(self.usage)[-self.warmup :].clone()
        self.recent_smiles = list(state.get("recent_smiles", []))[-self.warmup :]
        self._exemplars = [[(s, float(cosine), int(n)) for s, cosine, n in e] for e in exemplars]

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # An export has no extra state, which torch would report as missing.
        state_dict = {prefix + "_extra_state": {}, **state_dict}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MemoryReadout(nn.Module):
    """``e = LayerNorm(z + g ⊙ r)``: the molecule embedding from its code and the memory readout.

    The gate ``g`` starts at 0, so that a memory that becomes active during training fades in
    instead of breaking what was learned without it.

    Parameters
    ----------
    dim : int
        Width ``d``.

    Examples
    --------
    >>> readout = MemoryReadout(8)
    >>> readout(torch.randn(3, 8), torch.randn(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, z: Tensor, r: Tensor | None = None) -> Tensor:
        """Merge codes and memory readout: ``z`` and ``r`` [B, d] to ``e`` [B, d].

        ``r`` is None where no anchor is active: then ``e = LayerNorm(z)``.
        """
        return self.norm(z if r is None else z + self.gate * r)
