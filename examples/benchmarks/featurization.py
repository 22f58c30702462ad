r"""The cost of featurization: compared with RDKit and DeepChem, in processes, on disk.

    python examples/benchmarks/featurization.py --data-dir DATA --output runs/featurization.json

Every figure is a ratio, or a pair of figures, of one run on one machine: the contenders take
turns, and the median over the turns is printed. Run nothing else meanwhile. ``--parts``
chooses among ``rdkit``, ``deepchem``, ``processes``, ``conformers``, ``disk`` and ``tail``:

1. Ours ÷ the bare RDKit calls for the same products (parse, draw, embed with the same seed and
   parameters), on ZINC; with images, which ours compresses, and without.
2. DeepChem's three featurizers for the same views ÷ ours.
3. The speed-up of two processes, and the cost of containing crashes.
4. What a conformer costs, on ZINC, and how far its distances are from those of quantum chemistry,
   on QM7: at RDKit's own tolerance, at ours, and relaxed by MMFF94.
5. Bytes per molecule; reading stored images against drawing them on the fly.
6. The tail on SIDER, and on HIV (rows drawn at random): mean ÷ median of the time of a molecule,
   and the failures with reasons.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import itertools
import json
import os
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor, rdDistGeom, rdForceFieldHelpers
from rdkit.Chem.Draw import rdMolDraw2D
from timing import in_turns, ratio

from deepchem_mmsa import MMSAFeaturizer
from deepchem_mmsa.molecule import MoleculeViews
from deepchem_mmsa.views import ViewSettings, many_views, molecule_views
from deepchem_mmsa.views.conformer import FORCE_TOLERANCE
from deepchem_mmsa.views.depiction import DEFAULT_SIZE, decode, draw
from deepchem_mmsa.views.topology import canonical

PARTS = ("rdkit", "deepchem", "processes", "conformers", "disk", "tail")


def bare_rdkit(smiles: Sequence[str], pictures: bool) -> None:
    """Compute the content of a record by bare RDKit calls, and discard it."""
    for text in smiles:
        molecule = Chem.MolFromSmiles(text)
        if pictures:
            drawing = Chem.Mol(molecule)
            rdDepictor.Compute2DCoords(drawing, canonOrient=True)
            prepared = rdMolDraw2D.PrepareMolForDrawing(drawing, forceCoords=False)
            drawer = rdMolDraw2D.MolDraw2DCairo(DEFAULT_SIZE, DEFAULT_SIZE)
            drawer.drawOptions().prepareMolsBeforeDrawing = False
            drawer.DrawMolecule(prepared)
            drawer.FinishDrawing()
            drawer.GetDrawingText()
        embed(Chem.AddHs(molecule))


def embed(molecule: Chem.Mol, tolerance: float = FORCE_TOLERANCE) -> np.ndarray | None:
    """Return coordinates by RDKit's own call; ``None`` where that fails."""
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = 1  # as seed 0 of ours
    parameters.maxIterations = 20
    parameters.optimizerForceTol = tolerance
    if rdDistGeom.EmbedMolecule(molecule, parameters) < 0:
        return None
    return np.asarray(molecule.GetConformer().GetPositions())


def beside_rdkit(smiles: Sequence[str], repeats: int) -> dict[str, float]:
    """Return ours ÷ bare RDKit; both get canonical SMILES, and so embed in the same order."""
    whole = MMSAFeaturizer()
    without = MMSAFeaturizer(("graph", "geometry"))
    times = in_turns(
        repeats,
        ours=lambda: whole.featurize(smiles),
        bare=lambda: bare_rdkit(smiles, pictures=True),
        ours_without=lambda: without.featurize(smiles),
        bare_without=lambda: bare_rdkit(smiles, pictures=False),
    )
    return {
        "ms_per_molecule": 1000 * statistics.median(times["ours"]) / len(smiles),
        "ours_over_rdkit": ratio(times, "ours", "bare"),
        "ours_over_rdkit_without_pictures": ratio(times, "ours_without", "bare_without"),
    }


