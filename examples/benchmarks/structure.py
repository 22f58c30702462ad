"""The cost of hypergraph and memory: parts ``structure`` and ``sweep`` of training.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import in_turns, ratio, stepper

from deepchem_mmsa import MMSAConfig, MMSAModel, losses
from deepchem_mmsa.batching import Collator
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.training import training_precision

SWEPT = {
    "batch_size": (64, 128, 256, 512, 1024),
    "n_anchors": (256, 1024, 4096, 16384),
    "n_neighbors": (4, 8, 16, 32),
}


def structure_step(network: MMSANetwork, config: MMSAConfig) -> Callable[[], None]:
    """Return hypergraph, memory and their losses of one step, forward and backward."""
    assert network.memory is not None
    bank, device = network.memory, network.memory.anchors.device
    codes = torch.randn(config.batch_size, config.embedding_dim, device=device, requires_grad=True)
    if not bank.is_active:
        with torch.no_grad():
            bank.anchors.normal_()
        bank.n_active.fill_(bank.n_anchors)
        bank.usage.fill_(1 / bank.n_anchors)
        bank.recent_codes = torch.randn(bank.warmup, config.embedding_dim, device=device)
        bank.recent_smiles = [f"m{i}" for i in range(bank.warmup)]
    names = [f"molecule {i}" for i in range(config.batch_size)]

    def step() -> None:
        between = network.between_anchors()
        embedding = network.structure_aware_in_batch(codes, between)
        alone = network.structure_aware(codes, between)
        value = losses.alignment(alone, embedding, config.temperature)
        value = value + losses.commitment(codes, bank.active_anchors())
        (value + losses.balance(bank.address(codes))).backward()
        bank.update(codes.detach(), names)

    return step


def structure(data: Any, config: MMSAConfig, repeats: int, device: str) -> dict[str, float]:
    """Return the share of structure awareness in a whole pre-training step."""
    chosen = config.replace(mode="pretraining", n_anchors=4096, memory_warmup=4096)
    model = MMSAModel(chosen, device=device, progress=False)
    network = model.model.train()
    network.training_dtype = training_precision(chosen, model.device)
    part = structure_step(network, chosen)
    batch = Collator(chosen.modalities, chosen.image_size)(data.X[: chosen.batch_size]).to(device)
    network.structure_on = True
    step = stepper(network, lambda: network(batch)[1])
    times = in_turns(repeats, **{"part": part, "step": step})
    return {
        "structure_share_of_a_step": ratio(times, "part", "step"),
        "batch": float(len(batch)),
        "anchors": 4096.0,
    }


def sweep(data: Any, config: MMSAConfig, repeats: int, device: str) -> dict[str, float]:
    """Return the cost of structure awareness, ms per step, as each of three sizes grows alone."""
    found = {}
    base = {"batch_size": 256, "n_anchors": 4096, "n_neighbors": 8}
    for name, values in SWEPT.items():
        steps = {}
        for value in values:
            sizes = {**base, name: value}
            chosen = MMSAConfig.preset(
                "small", mode="pretraining", modalities=("graph",), memory_warmup=4096, **sizes
            )
            network = MMSANetwork(chosen).to(device).train()
            steps[f"{name}={value}"] = structure_step(network, chosen)
        times = in_turns(repeats, **steps)
        found.update({step: 1000 * statistics.median(t) for step, t in times.items()})
    return found


def draw_sweep(found: dict[str, float], path: Path) -> None:
    """Draw the cost against each size, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    labels = {"batch_size": "molecules in a batch", "n_anchors": "anchors", "n_neighbors": "k"}
    for panel, (name, values) in zip(figure.subplots(1, 3, sharey=True), SWEPT.items()):
        panel.loglog(values, [found[f"{name}={value}"] for value in values], "o-")
        panel.set_xticks(values, [str(value) for value in values])
        ticks = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
        panel.set_yticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set(xlabel=labels[name])
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms a step")
    figure.savefig(path, dpi=150)
