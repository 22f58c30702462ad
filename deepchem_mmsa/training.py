"""Training: what DeepChem's loop lacks.

One loop serves ``fit``, ``fit_generator`` and ``fit_on_batch``. Everything random in step s
is a function of (seed, s), and the order of epoch e of (seed, e), so that a run which goes on
from a checkpoint takes the very steps that the uninterrupted one takes.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from deepchem_mmsa.batching import Prefetcher
from deepchem_mmsa.pretraining import LOSS_TERMS

if TYPE_CHECKING:
    from deepchem_mmsa.model import MMSAModel

logger = logging.getLogger(__name__)

WARMUP_SHARE = 0.05
"""Share of the steps in which the cosine schedule rises."""


class EpochBatch(tuple):
    """``(inputs, labels, weights)`` that also knows its place in the epoch.

    Parameters
    ----------
    inputs, labels, weights : list of np.ndarray
        As DeepChem's generators yield them.
    epoch, position : int
        Number of the epoch since the model was made; of the batch in it.
    last : bool
        Whether it closes the epoch.
    """

    epoch: int
    position: int
    last: bool

    def __new__(
        cls, inputs: list, labels: list, weights: list, epoch: int, position: int, last: bool
    ) -> EpochBatch:
        """Make the triple and attach its place."""
        batch = super().__new__(cls, (inputs, labels, weights))
        batch.epoch, batch.position, batch.last = epoch, position, last
        return batch


def batch_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Return the (start, end) of each training batch; no molecule is left over.

    A last batch of one molecule has no other to be told apart from, and no batch statistics:
    it joins the one before.

    Examples
    --------
    >>> batch_bounds(7, 3)
    [(0, 3), (3, 7)]
    """
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, starts[1:] + [n]))


def epoch_batches(
    dataset: Any,
    batch_size: int,
    epochs: Iterable[int],
    seed: int | None,
    skip: int = 0,
) -> Iterator[EpochBatch]:
    """Yield a dataset's training batches, epoch by epoch.

    Parameters
    ----------
    dataset : deepchem.data.Dataset
    batch_size : int
    epochs : iterable of int
        Their numbers decide the order.
    seed : int or None
        None keeps the dataset's order.
    skip : int
        Batches of the first epoch that were already trained on.
    """
    n = len(dataset)
    bounds = batch_bounds(n, batch_size)
    for epoch in epochs:
        rows = _rows_in_order(
            dataset, None if seed is None else np.random.default_rng([seed, epoch])
        )
        pending: list[tuple[np.ndarray, ...]] = []
        held = 0
        for index, (start, end) in enumerate(bounds):
            while held < end - start:
                pending.append(next(rows))
                held += len(pending[-1][0])
            X, y, w = (np.concatenate(part) for part in zip(*pending))
            size = end - start
            pending, held = [(X[size:], y[size:], w[size:])], held - size
            if index >= skip:
                yield EpochBatch(
                    [X[:size]], [y[:size]], [w[:size]], epoch, index, index == len(bounds) - 1
                )
        skip = 0