def beside_deepchem(smiles: Sequence[str], repeats: int) -> dict[str, float]:
    """Return DeepChem's three featurizers for the three views ÷ ours for the same three."""
    import deepchem as dc

    theirs = {
        "SmilesToImage": dc.feat.SmilesToImage(img_size=DEFAULT_SIZE, max_len=1000),
        "MolGraphConvFeaturizer": dc.feat.MolGraphConvFeaturizer(use_edges=True),
        "RDKitConformerFeaturizer": dc.feat.RDKitConformerFeaturizer(),
    }
    ours = MMSAFeaturizer()
    times = in_turns(
        repeats,
        ours=lambda: ours.featurize(smiles),
        **{name: lambda f=f: f.featurize(smiles) for name, f in theirs.items()},
    )
    times["three"] = [sum(turn) for turn in zip(*(times[name] for name in theirs))]
    found = {f"{name}_ms": 1000 * statistics.median(times[name]) / len(smiles) for name in theirs}
    return {**found, "deepchem_over_ours": ratio(times, "three", "ours")}


def processes(smiles: Sequence[str], repeats: int) -> dict[str, float]:
    """Measure the speed-up of two processes, and the cost of a child process."""
    many_views(smiles[:64], n_jobs=2)  # start them
    times = in_turns(
        repeats,
        one=lambda: many_views(smiles),
        two=lambda: many_views(smiles, n_jobs=2),
        contained=lambda: many_views(smiles, contained=True),
    )
    return {
        "speed_up_with_2_processes": ratio(times, "one", "two"),
        "contained_over_not": ratio(times, "contained", "one"),
    }


def conformers(smiles: Sequence[str], path: Path, n_known: int, repeats: int) -> dict[str, float]:
    """Return the cost of embedding, and the mean absolute error of distances, Å, on QM7."""
    drugs = [Chem.AddHs(Chem.MolFromSmiles(text)) for text in smiles]
    with gzip.open(path) as file:
        read = Chem.ForwardSDMolSupplier(file, removeHs=False)
        known = [m for m in itertools.islice(read, 0, None, 15) if m][:n_known]

    def relaxed(molecule: Chem.Mol) -> np.ndarray | None:
        if embed(molecule, 0.001) is None:
            return None
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
        return np.asarray(molecule.GetConformer().GetPositions())

    ways: dict[str, Callable[[Chem.Mol], np.ndarray | None]] = {
        "rdkit": lambda molecule: embed(molecule, 0.001),
        "ours": embed,
        "relaxed": relaxed,
    }
    times = in_turns(
        repeats,
        **{
            name: lambda way=way: [way(Chem.Mol(molecule)) for molecule in drugs]
            for name, way in ways.items()
        },
    )
    found = {
        "ours_over_rdkit": ratio(times, "ours", "rdkit"),
        "relaxed_over_rdkit": ratio(times, "relaxed", "rdkit"),
    }
    for name, way in ways.items():
        bonds, distances, failed = [], [], 0
        for molecule in known:
            made = way(Chem.Mol(molecule))
            if made is None:
                failed += 1
                continue
            true = np.asarray(molecule.GetConformer().GetPositions())
            error = np.abs(_distances(made) - _distances(true))
            distances.append(error[np.triu_indices(len(error), 1)].mean())
            bonds.append(error[Chem.GetAdjacencyMatrix(molecule).astype(bool)].mean())
        found[f"{name}_bonds"] = float(np.mean(bonds))
        found[f"{name}_distances"] = float(np.mean(distances))
        found[f"{name}_failed"] = failed
    return found


def _distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points, axis=-1)


