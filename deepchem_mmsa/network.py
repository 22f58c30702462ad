"""The network: encoders → fusion → structure awareness → head.

Symbols are those of docs/method.md. This module handles tensors only; DeepChem's interface is in
model.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from deepchem_mmsa import distributed, losses
from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.config import CUSTOM, MMSAConfig
from deepchem_mmsa.layers.encoders import ENCODER_OPTIONS, check_output, make_encoder
from deepchem_mmsa.layers.fusion import Fusion
from deepchem_mmsa.layers.heads import Head, atom_width, check_raw, shows_atoms
from deepchem_mmsa.layers.hypergraph import (
    Hypergraph,
    HypergraphConv,
    anchor_hypergraph,
    nearest_nodes_hypergraph,
)
from deepchem_mmsa.layers.memory_bank import MemoryBank, MemoryReadout
from deepchem_mmsa.layers.message_passing import BatchedGraph, pool
from deepchem_mmsa.layers.single_row import running_statistics
from deepchem_mmsa.molecule import FINGERPRINT_SIZE, N_DESCRIPTORS
from deepchem_mmsa.pretraining import LOSS_TERMS, MASK_TOKEN, pretraining_terms


class MMSANetwork(nn.Module):
    """Multi-modal molecular network with structure awareness.

    Parameters
    ----------
    config : MMSAConfig
    encoders : mapping of str to torch.nn.Module, optional
        A custom module per modality that replaces the named encoder. It must have an attribute
        ``out_dim`` and map a batch of its modality to ``[n, out_dim]``.

    Raises
    ------
    ValueError
        For an unknown encoder name, a missing custom encoder, a module without ``out_dim``, or
        one for a modality that the network does not read.

    Examples
    --------
    >>> network = MMSANetwork(MMSAConfig(modalities=("graph",), mode="classification"))
    >>> [name for name, _ in network.named_children()]
    ['encoders', 'fusion', 'hypergraph', 'memory', 'readout', 'head']
    """

    picture_size: Tensor
    label_mean: Tensor
    label_scale: Tensor
    class_weight: Tensor

    def __init__(self, config: MMSAConfig, encoders: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.config = config
        if unread := sorted(set(encoders or {}) - set(config.modalities)):
            raise ValueError(
                f"{', '.join(unread)}: given as an encoder, but this network reads modalities="
                f"{config.modalities}; add it there, or leave it out"
            )
        made: dict[str, Any] = {m: self._encoder(m, encoders or {}) for m in config.modalities}
        self.encoders = nn.ModuleDict(made)
        self.fusion = Fusion(
            config.modalities,
            {m: made[m].out_dim for m in config.modalities},
            dim=config.embedding_dim,
            how=config.fusion,
            dropout=config.fusion_dropout,
        )
        self.hypergraph = (
            HypergraphConv(config.embedding_dim, config.hypergraph_norm, config.hypergraph_dropout)
            if config.hypergraph
            else None
        )
        self.memory = (
            MemoryBank(
                n_anchors=config.n_anchors,
                dim=config.embedding_dim,
                temperature=config.memory_temperature,
                decay=config.memory_decay,
                update=config.memory_update,
                warmup=config.memory_warmup,
                n_exemplars=config.n_exemplars,
                seed=config.seed,
            )
            if config.memory
            else None
        )
        self.readout = MemoryReadout(config.embedding_dim)

        # Size at which the training images were drawn; 0 before training. An image drawn at
        # another size and resampled looks different: lines and letters do not scale.
        self.register_buffer("picture_size", torch.zeros((), dtype=torch.int64))

        # Set by the training loop and by freeze_components; not part of the state.
        self.structure_on = True
        self.update_memory = config.mode == "pretraining" or config.update_memory
        if self.memory is not None and not self.update_memory:
            self.memory.requires_grad_(False)  # also if anchors are parameters
        self.frozen: set[str] = set()
        self.training_dtype: torch.dtype | None = None
        self.statistics: dict[str, float] = {}
        self.shared_seed: int | None = None

        # The masked-atom task needs a graph encoder that exposes its atom embeddings.
        self.atom_head = (
            nn.Linear(made["graph"].atom_dim, MASK_TOKEN)
            if config.mode == "pretraining" and shows_atoms(made.get("graph"))
            else None
        )
        # Predicted from the other views, if there are any.
        shows_descriptors = hasattr(made.get("fingerprint"), "scaled_descriptors")
        self.descriptor_head = (
            nn.Linear(config.embedding_dim, N_DESCRIPTORS + FINGERPRINT_SIZE)
            if config.mode == "pretraining" and shows_descriptors and len(config.modalities) > 1
            else None
        )
        self.sums_atoms = config.atom_sum and config.mode != "pretraining"
        if config.mode != "pretraining":
            width = config.n_classes if config.mode == "classification" else 1
            self.head = Head(
                config.embedding_dim,
                config.n_tasks * width,
                config.head_width,
                config.head_layers,
                config.head_dropout,
                atom_dim=atom_width(made["graph"]) if self.sums_atoms else 0,
            )
            self.register_buffer("label_mean", torch.zeros(config.n_tasks))
            self.register_buffer("label_scale", torch.ones(config.n_tasks))
            self.register_buffer("class_weight", torch.ones(config.n_tasks, config.n_classes))
        self.float()  # as records are, regardless of torch's default dtype

    def _encoder(self, modality: str, given: Mapping[str, nn.Module]) -> nn.Module:
        name = getattr(self.config, modality)
        if modality not in given:
            if name == CUSTOM:
                raise ValueError(
                    f"the {modality} encoder of this configuration is a custom module: pass it "
                    f"again, {modality}=<nn.Module>, to from_pretrained of MMSAModel or "
                    "MMSAPredictor; the command line, embed, load_ensemble and MMSATransformer "
                    "read no such model"
                )
            options = ENCODER_OPTIONS[modality](self.config)
            return make_encoder(modality, name, **options)
        encoder = given[modality]
        if not isinstance(getattr(encoder, "out_dim", None), int):
            raise ValueError(
                f"the {modality} encoder {type(encoder).__name__} needs an attribute `out_dim`, "
                "the width of its output [n, out_dim]"
            )
        return encoder

    # ---- from views to the molecule embedding -------------------------------------------

    def modality_embeddings(
        self, batch: MoleculeBatch, only: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """Return h_m of each modality, ``[B, out_dim]``; zeros where a molecule lacks it.

        With ``config.atom_sum`` the sum of the atom embeddings is appended to the graph's.

        Parameters
        ----------
        batch : MoleculeBatch
        only : iterable of str, optional
            The modalities to encode; all by default.
        """
        chosen = self.config.modalities if only is None else tuple(only)
        return {m: self.encode(m, batch, batch.inputs[m]) for m in chosen}

    def encode(
        self, modality: str, batch: MoleculeBatch, inputs: Any, atoms: Tensor | None = None
    ) -> Tensor:
        """Encode inputs and place them in the modality's rows of h_m, ``[B, out_dim]``, in fp32.

        Parameters
        ----------
        modality : str
        batch : MoleculeBatch
        inputs
            The modality's inputs, possibly augmented.
        atoms : torch.Tensor, optional
            Atom embeddings of the graph encoder, if already computed.
        """
        n, sums = len(batch.rows[modality]), modality == "graph" and self.sums_atoms
        with self._encoding(modality, batch.available.device, n):
            h = self.read(modality, inputs, atoms)
        check_output(modality, self.encoders[modality], h, n, sums)
        h = h.float()
        if n == len(batch):
            return h
        return h.new_zeros(len(batch), h.shape[1]).index_copy(0, batch.rows[modality], h)

    def read(self, modality: str, inputs: Any, atoms: Tensor | None = None) -> Tensor:
        """Encode a modality's inputs alone, one row each, as in :meth:`modality_embeddings`."""
        encoder: Any = self.encoders[modality]
        if modality != "graph" or not self.sums_atoms:
            return encoder(inputs) if atoms is None else encoder.readout(inputs, atoms)
        atoms = encoder.atom_embeddings(inputs) if atoms is None else atoms
        sums = pool(atoms.float(), inputs.n_atoms, "sum", inputs.molecule_of_atom)
        return torch.cat([encoder.readout(inputs, atoms).float(), sums], dim=1)

    def atom_embeddings(self, graph: BatchedGraph) -> Tensor:
        """Return the graph encoder's atom embeddings, ``[N, atom_dim]``."""
        with self._encoding("graph", graph.atoms.device, graph.n_molecules):
            encoder: Any = self.encoders["graph"]
            return encoder.atom_embeddings(graph)

    @contextmanager
    def _encoding(self, modality: str, device: torch.device, n: int) -> Iterator[None]:
        """Set the encoder's precision for n molecules, and disable gradients if it is frozen."""
        dtype = torch.bfloat16 if self.config.precision == "bf16" else None
        custom = getattr(self.config, modality) == CUSTOM
        # A custom module may not know bf16, as DGL's kernels do not: only if it is asked for.
        if self.training and not custom:
            dtype = self.training_dtype
        learning = torch.is_grad_enabled() and modality not in self.frozen
        with (
            # The named encoders see to this themselves.
            running_statistics(self.encoders[modality]) if custom and n < 2 else nullcontext(),
            torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None),
            torch.set_grad_enabled(learning),
        ):
            yield

    def codes(self, batch: MoleculeBatch) -> Tensor:
        """Return the codes c_m, ``[B, M, d]``; rows of missing modalities are meaningless."""
        return self.project(self.modality_embeddings(batch))

    def project(self, h: Mapping[str, Tensor]) -> Tensor:
        """Return the codes c_m, ``[B, M, d]``, of :meth:`modality_embeddings`."""
        return self.fusion.project(self._without_sum(h))[1]

    def active_anchors(self) -> Tensor:
        """Return the anchors in use, ``[K_active, d]``; none before the warm-up is over."""
        if self.memory is None:
            return next(self.fusion.parameters()).new_zeros(0, self.config.embedding_dim)
        return self.memory.active_anchors()

    def between_anchors(self) -> Hypergraph | None:
        """Return the hypergraph among the anchors, shared by both scopes of one step."""
        anchors = self.active_anchors()
        if self.hypergraph is None or not len(anchors):
            return None
        return anchor_hypergraph(anchors, self.config.n_neighbors)

    def structure_aware(self, c: Tensor, between: Hypergraph | None = None) -> Tensor:
        """Return e of each unified code, using only the memory (scope "memory").

        Parameters
        ----------
        c : torch.Tensor
            Unified codes, ``[B, d]``.
        between : Hypergraph, optional
            Result of :meth:`between_anchors`, if already computed.

        Returns
        -------
        torch.Tensor
            ``[B, d]``; row i depends only on row i of `c`.
        """
        anchors = self.active_anchors()
        z, convolved = c, anchors
        if self.hypergraph is not None and len(anchors):
            z = self.hypergraph.forward_memory(c, anchors, self.config.n_neighbors)
            convolved = self.hypergraph.convolve_anchors(anchors, self.config.n_neighbors, between)
        return self._read_out(c, z, convolved)

    def structure_aware_in_batch(self, c: Tensor, between: Hypergraph | None = None) -> Tensor:
        """Return e with hyperedges between the molecules of the batch (scope "batch")."""
        anchors = self.active_anchors()
        z, convolved = c, anchors
        warming_up = self.memory is not None and not len(anchors)
        if self.hypergraph is not None and len(c) and not warming_up:
            k = self.config.n_neighbors
            nodes = torch.cat([c, anchors])
            z = self.hypergraph(nodes, nearest_nodes_hypergraph(c, anchors, k, between))[: len(c)]
            if len(anchors):
                convolved = self.hypergraph.convolve_anchors(anchors, k, between)
        return self._read_out(c, z, convolved)

    def _read_out(self, c: Tensor, z: Tensor, convolved: Tensor) -> Tensor:
        if self.memory is None or not len(convolved):
            return self.readout(z, None)
        return self.readout(z, self.memory.read(c, convolved))

    def embed_codes(self, codes: Tensor, available: Tensor) -> Tensor:
        """Return the molecule embedding e, ``[B, d]``, of codes ``[B, M, d]``."""
        return self.structure_aware(self.fusion.fuse(codes, available))

    def embed(self, batch: MoleculeBatch) -> Tensor:
        """Return the molecule embedding e_i, ``[B, d]``."""
        return self.embed_codes(self.codes(batch), batch.available)

    @property
    def feature_widths(self) -> dict[str, int]:
        """Widths of the parts of :meth:`features`: each modality's h_m, then the embedding."""
        encoders: dict[str, Any] = dict(self.encoders.items())
        widths = {m: encoder.out_dim for m, encoder in encoders.items()}
        return {**widths, "embedding": self.config.embedding_dim}

    def features(self, batch: MoleculeBatch) -> Tensor:
        """Return each h_m (zeros where a molecule lacks it) and e, concatenated, ``[B, D]``."""
        h = self.modality_embeddings(batch)
        e = self.embed_codes(self.project(h), batch.available)
        return torch.cat([*self._without_sum(h).values(), e], dim=1)

    def _without_sum(self, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.sums_atoms or "graph" not in h:
            return dict(h)
        return {**h, "graph": h["graph"][:, : self.feature_widths["graph"]]}

    # ---- outputs ------------------------------------------------------------------------

    def forward(self, batch: MoleculeBatch) -> list[Tensor]:
        """Return DeepChem's list of outputs.

        Parameters
        ----------
        batch : MoleculeBatch

        Returns
        -------
        list of torch.Tensor
            Pre-training: ``[embedding [B, d], terms]``, terms the unweighted losses in the
            order of :data:`~deepchem_mmsa.pretraining.LOSS_TERMS` in training and empty
            otherwise. Classification: ``[probabilities [B, T, C], logits [B, T, C],
            embedding]``. Regression: ``[values [B, T] in label units, standardised values
            [B, T], embedding]``.
        """
        if self.config.mode == "pretraining":
            if self.training:
                embedding, terms = pretraining_terms(self, batch)
                return [embedding, torch.stack([terms[name] for name in LOSS_TERMS])]
            embedding = self.embed(batch)
            return [embedding, embedding.new_zeros(0)]
        h = self.modality_embeddings(batch)
        c = self.fusion.fuse(self.project(h), batch.available)
        outputs = self.supervised_outputs(self.structure_aware(c), h, batch.available)
        if self.training and self.update_memory:
            self.remember(c, batch.smiles)
        return outputs

    def remember(self, c: Tensor, smiles: list[str], gathered: bool = False) -> None:
        """Update the memory with unified codes ``[B, d]`` of training molecules, unless frozen.

        ``gathered`` states that the codes are already those of all processes.
        """
        if self.memory is None or not self.update_memory or "memory" in self.frozen:
            return
        c = c.detach()
        if not gathered and distributed.is_shared():
            (c,), smiles = distributed.gather(c), distributed.gather_lists(smiles)
        if bool(c.isfinite().all()):  # otherwise the loss is not finite either, which raises
            self.memory.update(c, smiles)

    def supervised_outputs(
        self, embedding: Tensor, h: Mapping[str, Tensor], available: Tensor
    ) -> list[Tensor]:
        """Return ``[prediction, raw output, embedding]``.

        Parameters
        ----------
        embedding : torch.Tensor
            ``[B, d]``.
        h : dict of str to torch.Tensor
            Result of :meth:`modality_embeddings`; only its sum over atoms is used, if present.
        available : torch.Tensor
            Bool ``[B, M]``; a missing view adds nothing.
        """
        sums: Tensor | None = None
        if self.sums_atoms and "graph" in h:
            sums = h["graph"][:, self.feature_widths["graph"] :]
            there = available[:, self.config.modalities.index("graph"), None]
            sums = sums.masked_fill(~there, 0)
        raw = self.head(embedding) if sums is None else self.head(embedding, sums)
        check_raw(self.head, raw, len(embedding), self.config)
        if self.config.mode == "classification":
            logits = raw.view(len(raw), self.config.n_tasks, self.config.n_classes)
            return [logits.softmax(-1), logits, embedding]
        return [raw * self.label_scale + self.label_mean, raw, embedding]

    def supervised_loss(self, raw: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean loss over the observed labels.

        Parameters
        ----------
        raw : torch.Tensor
            Logits ``[B, T, C]`` or standardised values ``[B, T]``.
        labels, weights : torch.Tensor
            ``[B, T]``; weight 0 marks a missing label.
        """
        if self.config.mode == "classification":
            return losses.masked_supervised_classification(
                raw, labels, weights, self.class_weight if self.config.class_weights else None
            )
        return losses.masked_supervised_regression(
            raw, (labels - self.label_mean) / self.label_scale, weights
        )

    def share(self, labels: Tensor, weights: Tensor) -> float:
        """Return the weight of a batch's :meth:`supervised_loss` in a mean over batches."""
        if self.config.mode == "classification" and self.config.class_weights:
            index = labels.masked_fill(weights == 0, 0).long()
            weights = weights * losses.weight_of_class(self.class_weight, index)
        return float(weights.sum())

    # ---- components ---------------------------------------------------------------------

    @property
    def exemplars(self) -> list[list[tuple[str, float]]]:
        """The exemplars of :class:`MemoryBank`; none, and none are kept, without a memory."""
        return [] if self.memory is None else self.memory.exemplars

    @exemplars.setter
    def exemplars(self, kept: list[list[tuple[str, float]]]) -> None:
        if self.memory is not None:
            self.memory.exemplars = kept

    def components(self) -> dict[str, nn.Module]:
        """Return the parts by name: each modality's encoder, fusion, hypergraph, ..., head."""
        parts: dict[str, nn.Module] = dict(self.encoders.items())
        for name, module in self.named_children():
            if name != "encoders":
                parts[name] = module
        return parts

    def train(self, mode: bool = True) -> MMSANetwork:
        """Set training mode; frozen components (and their batch norm) stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.components()[name].eval()
        return self
