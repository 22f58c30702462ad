"""Prediction and evaluation: one output row per input row, NaN with a reason if it has no view."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from deepchem.models.torch_models.torch_model import _StandardLoss
from deepchem.trans import undo_transforms
from torch import Tensor

from deepchem_mmsa.batch_norm import PreciseBatchNorm
from deepchem_mmsa.batch_preparation import Preparation, PreparedBatch, check_batch
from deepchem_mmsa.batching import Collator, MoleculeBatch
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.epochs import check_dataset, epoch_batches, keep_no_records
from deepchem_mmsa.evaluate import evaluate, mean_scores
from deepchem_mmsa.labels import check_task_order
from deepchem_mmsa.mc_dropout import check_dropout, sample_dropout
from deepchem_mmsa.model_saving import SavableModel
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.prefetching import prefetched
from deepchem_mmsa.pretraining import LOSS_TERMS, pretraining_terms, total_loss
from deepchem_mmsa.randomness import seeded
from deepchem_mmsa.record_checks import missing_reason
from deepchem_mmsa.trainee import Objective

logger = logging.getLogger(__name__)

OUTPUT_TYPES = {
    "pretraining": ["embedding", "loss"],
    "classification": ["prediction", "loss", "embedding"],
    "regression": ["prediction", "loss", "embedding"],
}


class PredictingModel(SavableModel):
    """Prediction, embedding, uncertainty and evaluation in DeepChem's interface.

    DeepChem's own methods leave the model in evaluation mode for the rest of training, keep
    gradients, and count missing labels as zeros. The middle storey of
    :class:`~deepchem_mmsa.model.MMSAModel`.
    """

    def __init__(
        self, network: MMSANetwork, config: MMSAConfig, tasks: list[str] | None, **others: Any
    ) -> None:
        super().__init__(network, config, tasks, **others)
        self._prepare = Preparation(Collator.of(config), config.mode != "pretraining")
        self.failures: list[tuple[int, str, str]] = []
        self._told: set[str] = set()  # warnings already issued

    # ---- batches ------------------------------------------------------------------------

    def default_generator(
        self,
        dataset: Any,
        epochs: int = 1,
        mode: str = "fit",
        deterministic: bool = True,
        pad_batches: bool = False,
    ) -> Iterator[Any]:
        """Yield ``([X], [y], [w])``; batches are never padded with repeated molecules.

        Parameters
        ----------
        dataset : deepchem.data.Dataset
        epochs : int
        mode : {"fit", "predict", "uncertainty"}
            ``"fit"`` yields training batches, whose order depends on the seed and on the epoch
            number, counted from the model's current epoch.
        deterministic : bool
            Whether ``"fit"`` keeps the dataset's order, as the other modes always do.
        pad_batches : bool
            Ignored: repeated molecules would distort contrastive loss and hypergraph.
        """
        check_dataset(dataset)
        if mode == "fit":
            numbers = range(self._state.epoch, self._state.epoch + epochs)
            seed = None if deterministic else self.config.seed
            yield from epoch_batches(dataset, self.batch_size, numbers, seed)
            return
        keep_no_records(dataset)
        for _ in range(epochs if len(dataset) else 0):
            for X, y, w, _ids in dataset.iterbatches(
                batch_size=self.batch_size, deterministic=True, pad_batches=False
            ):
                yield [X], [y], [w]

    def _prepare_batch(self, batch: tuple[Any, Any, Any]) -> tuple[MoleculeBatch, list, list]:
        """Turn a triple of DeepChem's generators into tensors on the model's device."""
        return self._placed(self._prepare(batch))

    def _placed(self, ready: PreparedBatch) -> tuple[MoleculeBatch, list, list]:
        """Move a batch to the model's device; issue each warning about batches once."""
        drawn = int(self.model.picture_size) if ready.drawn else 0
        if ready.drawn and not drawn and self._run_now is not None:
            self.model.picture_size.fill_(ready.drawn)  # size of the training images
        for text in ready.oddities(drawn or ready.drawn):
            if text not in self._told:
                self._told.add(text)
                logger.warning("%s", text)
        return ready.to(self.device)[:3]

    # ---- prediction ---------------------------------------------------------------------

    def _predict(
        self,
        generator: Iterable[tuple[Any, Any, Any]],
        transformers: Sequence[Any],
        uncertainty: bool,
        other_output_types: Any,
    ) -> np.ndarray:
        """Return one output for each molecule of the generator, in order."""
        kind = "prediction"
        if other_output_types is not None:
            kinds = np.atleast_1d(other_output_types).tolist()
            if kinds not in (["embedding"], ["prediction"]):
                raise ValueError(f"output_types={kinds}: choose 'prediction' or 'embedding'")
            kind = kinds[0]
        if kind not in OUTPUT_TYPES[self.config.mode]:
            raise ValueError(
                "a model in mode 'pretraining' predicts no labels; use predict_embedding, or "
                "fine-tune: MMSAModel.from_pretrained(..., mode='classification', n_tasks=...)"
            )
        index = OUTPUT_TYPES[self.config.mode].index(kind)

        (values,) = self._over_batches(generator, lambda batch: (self.model(batch)[index],))
        # Transformers of labels: undone on an embedding they would scale it.
        return undo_transforms(values, list(transformers)) if kind == "prediction" else values

    def _over_batches(
        self, generator: Iterable[Any], compute: Callable[[MoleculeBatch], tuple[Tensor, ...]]
    ) -> list[np.ndarray]:
        """Apply `compute` to every batch; NaN and a reason where a molecule has no view."""
        results: list[list[np.ndarray]] = []
        self.failures = []
        n = 0

        def prepared() -> Iterable[tuple[Sequence[Any], MoleculeBatch]]:
            for batch in generator:
                check_batch(batch)
                yield batch[0][0], self._prepare_batch((batch[0], None, None))[0]

        with evaluating(self.model):
            for records, inputs in prefetched(prepared()):
                missing = (~inputs.available.any(1)).nonzero()[:, 0]
                outputs = [t.float().index_fill(0, missing, np.nan) for t in compute(inputs)]
                results.append([t.cpu().numpy() for t in outputs])
                for i in missing.tolist():
                    reason = missing_reason(records[i], self.config.modalities)
                    self.failures.append((n + i, records[i].smiles, reason))
                n += len(inputs)
        if not results:
            raise ValueError("the dataset to predict holds no molecule")
        if self.failures:
            logger.warning(
                "%d of %d molecules have no view that this model reads and got NaN; the first is "
                "row %d, %r: %s (all in model.failures)", len(self.failures), n, *self.failures[0],
            )  # fmt: skip
        return [np.concatenate(parts) for parts in zip(*results)]

    def predict_embedding(self, dataset: Any) -> np.ndarray:
        """Return the molecule embeddings e_i, ``[N, d]``; NaN for a molecule without a view."""
        return self._predict(
            self.default_generator(dataset, mode="predict"), [], False, "embedding"
        )

    # ---- the objective ------------------------------------------------------------------

    def _default_loss(self, outputs: list, labels: list, weights: list) -> Tensor:
        if self.config.mode == "pretraining":
            return total_loss(outputs[0], self.config)
        return self.model.supervised_loss(outputs[0], labels[0], weights[0])

    def _objective(self, loss: Callable | None = None) -> Objective:
        """Return a loss with its inputs; a custom one for regression gets values in label units."""
        loss = loss or self._loss_fn
        values = self.config.mode == "regression" and loss != self._default_loss
        regularized = isinstance(loss, _StandardLoss)  # DeepChem's own wrapper adds it
        return Objective(loss, [0] if values else self._loss_outputs, regularized)

    def validation_loss(self, dataset: Any) -> float:
        """Return the mean of the training objective over a dataset, in evaluation mode.

        The default supervised loss is averaged over observed labels; a custom loss (during
        ``fit``, that of the run) and the pre-training loss are averaged over batches, weighted by
        their number of molecules. In pre-training the random parts (masks, subsets) are the same
        at every call, and the terms those of the second stage of ``schedule="staged"``: otherwise
        its additional ones would look like a loss that grows. During ``fit`` batch norm then uses
        statistics of training molecules with the present weights: its running ones are of earlier
        weights and of augmented images, and the loss would rise and fall with them.

        Raises
        ------
        ValueError
            If a supervised model is given no labels, or its tasks in another order.
        """
        if self.config.mode != "pretraining":
            check_task_order(dataset, self.tasks)
        objective = self._objective() if self._run_now is None else self._run_now.objective
        total, count = 0.0, 0.0
        with (
            evaluating(self.model),
            seeded(self.config.seed, self.device),
            self._present_statistics(),
            seeded(self.config.seed, self.device),
            _whole(self.model),
        ):
            for batch in self.default_generator(dataset, mode="predict"):
                inputs, labels, weights = self._prepare_batch(batch)
                if self.config.mode == "pretraining":
                    if len(inputs) < 2:
                        continue
                    embedding, terms = pretraining_terms(self.model, inputs)
                    outputs = [embedding, torch.stack([terms[name] for name in LOSS_TERMS])]
                elif labels:
                    outputs = self.model(inputs)
                else:
                    raise ValueError("the validation set has no labels; load it with its tasks")
                value = float(objective.loss(objective.chosen(outputs), labels, weights))
                share = float(len(inputs))
                if labels and objective.loss == self._default_loss:  # a mean over labels
                    share = self.model.share(labels[0], weights[0])
                total, count = total + share * value, count + share
        return total / count if count else float("nan")

    def _present_statistics(self) -> AbstractContextManager[None]:
        """Lend batch norm the statistics of the present weights, in a run of pre-training."""
        run = self._run_now if self.config.mode == "pretraining" else None
        for callback in [] if run is None else run.callbacks:
            if isinstance(callback, PreciseBatchNorm):
                return callback.lent(self, partial(pretraining_terms, self.model))
        return nullcontext()

    # ---- what DeepChem asks for ---------------------------------------------------------

    def get_task_type(self) -> str:
        """Return the mode: "classification", "regression" or "pretraining"."""
        return self.config.mode

    def get_num_tasks(self) -> int:
        """Return the number of label columns; 0 for a model without a head."""
        return 0 if self.config.mode == "pretraining" else self.config.n_tasks

    def predict_codes(self, dataset: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the code of each view separately, for retrieval between views.

        Parameters
        ----------
        dataset : deepchem.data.Dataset

        Returns
        -------
        codes : np.ndarray
            ``[N, M, d]``, in the order of ``config.modalities``; NaN where a view is missing.
        available : np.ndarray
            Bool ``[N, M]``.
        """
        (codes,) = self._over_batches(
            self.default_generator(dataset, mode="predict"),
            lambda batch: (
                self.model.codes(batch).masked_fill(~batch.available[..., None], np.nan),
            ),
        )
        return codes, ~np.isnan(codes).any(-1)

    def predict_uncertainty(self, dataset: Any, masks: int = 50) -> tuple[np.ndarray, np.ndarray]:
        """Return prediction and its standard deviation over dropout masks (MC dropout).

        Parameters
        ----------
        dataset : deepchem.data.Dataset
        masks : int
            Dropout masks to average over; the same ones at every call.

        Returns
        -------
        mean, std : np.ndarray
            Shaped like ``predict``'s output, in label units. The deviation is the epistemic
            part (Gal and Ghahramani 2016); it is not calibrated.

        Raises
        ------
        ValueError
            If the model has no head or no dropout, or `masks` is below 2.
        """
        check_dropout(self.model, masks)
        # A copy: dropout is switched inside it, while others may be predicting with the original.
        network = copy.deepcopy(self.model).eval()
        mean, std = self._over_batches(
            self.default_generator(dataset, mode="uncertainty"),
            lambda batch: sample_dropout(network, batch, masks, self.config.seed),
        )
        return mean, std

    def compute_saliency(self, X: Any) -> np.ndarray:
        """Not implemented: use :func:`deepchem_mmsa.explain.explain`."""
        raise NotImplementedError(
            "a molecule is not an array of numbers: use deepchem_mmsa.explain.explain(model, "
            "smiles), which returns what each atom contributes"
        )

    def evaluate_generator(
        self,
        generator: Iterable[tuple[Any, Any, Any]],
        metrics: Any,
        transformers: Sequence[Any] = (),
        per_task_metrics: bool = False,
    ) -> Any:
        """Score the batches of a generator, ``(inputs, labels, weights)``, as :meth:`evaluate`.

        Raises
        ------
        ValueError
            If the generator is empty or yields no labels, or labels of another number of tasks
            than the model's.
        """
        y: list[np.ndarray] = []
        w: list[np.ndarray] = []

        def passing() -> Iterable[tuple[Any, Any, Any]]:
            for inputs, labels, weights, *_ in generator:
                check_batch((inputs, labels, weights), labelled=True)
                y.append(np.asarray(labels[0], dtype=float).reshape(len(labels[0]), -1))
                given = weights[0] if weights else None
                given = np.ones(1) if given is None else np.asarray(given, dtype=float)
                given = given.reshape(len(given), -1)
                w.append(np.broadcast_to(given, y[-1].shape))
                yield inputs, labels, weights

        predictions = self._predict(passing(), transformers, False, None)
        labels = undo_transforms(np.concatenate(y), list(transformers))
        return mean_scores(
            labels, np.concatenate(w), predictions, metrics, self.config.n_classes,
            per_task_metrics=per_task_metrics,
        )  # fmt: skip

    def evaluate(
        self,
        dataset: Any,
        metrics: Any,
        transformers: Sequence[Any] = (),
        per_task_metrics: bool = False,
        use_sample_weights: bool = False,
        n_classes: int | None = None,
    ) -> Any:
        """Score on the observed labels: missing ones (weight 0, NaN) do not count.

        Parameters
        ----------
        dataset : deepchem.data.Dataset
            With records of ``MMSAFeaturizer`` in ``X`` and labels in ``y``.
        metrics : deepchem.metrics.Metric, callable or sequence of either
        transformers : sequence of deepchem.trans.Transformer
            Undone on labels and predictions first.
        per_task_metrics : bool
            Whether to return the scores of each task too.
        use_sample_weights : bool
            Whether to weight molecules, where the metric can.
        n_classes : int, optional
            By default the model's.

        Returns
        -------
        dict or (dict, dict)
            Each metric's mean over the tasks that have a score, and its scores of the tasks.

        Raises
        ------
        TypeError, ValueError
            As :func:`deepchem_mmsa.evaluate.evaluate`.
        """
        n = self.config.n_classes if n_classes is None else n_classes
        return evaluate(
            self, dataset, metrics, transformers, per_task_metrics, use_sample_weights, n
        )


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


@contextmanager
def _whole(network: MMSANetwork) -> Iterator[None]:
    """Turn structure awareness on, and restore its state on exit."""
    before, network.structure_on = network.structure_on, True
    try:
        yield
    finally:
        network.structure_on = before
