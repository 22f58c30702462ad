"""Small runs of each kind, with names and molecules that try to be HTML."""

import numpy as np
import pytest

EVIL = "<script>window.hacked = 1</script>"
EVIL_TASK = f"log \"S\" & 'more' {EVIL}"
EVIL_SMILES = f"C1CC</code>{EVIL}"


@pytest.fixture(scope="session")
def pretrained(make_model, graph_dataset):
    """A pre-trained model with an active memory."""
    model = make_model(mode="pretraining", memory_warmup=32)
    model.fit(graph_dataset, nb_epoch=2)
    assert model.model.memory.is_active
    return model


@pytest.fixture(scope="session")
def parts(molecules, dataset):
    """Train, valid and test as pairs of records and labels; the last row is no molecule."""
    from deepchem_mmsa.molecule import MoleculeViews

    X = list(molecules) * 2
    y = np.concatenate([dataset.y, dataset.y + 0.01])
    X[-1] = MoleculeViews.unreadable(EVIL_SMILES, "unclosed ring for input: 'C1CC'")
    y[3] = np.nan
    return {
        "train": (X[:32], y[:32]),
        "valid": (X[32:56], y[32:56]),
        "test": (X[56:], y[56:]),
    }


def fine_tuned(make_model, pretrained, parts, mode, tasks, labels):
    import deepchem as dc

    from deepchem_mmsa import EarlyStopping

    model = make_model(mode=mode, n_tasks=len(tasks), atom_sum=True)
    model.load_from_pretrained(pretrained)
    model.tasks = tasks

    def data(part):
        X, y = parts[part][0], labels(parts[part][1])
        records = np.empty(len(X), dtype=object)
        records[:] = X
        return dc.data.NumpyDataset(records, np.nan_to_num(y), (~np.isnan(y)) * 1.0)

    sets = {part: data(part) for part in parts}
    model.fit(sets["train"], nb_epoch=2, callbacks=[EarlyStopping(sets["valid"], patience=5)])
    return model, sets


@pytest.fixture(scope="session")
def regression(make_model, pretrained, parts):
    """A model of one task, and its data sets."""
    return fine_tuned(make_model, pretrained, parts, "regression", [EVIL_TASK], lambda y: y)


@pytest.fixture(scope="session")
def classification(make_model, pretrained, parts):
    """A model of two tasks, and its data sets."""

    def labels(y):
        return np.where(np.isnan(y), np.nan, np.concatenate([y > 0.2, y > 0.4], 1))

    tasks = ["many heteroatoms", "very many"]
    return fine_tuned(make_model, pretrained, parts, "classification", tasks, labels)


@pytest.fixture(scope="session")
def pages(tmp_path_factory, pretrained, regression, classification, graph_dataset):
    """A page of each kind of run."""
    from deepchem_mmsa.report import write_report

    folder = tmp_path_factory.mktemp("pages")
    runs = {
        "pretraining": (pretrained, {"train": graph_dataset}),
        "regression": regression,
        "classification": classification,
    }
    return {
        name: write_report(folder / f"{name}.html", model, data, resamples=100, title=name + EVIL)
        for name, (model, data) in runs.items()
    }
