"""Files of the present version, for later ones to read: ``python -m tests.old_files``.

Writes ``tests/old/VERSION``: an exported model of all views, a checkpoint, records, and the
predictions that belong to them. Run it at a release; tests/test_old_files.py reads every version
that lies there.
"""

import json
import shutil
from pathlib import Path

import deepchem as dc
import numpy as np

from deepchem_mmsa import MMSAFeaturizer, MMSAModel, __version__
from deepchem_mmsa.molecule import MODALITIES

OLD = Path(__file__).parent / "old"
SMILES = [
    "CCO", "CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "F/C=C/F", "[Na+].[Cl-]",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O", "c1ccsc1", "ICC",
]  # fmt: skip
SMALL = {
    "image_size": 32, "image_width": 8, "graph_width": 8, "graph_layers": 2, "geometry_width": 8,
    "geometry_layers": 1, "fingerprint_width": 2, "embedding_dim": 8, "n_anchors": 4,
    "n_neighbors": 2, "head_width": 8, "batch_size": 5, "memory_warmup": 10, "progress": False,
}  # fmt: skip

VIEWS = {"model": MODALITIES, "run": ("graph", "geometry")}


def write(folder: Path) -> None:
    """Write all files of the present version into a new folder."""
    folder.mkdir(parents=True)
    records = MMSAFeaturizer(MODALITIES, image_size=32).featurize(SMILES)
    (folder / "records.json").write_text(json.dumps([r.to_bytes().hex() for r in records]))
    data = dc.data.NumpyDataset(records, np.arange(10.0)[:, None], ids=np.array(SMILES, object))
    expected = {"settings": SMALL}
    for name, modalities in VIEWS.items():
        pretrained = MMSAModel(mode="pretraining", modalities=modalities, seed=1, **SMALL)
        pretrained.fit(data, nb_epoch=3, checkpoint_interval=0)
        model = MMSAModel(
            mode="regression", modalities=modalities, seed=2, model_dir=str(folder / "run"), **SMALL
        )
        model.load_from_pretrained(pretrained)
        model.fit(data, nb_epoch=2, checkpoint_interval=0)
        expected[name] = {
            "predictions": model.predict(data).ravel().tolist(),
            "embeddings": model.predict_embedding(data).tolist(),
        }
        if name == "model":
            model.save_pretrained(folder / "model")
        else:
            model.save_checkpoint(1)
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    shutil.rmtree(OLD / __version__, ignore_errors=True)
    write(OLD / __version__)
