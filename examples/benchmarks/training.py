r"""The cost of training: the loop, the encoders, structure awareness, and shares of a step.

    python examples/benchmarks/training.py --input zinc250k.csv.gz --output runs/training.json

Every figure is a ratio of one run on one machine: contenders take turns, and the median over
the turns is printed. Run nothing else meanwhile.

* ``loop``: throughput of ``fit`` ÷ that of a bare loop over the same network and the same
  batches, already collated in memory; and the share of each part of a step.
* ``gin``: our GIN's training throughput ÷ that of dgllife's, 5 layers of 300; in fp32, and in
  bf16 where ``fit`` would use it.
* ``geometry``: ComENet's ÷ SchNet's (dgllife's), 4 layers of 256; likewise; and beside the
  authors' ComENet, if it is installed (``pip install dive-into-graphs torch_geometric sympy``, then
  ``pip install --no-build-isolation torch_scatter torch_cluster``).
* ``structure``: share of a pre-training step that hypergraph and memory take, at 4,096 anchors.
* ``sweep``: milliseconds of hypergraph and memory in a step, by batch, anchors and k (``OUTPUT``'s
  name with ``.png`` is the plot).
* ``image``: ResNet-18's training throughput in several forms ÷ plain fp32. Those in bf16 are
  left out where the processor only emulates it. Also the multiplications per second of the form
  that ``fit`` uses ÷ those of one large matrix product: the share of the device's peak.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import torch
from structure import draw_sweep, structure, structure_step, sweep
from timing import in_turns, ratio, stepper
from torch import Tensor, nn

from deepchem_mmsa import MMSAConfig, MMSAFeaturizer, MMSAModel, losses
from deepchem_mmsa.batching import Collator
from deepchem_mmsa.datasets import example_table
from deepchem_mmsa.epochs import epoch_batches
from deepchem_mmsa.layers.dgl_backend import import_dgllife
from deepchem_mmsa.layers.encoders import make_encoder
from deepchem_mmsa.layers.gin import GIN
from deepchem_mmsa.layers.image_encoder import ResNet18
from deepchem_mmsa.layers.message_passing import EdgeList, pool
from deepchem_mmsa.tables import read_table
from deepchem_mmsa.training import training_precision

VIEWS = ("image", "graph", "geometry")


def native_bf16(device: str | torch.device) -> bool:
    """Return whether ``fit`` trains in bf16 on this device."""
    return training_precision(MMSAConfig(precision="auto"), torch.device(device)) is not None


def in_bf16(forward: Callable[[], Tensor], device: str) -> Callable[[], Tensor]:
    """Return the same forward pass under autocast."""

    def run() -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return forward()

    return run


# ---- the loop -------------------------------------------------------------------------------


def loop(data: Any, config: MMSAConfig, repeats: int, device: str) -> dict[str, float]:
    """Compare ``fit`` with a bare loop, and divide a step into its parts."""
    found: dict[str, float] = {}
    for name, mode in (("pretraining", "pretraining"), ("fine_tuning", "regression")):
        chosen = config.replace(mode=mode, memory_warmup=len(data), precision="auto")
        fitted = MMSAModel(chosen, device=device, progress=False)
        bare = MMSAModel(chosen, device=device, progress=False)
        if mode != "pretraining":
            for model in (fitted, bare):
                model._learn_labels(data)
        triples = list(epoch_batches(data, config.batch_size, [0], seed=None))
        ready = [bare._prepare_batch(batch) for batch in triples]
        optimizer = torch.optim.AdamW(bare.model.parameters(), lr=chosen.learning_rate)
        bare.model.training_dtype = training_precision(chosen, bare.device)

        def in_memory(
            bare: MMSAModel = bare, ready: list = ready, optimizer: Any = optimizer
        ) -> None:
            bare.model.train()
            for inputs, labels, weights in ready:
                optimizer.zero_grad(set_to_none=True)
                outputs = bare.model(inputs)
                value = bare._loss_fn([outputs[i] for i in bare._loss_outputs], labels, weights)
                value.backward()
                nn.utils.clip_grad_norm_(bare.model.parameters(), bare.config.clip_norm)
                optimizer.step()

        def by_fit(model: MMSAModel = fitted) -> None:
            # The loop of `fit`, without what happens once a run (checkpoint, batch norm).
            generator = model.default_generator(data, 1, mode="predict")
            model.fit_generator(generator, checkpoint_interval=0)

        times = in_turns(repeats, **{"bare": in_memory, "fit": by_fit})
        found[f"fit_over_bare_{name}"] = ratio(times, "bare", "fit")
        found[f"molecules_per_second_{name}"] = len(data) / statistics.median(times["fit"])
    for part, share in shares(data, config, repeats, device).items():
        found[f"share_{part}"] = share
    return found


def shares(data: Any, config: MMSAConfig, repeats: int, device: str) -> dict[str, float]:
    """Return forward and backward of each part ÷ their sum, and collating beside them."""
    model = MMSAModel(config.replace(mode="pretraining"), device=device, progress=False)
    network, records = model.model.train(), data.X[: config.batch_size]
    collate = Collator(config.modalities, config.image_size, config.hydrogens)
    batch = collate(records).to(device)
    network.training_dtype = training_precision(config, model.device)
    contenders: dict[str, Callable[[], Any]] = {
        m: lambda m=m: network.encode(m, batch, batch.inputs[m]).square().mean().backward()
        for m in config.modalities
    }
    with torch.no_grad():
        h = network.modality_embeddings(batch)

    def fusion() -> None:
        u, codes = network.fusion.project(h)
        decoded = network.fusion.reconstruct(codes)
        everything = losses.contrastive(codes, batch.available) + losses.reconstruction(
            decoded, u, batch.available, losses.derangement(batch.available)
        )
        (everything + network.fusion.fuse(codes, batch.available).sum()).backward()

    optimizer = torch.optim.AdamW(network.parameters())
    contenders["fusion_and_its_losses"] = fusion
    contenders["structure"] = structure_step(network, config)
    contenders["optimizer"] = optimizer.step
    contenders["collating"] = lambda: collate(records)
    times = {k: statistics.median(v) for k, v in in_turns(repeats, **contenders).items()}
    whole = sum(v for k, v in times.items() if k != "collating")  # which runs in parallel
    return {k: v / whole for k, v in times.items()}


# ---- parts ----------------------------------------------------------------------------------


def gin(data: Any, config: MMSAConfig, repeats: int, device: str) -> dict[str, float]:
    """Return our GIN's throughput ÷ dgllife's, both from graphs already made."""
    graph = Collator(("graph",))(data.X[: config.batch_size]).inputs["graph"].to(device)
    ours = GIN(width=300, n_layers=5, dropout=0.1, readout="mean").to(device)
    theirs = (
        import_dgllife()
        .model.GIN([120, 3], [6, 3], num_layers=5, emb_dim=300, dropout=0.1)
        .to(device)
    )
    n = len(graph.atoms)
    atoms = torch.arange(n, device=device)
    # As in dgllife's pre-training code: with self-loops as edges of a separate type.
    with_loops = EdgeList(torch.cat([graph.src, atoms]), torch.cat([graph.dst, atoms]), n).dgl()
    loops = torch.zeros(n, 2, dtype=torch.int64, device=device)
    loops[:, 0] = 4
    bonds = torch.cat([graph.bonds[:, :2], loops])
    categories = [graph.atoms[:, i] for i in range(2)], [bonds[:, i] for i in range(2)]

    def their_forward() -> Tensor:
        return pool(theirs(with_loops, *categories), graph.n_atoms, "mean")

    steps = {
        "dgllife": stepper(theirs, their_forward),
        "gin": stepper(ours, lambda: ours(graph)),
    }
    if native_bf16(device):
        steps["gin_bf16"] = stepper(ours, in_bf16(lambda: ours(graph), device))
    return over(in_turns(repeats, **steps), "dgllife")


def over(times: dict[str, list[float]], base: str) -> dict[str, float]:
    """Return the throughput of each contender ÷ that of one of them."""
    return {f"{name}_over_{base}": ratio(times, base, name) for name in times if name != base}


def reference_comenet() -> Any:
    """Return the module of the authors' ComENet, or None where it is not installed.

    It is loaded by its path: the package above it imports data sets and other networks.
    """
    found = importlib.util.find_spec("dig")
    needed = ("torch_geometric", "torch_scatter", "torch_cluster")
    if found is None or not all(importlib.util.find_spec(name) for name in needed):
        return None
    (folder,) = found.submodule_search_locations or [""]
    init = Path(folder) / "threedgraph" / "method" / "comenet" / "__init__.py"
    vars(np).setdefault("math", math)  # it is written for numpy below 1.25
    spec = importlib.util.spec_from_file_location("reference_comenet", init)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def geometry(data: Any, config: MMSAConfig, repeats: int, device: str) -> dict[str, float]:
    """Return ComENet's throughput ÷ SchNet's at equal width and depth, and ÷ the authors'."""
    conformers = Collator(("geometry",))(data.X[: config.batch_size]).inputs["geometry"].to(device)
    steps = {}
    for name in ("comenet", "schnet"):
        encoder = make_encoder("geometry", name, cutoff=8.0, width=256, n_layers=4).to(device)
        steps[name] = stepper(encoder, lambda encoder=encoder: encoder(conformers))
        if name == "comenet" and native_bf16(device):
            forward = in_bf16(lambda encoder=encoder: encoder(conformers), device)
            steps["comenet_bf16"] = stepper(encoder, forward)
    reference = reference_comenet()
    if reference is not None:
        theirs = reference.ComENet(cutoff=8.0, num_layers=4, hidden_channels=256).to(device)
        atoms = SimpleNamespace(
            z=conformers.atomic_numbers,
            pos=conformers.coordinates,
            batch=conformers.molecule_of_atom,
        )
        steps["authors"] = stepper(theirs, lambda: theirs(atoms))
    times = in_turns(repeats, **steps)
    beside = {} if reference is None else over(times, "authors")
    return {**over(times, "schnet"), **beside}