def tail(smiles: Sequence[str]) -> dict[str, Any]:
    """Return times per molecule of a set with difficult ones, and why conformers are missing."""
    times, reasons = [], collections.Counter[str]()
    for text in smiles:
        start = time.perf_counter()
        record = molecule_views(text)
        times.append(time.perf_counter() - start)
        if "geometry" in record.reasons:
            reasons[record.reasons["geometry"]] += 1
    mean, median = statistics.mean(times), statistics.median(times)
    return {
        "mean_ms": 1000 * mean,
        "median_ms": 1000 * median,
        "mean_over_median": mean / median,
        "slowest_s": max(times),
        "time_share_of_slowest_percent": sum(sorted(times)[-max(1, len(times) // 100) :])
        / sum(times),
        "without_conformer": sum(reasons.values()) / len(smiles),
        "reasons": dict(reasons),
    }


def _decode_all(pictures: Sequence[bytes]) -> int:
    return sum(decode(picture).shape[0] for picture in pictures)


def _draw_all(smiles: Sequence[str]) -> int:
    with rdBase.BlockLogs():
        return sum(decode(draw(canonical(text))).shape[0] for text in smiles)


def disk(smiles: Sequence[str], repeats: int) -> dict[str, float]:
    """Return the size of records, and images per second, stored and decoded or drawn again."""
    records = many_views(smiles)
    bare = [
        MoleculeViews(
            r.smiles, None, r.atoms, r.bond_atoms, r.bonds, r.atomic_numbers, r.coordinates
        )
        for r in records
    ]  # fmt: skip
    pictures = [r.image for r in records if r.image is not None]
    texts = [r.smiles for r in records]
    halves = [slice(0, None, 2), slice(1, None, 2)]
    found: dict[str, float] = {
        "bytes_all_views": statistics.mean(len(r.to_bytes()) for r in records),
        "bytes_without_pictures": statistics.mean(len(r.to_bytes()) for r in bare),
        "bytes_of_a_picture": statistics.mean(map(len, pictures)),
        "bytes_of_a_picture_deflated_again": statistics.mean(
            len(zlib.compress(p)) for p in pictures
        ),
    }
    with Parallel(n_jobs=2, batch_size=1) as workers:

        def both(work: Callable[[Any], int], items: Sequence[Any]) -> Callable[[], Any]:
            return lambda: workers(delayed(work)(items[half]) for half in halves)

        both(_draw_all, texts[:8])()  # start them
        times = in_turns(
            repeats,
            decode_1=lambda: _decode_all(pictures),
            draw_1=lambda: _draw_all(texts),
            decode_2=both(_decode_all, pictures),
            draw_2=both(_draw_all, texts),
        )
    for name, taken in times.items():
        what, n = name.split("_")
        found[f"{what}_per_second_{n}_workers"] = len(texts) / statistics.median(taken)
    found["draw_over_decode"] = ratio(times, "draw_1", "decode_1")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder of the MoleculeNet files"
    )
    parser.add_argument("--output", type=Path, default=Path("featurization.json"))
    parser.add_argument("--molecules", type=int, default=1000, help="of ZINC")
    parser.add_argument("--deepchem-molecules", type=int, default=200)
    parser.add_argument(
        "--sider", type=int, default=None, help="first rows of SIDER; all by default"
    )
    parser.add_argument("--hiv", type=int, default=2000, help="rows of HIV, drawn at random")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    zinc = pd.read_csv(
        arguments.data_dir / "pretrain" / "zinc250k.csv.gz", nrows=arguments.molecules
    )["smiles"]
    sider = pd.read_csv(arguments.data_dir / "sider.csv.gz", nrows=arguments.sider)["smiles"]
    hiv = pd.read_csv(arguments.data_dir / "HIV.csv")["smiles"].sample(
        arguments.hiv, random_state=0
    )
    graphs = many_views(zinc, ViewSettings(("graph",)))
    smiles = [record.smiles for record in graphs]
    few = smiles[: arguments.deepchem_molecules]
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "rdkit": lambda: beside_rdkit(smiles, arguments.repeats),
        "deepchem": lambda: beside_deepchem(few, arguments.repeats),
        "processes": lambda: processes(smiles, arguments.repeats),
        "conformers": lambda: conformers(
            few, arguments.data_dir / "pretrain" / "qm7_3d.sdf.gz", 400, arguments.repeats
        ),
        "disk": lambda: disk(smiles, arguments.repeats),
        "tail": lambda: {
            f"{name}_{key}": value
            for name, rows in (("sider", sider), ("hiv", hiv))
            for key, value in tail(rows.tolist()).items()
        },
    }
    results: dict[str, Any] = {
        "molecules": len(smiles), "repeats": arguments.repeats, "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
    }  # fmt: skip
    for name in arguments.parts:
        results[name] = sections[name]()
        print(f"\n{name}")
        for key, value in results[name].items():
            print(f"  {key:36} {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
