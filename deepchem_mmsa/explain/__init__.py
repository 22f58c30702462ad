"""Explain a prediction: contributions of atoms, bonds and views, memory anchors, neighbours.

:func:`explain` explains one molecule. docs/explain.md defines the numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rdkit import Chem

from deepchem_mmsa.batching import Collator, MoleculeBatch
from deepchem_mmsa.explain.attribution import Attribution, explained_output, integrate
from deepchem_mmsa.explain.explanation import Explanation, ViewShare
from deepchem_mmsa.explain.mapping import to_atoms, to_bonds
from deepchem_mmsa.explain.structure import (
    Anchor,
    Reference,
    References,
    memory_anchors,
    nearest_references,
)
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.network import MMSANetwork
from deepchem_mmsa.predictor import MMSAPredictor
from deepchem_mmsa.record_checks import missing_reason
from deepchem_mmsa.views import molecule_views
from deepchem_mmsa.views.fingerprint import DESCRIPTORS
from deepchem_mmsa.views.topology import canonical_order, read_smiles

__all__ = [
    "Anchor",
    "Explanation",
    "Reference",
    "References",
    "ViewShare",
    "explain",
    "read_references",
]


def explain(
    model: Any,
    molecule: str | Chem.Mol | MoleculeViews,
    task: int | str = 0,
    target: int | None = None,
    *,
    references: Sequence[object] | References = (),
    n_anchors: int = 5,
    n_references: int = 5,
    tolerance: float = 0.02,
    max_steps: int = 4096,
    batch_size: int = 32,
) -> Explanation:
    """Explain a model's prediction for one molecule.

    Parameters
    ----------
    model : MMSAPredictor, MMSAModel or MMSANetwork
        Trained for classification or regression. It is copied and not changed.
    molecule : str, rdkit.Chem.Mol or MoleculeViews
        SMILES, molecule or record. Contributions follow its order of atoms and bonds.
    task : int or str
        Index or name of the task.
    target : int, optional
        The class to explain; by default 1 of two classes, otherwise the most probable one.
    references : sequence of str, rdkit.Chem.Mol or MoleculeViews, or References, optional
        Molecules of which the nearest are reported, for example the training set. To explain
        several molecules, embed these once with :func:`read_references`.
    n_anchors, n_references : int
        Number of most-addressed anchors (those of the hyperedge are added) and of references.
    tolerance : float
        Largest ``|residual|`` of the integral, relative to ``|output − baseline|``, or to 5 % of
        the summed absolute contributions (without pixels) where that is larger.
    max_steps : int
        Maximum number of integration points; reaching it ends the refinement.
    batch_size : int
        Integration points per pass.

    Returns
    -------
    Explanation

    Raises
    ------
    TypeError
        If `model` is of another type, or `references` is a single text or a table.
    ValueError
        If the molecule cannot be read or has no view that the model reads (the message says
        why), the model has no head, there is no such task or class, or a regression has a target.
    ModuleNotFoundError
        If captum is not installed.

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> config = MMSAConfig(mode="regression", modalities=("graph",), graph_width=16)
    >>> why = explain(MMSANetwork(config), "CCO")
    >>> why.atoms["graph"].shape, why.views[0].name
    ((3,), 'graph')
    >>> total = why.baseline + sum(view.contribution for view in why.views)
    >>> abs(total - why.output) <= 0.02 * abs(why.output - why.baseline)
    True
    """
    predictor = _own_predictor(model)
    network, config = predictor.network, predictor.config
    if config.mode == "pretraining":
        raise ValueError(
            "this model was pre-trained only and predicts no labels; fine-tune it first"
        )
    task = _task(predictor, task)
    shown, atom_order, record = _read(predictor, molecule)
    if not set(record.available) & set(config.modalities):
        raise ValueError(
            f"{record.smiles!r} has no view that this model reads: "
            f"{missing_reason(record, config.modalities)}"
        )
    device = next(network.parameters()).device
    batch = Collator.of(config)([record]).to(device)

    with torch.no_grad():
        h = network.modality_embeddings(batch)
        code = network.fusion.fuse(network.project(h), batch.available)
        embedding = network.structure_aware(code)
        outputs = network.supervised_outputs(embedding, h, batch.available)
        prediction = outputs[0][0, task].cpu().numpy()
        anchors, own_share = memory_anchors(network, code, n_anchors)
        if config.mode == "classification":
            target = _target(target, prediction)
        elif target is not None:
            raise ValueError(f"target={target}: a regression has no classes, leave it out")
        without = _without_each_view(network, batch, h, task, target)
        output = float(explained_output(network, h, batch.available, task, target))
    if not isinstance(references, References):
        references = _embedded(predictor, references)
    place = (slice(None), task) if target is None else (slice(None), task, target)
    nearest = nearest_references(
        embedding[0].cpu().numpy(), references.embeddings, references.predictions[place],
        references.smiles, n_references,
    )  # fmt: skip
    for known in ("name", "label"):
        given = getattr(references, f"{known}s")
        nearest = [replace(r, **{known: given[r.row]}) for r in nearest] if given else nearest
    attribution = integrate(network, batch, task, target, tolerance, max_steps, batch_size)

    missing = {m: missing_reason(record, (m,)) for m in config.modalities
               if m not in record.available}  # fmt: skip
    picture = batch.inputs["image"][0].cpu().numpy() if "image" in attribution.parts else None
    pixels = attribution.parts["image"]["pixels"].sum(0) if picture is not None else None
    described = attribution.parts.get("fingerprint", {}).get("descriptors", np.zeros(0))
    return Explanation(
        molecule=shown,
        smiles=record.smiles,
        task=predictor.tasks[task],
        target=target,
        prediction=float(prediction if target is None else prediction[target]),
        output=output,
        baseline=attribution.baseline,
        atoms=to_atoms(attribution.parts, record, shown, atom_order, config.hydrogens),
        bonds=to_bonds(attribution.parts, record, shown, atom_order),
        descriptors=dict(zip(DESCRIPTORS, described.tolist())),
        pixels=pixels,
        picture=picture,
        views=_shares(attribution, config.modalities, output, without, missing),
        anchors=anchors,
        own_share=own_share,
        references=nearest,
        steps=attribution.steps,
        residual=attribution.residual,
        reasons={**attribution.reasons, **missing},
        class_name="" if target is None else predictor.classes[target],
    )


def read_references(
    model: Any,
    molecules: Sequence[object],
    names: Sequence[object] = (),
    labels: Sequence[object] = (),
) -> References:
    """Embed reference molecules for :func:`explain`.

    Parameters
    ----------
    model : MMSAPredictor, MMSAModel or MMSANetwork
        The model to explain.
    molecules : sequence of str, rdkit.Chem.Mol or MoleculeViews
    names, labels : sequence, optional
        ``[N]``: a name and a measured label of each, shown on the page; "" where there is none.

    Raises
    ------
    TypeError
        If `model` is of another type, or `molecules` is a single text or a table.
    ValueError
        If there are names or labels, and not one per molecule.

    Examples
    --------
    >>> from deepchem_mmsa.config import MMSAConfig
    >>> network = MMSANetwork(MMSAConfig(mode="regression", modalities=("graph",), graph_width=16))
    >>> known = read_references(network, ["CCN", "OCC"], labels=[-4.5, -5.0])
    >>> known.smiles, known.embeddings.shape, known.labels
    (['CCN', 'CCO'], (2, 256), ['-4.5', '-5.0'])
    """
    embedded = _embedded(_own_predictor(model), molecules)
    told = {"names": list(map(str, names)), "labels": list(map(str, labels))}
    for what, texts in told.items():
        if texts and len(texts) != len(embedded.smiles):
            raise ValueError(
                f"{len(texts)} {what} for {len(embedded.smiles)} molecules: give one per molecule"
            )
    return replace(embedded, names=told["names"], labels=told["labels"])


def _embedded(predictor: MMSAPredictor, molecules: Sequence[object]) -> References:
    config = predictor.config

    def compute(batch: MoleculeBatch) -> torch.Tensor:
        prediction, _, embedding = predictor.network(batch)
        return torch.cat([embedding, prediction.flatten(1)], dim=1)

    records = predictor.records(molecules)
    parts = [part.values for part in predictor.apply(records, compute)]
    values = np.concatenate(parts) if parts else np.zeros((0, config.embedding_dim))
    embeddings, predictions = np.split(values, [config.embedding_dim], axis=1)
    if config.mode == "classification":
        predictions = predictions.reshape(len(records), config.n_tasks, config.n_classes)
    else:
        predictions = predictions.reshape(len(records), config.n_tasks)
    return References([record.smiles for record in records], embeddings, predictions)


# ---- arguments ----------------------------------------------------------------------------


def _own_predictor(model: Any) -> MMSAPredictor:
    """Return a predictor with a copy of the network, so that the caller's model gets no hooks."""
    network = getattr(model, "network", getattr(model, "model", model))
    if not isinstance(network, MMSANetwork):
        raise TypeError(
            f"explain needs an MMSAPredictor, MMSAModel or MMSANetwork, not {type(model).__name__}"
        )
    own = copy.deepcopy(network).eval().requires_grad_(False)
    own.config = own.config.replace(precision="fp32")
    names = {"tasks": getattr(model, "tasks", None), "classes": getattr(model, "classes", None)}
    return MMSAPredictor(own, names)


