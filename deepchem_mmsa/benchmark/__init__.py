"""Comparison on equal terms: the same split, the same labels, baselines in the same run.

=============  ====================================================================
sets           MoleculeNet's data sets, the two protocols, no test molecule elsewhere
scores         metrics on the labels that are there
baselines      random forest, mean
contenders     MMSA pre-trained and from scratch, forest and mean as models of a run
peers          DeepChem's AttentiveFP, chemprop
overlap        pre-training molecules that a benchmark holds out
cells          resumable runs, one file per finished (data set, model, seed)
results        tidy table, Markdown, picture
representation what a pre-trained representation is worth: retrieval, alignment, uniformity
=============  ====================================================================
"""

from deepchem_mmsa.benchmark.baselines import (
    chemical_features,
    ecfp,
    forest_predictions,
    mean_predictions,
)
from deepchem_mmsa.benchmark.scores import metric_of, score
from deepchem_mmsa.benchmark.sets import (
    BENCHMARKS,
    PROTOCOLS,
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
    "Benchmark",
    "LeakError",
    "Split",
    "Whole",
    "check_apart",
    "chemical_features",
    "ecfp",
    "forest_predictions",
    "held_out_molecules",
    "load_benchmark",
    "load_split",
    "mean_predictions",
    "metric_of",
    "scaffold_split",
    "score",
]
