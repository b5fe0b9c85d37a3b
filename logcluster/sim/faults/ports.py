"""What faults need of the world: the parts of `sim.world` that the injector touches, so that tests can bring others."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, Protocol

from logcluster.node import Node
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.loopback import LoopbackNetwork

NodeState = Literal["down", "starting", "running", "stopping"]


class FaultProcess(Protocol):
    """A process that a coroutine can be put into."""

    name: str

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> Any: ...


class FaultClock(Protocol):
    """The wall clock of one node."""

    skew_ms: int
    drift: float


class FaultStore(Protocol):
    """The key-value store of one node's quorum."""

    def fail_after(self, write_count: int) -> None: ...


class FaultNode(Protocol):
    """One node of the world; see `sim.world.SimulatedNode`."""

    disk_latency_ms: tuple[float, float]
    keep_down: bool

    @property
    def node_id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> NodeState: ...
    @property
    def is_paused(self) -> bool: ...
    @property
    def process(self) -> FaultProcess | None: ...
    @property
    def node(self) -> Node | None: ...
    @property
    def disk(self) -> SimulatedDisk: ...
    @property
    def store(self) -> FaultStore: ...
    @property
    def clock(self) -> FaultClock: ...
    def start(self) -> None: ...
    def crash(self, *, power_loss: bool = False) -> None: ...
    async def stop(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def wipe(self) -> None: ...
    def set_slowness(self, factor: float) -> None: ...


class FaultTimeline(Protocol):
    """Where what happened is noted."""

    def note(self, kind: str, **facts: object) -> None: ...


class FaultWorld(Protocol):
    """The world; see `sim.world.World`."""

    @property
    def nodes(self) -> Mapping[int, FaultNode]: ...
    @property
    def network(self) -> LoopbackNetwork: ...
    @property
    def timeline(self) -> FaultTimeline: ...
    @property
    def now_ms(self) -> int: ...
    async def sleep_ms(self, delay_ms: int) -> None: ...


ClientNames = Callable[[], list[str]]
"""Names of the client processes there are now."""
