"""Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) over all views at once.

One straight path leads from a baseline, the *blank* molecule, to the molecule itself:

=========  ==========================================  =======================================
view       what moves                                  blank
=========  ==========================================  =======================================
graph      the embeddings of atoms and of bonds        the average atom, the average bond
image      the pixels                                  a white image
geometry   the embeddings of the points' elements      the average element, at the same places
finger-    counts of atom environments, descriptors    no environment, median descriptors
print
=========  ==========================================  =======================================

Categories cannot be interpolated, but embeddings can. All components of an embedding move
together, so each is blended in by one *presence* between 0 and 1: the integrated gradient of the
presence is the sum of the integrated gradients of the components. The presence of a bond blends
its embedding in all layers of GIN at once.

The blank uses averages rather than zeros: zero embeddings do not occur in training, and a
network's output for one is arbitrary (compared in docs/explain.md).

Completeness: the contributions of all inputs sum to ``f(molecule) − f(blank)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from deepchem_mmsa.batching import MoleculeBatch
from deepchem_mmsa.explain.average import average_atom, average_bond, average_element
from deepchem_mmsa.layers.fingerprint_encoder import BatchedFingerprints, FingerprintMLP
from deepchem_mmsa.layers.geometry_encoder import ComENet, SchNet
from deepchem_mmsa.layers.graph_embedding import GraphEncoder
from deepchem_mmsa.layers.graph_encoder import GIN, AttentiveFP
from deepchem_mmsa.layers.message_passing import BatchedConformers, BatchedGraph
from deepchem_mmsa.network import MMSANetwork

__all__ = ["Attribution", "ViewPath", "explained_output", "integrate", "view_paths"]

FIRST_STEPS = 32


@dataclass
class ViewPath:
    """Integration path of one view, from the blank molecule to the molecule itself.

    Parameters
    ----------
    names : tuple of str
        Inputs that vary: ``"atoms"``, ``"bonds"``, ``"pixels"``, ``"bits"``, ``"descriptors"``.
    whole, blank : tuple of Tensor
        The inputs at the ends of the path, each ``[1, ...]``.
    encode : callable
        Maps points of the path, each ``[S, ...]``, to the view's embeddings ``[S, out_dim]``.
    reasons : dict of str to str
        Inputs of this view that are held fixed, and why.
    """

    names: tuple[str, ...]
    whole: tuple[Tensor, ...]
    blank: tuple[Tensor, ...]
    encode: Callable[..., Tensor]
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass
class Attribution:
    """Contributions to ``output − baseline``, in the output's unit.

    Parameters
    ----------
    output, baseline : float
        The explained output of the molecule, and of the blank one.
    parts : dict
        ``{view: {name: array}}`` with the names of :class:`ViewPath`: ``[n]`` in the record's
        order, pixels ``[3, S, S]``.
    steps : int
        Integration points.
    reasons : dict of str to str
        Views and inputs without contributions, and why.
    """

    output: float
    baseline: float
    parts: dict[str, dict[str, np.ndarray]]
    steps: int
    reasons: dict[str, str] = field(default_factory=dict)

    def total(self, view: str) -> float:
        """Return the sum of a view's contributions."""
        return float(sum(part.sum(dtype=np.float64) for part in self.parts[view].values()))

    @property
    def residual(self) -> float:
        """``output − baseline`` minus all contributions: the error of the integral."""
        return self.output - self.baseline - sum(self.total(view) for view in self.parts)


# ---- the paths of the views ---------------------------------------------------------------


def _blend(table: nn.Module, shares: Tensor, presence: Callable[[], Tensor]) -> None:
    """Make an embedding table blend each row that it looks up with its average row."""
    weight = table.get_parameter("weight")
    average = shares.to(weight) @ weight

    def blend(module: nn.Module, inputs: tuple, rows: Tensor) -> Tensor:
        return average + presence().unsqueeze(1) * (rows - average)

    table.register_forward_hook(blend)


