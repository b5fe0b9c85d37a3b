"""A simulated cluster: whole nodes and clients, unchanged, on one seeded loop, with a network and disks in memory.

`World.run` drives a coroutine, the driver, to its end; everything else of a run (faults, workload, invariants) is made
of what stands here. A world is used once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from logcluster.client.client import Client
from logcluster.rpc.channels import ChannelPool
from logcluster.sim.clock import SimulatedClock
from logcluster.sim.event_loop import CURRENT_PROCESS, Schedulable, SimulatedEventLoop, SimulationError
from logcluster.sim.loopback import LoopbackNetwork
from logcluster.sim.process import Process
from logcluster.sim.simulated_node import SimulatedNode
from logcluster.sim.timeline import Timeline

Result = TypeVar("Result")

CHECKPOINT_INTERVAL_MS: Final = 250
START_TIMEOUT_MS: Final = 20_000


@dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """What a cluster is made of.

    Args:
        brokers: nodes, each broker and controller.
        settings: configuration keys of every node, `section.key`.
        link_delay_ms: bounds of a segment's way, one direction.
        disk_latency_ms: bounds of a disk operation that leaves the event loop.
        restart_delay_ms: after how long a node that ended by itself is started again.
    """

    brokers: int = 3
    settings: Mapping[str, Any] = field(default_factory=dict)
    link_delay_ms: tuple[float, float] = (0.1, 1.0)
    disk_latency_ms: tuple[float, float] = (0.05, 1.5)
    restart_delay_ms: int = 500


class Observer(Protocol):
    """Watches a world; told synchronously, must change nothing in it."""

    def after_event(self, process: Schedulable) -> None:
        """A callback of this process has run."""
        ...

    def on_node_running(self, node: SimulatedNode) -> None:
        """A node has started all its parts."""
        ...

    def on_node_down(self, node: SimulatedNode, *, power_loss: bool) -> None:
        """A node has stopped, in whatever way; `node.node` is still what it was."""
        ...

    def at_checkpoint(self) -> None:
        """Another 250 virtual milliseconds have passed."""
        ...


class World:
    """See the top of the file.

    Args:
        seed: of everything that is drawn.
    """

    def __init__(self, seed: int, options: WorldOptions | None = None) -> None:
        self.seed = seed
        self.options = options or WorldOptions()
        self.loop = SimulatedEventLoop(self.stream("scheduler"))
        self.loop.set_exception_handler(self._on_loop_exception)
        self._processes: list[Process] = []
        self._clock = SimulatedClock(self.loop)
        self.network = LoopbackNetwork(self._clock, self.stream("network"))
        self.network.on_delivery = self._on_delivery
        low, high = self.options.link_delay_ms
        self.network.default_link.delay_ms_min, self.network.default_link.delay_ms_max = low, high
        self.timeline = Timeline(self)
        self.observers: list[Observer] = []
        self.on_unexpected: Callable[[str, BaseException | None], None] | None = None
        """Told of what nobody handled: a failed task of a client, an exception in a callback."""
        self.nodes: dict[int, SimulatedNode] = {
            node_id: SimulatedNode(self, node_id) for node_id in range(self.options.brokers)
        }
        self.driver = self.process("driver")
        self.is_over = False

    # -- what is drawn and read -----------------------------------------------------------------------------------

    def stream(self, name: str) -> random.Random:
        """The generator of one concern; a fresh one each time it is asked."""
        return random.Random(f"{self.seed}/{name}")

    @property
    def now_ms(self) -> int:
        """Virtual milliseconds since the world began."""
        return int(self.loop.time() * 1000)

    async def sleep_ms(self, delay_ms: int) -> None:
        """Wait in virtual time."""
        await self._clock.sleep_ms(delay_ms)

    # -- processes ------------------------------------------------------------------------------------------------

    def process(self, name: str, *, clock: Any = None) -> Process:
        """Make a process; several may bear the same name one after the other, as incarnations."""
        number = len(self._processes) + 1
        process = Process(
            self.loop,
            self.network,
            name=name,
            number=number,
            entropy_seed=f"{self.seed}/{name}/{number}",
            clock=clock,
        )
        self._processes.append(process)
        return process

    def connect(self, process: Process, **options: Any) -> Client:
        """Make a client that lives in `process`; enter it there."""
        pool = ChannelPool(clock=process.clock, network=process.network)
        process.client_count += 1  # Two clients of one process must not draw the same identifiers.
        return Client(
            [node.client_endpoint for node in self.nodes.values()],
            sources={"lane": pool, "grpc": pool},
            clock=process.clock,
            generator=process.entropy.stream(f"client/{process.client_count}"),
            **options,
        )

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self, *, timeout_ms: int = START_TIMEOUT_MS) -> None:
        """Start all nodes and wait until every broker is active.

        Raises:
            SimulationError: that did not happen in time.
        """
        for node in self.nodes.values():
            node.start()
        await self.wait(
            lambda: all(node.is_active for node in self.nodes.values()),
            timeout_ms=timeout_ms,
            what="all brokers active",
        )

    async def wait(self, condition: Callable[[], bool], *, timeout_ms: int, what: str, poll_ms: int = 20) -> None:
        """Wait until `condition` holds.

        Raises:
            SimulationError: it did not in time.
        """
        deadline_ms = self.now_ms + timeout_ms
        while not condition():
            if self.now_ms >= deadline_ms:
                raise SimulationError(f"waited {timeout_ms} ms in vain for: {what}")
            await self.sleep_ms(poll_ms)

    def run(self, main: Callable[[], Coroutine[Any, Any, Result]], *, time_ms_max: int = 600_000) -> Result:
        """Run `main` in the driver's process to its end, then end the world.

        Raises:
            SimulationError: deadlock, or the virtual time is up.
            Exception: what `main` or an observer raised.
        """
        loop = self.loop
        loop.time_max = time_ms_max / 1000
        if self.observers:
            loop.on_event = self._after_event
        collects_garbage = gc.isenabled()
        gc.disable()  # The moments of its finalisers are not part of the seed.
        try:
            asyncio.events.set_event_loop(loop)
            checkpoints = self.driver.spawn(self._checkpoints(), name="checkpoints")
            result = loop.run_until_complete(self.driver.spawn(main(), name="main"))
            checkpoints.cancel()
            return result
        finally:
            self._end()
            asyncio.events.set_event_loop(None)
            if collects_garbage:
                gc.enable()

    def cut(self, source: str, target: str) -> None:
        """Hold back what `source` sends to `target`."""
        self.network.cut(source, target)

    def heal(self, source: str, target: str) -> None:
        """Undo `cut`."""
        self.network.heal(source, target)

    def heal_all(self) -> None:
        """Undo every cut."""
        self.network.heal_all()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _after_event(self, process: Schedulable) -> None:
        for observer in self.observers:
            observer.after_event(process)

    async def _checkpoints(self) -> None:
        while True:
            await self.sleep_ms(CHECKPOINT_INTERVAL_MS)
            for observer in self.observers:
                observer.at_checkpoint()

    def _on_delivery(self, source: str, target: str, segment: bytes) -> None:
        # Not the bytes in their order: protobuf writes the entries of a map in an order of its own in each interpreter.
        self.loop.note(f"{source}>{target} {len(segment)} {sum(segment)}".encode())

    def _on_loop_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        process = CURRENT_PROCESS.get(None) or self.loop.current
        if not process.is_alive:
            return
        error = context.get("exception")
        self.timeline.note("unexpected", process=process.name, message=context.get("message"), error=repr(error))
        if self.on_unexpected is not None:
            self.on_unexpected(f"{process.name}: {context.get('message')}", error)

    def _end(self) -> None:
        """Kill everybody and close the suspended coroutines, so that no finaliser runs in another world."""
        self.is_over = True
        self.loop.on_event = None
        for process in self._processes:
            self.loop.kill(process)
        self.loop.kill(self.loop._kernel)
        self.loop.set_exception_handler(lambda _loop, _context: None)
        # Closing a coroutine may run cleanup that spawns others, in any process.
        while any(process.tasks for process in self._processes):
            for process in self._processes:
                tasks, process.tasks = process.tasks, []
                for task in tasks:
                    _close(task)
        self.loop.close()


def _close(task: asyncio.Task[Any]) -> None:
    if task.done():
        if not task.cancelled():
            task.exception()
        return
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    for _ in range(3):
        # A frame that awaits in its cleanup says so with RuntimeError, and is closed again from there.
        with contextlib.suppress(BaseException):
            coroutine.close()
            return
