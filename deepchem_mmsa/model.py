"""MMSAModel: DeepChem's model interface to :class:`~deepchem_mmsa.network.MMSANetwork`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import torch
from deepchem.models.optimizers import AdamW, LearningRateSchedule, Optimizer
from torch import Tensor, nn

from deepchem_mmsa import distributed, labels, training
from deepchem_mmsa.batch_norm import PreciseBatchNorm
from deepchem_mmsa.batch_preparation import prepared, prepared_by_workers
from deepchem_mmsa.config import CUSTOM, MMSAConfig
from deepchem_mmsa.epochs import batch_bounds, check_dataset, epoch_batches
from deepchem_mmsa.model_prediction import OUTPUT_TYPES, PredictingModel
from deepchem_mmsa.molecule import MODALITIES
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.optimizers import new_optimizer
from deepchem_mmsa.pretraining import tell_anchors
from deepchem_mmsa.randomness import seeded

logger = logging.getLogger(__name__)


class MMSAModel(PredictingModel):
    """Multi-modal molecular representation with structure awareness, as a DeepChem model.

    Parameters
    ----------
    config : MMSAConfig or str, optional
        A configuration, or a preset's name (``"base"``, ``"small"``).
    tasks : sequence of str, optional
        Task names; taken from the training set by default.
    model_dir, optimizer, tensorboard, wandb, log_frequency, regularization_loss, wandb_logger, loss
        As in :class:`deepchem.models.TorchModel`; without an optimizer it is AdamW.
    device : torch.device or str, optional
        By default, and with ``"auto"``, the GPU if there is one.
    progress : bool, optional
        Whether to show a progress bar, outside a terminal a line every half minute; by default
        only in a terminal.
    **overrides
        Fields of :class:`~deepchem_mmsa.config.MMSAConfig`: ``mode``, ``n_tasks``,
        ``modalities``, ``batch_size``, ``learning_rate`` (also a DeepChem
        ``LearningRateSchedule``), ``seed``, ... ``image``, ``graph``, ``geometry`` and
        ``fingerprint`` may also be custom modules, see docs/extending.md.

    Attributes
    ----------
    history : list of dict
        A row per epoch: step, learning rate, each loss term by name, validation scores.
    failures : list of tuple
        ``(row, smiles, reason)`` of the molecules that got NaN in the last prediction.

    Raises
    ------
    ValueError
        For an argument that is unknown or out of range; the message says what is allowed.

    Examples
    --------
    >>> import deepchem as dc
    >>> import numpy as np
    >>> from deepchem_mmsa import MMSAFeaturizer, MMSAModel
    >>> X = MMSAFeaturizer(modalities=("graph",)).featurize(["CCO", "c1ccccc1O", "CC(=O)N"])
    >>> data = dc.data.NumpyDataset(X, np.array([[0.3], [1.2], [-0.7]]))
    >>> model = MMSAModel("small", mode="regression", modalities=("graph",), batch_size=3)
    >>> loss = model.fit(data, nb_epoch=2)
    >>> model.predict(data).shape, model.predict_embedding(data).shape
    ((3, 1), (3, 256))
    """

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
        if not isinstance(config, (MMSAConfig, type(None))):
            config = MMSAConfig.preset(config)
        encoders = {
            name: overrides.pop(name)
            for name in MODALITIES
            if isinstance(overrides.get(name), nn.Module)
        }
        overrides.update(dict.fromkeys(encoders, CUSTOM))
        schedule = overrides.get("learning_rate")
        if isinstance(schedule, LearningRateSchedule):
            overrides["learning_rate"] = schedule.initial_rate
        config = (config or MMSAConfig()).replace(**overrides)
        tasks = list(tasks) if tasks is not None else None
        if tasks and len(tasks) != config.n_tasks and config.mode != "pretraining":
            raise ValueError(f"tasks={tasks} has {len(tasks)} names, but n_tasks={config.n_tasks}")
        self.progress = progress
        rate = schedule if isinstance(schedule, LearningRateSchedule) else config.learning_rate
        if optimizer is None:
            optimizer = AdamW(learning_rate=rate, weight_decay=config.weight_decay)
        with seeded(config.seed):
            network = MMSANetwork(config, encoders)
        if model_dir is not None:  # DeepChem fails if another process makes it at this moment
            os.makedirs(model_dir, exist_ok=True)
        super().__init__(
            network,
            config,
            tasks,
            loss=loss or self._default_loss,
            output_types=OUTPUT_TYPES[config.mode],
            batch_size=config.batch_size,
            model_dir=model_dir,
            learning_rate=rate,
            optimizer=optimizer,
            tensorboard=tensorboard,
            wandb=wandb,
            log_frequency=log_frequency,
            device=distributed.chosen_device(device),
            regularization_loss=regularization_loss,
            wandb_logger=wandb_logger,
        )
        self._ensure_built()

    # ---- training -----------------------------------------------------------------------

    def _ensure_built(self) -> None:
        """Create the optimizer, with encoders apart; anew if parts of the network were replaced."""
        parameters = list(self.model.parameters())
        known = getattr(getattr(self, "_pytorch_optimizer", None), "param_groups", [])
        if {id(p) for p in parameters} <= {id(p) for group in known for p in group["params"]}:
            return
        if not self._built:
            self._built, self._global_step = True, 0
        self._pytorch_optimizer, self._lr_schedule = new_optimizer(
            self.optimizer, self._apart(parameters), self.device
        )

    def _apart(self, parameters: Sequence[Tensor]) -> list[dict[str, Any]]:
        of_encoders = {id(p) for p in self.model.encoders.parameters()}
        first: dict[str, Any] = {"params": [p for p in parameters if id(p) in of_encoders]}
        if self.config.encoder_learning_rate is not None:
            first["lr"] = self.config.encoder_learning_rate
        rest = {"params": [p for p in parameters if id(p) not in of_encoders]}
        return [group for group in (first, rest) if group["params"]]

    def optimizer_for(
        self, variables: Sequence[Tensor] | None
    ) -> tuple[torch.optim.Optimizer, Any]:
        """Return (optimizer, schedule) for all parameters, or for `variables` only."""
        if variables is None:
            return self._pytorch_optimizer, self._lr_schedule
        key = tuple(variables)
        if key not in self._optimizer_for_vars:
            alike = self.config.encoder_learning_rate is None
            groups = variables if alike else self._apart(variables)
            self._optimizer_for_vars[key] = new_optimizer(self.optimizer, groups, self.device)
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
        skip_bad_batches: bool = False,
        n_workers: int = 0,
    ) -> float:
        """Train on a dataset; see ``TorchModel.fit`` for the arguments.

        Under ``torchrun``, each batch is split between the processes (docs/scaling.md).

        Parameters
        ----------
        dataset : deepchem.data.Dataset
            With records of ``MMSAFeaturizer`` in ``X``. Pre-training ignores ``y`` and ``w``.
        nb_epoch : int
            Total epochs of this run. With ``restore=True`` an interrupted run resumes at the
            batch of its newest checkpoint; without a checkpoint a new run starts, and a run that
            has ended returns immediately.
        max_checkpoints_to_keep, checkpoint_interval, deterministic, restore, variables, all_losses
            As in DeepChem.
        callbacks : callable or sequence of callable
            ``f(model, step)``, after each step; more events: :class:`~deepchem_mmsa.training.Run`.
        loss : callable, optional
            ``f([output], [labels], [weights])`` → scalar, instead of the default loss. The output
            is, in regression, the values ``[B, T]`` in label units; in classification the logits
            ``[B, T, C]``; in pre-training the terms ``[7]``. Weight 0 marks a missing label.
        skip_bad_batches : bool
            Whether to skip a batch whose loss or gradient is not finite, and count it in
            ``history``, instead of ending the run.
        n_workers : int
            Worker processes that read and collate batches ahead; 0 uses a background thread,
            which is fast enough for a CPU but not for a GPU. The batches are the same. Workers
            share the decoding of ``dataset_from_shards``; each reads all of any other dataset.

        Returns
        -------
        float
            Mean loss over the most recent logging interval.

        Raises
        ------
        ValueError
            For fewer than two molecules, labels that do not fit the mode, no label at all, or no
            molecule that the model can read; if a run would resume in the middle of an epoch with
            different data, batch size or order.
        RuntimeError
            If another run writes to ``model_dir``, or another process of this run has died.
        FloatingPointError
            If the loss or the gradient is not finite; the message names the batch's molecules.
        OSError
            If a checkpoint cannot be written.
        KeyboardInterrupt, SystemExit
            After Ctrl-C or SIGTERM, once a checkpoint is written.
        """
        check_dataset(dataset)
        n = len(dataset)
        if n < 2:
            raise ValueError(f"training needs at least 2 molecules, the dataset holds {n}")
        if self.config.mode == "pretraining" and self.batch_size < 2:
            logger.warning("batches of one molecule have no negatives for the contrastive loss")
        if self.config.mode != "pretraining":
            self._learn_labels(dataset)
        asked = (
            loss, variables, callbacks, max_checkpoints_to_keep, checkpoint_interval, all_losses,
            skip_bad_batches,
        )  # fmt: skip
        steps = nb_epoch * len(batch_bounds(n, self.batch_size))
        with self._begun(restore, *asked) as run:
            state, order = self._state, None if deterministic else self.config.seed
            state.check_sizes([n, self.batch_size, order], self.model_dir)
            last = state.first_epoch + nb_epoch
            if state.ended and (self.stop_training or state.epoch >= last):
                logger.info("the run in %s has ended: there is nothing to do", self.model_dir)
                self.model.eval()
                return state.last_logged
            if state.ended:
                run.call("on_fit_continue", self)
            state.ended = False
            if self.config.mode == "pretraining":
                run.callbacks = [*run.callbacks, PreciseBatchNorm(dataset)]
            if self.model.update_memory and self.model.memory is not None:
                self.model.memory.warmup = min(self.config.memory_warmup, n)
                tell_anchors(self.model)
            numbers = range(state.epoch, last)
            batches = partial(epoch_batches, dataset, self.batch_size, numbers, order, state.batch)
            if n_workers:
                return self._run(prepared_by_workers(batches, self._prepare, n_workers), run, steps)
            return self._run(prepared(batches(), self._prepare), run, steps)

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
        skip_bad_batches: bool = False,
    ) -> float:
        """Train on a generator of ``([X], [y], [w])``; see ``TorchModel.fit_generator``.

        With ``restore=True`` weights, optimizer and history are restored, but the generator is
        not advanced. In distributed training, each process must be given the same batches. What
        needs the length, epochs or labels of the training set has no effect, with a warning:
        ``schedule="staged"``, ``lr_schedule="cosine"``, ``freeze_epochs``, the scale of labels.
        """
        asked = (
            loss, variables, callbacks, max_checkpoints_to_keep, checkpoint_interval, all_losses,
            skip_bad_batches,
        )  # fmt: skip
        with self._begun(restore, *asked) as run:
            self._start()
            labels.do_without(self.model, self._labels_seen)
            return self._run(prepared(generator, self._prepare), run, None)

    @contextmanager
    def _begun(
        self,
        restore: bool,
        loss: Callable | None,
        variables: Sequence[Tensor] | None,
        callbacks: Callable | Sequence[Callable],
        *others: Any,
    ) -> Iterator[training.Run]:
        """Begin a run, or restore the newest checkpoint of one, in the model's locked folder."""
        distributed.start(self.device)
        self._ensure_built()
        chosen = [callbacks] if callable(callbacks) else list(callbacks)
        trained = None if variables is None else list(variables)  # an iterator is read once
        run = training.Run(self, self._objective(loss), trained, chosen, *others)
        with run.folder_held():
            run.call("on_fit_start", self)
            found = restore and bool(self.get_checkpoints())
            if found:
                run.load_state_dict(self._restore_run())
            else:
                self._start()
                self._state.logged, self._state.skipped = [], 0
            distributed.agree("their current step", [found, self._global_step])
            yield run

    def _start(self) -> None:
        self._state.begin(self._global_step)
        self.stop_training = False

    def _run(self, batches: Generator, run: training.Run, steps: int | None) -> float:
        self.model.train()
        self.model.training_dtype = training.training_precision(self.config, self.device)
        self._run_now = run
        placed = ((batch, self._placed(ready)) for batch, ready in batches)
        try:
            with closing(batches):
                return run.train(placed, steps, self._state, self._enter_step)
        finally:
            self._run_now = None  # releases its callbacks and their data
            self._resting = set()
            self._rest()
            self.model.eval()

    def _enter_step(self, batch: Any, step: int, total: int | None) -> None:
        """Set what depends on the position in the run: schedule, frozen encoders."""
        if self.config.mode == "pretraining":
            staged = self.config.schedule == "staged" and total is not None
            self.model.structure_on = not staged or step >= (total or 0) // 2
        epoch = getattr(batch, "epoch", math.inf) - self._state.first_epoch
        frozen = epoch < self.config.freeze_epochs
        rests = set(self.model.encoders) if frozen else set()
        if rests != self._resting:
            self._resting = rests
            self._rest()
            self.model.train()

    def fit_on_batch(self, X: Any, y: Any, w: Any, *arguments: Any, **named: Any) -> float:
        """Train on one batch; see ``TorchModel.fit_on_batch``. Not for pre-training.

        Label scale and balanced class weights are those of the first batch, which a warning says.

        Raises
        ------
        ValueError
            In pre-training, as memory and batch norm would be based on this batch alone.
        """
        if self.config.mode == "pretraining":
            raise ValueError(
                "pre-training needs more than one batch, to initialise the memory and for batch "
                "norm's statistics: use fit, or fit_generator"
            )
        balanced = self.config.class_weights == "balanced"
        taken = self.config.scale_labels if self.config.mode == "regression" else balanced
        if taken and not self._labels_seen:
            logger.warning(
                "label scale and class weights are those of this first batch; to take them from "
                "all data, call fit(dataset, nb_epoch=0) first"
            )
        return super().fit_on_batch(X, y, w, *arguments, **named)

    def _learn_labels(self, dataset: Any) -> None:
        """Check the labels; take task names, scale and class weights from the first dataset."""
        y, w = labels.check_labels(dataset, self.config)
        if self.tasks is None:
            names = dataset.get_task_names()  # numbers where it has none
            self.tasks = [str(t) if isinstance(t, str) else f"task {t}" for t in names]
        labels.check_task_order(dataset, self.tasks)
        labels.tell_unlabelled(w, self.tasks)
        if not self._labels_seen:
            self._labels_seen = True
            labels.set_statistics(self.model, y, w)
