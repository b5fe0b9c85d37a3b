"""Simulators of the pure cores without an event loop: thousands of seeds a minute.

`run_raft_seed` drives the quorum's nodes, `run_replication_seed` the leaders, followers and producers of a partition
under the real controller. What one run is: draw options from the seed, a storm of faults, a check after every step,
then calm weather in which everything must agree within a bound. Start reading at `result`, then `raft_seeds`.
"""

from logcluster.sim.cores.raft_seeds import run_raft_seed
from logcluster.sim.cores.replication_seeds import run_replication_seed
from logcluster.sim.cores.result import CoreResult

__all__ = ["CoreResult", "run_raft_seed", "run_replication_seed"]
