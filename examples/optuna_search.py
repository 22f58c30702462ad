"""Search hyperparameters with Optuna: hydration free energies, cross-validated.

    python examples/optuna_search.py --trials 20

Every trial is scored by cross-validation on the training part; the test part is evaluated once,
with the best configuration trained on all of the training part. Molecules are featurized once,
before the search. Writes ``trials.csv`` and ``best.json``; a search with ``--storage`` can be
resumed, with the same arguments: trials on other molecules, folds or epochs are not comparable,
and another seed would test on molecules that chose the earlier ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import optuna
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import KFold, cross_val_score, train_test_split

from deepchem_mmsa import MMSARegressor
from deepchem_mmsa.datasets import example_table
from deepchem_mmsa.views import ViewSettings, many_views


def regressor(parameters: dict[str, float], a: argparse.Namespace) -> MMSARegressor:
    """Return the estimator of a trial."""
    network = ("graph_width", "graph_layers", "head_dropout", "weight_decay")
    return MMSARegressor(
        a.model,
        preset=None if a.model else "small",
        modalities=["graph"],
        nb_epoch=a.epochs,
        batch_size=int(parameters["batch_size"]),
        learning_rate=parameters["learning_rate"],
        config={name: parameters[name] for name in network if name in parameters},
        random_state=a.seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--model", help="pre-trained model to start from; its widths are kept")
    parser.add_argument("--max-molecules", type=int, help="for a quick test")
    parser.add_argument("--storage", help="for example sqlite:///search.db")
    parser.add_argument("--output", type=Path, default=Path("runs/optuna"))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)

    table = example_table("freesolv")
    X = np.empty(len(table), dtype=object)
    X[:] = many_views(table["smiles"], ViewSettings(("graph",)))
    y = table["expt"].to_numpy()
    if a.max_molecules is not None:
        X, y = X[: a.max_molecules], y[: a.max_molecules]
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=a.seed)
    folds = KFold(a.folds, shuffle=True, random_state=a.seed)

    def rmse(trial: optuna.Trial) -> float:
        parameters = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
            "head_dropout": trial.suggest_float("head_dropout", 0.0, 0.5),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        }
        if a.model is None:  # the architecture of a pre-trained network is fixed
            parameters["graph_width"] = trial.suggest_categorical("graph_width", [64, 128, 256])
            parameters["graph_layers"] = trial.suggest_int("graph_layers", 2, 5)
        scores = cross_val_score(
            regressor(parameters, a), X, y, cv=folds, scoring="neg_root_mean_squared_error"
        )
        return -float(scores.mean())

    study = optuna.create_study(
        study_name="mmsa", direction="minimize", storage=a.storage, load_if_exists=True,
    )  # fmt: skip
    asked = {
        name: getattr(a, name) for name in ("epochs", "folds", "model", "max_molecules", "seed")
    }
    if study.user_attrs.get("asked", asked) != asked:
        raise SystemExit(
            f"{a.storage} holds a search with other arguments ({study.user_attrs['asked']}): use "
            "these again, or another --storage"
        )
    study.set_user_attr("asked", asked)
    # A sampler begins anew in each run: with the same seed it would repeat the first trials.
    study.sampler = optuna.samplers.TPESampler(seed=a.seed + len(study.trials))
    study.optimize(rmse, n_trials=a.trials)

    best = regressor(study.best_params, a).fit(X, y)
    test = float(root_mean_squared_error(y_test, best.predict(X_test)))
    print(f"best of {len(study.trials)} trials: {study.best_params}")
    print(f"RMSE {study.best_value:.2f} kcal/mol in cross-validation, {test:.2f} on the test set")
    study.trials_dataframe().to_csv(a.output / "trials.csv", index=False)
    found = {"parameters": study.best_params, "validation": study.best_value, "test": test}
    (a.output / "best.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
