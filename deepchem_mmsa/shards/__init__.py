"""Records of many molecules in a folder: made in shards, resumable, safe to read.

The folder holds ``shard-00000.mmsa``, ``shard-00001.mmsa``, … (:mod:`.file`), ``failures.csv``,
which names every view that could not be made, and ``manifest.json``, which lists the shards and
is complete only when they are. An interrupted run finds what is done by itself: a shard says
what it was made from, and is renamed into its place when it is whole.
"""

from deepchem_mmsa.shards.file import ShardError
from deepchem_mmsa.shards.reading import ShardSet
from deepchem_mmsa.shards.writing import featurize_to_shards

__all__ = ["ShardError", "ShardSet", "featurize_to_shards"]
