"""Training loop, replacing DeepChem's.

One loop serves ``fit``, ``fit_generator`` and ``fit_on_batch``. Everything random in step s
is a function of (seed, s), and the order of epoch e of (seed, e), so that a run resumed from a
checkpoint takes exactly the steps of an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepchem_mmsa import distributed
from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.config import MMSAConfig
from deepchem_mmsa.epochs import EpochBatch, step_seed
from deepchem_mmsa.interruption import Interruption, exception_of
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.optimizers import cosine_factor, load_optimizer
from deepchem_mmsa.prefetching import prefetched
from deepchem_mmsa.pretraining import LOSS_TERMS
from deepchem_mmsa.progress import progress_bar, show_means
from deepchem_mmsa.randomness import seeded
from deepchem_mmsa.run_folder import RunFolder
from deepchem_mmsa.run_state import RunState
from deepchem_mmsa.trainee import Objective, Trainee

logger = logging.getLogger(__name__)

_NO_GRADIENT = (
    "the gradient is 0, so nothing is learnt: no term of the loss applies and has a weight; "
    "con takes two views, mask a graph encoder that shows its atoms, desc the "
    "fingerprint and another view, and con and align two molecules"
)


def training_precision(config: MMSAConfig, device: torch.device) -> torch.dtype | None:
    """Return the dtype in which encoders are trained, None for fp32.

    "auto" is bf16 where the hardware multiplies in it natively (emulated bf16 is twenty times
    slower than fp32).
    """
    if config.precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
            native = device.type == "cpu" and probe is not None and bool(probe())
        return torch.bfloat16 if native else None
    return torch.bfloat16 if config.precision == "bf16" else None


@dataclass
class Run:
    """One call of ``fit``: what it asks for, and the loop over its batches.

    Parameters
    ----------
    model : Trainee
    objective : Objective
    variables, callbacks, max_checkpoints_to_keep, checkpoint_interval, all_losses
        As in ``TorchModel.fit``. A callback may also have ``on_fit_start(model)``,
        ``on_fit_continue(model)`` (of an ended run that is given more epochs),
        ``on_epoch_end(model, epoch)``, ``on_fit_end(model)``, and
        ``state_dict``/``load_state_dict`` to be saved in checkpoints.
    skip_bad_batches : bool
        Whether to skip a batch whose loss or gradient is not finite instead of ending the run.
    folder : RunFolder, optional
        Where checkpoints are written, while the run holds it (:meth:`folder_held`).
    """

    model: Trainee
    objective: Objective
    variables: Sequence[Tensor] | None = None
    callbacks: Sequence[Callable] = ()
    max_checkpoints_to_keep: int = 5
    checkpoint_interval: int = 1000
    all_losses: list[float] | None = None
    skip_bad_batches: bool = False
    folder: RunFolder | None = None
    state: RunState = field(init=False)
    _idle_told: bool = field(default=False, init=False)

    @property
    def writes(self) -> bool:
        """Whether the run writes checkpoints."""
        return self.checkpoint_interval > 0 and self.max_checkpoints_to_keep > 0

    def call(self, event: str, *arguments: Any) -> None:
        """Call the callbacks that handle the event."""
        for callback in self.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(*arguments)

    @contextmanager
    def folder_held(self) -> Iterator[None]:
        """Lock the model's folder for the duration of a block, in the first process.

        Raises
        ------
        RuntimeError
            If another run writes there.
        OSError
            If it cannot be written to.
        """
        if not self.writes:
            yield
            return
        folder = RunFolder(self.model.model_dir)
        distributed.on_first(folder.__enter__)
        self.folder = folder if distributed.rank() == 0 else None
        try:
            yield
        finally:
            self.folder = None
            if distributed.rank() == 0:
                folder.__exit__()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs to resume this run, beside the model's own state."""
        of_variables = None
        if self.variables is not None:
            optimizer, schedule = self.model.optimizer_for(self.variables)
            of_variables = [optimizer.state_dict(), schedule.state_dict() if schedule else None]
        states = [c.state_dict() if hasattr(c, "state_dict") else {} for c in self.callbacks]
        return {"of_variables": of_variables, "callbacks": states}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Resume from a checkpoint, which holds what :meth:`state_dict` returned."""
        if self.all_losses is not None and not self.all_losses:
            self.all_losses.extend(saved.get("logged", []))
        for callback, state in zip(self.callbacks, saved["callbacks"]):
            if state and hasattr(callback, "load_state_dict"):  # {}: another kind of callback
                callback.load_state_dict(state)
        of_variables = saved.get("of_variables")  # older checkpoints lack them
        if self.variables is not None and of_variables is not None:
            load_optimizer(*self.model.optimizer_for(self.variables), *of_variables)

    def train(
        self,
        batches: Iterable[tuple[Any, tuple[MoleculeBatch, list, list]]],
        total_steps: int | None,
        state: RunState,
        enter_step: Callable[[Any, int, int | None], None],
    ) -> float:
        """Train over batches; the loop behind every ``fit`` method of the model.

        Threads of one process that train take turns, step by step.

        Parameters
        ----------
        batches : iterable
            Pairs of a batch as generators yield it (:class:`~deepchem_mmsa.epochs.EpochBatch` where
            epoch ends are known) and this process's share of it as tensors on the device.
        total_steps : int or None
            Steps of the whole run, for schedules; None if unknown.
        state : RunState
            Where the run begins or resumes; it is kept up to date.
        enter_step : callable
            ``f(batch, step, total_steps)``, called before each step; steps count from the run's
            first.

        Returns
        -------
        float
            Mean loss over the most recent logging interval.

        Raises
        ------
        FloatingPointError
            If loss or gradient is not finite; the molecules of the batch are named.
        ValueError
            If no molecule of an epoch has a view that the model reads.
        KeyboardInterrupt, SystemExit
            After SIGINT or SIGTERM, when the step is finished and a checkpoint written.
        """
        started, model, network, self.state = time.time(), self.model, self.model.model, state
        shown = model.progress if distributed.rank() == 0 else False
        done = model._global_step - state.first_step
        distributed.equalize(network)
        if state.is_epoch_over:  # a callback wrote the checkpoint, at the last step of an epoch
            self._close_epoch(state.epoch)
            network.train()
        served = int(state.batch > 0)  # an epoch being resumed was served before
        batch: Any = None
        with (
            # A run that was killed between its last step and its end only has to be finished.
            closing(prefetched(() if model.stop_training else batches)) as ready,
            Interruption() as interruption,
            progress_bar(shown, total=total_steps, initial=done, unit="step") as bar,
        ):
            for batch, (inputs, labels, weights) in ready:
                with seeded(self._seed_of_step(), model.device):
                    step = model._global_step
                    enter_step(batch, step - state.first_step, total_steps)
                    self._set_rate(step - state.first_step, total_steps)
                    stop = self._learn(inputs, labels, weights, bool(interruption.signal))
                    model._global_step = step + 1
                    served += int(inputs.available.any(1).sum())
                    bar.update(1)
                    if isinstance(batch, EpochBatch):
                        state.epoch, state.batch = batch.epoch, batch.position + 1
                    if (step + 1) % model.log_frequency == 0:
                        means = self._log()  # of steps that may belong to several epochs
                        of_epoch = (
                            state.of_epoch.means() if isinstance(batch, EpochBatch) else means
                        )
                        show_means(bar, state.epoch + 1, of_epoch)
                    for callback in self.callbacks:
                        callback(model, step + 1)
                    if isinstance(batch, EpochBatch) and batch.last:
                        self._check_served(served)
                        served = 0
                        self._close_epoch(batch.epoch)
                        show_means(bar, state.epoch, model.history[-1])
                    network.train()  # a callback may have predicted
                    if self.callbacks and distributed.is_shared():  # the first process decides
                        model.stop_training = distributed.gather_values(model.stop_training)[0]
                    if stop or (interruption.signal and not distributed.is_shared()):
                        self._stop(interruption.signal or signal.SIGTERM)
                    if self.writes and (step + 1) % self.checkpoint_interval == 0:
                        self._save()
                    if model.stop_training:
                        break

            if batch is not None and not isinstance(batch, EpochBatch):
                self._check_served(served)
            self._log()
            self.call("on_fit_end", model)
            distributed.equalize(network)
            if network.update_memory and network.memory is not None:
                network.memory.start()  # initialise anchors if shorter than the warm-up
            state.ended = True
            if self.writes:
                self._save()
        logger.info("TIMING: model fitting took %0.3f s", time.time() - started)
        if interruption.signal:
            raise exception_of(interruption.signal, "stopped; the run had just ended, and is saved")
        return state.last_logged

    def _seed_of_step(self) -> int:
        """Return a step's seed, per process: each masks other atoms, until `shared_seed` is set."""
        place = [distributed.rank() + 1] if distributed.is_shared() else []
        return step_seed(self.model.config.seed, self.model._global_step, *place)

    def _set_rate(self, step: int, total: int | None) -> None:
        optimizer, schedule = self.model.optimizer_for(self.variables)
        if self.model.config.lr_schedule == "cosine" and schedule is None:
            factor = cosine_factor(step, total) if total else 1.0  # a generator's length is unknown
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def _learn(self, inputs: MoleculeBatch, labels: list, weights: list, stop: bool) -> bool:
        """Take or skip one step; return whether any process was asked to stop."""
        network = self.model.model
        before = _state_of(network) if self.skip_bad_batches else None
        try:
            figures, stop = self._step(inputs, labels, weights, stop)
        except FloatingPointError as error:
            if before is None:
                raise
            logger.warning("skipped a batch: %s", error)
            _give_back(network, before)
            self.state.skipped += 1
            return False  # other processes' requests arrive with the next step's gradients
        if self.model.config.mode == "pretraining":
            figures.update(network.statistics)
        self.state.since_log.add(figures)
        self.state.of_epoch.add(figures)
        return stop

    def _step(
        self, inputs: MoleculeBatch, labels: list, weights: list, stop: bool
    ) -> tuple[dict[str, float], bool]:
        network, config, step = self.model.model, self.model.config, self.model._global_step
        optimizer, schedule = self.model.optimizer_for(self.variables)
        network.shared_seed = step_seed(config.seed, step)
        # All of the network's: parameters outside the optimizer would accumulate gradients.
        network.zero_grad(set_to_none=True)
        outputs = network(inputs)
        chosen = self.objective.chosen(outputs)
        if distributed.is_shared() and config.mode != "pretraining":
            n = len(chosen)
            gathered = distributed.gather(*chosen, *labels, *weights)
            chosen, labels = gathered[:n], gathered[n : n + len(labels)]
            weights = gathered[n + len(labels) :]
        value = self.objective.loss(chosen, labels, weights)
        if self.model.regularization_loss is not None and not self.objective.regularized:
            value = value + self.model.regularization_loss()
        figures = {"loss": float(value.detach())}
        if math.isfinite(figures["loss"]):
            value.backward()
            stop = distributed.average_gradients(
                network.parameters(), distributed.running_buffers(network), stop
            )
            # Also without clipping, for the norm: one bad gradient would spoil every weight.
            limit = math.inf if config.clip_norm is None else config.clip_norm
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            norm = float(torch.nn.utils.clip_grad_norm_(trained, limit))
        else:
            norm = math.nan
        if not math.isfinite(norm):
            what = "loss" if not math.isfinite(figures["loss"]) else "gradient"
            raise FloatingPointError(
                f"the {what} became {figures['loss'] if what == 'loss' else norm} at step {step}; "
                "lower the learning rate, or look at the labels and molecules of this batch: "
                f"{', '.join(distributed.gather_lists(inputs.smiles))}; checkpoints written before "
                "are good, and fit(..., skip_bad_batches=True) skips such batches"
            )
        idle = norm == 0 and config.mode == "pretraining" and bool(inputs.available.any())
        if idle and not self._idle_told:
            self._idle_told = True
            logger.warning("step %d: %s", step, _NO_GRADIENT)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if config.mode == "pretraining":
            figures.update(zip(LOSS_TERMS, outputs[1].detach().tolist()))
        return figures, stop

    def _check_served(self, served: int) -> None:
        """Raise if no molecule of an epoch had a view that the model reads."""
        if not any(distributed.gather_values(served)):
            views = self.model.config.modalities
            raise ValueError(
                f"no molecule of the data has a view that this model reads ({', '.join(views)}), "
                "so nothing was learnt: featurize with "
                f"MMSAFeaturizer(modalities={views}), and look at its failures"
            )

    def _close_epoch(self, epoch: int) -> None:
        """Append the epoch's row to the history, and call the callbacks."""
        model, state = self.model, self.state
        means = state.of_epoch.read()
        if "loss" not in means:
            raise FloatingPointError(
                f"every batch of epoch {epoch + 1} was skipped: the weights of the model, or the "
                "data, are not finite; go back to a good checkpoint and lower the learning rate"
            )
        state.epoch, state.batch = epoch + 1, 0
        optimizer, _ = model.optimizer_for(self.variables)
        model.history.append(
            {
                "epoch": epoch + 1,
                "step": model._global_step,
                "learning_rate": float(optimizer.param_groups[-1]["lr"]),
                **means,
            }
        )
        if self.skip_bad_batches:
            model.history[-1]["skipped_batches"] = state.skipped
            state.skipped = 0
        if model.config.mode == "pretraining" and model.model.memory is not None:
            model.history[-1]["anchors_in_use"] = model.model.memory.share_in_use()
        self.call("on_epoch_end", model, epoch + 1)

    def _save(self) -> None:
        distributed.on_first(lambda: self.model.save_checkpoint(self.max_checkpoints_to_keep))

    def _stop(self, number: int) -> None:
        """End an interrupted run, so that it can be resumed."""
        told = f"stopped by {signal.Signals(number).name} after step {self.model._global_step}; "
        if self.writes:
            self._save()
            told += (
                f"a checkpoint is in {self.model.model_dir}: the same command with "
                "fit(..., restore=True) resumes from there"
            )
        else:
            told += "no checkpoint was written, since checkpoints are off (checkpoint_interval=0)"
        if distributed.rank() == 0:
            logger.warning("%s", told)
        raise exception_of(number, told)

    def _log(self) -> dict[str, float]:
        """Log the mean figures since the last call, also to TensorBoard and W&B; return them."""
        model, step = self.model, self.model._global_step
        means = self.state.since_log.read()
        if "loss" not in means:
            return means
        self.state.logged.append(means["loss"])
        if self.all_losses is not None:
            self.all_losses.append(means["loss"])
        if distributed.rank() > 0:
            return means
        logger.info(
            "step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in means.items())
        )
        if model.tensorboard:
            for name, value in means.items():
                model._log_scalar_to_tensorboard(name, value, step)
        if model.wandb_logger is not None:
            model.wandb_logger.log_data({f"train/{k}": v for k, v in means.items()}, step=step)
        return means


def _state_of(network: MMSANetwork) -> tuple[list[tuple[Tensor, Tensor]], dict[str, Any] | None]:
    """Return what a forward pass changes: running statistics, and the memory."""
    memory = network.memory
    tensors = [*network.buffers(), *([] if memory is None else [memory.anchors])]
    kept = [(t, t.detach().clone()) for t in tensors]
    return kept, None if memory is None else memory.get_extra_state()


@torch.no_grad()
def _give_back(
    network: MMSANetwork, state: tuple[list[tuple[Tensor, Tensor]], dict[str, Any] | None]
) -> None:
    tensors, remembered = state
    for tensor, value in tensors:
        tensor.copy_(value)
    if network.memory is not None and remembered is not None:
        network.memory.set_extra_state(remembered)