class _GraphPoints:
    """S copies of one molecular graph that differ in the presence of atoms and bonds."""

    def __init__(self, network: MMSANetwork, encoder: GraphEncoder, graph: BatchedGraph) -> None:
        self.network, self.encoder, self.graph, self.copies = network, encoder, graph, graph
        self.atoms, self.bonds = torch.ones(0), torch.ones(0)
        self.reasons: dict[str, str] = {}
        tables = encoder.get_submodule("node_embeddings").children()
        for table, shares in zip(tables, average_atom()):
            _blend(table, shares, lambda: self.atoms)
        self.moves_bonds = len(graph.src) > 0
        if isinstance(encoder, GIN):
            # Shared rows compute equal atoms once, but here each has a presence of its own.
            encoder.share_rows = False
            for layer in encoder.gnn_layers:
                layer.register_forward_pre_hook(self._count_present_bonds)
        elif isinstance(encoder, AttentiveFP):
            for table, shares in zip(encoder.edge_embeddings, average_bond()):
                _blend(table, shares, lambda: self.bonds)
        elif self.moves_bonds:
            self.moves_bonds = False
            self.reasons["bonds"] = (
                f"{type(encoder).__name__} adds a bond's features to its atoms before the first "
                "layer, so bonds get no contributions; the blank graph keeps its bonds"
            )

    def _count_present_bonds(self, layer: nn.Module, inputs: tuple) -> tuple:
        """Blend the bonds that GIN counts in each atom with average ones (self-loops stay)."""
        h, step = inputs
        if self.moves_bonds:
            graph, counts = self.copies, step.bond_counts
            columns = zip(graph.bonds.unbind(1), self.encoder.bond_vocabularies, average_bond())
            beyond_average = torch.cat(
                [nn.functional.one_hot(c, size) - mean.to(counts) for c, size, mean in columns],
                dim=1,
            )
            absent = (self.bonds - 1).unsqueeze(1) * beyond_average
            step = replace(step, bond_counts=counts.index_add(0, graph.dst, absent))
        return h, step

    def encode(self, atoms: Tensor, bonds: Tensor | None = None) -> Tensor:
        """Map presences ``[S, n_atoms]`` and ``[S, n_bonds]`` to embeddings ``[S, out_dim]``."""
        self.atoms = atoms.flatten()
        if bonds is not None:
            self.bonds = torch.cat([bonds, bonds], dim=1).flatten()  # both directions
        self.copies = self._copies(len(atoms))
        return self.network.read("graph", self.copies).float()

    def _copies(self, n: int) -> BatchedGraph:
        graph = self.graph
        start = torch.arange(n, device=graph.atoms.device) * len(graph.atoms)
        return BatchedGraph(
            graph.atoms.repeat(n, 1),
            (graph.src + start.unsqueeze(1)).flatten(),
            (graph.dst + start.unsqueeze(1)).flatten(),
            graph.bonds.repeat(n, 1),
            graph.n_atoms.repeat(n),
            graph.n_edges.repeat(n),
        )


def _graph_path(network: MMSANetwork, graph: BatchedGraph) -> ViewPath | str:
    encoder = network.encoders["graph"]
    if not isinstance(encoder, GraphEncoder):
        return f"{type(encoder).__name__} is not an encoder whose atoms can be blended"
    points = _GraphPoints(network, encoder, graph)
    sizes = {"atoms": len(graph.atoms)}
    if points.moves_bonds:
        sizes["bonds"] = len(graph.src) // 2
    whole = tuple(torch.ones(1, n, device=graph.atoms.device) for n in sizes.values())
    blank = tuple(torch.zeros_like(x) for x in whole)
    return ViewPath(tuple(sizes), whole, blank, points.encode, points.reasons)


