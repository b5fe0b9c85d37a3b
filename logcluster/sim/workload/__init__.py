"""The clients of a simulated world: what they do, what they say about it in the history, and how a run is read out."""

from logcluster.sim.workload.options import WorkloadOptions
from logcluster.sim.workload.workload import Workload

__all__ = ["Workload", "WorkloadOptions"]
