"""MMSAModel: DeepChem's model contract around :class:`~deepchem_mmsa.network.MMSANetwork`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from deepchem.models.optimizers import AdamW, LearningRateSchedule, Optimizer
from torch import Tensor, nn

from deepchem_mmsa import training
from deepchem_mmsa.batching import Collator, MoleculeBatch
from deepchem_mmsa.config import CUSTOM, MMSAConfig
from deepchem_mmsa.inference import training_precision
from deepchem_mmsa.labels import check_labels, class_weights, label_scaling
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.prediction import OUTPUT_TYPES, PredictingModel
from deepchem_mmsa.pretraining import LOSS_TERMS, pretraining_terms, total_loss

logger = logging.getLogger(__name__)


class MMSAModel(PredictingModel):
    """Multi-modal molecular representation with structure awareness, as a DeepChem model.

    Parameters
    ----------
    config : MMSAConfig or str, optional
        A configuration, or a preset's name (``"base"``, ``"small"``).
    tasks : sequence of str, optional
        Task names; taken from the training set by default.
    model_dir, optimizer, tensorboard, wandb, log_frequency, device, regularization_loss, \
wandb_logger, loss
        As in :class:`deepchem.models.TorchModel`; without an optimizer it is AdamW.
    progress : bool, optional
        Whether to show a progress bar; by default where there is a terminal.
    **overrides
        Fields of :class:`~deepchem_mmsa.config.MMSAConfig`: ``mode``, ``n_tasks``,
        ``modalities``, ``batch_size``, ``learning_rate`` (also a DeepChem
        ``LearningRateSchedule``), ``seed``, ... ``image``, ``graph`` and ``geometry`` may also
        be modules of one's own, see docs/extending.md.

    Attributes
    ----------
    history : list of dict
        A row per epoch: step, learning rate, each loss term by name, validation scores.
    failures : list of tuple
        ``(row, smiles, reason)`` of the molecules that the last prediction could not serve.

    Raises
    ------
    ValueError
        For an argument that is unknown or out of range; the message says what is allowed.

    Examples
    --------
    >>> import deepchem as dc
    >>> from deepchem_mmsa import MMSAFeaturizer, MMSAModel
    >>> X = MMSAFeaturizer(modalities=("graph",)).featurize(["CCO", "c1ccccc1O", "CC(=O)N"])
    >>> data = dc.data.NumpyDataset(X, np.array([[0.3], [1.2], [-0.7]]))
    >>> model = MMSAModel("small", mode="regression", modalities=("graph",), batch_size=3)
    >>> loss = model.fit(data, nb_epoch=2)
    >>> model.predict(data).shape, model.predict_embedding(data).shape
    ((3, 1), (3, 256))
    """

    model: MMSANetwork

    def __init__(
        self,
        config: MMSAConfig | str | None = None,
        *,
        tasks: Sequence[str] | None = None,
        model_dir: str | None = None,
        optimizer: Optimizer | None = None,
        tensorboard: bool = False,
        wandb: bool = False,
        log_frequency: int = 100,
        device: torch.device | str | None = None,
        regularization_loss: Callable | None = None,
        wandb_logger: Any = None,
        loss: Callable | None = None,
        progress: bool | None = None,
        **overrides: Any,
    ) -> None:
        if isinstance(config, str):
            config = MMSAConfig.preset(config)
        encoders = {
            name: overrides.pop(name)
            for name in ("image", "graph", "geometry")
            if isinstance(overrides.get(name), nn.Module)
        }
        overrides.update(dict.fromkeys(encoders, CUSTOM))
        schedule = overrides.get("learning_rate")
        if isinstance(schedule, LearningRateSchedule):
            overrides["learning_rate"] = schedule.initial_rate
        self.config = (config or MMSAConfig()).replace(**overrides)
        self.tasks = list(tasks) if tasks is not None else None
        self.progress = progress
        rate = schedule if isinstance(schedule, LearningRateSchedule) else self.config.learning_rate
        if optimizer is None:
            optimizer = AdamW(learning_rate=rate, weight_decay=self.config.weight_decay)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            network = MMSANetwork(self.config, encoders)
        super().__init__(
            network,
            loss=loss or self._default_loss,
            output_types=OUTPUT_TYPES[self.config.mode],
            batch_size=self.config.batch_size,
            model_dir=model_dir,
            learning_rate=rate,
            optimizer=optimizer,
            tensorboard=tensorboard,
            wandb=wandb,
            log_frequency=log_frequency,
            device=None if device is None else torch.device(device),
            regularization_loss=regularization_loss,
            wandb_logger=wandb_logger,
        )
        self._collate = Collator(
            self.config.modalities, self.config.image_size, self.config.hydrogens
        )
        self.history: list[dict[str, float]] = []
        self.failures: list[tuple[int, str, str]] = []
        self.stop_training = False
        # Place in the run: epochs since the model was made, batches of the current one.
        self._epoch = self._batch = self._fit_start = self._fit_step = 0
        self._averages = [training.Averages(), training.Averages()]
        self._callbacks: Sequence[Callable] = ()
        self._callback_states: list[dict[str, Any]] = []
        self._labels_seen = False
        self._resting: set[str] = set()
        self._ensure_built()

    def _default_loss(self, outputs: list, labels: list, weights: list) -> Tensor:
        if self.config.mode == "pretraining":
            return total_loss(outputs[0], self.config)
        return self.model.supervised_loss(outputs[0], labels[0], weights[0])

    # ---- training -----------------------------------------------------------------------

    def _ensure_built(self) -> None:
        """Create the optimizer, with a group of its own for the encoders."""
        if self._built:
            return
        self._built = True
        self._global_step = 0
        encoders = list(self.model.encoders.parameters())
        of_encoders = {id(p) for p in encoders}
        rest = [p for p in self.model.parameters() if id(p) not in of_encoders]
        first: dict[str, Any] = {"params": encoders}
        if self.config.encoder_learning_rate is not None:
            first["lr"] = self.config.encoder_learning_rate
        groups = [group for group in (first, {"params": rest}) if group["params"]]
        self._pytorch_optimizer, self._lr_schedule = self._new_optimizer(groups)

    def _new_optimizer(self, parameters: Any) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = self.optimizer._create_pytorch_optimizer(parameters)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        rate = self.optimizer.learning_rate
        if isinstance(rate, LearningRateSchedule):
            return optimizer, rate._create_pytorch_schedule(optimizer)
        return optimizer, None

    def optimizer_for(
        self, variables: Sequence[Tensor] | None
    ) -> tuple[torch.optim.Optimizer, Any]:
        """Return (optimizer, schedule) of all parameters, or of the chosen ones."""
        if variables is None:
            return self._pytorch_optimizer, self._lr_schedule
        key = tuple(variables)
        if key not in self._optimizer_for_vars:
            self._optimizer_for_vars[key] = self._new_optimizer(list(variables))
        return self._optimizer_for_vars[key]

    def fit(
        self,
        dataset: Any,
        nb_epoch: int = 10,
        max_checkpoints_to_keep: int = 5,
        checkpoint_interval: int = 1000,
        deterministic: bool = False,
        restore: bool = False,
        variables: Sequence[Tensor] | None = None,
        loss: Callable | None = None,
        callbacks: Callable | Sequence[Callable] = (),
        all_losses: list[float] | None = None,
    ) -> float:
        """Train on a dataset; see ``TorchModel.fit`` for the arguments.

        Parameters
        ----------
        dataset : deepchem.data.Dataset
            With records of ``MMSAFeaturizer`` in ``X``. Pre-training ignores ``y`` and ``w``.
        nb_epoch : int
            Epochs of this run, in total: with ``restore=True`` a run that was interrupted
            goes on at the very batch where its newest checkpoint stands.
        max_checkpoints_to_keep, checkpoint_interval, deterministic, restore, variables, loss, \