def _task(predictor: MMSAPredictor, task: int | str) -> int:
    names = predictor.tasks
    if isinstance(task, str) and task in names:
        return names.index(task)
    if isinstance(task, str) or not 0 <= task < len(names):
        raise ValueError(
            f"task={task!r}: this model has the tasks {names}; give a name or a number from 0"
        )
    return task


def _target(target: int | None, probabilities: np.ndarray) -> int:
    n = len(probabilities)
    if target is None:
        return 1 if n == 2 else int(probabilities.argmax())
    if not 0 <= target < n:
        raise ValueError(f"target={target}: the classes are 0 to {n - 1}")
    return target


def _read(
    predictor: MMSAPredictor, molecule: str | Chem.Mol | MoleculeViews
) -> tuple[Chem.Mol, list[int], MoleculeViews]:
    """Return the molecule to draw, the index in it of each atom of the record, and the record."""
    if isinstance(molecule, MoleculeViews):
        record, given = molecule, molecule.smiles
    else:
        record, given = molecule_views(molecule, predictor.settings), molecule
    if not record.readable:
        raise ValueError(next(iter(record.reasons.values())))
    ordered, order = canonical_order(given)
    if isinstance(molecule, MoleculeViews) or order is None:
        return ordered, list(range(ordered.GetNumAtoms())), record
    return Chem.Mol(given) if isinstance(given, Chem.Mol) else read_smiles(given), order, record