def _rows_in_order(
    dataset: Any, generator: np.random.Generator | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (X, y, w) of one shard after the other, shuffled by `generator`.

    Shards are visited in a random order and shuffled inside: a disk dataset is never held in
    memory as a whole.
    """
    if hasattr(dataset, "get_number_shards"):
        order = np.arange(dataset.get_number_shards())
        if generator is not None:
            generator.shuffle(order)
        shards: Iterable = (dataset.get_shard(int(i))[:3] for i in order)
    else:
        shards = iter([(dataset.X, dataset.y, dataset.w)])
    for X, y, w in shards:
        n = len(X)
        y = np.zeros((n, 1)) if y is None else np.asarray(y)
        w = np.ones((n, 1)) if w is None else np.asarray(w)
        rows = np.arange(n) if generator is None else generator.permutation(n)
        yield np.asarray(X)[rows], y[rows], w[rows]


def step_seed(seed: int, step: int) -> int:
    """Return the seed of everything random in one training step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def cosine_factor(step: int, total: int) -> float:
    """Return the learning rate's factor: linear rise, then half a cosine down to 1 %.

    Examples
    --------
    >>> [round(cosine_factor(s, 100), 2) for s in (0, 4, 52, 99)]
    [0.2, 1.0, 0.5, 0.01]
    """
    rise = max(1, round(WARMUP_SHARE * total))
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise + 1) / max(1, total - rise)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class EarlyStopping:
    """Stop when the validation score no longer improves, and keep the best weights.

    A callback for ``fit``. It looks once an epoch.

    Parameters
    ----------
    dataset : deepchem.data.Dataset
        The validation set.
    metric : deepchem.metrics.Metric, optional
        What to watch; the validation loss by default.
    patience : int
        Epochs without improvement before the run stops.
    minimize : bool, optional
        Whether small is good; by default for the loss and for DeepChem's regression errors.
    transformers : sequence of deepchem.trans.Transformer
        Undone before scoring.

    Attributes
    ----------
    best_score : float or None
    best_epoch : int or None

    Examples
    --------
    >>> stopping = EarlyStopping(dataset=None, patience=5)
    >>> stopping.best_score is None
    True
    """

    def __init__(
        self,
        dataset: Any,
        metric: Any = None,
        patience: int = 10,
        minimize: bool | None = None,
        transformers: Sequence[Any] = (),
    ) -> None:
        self.dataset = dataset
        self.metric = metric
        self.patience = patience
        if minimize is None:
            name = getattr(metric, "name", "loss")
            minimize = metric is None or any(word in name for word in ("error", "rms", "mae"))
        self.minimize = minimize
        self.transformers = list(transformers)
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._best: dict[str, Any] | None = None

    def __call__(self, model: MMSAModel, step: int) -> None:
        """Do nothing at a step; see :meth:`on_epoch_end`."""

    def on_epoch_end(self, model: MMSAModel, epoch: int) -> None:
        """Score the model; remember its weights if it is the best so far."""
        name = "valid_loss"
        if self.metric is None:
            score = model.validation_loss(self.dataset)
        else:
            name = f"valid_{self.metric.name}"
            score = model.evaluate(self.dataset, [self.metric], self.transformers)[self.metric.name]
        model.history[-1][name] = score
        better = self.best_score is None or (
            score < self.best_score if self.minimize else score > self.best_score
        )
        if better and not math.isnan(score):
            self.best_score, self.best_epoch = score, epoch
            self._best = {
                k: v.detach().clone() if isinstance(v, Tensor) else v
                for k, v in model.model.state_dict().items()
            }
        elif self.best_epoch is not None and epoch - self.best_epoch >= self.patience:
            logger.info("no improvement for %d epochs: stopping", self.patience)
            model.stop_training = True

    def on_fit_end(self, model: MMSAModel) -> None:
        """Give the model its best weights back."""
        if self._best is not None:
            model.model.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep for the run to go on as if uninterrupted."""
        return {"score": self.best_score, "epoch": self.best_epoch, "weights": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.best_score, self.best_epoch = state["score"], state["epoch"]
        self._best = state["weights"]


class Averages:
    """Running means of named figures since they were last read.

    Parameters
    ----------
    sums, counts : dict, optional
        What was summed before, to go on from a checkpoint.

    Examples
    --------
    >>> averages = Averages()
    >>> averages.add({"loss": 1.0})
    >>> averages.add({"loss": 3.0, "mask": math.nan})
    >>> averages.read()
    {'loss': 2.0}
    """

    def __init__(
        self, sums: dict[str, float] | None = None, counts: dict[str, int] | None = None
    ) -> None:
        self.sums, self.counts = dict(sums or {}), dict(counts or {})

    def add(self, values: dict[str, float]) -> None:
        """Count figures in; NaN ones are passed over."""
        for name, value in values.items():
            if not math.isnan(value):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Return the means, and begin anew."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def run(
    model: MMSAModel,
    batches: Iterable[Any],
    loss: Callable[[list, list, list], Tensor],
    variables: Sequence[Tensor] | None,
    callbacks: Sequence[Callable],
    max_checkpoints_to_keep: int,
    checkpoint_interval: int,
    all_losses: list[float] | None,
    total_steps: int | None,
    first_step: int,
) -> float:
    """Train over `batches`; the one loop behind every ``fit`` of the model.

    Parameters
    ----------
    model : MMSAModel
    batches : iterable
        Triples as DeepChem's generators yield them; epoch ends are known from
        :class:`EpochBatch`.
    loss : callable
        ``f(outputs, labels, weights)`` → scalar.
    variables, callbacks, max_checkpoints_to_keep, checkpoint_interval, all_losses
        As in ``TorchModel.fit``. A callback may also have ``on_epoch_end(model, epoch)``,
        ``on_fit_end(model)``, and ``state_dict``/``load_state_dict`` to travel in checkpoints.
    total_steps : int or None
        Steps of the whole run, for schedules; None where it has no known end.
    first_step : int
        Global step at which the run began.

    Returns
    -------
    float
        Mean loss over the most recent logging interval.

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the molecules of the batch are named.
    """
    network, config = model.model, model.config
    optimizer, schedule = model.optimizer_for(variables)
    recent, of_epoch = model._averages
    last_loss = 0.0
    model.stop_training = False
    started = time.time()
    devices = [model.device] if model.device.type == "cuda" else []
    hidden = False if model.progress else (None if model.progress is None else True)
    prepared = ((batch, model._prepare_batch(batch)) for batch in batches)
    done = model._global_step - first_step
    with (
        torch.random.fork_rng(devices=devices),
        tqdm(total=total_steps, initial=done, unit="step", disable=hidden, file=sys.stderr,
             dynamic_ncols=True, mininterval=0.5) as bar,
    ):  # fmt: skip
        for batch, (inputs, labels, weights) in Prefetcher(prepared):
            step = model._global_step
            model._enter_step(batch, step - first_step, total_steps)
            torch.manual_seed(step_seed(config.seed, step))
            if config.lr_schedule == "cosine" and schedule is None and total_steps:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * cosine_factor(
                        step - first_step, total_steps
                    )

            optimizer.zero_grad(set_to_none=True)
            outputs = network(inputs)
            value = loss([outputs[i] for i in model._loss_outputs], labels, weights)
            if model.regularization_loss is not None:
                value = value + model.regularization_loss()
            if not bool(torch.isfinite(value)):
                raise FloatingPointError(
                    f"the loss became {float(value.detach())} at step {step}; lower the learning "
                    "rate, or look at the labels and molecules of this batch: "
                    f"{', '.join(inputs.smiles)}"
                )
            value.backward()
            if config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            model._global_step = step + 1

            figures = {"loss": float(value.detach())}
            if config.mode == "pretraining":
                figures.update(zip(LOSS_TERMS, outputs[1].detach().tolist()))
                figures.update(network.statistics)
            recent.add(figures)
            of_epoch.add(figures)
            bar.update(1)
            if isinstance(batch, EpochBatch):
                model._epoch, model._batch = batch.epoch, batch.position + 1
                if batch.last:
                    model._epoch, model._batch = batch.epoch + 1, 0
                    model.history.append(
                        {
                            "epoch": batch.epoch + 1,
                            "step": step + 1,
                            "learning_rate": float(optimizer.param_groups[-1]["lr"]),
                            **of_epoch.read(),
                        }
                    )
                    if config.mode == "pretraining" and network.memory is not None:
                        model.history[-1]["anchors_in_use"] = network.memory.share_in_use()
                    for callback in callbacks:
                        if hasattr(callback, "on_epoch_end"):
                            callback.on_epoch_end(model, batch.epoch + 1)
                    bar.set_postfix_str(
                        f"epoch {batch.epoch + 1} loss {model.history[-1]['loss']:.4g}"
                    )
            if (step + 1) % model.log_frequency == 0:
                last_loss = _log(model, recent.read(), step + 1, all_losses)
            for callback in callbacks:
                callback(model, step + 1)
            if checkpoint_interval > 0 and (step + 1) % checkpoint_interval == 0:
                model._callbacks = callbacks
                model.save_checkpoint(max_checkpoints_to_keep)
            network.train()  # a callback may have predicted
            if model.stop_training:
                break

    means = recent.read()
    if means:
        last_loss = _log(model, means, model._global_step, all_losses)
    for callback in callbacks:
        if hasattr(callback, "on_fit_end"):
            callback.on_fit_end(model)
    if config.mode == "pretraining" and network.memory is not None:
        network.memory.start()  # a run shorter than the warm-up starts with what it has seen
    if checkpoint_interval > 0:
        model._callbacks = callbacks
        model.save_checkpoint(max_checkpoints_to_keep)
    logger.info("TIMING: model fitting took %0.3f s", time.time() - started)
    return last_loss


def _log(
    model: MMSAModel, means: dict[str, float], step: int, all_losses: list[float] | None
) -> float:
    """Report mean figures under their names wherever the user asked for them."""
    logger.info(
        "step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in means.items())
    )
    if all_losses is not None:
        all_losses.append(means["loss"])
    if model.tensorboard:
        for name, value in means.items():
            model._log_scalar_to_tensorboard(name, value, step)
    if model.wandb_logger is not None:
        model.wandb_logger.log_data({f"train/{k}": v for k, v in means.items()}, step=step)
    return means["loss"]
