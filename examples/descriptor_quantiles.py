r"""Compute the table of quantiles by which the fingerprint encoder scales descriptors.

    python examples/descriptor_quantiles.py --input runs/pretrain/selection.json \
        --output deepchem_mmsa/layers/descriptor_quantiles.csv

It uses 15,000 of the molecules that ``pretrain.py`` chose, which exclude every benchmark's
held-out molecules, with at most 150 heavy atoms. The table is stored in the state of every
exported model, so that a new one affects new models only.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from rdkit import rdBase
from scipy.special import ndtr

from deepchem_mmsa.views.fingerprint import DESCRIPTORS, descriptors
from deepchem_mmsa.views.topology import canonical

LEVELS = np.arange(-3, 3.01, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--input", type=Path, required=True, help="selection.json of pretrain.py")
    parser.add_argument("--output", required=True)
    parser.add_argument("--molecules", type=int, default=15000)
    a = parser.parse_args()
    rows = []
    with rdBase.BlockLogs():
        for text in json.loads(a.input.read_text(encoding="utf-8"))["train"][: a.molecules]:
            try:
                molecule = canonical(text)
            except ValueError:
                continue
            if molecule.GetNumHeavyAtoms() <= 150:
                rows.append(descriptors(molecule))
    quantiles = np.nanquantile(np.array(rows, dtype=float), ndtr(LEVELS), axis=0).T
    with open(a.output, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["descriptor", *(f"{level:g}" for level in LEVELS)])
        for name, values in zip(DESCRIPTORS, quantiles):
            writer.writerow([name, *(f"{value:.6g}" for value in values)])
    print(f"{len(rows)} molecules")


if __name__ == "__main__":
    main()
