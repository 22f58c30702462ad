"""Building blocks of the network: one idea per file, on torch and DGL only."""
