"""Precise batch norm: statistics estimated anew after pre-training, on views as in prediction.

Pre-training rotates, scales and greys its images and masks atoms, and batch norm's running
statistics reflect this. A clean image has sharper lines: in the last stage of the ResNet its
activations vary half again as much, and retrieval between image and graph among held-out
molecules falls from 52 % to 5 % (docs/experiments.md). So the statistics are estimated again at
the end, over unaugmented training molecules (Wu and Johnson 2021, "Rethinking 'Batch' in
BatchNorm", arXiv 2105.07576, who call it PreciseBN).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.epochs import epoch_batches

if TYPE_CHECKING:
    from deepchem_mmsa.network import MMSANetwork
    from deepchem_mmsa.trainee import Trainee

MOLECULES = 2048
"""Number of molecules over which the statistics are estimated."""


@torch.no_grad()
def precise_batch_norm(
    network: MMSANetwork,
    batches: Iterable[MoleculeBatch],
    read: Callable[[MoleculeBatch], Any] | None = None,
) -> None:
    """Replace running statistics by the plain average over `batches`.

    Frozen components keep theirs. Nothing else in the network changes.

    Parameters
    ----------
    network : MMSANetwork
    batches : iterable of MoleculeBatch
        Unaugmented batches of training molecules.
    read : callable, optional
        What encodes a batch; ``network.modality_embeddings`` by default.

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> from deepchem_mmsa.batching import Collator
    >>> from deepchem_mmsa.network import MMSANetwork
    >>> from deepchem_mmsa.views import ViewSettings, many_views
    >>> config = MMSAConfig(modalities=("graph",), graph_width=16)
    >>> network = MMSANetwork(config)
    >>> batch = Collator(("graph",))(many_views(["CCO", "CCN"], ViewSettings(("graph",))))
    >>> before = network.encode("graph", batch, batch.inputs["graph"])
    >>> precise_batch_norm(network, [batch])
    >>> network.training, torch.equal(before, network.eval().encode("graph", batch,
    ...                                                             batch.inputs["graph"]))
    (True, False)
    """
    norms = _learning_norms(network)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    before = [[buffer.clone() for buffer in norm.buffers()] for norm in norms]
    was_training = network.training
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way of asking for the plain average
        norm.train()
    try:
        for batch in batches:
            (read or network.modality_embeddings)(batch)
    finally:
        for norm, momentum, kept in zip(norms, momenta, before):
            norm.momentum = momentum
            if norm.num_batches_tracked == 0:  # no molecule had the view
                for buffer, value in zip(norm.buffers(), kept):
                    buffer.copy_(value)
        network.train(was_training)


def _learning_norms(network: MMSANetwork) -> list[_BatchNorm]:
    return [
        part
        for name, encoder in network.encoders.items()
        if name not in network.frozen
        for part in encoder.modules()
        if isinstance(part, _BatchNorm) and part.track_running_stats
    ]


class PreciseBatchNorm:
    """A callback of ``fit`` that calls :func:`precise_batch_norm` when pre-training ends.

    Parameters
    ----------
    dataset : deepchem.data.Dataset
        The training set; about :data:`MOLECULES` of it are used.

    Examples
    --------
    >>> PreciseBatchNorm(None).dataset is None
    True
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, model: Trainee, step: int) -> None:
        """Do nothing at a step."""

    def on_fit_end(self, model: Trainee) -> None:
        """Estimate the statistics with the final weights."""
        self._estimate(model)

    @contextmanager
    def lent(self, model: Trainee, read: Callable[[MoleculeBatch], Any]) -> Iterator[None]:
        """Estimate the statistics as `read` encodes batches, for the duration of a block."""
        norms = _learning_norms(model.model)
        kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
        try:
            self._estimate(model, read)
            yield
        finally:
            for buffer, value in kept:
                buffer.copy_(value)

    def _estimate(self, model: Trainee, read: Callable[[MoleculeBatch], Any] | None = None) -> None:
        size = model.batch_size
        rows = epoch_batches(self.dataset, size, [0], model.config.seed)
        some = itertools.islice(rows, max(1, MOLECULES // size))
        batches = (model._prepare_batch(batch)[0] for batch in some)
        precise_batch_norm(model.model, batches, read)


Recalibration = PreciseBatchNorm
"""The former name, which warnings named."""
