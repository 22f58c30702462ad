"""Configuration: one dataclass with all settings and their defaults.

It is plain data and stored with every checkpoint and (as JSON) every exported model. Fields are
documented with their symbols in docs/method.md.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from dataclasses import replace as dataclass_replace
from typing import Any

from deepchem_mmsa.molecule import DEFAULT_MODALITIES, MAX_IMAGE_SIZE, MODALITIES

MODES = ("pretraining", "classification", "regression")
_CHOICES = {
    "mode": MODES,
    "features": ("basic", "full"),
    "graph_jk": ("last", "concat"),
    "fusion": ("mean", "attention"),
    "hypergraph_norm": ("row", "sym"),
    "hypergraph_scope": ("batch", "memory"),
    "memory_update": ("ema", "gradient"),
    "schedule": ("joint", "staged"),
    "lr_schedule": ("constant", "cosine"),
    "precision": ("auto", "fp32", "bf16"),
}
MAX_LAYERS = 1000
CUSTOM = "custom"
"""The encoder name that stands for a custom ``nn.Module`` in a configuration."""


@dataclass(frozen=True)
class MMSAConfig:
    """Architecture and training settings of an MMSA network.

    Parameters
    ----------
    mode : {"pretraining", "classification", "regression"}
        What the network is trained for.
    n_tasks, n_classes : int
        Number of columns of ``y``; number of classes of each (2: binary, labels 0 and 1).
    modalities : sequence of {"image", "graph", "geometry", "fingerprint"}
        The views that the network reads; any non-empty subset.
    image, graph, geometry, fingerprint : str
        Encoder of each view by name (``"resnet18"``; ``"gin"``, ``"gcn"``, ``"gat"``,
        ``"attentivefp"``; ``"comenet"``, ``"schnet"``; ``"mlp"``), or ``"custom"`` for a module
        passed as an object.
    image_size, image_width : int
        Side of the encoder's input image in pixels; channels of ResNet-18's first stage (64 is
        the standard network).
    image_augmentation : bool
        Whether pre-training rotates, scales and shifts images slightly and greys some of them.
    features : {"basic", "full"}
        Atom and bond features that the graph encoder reads.
    graph_width, graph_layers, graph_dropout : int, int, float
        Size and dropout of the graph encoder.
    graph_readout : str
        How atoms are pooled: "mean", "sum", "max", or several joined by ``+``.
    graph_jk : {"last", "concat"}
        Jumping knowledge: GIN's atom embeddings are those of the last layer, or of all layers
        concatenated.
    geometry_width, geometry_layers : int
        Size of the geometry encoder.
    cutoff : float
        Neighbour cutoff in the conformer, in Å.
    hydrogens : bool
        Whether the geometry encoder sees hydrogens; without them it is several times faster.
    fingerprint_width, fingerprint_layers, fingerprint_dropout : int, int, float
        Size and dropout of the fingerprint encoder.
    embedding_dim : int
        d, the dimension of the shared embedding space.
    fusion : {"mean", "attention"}
        How the codes of the available modalities are fused.
    fusion_dropout : float
        Dropout in the projection heads.
    hypergraph, memory : bool
        Whether to use the structure-aware hypergraph and the memory. Without a memory a single
        molecule has no anchors to be connected to: the hypergraph is then used in pre-training
        only, not in prediction.
    n_neighbors : int
        k, the number of nodes per hyperedge.
    hypergraph_norm : {"row", "sym"}
        ``D_v^-1 H W D_e^-1 H^T``, or the symmetric form.
    hypergraph_scope : {"batch", "memory"}
        Scope of the hyperedges in pre-training; everywhere else it is ``"memory"``.
    hypergraph_dropout : float
        Dropout inside the hypergraph convolution.
    n_anchors : int
        K, the maximum number of anchors in the memory; at most one per 8 molecules of the warm-up.
    memory_update : {"ema", "gradient"}
        How the anchors are updated.
    update_memory : bool
        Whether fine-tuning also updates the anchors; pre-training always does.
    memory_decay : float
        Decay of the moving average.
    memory_warmup : int
        Molecules seen before the anchors are initialised by k-means.
    memory_temperature : float
        τ_m, the temperature of memory addressing.
    n_exemplars : int
        Training molecules stored per anchor.
    temperature : float
        Temperature of the contrastive terms (InfoNCE).
    mask_rate : float
        Share of atoms masked in the masked-atom task.
    w_con, w_rec, w_mask, w_mem, w_desc : float
        Weights of the contrastive, reconstruction, masked-atom, memory and descriptor terms in
        the total; the last takes effect if the fingerprint and another view are read.
    w_align, w_commit, w_balance : float
        Weights inside the memory term.
    schedule : {"joint", "staged"}
        ``"staged"`` turns structure awareness on after half of the steps of a ``fit``.
    head_width, head_layers, head_dropout : int, int, float
        Size and dropout of the supervised head, an MLP.
    atom_sum : bool
        Whether to add a second output term, linear in the sum of the graph's atom embeddings,
        for labels that grow with the molecule, such as energies. Not in pre-training.
    class_weights : "balanced", sequence of float, or None
        Weights of the classes in the loss.
    scale_labels : bool
        Whether regression labels are standardised inside the model (mean and scale are computed
        from the first training set and saved with the model).
    batch_size : int
    learning_rate : float
    encoder_learning_rate : float or None
        Learning rate of the encoders, if it should differ.
    lr_schedule : {"constant", "cosine"}
        Schedule over the epochs of one ``fit``; cosine includes a linear warm-up. Resuming a run
        with more epochs than before changes its position on the curve, so the rate jumps. A
        DeepChem ``LearningRateSchedule`` takes precedence.
    weight_decay : float
    clip_norm : float or None
        Maximum norm for gradient clipping; None disables it.
    freeze_epochs : int
        Number of epochs at the start of each ``fit`` in which the encoders are frozen.
    precision : {"auto", "fp32", "bf16"}
        Precision of the encoders in training; "auto" is bf16 where the hardware supports it
        natively, but fp32 for custom modules. Inference is fp32 unless "bf16" is set.
    seed : int

    Raises
    ------
    ValueError
        For a value out of range; the message names the field and the allowed values.

    Examples
    --------
    >>> config = MMSAConfig(mode="classification", n_tasks=12)
    >>> MMSAConfig.from_json(config.to_json()) == config
    True
    >>> MMSAConfig.preset("small").image_size
    96
    >>> config.replace(n_task=3)
    Traceback (most recent call last):
        ...
    ValueError: unknown argument 'n_task'; did you mean 'n_tasks'?
    """

    mode: str = "pretraining"
    n_tasks: int = 1
    n_classes: int = 2
    modalities: tuple[str, ...] = DEFAULT_MODALITIES

    image: str = "resnet18"
    image_size: int = 224
    image_width: int = 64
    image_augmentation: bool = True
    graph: str = "gin"
    features: str = "basic"
    graph_width: int = 300
    graph_layers: int = 5
    graph_readout: str = "mean"
    graph_jk: str = "last"
    graph_dropout: float = 0.1
    geometry: str = "comenet"
    geometry_width: int = 256
    geometry_layers: int = 4
    cutoff: float = 8.0
    hydrogens: bool = False
    fingerprint: str = "mlp"
    fingerprint_width: int = 512
    fingerprint_layers: int = 2
    fingerprint_dropout: float = 0.2

    embedding_dim: int = 256
    fusion: str = "mean"
    fusion_dropout: float = 0.0

    hypergraph: bool = True
    n_neighbors: int = 8
    hypergraph_norm: str = "row"
    hypergraph_scope: str = "batch"
    hypergraph_dropout: float = 0.1
    memory: bool = True
    n_anchors: int = 512
    memory_update: str = "ema"
    update_memory: bool = False
    memory_decay: float = 0.99
    memory_warmup: int = 4096
    memory_temperature: float = 0.1
    n_exemplars: int = 5

    temperature: float = 0.1
    mask_rate: float = 0.15
    w_con: float = 1.0
    w_rec: float = 1.0
    w_mask: float = 0.5
    w_mem: float = 1.0
    w_desc: float = 1.0
    w_align: float = 1.0
    w_commit: float = 0.1
    w_balance: float = 0.1
    schedule: str = "joint"

    head_width: int = 256
    head_layers: int = 2
    head_dropout: float = 0.2
    atom_sum: bool = False
    class_weights: str | tuple[float, ...] | None = None
    scale_labels: bool = True

    batch_size: int = 128
    learning_rate: float = 1e-3
    encoder_learning_rate: float | None = None
    lr_schedule: str = "constant"
    weight_decay: float = 1e-5
    clip_norm: float | None = 5.0
    freeze_epochs: int = 0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Convert sequences to tuples and check every field."""
        self._check_modalities()
        for field in fields(self):
            if field.type == "bool":
                value = getattr(self, field.name)
                if value not in (True, False):
                    raise ValueError(f"{field.name}={value!r}: must be true or false")
                object.__setattr__(self, field.name, bool(value))
        for name, allowed in _CHOICES.items():
            self._one_of(name, allowed)
        pools = str(self.graph_readout).split("+")
        if not set(pools) <= {"mean", "sum", "max"} or len(set(pools)) < len(pools):
            raise ValueError(
                f"graph_readout={self.graph_readout!r}: choose mean, sum or max, or join with '+'"
            )
        for name in (
            "n_tasks", "graph_width", "graph_layers", "geometry_width",
            "geometry_layers", "fingerprint_width", "fingerprint_layers", "embedding_dim",
            "n_neighbors", "n_anchors", "memory_warmup", "head_width", "head_layers", "batch_size",
        ):  # fmt: skip
            self._whole(name, least=1)
            if name.endswith("_layers") and getattr(self, name) > MAX_LAYERS:
                raise ValueError(f"{name}={getattr(self, name)}: must be at most {MAX_LAYERS}")
        self._whole("n_classes", least=2)
        self._whole("image_size", least=32)
        if self.image_size > MAX_IMAGE_SIZE:
            raise ValueError(f"image_size={self.image_size}: must be at most {MAX_IMAGE_SIZE}")
        self._whole("image_width", least=8)  # torch's convolutions, see ResNet18
        for name in ("n_exemplars", "freeze_epochs", "seed"):
            self._whole(name, least=0)
        if self.seed >= 1 << 64:
            raise ValueError(f"seed={self.seed}: must be below 2**64, as torch's are")
        for name in ("graph_dropout", "fingerprint_dropout", "fusion_dropout", "mask_rate",
                     "hypergraph_dropout", "head_dropout", "memory_decay"):  # fmt: skip
            self._below(name, 1.0)
        for name in ("w_con", "w_rec", "w_mask", "w_mem", "w_desc", "w_align", "w_commit",
                     "w_balance", "weight_decay"):  # fmt: skip
            self._below(name, math.inf)
        for name in ("temperature", "memory_temperature", "cutoff", "learning_rate"):
            self._positive(name)
        for name in ("encoder_learning_rate", "clip_norm"):
            if getattr(self, name) is not None:
                self._positive(name)
        self._check_class_weights()
        if self.memory and self.hypergraph and self.n_neighbors > self.n_anchors:
            raise ValueError(
                f"n_neighbors={self.n_neighbors} (k) is larger than n_anchors={self.n_anchors} "
                "(K): a hyperedge cannot hold more anchors than there are; lower n_neighbors "
                "or raise n_anchors"
            )
        if self.atom_sum and "graph" not in self.modalities:
            raise ValueError(
                f"atom_sum=True: the sum is over the graph's atoms, and modalities="
                f"{self.modalities!r} has no graph; add it, or set atom_sum=False"
            )

    # ---- checks -------------------------------------------------------------------------

    def _check_modalities(self) -> None:
        one = isinstance(self.modalities, str) or not isinstance(self.modalities, Iterable)
        given = (self.modalities,) if one else tuple(self.modalities)
        unknown = [m for m in given if m not in MODALITIES]
        if unknown or not given or len(set(given)) != len(given):
            raise ValueError(
                f"modalities={given!r}: choose a non-empty subset of {MODALITIES}, each once"
            )
        # One canonical order: parameters and columns must not depend on the user's.
        object.__setattr__(self, "modalities", tuple(m for m in MODALITIES if m in given))

    def _check_class_weights(self) -> None:
        given = self.class_weights
        if given is None:
            return
        if isinstance(given, str):
            self._one_of("class_weights", ("balanced",))
            return
        try:
            weights = tuple(map(float, given))
        except (TypeError, ValueError):
            raise ValueError(f"class_weights={given!r}: must be a sequence of numbers") from None
        if len(weights) != self.n_classes:
            raise ValueError(
                f"class_weights has {len(weights)} values for n_classes={self.n_classes}; give one "
                "per class, or 'balanced'"
            )
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(
                f"class_weights={weights}: they must be finite, at least 0, and not all 0"
            )
        object.__setattr__(self, "class_weights", weights)

    def _one_of(self, name: str, allowed: Sequence[str]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {tuple(allowed)}")

    def _number(self, name: str, allowed: str) -> float:
        value = getattr(self, name)
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name}={value!r}: must be {allowed}") from None

    def _whole(self, name: str, least: int) -> None:
        value, allowed = getattr(self, name), f"a whole number of at least {least}"
        number = self._number(name, allowed)
        if isinstance(value, (bool, str)) or not (number >= least and number.is_integer()):
            raise ValueError(f"{name}={value!r}: must be {allowed}")
        object.__setattr__(self, name, int(value))  # numpy integers would not be JSON

    def _below(self, name: str, limit: float) -> None:
        allowed = f"in [0, {limit:g})"
        value = self._number(name, allowed)
        if not 0 <= value < limit:
            raise ValueError(f"{name}={value!r}: must be {allowed}")
        object.__setattr__(self, name, value)

    def _positive(self, name: str) -> None:
        value = self._number(name, "a positive number")
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value!r}: must be a positive number")
        object.__setattr__(self, name, value)

    # ---- conversion ---------------------------------------------------------------------

    def replace(self, **changes: Any) -> MMSAConfig:
        """Return a copy with some fields changed; unknown names raise ValueError with a hint."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
                raise ValueError(f"unknown argument {name!r}; {hint}")
        return dataclass_replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values (lists for tuples)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MMSAConfig:
        """Build from plain values; unknown names raise ValueError."""
        return cls().replace(**values)

    def to_json(self) -> str:
        """Return the configuration as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> MMSAConfig:
        """Read what :meth:`to_json` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> MMSAConfig:
        """Return a named configuration: ``"base"``, or ``"small"`` for a CPU.

        Parameters
        ----------
        name : str
        **changes
            Fields that differ from the preset.

        Raises
        ------
        ValueError
            If there is no such preset.
        """
        if name not in tuple(PRESETS):  # it may be anything
            raise ValueError(
                f"no preset {name!r}; there are {tuple(PRESETS)}, without weights: those are "
                "loaded by MMSAModel.from_pretrained"
            )
        return cls().replace(**{**PRESETS[name], **changes})

    def differences(self, other: MMSAConfig, names: Sequence[str] | None = None) -> list[str]:
        """Return ``"field: mine, not theirs"`` for the fields in which two differ."""
        chosen = names or [field.name for field in fields(self)]
        return [
            f"{name}: {getattr(self, name)!r}, not {getattr(other, name)!r}"
            for name in chosen
            if getattr(self, name) != getattr(other, name)
        ]


ARCHITECTURE = (
    "mode", "n_tasks", "n_classes", "modalities", "image", "image_width", "graph", "features",
    "graph_width", "graph_layers", "graph_readout", "graph_jk", "geometry", "geometry_width",
    "geometry_layers",
    "fingerprint", "fingerprint_width", "fingerprint_layers", "embedding_dim", "fusion",
    "hypergraph", "memory", "n_anchors", "memory_update", "head_width", "head_layers",
    "atom_sum",
)  # fmt: skip
"""Fields that determine which parameters exist; a checkpoint must match in these."""

OF_THE_HEAD = ("n_tasks", "n_classes", "head_width", "head_layers", "atom_sum")
"""The subset of these fields that pre-training does not depend on."""

PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "small": {
        "image_size": 96,
        "image_width": 32,
        "graph_width": 192,
        "graph_layers": 4,
        "graph_dropout": 0.0,
        "geometry_width": 128,
        "geometry_layers": 3,
        "n_anchors": 256,
        "memory_warmup": 2048,
    },
}
