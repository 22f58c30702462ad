"""Model card of an export: what its files say of it, for whoever receives it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepchem_mmsa.config import MMSAConfig

_OTHERWISE_SAID = (
    "tasks", "classes", "labels_seen", "from_labels", "feature_version", "package_version",
    "sha256",
)  # fmt: skip


def card_text(
    name: str,
    config: MMSAConfig,
    metadata: Mapping[str, Any],
    n_parameters: int,
    n_exemplars: int,
    n_models: int = 1,
) -> str:
    """Return a model card in Markdown, with the front matter that the Hugging Face hub reads.

    Parameters
    ----------
    name : str
        By which the model is loaded.
    config : MMSAConfig
    metadata : mapping
        As an export has them.
    n_parameters, n_exemplars : int
        Of its tensors; SMILES of training molecules in it.
    n_models : int
        Models of an ensemble, whose first one the other arguments describe.

    Examples
    --------
    >>> text = card_text("hf:me/mine", MMSAConfig(mode="regression"), {"tasks": ["logS"]}, 9, 0)
    >>> print(text.splitlines()[5])
    # me/mine
    """
    kind = "embeddings" if config.mode == "pretraining" else config.mode
    call = "embed" if config.mode == "pretraining" else "predict"
    use = f"""from deepchem_mmsa import MMSAPredictor

predictor = MMSAPredictor.from_pretrained({json.dumps(name)})
values, reasons = predictor.{call}(["CCO", "c1ccccc1O"])"""
    of_which = ""
    if n_models > 1:
        of_which = f"These are {n_models} networks, whose mean is predicted; of the first one:\n\n"
        use = f"""from deepchem_mmsa.ensemble import ensemble_spread, load_ensemble

predictors = load_ensemble({json.dumps(name)})
values, std, reasons = ensemble_spread(predictors, ["CCO", "c1ccccc1O"])"""
    notes = [f"* {key}: {value}" for key, value in _flat(metadata) if key not in _OTHERWISE_SAID]
    licence = any("licen" in key.lower() for key in metadata)
    exemplars = f"SMILES of {n_exemplars} molecules of its pre-training" if n_exemplars else "none"
    return f"""---
library_name: deepchem_mmsa
tags: [chemistry, molecules, deepchem, {kind}]
---

# {name.removeprefix("hf:")}

{_what(config, metadata)} It reads SMILES; the views of a molecule are
{_listed(config.modalities)}.

## Use

With the Python package `deepchem_mmsa` (and its extra `hub`, for a model on the hub):

```python
{use}
```

A molecule that cannot be read has NaN and a reason. `MMSAModel.from_pretrained` loads the model for
fine-tuning, or for use with DeepChem. Loading executes nothing.

## Training and scores

{of_which}{chr(10).join(notes) or "The author has noted nothing."}

## Limits

* {"Licence: above." if licence else "The author has stated no licence."}
* Scores hold for molecules like those that were tested; the less a molecule resembles the training
  data, the less a prediction is worth. No decision about safety should rest on it without a
  validation of your own.
* Structures are read as given: salts, tautomers and protonation states are not standardised.

## Files

{of_which}* parameters: {n_parameters:,}
* exemplars: {exemplars}
* written by deepchem_mmsa {metadata.get("package_version")}, with features of version
  {metadata.get("feature_version")}
* SHA-256 of `model.safetensors`: {metadata.get("sha256")}
"""


def _what(config: MMSAConfig, metadata: Mapping[str, Any]) -> str:
    """Return what the model computes, in a sentence."""
    if config.mode == "pretraining":
        return (
            f"Embeddings of molecules, {config.embedding_dim} numbers each. The model was trained "
            "without labels and predicts none."
        )
    tasks = _listed(metadata.get("tasks") or []) or f"{config.n_tasks} task(s)"
    if config.mode == "regression":
        return f"Regression of {tasks}, in the unit of the training labels."
    classes = _listed(metadata.get("classes") or range(config.n_classes))
    return f"Classification of {tasks}: probabilities of the classes {classes}, in this order."


def _listed(names: Sequence[object] | range) -> str:
    return ", ".join(f"`{_line(name)}`" for name in names)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield names, joined by points, and values of nested notes; without what is missing."""
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{_line(key)}.")
        elif isinstance(value, list):
            yield f"{before}{_line(key)}", ", ".join(map(_line, value))
        elif value is not None:
            yield (
                f"{before}{_line(key)}",
                _line(f"{value:.4g}" if isinstance(value, float) else value),
            )


def _line(value: object) -> str:
    return " ".join(str(value).replace("`", "'").split())
