"""Reports on a model: an HTML page about a whole run, and single figures.

>>> from deepchem_mmsa.report import write_report  # doctest: +SKIP
>>> write_report("report.html", "runs/bbbp")  # doctest: +SKIP

See docs/report.md.
"""

from deepchem_mmsa.report.page import write_report
from deepchem_mmsa.report.pictures import plot_comparison, plot_history, plot_parity

__all__ = ["plot_comparison", "plot_history", "plot_parity", "write_report"]