# ---- results ------------------------------------------------------------------------------


def _without_each_view(
    network: MMSANetwork,
    batch: MoleculeBatch,
    h: Mapping[str, torch.Tensor],
    task: int,
    target: int | None,
) -> dict[str, float]:
    """Return the output without each available view, where another view is left."""
    outputs = {}
    for column, view in enumerate(batch.modalities):
        left = batch.available.clone()
        left[:, column] = False
        if bool(batch.available[0, column]) and bool(left.any()):
            outputs[view] = float(explained_output(network, h, left, task, target))
    return outputs


def _shares(
    attribution: Attribution,
    modalities: Sequence[str],
    output: float,
    without: dict[str, float],
    missing: dict[str, str],
) -> list[ViewShare]:
    sizes = {view: abs(attribution.total(view)) for view in attribution.parts}
    whole = sum(sizes.values())
    shares = []
    for view in modalities:
        known = view in attribution.parts
        reason = missing.get(view, attribution.reasons.get(view, ""))
        if view not in without and not reason:
            reason = "the only view of this molecule: it cannot be left out"
        shares.append(
            ViewShare(
                name=view,
                contribution=attribution.total(view) if known else np.nan,
                share=sizes[view] / whole if known and whole > 0 else np.nan,
                removal=output - without[view] if view in without else np.nan,
                reason=reason,
            )
        )
    return shares