def _image_path(network: MMSANetwork, image: Tensor) -> ViewPath | str:
    encoder = network.encoders["image"]
    whole = image.float()
    blank = torch.full_like(whole, 255.0)
    return ViewPath(("pixels",), (whole,), (blank,), lambda pixels: encoder(pixels).float())


def _geometry_path(network: MMSANetwork, conformer: BatchedConformers) -> ViewPath | str:
    encoder = network.encoders["geometry"]
    if isinstance(encoder, ComENet):
        table: nn.Embedding = encoder.embedding
    elif isinstance(encoder, SchNet):
        table = encoder.gnn.embed
    else:
        return f"{type(encoder).__name__} is not an encoder whose atoms can be blended"
    presence = [torch.ones(0)]
    shares = average_element(table.num_embeddings, network.config.hydrogens)
    _blend(table, shares, lambda: presence[0])

    def encode(atoms: Tensor) -> Tensor:
        n = len(atoms)
        presence[0] = atoms.flatten()
        copies = BatchedConformers(
            conformer.atomic_numbers.repeat(n),
            conformer.coordinates.repeat(n, 1),
            conformer.n_atoms.repeat(n),
        )
        return network.read("geometry", copies).float()

    whole = torch.ones(1, len(conformer.atomic_numbers), device=conformer.coordinates.device)
    return ViewPath(("atoms",), (whole,), (torch.zeros_like(whole),), encode)


def _fingerprint_path(network: MMSANetwork, inputs: BatchedFingerprints) -> ViewPath | str:
    encoder = network.encoders["fingerprint"]
    if not isinstance(encoder, FingerprintMLP):
        return f"{type(encoder).__name__} is not an encoder whose bits can be blended"
    whole = inputs.counts.float().log1p(), encoder.scaled_descriptors(inputs)
    # Undefined descriptors are read as medians, whose score is not 0 where molecules tie with them.
    medians = replace(inputs, descriptors=torch.full_like(inputs.descriptors, torch.nan))
    blank = torch.zeros_like(whole[0]), encoder.scaled_descriptors(medians)
    return ViewPath(
        ("bits", "descriptors"),
        whole,
        blank,
        lambda bits, descriptors: encoder.layers(torch.cat([bits, descriptors], dim=1)).float(),
    )


_PATHS: dict[str, Callable[..., ViewPath | str]] = {
    "graph": _graph_path,
    "image": _image_path,
    "geometry": _geometry_path,
    "fingerprint": _fingerprint_path,
}


def view_paths(
    network: MMSANetwork, batch: MoleculeBatch
) -> tuple[dict[str, ViewPath], dict[str, str]]:
    """Return the path of each available view of one molecule, or why the view has none.

    Parameters
    ----------
    network : MMSANetwork
        A copy owned by the caller: hooks are left in its encoders.
    batch : MoleculeBatch
        One molecule.

    Returns
    -------
    paths : dict of str to ViewPath
    reasons : dict of str to str
        Of available views that are held fixed along the path.
    """
    paths: dict[str, ViewPath] = {}
    reasons: dict[str, str] = {}
    for column, view in enumerate(batch.modalities):
        if not bool(batch.available[0, column]):
            continue
        make = _PATHS.get(view)
        path = make(network, batch.inputs[view]) if make else "no blank molecule is defined for it"
        if isinstance(path, ViewPath):
            paths[view] = path
        else:
            reasons[view] = f"{path}; the view is held fixed and only its removal measured"
    return paths, reasons


# ---- the integral -------------------------------------------------------------------------


