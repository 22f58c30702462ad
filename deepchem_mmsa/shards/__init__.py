"""Records of many molecules in a folder of shards: resumable to make, safe to read.

The folder holds ``shard-00000.mmsa``, ``shard-00001.mmsa``, … (:mod:`.file`), ``failures.csv``,
which names every view that could not be made, and ``manifest.json``, which lists the shards and
is marked complete once all of them are. An interrupted run resumes automatically: each shard
records what it was made from, and is renamed into place when it is complete.
"""

from deepchem_mmsa.shards.file import ShardError
from deepchem_mmsa.shards.reading import ShardSet
from deepchem_mmsa.shards.writing import featurize_to_shards

__all__ = ["ShardError", "ShardSet", "featurize_to_shards"]
