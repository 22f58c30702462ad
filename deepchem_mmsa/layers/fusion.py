"""Fusion of the modalities' embeddings into one molecule embedding.

Per modality ``m`` (docs/method.md)::

    u_m = head_m(h_m)        LayerNorm and MLP, from the encoder's width to d
    c_m = E_m(u_m)           the code, in the space that all modalities share
    D_m : code → u_m's space the decoder, for self and cross-modal reconstruction
    c   = mean or attention over the codes of the available modalities
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def _mlp(in_dim: int, dim: int, dropout: float, *, norm_last: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Linear(in_dim, dim),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(dim, dim),
    ]
    if norm_last:
        layers.append(nn.LayerNorm(dim))
    return nn.Sequential(*layers)


class Fusion(nn.Module):
    """Project every modality into one space, and merge the codes that are available.

    Codes end in a LayerNorm, so that no modality outweighs another in the mean by its scale alone.

    Parameters
    ----------
    modalities : sequence of str
        Names; their order is the order of the ``M`` axis everywhere.
    in_dims : dict of str to int
        Width of each modality's encoder.
    dim : int, default 256
        Width ``d`` of the shared space.
    how : {"mean", "attention"}, default "mean"
        How the available codes are merged.
    dropout : float, default 0.0
        Dropout probability in heads, encoders and decoders.

    Raises
    ------
    ValueError
        If there is no modality or a repeated one, one has no width, or ``how`` is unknown.

    Examples
    --------
    >>> fusion = Fusion(("image", "graph"), {"image": 512, "graph": 300}, dim=16)
    >>> u, codes = fusion.project({"image": torch.randn(4, 512), "graph": torch.randn(4, 300)})
    >>> codes.shape
    torch.Size([4, 2, 16])
    >>> available = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    >>> c = fusion.fuse(codes, available)
    >>> bool((c[1] == codes[1, 0]).all()), bool((c[3] == 0).all())
    (True, True)
    """

    def __init__(
        self,
        modalities: Sequence[str],
        in_dims: Mapping[str, int],
        dim: int = 256,
        how: str = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(
                f"modalities={self.modalities!r}: give at least one name, each of them once"
            )
        without_width = [m for m in self.modalities if m not in in_dims]
        if without_width:
            raise ValueError(
                f"in_dims has no width for {without_width}; it has {sorted(in_dims)}. "
                "Give the encoder's out_dim for every modality"
            )
        if how not in ("mean", "attention"):
            raise ValueError(f"how={how!r}: choose 'mean' or 'attention'")
        self.dim = dim
        self.how = how
        self.heads = nn.ModuleDict(
            {
                m: nn.Sequential(nn.LayerNorm(in_dims[m]), *_mlp(in_dims[m], dim, dropout))
                for m in self.modalities
            }
        )
        self.encoders = nn.ModuleDict(
            {m: _mlp(dim, dim, dropout, norm_last=True) for m in self.modalities}
        )
        self.decoders = nn.ModuleDict({m: _mlp(dim, dim, dropout) for m in self.modalities})
        self.attention = (
            nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))
            if how == "attention"
            else None
        )

    def project(self, embeddings: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Map the encoders' outputs to ``u`` and to the codes.

        Parameters
        ----------
        embeddings : dict of str to Tensor, [B, in_dim]
            Rows of molecules that lack the modality may hold any finite values. A modality that
            is left out altogether gets rows of zeros: mark it as unavailable for every molecule.

        Returns
        -------
        u : Tensor, [B, M, d]
        codes : Tensor, [B, M, d]

        Raises
        ------
        ValueError
            If nothing is given, a modality is unknown, or numbers of molecules differ.
        """
        unknown = [m for m in embeddings if m not in self.modalities]
        if unknown or not embeddings:
            raise ValueError(
                f"embeddings of {sorted(embeddings)}: this network knows {list(self.modalities)}"
            )
        n_molecules = {m: len(h) for m, h in embeddings.items()}
        if len(set(n_molecules.values())) != 1:
            raise ValueError(f"numbers of molecules differ between modalities: {n_molecules}")
        projected: dict[str, tuple[Tensor, Tensor]] = {}
        for m, h in embeddings.items():
            u = self.heads[m](h)
            projected[m] = (u, self.encoders[m](u))
        zeros = torch.zeros_like(u)
        pairs = [projected.get(m, (zeros, zeros)) for m in self.modalities]
        return torch.stack([u for u, _ in pairs], 1), torch.stack([c for _, c in pairs], 1)

    def fuse(self, codes: Tensor, available: Tensor) -> Tensor:
        """Merge the codes of the available modalities into the unified embedding ``c``.

        Parameters
        ----------
        codes : Tensor, [B, M, d]
        available : bool Tensor, [B, M]

        Returns
        -------
        Tensor, [B, d]
            A molecule without any available modality gets zeros and no gradient.
        """
        # Not a product: a masked row must have no influence at all, whatever it holds.
        codes = codes.masked_fill(~available.unsqueeze(-1), 0)
        if self.attention is None:
            weight = available.to(codes.dtype)
        else:
            score = self.attention(codes).squeeze(-1)
            # The lowest finite number, not -inf: a row of -inf has a NaN softmax and gradient.
            score = score.masked_fill(~available, torch.finfo(score.dtype).min)
            weight = torch.softmax(score, dim=1).to(codes.dtype) * available
        total = weight.sum(1, keepdim=True)
        weight = weight / torch.where(total > 0, total, torch.ones_like(total))
        return (weight.unsqueeze(-1) * codes).sum(1)

    def forward(self, embeddings: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """``project``, then ``fuse``: encoder outputs to the unified embedding, [B, d]."""
        return self.fuse(self.project(embeddings)[1], available)

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Decode every code with every decoder.

        Parameters
        ----------
        codes : Tensor, [B, M, d]

        Returns
        -------
        Tensor, [B, M, M, d]
            ``[i, s, t]`` is ``D_t(c_s)`` of molecule i: modality t reconstructed from s.
            The decoders are small; all M² outputs cost less than selecting the needed ones.
        """
        return torch.stack([self.decoders[m](codes) for m in self.modalities], dim=2)