def explained_output(
    network: MMSANetwork,
    h: Mapping[str, Tensor],
    available: Tensor,
    task: int,
    target: int | None,
) -> Tensor:
    """Return the output that is explained: log-odds of a class, or the value.

    Log-odds rather than a probability, because they do not saturate: where a probability has
    reached 1, no input would contribute.

    Parameters
    ----------
    network : MMSANetwork
    h : dict of str to Tensor
        :meth:`MMSANetwork.modality_embeddings` of the available views.
    available : Tensor
        Bool ``[B, M]``.
    task : int
    target : int or None
        The class; None for regression.

    Returns
    -------
    Tensor
        ``[B]``: ``log p / (1 − p)``, or the value in label units.
    """
    embedding = network.embed_codes(network.project(h), available)
    prediction, raw, _ = network.supervised_outputs(embedding, h, available)
    if target is None:
        return prediction[:, task]
    logits = raw[:, task]
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return logits[:, target] - others.logsumexp(dim=1)


def integrate(
    network: MMSANetwork,
    batch: MoleculeBatch,
    task: int,
    target: int | None,
    tolerance: float = 0.02,
    max_steps: int = 4096,
    batch_size: int = 32,
) -> Attribution:
    """Attribute one output of one molecule to its atoms, bonds, pixels, bits and descriptors.

    The number of integration points is doubled until the contributions sum to the difference.

    Parameters
    ----------
    network : MMSANetwork
        In evaluation mode; a copy owned by the caller, see :func:`view_paths`.
    batch : MoleculeBatch
        One molecule with at least one view.
    task : int
    target : int or None
        The class; None for regression.
    tolerance : float
        Largest ``|residual|``, relative to ``|output − baseline|``, or to 5 % of the summed
        absolute contributions (without pixels) where that is larger.
    max_steps : int
        Maximum number of integration points; reached where contributions cancel so nearly that
        the tolerance cannot be met.
    batch_size : int
        Integration points per pass.

    Returns
    -------
    Attribution

    Raises
    ------
    ModuleNotFoundError
        If captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "explanations need captum: pip install 'deepchem_mmsa[explain]'"
        ) from error
    if network.hypergraph is not None:
        # Training detaches memberships; completeness needs the gradient of the whole function.
        network.hypergraph.detach_memberships = False
    paths, reasons = view_paths(network, batch)
    names = [(view, name) for view, path in paths.items() for name in path.names]
    whole = tuple(x for path in paths.values() for x in path.whole)
    blank = tuple(x for path in paths.values() for x in path.blank)
    for view, path in paths.items():
        reasons.update({f"{view} {name}": why for name, why in path.reasons.items()})
    with torch.no_grad():
        held = {
            m: network.read(m, batch.inputs[m]).float()
            for m, column in zip(batch.modalities, batch.available[0].tolist())
            if column and m not in paths
        }

    def output(*inputs: Tensor) -> Tensor:
        n, given = len(inputs[0]) if inputs else 1, iter(inputs)
        h = {m: value.expand(n, -1) for m, value in held.items()}
        for view, path in paths.items():
            h[view] = path.encode(*(next(given) for _ in path.names))
        return explained_output(network, h, batch.available.expand(n, -1), task, target)

    with torch.no_grad():
        ends = [float(output(*inputs)) for inputs in (whole, blank)]
    result = Attribution(ends[0], ends[1], {}, 0, reasons)
    if not paths:
        return result
    method = IntegratedGradients(output)
    steps = min(FIRST_STEPS, max_steps)
    while True:
        found = method.attribute(
            whole, blank, n_steps=steps, internal_batch_size=max(batch_size, 1)
        )
        result.parts, result.steps = {view: {} for view in paths}, steps
        for (view, name), values in zip(names, found):
            result.parts[view][name] = values[0].detach().cpu().numpy()
        # Where output and baseline nearly agree, the sizes that cancel set the scale instead.
        size = sum(
            float(np.abs(values).sum())
            for view, part in result.parts.items()
            for values in part.values()
            if view != "image"  # pixels cancel at every edge of a drawing
        )
        allowed = tolerance * max(abs(ends[0] - ends[1]), 0.05 * size)
        if abs(result.residual) <= allowed or steps >= max_steps:
            return result
        steps = min(2 * steps, max_steps)