def plain(net: ResNet18, images: Tensor) -> Tensor:
    """Run ResNet-18 as it is commonly written: fp32, channels first."""
    x = (images.float() - net.mean) / net.std
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x)))).mean(dim=(2, 3))


def multiplications(net: ResNet18, pictures: Tensor) -> float:
    """Count the multiplications of the convolutions in a step: forward, twice that backward."""
    counts: list[float] = []

    def count(conv: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        passes = 2 if conv.in_channels == 3 else 3  # the pictures need no gradient
        counts.append(passes * out.numel() * conv.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net(pictures)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def image(data: Any, config: MMSAConfig, repeats: int, device: str) -> dict[str, float]:
    """Return the throughput of the image encoder in several forms ÷ the plain one."""
    n = min(config.batch_size, 32)
    pictures = Collator(("image",), config.image_size)(data.X[:n]).inputs["image"].to(device)
    on = torch.device(device)
    native = native_bf16(on)

    def form(change: Callable[[ResNet18], Any], bf16: bool = False) -> Callable[[], None]:
        net = ResNet18(width=config.image_width).to(on)
        changed = change(net)

        def forward() -> Tensor:
            return changed(pictures)

        return stepper(net, in_bf16(forward, device) if bf16 else forward)

    forms = {
        "plain": form(lambda net: lambda x: plain(net, x)),
        "channels_last": form(lambda net: net),
        "weights_channels_last": form(lambda net: net.to(memory_format=torch.channels_last)),
        "compiled": form(torch.compile),
    }
    if native:
        forms["bf16"] = form(lambda net: net, bf16=True)
        forms["bf16_compiled"] = form(torch.compile, bf16=True)
    found: dict[str, float] = {"bf16_is_native": float(native)}
    for name in list(forms):  # a form that cannot be built here is reported and left out
        try:
            forms[name]()
        except RuntimeError as error:
            print(f"image {name}: {str(error).splitlines()[0]}", flush=True)
            del forms[name]
    dtype, side = (torch.bfloat16, 4096) if native else (torch.float32, 2048)
    factor = torch.randn(side, side, device=on).to(dtype)
    forms["product"] = lambda: factor @ factor
    times = in_turns(repeats, **forms)
    per_step = multiplications(ResNet18(width=config.image_width).to(on), pictures)
    chosen = "bf16" if native else "channels_last"
    found["share_of_peak"] = per_step / side**3 * ratio(times, "product", chosen)
    del times["product"]
    found["plain_molecules_per_second"] = n / statistics.median(times["plain"])
    return {**found, **over(times, "plain")}


PARTS = {
    "loop": loop,
    "gin": gin,
    "geometry": geometry,
    "structure": structure,
    "sweep": sweep,
    "image": image,
}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", help="table of molecules; by default 642 of FreeSolv")
    parser.add_argument("--molecules", type=int, default=2048)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--modalities", nargs="+", default=list(VIEWS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=-1)
    parser.add_argument("--output", type=Path)
    a = parser.parse_args()

    smiles = read_table(a.input).smiles if a.input else list(example_table("freesolv").smiles)
    config = MMSAConfig.preset(a.preset, modalities=tuple(a.modalities), batch_size=a.batch_size)
    made = MMSAFeaturizer(VIEWS, config.image_size, n_jobs=a.jobs).featurize(smiles[: a.molecules])
    kept = [record for record in made if getattr(record, "available", None)]
    X = np.empty(len(kept), dtype=object)
    X[:] = kept
    from deepchem.data import NumpyDataset  # here: the package has loaded it quietly

    data = NumpyDataset(X, np.array([[float(len(r.smiles))] for r in kept]))
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if a.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "molecules": len(data),
        "batch_size": a.batch_size,
        "preset": a.preset,
        "modalities": a.modalities,
        "repeats": a.repeats,
    }
    for part in a.parts:
        found[part] = PARTS[part](data, config, a.repeats, a.device)
        for name, value in found[part].items():
            print(f"{part:10} {name:40} {value:10.4g}", flush=True)
    if a.output:
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
        if "sweep" in found:
            draw_sweep(found["sweep"], a.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
