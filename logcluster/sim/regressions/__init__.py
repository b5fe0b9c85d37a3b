"""Seeds that failed once and must pass for ever: one JSON file each; regressions.py reads and runs them."""

from logcluster.sim.regressions.regressions import Regression, load_regressions, run_regressions

__all__ = ["Regression", "load_regressions", "run_regressions"]
