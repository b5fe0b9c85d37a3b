"""The report of a run: figures, one HTML page, pictures, a result for machines.

Start at `result.write_report`. reading (files of a run, torn or missing) -> operations, gaps, cluster -> analysis (all
figures, pure) -> result.json, page (pictures, excerpts), plots; index looks over many results. May import logcluster.
"""

from chaos.report.index import write_index
from chaos.report.result import Result, write_report

__all__ = ["Result", "write_index", "write_report"]