callbacks, all_losses
            As in DeepChem.

        Returns
        -------
        float
            Mean loss over the most recent logging interval.

        Raises
        ------
        ValueError
            For an empty dataset, labels that do not fit the mode, or no label at all.
        """
        n = len(dataset)
        if n < 2:
            raise ValueError(f"training needs at least 2 molecules, the dataset holds {n}")
        if self.config.mode != "pretraining":
            self._learn_labels(dataset)
        self._callback_states = []
        if restore and self.get_checkpoints():
            self.restore()
        else:
            self._begin()
        memory = self.model.memory
        if self.config.mode == "pretraining" and memory is not None:
            memory.warmup = min(self.config.memory_warmup, n)
        chosen = [callbacks] if callable(callbacks) else list(callbacks)
        for callback, state in zip(chosen, self._callback_states):
            if hasattr(callback, "load_state_dict"):
                callback.load_state_dict(state)
        batches = self.default_generator(dataset, nb_epoch, deterministic=deterministic)
        steps = nb_epoch * len(training.batch_bounds(n, self.batch_size))
        return self._run(
            batches, loss, variables, chosen, max_checkpoints_to_keep, checkpoint_interval,
            all_losses, steps,
        )  # fmt: skip

    def fit_generator(
        self,
        generator: Iterable[tuple[Any, Any, Any]],
        max_checkpoints_to_keep: int = 5,
        checkpoint_interval: int = 1000,
        restore: bool = False,
        variables: Any = None,
        loss: Callable | None = None,
        callbacks: Callable | Sequence[Callable] = (),
        all_losses: list[float] | None = None,
    ) -> float:
        """Train on a generator of ``([X], [y], [w])``; see ``TorchModel.fit_generator``."""
        if restore:
            self.restore()
        self._begin()
        chosen = [callbacks] if callable(callbacks) else list(callbacks)
        return self._run(
            generator, loss, variables, chosen, max_checkpoints_to_keep, checkpoint_interval,
            all_losses, None,
        )  # fmt: skip

    def _begin(self) -> None:
        """Note where a new run starts."""
        self._fit_start, self._fit_step, self._batch = self._epoch, self._global_step, 0
        self._averages = [training.Averages(), training.Averages()]

    def _run(
        self,
        batches: Iterable,
        loss: Callable | None,
        variables: Any,
        callbacks: list[Callable],
        keep: int,
        interval: int,
        all_losses: list[float] | None,
        steps: int | None,
    ) -> float:
        self.model.train()
        self.model.autocast_dtype = training_precision(self.config, self.device)
        try:
            return training.run(
                self, batches, loss or self._loss_fn, variables, callbacks, keep, interval,
                all_losses, steps, self._fit_step,
            )  # fmt: skip
        finally:
            self._resting = set()
            self._rest()
            self.model.eval()

    def _enter_step(self, batch: Any, step: int, total: int | None) -> None:
        """Set what depends on the place in the run: schedule, resting encoders, precision."""
        if self.config.mode == "pretraining":
            staged = self.config.schedule == "staged" and total is not None
            self.model.structure_on = not staged or step >= (total or 0) // 2
        epoch = getattr(batch, "epoch", self._fit_start) - self._fit_start
        rests = set(self.model.encoders) if epoch < self.config.freeze_epochs else set()
        if rests != self._resting:
            self._resting = rests
            self._rest()
            self.model.train()
        self.model.autocast_dtype = training_precision(self.config, self.device)

    def _learn_labels(self, dataset: Any) -> None:
        """Check the labels; take task names, scale and class weights from the first set."""
        y, w = check_labels(dataset, self.config)
        if self.tasks is None:
            self.tasks = [str(t) for t in dataset.get_task_names()]
        if self._labels_seen:
            return
        self._labels_seen = True
        network = self.model
        if self.config.mode == "regression" and self.config.scale_labels:
            mean, scale = label_scaling(y, w)
            network.label_mean.copy_(torch.from_numpy(mean))
            network.label_scale.copy_(torch.from_numpy(scale))
        if self.config.mode == "classification" and self.config.class_weights is not None:
            weights = class_weights(y, w, self.config)
            network.class_weight.copy_(torch.from_numpy(weights))

    def validation_loss(self, dataset: Any) -> float:
        """Return the loss over a dataset in evaluation mode, weighted by the labels there.

        In pre-training the random parts (masks, subsets) are the same at every call.
        """
        total, count = 0.0, 0.0
        with self._evaluating(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            for batch in self.default_generator(dataset, mode="predict"):
                inputs, labels, weights = self._prepare_batch(batch)
                if self.config.mode == "pretraining":
                    if len(inputs) < 2:
                        continue
                    terms = pretraining_terms(self.model, inputs)[1]
                    value = total_loss(torch.stack([terms[n] for n in LOSS_TERMS]), self.config)
                    share = float(len(inputs))
                else:
                    raw = self.model(inputs)[1]
                    value = self.model.supervised_loss(raw, labels[0], weights[0])
                    share = float(weights[0].sum())
                total, count = total + share * float(value), count + share
        return total / count if count else float("nan")

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
            ``"fit"`` starts where the run stands, and the order of each epoch depends on the
            seed and its number alone.
        deterministic : bool
            Whether to keep the dataset's order.
        pad_batches : bool
            Ignored: repeating molecules would be wrong for contrast and hypergraph.
        """
        if hasattr(dataset, "memory_cache_size"):
            # DeepChem's cache of 20 MB counts 8 bytes for a record: it would keep them all.
            dataset.memory_cache_size = 0
        if mode == "fit":
            numbers = range(self._epoch, self._fit_start + epochs)
            seed = None if deterministic else self.config.seed
            yield from training.epoch_batches(
                dataset, self.batch_size, numbers, seed, skip=self._batch
            )
            return
        for _ in range(epochs if len(dataset) else 0):
            for X, y, w, _ids in dataset.iterbatches(
                batch_size=self.batch_size, deterministic=True, pad_batches=False
            ):
                yield [X], [y], [w]

    def _prepare_batch(self, batch: tuple[Any, Any, Any]) -> tuple[MoleculeBatch, list, list]:
        """Turn a triple of DeepChem's generators into tensors on the model's device."""
        inputs, labels, weights = batch
        molecules = self._collate(inputs[0])
        if labels is None or labels[0] is None or self.config.mode == "pretraining":
            return molecules.to(self.device), [], []
        y = np.asarray(labels[0], dtype=np.float32).reshape(len(molecules), -1)
        w = None if weights is None else weights[0]
        w = np.ones_like(y) if w is None else np.asarray(w, dtype=np.float32)
        w = np.broadcast_to(w.reshape(len(y), -1), y.shape)
        # A missing label, or a molecule without any view, weighs nothing.
        there = ~np.isnan(y) & molecules.available.any(1).numpy()[:, None]
        y, w = np.where(there, y, 0), np.where(there, w, 0)
        return (
            molecules.to(self.device),
            [torch.from_numpy(y).to(self.device)],
            [torch.from_numpy(w.astype(np.float32)).to(self.device)],
        )
