"""One simulated machine: its disk, its clock, and the node that runs on it now, if one does.

The machine outlives the node. A node that ends by itself is started again after a while, as an operator's
supervisor would, unless it was told to stay down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from logcluster.config import NodeConfig
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import Endpoint
from logcluster.node import Node
from logcluster.sim.clock import SimulatedClock
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.process import Process
from logcluster.sim.stores import SimulatedDiskExecutor, StoreHandle
from logcluster.storage.kv_store import KeyValueStore, MemoryKeyValueStore

if TYPE_CHECKING:
    from logcluster.sim.world import World

GRPC_PORT: Final = 7070
LANE_PORT: Final = 7071
HTTP_PORT: Final = 7072
STOP_TIMEOUT_MS: Final = 30_000

State = Literal["down", "starting", "running", "stopping"]


class SimulatedNode:
    """See the top of the file; made by `World`."""

    def __init__(self, world: World, node_id: int) -> None:
        self._world = world
        self.node_id = node_id
        self.name = f"node-{node_id}"
        self.clock = SimulatedClock(world.loop)
        self.disk = SimulatedDisk()
        self.stores: dict[str, MemoryKeyValueStore] = {}
        self.disk_latency_ms = world.options.disk_latency_ms
        self.process: Process | None = None
        self.node: Node | None = None
        self.state: State = "down"
        self.last_failure: BaseException | None = None
        self.keep_down = False
        self.starts = 0
        self._disk_rng = world.stream(f"disk/{node_id}")

    # -- facts ----------------------------------------------------------------------------------------------------

    @property
    def client_endpoint(self) -> Endpoint:
        """What a client is given as bootstrap address."""
        return Endpoint(self.name, GRPC_PORT)

    @property
    def is_paused(self) -> bool:
        return self.process is not None and self.process.is_alive and self.process.is_paused

    @property
    def is_active(self) -> bool:
        """Running, registered and not fenced, as far as it knows."""
        node = self.node
        return self.state == "running" and node is not None and not node.lifecycle.is_fenced

    @property
    def store(self) -> MemoryKeyValueStore:
        """That of the quorum: votes and metadata."""
        return self._store("quorum")

    def _store(self, name: str) -> MemoryKeyValueStore:
        return self.stores.setdefault(name, MemoryKeyValueStore())

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the node, if it is down; it is running some virtual milliseconds later."""
        self.keep_down = False
        if self.state != "down":
            return
        self.state = "starting"
        self.starts += 1
        self.last_failure = None
        self.process = self._world.process(self.name, clock=self.clock)
        self._world.timeline.note("start", node=self.name)
        self.process.spawn(self._run(self.process), name="run")

    def crash(self, *, power_loss: bool = False) -> None:
        """End the node at once; with `power_loss`, the disk forgets (perhaps) what was not synced."""
        process = self.process
        if self.state == "down" or process is None:
            return
        self._world.timeline.note("power_loss" if power_loss else "crash", node=self.name, was=self.state)
        process.kill()
        self._went_down(power_loss=power_loss)

    async def stop(self) -> None:
        """Controlled shutdown, then down; a node that does not come to an end is killed."""
        node, process = self.node, self.process
        self.keep_down = True
        if self.state == "starting":
            self.crash()
            self.keep_down = True
            return
        if self.state != "running" or node is None or process is None:
            return
        self.state = "stopping"
        self._world.timeline.note("stop", node=self.name)
        node.end()
        deadline_ms = self._world.now_ms + STOP_TIMEOUT_MS
        while self.process is process and self.state == "stopping":
            if self._world.now_ms >= deadline_ms:
                self.crash()
                return
            await self._world.sleep_ms(10)

    def pause(self) -> None:
        """Let the node stand still."""
        if self.process is not None and self.state != "down" and not self.process.is_paused:
            self._world.timeline.note("pause", node=self.name)
            self.process.pause()

    def resume(self) -> None:
        """Let it go on."""
        if self.process is not None and self.process.is_paused:
            self._world.timeline.note("resume", node=self.name)
            self.process.resume()

    def set_slowness(self, factor: float) -> None:
        """Make the running node slower; a restarted one is as fast as ever."""
        if self.process is not None:
            self.process.slowness = factor

    def wipe(self) -> None:
        """Replace the disk by an empty one; only while the node is down."""
        if self.state != "down":
            raise ValueError(f"{self.name} is {self.state}; only the disk of a node that is down can be replaced")
        self._world.timeline.note("wipe", node=self.name)
        incarnation = self.disk.incarnation + 1
        self.disk = SimulatedDisk(capacity_bytes=self.disk.capacity_bytes)
        self.disk.incarnation = incarnation
        self.stores.clear()

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _run(self, process: Process) -> None:
        node = self._build(process)
        try:
            async with node:
                self.node = node
                self.state = "running"
                self._world.timeline.note("running", node=self.name)
                for observer in self._world.observers:
                    observer.on_node_running(self)
                await node.wait_ended()
                await node.shut_down()
        except Exception as error:  # noqa: BLE001 - whatever ends a node is noted and looked at
            if not process.is_alive:
                return  # It was killed, and this is the unwinding of a dead process.
            self.last_failure = error
            self._world.timeline.note("ended", node=self.name, error=_describe(error))
            if not isinstance(error, LogClusterError) and self._world.on_unexpected is not None:
                self._world.on_unexpected(f"{self.name} ended", error)
        else:
            if process.is_alive:
                self._world.timeline.note("stopped", node=self.name)
        if process.is_alive:
            process.kill()
            self._went_down(power_loss=False)

    def _went_down(self, *, power_loss: bool) -> None:
        for observer in self._world.observers:
            observer.on_node_down(self, power_loss=power_loss)
        self.disk.crash(power_loss=power_loss, rng=self._disk_rng)
        if power_loss:
            for store in self.stores.values():
                store.crash()
        self.state = "down"
        self.node = None
        if not self.keep_down:
            self._world.driver.spawn(self._restart(self.process), name=f"restart-{self.node_id}")

    async def _restart(self, after: Process | None) -> None:
        await self._world.sleep_ms(self._world.options.restart_delay_ms)
        if self.state == "down" and not self.keep_down and self.process is after:
            self.start()

    def _build(self, process: Process) -> Node:
        def open_store(path: str) -> KeyValueStore:
            return StoreHandle(self._store(path.rpartition("/")[2]), self.disk)

        return Node(
            self._config(),
            clock=self.clock,
            entropy=process.entropy,
            disk=SimulatedDiskExecutor(self._disk_rng, lambda: self.disk_latency_ms),
            filesystem=self.disk,
            open_store=open_store,
            network=process.network,
            lane_only=True,
        )

    def _config(self) -> NodeConfig:
        voters = [f"{node_id}@node-{node_id}:{LANE_PORT}" for node_id in range(self._world.options.brokers)]
        tree: dict[str, dict[str, Any]] = {
            "cluster": {"id": "simulated"},
            "node": {"id": self.node_id},
            "quorum": {"voters": voters},
            "data": {"dir": "/data"},
            "listeners": {"host": self.name, "grpc_port": GRPC_PORT, "lane_port": LANE_PORT, "http_port": HTTP_PORT},
        }
        for key, value in self._world.options.settings.items():
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
        return msgspec.convert(tree, NodeConfig)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
