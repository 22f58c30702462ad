"""Benchmarks of models and baselines on the same splits and labels, in the same run.

=============  ====================================================================
sets           MoleculeNet data sets, split protocols, checks for leaked test molecules
scores         metrics on non-missing labels
baselines      random forest, Gaussian process, mean
contenders     MMSA pre-trained and from scratch, and the baselines, as models of a run
peers          DeepChem's AttentiveFP, chemprop
overlap        pre-training molecules that are in a benchmark's held-out sets
cells          resumable runs, one file per finished (data set, model, seed)
results        tidy table, Markdown, plot
representation quality of a pre-trained representation: retrieval, alignment, uniformity
=============  ====================================================================
"""

from deepchem_mmsa.benchmark.baselines import (
    chemical_features,
    ecfp,
    forest_predictions,
    gaussian_process_predictions,
    mean_predictions,
)
from deepchem_mmsa.benchmark.scores import metric_of, score
from deepchem_mmsa.benchmark.sets import (
    BENCHMARKS,
    PROTOCOLS,
    PUBLISHED,
    Benchmark,
    LeakError,
    Split,
    Whole,
    check_apart,
    held_out_molecules,
    load_benchmark,
    load_split,
    scaffold_split,
)

__all__ = [
    "BENCHMARKS",
    "PROTOCOLS",
    "PUBLISHED",
    "Benchmark",
    "LeakError",
    "Split",
    "Whole",
    "check_apart",
    "chemical_features",
    "ecfp",
    "forest_predictions",
    "gaussian_process_predictions",
    "held_out_molecules",
    "load_benchmark",
    "load_split",
    "mean_predictions",
    "metric_of",
    "scaffold_split",
    "score",
]
