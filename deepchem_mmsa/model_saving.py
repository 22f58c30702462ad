"""Saving and loading of models: checkpoints, exports, and copies of single components."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import torch
from deepchem.models.torch_models.torch_model import TorchModel
from torch import nn

from deepchem_mmsa import checkpoint as files
from deepchem_mmsa import distributed, exports
from deepchem_mmsa.config import ARCHITECTURE, OF_THE_HEAD, MMSAConfig
from deepchem_mmsa.molecule import MODALITIES
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.optimizers import load_optimizer
from deepchem_mmsa.run_state import RunState
from deepchem_mmsa.training import Run

logger = logging.getLogger(__name__)

TOP = ("head", "atom_head", "descriptor_head")
"""Components that belong to a task, not to the representation."""


class SavableModel(TorchModel):
    """A ``TorchModel`` whose checkpoints hold the whole run, and whose weights load by name.

    ``TorchModel`` itself restores neither schedule nor position in the run, copies parameters by
    their order, and ignores buffers. The lowest storey of
    :class:`~deepchem_mmsa.model.MMSAModel`: it holds what files hold.
    """

    model: MMSANetwork
    _built: bool

    def __init__(
        self, network: MMSANetwork, config: MMSAConfig, tasks: list[str] | None, **others: Any
    ) -> None:
        self.config, self.tasks = config, tasks
        self.classes: list[str] | None = None
        self.history: list[dict[str, float]] = []
        self.stop_training = False
        self._state = RunState()
        self._run_now: Run | None = None  # during ``fit``
        self._labels_seen = False  # by this model
        self._from_labels = False  # seen by the models that its weights come from
        self._resting: set[str] = set()  # components frozen by the run
        self._held: set[str] = set()  # and by the user
        self._owner = os.getpid()  # the process that made the temporary folder
        super().__init__(network, **others)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out TensorBoard's writer, whose threads cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_summary_writer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Give a copy its own temporary folder, since a model removes its folder when deleted."""
        self.__dict__.update(state)
        if state.get("model_dir_is_temp"):
            self.model_dir = tempfile.mkdtemp()
            self._owner = os.getpid()
        if state.get("tensorboard"):
            self._summary_writer = torch.utils.tensorboard.SummaryWriter(self.model_dir)

    def __del__(self) -> None:
        """Remove the temporary folder, but only in the process that made it, not in forks."""
        if self.__dict__.get("model_dir_is_temp") and self._owner == os.getpid():
            shutil.rmtree(self.model_dir, ignore_errors=True)

    # ---- components ---------------------------------------------------------------------

    def freeze_components(self, names: Sequence[str], freeze: bool = True) -> None:
        """Freeze components (batch-norm statistics included), or unfreeze them.

        Parameters
        ----------
        names : sequence of str
            Any of ``"image"``, ``"graph"``, ``"geometry"``, ``"fingerprint"``, ``"fusion"``,
            ``"hypergraph"``, ``"memory"``, ``"readout"``, ``"head"``.
        freeze : bool
            False unfreezes them.

        Raises
        ------
        ValueError
            For a component that this model does not have.
        """
        parts = self._components(names)
        self._held = self._held | set(parts) if freeze else self._held - set(parts)
        for name, part in parts.items():
            # Anchors, also as parameters, stay fixed in fine-tuning unless update_memory is set.
            if freeze or name != "memory" or self.model.update_memory:
                part.requires_grad_(not freeze)
        self._rest()

    def _components(self, names: Sequence[str]) -> dict[str, nn.Module]:
        parts = self.model.components()
        unknown = [name for name in names if name not in parts]
        if unknown:
            raise ValueError(f"no component {unknown}; this model has {list(parts)}")
        return {name: parts[name] for name in names}

    def _rest(self) -> None:
        frozen = {n for n, m in self.model.components().items() if _is_frozen(m)}
        self.model.frozen = self._resting | frozen | self._held

    # ---- files --------------------------------------------------------------------------

    def save_checkpoint(
        self, max_checkpoints_to_keep: int = 5, model_dir: str | None = None
    ) -> None:
        """Write all that a run needs to resume; see docs/reliability.md and ``TorchModel``.

        In distributed training, only the first process writes.

        Raises
        ------
        OSError
            If it cannot be written; earlier checkpoints are unharmed.
        """
        if max_checkpoints_to_keep == 0 or distributed.rank() > 0:
            return
        folder = Path(model_dir or self.model_dir)
        run = self._run_now
        if run is not None and run.folder is not None and folder == run.folder.path:
            run.folder.check()
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": self.config.to_dict(),
            "tasks": self.tasks,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self._pytorch_optimizer.state_dict(),
            "schedule": self._lr_schedule.state_dict() if self._lr_schedule else None,
            "global_step": self._global_step,
            **self._state.to_dict(),
            "labels_seen": self._labels_seen,
            "from_labels": self._from_labels,
            "history": self.history,
            "stopped": self.stop_training,
            **({"of_variables": None, "callbacks": []} if run is None else run.state_dict()),
        }
        files.rotate_and_save(folder, state, max_checkpoints_to_keep)

    def get_checkpoints(self, model_dir: str | None = None) -> list[str]:
        """Return the checkpoint files of a folder, the newest first."""
        return files.checkpoints_in(model_dir or self.model_dir)

    def restore(
        self,
        checkpoint: str | None = None,
        model_dir: str | None = None,
        strict: bool | None = True,
    ) -> None:
        """Restore a checkpoint, by default the newest one that can be read.

        This model keeps its own learning rates and weight decay. A warning lists these and other
        settings outside the architecture where they differ from the checkpoint's.

        Raises
        ------
        CheckpointError
            If it is damaged, or has another architecture (the message lists the differences).
        FileNotFoundError
            If `checkpoint` does not exist.
        ValueError
            If no checkpoint is found.
        """
        self._restore_run(checkpoint, model_dir, bool(strict))

    def _restore_run(
        self, checkpoint: str | None = None, model_dir: str | None = None, strict: bool = True
    ) -> dict[str, Any]:
        """Restore a checkpoint and return its whole state, of which a resumed run needs more."""
        self._ensure_built()  # parts of the network may have been replaced
        paths = [checkpoint] if checkpoint is not None else self.get_checkpoints(model_dir)
        path, state = files.load_newest(paths)
        theirs = MMSAConfig.from_dict(state["config"])
        files.check_architecture(self.config, theirs, path)
        if strict:  # before anything is copied; a custom encoder or head may be another
            saved = files.tensors_in(state["model_state_dict"])
            files.check_tensors(exports.tensors_of(self.model), saved, ("",), path)
        self.model.load_state_dict(state["model_state_dict"], strict=strict)
        others = [f.name for f in fields(theirs) if f.name not in ARCHITECTURE]
        if changed := self.config.differences(theirs, others):
            logger.warning(
                "%s was written with other settings; training continues with this model's (%s)",
                path, "; ".join(changed),
            )  # fmt: skip
        states = state["optimizer_state_dict"], state["schedule"]
        load_optimizer(self._pytorch_optimizer, self._lr_schedule, *states)
        self._global_step = state["global_step"]
        self._state = RunState.from_dict(state)
        self._labels_seen = state["labels_seen"]
        self._from_labels = state.get("from_labels", False)
        self.tasks, self.history = state["tasks"], state["history"]
        self.stop_training = state.get("stopped", False)  # older checkpoints lack it
        return state

    def save(self) -> None:
        """Write the model to ``model_dir``, for :meth:`reload`."""
        self.save_checkpoint()

    def reload(self) -> None:
        """Read what :meth:`save` wrote."""
        self.restore()

    def save_pretrained(
        self,
        folder: str | Path,
        exemplars: bool = True,
        metadata: Mapping[str, Any] | None = None,
        precision: str = "fp32",
    ) -> None:
        """Export the model as safetensors and JSON.

        Parameters
        ----------
        folder : path-like
        exemplars : bool
            Whether to include the memory's exemplars, which name training molecules.
        metadata : mapping, optional
            JSON-serialisable notes: data, licence, scores.
        precision : {"fp32", "bf16"}
            ``"bf16"`` halves the file; weights keep three significant digits.
        """
        remembered = self.model.exemplars if exemplars else []
        notes = {
            "tasks": self.tasks,
            "labels_seen": self._labels_seen,
            "from_labels": self._from_labels or self._labels_seen,
            "classes": self.classes,
            **(metadata or {}),
        }
        exports.export(folder, self.model, self.config, remembered, notes, precision)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        mode: str | None = None,
        n_tasks: int | None = None,
        **arguments: Any,
    ) -> Self:
        """Build a model from an exported one.

        Parameters
        ----------
        folder_or_name : path-like
            A folder written by :meth:`save_pretrained`, the name of a shipped model, or one on
            the Hugging Face hub: ``hf:owner/model`` (see :mod:`deepchem_mmsa.hub`).
        mode, n_tasks : optional
            For fine-tuning: the model gets a new head, and takes label scale and task names from
            the new training set, even if the exported model had a head of the same kind. Without
            them the exported head is kept.
        **arguments
            Arguments of the constructor. Defaults are the exported model's settings, including
            those of its training: learning rate and schedule, batch size.

        Raises
        ------
        FileNotFoundError
            If there is no such folder or model.
        CheckpointError
            If its files are damaged, or hold no weights for the `modalities` that are asked for.
        ValueError
            For an argument that is unknown or out of range.

        Examples
        --------
        >>> from deepchem_mmsa import MMSAModel
        >>> model = MMSAModel.from_pretrained("mmsa-small", mode="regression", n_tasks=1)
        >>> model.freeze_components(["graph", "fingerprint"])  # train the rest only
        """
        source = exports.load_pretrained(folder_or_name)
        wanted = arguments.get("modalities") or ()
        absent = [m for m in ([wanted] if isinstance(wanted, str) else wanted)
                  if m in MODALITIES and m not in source.config.modalities]  # fmt: skip
        if absent:
            raise files.CheckpointError(
                f"{folder_or_name} reads {', '.join(source.config.modalities)}; it has no weights "
                f"for {', '.join(absent)}: leave it out, or take another model"
            )
        changes = {k: v for k, v in (("mode", mode), ("n_tasks", n_tasks)) if v is not None}
        make: Callable[..., Self] = cls  # the constructor of MMSAModel
        model = make(source.config, **changes, **arguments)
        if n_tasks is not None and model.config.mode == "pretraining":
            logger.warning(
                "n_tasks=%d has no effect: %s was pre-trained only, and without mode= it is "
                "pre-trained further, ignoring labels", n_tasks, folder_or_name,
            )  # fmt: skip
        pretraining = model.config.mode == source.config.mode == "pretraining"
        deciding = [name for name in ARCHITECTURE if not pretraining or name not in OF_THE_HEAD]
        differing = model.config.differences(source.config, deciding)
        same = not differing and (not changes or model.config.mode == "pretraining")
        if differing and not changes and source.config.mode != "pretraining":
            logger.warning(
                "%s with another architecture (%s) gets a new, untrained head",
                folder_or_name, "; ".join(differing),
            )  # fmt: skip
        if same:
            model.tasks = model.tasks or source.metadata.get("tasks")
            model.classes = source.metadata.get("classes")
            model._labels_seen = bool(source.metadata.get("labels_seen"))
            if model.config.class_weights != source.config.class_weights:
                model._labels_seen = False
        chosen = None if same else [n for n in model.model.components() if n not in TOP]
        model._copy_components(source, chosen, str(folder_or_name))
        return model

    def load_from_pretrained(
        self,
        source_model: TorchModel | str | Path,
        assignment_map: dict | None = None,
        value_map: dict | None = None,
        checkpoint: str | None = None,
        model_dir: str | None = None,
        include_top: bool = False,
        inputs: Any = None,
        components: Sequence[str] | None = None,
    ) -> None:
        """Copy components by name, including buffers (batch norm, memory).

        Parameters
        ----------
        source_model : MMSAModel or path-like
            A model, or a folder or name as in :meth:`from_pretrained`.
        assignment_map : dict, optional
            Parameters of the source, any ``TorchModel``, to those of this model; without buffers.
        value_map : dict, optional
            Parameters of the source to the values that are copied instead of their own.
        inputs : optional
            Ignored: the parameters exist from the start.
        checkpoint, model_dir : str, optional
            A checkpoint to restore into the source first, if the source is a model.
        include_top : bool
            Whether to copy the head too, with the label scale.
        components : sequence of str, optional
            Names as in :meth:`freeze_components`; by default all but the head.

        Raises
        ------
        TypeError
            If the source is a model of another kind.
        CheckpointError
            If a component is missing in the source or has other shapes; nothing is copied then.
        FileNotFoundError
            If there is no such folder or model.
        ValueError
            If a component does not exist, or a checkpoint is given for an exported model.
        """
        stored = checkpoint is not None or model_dir is not None
        if assignment_map is not None or value_map is not None:
            if components is not None:
                raise ValueError("components are copied by name: leave out the maps, or components")
            if stored:
                source_model.restore(checkpoint, model_dir)  # type: ignore[union-attr]
            if assignment_map is None:
                assignment_map = self._create_assignment_map(source_model, include_top)
            _copy_parameters(assignment_map, value_map)
            self._from_labels |= _has_seen_labels(source_model)
            return
        if isinstance(source_model, SavableModel):
            if stored:
                source_model.restore(checkpoint, model_dir)
            notes = {"labels_seen": source_model._labels_seen}
            notes["from_labels"] = _has_seen_labels(source_model)
            tensors = exports.tensors_of(source_model.model)
            exemplars = source_model.model.exemplars
            source = exports.Pretrained(source_model.config, tensors, exemplars, notes)
            name = "the source model"
        else:
            if not isinstance(source_model, (str, os.PathLike)):
                raise TypeError(
                    f"the source is a {type(source_model).__name__}; give an MMSAModel, or a "
                    "folder or name as in from_pretrained"
                )
            if stored:
                raise ValueError(
                    f"{source_model} is an exported model, which has no checkpoints: leave out "
                    "checkpoint and model_dir"
                )
            source, name = exports.load_pretrained(source_model), str(source_model)
        if components is None:
            top = TOP[1:] if include_top else TOP
            components = [n for n in self.model.components() if n not in top]
        self._copy_components(source, components, name)

    def _copy_components(
        self, source: exports.Pretrained, components: Sequence[str] | None, name: str
    ) -> None:
        if "head" in (components or ()) and source.config.atom_sum and not self.config.atom_sum:
            raise files.CheckpointError(
                f"the head of {name} also sums over atoms: give this model atom_sum=True, or "
                "leave the head out"
            )
        self._from_labels |= source.from_labels
        prefixes = [""]
        if components is not None:
            self._components(components)
            prefixes = [
                f"encoders.{c}." if c in self.config.modalities else f"{c}." for c in components
            ]
            if "image" in components:
                prefixes.append("picture_size")
            if "head" in components and self.config.mode == "regression":
                prefixes += ["label_mean", "label_scale"]
                self._labels_seen = bool(source.metadata.get("labels_seen"))
        exports.copy_tensors(self.model, source.tensors, prefixes, name)
        if components is None or "memory" in components:
            self.model.exemplars = source.exemplars


def _has_seen_labels(source: Any) -> bool:
    return isinstance(source, SavableModel) and (source._from_labels or source._labels_seen)


@torch.no_grad()
def _copy_parameters(pairs: Mapping[Any, nn.Parameter], values: Mapping[Any, Any] | None) -> None:
    """Copy values into parameters; all or, where one does not fit, none."""
    copies = [(mine, torch.as_tensor(values[p] if values else p)) for p, mine in pairs.items()]
    wrong = [f"{tuple(v.shape)} and {tuple(p.shape)}" for p, v in copies if p.shape != v.shape]
    if wrong:
        raise files.CheckpointError(f"a map pairs parameters of the same shape, not {wrong[0]}")
    for mine, value in copies:
        mine.copy_(value)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)
