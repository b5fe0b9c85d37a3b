"""What the parts of the suite are to one another: a target that runs a cluster, faults that strike it, the run's files.

    scenario  ->  runner  ->  target (processes | netns | containers | pods)
                     |----->  client processes, each with a history of its own
                     '----->  faults, aimed by roles
    files of the run  ->  checker, report

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of one machine share, so histories of many processes can
be merged by time. Every fault that a host cannot do is known before the run (`preflight`), and named in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

CLIENTS: Final = "clients"
"""The name of all client processes together, as an end of a link."""

CAPABILITIES: Final = (
    "kill",
    "terminate",
    "pause",
    "power-loss",
    "cut",
    "cut-one-way",
    "delay",
    "bandwidth",
    "reset",
    "slow-disk",
    "disk-full",
    "io-error",
    "bit-flip",
    "clock-jump",
    "wipe",
    "client-kill",
    "client-pause",
    "ablation",
)
DiskOperation = Literal["read", "write", "sync", "rename", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Whether a target can do a kind of fault on this host."""

    name: str
    """One of `CAPABILITIES`."""
    is_supported: bool
    reason: str = ""
    """Why not, and what would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """The cluster of a run.

    Args:
        settings: additions to node.toml, section -> key -> value.
        is_disk_lazy: unsynced bytes stay in memory, so that a kill is a power loss.
        ablations: safeguards that are off in every broker, names of `logcluster.sim.ablations`.
        disk_bytes_max: size of each broker's filesystem, where the target can bound it; None: no bound.
    """

    brokers: int = 3
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    is_disk_lazy: bool = False
    ablations: tuple[str, ...] = ()
    disk_bytes_max: int | None = None


class Target(Protocol):
    """A cluster under test. Methods wait until the fault is in force, and raise `FaultFailed` when it is not."""

    name: str
    is_slow: bool
    """Brokers take longer to come back than scenarios leave them: a fault that repeats waits until whom it struck is
    ready (`wait_ready`), so that one after the other is down and not all of them."""

    def preflight(self) -> Sequence[Capability]:
        """What this host allows; needs no cluster, changes nothing."""
        ...

    async def start(self, options: ClusterOptions, directory: Path) -> None:
        """Start all brokers and wait until they are ready; files go below `directory`."""
        ...

    async def stop(self) -> None:
        """End everything that was started, undo every fault; never raises for what is gone already."""
        ...

    @property
    def broker_ids(self) -> Sequence[int]: ...

    def bootstrap(self) -> str:
        """Addresses for clients that were started with `client_command`."""
        ...

    def client_command(self, command: Sequence[str]) -> Sequence[str]:
        """How to run `command` where clients live (a namespace, a container; as it is for plain processes)."""
        ...

    def is_running(self, broker_id: int) -> bool: ...

    def log_path(self, broker_id: int) -> Path:
        """The broker's log, on this machine."""
        ...

    # Processes.
    async def kill(self, broker_id: int) -> None: ...
    async def terminate(self, broker_id: int) -> None:
        """SIGTERM, and wait for the clean end."""
        ...

    async def start_broker(self, broker_id: int, *, wait: bool = True) -> None: ...
    async def wait_ready(self, broker_ids: Sequence[int]) -> None:
        """Wait until brokers that were started are ready."""
        ...

    async def pause(self, broker_id: int) -> None: ...
    async def resume(self, broker_id: int) -> None: ...
    async def power_loss(self, broker_ids: Sequence[int]) -> None:
        """Kill them so that unsynced bytes are gone; only with `is_disk_lazy`."""
        ...

    async def wipe(self, broker_id: int) -> None:
        """Replace the disk of a stopped broker by an empty one."""
        ...

    # Links. An end is a broker id, or CLIENTS.
    async def cut(self, source: int | str, destination: int | str) -> None:
        """Nothing of what `source` sends reaches `destination`, silently; the other direction is not touched."""
        ...

    async def delay(self, source: int | str, destination: int | str, *, delay_ms: int, jitter_ms: int) -> None: ...
    async def limit(self, source: int | str, destination: int | str, *, bytes_per_s: int) -> None: ...
    async def reset(self, source: int | str, destination: int | str) -> None:
        """Close the connections of the link with a reset, once."""
        ...

    async def heal_link(self, source: int | str, destination: int | str) -> None: ...
    async def heal_links(self) -> None: ...

    # Inside of a broker.
    async def slow_disk(self, broker_id: int, *, delay_ms: int) -> None:
        """Every write and sync takes longer; 0 ends it."""
        ...

    async def fail_disk(self, broker_id: int, *, operation: DiskOperation, error: str, count: int) -> None:
        """The next `count` operations fail with this errno ("EIO", "ENOSPC")."""
        ...

    async def jump_clock(self, broker_id: int, *, by_ms: int) -> None:
        """The wall clock of the broker jumps."""
        ...

    async def damage(self, broker_id: int, *, seed: int) -> str:
        """Flip a bit in a synced batch of a log; returns what was done, for people."""
        ...


class FaultFailed(Exception):
    """A fault could not be done; says why. The run is then not what it says it is, so it fails."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Where the files of a run are; what a report is made of."""

    directory: Path

    @property
    def run(self) -> Path:
        """JSON: scenario, seed, target, capabilities, versions, machine, begin and end."""
        return self.directory / "run.json"

    @property
    def histories(self) -> Path:
        """A JSON-lines history per client process."""
        return self.directory / "histories"

    @property
    def history(self) -> Path:
        """All of them, merged by time."""
        return self.directory / "history.jsonl"

    @property
    def faults(self) -> Path:
        """JSON lines: {"t_ns", "number", "kind", "phase", "nodes", "role", "detail"}.

        The phase is one of begin, end, skipped, failed.
        """
        return self.directory / "faults.jsonl"

    @property
    def states(self) -> Path:
        """JSON lines, several a second: {"t_ns", "partitions", "controller"}.

        Of each partition, by "topic-partition": {"leader", "epoch", "isr"}.
        """
        return self.directory / "states.jsonl"

    @property
    def nodes(self) -> Path:
        """Per broker: node.toml, node.log."""
        return self.directory / "nodes"

    @property
    def result(self) -> Path:
        """JSON: verdict, anomalies, counts, availability, latencies; the same facts as the page."""
        return self.directory / "result.json"

    @property
    def report(self) -> Path:
        """One self-contained HTML page."""
        return self.directory / "report.html"

    @property
    def plots(self) -> Path:
        return self.directory / "plots"
